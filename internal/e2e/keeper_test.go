//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// keepers is the auth mount by which only the keeper of the room logs in.
func (r *room) keepers() string { return r.name + "-keepers" }

// withKeepers gives the room's provider a keeper that logs in by a mount of its own, so that its tokens can be told from
// those of others.
func withKeepers() option {
	return withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.KeeperAuth.Kubernetes.Mount = p.Name + "-keepers"
	})
}

// keeperRole makes the keeper's role, with a policy of that name and no other.
func (r *room) keeperRole(policy string, ttl time.Duration) {
	r.t.Helper()
	r.must(r.Vault.WritePolicy(r.t.Context(), policy, testbed.KeeperPolicy+`
path "sys/capabilities-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
`))
	r.must(r.Vault.WriteRole(r.t.Context(), r.keepers(), "keeper", testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{policy}, Audience: "vault", TTL: ttl, MaxTTL: ttl,
		More: map[string]any{"token_no_default_policy": true}, // by which every token may renew
	}))
}

func (r *room) revokeKeepers() {
	r.t.Helper()
	r.must(r.Vault.Write(r.t.Context(), "sys/leases/revoke-prefix/auth/"+r.keepers()+"/login", map[string]any{"sync": true}))
}

// keeperLogins counts them, in vain or not.
func (r *room) keeperLogins() int {
	r.t.Helper()
	return r.requests(0, "^update auth/"+r.keepers()+"/login$")
}

func TestAKeeperThatLosesItsTokenLogsInAgainAndNoLeaseNotices(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, c := range []struct {
		name string
		ttl  time.Duration
		// lose the token; mend, where it takes more than a login.
		lose, mend func(*room)
	}{
		{name: "revoked", ttl: long, lose: (*room).revokeKeepers},
		{name: "at its max TTL", ttl: 2 * time.Second, lose: func(r *room) {
			// No token lives long enough for two looks at the provider.
			had := r.keeperLogins()
			r.eventually("two more logins", func() bool { return r.keeperLogins() >= had+2 })
		}},
		{name: "another policy", ttl: long, lose: func(r *room) {
			r.keeperRole(r.name+"-other", long)
			r.must(r.Vault.Root.Sys().DeletePolicyWithContext(r.t.Context(), r.name+"-keeper"))
		}},
		{name: "role deleted", ttl: long, lose: func(r *room) {
			_, err := r.Vault.Root.Logical().DeleteWithContext(r.t.Context(), "auth/"+r.keepers()+"/role/keeper")
			r.must(err)
			r.revokeKeepers()
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonLoginFailed)
		}, mend: func(r *room) { r.keeperRole(r.name+"-keeper", long) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared, withKeepers())
			r.must(r.Vault.EnableKubernetesAuth(t.Context(), r.keepers(), r.Plane))
			r.keeperRole(r.name+"-keeper", c.ttl)
			const objects = 5
			for i := range objects {
				r.apply(fmt.Sprintf("orders-%d", i))
			}
			r.untilAll(objects, "at rest", atRest)
			before, logins := r.hold(), r.keeperLogins()
			c.lose(r)
			if c.mend == nil {
				r.renewAll("now")
			} else {
				r.order(v1alpha1.RenewRequestedAtAnnotation, "now")
				r.untilReason("orders-0", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
				c.mend(r)
				r.untilAll(objects, "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
			}
			r.unchanged(before)
			for name, d := range r.all() {
				if d.Status.Lease.Renewals == before.leases[name].Status.Lease.Renewals {
					t.Errorf("%s was not renewed", name)
				}
			}
			if r.keeperLogins() == logins {
				t.Error("the keeper did not log in again")
			}
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
			for name := range before.leases {
				r.remove(name)
			}
			r.untilAlive(0)
		})
	}
}

func TestAProviderNoticesThatItsKeepersRoleGotThePolicyThatItLacked(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withOwnKeeper())
	role := func(policy string) {
		r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name+"-keeper", testbed.KubernetesRole{
			ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
			Policies: []string{policy}, Audience: "vault", TTL: time.Hour,
		}))
	}
	role("mistyped")
	r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonKeeperPolicyIncomplete)
	role("keeper") // which no token has that is alive
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.ready("orders")
}
