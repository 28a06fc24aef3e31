//go:build integration

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestAbandonedOnDeleteLeavesTheLeaseToRunOut(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnDelete = v1alpha1.OnDeleteAbandon })
	s := r.target("orders")
	r.remove("orders")
	if r.target("orders") != nil || len(r.leases()) != 1 {
		t.Errorf("the Secret is there, or the lease is not: %v", r.leases())
	}
	r.must(r.login(s))
	r.saysAbandoned("onDelete")
}

func TestAnAnnotationLetsADeletionGoWithoutABackend(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.until("orders", "trying in vain", func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c.Reason == v1alpha1.ReasonDeleting && strings.Contains(c.Message, "connection refused")
	})
	if r.target("orders") != nil {
		t.Error("the Secret is still there")
	}
	r.askFor(v1alpha1.AbandonLeaseAnnotation, "true")
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.saysAbandoned("connection refused")
	if len(r.leases()) != 1 {
		t.Errorf("the lease should run out by itself: %v", r.leases())
	}
}

func TestADeletionWaitsForABackendUntilItsDeadlineOnly(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.ready("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Lease.RevocationDeadline = metav1.Duration{Duration: 4 * time.Second}
	})
	r.must(r.proxy.RefuseConnections())
	began := time.Now()
	r.remove("orders")
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("it was given up after %s already", took)
	}
	r.saysAbandoned("connection refused")
}

func TestADeletionEndsTheLeaseWhenTheBackendComesBack(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.until("orders", "trying in vain", func(d *v1alpha1.DynamicSecret) bool {
		return strings.Contains(meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition).Message, "connection refused")
	})
	r.must(r.proxy.Accept())
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	if n := r.countEvents(v1alpha1.ReasonAbandoned); n != 0 {
		t.Errorf("%d events tell of an abandoned lease", n)
	}
}

// saysAbandoned: on the object, on the provider, by the metric and in the log.
func (r *room) saysAbandoned(why string) {
	r.t.Helper()
	r.eventually("the object's event", func() bool { return r.told(dynamic, v1alpha1.ReasonAbandoned, why) })
	r.eventually("the provider's event", func() bool { return r.told(cluster, v1alpha1.ReasonAbandoned, why) })
	r.logsAbandoned()
}

// told says whether a Warning event on the room's objects, or on its provider, says why.
func (r *room) told(kind, reason, why string) bool {
	r.t.Helper()
	return r.event("Warning", kind, reason, why)
}

// event says whether there is one of the type, about an object of the kind in the room, or about the room's provider.
func (r *room) event(severity, kind, reason, why string) bool {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list))
	for _, e := range list.Items {
		here := e.Regarding.Namespace == r.name || e.Regarding.Name == r.name
		if here && e.Regarding.Kind == kind && e.Reason == reason && e.Type == severity && strings.Contains(e.Note, why) {
			return true
		}
	}
	return false
}

// logsAbandoned: the metric counts one lease, and a line of the log names it.
func (r *room) logsAbandoned() {
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
	r.t.Error("no line of the log names the lease")
}

func (r *room) abandonedNothing() {
	r.t.Helper()
	if n := r.abandoned(); n != 0 {
		r.t.Errorf("leasekeeper_abandoned_leases_total is %v", n)
	}
}

func (r *room) abandoned() float64 {
	r.t.Helper()
	n, err := r.Manager.Metric(fmt.Sprintf(`leasekeeper_abandoned_leases_total{namespace=%q}`, r.name))
	r.must(err)
	return n
}
