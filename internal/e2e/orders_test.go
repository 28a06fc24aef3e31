//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func suspend(is bool) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = is }
}

func TestASuspendedObjectIsNotIssued(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	logins := r.proxiedLogins()
	r.apply("orders", suspend(true))
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonSuspended)
	if d := r.get("orders"); len(d.Status.Conditions) != 1 {
		t.Errorf("it is neither Reconciling nor Stalled: %+v", d.Status.Conditions)
	}
	r.ready("other") // a later event
	if n := r.proxiedLogins() - logins; n != 1 {
		t.Errorf("%d logins, want that of the other object", n)
	}
	r.edit("orders", suspend(false))
	r.untilReady("orders")
	r.untilAlive(2)
}

func TestASuspendedLeaseIsRenewedAndNotReplaced(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(10*time.Second, time.Hour))
	before := r.ready("orders")
	mark := r.vaultMark()
	r.edit("orders", suspend(true))
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Parameters = nil
		d.Annotations = map[string]string{v1alpha1.RotateRequestedAtAnnotation: "now"}
	})
	after := r.until("orders", "renewed twice", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease != nil && d.Status.Lease.Renewals >= 2 })
	if after.Status.Lease.ID != before.Status.Lease.ID || r.minted(mark) != 0 || after.Status.LastHandledRotateAt != "" {
		t.Errorf("lease %s became %s", before.Status.Lease.ID, after.Status.Lease.ID)
	}
	if !meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("it is not Ready any more")
	}
	r.edit("orders", suspend(false))
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "now" && d.Status.Lease.ID != before.Status.Lease.ID
	})
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were asked for, want 1", n)
	}
	r.remove("orders")
	r.untilAlive(0)
}

func TestASuspendedSecretGoesWithItsLease(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	d := r.ready("orders")
	mark := r.vaultMark()
	r.edit("orders", suspend(true))
	r.must(r.Vault.Root.Sys().RevokeWithContext(t.Context(), d.Status.Lease.ID))
	r.askFor(v1alpha1.RenewRequestedAtAnnotation, "now") // and finds out
	r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonSuspended)
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were asked for", n)
	}
	r.edit("orders", suspend(false))
	r.untilReady("orders")
	r.untilAlive(1)
}

func TestRevokedEndsTheLeaseAndKeepsTheObject(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	d := r.ready("orders")
	s, mark := r.target("orders"), r.vaultMark()
	revoke := func(is bool) { r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = is }) }
	revoke(true)
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRevoked)
	if r.target("orders") != nil || len(r.leases()) != 0 {
		t.Error("the Secret or the lease is still there")
	}
	if err := r.login(s); err == nil {
		t.Error("the login still works")
	}
	r.untilAlive(0)
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "now") // is not obeyed
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"a": "b"} })
	r.until("orders", "looked at", func(d *v1alpha1.DynamicSecret) bool { return d.Status.ObservedGeneration == d.Generation })
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were asked for", n)
	}
	revoke(false)
	after := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if after.Status.Lease.ID == d.Status.Lease.ID || r.minted(mark) != 1 {
		t.Errorf("%d credentials were asked for, want 1", r.minted(mark))
	}
	r.untilAlive(1)
}

func TestAnObjectThatIsMadeRevokedIssuesNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	mark := r.vaultMark()
	r.apply("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
	r.ready("other") // a later event
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were asked for, want that of the other object", n)
	}
	r.remove("orders")
}

func never(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Reissue = v1alpha1.ReissueNever }

func TestAGrantEndsAtItsMaximumAndIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(4*time.Second, 9*time.Second))
	mark := r.vaultMark()
	r.ready("orders", never)
	s := r.target("orders")
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease == nil || d.Status.Lease.Renewals > 0 })
	message := r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonGrantEnded)
	if !strings.Contains(message, v1alpha1.RotateRequestedAtAnnotation) {
		t.Errorf("it says %q", message)
	}
	r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
	r.untilAlive(0)
	if err := r.login(s); err == nil {
		t.Error("the login still works")
	}
	r.ready("other") // a later event
	if n := r.minted(mark); n != 2 || r.get("orders").Status.GrantEndedAt == nil {
		t.Errorf("%d credentials were asked for, want one for each object", n)
	}
	r.remove("other")
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "again")
	r.until("orders", "granted again", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "again" && meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
	})
	r.remove("orders")
	r.untilAlive(0)
}

func TestAGrantEndsWhenItsSecretIsDeletedOrItsLeaseRevoked(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*room, *v1alpha1.DynamicSecret){
		"Secret deleted": func(r *room, _ *v1alpha1.DynamicSecret) { r.must(r.Kube.Delete(r.t.Context(), r.target("orders"))) },
		"lease revoked": func(r *room, d *v1alpha1.DynamicSecret) {
			r.must(r.Vault.Root.Sys().RevokeWithContext(r.t.Context(), d.Status.Lease.ID))
			r.askFor(v1alpha1.RenewRequestedAtAnnotation, "now") // and finds out
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared)
			mark := r.vaultMark()
			end(r, r.ready("orders", never))
			r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonGrantEnded)
			r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
			r.untilAlive(0)
			if n := r.minted(mark); n != 1 {
				t.Errorf("%d credentials were asked for, want 1", n)
			}
		})
	}
}

func TestALeaseThatEndsWhileTheBackendIsAwayTakesTheSecretOrLeavesIt(t *testing.T) {
	t.Parallel()
	for _, policy := range []v1alpha1.OnExpiry{v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared, withProxy(), withTTL(15*time.Second, time.Hour))
			before := r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnExpiry = policy })
			s := r.target("orders")
			r.must(r.proxy.RefuseConnections())
			r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
			if r.target("orders") == nil {
				t.Error("the Secret went before its lease did")
			}
			r.until("orders", "not Ready", func(d *v1alpha1.DynamicSecret) bool {
				return meta.IsStatusConditionFalse(d.Status.Conditions, v1alpha1.ReadyCondition)
			})
			r.untilReason("orders", v1alpha1.LeasedCondition, v1alpha1.ReasonExpired)
			r.eventually("the event", func() bool { return r.countEvents(v1alpha1.ReasonExpired) == 1 })
			if policy == v1alpha1.OnExpiryRetain {
				if now := r.target("orders"); now == nil || now.ResourceVersion != s.ResourceVersion {
					t.Error("the Secret was written or deleted")
				}
			} else {
				r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
				r.eventually("the event", func() bool { return r.countEvents("SecretDeleted") == 1 })
			}
			r.must(r.proxy.Accept())
			after := r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			if after.Status.Lease.ID == before.Status.Lease.ID {
				t.Error("the lease is the same")
			}
			r.remove("orders")
			r.untilAlive(0)
		})
	}
}

func TestOrdersToRenewAndToRotateAreObeyedOnceAndEchoed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	first := r.ready("orders")
	s := r.target("orders")
	r.askFor(v1alpha1.RenewRequestedAtAnnotation, "one")
	d := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "one" })
	if d.Status.Lease.ID != first.Status.Lease.ID || d.Status.Lease.Renewals != 1 {
		t.Errorf("lease %s became %s, renewed %d times", first.Status.Lease.ID, d.Status.Lease.ID, d.Status.Lease.Renewals)
	}
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "two")
	d = r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "two" && len(d.Status.Retiring) == 0 && d.Status.NextAction == v1alpha1.NextRenew
	})
	if d.Status.Lease.ID == first.Status.Lease.ID || r.login(s) == nil {
		t.Error("the old lease lives")
	}
	r.must(r.login(r.target("orders")))
	r.askFor(v1alpha1.RenewRequestedAtAnnotation, "three") // a later event
	d = r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "three" })
	renewals := len(r.tries("^PUT /v1/sys/leases/renew$"))
	if n := len(r.tries(r.issuing())); n != 2 || renewals != 2 || d.Status.Lease.Renewals != 1 {
		t.Errorf("%d issues and %d renewals, want 2 of each", n, renewals)
	}
	r.untilAlive(1)
}

func TestAForceSyncMeansRenewAndMintsNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders")
	mark := r.vaultMark()
	r.askFor(v1alpha1.ForceSyncAnnotation, "now")
	after := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledForceSync == "now" })
	if after.Status.Lease.ID != before.Status.Lease.ID || after.Status.Lease.Renewals != 1 || r.minted(mark) != 0 {
		t.Errorf("lease %s became %s, renewed %d times", before.Status.Lease.ID, after.Status.Lease.ID, after.Status.Lease.Renewals)
	}
}

func TestAChangedRequestIsIssuedAnewOnceAndTheOldLeaseRevoked(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*room, *v1alpha1.DynamicSecret){
		"another path":           func(r *room, d *v1alpha1.DynamicSecret) { d.Spec.Vault.Path = r.name + "/creds/others" },
		"another ServiceAccount": func(_ *room, d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "others" },
		"another provider":       func(r *room, d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Name = r.name + "-other" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared)
			databaseRole("others", testbed.DatabaseRole{})(r)
			r.create(r.account("others"))
			r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
				ServiceAccounts: []string{"orders", "others"}, Namespaces: []string{r.name}, Policies: []string{r.name}, Audience: "vault",
			}))
			other := r.newProvider(r.Vault.Address)
			other.Name += "-other"
			r.create(other)
			before := r.ready("orders")
			s, mark := r.target("orders"), r.vaultMark()
			r.edit("orders", func(d *v1alpha1.DynamicSecret) { ask(r, d) })
			after := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
				return d.Status.Lease != nil && d.Status.Lease.ID != before.Status.Lease.ID && len(d.Status.Retiring) == 0
			})
			r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			if r.login(s) == nil || r.target("orders").UID != s.UID {
				t.Error("the old credential still logs in, or the Secret was made anew")
			}
			r.untilAlive(1)
			if n := r.minted(mark); n != 1 || r.leases()[0] != after.Status.Lease.ID {
				t.Errorf("%d credentials were asked for, want 1", n)
			}
		})
	}
}

func TestEditsThatAreNoRequestIssueNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders")
	version, mark := r.target("orders").ResourceVersion, r.vaultMark()
	for name, how := range map[string]func(*v1alpha1.DynamicSecret){
		"labels":         func(d *v1alpha1.DynamicSecret) { d.Labels = map[string]string{"a": "b"} },
		"annotations":    func(d *v1alpha1.DynamicSecret) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, "a", "b") },
		"increment":      func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Increment = &metav1.Duration{Duration: 2 * time.Hour} },
		"renewAtPercent": func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RenewAtPercent = 50 },
		"revocationDeadline": func(d *v1alpha1.DynamicSecret) {
			d.Spec.Lease.RevocationDeadline = metav1.Duration{Duration: time.Minute}
		},
		"refreshInterval":  func(d *v1alpha1.DynamicSecret) { d.Spec.RefreshInterval = metav1.Duration{Duration: time.Minute} },
		"the same account": func(d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "orders" },
	} {
		r.edit("orders", how)
		d := r.untilReady("orders")
		if d.Status.Lease.ID != before.Status.Lease.ID || r.minted(mark) != 0 {
			t.Errorf("%s: lease %s became %s", name, before.Status.Lease.ID, d.Status.Lease.ID)
		}
	}
	r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name+"-other", testbed.KubernetesRole{ServiceAccounts: []string{"orders"}, Namespaces: []string{r.name}, Policies: []string{r.name}}))
	change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.Role = r.name + "-other" })
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.askFor(v1alpha1.RenewRequestedAtAnnotation, "now") // a later event
	d := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
	if d.Status.Lease.ID != before.Status.Lease.ID || r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Error("the credential was replaced, or the Secret written")
	}
}
