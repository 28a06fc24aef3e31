//go:build integration

package e2e

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// tampering is what others do to our Secret without changing its data.
var tampering = map[string]func(*rig){
	"label removed": func(r *rig) {
		r.patchSecret("orders", `{"metadata":{"labels":{"`+v1alpha1.OwnerLabel+`":null}}}`)
	},
	"owner added": func(r *rig) {
		owner := &corev1.ConfigMap{ObjectMeta: r.named("owner")}
		r.create(owner)
		change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{
				APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID,
			})
		})
	},
}

// patchSecret merges into a Secret, as an administrator.
func (r *rig) patchSecret(name, patch string) {
	r.t.Helper()
	s := &corev1.Secret{ObjectMeta: r.named(name)}
	r.must(r.Kube.Patch(r.t.Context(), s, client.RawPatch(types.MergePatchType, []byte(patch))))
}

// forTampering runs a test for each way to tamper, in a rig of its own.
func forTampering(t *testing.T, test func(r *rig, tamper func(*rig)), options ...option) {
	t.Helper()
	for name, tamper := range tampering {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newRig(t, shared, options...), tamper)
		})
	}
}

func TestTamperedSecretIsRecognisedAndRepaired(t *testing.T) {
	t.Parallel()
	forTampering(t, func(r *rig, tamper func(*rig)) {
		d := r.ready("orders")
		s, mark := r.target("orders"), r.vaultMark()
		tamper(r)
		r.eventually("the Secret to be repaired", func() bool {
			now := r.target("orders")
			return now != nil && now.Labels[v1alpha1.OwnerLabel] == "orders" && len(now.OwnerReferences) == 1 &&
				metav1.IsControlledBy(now, d)
		})
		after := r.untilReady("orders")
		sameLease := after.Status.Leases[0].ID == d.Status.Leases[0].ID
		if r.minted(mark) != 0 || !sameLease || r.target("orders").UID != s.UID {
			r.t.Errorf("%d credentials were issued, or the Secret was created again", r.minted(mark))
		}
		r.must(r.login(r.target("orders")))
		r.untilAlive(1)
	})
}

func TestTamperedSecretDoesNotOutliveARevocation(t *testing.T) {
	t.Parallel()
	forTampering(t, func(r *rig, tamper func(*rig)) {
		r.ready("orders")
		mark := r.vaultMark()
		tamper(r)
		r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })
		r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
		if r.target("orders") != nil {
			r.t.Error("the Secret is left")
		}
		r.untilAlive(0)
		if n := r.minted(mark); n != 0 {
			r.t.Errorf("%d credentials were issued", n)
		}
	})
}

func TestTamperedSecretDoesNotOutliveItsLease(t *testing.T) {
	t.Parallel()
	forTampering(t, func(r *rig, tamper func(*rig)) {
		mark := r.vaultMark()
		r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Reissue = v1alpha1.ReissueNever })
		tamper(r)
		r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonGrantEnded)
		r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
		r.untilAlive(0)
		if n := r.minted(mark); n != 1 {
			r.t.Errorf("%d credentials were issued, want 1", n)
		}
	}, withTTL(4*time.Second, 9*time.Second))
}

func TestTamperedSecretDoesNotOutliveItsObject(t *testing.T) {
	t.Parallel()
	forTampering(t, func(r *rig, tamper func(*rig)) {
		r.ready("orders")
		tamper(r)
		r.remove("orders")
		// The finalizer is removed after the Secret, so nothing is left to the garbage collector.
		if r.target("orders") != nil {
			r.t.Error("the Secret is left")
		}
		r.untilAlive(0)
	})
}

func TestAnnotationOfOthersCostsOneRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(6*time.Second, time.Hour))
	r.ready("orders")
	renewals := func(n int64) int64 {
		d := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.Leases[0].Renewals >= n
		})
		return d.Status.Leases[0].Renewals
	}
	first, mark := renewals(1), r.apiMark()
	r.patchSecret("orders", `{"metadata":{"annotations":{"example.com/note":"mine"}}}`)
	reads := func() []testbed.APIRequest {
		return r.managerCalls(mark, func(a testbed.APIRequest) bool { return a.Verb == "get" })
	}
	r.eventually("the Secret to be read", func() bool { return len(reads()) > 0 })
	renewals(first + 4)
	if found := reads(); len(found) != 1 || found[0].Resource != "secrets" {
		t.Errorf("an annotation and four renewals cost the reads %v, want one of the Secret", found)
	}
	if found := r.managerCalls(mark, writing("secrets")); len(found) > 0 {
		t.Errorf("the Secret was written: %v", found)
	}
	if r.target("orders").Annotations["example.com/note"] != "mine" {
		t.Error("the annotation is lost")
	}
}
