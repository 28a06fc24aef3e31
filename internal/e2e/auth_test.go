//go:build integration

package e2e

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// withUserPass lets all objects of the rig log in as one user, whose mount has the rig's name.
func withUserPass() option {
	return withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.Auth = v1alpha1.VaultAuth{UserPass: &v1alpha1.VaultUserPassAuth{
			Mount: v1alpha1.VaultMount(p.Name), Username: "orders",
			SecretRef: v1alpha1.SecretKeyReference{
				SecretReference: v1alpha1.SecretReference{Namespace: p.Name, Name: "login"},
			},
		}}
	})
}

// The manager has the rights of config/rbac. Vault records nothing that tells the tokens of two objects apart, so the
// seals of the records prove whose they are: for the extension of a token, a rotation and a deletion.
func TestLeasesOfASharedUser(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withUserPass())
	r.must(r.Vault.Root.Sys().EnableAuthWithOptionsWithContext(t.Context(), r.name,
		&api.EnableAuthOptions{Type: "userpass"}))
	r.must(r.Vault.Write(t.Context(), "auth/"+r.name+"/users/orders", map[string]any{
		"password": "first", "token_policies": r.name, "token_ttl": shortToken.String(), "token_max_ttl": "24h",
	}))
	// The rig counts tokens of its own role only.
	alive := func(n int) {
		t.Helper()
		r.eventually(fmt.Sprintf("%d leases and users to be alive", n), func() bool {
			return len(r.leases()) == n && len(r.users()) == n
		})
	}
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonInvalidSpec) // there is no Secret yet
	r.create(&corev1.Secret{ObjectMeta: r.named("login"), StringData: map[string]string{"password": "first\n"}})
	first := r.untilReady("orders")
	r.ready("invoices")
	r.until("orders", "extended", func(d *v1alpha1.DynamicSecret) bool {
		return session(d).ExpiresAt.After(session(first).ExpiresAt.Time)
	})
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(first, d) && len(d.Status.Retiring) == 0
	})
	alive(2)
	r.remove("orders")
	alive(1)
	r.remove("invoices")
	alive(0)
	if n := r.countEvents(v1alpha1.ReasonAbandoned); n != 0 {
		t.Errorf("%d leases were abandoned", n)
	}
}
