package lifecycle

import (
	"context"
	"strings"

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
)

// Recorder tells people what happened, by events and metrics.
type Recorder struct {
	recorder  events.EventRecorder
	cache     client.Reader
	results   *prometheus.CounterVec
	abandoned *prometheus.CounterVec
	revoked   *prometheus.CounterVec
}

// NewRecorder registers the metrics. The reader is the manager's cache.
func NewRecorder(recorder events.EventRecorder, cache client.Reader, registry prometheus.Registerer) *Recorder {
	a := &Recorder{
		recorder: recorder,
		cache:    cache,
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_operations_total",
			Help: "Issues, renewals and ends of leases, by result: success, or the kind of failure.",
		}, []string{"operation", "result"}),
		abandoned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_abandoned_leases_total",
			Help: "Lease records that were given up before the backend said that they are gone.",
		}, []string{"namespace"}),
		revoked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_lease_revocations_total",
			Help: "LeaseRevocations that finished, as success, and tries of them that failed, by the kind of failure.",
		}, []string{"result"}),
	}
	registry.MustRegister(a.results, a.abandoned, a.revoked, &leaseCollector{cache: cache})
	return a
}

// Event on the object.
func (a *Recorder) Event(d *v1alpha1.DynamicSecret, kind, reason, message string) {
	a.emit(d, nil, kind, reason, message)
}

// ProviderEvent is an event on a provider.
func (a *Recorder) ProviderEvent(p v1alpha1.Provider, kind, reason, message string) {
	a.emit(p.(runtime.Object), nil, kind, reason, message)
}

// RevocationEvent is an event on a LeaseRevocation.
func (a *Recorder) RevocationEvent(r *v1alpha1.LeaseRevocation, kind, reason, message string) {
	a.emit(r, nil, kind, reason, message)
}

// CountRevocation by its result.
func (a *Recorder) CountRevocation(result string) { a.revoked.WithLabelValues(result).Inc() }

func (a *Recorder) emit(about, related runtime.Object, kind, reason, message string) {
	message = shortened(message)
	a.recorder.Eventf(about, related, kind, reason, "Reconcile", "%s", message)
}

// shortened to what an event takes: 1024 bytes, of whole characters.
func shortened(message string) string {
	const limit = 1000
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit], "") + "…"
}

// Abandoned says it on the object; and, because the events of a namespace that is going away are refused, on a cluster
// provider too.
func (a *Recorder) Abandoned(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, why string) {
	a.abandoned.WithLabelValues(d.Namespace).Inc()
	what := "lease " + rec.ID
	if rec.ID == "" {
		what = "token with accessor " + rec.TokenAccessor
	}
	message := "Abandoned " + what + " of " + rec.Path + ": " + why
	a.Event(d, corev1.EventTypeWarning, v1alpha1.ReasonAbandoned, message)
	if rec.Provider.Kind != v1alpha1.ProviderKindCluster {
		return
	}
	if p, err := GetProvider(ctx, a.cache, rec.Provider.Kind, rec.Provider.Name, ""); err == nil {
		a.ProviderEvent(p, corev1.EventTypeWarning, v1alpha1.ReasonAbandoned,
			"DynamicSecret "+d.Namespace+"/"+d.Name+": "+message)
	}
}

// Count an operation by its result.
func (a *Recorder) Count(what, result string) { a.results.WithLabelValues(what, result).Inc() }

// leaseCollector reads the ledgers from the cache at each scrape, so that its series come and go with the objects and
// are whole right after a restart.
type leaseCollector struct{ cache client.Reader }

var (
	descExpiration = prometheus.NewDesc("leasekeeper_lease_expiration_timestamp_seconds",
		"When the lease of a DynamicSecret ends unless it is renewed, in seconds since 1970.", []string{"namespace", "name"}, nil)
	descRecords = prometheus.NewDesc("leasekeeper_lease_records",
		"Records in the ledgers, by state: attempt, live, retiring.", []string{"state"}, nil)
	descHandover = prometheus.NewDesc("leasekeeper_handover_start_timestamp_seconds",
		"When the hand-over of a DynamicSecret began that is not complete, in seconds since 1970.", []string{"namespace", "name"}, nil)
	descReady = prometheus.NewDesc("leasekeeper_provider_ready",
		"Whether a provider is ready (1) or not (0).", []string{"provider_kind", "provider"}, nil)
)

func (c *leaseCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descExpiration
	ch <- descRecords
	ch <- descHandover
	ch <- descReady
}

func (c *leaseCollector) Collect(ch chan<- prometheus.Metric) {
	var list v1alpha1.DynamicSecretList
	if err := c.cache.List(context.Background(), &list, client.UnsafeDisableDeepCopy); err != nil {
		return // before the cache has started there is nothing to tell
	}
	var attempts, live, retiring int
	for i := range list.Items {
		d := &list.Items[i]
		retiring += len(d.Status.Retiring)
		if d.Status.Attempt != nil {
			attempts++
		}
		if h := d.Status.Handover; h != nil && meta.IsStatusConditionFalse(d.Status.Conditions, v1alpha1.RotatedCondition) {
			ch <- prometheus.MustNewConstMetric(descHandover, prometheus.GaugeValue, float64(h.PublishedAt.Unix()), d.Namespace, d.Name)
		}
		if rec := d.Status.Lease; lease.Leased(rec) {
			live++
			if end, ok := lease.LifeEnd(rec); ok {
				ch <- prometheus.MustNewConstMetric(descExpiration, prometheus.GaugeValue, float64(end.Unix()), d.Namespace, d.Name)
			}
		}
	}
	for state, n := range map[string]int{"attempt": attempts, "live": live, "retiring": retiring} {
		ch <- prometheus.MustNewConstMetric(descRecords, prometheus.GaugeValue, float64(n), state)
	}
	for _, p := range c.providers() {
		is := 0.0
		if Ready(p).Status == metav1.ConditionTrue {
			is = 1
		}
		ch <- prometheus.MustNewConstMetric(descReady, prometheus.GaugeValue, is, p.Kind(), backend.MetricName(p))
	}
}

func (c *leaseCollector) providers() (all []v1alpha1.Provider) {
	var clusterWide v1alpha1.ClusterSecretProviderList
	var namespaced v1alpha1.SecretProviderList
	if c.cache.List(context.Background(), &clusterWide) != nil || c.cache.List(context.Background(), &namespaced) != nil {
		return nil // as above
	}
	for i := range clusterWide.Items {
		all = append(all, &clusterWide.Items[i])
	}
	for i := range namespaced.Items {
		all = append(all, &namespaced.Items[i])
	}
	return all
}

// Ready is the provider's Ready condition; the zero value where it has none yet.
func Ready(p v1alpha1.Provider) metav1.Condition {
	if c := meta.FindStatusCondition(p.ProviderStatus().Conditions, v1alpha1.ReadyCondition); c != nil {
		return *c
	}
	return metav1.Condition{}
}
