//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func TestNullFieldsAreOmittedAndMarkupIsKept(t *testing.T) {
	t.Parallel()
	data := map[string]any{
		"session_token": nil, "url": "https://example/?a=1&b=<2>",
		"options": map[string]any{"query": "a&b", "range": "<1>", "none": nil},
		"list":    []any{"x&y", "<z>"},
	}
	want := map[string]string{
		"url": "https://example/?a=1&b=<2>", "options": `{"none":null,"query":"a&b","range":"<1>"}`,
		"list": `["x&y","<z>"]`,
	}
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("KV version %d", version), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, leaselessPolicy)
			r.ready("orders", requesting(r.storeKV(version, "orders", data)))
			s := r.target("orders")
			for key, value := range want {
				if got := string(s.Data[key]); got != value {
					t.Errorf("%s is %q, want %q", key, got, value)
				}
			}
			if len(s.Data) != len(want) {
				t.Errorf("the Secret has %d keys, want %d", len(s.Data), len(want))
			}
		})
	}
}

func TestTTLOfKVVersion1IsRespected(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy, withProxy())
	const ttl = 30 * time.Second
	r.ready("orders", requesting(r.storeKV(1, "orders", map[string]any{"password": "one", "ttl": "30s"})),
		refreshing(time.Hour))
	// A value that changes right after it was read is read 30 s later. Let a few seconds pass first.
	r.awaitInspections(2)
	vaultMark, apiMark := r.vaultMark(), r.apiMark()
	r.storeKV(1, "orders", map[string]any{"password": "two", "ttl": "30s"})
	r.eventually("the new value", func() bool { return r.value("orders", "password") == "two" })
	stored := r.auditTimes(vaultMark, "^(create|update) "+r.name+"-kv/orders$")
	written := r.secretWrites(apiMark, 1)
	if len(stored) != 1 || len(written) != 1 {
		t.Fatalf("stored at %v, written at %v, want one of each", stored, written)
	}
	if after := written[0].Sub(stored[0]); after > ttl {
		t.Errorf("the new value was in the Secret after %s, want %s or less", after, ttl)
	}
}

// awaitInspections waits until the manager has inspected the rig's provider so many times more, through its proxy.
func (r *rig) awaitInspections(more int) {
	r.t.Helper()
	const inspection = "/v1/sys/health$"
	before := len(r.requestTimes(inspection))
	r.eventually(fmt.Sprintf("%d inspections of the provider", more), func() bool {
		return len(r.requestTimes(inspection)) >= before+more
	})
}

func TestRereadingUnchangedSourceCostsOnlyVault(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("KV version %d", version), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, leaselessPolicy)
			r.ready("orders", requesting(r.storeKV(version, "orders", map[string]any{"password": "one"})),
				refreshing(time.Second))
			r.readsAgainFor(`^read `+r.name+`-kv/`, 6)
		})
	}
}

// readsAgainFor waits for so many reads of an unchanged source, and fails if they cost more than two requests to Vault
// each, or any request to the API server. The first read may need a login, so it is not counted.
func (r *rig) readsAgainFor(pattern string, reads int) {
	r.t.Helper()
	first := r.vaultMark()
	r.eventually("the first read", func() bool { return r.requests(first, pattern) >= 1 })
	vaultMark, apiMark := r.vaultMark(), r.apiMark()
	r.eventually(fmt.Sprintf("%d reads", reads), func() bool { return r.requests(vaultMark, pattern) >= reads })
	calls := r.managerCalls(apiMark, func(testbed.APIRequest) bool { return true })
	costs, counted := r.workloadRequests(vaultMark), r.requests(vaultMark, pattern)
	r.t.Logf("%d reads: %d requests to Vault, %d to the API server", counted, costs, len(calls))
	if costs > 2*counted {
		r.t.Errorf("%d reads cost %d requests to Vault", counted, costs)
	}
	if len(calls) > 0 {
		r.t.Errorf("reads of an unchanged source cost requests to the API server: %v", calls)
	}
}

// workloadRequests counts the requests to Vault since the mark that the manager made as the rig's workload, logins
// included.
func (r *rig) workloadRequests(since testbed.Mark) int {
	r.t.Helper()
	entries, err := r.Vault.Audit(since)
	r.must(err)
	n := 0
	for _, e := range entries {
		// The request of a login has no name yet; its response has.
		if e.Type == "response" && e.DisplayName == "kubernetes-"+r.name+"-orders" {
			n++
		}
	}
	return n
}
