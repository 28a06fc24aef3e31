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
)

// apiServer builds a fake API server that knows our kinds and keeps statuses apart.
func apiServer(t *testing.T, stored ...client.Object) *clientfake.ClientBuilder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...).
		WithStatusSubresource(&v1alpha1.DynamicSecret{}, &v1alpha1.SecretProvider{}, &v1alpha1.ClusterSecretProvider{}, &v1alpha1.LeaseRevocation{})
}

// ledgerOf is a DynamicSecret of namespace shop with the status.
func ledgerOf(name string, st v1alpha1.DynamicSecretStatus) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: st}
}

// told is one event as the recorder got it.
type told struct {
	about                 runtime.Object
	kind, reason, message string
}

// listener keeps what is told.
type listener struct{ all []told }

func (l *listener) Eventf(about, _ runtime.Object, kind, reason, _, format string, args ...any) {
	l.all = append(l.all, told{about, kind, reason, fmt.Sprintf(format, args...)})
}

// scrape is what a Prometheus server would see, by name and labels.
func scrape(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("the metrics are not as Prometheus wants them: %v %v", problems, err)
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

func TestTheCollectorTellsWhatTheLedgersHold(t *testing.T) {
	end := metav1.NewTime(time.Unix(1_800_000_000, 0))
	sooner := metav1.NewTime(time.Unix(1_700_000_000, 0))
	stored := []client.Object{
		ledgerOf("leased", v1alpha1.DynamicSecretStatus{Lease: &v1alpha1.LeaseRecord{ID: "a", ExpiresAt: &end}}),
		ledgerOf("token-first", v1alpha1.DynamicSecretStatus{
			Lease:    &v1alpha1.LeaseRecord{ID: "b", ExpiresAt: &end, TokenExpiresAt: &sooner},
			Retiring: []v1alpha1.LeaseRecord{{ID: "c"}, {TokenAccessor: "d"}},
		}),
		ledgerOf("unleased", v1alpha1.DynamicSecretStatus{Lease: &v1alpha1.LeaseRecord{Path: "secret/data/a"}}),
		ledgerOf("issuing", v1alpha1.DynamicSecretStatus{Attempt: &v1alpha1.LeaseRecord{TokenAccessor: "e"}}),
		ledgerOf("handing-over", v1alpha1.DynamicSecretStatus{
			Handover:   &v1alpha1.HandoverStatus{PublishedAt: sooner},
			Conditions: []metav1.Condition{{Type: v1alpha1.RotatedCondition, Status: metav1.ConditionFalse}},
		}),
		ledgerOf("handed-over", v1alpha1.DynamicSecretStatus{Handover: &v1alpha1.HandoverStatus{PublishedAt: sooner}}),
		ledgerOf("new", v1alpha1.DynamicSecretStatus{}),
	}
	cache := apiServer(t, stored...).Build()
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&listener{}, cache, registry)

	wantSeries(t, "an end for each lease, the earlier of its own and its token's; none for an answer without a lease", scrape(t, registry),
		map[string]float64{
			"leasekeeper_lease_expiration_timestamp_seconds name=leased namespace=shop":      1_800_000_000,
			"leasekeeper_lease_expiration_timestamp_seconds name=token-first namespace=shop": 1_700_000_000,
			"leasekeeper_handover_start_timestamp_seconds name=handing-over namespace=shop":  1_700_000_000,
			"leasekeeper_lease_records state=attempt":                                        1,
			"leasekeeper_lease_records state=live":                                           2,
			"leasekeeper_lease_records state=retiring":                                       2,
		})

	for _, o := range stored {
		if err := cache.Delete(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	wantSeries(t, "series go with their objects, and what is counted is 0 and not absent", scrape(t, registry),
		map[string]float64{
			"leasekeeper_lease_records state=attempt":  0,
			"leasekeeper_lease_records state=live":     0,
			"leasekeeper_lease_records state=retiring": 0,
		})
}

func TestTheCollectorTellsWhichProvidersAreReady(t *testing.T) {
	is := func(status metav1.ConditionStatus) v1alpha1.ProviderStatus {
		return v1alpha1.ProviderStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: status}}}
	}
	up := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "up"}, Status: is(metav1.ConditionTrue)}
	down := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "down", Namespace: "shop"}, Status: is(metav1.ConditionFalse)}
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&listener{}, apiServer(t, up, down).Build(), registry)
	got := scrape(t, registry)
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.HasPrefix(name, "leasekeeper_provider_ready") })
	wantSeries(t, "one series a provider", got, map[string]float64{
		"leasekeeper_provider_ready provider=up provider_kind=ClusterSecretProvider": 1,
		"leasekeeper_provider_ready provider=shop/down provider_kind=SecretProvider": 0,
	})
}

func TestAScrapeBeforeTheCacheHasStartedTellsNothing(t *testing.T) {
	cache := apiServer(t).WithInterceptorFuncs(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("the cache has not started")
		},
	}).Build()
	registry := prometheus.NewPedanticRegistry()
	NewRecorder(&listener{}, cache, registry)
	wantSeries(t, "zeros would be a lie", scrape(t, registry), map[string]float64{})
}

func TestOperationsAreCountedByResult(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	a := NewRecorder(&listener{}, apiServer(t).Build(), registry)
	a.Count("issue", "success")
	a.Count("issue", "success")
	a.Count("issue", "Denied")
	a.Count("end", "success")
	got := scrape(t, registry)
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.HasPrefix(name, "leasekeeper_operations_total") })
	wantSeries(t, "one series a result", got, map[string]float64{
		"leasekeeper_operations_total operation=issue result=success": 2,
		"leasekeeper_operations_total operation=issue result=Denied":  1,
		"leasekeeper_operations_total operation=end result=success":   1,
	})
}

func TestAnAbandonedRecordIsToldWhereItCanBeHeard(t *testing.T) {
	provider := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault"}}
	of := func(kind, name string) v1alpha1.ProviderIdentity {
		return v1alpha1.ProviderIdentity{Kind: kind, Name: name}
	}
	for _, c := range []struct {
		name, why string
		rec       v1alpha1.LeaseRecord
		// says is in every message.
		says string
		// also is the name of the provider that it is said on; empty: on none.
		also string
	}{{
		name: "a lease of a cluster provider is told on both",
		why:  "the events of a namespace that is going away are refused",
		rec:  v1alpha1.LeaseRecord{ID: "database/creds/orders/1", TokenAccessor: "acc", Path: "database/creds/orders", Provider: of(v1alpha1.ProviderKindCluster, "vault")},
		says: "lease database/creds/orders/1 of database/creds/orders", also: "vault",
	}, {
		name: "a record without a lease is told by its accessor",
		why:  "nothing else names it",
		rec:  v1alpha1.LeaseRecord{TokenAccessor: "acc", Path: "database/creds/orders", Provider: of(v1alpha1.ProviderKindCluster, "vault")},
		says: "token with accessor acc of database/creds/orders", also: "vault",
	}, {
		name: "a lease of a namespaced provider is told on the object",
		why:  "the provider goes with the namespace",
		rec:  v1alpha1.LeaseRecord{ID: "l", Path: "p", Provider: of(v1alpha1.ProviderKindNamespaced, "vault")},
		says: "lease l of p",
	}, {
		name: "a lease whose cluster provider is gone is told on the object",
		why:  "there is nothing else to tell it on",
		rec:  v1alpha1.LeaseRecord{ID: "l", Path: "p", Provider: of(v1alpha1.ProviderKindCluster, "gone")},
		says: "lease l of p",
	}} {
		t.Run(c.name, func(t *testing.T) {
			heard, registry := &listener{}, prometheus.NewPedanticRegistry()
			a := NewRecorder(heard, apiServer(t, provider.DeepCopy()).Build(), registry)
			d := ledgerOf("orders", v1alpha1.DynamicSecretStatus{})
			a.Abandoned(context.Background(), d, &c.rec, "the backend does not answer")

			want := 1
			if c.also != "" {
				want = 2
			}
			if len(heard.all) != want || heard.all[0].about != runtime.Object(d) {
				t.Fatalf("because %s: %d events, wanted %d, the first on the object: %+v", c.why, len(heard.all), want, heard.all)
			}
			for _, e := range heard.all {
				if e.kind != corev1.EventTypeWarning || e.reason != v1alpha1.ReasonAbandoned ||
					!strings.Contains(e.message, c.says) || !strings.Contains(e.message, "the backend does not answer") {
					t.Errorf("because %s: %+v lacks the record (%s) or the reason", c.why, e, c.says)
				}
			}
			if c.also != "" {
				on, ok := heard.all[1].about.(*v1alpha1.ClusterSecretProvider)
				if !ok || on.Name != c.also || !strings.Contains(heard.all[1].message, "shop/orders") {
					t.Errorf("because %s: the second event is on %T and says %q; wanted provider %s and the object's name", c.why, heard.all[1].about, heard.all[1].message, c.also)
				}
			}
			if n := scrape(t, registry)["leasekeeper_abandoned_leases_total namespace=shop"]; n != 1 {
				t.Errorf("because %s: counted %v times", c.why, n)
			}
		})
	}
}

func TestALongMessageFitsAnEvent(t *testing.T) {
	heard := &listener{}
	a := NewRecorder(heard, apiServer(t).Build(), prometheus.NewPedanticRegistry())
	for _, n := range []int{1000, 1001, 5000} {
		a.Event(ledgerOf("orders", v1alpha1.DynamicSecretStatus{}), corev1.EventTypeNormal, "Issued", strings.Repeat("x", n))
	}
	var sizes []int
	for _, e := range heard.all {
		sizes = append(sizes, len(e.message))
	}
	// The API takes 1024 bytes; the ellipsis has three.
	if want := []int{1000, 1003, 1003}; !slices.Equal(sizes, want) {
		t.Errorf("messages of %v bytes, wanted %v", sizes, want)
	}
	a.Event(ledgerOf("orders", v1alpha1.DynamicSecretStatus{}), corev1.EventTypeNormal, "Issued", "100% of path")
	if got := heard.all[3].message; got != "100% of path" {
		t.Errorf("a message is not a format: %q", got)
	}
}

func TestAnEventsMessageIsCutBetweenCharacters(t *testing.T) {
	short := shortened("x" + strings.Repeat("é", 600))
	if !utf8.ValidString(short) || len(short) > 1024 || !strings.HasSuffix(short, "é…") {
		t.Errorf("%d bytes, valid: %v", len(short), utf8.ValidString(short))
	}
}
