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

// decorate measures the abilities of the backend.
func (m measured) decorate(ability any) {
	switch a := ability.(type) {
	case *Reader:
		*a = measuredReader{m, *a}
	case *Lister:
		*a = measuredLister{*a, m}
	case *Inspector:
		*a = measuredInspector{m, *a}
	case *BulkRevoker:
		*a = measuredBulkRevoker{*a, m}
	}
}

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

type measuredReader struct {
	m    measured
	next Reader
}

func (r measuredReader) Read(ctx context.Context, who Identity, src v1alpha1.SecretSource) (Response, error) {
	return measure(r.m, "read", func() (Response, error) { return r.next.Read(ctx, who, src) })
}

type measuredLister struct {
	Lister
	m measured
}

func (l measuredLister) List(ctx context.Context, rec v1alpha1.LeaseRecord) (map[string]bool, error) {
	return measure(l.m, "list", func() (map[string]bool, error) { return l.Lister.List(ctx, rec) })
}

type measuredInspector struct {
	m    measured
	next Inspector
}

func (i measuredInspector) Inspect(ctx context.Context) (Report, error) {
	return measure(i.m, "inspect", func() (Report, error) { return i.next.Inspect(ctx) })
}

// measuredBulkRevoker measures what contacts the server.
type measuredBulkRevoker struct {
	BulkRevoker
	m measured
}

func (b measuredBulkRevoker) ListNext(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, l *Listing) error {
	_, err := measure(b.m, "bulk_list", func() (struct{}, error) {
		return struct{}{}, b.BulkRevoker.ListNext(ctx, spec, l)
	})
	return err
}

func (b measuredBulkRevoker) RevokeAll(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec) error {
	_, err := measure(b.m, "bulk_revoke", func() (struct{}, error) {
		return struct{}{}, b.BulkRevoker.RevokeAll(ctx, spec)
	})
	return err
}

func (b measuredBulkRevoker) RevokeOne(
	ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string, force bool,
) error {
	_, err := measure(b.m, "bulk_revoke_one", func() (struct{}, error) {
		return struct{}{}, b.BulkRevoker.RevokeOne(ctx, spec, id, force)
	})
	return err
}

func (b measuredBulkRevoker) Lives(
	ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string,
) (bool, error) {
	return measure(b.m, "bulk_lookup", func() (bool, error) { return b.BulkRevoker.Lives(ctx, spec, id) })
}
