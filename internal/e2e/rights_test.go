//go:build integration

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// forge writes a record into the ledger of an object, as somebody with rights on its status could, and makes the manager
// look at it.
func (r *room) forge(name string, rec v1alpha1.LeaseRecord) {
	r.t.Helper()
	r.forgeStatus(name, func(st *v1alpha1.DynamicSecretStatus) {
		now := metav1.Now()
		rec.EndAfter, rec.Reason = &now, v1alpha1.ReasonReplacing
		st.Retiring = append(st.Retiring, rec)
	})
	r.edit(name, func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "forged")
	})
}

// forgeStatus changes an object's status, as somebody with rights on it could.
func (r *room) forgeStatus(name string, how func(*v1alpha1.DynamicSecretStatus)) {
	r.t.Helper()
	r.eventually("the ledger to be forged", func() bool {
		d := r.get(name)
		how(&d.Status)
		err := r.Kube.Status().Update(context.Background(), d)
		if apierrors.IsConflict(err) {
			return false
		}
		r.must(err)
		return true
	})
}

func TestALeaseOfAnotherObjectOfTheNamespaceThatIsForgedIntoALedgerIsNotEnded(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	victim := r.ready("victim")
	r.ready("forged")
	r.forge("forged", *victim.Status.Lease)
	r.eventually("an event that tells of it", func() bool { return r.countEvents("EndFailed") > 0 })
	if ids := r.leases(); !slices.Contains(ids, victim.Status.Lease.ID) {
		t.Fatal("the victim's lease was ended")
	}
	r.must(r.login(r.target("victim")))
	// The victim goes on: it is not taken for the forger.
	r.edit("victim", func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "now")
	})
	r.until("victim", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
}

func TestATokenOfAnotherNamespaceThatIsForgedIntoALedgerIsNotEnded(t *testing.T) {
	t.Parallel()
	other, r := newRoom(t, shared), newRoom(t, shared)
	victim := other.ready("victim")
	r.ready("forged")
	rec := *r.get("forged").Status.Lease
	// Only the accessor is another's: no ledger but the victim's own names it with that provider's address and id.
	rec.TokenAccessor, rec.ID = victim.Status.Lease.TokenAccessor, ""
	// Without the victim's object nothing but Vault's word tells whose token it is.
	other.edit("victim", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnDelete = v1alpha1.OnDeleteAbandon })
	other.remove("victim")
	r.forge("forged", rec)
	r.eventually("the forged record to be given up", func() bool { return r.countEvents(v1alpha1.ReasonAbandoned) > 0 })
	if ids := other.leases(); !slices.Contains(ids, victim.Status.Lease.ID) {
		t.Fatal("the other namespace's lease was ended")
	}
	r.until("forged", "at rest", atRest)
}

func TestANamespaceThatIsDeletedTakesItsLeasesWithIt(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	const objects = 5
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range objects {
		r.untilReady(fmt.Sprintf("orders-%d", i))
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	r.must(r.Kube.Delete(t.Context(), ns))
	r.eventually("the namespace to be gone", func() bool {
		return apierrors.IsNotFound(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(ns), ns))
	})
	if ids := r.leases(); len(ids) != 0 {
		t.Errorf("leases are left: %v", ids)
	}
}
