package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// apiServer builds a fake API server with our kinds and their status subresources.
func apiServer(t *testing.T, stored ...client.Object) *clientfake.ClientBuilder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...).
		WithStatusSubresource(&v1alpha1.DynamicSecret{}, &v1alpha1.SecretProvider{}, &v1alpha1.ClusterSecretProvider{},
			&v1alpha1.LeaseRevocation{})
}

// ledgerOf is a DynamicSecret of namespace shop with the status.
func ledgerOf(name string, st v1alpha1.DynamicSecretStatus) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: st}
}

// reportedEvent is one event as the recorder received it.
type reportedEvent struct {
	about                 runtime.Object
	kind, reason, message string
}

// eventLog keeps all events.
type eventLog struct{ all []reportedEvent }

func (l *eventLog) Eventf(about, _ runtime.Object, kind, reason, _, format string, args ...any) {
	l.all = append(l.all, reportedEvent{about, kind, reason, fmt.Sprintf(format, args...)})
}

// scrape is what a Prometheus server reads: values by name and labels.
func scrape(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("the metrics violate the conventions of Prometheus: %v %v", problems, err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			seen[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return seen
}

func wantSeries(t *testing.T, why string, got, want map[string]float64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", why, got, want)
	}
}

func TestCollectorReadsTheLedgers(t *testing.T) {
	end := metav1.NewTime(time.Unix(1_800_000_000, 0))
	sooner := metav1.NewTime(time.Unix(1_700_000_000, 0))
	leased := func(id string) v1alpha1.LeaseRecord {
		return v1alpha1.LeaseRecord{ID: id, Kind: v1alpha1.ResponseLeased, ExpiresAt: &end}
	}
	session := leased("b")
	session.Session = &v1alpha1.SessionTerm{ExpiresAt: sooner}
	static := v1alpha1.LeaseRecord{Kind: v1alpha1.ResponseStatic}
	scheduled := v1alpha1.LeaseRecord{Kind: v1alpha1.ResponseScheduled, ExpiresAt: &sooner}
	expiring := v1alpha1.LeaseRecord{Kind: v1alpha1.ResponseExpiring, ExpiresAt: &sooner}
	certificate := expiring
	certificate.Revocable = true
	handover := &v1alpha1.HandoverStatus{PublishedAt: sooner}
	stored := []client.Object{
		ledgerOf("leased", v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{leased("a")}}),
		ledgerOf("session-first", v1alpha1.DynamicSecretStatus{
			Leases:   []v1alpha1.LeaseRecord{session},
			Retiring: []v1alpha1.LeaseRecord{leased("c"), {Reason: "Replacing"}},
		}),
		ledgerOf("set", v1alpha1.DynamicSecretStatus{
			Leases: []v1alpha1.LeaseRecord{static, leased("d"), expiring, leased("e"), certificate},
		}),
		ledgerOf("unleased", v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{static, scheduled}}),
		ledgerOf("issuing", v1alpha1.DynamicSecretStatus{
			Attempt: &v1alpha1.IssuanceAttempt{Records: []v1alpha1.LeaseRecord{{Source: "db"}, {Source: "kv"}}},
		}),
		ledgerOf("handing-over", v1alpha1.DynamicSecretStatus{
			Handover:   handover,
			Conditions: []metav1.Condition{{Type: v1alpha1.RotatedCondition, Status: metav1.ConditionFalse}},
		}),
		ledgerOf("handed-over", v1alpha1.DynamicSecretStatus{Handover: handover}),
		ledgerOf("new", v1alpha1.DynamicSecretStatus{}),
		ledgerOf("of a newer version", v1alpha1.DynamicSecretStatus{LedgerVersion: lease.Version + 1}),
	}
	cache := apiServer(t, stored...).Build()
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&eventLog{}, cache, registry)

	why := "one expiry for each object: the earliest of its leases, sessions and expiring responses"
	wantSeries(t, why, scrape(t, registry), map[string]float64{
		"leasekeeper_lease_expiration_timestamp_seconds name=leased namespace=shop":        1_800_000_000,
		"leasekeeper_lease_expiration_timestamp_seconds name=session-first namespace=shop": 1_700_000_000,
		"leasekeeper_lease_expiration_timestamp_seconds name=set namespace=shop":           1_700_000_000,
		"leasekeeper_handover_start_timestamp_seconds name=handing-over namespace=shop":    1_700_000_000,
		"leasekeeper_lease_records state=attempt":                                          2,
		"leasekeeper_lease_records state=live":                                             5,
		"leasekeeper_lease_records state=retiring":                                         2,
		"leasekeeper_newer_ledgers":                                                        1,
	})

	for _, o := range stored {
		if err := cache.Delete(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	wantSeries(t, "series disappear with their objects, and counts become 0", scrape(t, registry), map[string]float64{
		"leasekeeper_lease_records state=attempt":  0,
		"leasekeeper_lease_records state=live":     0,
		"leasekeeper_lease_records state=retiring": 0,
		"leasekeeper_newer_ledgers":                0,
	})
}

func TestCollectorReportsWhichProvidersAreReady(t *testing.T) {
	up := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "up"}}
	down := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "down", Namespace: "shop"}}
	unchecked := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "new"}}
	setReady(up, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it responds")
	setReady(down, metav1.ConditionFalse, v1alpha1.ReasonBackendUnavailable, "it is unavailable")
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&eventLog{}, apiServer(t, up, down, unchecked).Build(), registry)
	got := scrape(t, registry)
	maps.DeleteFunc(got, func(name string, _ float64) bool {
		return !strings.HasPrefix(name, "leasekeeper_provider_ready")
	})
	wantSeries(t, "one series for each provider", got, map[string]float64{
		"leasekeeper_provider_ready provider=up provider_kind=ClusterSecretProvider":  1,
		"leasekeeper_provider_ready provider=new provider_kind=ClusterSecretProvider": 0,
		"leasekeeper_provider_ready provider=shop/down provider_kind=SecretProvider":  0,
	})
}

func TestScrapeBeforeTheCacheHasStartedIsEmpty(t *testing.T) {
	cache := apiServer(t).WithInterceptorFuncs(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("the cache has not started")
		},
	}).Build()
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&eventLog{}, cache, registry)
	wantSeries(t, "zeros would be wrong", scrape(t, registry), map[string]float64{})
}

func TestOperationsAreCountedByResult(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	a := NewRecorder(&eventLog{}, apiServer(t).Build(), registry)
	a.Count("issue", "success")
	a.Count("issue", "success")
	a.Count("issue", "Denied")
	a.Count("revoke", "success")
	a.CountRevocation("success")
	got := scrape(t, registry)
	maps.DeleteFunc(got, func(name string, _ float64) bool {
		return strings.HasPrefix(name, "leasekeeper_lease_records") || name == "leasekeeper_newer_ledgers"
	})
	wantSeries(t, "one series for each result", got, map[string]float64{
		"leasekeeper_operations_total operation=issue result=success":  2,
		"leasekeeper_operations_total operation=issue result=Denied":   1,
		"leasekeeper_operations_total operation=revoke result=success": 1,
		"leasekeeper_lease_revocations_total result=success":           1,
	})
}

func TestAbandonedRecordIsReported(t *testing.T) {
	provider := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault"}}
	record := func(id, kind, provider string) v1alpha1.LeaseRecord {
		return vaultRecord(id, "acc", func(r *v1alpha1.LeaseRecord) {
			r.Provider.Kind, r.Provider.Name = kind, provider
		})
	}
	const cluster, namespaced = v1alpha1.ProviderKindCluster, v1alpha1.ProviderKindNamespaced
	for _, c := range []struct {
		name, why string
		rec       v1alpha1.LeaseRecord
		message   string // on the object
		provider  string // that has an event too; empty: none
	}{{
		name:    "a lease of a cluster provider",
		why:     "a terminating namespace refuses events",
		rec:     record("l", cluster, "vault"),
		message: "Abandoned lease l of database/creds/orders: the backend does not respond", provider: "vault",
	}, {
		name:    "a record without a lease",
		why:     "only its session identifies it",
		rec:     record("", cluster, "vault"),
		message: "Abandoned the session acc of database/creds/orders: the backend does not respond", provider: "vault",
	}, {
		name:    "a lease of a namespaced provider",
		why:     "the provider is deleted with the namespace",
		rec:     record("l", namespaced, "vault"),
		message: "Abandoned lease l of database/creds/orders: the backend does not respond",
	}, {
		name:    "a lease whose cluster provider does not exist",
		why:     "only the object can have the event",
		rec:     record("l", cluster, "gone"),
		message: "Abandoned lease l of database/creds/orders: the backend does not respond",
	}} {
		t.Run(c.name, func(t *testing.T) {
			log, registry := &eventLog{}, prometheus.NewPedanticRegistry()
			a := NewRecorder(log, apiServer(t, provider.DeepCopy()).Build(), registry)
			d := ledgerOf("orders", v1alpha1.DynamicSecretStatus{})
			a.Abandoned(context.Background(), d, &c.rec, "the backend does not respond")

			const warning, reason = corev1.EventTypeWarning, v1alpha1.ReasonAbandoned
			want := []reportedEvent{{d, warning, reason, c.message}}
			if c.provider != "" {
				want = append(want, reportedEvent{nil, warning, reason, "DynamicSecret shop/orders: " + c.message})
			}
			for i := range log.all {
				if p, ok := log.all[i].about.(*v1alpha1.ClusterSecretProvider); ok && p.Name == c.provider {
					log.all[i].about = nil
				}
			}
			if !slices.Equal(log.all, want) {
				t.Errorf("because %s:\n got %+v\nwant %+v", c.why, log.all, want)
			}
			if n := scrape(t, registry)["leasekeeper_abandoned_leases_total namespace=shop"]; n != 1 {
				t.Errorf("counted %v times", n)
			}
		})
	}
}

func TestLongMessageFitsAnEvent(t *testing.T) {
	log := &eventLog{}
	a := NewRecorder(log, apiServer(t).Build(), prometheus.NewPedanticRegistry())
	d := ledgerOf("orders", v1alpha1.DynamicSecretStatus{})
	for _, n := range []int{1000, 1001, 5000} {
		a.Event(d, corev1.EventTypeNormal, "Issued", strings.Repeat("x", n))
	}
	var sizes []int
	for _, e := range log.all {
		sizes = append(sizes, len(e.message))
	}
	// The API accepts 1024 bytes; the ellipsis has three.
	if want := []int{1000, 1003, 1003}; !slices.Equal(sizes, want) {
		t.Errorf("messages of %v bytes, want %v", sizes, want)
	}
	a.Event(d, corev1.EventTypeNormal, "Issued", "100% of path")
	if got := log.all[3].message; got != "100% of path" {
		t.Errorf("the message is used as a format: %q", got)
	}
}

func TestLongMessageIsCutBetweenCharacters(t *testing.T) {
	short := shortened("x" + strings.Repeat("é", 600))
	if !utf8.ValidString(short) || len(short) > 1024 || !strings.HasSuffix(short, "é…") {
		t.Errorf("%d bytes, valid: %v", len(short), utf8.ValidString(short))
	}
}
