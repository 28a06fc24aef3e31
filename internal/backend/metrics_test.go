package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// counted reads the counter, by "result kind provider operation". It checks that each operation has its duration.
func counted(t *testing.T, registry prometheus.Gatherer) map[string]int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("the metrics violate the conventions of Prometheus: %v %v", problems, err)
	}
	counts, durations := map[string]int{}, 0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			label := map[string]string{}
			for _, l := range m.GetLabel() {
				label[l.GetName()] = l.GetValue()
			}
			durations += int(m.GetHistogram().GetSampleCount())
			if family.GetName() == "leasekeeper_backend_requests_total" {
				key := fmt.Sprint(label["result"], " ", label["provider_kind"], " ", label["provider"], " ",
					label["operation"])
				counts[key] += int(m.GetCounter().GetValue())
			}
		}
	}
	for _, n := range counts {
		durations -= n
	}
	if durations != 0 {
		t.Errorf("%d more durations than operations", durations)
	}
	return counts
}

// operations are what callAll does.
var operations = []string{"login", "issue", "renew", "extend_session", "revoke", "lookup",
	"read", "list", "inspect", "bulk_list", "bulk_revoke", "bulk_revoke_one", "bulk_lookup"}

// callAll calls every method of a backend with every ability, and returns the errors.
func callAll(ctx context.Context, b Backend) []error {
	rec, owner := v1alpha1.LeaseRecord{}, Owner{}
	_, login := b.Login(ctx, Identity{})
	_, issue := b.Issue(ctx, Session{}, v1alpha1.SecretSource{})
	_, renew := b.Renew(ctx, rec, time.Hour)
	_, extend := b.ExtendSession(ctx, rec, owner)
	reader, _ := As[Reader](b)
	_, read := reader.Read(ctx, Identity{}, v1alpha1.SecretSource{})
	lister, _ := As[Lister](b)
	_, list := lister.List(ctx, rec)
	inspector, _ := As[Inspector](b)
	_, inspect := inspector.Inspect(ctx)
	bulk, _ := As[BulkRevoker](b)
	matching := bulk.ListNext(ctx, nil, &Listing{})
	_, lives := bulk.Lives(ctx, nil, "lease")
	return []error{
		login, issue, renew, extend, b.Revoke(ctx, rec, owner), b.Lookup(ctx, rec), read, list, inspect,
		matching, bulk.RevokeAll(ctx, nil), bulk.RevokeOne(ctx, nil, "lease", false), lives,
	}
}

func TestMetricsCountOperationsByResult(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		result string
	}{
		{"success", nil, "success"},
		{"an error of the backend", Errorf(Denied, "the policy lacks update"), "Denied"},
		{"a wrapped error", fmt.Errorf("while revoking: %w", Errorf(Gone, "lease not found")), "Gone"},
		{"an error of an unknown kind", errors.New("odd"), "NoResponse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			b := NewMetrics(registry).Wrap(ableBackend{readingBackend{stubBackend{c.err}}}, vaultProvider())
			for _, err := range callAll(t.Context(), b) {
				if !errors.Is(err, c.err) {
					t.Errorf("got %v, want %v", err, c.err)
				}
			}
			want := map[string]int{}
			for _, operation := range operations {
				want[c.result+" ClusterSecretProvider vault "+operation] = 1
			}
			if got := counted(t, registry); !maps.Equal(got, want) {
				t.Errorf("counted %v, want %v", got, want)
			}
		})
	}
}

func TestMetricsPassResultsThrough(t *testing.T) {
	b := NewMetrics(prometheus.NewRegistry()).Wrap(ableBackend{}, vaultProvider())
	session, _ := b.Login(t.Context(), Identity{})
	response, _ := b.Issue(t.Context(), session, v1alpha1.SecretSource{})
	renewed, _ := b.Renew(t.Context(), v1alpha1.LeaseRecord{}, time.Hour)
	extended, _ := b.ExtendSession(t.Context(), v1alpha1.LeaseRecord{}, Owner{})
	if session.Handle != "session" || response.LeaseID != "lease" {
		t.Errorf("session %+v, response %+v", session, response)
	}
	if renewed.Duration != time.Hour || extended.Duration != time.Minute {
		t.Errorf("renewed %+v, extended %+v", renewed, extended)
	}
	reader, _ := As[Reader](b)
	read, _ := reader.Read(t.Context(), Identity{}, v1alpha1.SecretSource{})
	lister, _ := As[Lister](b)
	listed, _ := lister.List(t.Context(), v1alpha1.LeaseRecord{})
	inspector, _ := As[Inspector](b)
	report, _ := inspector.Inspect(t.Context())
	if read.Kind != v1alpha1.ResponseStatic || lister.Folder(nil) != "folder" || !listed["lease"] ||
		report.Version != "1.21.0" {
		t.Errorf("read %+v, listed %v in %q, inspected %+v", read, listed, lister.Folder(nil), report)
	}
	bulk, _ := As[BulkRevoker](b)
	var matching Listing
	_ = bulk.ListNext(t.Context(), nil, &matching)
	lives, _ := bulk.Lives(t.Context(), nil, "lease")
	if len(matching.IDs) != 1 || !lives || !bulk.Covers(nil, nil) {
		t.Errorf("matching %v, lives %t, covers %t", matching, lives, bulk.Covers(nil, nil))
	}
}

func TestForgetDropsOnlyTheSeriesOfTheProvider(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	named := func(namespace string) *v1alpha1.SecretProvider {
		return &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "vault"}}
	}
	for _, p := range []v1alpha1.Provider{vaultProvider(), named("shop"), named("bank")} {
		_ = m.Wrap(stubBackend{}, p).Lookup(t.Context(), v1alpha1.LeaseRecord{})
	}
	m.Forget(named("shop"))
	want := map[string]int{
		"success ClusterSecretProvider vault lookup": 1,
		"success SecretProvider bank/vault lookup":   1,
	}
	if got := counted(t, registry); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
