//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// life is when a lease and the token that issued it end and were last renewed, as Vault says; it changes with whatever is
// done to either of the two.
func (r *room) life(rec *v1alpha1.LeaseRecord) string {
	r.t.Helper()
	l, err := r.Vault.Root.Logical().WriteWithContext(r.t.Context(), "sys/leases/lookup", map[string]any{"lease_id": rec.ID})
	r.must(err)
	token, err := r.Vault.Root.Auth().Token().LookupAccessorWithContext(r.t.Context(), rec.TokenAccessor)
	r.must(err)
	return fmt.Sprint(l.Data["expire_time"], l.Data["last_renewal"], token.Data["expire_time"], token.Data["last_renewal"])
}

// disputed waits until the object says, by a condition or an event, that its ledger names what is another's.
func (r *room) disputed(name string) {
	r.t.Helper()
	const says = "names the same lease or token"
	r.eventually(name+" to say that its ledger is disputed", func() bool {
		c := meta.FindStatusCondition(r.get(name).Status.Conditions, v1alpha1.ReconcilingCondition)
		return c != nil && strings.Contains(c.Message, says) || r.told(dynamic, "EndFailed", says)
	})
}

// Somebody writes what the victim's ledger names into that of another object of the namespace. The other's own lease is
// lost by that, which runs out; the victim's is as it was, whatever becomes of the other.
func TestWhatAnotherObjectsLedgerNamesIsNotActedOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		forge func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord)
	}{
		{"its lease, to be renewed", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
			st.Lease.ID = victim.ID
		}},
		{"its token, to be extended", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
			soon := metav1.NewTime(time.Now().Add(10 * time.Minute))
			st.Lease.TokenAccessor, st.Lease.TokenExpiresAt, st.Lease.TokenDurationSeconds, st.Lease.TokenRenewable = victim.TokenAccessor, &soon, 3600, true
		}},
		{"both, in the lease", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) { st.Lease = &victim }},
		{"its token, in the attempt", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
			victim.ID = ""
			st.Attempt = &victim
		}},
		{"both, in the attempt", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) { st.Attempt = &victim }},
		{"its lease, to be ended", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
			now := metav1.Now()
			victim.TokenAccessor, victim.EndAfter, victim.Reason = "", &now, v1alpha1.ReasonReplacing
			st.Retiring = append(st.Retiring, victim)
		}},
		{"its token, to be ended", func(st *v1alpha1.DynamicSecretStatus, victim v1alpha1.LeaseRecord) {
			now := metav1.Now()
			victim.ID, victim.EndAfter, victim.Reason = "", &now, v1alpha1.ReasonReplacing
			st.Retiring = append(st.Retiring, victim)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared)
			victim := r.ready("victim").Status.Lease
			r.ready("orders", deadline(3*time.Second))
			before, life := r.target("victim").ResourceVersion, r.life(victim)
			r.forgeStatus("orders", func(st *v1alpha1.DynamicSecretStatus) { c.forge(st, *victim.DeepCopy()) })
			r.askFor(v1alpha1.RenewRequestedAtAnnotation, "forged")
			r.disputed("orders")
			r.remove("orders")
			r.eventually("the other to have been given up", func() bool { return r.abandoned() >= 1 })
			if now := r.life(victim); now != life {
				t.Errorf("Vault said %s of the victim's lease and token, now %s", life, now)
			}
			r.must(r.login(r.target("victim")))
			if d := r.get("victim"); r.target("victim").ResourceVersion != before || d.Status.Lease.ID != victim.ID || !atRest(d) {
				t.Error("the victim was changed")
			}
			r.edit("victim", func(d *v1alpha1.DynamicSecret) {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "now")
			})
			r.until("victim", "renewed", func(d *v1alpha1.DynamicSecret) bool {
				return d.Status.LastHandledRenewAt == "now" && d.Status.Lease.ID == victim.ID && d.Status.Lease.Renewals == 1
			})
			if r.life(victim) == life {
				t.Error("a renewal does not show in what Vault says")
			}
		})
	}
}

func TestWhatIsWrittenIntoASecretIsNotActedOn(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	victim := r.ready("victim").Status.Lease
	before := r.ready("orders")
	life := r.life(victim)
	change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) {
		for _, key := range []string{"lease_id", "id", "accessor", "token_accessor"} {
			s.Data[key] = []byte(victim.ID)
			if strings.Contains(key, "accessor") {
				s.Data[key] = []byte(victim.TokenAccessor)
			}
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, "leasekeeper.io/"+key, string(s.Data[key]))
		}
	})
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && d.Status.Lease.ID != before.Status.Lease.ID
	})
	r.eventually("an event that says why", func() bool { return r.countEvents("Replaced") == 1 })
	r.untilAlive(2)
	r.remove("orders")
	if now := r.life(victim); now != life {
		t.Errorf("Vault said %s of the victim's lease and token, now %s", life, now)
	}
	r.must(r.login(r.target("victim")))
	r.untilAlive(1)
}
