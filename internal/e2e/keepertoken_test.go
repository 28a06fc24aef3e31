//go:build integration

package e2e

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// keeperGets sets the kind of token that the rig's own keeper gets.
func (r *rig) keeperGets(more map[string]any) {
	r.t.Helper()
	r.must(r.Vault.WriteRole(r.t.Context(), "kubernetes", r.name+"-keeper", testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{"keeper"}, Audience: "vault", More: more,
	}))
}

func TestUnsuitableKeeperTokensAreReported(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role  map[string]any
		ready bool
		fix   string
	}{
		"batch tokens": {map[string]any{"token_type": "batch"}, true, "token_type=service"},
		"limited uses": {map[string]any{"token_num_uses": 50}, false, "token_num_uses=0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, withProvider(func(p *v1alpha1.ClusterSecretProvider) {
				p.Spec.Vault.KeeperAuth.Kubernetes.Role = p.Name + "-keeper"
			}))
			r.keeperGets(c.role)
			want := "set " + c.fix + " on auth/kubernetes/role/" + r.name + "-keeper"
			r.eventually("the provider to say "+want, func() bool {
				ready := meta.FindStatusCondition(r.provider().Status.Conditions, v1alpha1.ReadyCondition)
				return ready != nil && strings.Contains(ready.Message, want) && (ready.Status == "True") == c.ready
			})
		})
	}
}
