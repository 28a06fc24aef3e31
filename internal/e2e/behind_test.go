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

func TestAForcedRevocationBehindOurBackIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.replacedAfter(func(*v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke-force/"+r.name, nil))
	})
}

// enableIssuers mounts an auth method of the room's name, by which only the workload logs in.
func (r *room) enableIssuers() {
	r.t.Helper()
	r.must(r.Vault.EnableKubernetesAuth(r.t.Context(), r.name, r.Plane))
	r.must(r.Vault.WriteRole(r.t.Context(), r.name, r.name, testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: []string{r.name}, Policies: []string{r.name}, Audience: "vault",
	}))
}

func TestAnAuthMountDisabledBehindOurBackTakesTheSecretsUntilItIsBack(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.Mount = p.Name }))
	r.enableIssuers()
	before := r.ready("orders")
	old := r.target("orders")
	r.must(r.Vault.Root.Sys().DisableAuthWithContext(t.Context(), r.name))
	r.untilReason("orders", v1alpha1.LeasedCondition, v1alpha1.ReasonLeaseLost)
	r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
	if message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonLoginFailed); !strings.Contains(message, "auth/"+r.name) {
		t.Errorf("it says %q", message)
	}
	if err := r.login(old); err == nil {
		t.Error("the old credential still logs in")
	}
	r.eventually("the event", func() bool { return r.countEvents(v1alpha1.ReasonLeaseLost) == 1 })
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable) // the keeper comes by another mount
	r.enableIssuers()
	if after := r.untilReady("orders"); after.Status.Lease.ID == before.Status.Lease.ID {
		t.Error("the lease is the same")
	}
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}

// A lease outlives its role in Vault, and cannot be renewed without it.
func TestADatabaseRoleDeletedBehindOurBackCostsTheLeaseOnlyAtItsEnd(t *testing.T) {
	t.Parallel()
	for _, inTime := range []bool{true, false} {
		t.Run(map[bool]string{true: "made again in time", false: "made again too late"}[inTime], func(t *testing.T) {
			t.Parallel()
			const ttl = 20 * time.Second
			r := newRoom(t, shared, withTTL(ttl, time.Hour))
			r.ready("orders")
			old, before := r.target("orders"), r.hold()
			_, err := r.Vault.Root.Logical().DeleteWithContext(t.Context(), r.name+"/roles/orders")
			r.must(err)
			if message := r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing); !strings.Contains(message, "role") {
				t.Errorf("it says %q", message)
			}
			if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
				t.Error("it is not Ready while its lease lives")
			}
			r.must(r.login(old))
			r.unchanged(before)
			if inTime {
				databaseRole("orders", testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: time.Hour})(r)
				r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
					return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReconcilingCondition) == nil && d.Status.Lease.Renewals > 0
				})
				r.unchanged(before)
				return
			}
			r.eventually("the Secret to go with its lease", func() bool { return r.target("orders") == nil })
			r.untilReason("orders", v1alpha1.LeasedCondition, v1alpha1.ReasonExpired)
			r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRequestRefused)
			databaseRole("orders", testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: time.Hour})(r)
			r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			r.untilAlive(1)
			if err := r.login(old); err == nil {
				t.Error("the old credential still logs in")
			}
		})
	}
}

// Vault does not know that a user is gone, so nobody can notice it until the lease is renewed, which Vault then refuses for
// another reason than that the lease is gone.
func TestAUserDroppedBehindVaultsBackIsReplacedAtTheEndOfItsLeaseAndDeletingEnds(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy(), withTTL(25*time.Second, time.Hour))
	first := r.ready("orders")
	drop := func() {
		r.must(r.Postgres.Exec(t.Context(), `DROP ROLE "`+string(r.target("orders").Data["username"])+`"`))
		if r.login(r.target("orders")) == nil {
			t.Error("the login still works")
		}
	}
	before := r.hold()
	drop()
	lists := len(r.tries("^GET /v1/sys/leases/lookup/"))
	r.eventually("the leases to be listed", func() bool { return len(r.tries("^GET /v1/sys/leases/lookup/")) > lists })
	if message := r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing); !strings.Contains(message, "does not exist") {
		t.Errorf("it says %q", message)
	}
	r.unchanged(before)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease != nil && d.Status.Lease.ID != first.Status.Lease.ID && atRest(d)
	})
	r.must(r.login(r.target("orders")))
	drop()
	r.remove("orders")
	r.untilAlive(0)
	r.abandonedNothing()
}
