package lifecycle

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/provider"
)

// Recorder reports operations and transitions as events and metrics.
type Recorder struct {
	recorder  events.EventRecorder
	cache     client.Reader
	results   *prometheus.CounterVec
	abandoned *prometheus.CounterVec
	revoked   *prometheus.CounterVec
}

// ReportSealed registers the metric that says whether ledger records are sealed.
func ReportSealed(registry prometheus.Registerer, sealed bool) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "leasekeeper_ledger_sealed",
		Help: "Whether new ledger records are sealed (1), or the manager runs without the key (0).",
	})
	if sealed {
		gauge.Set(1)
	}
	registry.MustRegister(gauge)
}

// NewRecorder registers the metrics. The reader is the manager's cache.
func NewRecorder(recorder events.EventRecorder, cache client.Reader, registry prometheus.Registerer) *Recorder {
	a := &Recorder{
		recorder: recorder,
		cache:    cache,
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_operations_total",
			Help: "Operations on credentials (issue, renew, refresh, revoke, delete_secret, write_status, " +
				"write_finalizer), by result: success, or the kind of error.",
		}, []string{"operation", "result"}),
		abandoned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_abandoned_leases_total",
			Help: "Lease records that were given up before the backend confirmed their revocation.",
		}, []string{"namespace"}),
		revoked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_lease_revocations_total",
			Help: "LeaseRevocations that finished (success), and failed attempts, by the kind of error.",
		}, []string{"result"}),
	}
	registry.MustRegister(a.results, a.abandoned, a.revoked, &leaseCollector{cache: cache})
	return a
}

// Event emits an event on the object.
func (a *Recorder) Event(d *v1alpha1.DynamicSecret, kind, reason, message string) {
	a.emit(d, nil, kind, reason, message)
}

// ProviderEvent emits an event on a provider.
func (a *Recorder) ProviderEvent(p v1alpha1.Provider, kind, reason, message string) {
	a.emit(p.(runtime.Object), nil, kind, reason, message)
}

// RevocationEvent emits an event on a LeaseRevocation.
func (a *Recorder) RevocationEvent(r *v1alpha1.LeaseRevocation, kind, reason, message string) {
	a.emit(r, nil, kind, reason, message)
}

// CountRevocation counts a LeaseRevocation by its result.
func (a *Recorder) CountRevocation(result string) { a.revoked.WithLabelValues(result).Inc() }

func (a *Recorder) emit(about, related runtime.Object, kind, reason, message string) {
	message = shortened(message)
	a.recorder.Eventf(about, related, kind, reason, "Reconcile", "%s", message)
}

// shortened cuts a message to the limit of an event, 1024 bytes, between two characters.
func shortened(message string) string {
	const limit = 1000
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit], "") + "…"
}

// Abandoned reports that a record was given up. A cluster provider gets the event too, because a terminating namespace
// refuses events.
func (a *Recorder) Abandoned(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, why string) {
	a.abandoned.WithLabelValues(d.Namespace).Inc()
	what := "lease " + rec.ID
	switch {
	case rec.ID != "":
	case rec.Certificate() != "":
		what = "certificate " + rec.Certificate()
	default:
		what = "the session " + rec.Handle()
	}
	message := "Abandoned " + what + " of " + rec.Location() + ": " + why
	a.Event(d, corev1.EventTypeWarning, v1alpha1.ReasonAbandoned, message)
	if rec.Provider.Kind != v1alpha1.ProviderKindCluster {
		return
	}
	if p, err := GetProvider(ctx, a.cache, rec.Provider.Kind, rec.Provider.Name, ""); err == nil {
		a.ProviderEvent(p, corev1.EventTypeWarning, v1alpha1.ReasonAbandoned,
			"DynamicSecret "+d.Namespace+"/"+d.Name+": "+message)
	}
}

// Count counts an operation by its result.
func (a *Recorder) Count(what, result string) { a.results.WithLabelValues(what, result).Inc() }

// leaseCollector reads the ledgers from the cache at each scrape, so that its series appear and disappear with the
// objects and are complete right after a restart.
type leaseCollector struct{ cache client.Reader }

var (
	descExpiration = prometheus.NewDesc("leasekeeper_lease_expiration_timestamp_seconds",
		"When the first credential of a DynamicSecret expires unless its lease is renewed, in seconds since 1970.",
		[]string{"namespace", "name"}, nil)
	descRecords = prometheus.NewDesc("leasekeeper_lease_records",
		"Records in the ledgers of what can be revoked, by state: attempt, live, retiring.", []string{"state"}, nil)
	descHandover = prometheus.NewDesc("leasekeeper_handover_start_timestamp_seconds",
		"When the current handover of a DynamicSecret started, in seconds since 1970. Absent: it is complete.",
		[]string{"namespace", "name"}, nil)
	descNewer = prometheus.NewDesc("leasekeeper_newer_ledgers",
		"DynamicSecrets that are left alone, because a newer version of leasekeeper wrote their ledgers.", nil, nil)
	descReady = prometheus.NewDesc("leasekeeper_provider_ready",
		"Whether a provider is ready (1) or not (0).", []string{"provider_kind", "provider"}, nil)
)

func (c *leaseCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descExpiration
	ch <- descRecords
	ch <- descHandover
	ch <- descNewer
	ch <- descReady
}

func (c *leaseCollector) Collect(ch chan<- prometheus.Metric) {
	var list v1alpha1.DynamicSecretList
	if err := c.cache.List(context.Background(), &list, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache has not started
	}
	var attempts, live, retiring, newer int
	for i := range list.Items {
		d := &list.Items[i]
		retiring += len(d.Status.Retiring)
		if d.Status.LedgerVersion > lease.Version {
			newer++
		}
		if d.Status.Attempt != nil {
			attempts += len(d.Status.Attempt.Records)
		}
		handingOver := meta.IsStatusConditionFalse(d.Status.Conditions, v1alpha1.RotatedCondition)
		if h := d.Status.Handover; h != nil && handingOver {
			ch <- timestamp(descHandover, h.PublishedAt.Time, d)
		}
		for j := range d.Status.Leases {
			if lease.Revocable(&d.Status.Leases[j]) {
				live++
			}
		}
		if end, ok := lease.SetEnd(d.Status.Leases); ok {
			ch <- timestamp(descExpiration, end, d)
		}
	}
	ch <- prometheus.MustNewConstMetric(descNewer, prometheus.GaugeValue, float64(newer))
	for state, n := range map[string]int{"attempt": attempts, "live": live, "retiring": retiring} {
		ch <- prometheus.MustNewConstMetric(descRecords, prometheus.GaugeValue, float64(n), state)
	}
	for _, p := range c.providers() {
		is := 0.0
		if provider.Ready(p).Status == metav1.ConditionTrue {
			is = 1
		}
		ch <- prometheus.MustNewConstMetric(descReady, prometheus.GaugeValue, is, p.Kind(), backend.MetricName(p))
	}
}

// timestamp is a metric of an object.
func timestamp(desc *prometheus.Desc, at time.Time, d *v1alpha1.DynamicSecret) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.Unix()), d.Namespace, d.Name)
}

// providers lists the providers of both kinds.
func (c *leaseCollector) providers() (all []v1alpha1.Provider) {
	var clusterWide v1alpha1.ClusterSecretProviderList
	var namespaced v1alpha1.SecretProviderList
	ctx := context.Background()
	if c.cache.List(ctx, &clusterWide) != nil || c.cache.List(ctx, &namespaced) != nil {
		return nil // the cache has not started
	}
	for i := range clusterWide.Items {
		all = append(all, &clusterWide.Items[i])
	}
	for i := range namespaced.Items {
		all = append(all, &namespaced.Items[i])
	}
	return all
}
