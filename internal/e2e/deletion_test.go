//go:build integration

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestAbandonOnDeleteLeavesTheLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnDelete = v1alpha1.OnDeleteAbandon })
	s := r.target("orders")
	r.remove("orders")
	if r.target("orders") != nil || len(r.leases()) != 1 {
		t.Errorf("the Secret still exists, or the lease does not: %v", r.leases())
	}
	r.must(r.login(s))
	r.reportsAbandoned("onDelete")
}

func TestAbandonAnnotationUnblocksDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.untilRevocationFails("orders", "connection refused")
	r.annotate(v1alpha1.AbandonLeaseAnnotation, "true")
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.reportsAbandoned("connection refused")
	if len(r.leases()) != 1 {
		t.Errorf("Vault has %v, want the abandoned lease", r.leases())
	}
}

func TestDeletionWaitsForBackendUntilDeadline(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Lease.RevocationDeadline = &metav1.Duration{Duration: 4 * time.Second}
	})
	r.must(r.proxy.RefuseConnections())
	began := time.Now()
	r.remove("orders")
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("it was abandoned after only %s", took)
	}
	r.reportsAbandoned("connection refused")
}

func TestDeletionRevokesOnceBackendIsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.untilRevocationFails("orders", "connection refused")
	r.must(r.proxy.Accept())
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	if n := r.countEvents(v1alpha1.ReasonAbandoned); n != 0 {
		t.Errorf("%d events report an abandoned lease", n)
	}
}

// reportsAbandoned waits until the object, the provider, the metric and the log report an abandoned lease.
func (r *rig) reportsAbandoned(why string) {
	r.t.Helper()
	r.eventually("the object's event", func() bool { return r.warned(dynamic, v1alpha1.ReasonAbandoned, why) })
	r.eventually("the provider's event", func() bool { return r.warned(cluster, v1alpha1.ReasonAbandoned, why) })
	r.logsAbandoned()
}

// warned reports whether a Warning event on the rig's objects, or on its provider, contains the text.
func (r *rig) warned(kind, reason, text string) bool {
	r.t.Helper()
	return r.event("Warning", kind, reason, text)
}

// event reports whether an event on the rig's objects, or on its provider, contains the text.
func (r *rig) event(severity, kind, reason, text string) bool {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list))
	for _, e := range list.Items {
		here := e.Regarding.Namespace == r.name || e.Regarding.Name == r.name
		matches := e.Regarding.Kind == kind && e.Reason == reason && e.Type == severity
		if here && matches && strings.Contains(e.Note, text) {
			return true
		}
	}
	return false
}

// logsAbandoned expects the metric to count one lease, and a line of the log to name it.
func (r *rig) logsAbandoned() {
	r.t.Helper()
	if n := r.abandoned(); n != 1 {
		r.t.Errorf("leasekeeper_abandoned_leases_total is %v, want 1", n)
	}
	log, err := r.Manager.Log()
	r.must(err)
	for line := range strings.Lines(log) {
		if strings.Contains(line, "lease abandoned") && strings.Contains(line, `"lease":"`+r.name+`/creds/`) {
			return
		}
	}
	r.t.Error("the log does not name the lease")
}

func (r *rig) abandonedNothing() {
	r.t.Helper()
	if n := r.abandoned(); n != 0 {
		r.t.Errorf("leasekeeper_abandoned_leases_total is %v", n)
	}
}

func (r *rig) abandoned() float64 {
	r.t.Helper()
	n, err := r.Manager.Metric(fmt.Sprintf(`leasekeeper_abandoned_leases_total{namespace=%q}`, r.name))
	r.must(err)
	return n
}
