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

func TestSuspendedObjectIssuesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	logins := r.loginRequests()
	r.apply("orders", suspend(true))
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonSuspended)
	if d := r.get("orders"); len(d.Status.Conditions) != 1 {
		t.Errorf("conditions %+v, want neither Reconciling nor Stalled", d.Status.Conditions)
	}
	r.ready("other") // handled after the first object
	if n := r.loginRequests() - logins; n != 1 {
		t.Errorf("%d logins, want only that of the other object", n)
	}
	r.edit("orders", suspend(false))
	r.untilReady("orders")
	r.untilAlive(2)
}

func TestSuspendedLeaseIsRenewedButNotReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(10*time.Second, time.Hour))
	before := r.ready("orders")
	mark := r.vaultMark()
	r.edit("orders", suspend(true))
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Parameters = nil
		d.Annotations = map[string]string{v1alpha1.RotateRequestedAtAnnotation: "now"}
	})
	after := r.until("orders", "renewed twice", func(d *v1alpha1.DynamicSecret) bool { return record(d).Renewals >= 2 })
	if leaseID(after) != leaseID(before) || r.minted(mark) != 0 || after.Status.LastHandledRotateAt != "" {
		t.Errorf("lease %s became %s", leaseID(before), leaseID(after))
	}
	if !meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the object is not Ready any more")
	}
	r.edit("orders", suspend(false))
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "now" && hasNewLease(before, d)
	})
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	r.remove("orders")
	r.untilAlive(0)
}

func TestSuspendedSecretIsDeletedWithItsLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	d := r.ready("orders")
	mark := r.vaultMark()
	r.edit("orders", suspend(true))
	r.must(r.Vault.Root.Sys().RevokeWithContext(t.Context(), leaseID(d)))
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now") // the renewal detects it
	r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonSuspended)
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were requested", n)
	}
	r.edit("orders", suspend(false))
	r.untilReady("orders")
	r.untilAlive(1)
}

func TestRevokedObjectRevokesAndStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	d := r.ready("orders")
	s, mark := r.target("orders"), r.vaultMark()
	revoke := func(is bool) { r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = is }) }
	revoke(true)
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRevoked)
	if r.target("orders") != nil || len(r.leases()) != 0 {
		t.Error("the Secret or the lease still exists")
	}
	if err := r.login(s); err == nil {
		t.Error("the login still works")
	}
	r.untilAlive(0)
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now") // has no effect
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"a": "b"} })
	r.until("orders", "reconciled", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.ObservedGeneration == d.Generation
	})
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were requested", n)
	}
	revoke(false)
	after := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if !hasNewLease(d, after) || r.minted(mark) != 1 {
		t.Errorf("%d credentials were requested, want 1", r.minted(mark))
	}
	r.untilAlive(1)
}

func TestObjectCreatedRevokedIssuesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	mark := r.vaultMark()
	r.apply("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonRevoked)
	r.ready("other") // handled after the first object
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want only that of the other object", n)
	}
	r.remove("orders")
}

func grant(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Reissue = v1alpha1.ReissueNever }

func TestGrantEndsAtMaxTTL(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(4*time.Second, 9*time.Second))
	mark := r.vaultMark()
	r.ready("orders", grant)
	s := r.target("orders")
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return !hasLease(d) || record(d).Renewals > 0 })
	message := r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonGrantEnded)
	if !strings.Contains(message, v1alpha1.RotateRequestedAtAnnotation) {
		t.Errorf("the message is %q", message)
	}
	r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
	r.untilAlive(0)
	if err := r.login(s); err == nil {
		t.Error("the login still works")
	}
	r.ready("other") // handled after the first object
	if n := r.minted(mark); n != 2 || r.get("orders").Status.GrantEndedAt == nil {
		t.Errorf("%d credentials were requested, want one for each object", n)
	}
	r.remove("other")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "again")
	r.until("orders", "granted again", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "again" &&
			meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
	})
	r.remove("orders")
	r.untilAlive(0)
}

func TestGrantEndsWithItsSecretOrLease(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig, *v1alpha1.DynamicSecret){
		"Secret deleted": func(r *rig, _ *v1alpha1.DynamicSecret) {
			r.must(r.Kube.Delete(r.t.Context(), r.target("orders")))
		},
		"lease revoked": func(r *rig, d *v1alpha1.DynamicSecret) {
			r.must(r.Vault.Root.Sys().RevokeWithContext(r.t.Context(), leaseID(d)))
			r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now") // the renewal detects it
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			mark := r.vaultMark()
			end(r, r.ready("orders", grant))
			r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonGrantEnded)
			r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
			r.untilAlive(0)
			if n := r.minted(mark); n != 1 {
				t.Errorf("%d credentials were requested, want 1", n)
			}
		})
	}
}

func TestOnExpiryDuringOutage(t *testing.T) {
	t.Parallel()
	for _, policy := range []v1alpha1.OnExpiry{v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, withProxy(), withTTL(15*time.Second, time.Hour))
			before := r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnExpiry = policy })
			s := r.target("orders")
			r.must(r.proxy.RefuseConnections())
			r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
			if r.target("orders") == nil {
				t.Error("the Secret was deleted before its lease expired")
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
				r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
				r.eventually("the event", func() bool { return r.countEvents(v1alpha1.ReasonSecretDeleted) == 1 })
			}
			r.must(r.proxy.Accept())
			after := r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			if !hasNewLease(before, after) {
				t.Error("the lease is the same")
			}
			r.remove("orders")
			r.untilAlive(0)
		})
	}
}

func TestRenewAndRotateAnnotationsAreHandledOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	first := r.ready("orders")
	s := r.target("orders")
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "one")
	d := r.untilRenewedFor("one")
	if leaseID(d) != leaseID(first) || record(d).Renewals != 1 {
		t.Errorf("lease %s became %s, renewed %d times", leaseID(first), leaseID(d), record(d).Renewals)
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "two")
	d = r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "two" && len(d.Status.Retiring) == 0 &&
			d.Status.NextAction == v1alpha1.NextRenew
	})
	if !hasNewLease(first, d) || r.login(s) == nil {
		t.Error("the old credential is still valid")
	}
	r.must(r.login(r.target("orders")))
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "three") // handled after the rotation
	d = r.untilRenewedFor("three")
	renewals := len(r.requestTimes("^PUT /v1/sys/leases/renew$"))
	if n := len(r.requestTimes(r.issuing())); n != 2 || renewals != 2 || record(d).Renewals != 1 {
		t.Errorf("%d issuances and %d renewals, want 2 of each", n, renewals)
	}
	r.untilAlive(1)
}

func TestForceSyncRenewsAndMintsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	mark := r.vaultMark()
	r.annotate(v1alpha1.ForceSyncAnnotation, "now")
	after := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledForceSync == "now"
	})
	if leaseID(after) != leaseID(before) || record(after).Renewals != 1 || r.minted(mark) != 0 {
		t.Errorf("lease %s became %s, renewed %d times", leaseID(before), leaseID(after), record(after).Renewals)
	}
}

func TestChangedRequestIsReissuedOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rig, *v1alpha1.DynamicSecret){
		"another path": func(r *rig, d *v1alpha1.DynamicSecret) {
			d.Spec.Vault.Path = r.name + "/creds/others"
		},
		"another ServiceAccount": func(_ *rig, d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "others" },
		"another provider": func(r *rig, d *v1alpha1.DynamicSecret) {
			d.Spec.ProviderRef.Name = r.name + "-other"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			databaseRole("others", testbed.DatabaseRole{})(r)
			r.create(r.account("others"))
			r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
				ServiceAccounts: []string{"orders", "others"}, Namespaces: []string{r.name},
				Policies: []string{r.name}, Audience: "vault",
			}))
			other := r.newProvider(r.Vault.Address)
			other.Name += "-other"
			r.create(other)
			before := r.ready("orders")
			s, mark := r.target("orders"), r.vaultMark()
			r.edit("orders", func(d *v1alpha1.DynamicSecret) { change(r, d) })
			after := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
				return hasNewLease(before, d) && len(d.Status.Retiring) == 0
			})
			r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			if r.login(s) == nil || r.target("orders").UID != s.UID {
				t.Error("the old credential is still valid, or the Secret was created again")
			}
			r.untilAlive(1)
			if n := r.minted(mark); n != 1 || r.leases()[0] != leaseID(after) {
				t.Errorf("%d credentials were requested, want 1", n)
			}
		})
	}
}

func TestUnrelatedEditsIssueNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	version, mark := r.target("orders").ResourceVersion, r.vaultMark()
	for name, how := range map[string]func(*v1alpha1.DynamicSecret){
		"labels":      func(d *v1alpha1.DynamicSecret) { d.Labels = map[string]string{"a": "b"} },
		"annotations": func(d *v1alpha1.DynamicSecret) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, "a", "b") },
		"increment": func(d *v1alpha1.DynamicSecret) {
			d.Spec.Lease.Increment = &metav1.Duration{Duration: 2 * time.Hour}
		},
		"renewAtPercent": func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RenewAtPercent = 50 },
		"revocationDeadline": func(d *v1alpha1.DynamicSecret) {
			d.Spec.Lease.RevocationDeadline = &metav1.Duration{Duration: time.Minute}
		},
		"refreshInterval": func(d *v1alpha1.DynamicSecret) {
			d.Spec.RefreshInterval = &metav1.Duration{Duration: time.Minute}
		},
		"another overlap": func(d *v1alpha1.DynamicSecret) {
			d.Spec.Rotation.Overlap = &metav1.Duration{Duration: time.Minute}
		},
		"the same account": func(d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "orders" },
	} {
		r.edit("orders", how)
		d := r.untilReady("orders")
		if leaseID(d) != leaseID(before) || r.minted(mark) != 0 {
			t.Errorf("%s: lease %s became %s", name, leaseID(before), leaseID(d))
		}
	}
	r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name+"-other", testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: []string{r.name}, Policies: []string{r.name},
	}))
	change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.Auth.Kubernetes.Role = r.name + "-other"
	})
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now") // handled after the edits
	d := r.untilRenewedFor("now")
	if leaseID(d) != leaseID(before) || r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Error("the credential was replaced, or the Secret written")
	}
}
