package backend

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Metrics measures the operations on backends.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

var metricLabels = []string{"provider_kind", "provider", "operation"}

// NewMetrics registers the metrics. It panics if they are registered already.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasekeeper_backend_requests_total",
			Help: "Operations on a backend, by result: success, or the kind of error.",
		}, append([]string{"result"}, metricLabels...)),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "leasekeeper_backend_request_duration_seconds",
			Help:    "Duration of the operations on a backend.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, metricLabels),
	}
	registerer.MustRegister(m.requests, m.duration)
	return m
}

// Wrap measures the backend of a provider.
func (m *Metrics) Wrap(l Backend, p v1alpha1.Provider) Backend {
	return measured{next: l, metrics: m, kind: p.Kind(), provider: MetricName(p)}
}

// Forget drops the series of a provider that is gone.
func (m *Metrics) Forget(p v1alpha1.Provider) {
	labels := prometheus.Labels{"provider_kind": p.Kind(), "provider": MetricName(p)}
	m.requests.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
}

// MetricName is the name of a provider in metrics: its name, after its namespace if it has one.
func MetricName(p v1alpha1.Provider) string {
	if p.GetNamespace() == "" {
		return p.GetName()
	}
	return p.GetNamespace() + "/" + p.GetName()
}

type measured struct {
	next           Backend
	metrics        *Metrics
	kind, provider string
}

func measure[T any](m measured, operation string, do func() (T, error)) (T, error) {
	// Durations are the machine's, whatever clock decides about leases.
	timer := prometheus.NewTimer(m.metrics.duration.WithLabelValues(m.kind, m.provider, operation))
	result, err := do()
	timer.ObserveDuration()
	outcome := "success"
	if err != nil {
		outcome = string(KindOf(err))
	}
	m.metrics.requests.WithLabelValues(outcome, m.kind, m.provider, operation).Inc()
	return result, err
}

// Unwrap returns the backend that is measured.
func (m measured) Unwrap() Backend { return m.next }

func (m measured) Login(ctx context.Context, who Identity) (Session, error) {
	return measure(m, "login", func() (Session, error) { return m.next.Login(ctx, who) })
}

func (m measured) Issue(ctx context.Context, s Session, src v1alpha1.SecretSource) (Response, error) {
	return measure(m, "issue", func() (Response, error) { return m.next.Issue(ctx, s, src) })
}

func (m measured) Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	return measure(m, "renew", func() (lease.Term, error) { return m.next.Renew(ctx, rec, increment) })
}

func (m measured) ExtendSession(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) (lease.Term, error) {
	return measure(m, "extend_session", func() (lease.Term, error) { return m.next.ExtendSession(ctx, rec, owner) })
}

func (m measured) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) error {
	_, err := measure(m, "revoke", func() (struct{}, error) { return struct{}{}, m.next.Revoke(ctx, rec, owner) })
	return err
}

func (m measured) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	_, err := measure(m, "lookup", func() (struct{}, error) { return struct{}{}, m.next.Lookup(ctx, rec) })
	return err
}
