//go:build integration

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// forge adds a retiring record to the ledger of an object, as somebody with rights on its status could, and triggers a
// reconciliation.
func (r *rig) forge(name string, rec v1alpha1.LeaseRecord) {
	r.t.Helper()
	r.forgeStatus(name, func(st *v1alpha1.DynamicSecretStatus) {
		now := metav1.Now()
		rec.RevokeAfter, rec.Reason = &now, v1alpha1.ReasonReplacing
		st.Retiring = append(st.Retiring, rec)
	})
	r.edit(name, func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "forged")
	})
}

// forgeStatus changes an object's status, as somebody with rights on it could.
func (r *rig) forgeStatus(name string, how func(*v1alpha1.DynamicSecretStatus)) {
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

// termsInVault are the expiry and the last renewal of a lease and of its token, as Vault reports them. They change with
// whatever is done to either of the two.
func (r *rig) termsInVault(rec *v1alpha1.LeaseRecord) string {
	r.t.Helper()
	ctx, root := r.t.Context(), r.Vault.Root
	l, err := root.Logical().WriteWithContext(ctx, "sys/leases/lookup", map[string]any{"lease_id": rec.ID})
	r.must(err)
	token, err := root.Auth().Token().LookupAccessorWithContext(ctx, rec.Handle())
	r.must(err)
	return fmt.Sprint(l.Data["expire_time"], l.Data["last_renewal"],
		token.Data["expire_time"], token.Data["last_renewal"])
}

// untilDisputed waits until a condition or an event reports that the object's ledger names what belongs to another.
func (r *rig) untilDisputed(name string) {
	r.t.Helper()
	const message = "names the same lease or session"
	r.eventually(name+" to report that its ledger is disputed", func() bool {
		c := meta.FindStatusCondition(r.get(name).Status.Conditions, v1alpha1.ReconcilingCondition)
		return c != nil && strings.Contains(c.Message, message) || r.warned(dynamic, revokeFailed, message)
	})
}

// forgeries write the victim's lease or token into the ledger of another object.
var forgeries = []struct {
	name  string
	forge func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord)
}{
	{"lease to renew", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		st.Leases[0].ID = victim.ID
	}},
	{"token to extend", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		st.Leases[0].SetHandle(victim.Handle())
		st.Leases[0].Session = &v1alpha1.SessionTerm{
			ExpiresAt: metav1.NewTime(time.Now().Add(10 * time.Minute)), DurationSeconds: 3600, Renewable: true,
		}
	}},
	{"lease and token", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		st.Leases = []v1alpha1.LeaseRecord{victim}
	}},
	{"token in the attempt", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		victim.ID, victim.Kind = "", ""
		st.Attempt = &v1alpha1.IssuanceAttempt{Records: []v1alpha1.LeaseRecord{victim}}
	}},
	{"lease and token in the attempt", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		st.Attempt = &v1alpha1.IssuanceAttempt{Records: []v1alpha1.LeaseRecord{victim}}
	}},
	{"lease to revoke", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		now := metav1.Now()
		victim.SetHandle("")
		victim.RevokeAfter, victim.Reason = &now, v1alpha1.ReasonReplacing
		st.Retiring = append(st.Retiring, victim)
	}},
	{"token to revoke", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
		now := metav1.Now()
		victim.ID, victim.Kind = "", ""
		victim.RevokeAfter, victim.Reason = &now, v1alpha1.ReasonReplacing
		st.Retiring = append(st.Retiring, victim)
	}},
}

// The forged object loses its own lease, which expires. The victim's lease stays as it was, whatever becomes of the
// forged object.
func TestRecordOfAnotherObjectIsNotActedOn(t *testing.T) {
	t.Parallel()
	for _, c := range forgeries {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			victim := record(r.ready("victim"))
			r.ready("orders", deadline(3*time.Second))
			before, terms := r.target("victim").ResourceVersion, r.termsInVault(victim)
			r.forgeStatus("orders", func(st *v1alpha1.DynamicSecretStatus) { c.forge(st, *victim.DeepCopy()) })
			r.annotate(v1alpha1.RenewRequestedAtAnnotation, "forged")
			r.untilDisputed("orders")
			r.remove("orders")
			r.eventually("the forged record to be abandoned", func() bool { return r.abandoned() >= 1 })
			if now := r.termsInVault(victim); now != terms {
				t.Errorf("the terms of the victim's lease and token were %s, now they are %s", terms, now)
			}
			r.must(r.login(r.target("victim")))
			d := r.get("victim")
			if r.target("victim").ResourceVersion != before || leaseID(d) != victim.ID || !atRest(d) {
				t.Error("the victim was changed")
			}
			r.edit("victim", func(d *v1alpha1.DynamicSecret) {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "now")
			})
			r.until("victim", "renewed", func(d *v1alpha1.DynamicSecret) bool {
				return d.Status.LastHandledRenewAt == "now" && leaseID(d) == victim.ID && record(d).Renewals == 1
			})
			if r.termsInVault(victim) == terms {
				t.Error("the terms in Vault do not show a renewal, so this test proves nothing")
			}
		})
	}
}

func TestSecretContentIsNotActedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	victim := record(r.ready("victim"))
	before := r.ready("orders")
	terms := r.termsInVault(victim)
	change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) {
		s.Data["password"] = []byte("mine") // so that the credential is replaced
		for _, key := range []string{"lease_id", "id", "accessor", "token_accessor"} {
			s.Data[key] = []byte(victim.ID)
			if strings.Contains(key, "accessor") {
				s.Data[key] = []byte(victim.Handle())
			}
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, "leasekeeper.io/"+key, string(s.Data[key]))
		}
	})
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool { return atRest(d) && hasNewLease(before, d) })
	r.eventually("an event about the cause", func() bool { return r.countEvents(v1alpha1.ReasonReplaced) == 1 })
	r.untilAlive(2)
	r.remove("orders")
	if now := r.termsInVault(victim); now != terms {
		t.Errorf("the terms of the victim's lease and token were %s, now they are %s", terms, now)
	}
	r.must(r.login(r.target("victim")))
	r.untilAlive(1)
}

func TestForgedLeaseOfAnotherObjectIsNotRevoked(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	victim := r.ready("victim")
	r.ready("forged")
	r.forge("forged", *record(victim))
	r.eventually("an event about it", func() bool { return r.countEvents(revokeFailed) > 0 })
	if ids := r.leases(); !slices.Contains(ids, leaseID(victim)) {
		t.Fatal("the victim's lease was revoked")
	}
	r.must(r.login(r.target("victim")))
	// The victim is not mistaken for the forged object.
	r.edit("victim", func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "now")
	})
	r.until("victim", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
}

func TestForgedTokenOfAnotherNamespaceIsNotRevoked(t *testing.T) {
	t.Parallel()
	other, r := newRig(t, shared), newRig(t, shared)
	victim := other.ready("victim")
	r.ready("forged")
	rec := *record(r.get("forged"))
	// Only the accessor belongs to the victim: no other ledger names it with this provider's address and id.
	rec.SetHandle(accessor(victim))
	rec.ID, rec.Kind = "", ""
	// Without the victim's object, only Vault can tell whose token it is.
	other.edit("victim", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnDelete = v1alpha1.OnDeleteAbandon })
	other.remove("victim")
	r.forge("forged", rec)
	r.eventually("the forged record to be abandoned", func() bool {
		return r.countEvents(v1alpha1.ReasonAbandoned) > 0
	})
	if ids := other.leases(); !slices.Contains(ids, leaseID(victim)) {
		t.Fatal("the other namespace's lease was revoked")
	}
	r.until("forged", "at rest", atRest)
}
