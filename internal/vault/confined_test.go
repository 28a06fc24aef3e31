package vault

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// The CRD rejects these providers. Here nothing does.
func TestASecretProviderReachesItsOwnNamespaceOnly(t *testing.T) {
	foreign := v1alpha1.SecretReference{Name: "root", Namespace: "system"}
	foreignKey := v1alpha1.SecretKeyReference{SecretReference: foreign}
	token := &v1alpha1.VaultTokenAuth{SecretRef: foreignKey}
	for _, c := range []struct {
		it     string
		change func(*v1alpha1.VaultProvider)
		use    func(*testing.T, *Backend) error
	}{
		{"issues with a token of another namespace", func(p *v1alpha1.VaultProvider) {
			p.Auth = v1alpha1.VaultAuth{Token: token}
		}, login},
		{"keeps with a token of another namespace", func(p *v1alpha1.VaultProvider) {
			p.KeeperAuth = &v1alpha1.VaultAuth{Token: token}
		}, keep},
		{"keeps as a ServiceAccount of another namespace", func(p *v1alpha1.VaultProvider) {
			p.KeeperAuth = &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
				Role: "keeper", ServiceAccountRef: serviceAccount("leasekeeper", "system"),
			}}
		}, keep},
		{"keeps as such a ServiceAccount with jwt", func(p *v1alpha1.VaultProvider) {
			p.KeeperAuth = &v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{
				Role: "keeper", ServiceAccountRef: serviceAccount("leasekeeper", "system"),
			}}
		}, keep},
		{"issues with a password of another namespace", func(p *v1alpha1.VaultProvider) {
			p.Auth = v1alpha1.VaultAuth{UserPass: &v1alpha1.VaultUserPassAuth{Username: "a", SecretRef: foreignKey}}
		}, login},
		{"keeps with a certificate of another namespace", func(p *v1alpha1.VaultProvider) {
			p.KeeperAuth = &v1alpha1.VaultAuth{Cert: &v1alpha1.VaultCertAuth{SecretRef: foreign}}
		}, keep},
		{"sends a header of another namespace", func(p *v1alpha1.VaultProvider) {
			p.Headers = []v1alpha1.HTTPHeader{{Name: "X-Key", SecretRef: &foreignKey}}
		}, nil},
		{"issues as a ServiceAccount of another namespace", func(*v1alpha1.VaultProvider) {}, func(
			t *testing.T, b *Backend,
		) error {
			_, err := b.Login(t.Context(), backend.Identity{Namespace: "system", ServiceAccount: "leasekeeper"})
			return err
		}},
		{"trusts a Secret of another namespace", func(p *v1alpha1.VaultProvider) {
			p.TLS = &v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Name: "root", Namespace: "system"}}
		}, nil},
		{"trusts a ConfigMap of another namespace", func(p *v1alpha1.VaultProvider) {
			ca := &v1alpha1.CAReference{Kind: "ConfigMap", Name: "ca", Namespace: "system"}
			p.TLS = &v1alpha1.TLSConfig{CARef: ca}
		}, nil},
		{"presents a certificate of another namespace", func(p *v1alpha1.VaultProvider) {
			p.TLS = &v1alpha1.TLSConfig{ClientCertRef: &foreign}
		}, nil},
	} {
		t.Run(c.it, func(t *testing.T) {
			f := newFixture(t)
			f.kube.configMaps = map[string]*corev1.ConfigMap{"system/ca": {Data: map[string]string{"ca.crt": "x"}}}
			p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own", Generation: 1}}
			p.Spec.Vault = f.provider.Spec.Vault.DeepCopy()
			p.Spec.Vault.KeeperAuth = nil
			c.change(p.Spec.Vault)
			b, err := f.driver.backendFor(t.Context(), p)
			if c.use != nil && err == nil {
				err = c.use(t, b)
			}
			wantKind(t, err, backend.Misconfigured)
			wantText(t, err, `namespace "system"`, `its own namespace "shop" only`)
			if f.kube.reads+f.kube.requests != 0 || f.server.paths() != "" {
				t.Errorf("%d objects were read, %d tokens requested, and the server received %q",
					f.kube.reads, f.kube.requests, f.server.paths())
			}
		})
	}
}

func login(t *testing.T, b *Backend) error {
	_, err := b.Login(t.Context(), who)
	return err
}

func keep(t *testing.T, b *Backend) error { return b.Lookup(t.Context(), record()) }
