//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// undeleted waits until the object reports that its Secret cannot be deleted, and expects the lease to be revoked.
func (r *rig) undeleted(reason string) {
	r.t.Helper()
	r.eventuallyWithin(15*time.Second, "the lease to be revoked", func() bool { return len(r.leases()) == 0 })
	d := r.until("orders", "reporting the Secret", func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c != nil && c.Reason == reason && strings.Contains(c.Message, "could not be deleted")
	})
	message := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition).Message
	r.t.Log(message)
	if !strings.Contains(message, "ValidatingAdmissionPolicy "+r.name) || strings.Contains(message, "request-limit") {
		r.t.Errorf("the message is %q", message)
	}
	r.eventually("the event", func() bool {
		return r.warned(dynamic, v1alpha1.ReasonSecretNotDeleted, "ValidatingAdmissionPolicy "+r.name)
	})
}

func TestRevokedDoesNotWaitForAProtectedSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("orders")
	policy := r.protectSecrets()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })
	r.undeleted(v1alpha1.ReasonRevoking)
	r.must(r.Kube.Delete(t.Context(), policy))
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
	if r.target("orders") != nil {
		t.Error("the Secret is left")
	}
}

func TestDeletionDoesNotWaitForAProtectedSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("orders", deadline(20*time.Second))
	policy := r.protectSecrets()
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.undeleted(v1alpha1.ReasonDeleting)
	r.eventuallyWithin(40*time.Second, "the object to be gone", func() bool { return r.get("orders") == nil })
	if r.target("orders") == nil {
		t.Error("the protected Secret is gone")
	}
	r.must(r.Kube.Delete(t.Context(), policy))
	r.eventually("the garbage collector to delete the Secret", func() bool { return r.target("orders") == nil })
}

func TestAbandonDoesNotWaitForAProtectedSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders", deadline(time.Hour))
	policy := r.protectSecrets()
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AbandonLeaseAnnotation, "true")
	})
	r.reportsAbandoned("")
	r.eventually("the metric to count it", func() bool {
		n, err := r.Manager.Metric(`leasekeeper_abandoned_leases_total{namespace="` + r.name + `"}`)
		return err == nil && n == 1
	})
	r.until("orders", "without a record", func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c != nil && strings.Contains(c.Message, "still to be revoked: 0.")
	})
	r.must(r.Kube.Delete(t.Context(), policy))
	r.eventually("the object to be gone", func() bool { return r.get("orders") == nil })
}
