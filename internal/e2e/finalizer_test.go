//go:build integration

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// replace does what Argo CD does with Replace=true: it writes the manifest, which has no finalizer.
func (r *rig) replace(name string) {
	r.t.Helper()
	manifest := r.secret(name)
	manifest.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: dynamic}
	text, err := yaml.Marshal(manifest)
	r.must(err)
	path := filepath.Join(r.t.TempDir(), name+".yaml")
	r.must(os.WriteFile(path, text, 0o600))
	out, err := r.Plane.Kubectl(r.t.Context(), "replace", "-f", path)
	r.t.Log(out)
	r.must(err)
}

func TestReplaceKeepsTheFinalizerAndTheLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared) // the next renewal is after 40 minutes
	before, mark := r.ready("orders"), r.vaultMark()
	r.replace("orders")
	r.eventuallyWithin(20*time.Second, "the finalizer to be restored", func() bool {
		return slices.Contains(r.get("orders").Finalizers, v1alpha1.Finalizer)
	})
	if after := r.untilReady("orders"); leaseID(after) != leaseID(before) || r.minted(mark) != 0 {
		t.Errorf("lease %s became %s, %d credentials were requested", leaseID(before), leaseID(after), r.minted(mark))
	}
	r.remove("orders")
	r.untilAlive(0)
}

// The finalizer is removed while Vault is down, so nothing restores it, and the object disappears with a live lease.
func TestRemovedObjectIsRevokedWithoutItsFinalizer(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.untilRevocationFails("orders", "connection refused")
	release := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	r.must(client.IgnoreNotFound(r.Kube.Patch(t.Context(), r.get("orders"), release)))
	r.eventually("the object to be gone", func() bool { return r.get("orders") == nil })
	if n := len(r.leases()); n != 1 {
		t.Fatalf("%d leases are alive, want 1", n)
	}
	r.must(r.proxy.Accept())
	r.untilAlive(0)
	r.eventually("the Secret to be gone", func() bool { return r.target("orders") == nil })
}

func TestReplaceAndDeleteAtOnceLeaveNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	for range 5 {
		r.ready("orders")
		r.must(deleteAtOnce(t.Context(), r.Kube, r.get("orders")))
		r.eventually("the object to be gone", func() bool { return r.get("orders") == nil })
		r.eventually("the Secret to be gone", func() bool { return r.target("orders") == nil })
	}
	r.untilAlive(0)
}
