package main

import (
	"maps"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func TestRequestsAreToldApart(t *testing.T) {
	counts := requests{byKind: map[string]int{}}
	for _, r := range []testbed.APIRequest{
		{User: managerUser, Verb: "create", Resource: "secrets", Code: 201},
		{User: managerUser, Verb: "create", Resource: "secrets", Code: 201, DryRun: true},
		{User: managerUser, Verb: "get", Resource: "secrets", Code: 404},
		{User: managerUser, Verb: "update", Resource: "dynamicsecrets", Subresource: "status", Code: 200},
		{User: managerUser, Verb: "update", Resource: "dynamicsecrets", Subresource: "status", Code: 409},
		{User: managerUser, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Code: 201},
		{User: managerUser, Verb: "watch", Resource: "dynamicsecrets", Code: 200},
		{User: managerUser, Verb: "update", Resource: "leases", Code: 200},
		{User: "system:serviceaccount:kube-system:vault-token-reviewer",
			Verb: "create", Resource: "tokenreviews", Code: 201},
		{User: "admin", Verb: "create", Resource: "dynamicsecrets", Code: 201},
	} {
		counts.add(r)
	}
	want := map[string]int{
		"create secrets": 1, "create secrets (dry run)": 1, "get secrets (404)": 1, "update dynamicsecrets/status": 1,
		"update dynamicsecrets/status (409)": 1, "create serviceaccounts/token": 1,
	}
	if !maps.Equal(counts.byKind, want) {
		t.Errorf("counted %v, want %v", counts.byKind, want)
	}
	if counts.total != 6 || counts.writes != 2 || counts.leaderElection != 1 || counts.tokenReviews != 1 {
		t.Errorf("counted %+v", counts)
	}
}

func TestTrackerCountsReadyAndDeletedObjects(t *testing.T) {
	event := func(kind, name, ready string) string {
		return `{"type":"` + kind + `","object":{"metadata":{"name":"` + name + `"},"status":{"conditions":[` +
			`{"type":"Bench","status":"True"},{"type":"Ready","status":"` + ready + `"}]}}}` + "\n"
	}
	tracker := &tracker{objects: map[string]bool{}}
	err := tracker.follow(strings.NewReader(`{"type":"ADDED","object":{"metadata":{"name":"c"}}}` +
		event("ADDED", "a", "False") + event("MODIFIED", "a", "True") + event("MODIFIED", "a", "True") +
		event("ADDED", "b", "True") + event("DELETED", "b", "True")))
	if tracker.ready() != 1 || tracker.live() != 2 {
		t.Errorf("%d ready and %d live, want 1 and 2", tracker.ready(), tracker.live())
	}
	if err != nil {
		t.Errorf("a watch that ends is an error: %v", err)
	}
	if tracker.follow(strings.NewReader(`{"type":"ERROR","object":{"code":410}}`)) == nil {
		t.Error("an expired watch is not an error")
	}
}

func TestProcFilesAreParsed(t *testing.T) {
	if got := parseCPUSeconds("42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20"); got != 3 {
		t.Errorf("CPU seconds: %v, want 3", got)
	}
	if got := parentOf("42 (a b) c) S 7 2 3"); got != 7 {
		t.Errorf("parent: %v, want 7", got)
	}
	if got := parseBusySeconds("cpu  100 100 100 9000 9000 50 50 100 0 0\ncpu0 1"); got != 5 {
		t.Errorf("busy seconds: %v, want 5", got)
	}
	if got := procKiB("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n", "VmHWM:"); got != 2048 {
		t.Errorf("VmHWM: %v, want 2048", got)
	}
}

func TestSeriesOfAMetricAreAdded(t *testing.T) {
	text := "# HELP m_count x\nm_count_other 9\nm_count{a=\"b c\"} 2\nm_count 1.5e+01\n"
	if got, err := sumMetric(text, "m_count"); err != nil || got != 17 {
		t.Errorf("sum: %v, %v, want 17", got, err)
	}
	if _, err := sumMetric(text, "absent"); err == nil {
		t.Error("a missing metric is not an error")
	}
}

func TestTableHasAColumnPerSizeAndJoinsRareRequests(t *testing.T) {
	kinds := map[string]float64{"create secrets": 1, "get configmaps": 0.01, "list pods": 0.005}
	r := report{Results: []result{{Objects: 300, FirstSync: phase{ByKind: kinds}}, {Objects: 2000}}}
	table := r.table()
	for _, want := range []string{"300", "2000", "create secrets", "2 rare kinds"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if strings.Contains(table, "list pods") {
		t.Errorf("a rare request has a row of its own:\n%s", table)
	}
}

func TestExpandLeavesUnknownNamesAlone(t *testing.T) {
	if got := expand("${NAME} ${OTHER}", "NAME", "a"); got != "a ${OTHER}" {
		t.Errorf("expanded to %q", got)
	}
}
