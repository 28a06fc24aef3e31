//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// keepers is the auth mount at which only the rig's keeper logs in.
func (r *rig) keepers() string { return r.name + "-keepers" }

// withKeepers gives the rig's provider a keeper with its own auth mount, so that its tokens can be identified.
func withKeepers() option {
	return withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.KeeperAuth.Kubernetes.Mount = v1alpha1.VaultMount(p.Name + "-keepers")
	})
}

// keeperRole creates the keeper's role with only this policy.
func (r *rig) keeperRole(policy string, ttl time.Duration) {
	r.t.Helper()
	r.must(r.Vault.WritePolicy(r.t.Context(), policy, testbed.KeeperPolicy+`
path "sys/capabilities-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
`))
	r.must(r.Vault.WriteRole(r.t.Context(), r.keepers(), "keeper", testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{policy}, Audience: "vault", TTL: ttl, MaxTTL: ttl,
		More: map[string]any{"token_no_default_policy": true}, // it allows every token to renew
	}))
}

func (r *rig) revokeKeepers() {
	r.t.Helper()
	logins := "auth/" + r.keepers() + "/login"
	r.must(r.Vault.Write(r.t.Context(), "sys/leases/revoke-prefix/"+logins, map[string]any{"sync": true}))
}

// keeperLogins counts the keeper's logins, including those that failed.
func (r *rig) keeperLogins() int {
	r.t.Helper()
	return r.requests(0, "^update auth/"+r.keepers()+"/login$")
}

func TestKeeperLogsInAgainAfterLosingItsToken(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, c := range []struct {
		name string
		ttl  time.Duration
		// lose the token. If a login is not enough to recover, fix does the rest.
		lose, fix func(*rig)
	}{
		{name: "revoked", ttl: long, lose: (*rig).revokeKeepers},
		{name: "at its max TTL", ttl: 2 * time.Second, lose: func(r *rig) {
			// No token lives long enough for two checks of the provider.
			before := r.keeperLogins()
			r.eventually("two more logins", func() bool { return r.keeperLogins() >= before+2 })
		}},
		{name: "another policy", ttl: long, lose: func(r *rig) {
			r.keeperRole(r.name+"-other", long)
			r.must(r.Vault.Root.Sys().DeletePolicyWithContext(r.t.Context(), r.name+"-keeper"))
		}},
		{name: "role deleted", ttl: long, lose: func(r *rig) {
			_, err := r.Vault.Root.Logical().DeleteWithContext(r.t.Context(), "auth/"+r.keepers()+"/role/keeper")
			r.must(err)
			r.revokeKeepers()
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonLoginFailed)
		}, fix: func(r *rig) { r.keeperRole(r.name+"-keeper", long) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, withKeepers())
			r.must(r.Vault.EnableKubernetesAuth(t.Context(), r.keepers(), r.Plane))
			r.keeperRole(r.name+"-keeper", c.ttl)
			const objects = 5
			for i := range objects {
				r.apply(fmt.Sprintf("orders-%d", i))
			}
			r.untilAll(objects, "at rest", atRest)
			before, logins := r.snapshot(), r.keeperLogins()
			c.lose(r)
			if c.fix == nil {
				r.renewAll("now")
			} else {
				r.annotateAll(v1alpha1.RenewRequestedAtAnnotation, "now")
				r.untilReason("orders-0", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
				c.fix(r)
				r.untilAll(objects, "renewed", func(d *v1alpha1.DynamicSecret) bool {
					return d.Status.LastHandledRenewAt == "now"
				})
			}
			r.unchanged(before)
			for name, d := range r.all() {
				if record(d).Renewals == record(before.objects[name]).Renewals {
					t.Errorf("%s was not renewed", name)
				}
			}
			if r.keeperLogins() == logins {
				t.Error("the keeper did not log in again")
			}
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
			for name := range before.objects {
				r.remove(name)
			}
			r.untilAlive(0)
		})
	}
}

func TestProviderDetectsFixedKeeperRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withOwnKeeper())
	role := func(policy string) {
		r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name+"-keeper", testbed.KubernetesRole{
			ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
			Policies: []string{policy}, Audience: "vault", TTL: time.Hour,
		}))
	}
	role("mistyped")
	r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonPolicyIncomplete)
	role("keeper") // no live token has this policy yet
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.ready("orders")
}
