//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func TestForcedRevocationIsDetected(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.replacedAfter(func(*v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke-force/"+r.name, nil))
	})
}

// enableIssuers mounts an auth method with the rig's name. Only the workload logs in there.
func (r *rig) enableIssuers() {
	r.t.Helper()
	r.must(r.Vault.EnableKubernetesAuth(r.t.Context(), r.name, r.Plane))
	r.must(r.Vault.WriteRole(r.t.Context(), r.name, r.name, testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: []string{r.name},
		Policies: []string{r.name}, Audience: "vault",
	}))
}

func TestDisabledAuthMountRemovesSecretsUntilItIsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.Auth.Kubernetes.Mount = v1alpha1.VaultMount(p.Name)
	}))
	r.enableIssuers()
	before := r.ready("orders")
	old := r.target("orders")
	r.must(r.Vault.Root.Sys().DisableAuthWithContext(t.Context(), r.name))
	r.untilReason("orders", v1alpha1.LeasedCondition, v1alpha1.ReasonLeaseLost)
	r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonLoginFailed)
	if want := "auth/" + r.name; !strings.Contains(message, want) {
		t.Errorf("the message is %q, want %q in it", message, want)
	}
	if err := r.login(old); err == nil {
		t.Error("the old credential still logs in")
	}
	r.eventually("the event", func() bool { return r.countEvents(v1alpha1.ReasonLeaseLost) == 1 })
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable) // the keeper logs in at another mount
	r.enableIssuers()
	if after := r.untilReady("orders"); !hasNewLease(before, after) {
		t.Error("the lease is the same")
	}
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}

// Vault keeps the lease of a deleted role, but does not renew it.
func TestLeaseOutlivesItsDeletedDatabaseRole(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, ttl time.Duration) (r *rig, restore func()) {
		r = newRig(t, shared, withTTL(ttl, time.Hour))
		// Renewals start long before the end, so that a busy machine does not skip them.
		r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RenewAtPercent = 10 })
		return r, func() { databaseRole("orders", testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: time.Hour})(r) }
	}
	deleteRole := func(r *rig) {
		_, err := r.Vault.Root.Logical().DeleteWithContext(r.t.Context(), r.name+"/roles/orders")
		r.must(err)
	}
	t.Run("role restored in time", func(t *testing.T) {
		t.Parallel()
		r, restore := start(t, time.Minute)
		old, before := r.target("orders"), r.snapshot()
		deleteRole(r)
		message := r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
		if !strings.Contains(message, "role") {
			t.Errorf("the message %q does not mention the role", message)
		}
		d := r.get("orders")
		if !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			t.Error("the object is not Ready, although its lease is alive")
		}
		r.must(r.login(old))
		r.unchanged(before)
		restore()
		r.until("orders", "renewed", func(after *v1alpha1.DynamicSecret) bool {
			reconciling := meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ReconcilingCondition)
			return reconciling == nil && record(after).Renewals > record(d).Renewals
		})
		r.unchanged(before)
	})
	t.Run("role restored too late", func(t *testing.T) {
		t.Parallel()
		r, restore := start(t, 20*time.Second)
		old := r.target("orders")
		deleteRole(r)
		r.eventually("the Secret to be deleted with its lease", func() bool { return r.target("orders") == nil })
		r.untilReason("orders", v1alpha1.LeasedCondition, v1alpha1.ReasonExpired)
		r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRequestRefused)
		restore()
		r.untilReady("orders")
		r.must(r.login(r.target("orders")))
		r.untilAlive(1)
		if err := r.login(old); err == nil {
			t.Error("the old credential still logs in")
		}
	})
}

// Vault does not know that the user is gone, so nothing can detect it before the renewal. Vault refuses that, but not
// because the lease is gone. The credential is replaced while its lease is alive.
func TestDroppedUserIsReplacedBeforeLeaseEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy(), withTTL(25*time.Second, time.Hour))
	first := r.ready("orders")
	drop := func() {
		r.must(r.Postgres.Exec(t.Context(), `DROP ROLE "`+string(r.target("orders").Data["username"])+`"`))
		if r.login(r.target("orders")) == nil {
			t.Error("the login still works")
		}
	}
	before := r.snapshot()
	drop()
	lists := func() int { return len(r.requestTimes("^GET /v1/sys/leases/lookup/")) }
	n := lists()
	r.eventually("the leases to be listed", func() bool { return lists() > n })
	message := r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
	if want := "does not exist"; !strings.Contains(message, want) {
		t.Errorf("the message is %q, want %q in it", message, want)
	}
	r.unchanged(before)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(first, d) && atRest(d)
	})
	r.must(r.login(r.target("orders")))
	r.eventually("an event about the cause", func() bool { return r.countEvents(v1alpha1.ReasonReplaced) == 1 })
	if n := r.countEvents(v1alpha1.ReasonExpired) + r.countEvents(v1alpha1.ReasonLeaseLost); n != 0 {
		t.Errorf("%d events report that a lease expired or was lost", n)
	}
	drop()
	r.remove("orders")
	r.untilAlive(0)
	r.abandonedNothing()
}
