package auth

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestIdentityInMessages(t *testing.T) {
	account := &v1alpha1.ServiceAccountReference{Name: "leasekeeper", Namespace: "system"}
	for _, c := range []struct {
		of     string
		method Method
		want   string
	}{
		{"a kubernetes issuer", issuer(t, kubernetesAuth(nil)), `role "app"`},
		{"a kubernetes keeper", keeper(t, kubernetesAuth(account), ""), `role "app"`},
		{"a token issuer", issuer(t, tokenAuth("system", "root", "")), "the token in the Secret"},
		{"a token keeper", keeper(t, tokenAuth("system", "root", ""), ""), "the keeper's token"},
	} {
		if got := c.method.String(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.of, got, c.want)
		}
	}
}

func TestKeeperAuthIsPreferredToAuth(t *testing.T) {
	account := &v1alpha1.ServiceAccountReference{Name: "orders"}
	ofKeeper := tokenAuth("", "root", "")
	for _, c := range []struct {
		it, because string
		keeperAuth  *v1alpha1.VaultAuth
		want        string
	}{
		{"keeperAuth", "it is the keeper's", &ofKeeper, "the keeper's token"},
		{"auth without keeperAuth", "a SecretProvider may omit it", nil, `role "app"`},
	} {
		m, err := Keeper(&v1alpha1.VaultProvider{Auth: kubernetesAuth(account), KeeperAuth: c.keeperAuth}, "shop")
		if err != nil || m.String() != c.want {
			t.Errorf("%s, because %s: got %v, %v, want %s", c.it, c.because, m, err, c.want)
		}
	}
}

func TestUnusableAuthIsRejected(t *testing.T) {
	none, unnamed := v1alpha1.VaultAuth{}, kubernetesAuth(nil)
	for _, c := range []struct {
		it        string
		construct func() (Method, error)
		message   string
	}{
		{"auth without a method",
			func() (Method, error) { return Issuer(&v1alpha1.VaultProvider{Auth: none}, "shop") },
			"auth names no method: set one, such as auth.kubernetes"},
		{"keeperAuth without a method",
			func() (Method, error) { return Keeper(&v1alpha1.VaultProvider{KeeperAuth: &none}, "shop") },
			"keeperAuth names no method: set one, such as keeperAuth.kubernetes"},
		{"a ClusterSecretProvider without keeperAuth",
			func() (Method, error) { return Keeper(&v1alpha1.VaultProvider{Auth: unnamed}, "") },
			"a ClusterSecretProvider needs keeperAuth: set it"},
		{"keeperAuth without a ServiceAccount",
			func() (Method, error) { return Keeper(&v1alpha1.VaultProvider{KeeperAuth: &unnamed}, "shop") },
			"set keeperAuth.kubernetes.serviceAccountRef.name: leasekeeper logs in with it to renew and revoke leases"},
		{"auth without a ServiceAccount for a keeper",
			func() (Method, error) { return Keeper(&v1alpha1.VaultProvider{Auth: unnamed}, "shop") },
			"set auth.kubernetes.serviceAccountRef.name: leasekeeper logs in with it to renew and revoke leases"},
	} {
		t.Run(c.it, func(t *testing.T) {
			m, err := c.construct()
			wantError(t, err, backend.Misconfigured, c.message)
			if m != nil {
				t.Errorf("there is a method: %s", m)
			}
		})
	}
}
