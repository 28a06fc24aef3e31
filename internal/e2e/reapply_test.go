//go:build integration

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// manifestWithRollout is what a user would write. %[1]s is the rig's name. It is suspended, so that the manager writes
// nothing once it has said so.
const manifestWithRollout = `
apiVersion: leasekeeper.io/v1alpha1
kind: DynamicSecret
metadata:
  name: orders
  namespace: %[1]s
spec:
  providerRef:
    kind: ClusterSecretProvider
    name: %[1]s
  sources:
  - name: db
    vault: {path: %[1]s/creds/orders}
  - name: settings
    vault: {path: %[1]s-kv/data/orders, parameters: {version: "1"}}
    fields: {prefix: SETTINGS_}
  rotation:
    windows: [{schedule: "0 2 * * *", duration: 1h}]
  rollout:
    targets: [{name: web}]
  suspend: true
`

func TestApplyingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"client side": nil, "server side": {"--server-side"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			path := filepath.Join(t.TempDir(), "orders.yaml")
			r.must(os.WriteFile(path, fmt.Appendf(nil, manifestWithRollout, r.name), 0o600))
			apply := func() string {
				out, err := r.Plane.Kubectl(t.Context(), append([]string{"apply", "-f", path}, flags...)...)
				r.must(err)
				return strings.TrimSpace(out)
			}
			apply()
			r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonSuspended)
			before := r.get("orders")
			out := apply()
			after := r.get("orders")
			if after.ResourceVersion != before.ResourceVersion || after.Generation != before.Generation {
				t.Errorf("kubectl said %q, generation %d became %d", out, before.Generation, after.Generation)
			}
			if len(flags) == 0 && !strings.HasSuffix(out, " unchanged") {
				t.Errorf("kubectl said %q, want that it is unchanged", out)
			}
		})
	}
}

func TestGoClientMayOmitDurations(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: r.named("orders"),
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: r.name},
			Vault:       &v1alpha1.VaultRequest{Path: r.name + "/creds/orders"},
		},
	}
	r.create(d)
	stored := r.untilReady("orders")
	for name, of := range map[string]struct {
		got  *metav1.Duration
		want time.Duration
	}{
		"refreshInterval":          {stored.Spec.RefreshInterval, time.Hour},
		"lease.revocationDeadline": {stored.Spec.Lease.RevocationDeadline, time.Hour},
		"rotation.overlap":         {stored.Spec.Rotation.Overlap, 2 * time.Minute},
	} {
		if of.got == nil || of.got.Duration != of.want {
			t.Errorf("%s is %v, want %s", name, of.got, of.want)
		}
	}
	if stored.Spec.Lease.Increment != nil || stored.Spec.Rotation.MaxAge != nil {
		t.Errorf("increment is %v, maxAge is %v, want neither",
			stored.Spec.Lease.Increment, stored.Spec.Rotation.MaxAge)
	}
	again := stored.DeepCopy()
	r.must(r.Kube.Update(t.Context(), again))
	// The text of a duration may change: Go writes 1h as 1h0m0s.
	if !equality.Semantic.DeepEqual(again.Spec, stored.Spec) {
		t.Errorf("an update with the stored spec %+v changed it to %+v", stored.Spec, again.Spec)
	}
	after := r.untilReady("orders")
	if leaseID := after.Status.Leases[0].ID; leaseID != stored.Status.Leases[0].ID {
		t.Error("an update with the stored spec replaced the credential")
	}
	r.remove("orders")
	r.untilAlive(0)
}
