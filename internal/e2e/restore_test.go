//go:build integration

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// onlyLease expects that only the object's lease is alive, and that the Secret contains its credential.
func (r *rig) onlyLease(d *v1alpha1.DynamicSecret) {
	r.t.Helper()
	r.untilAlive(1)
	s := r.target(d.TargetName())
	if ids := r.leases(); ids[0] != leaseID(d) || string(s.Data["username"]) != r.users()[0] {
		r.t.Errorf("Vault has %v, the status %s; PostgreSQL has %v, the Secret %s",
			ids, leaseID(d), r.users(), s.Data["username"])
	}
	r.must(r.login(s))
}

// After a cluster is restored, the object has no status, and the Secret has leasekeeper's label but no owner.
func TestRestoredObjectAdoptsItsSecret(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--leader-elect=false")
	r := newRig(t, b, withTTL(30*time.Second, time.Hour))
	old := record(r.ready("orders"))
	s, terms, mark := r.target("orders"), r.termsInVault(old), r.vaultMark()
	r.must(b.Manager.Stop())
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Finalizers = nil })
	r.must(r.Kube.Delete(t.Context(), r.secret("orders"), client.PropagationPolicy(metav1.DeletePropagationOrphan)))
	r.eventually("the object to be gone", func() bool { return r.get("orders") == nil })
	if kept := r.target("orders"); kept == nil || kept.UID != s.UID || len(kept.OwnerReferences) != 0 {
		t.Fatal("the Secret is gone or still has an owner")
	}
	r.apply("orders")
	r.must(b.Manager.Run(t.Context()))
	d := r.untilReady("orders")
	if now := r.target("orders"); now.UID != s.UID || !metav1.IsControlledBy(now, d) || leaseID(d) == old.ID {
		t.Errorf("Secret %s became %s, lease %s became %s", s.UID, now.UID, old.ID, leaseID(d))
	}
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	if now := r.termsInVault(old); now != terms {
		t.Errorf("the terms of the old lease and its token were %s, now they are %s", terms, now)
	}
	r.eventually("the old lease to expire", func() bool { return len(r.leases()) == 1 })
	if end := old.ExpiresAt; time.Now().Before(end.Time) {
		t.Errorf("it ended before its expiry at %s", end)
	}
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return record(d).Renewals > 0 })
	if ids := r.leases(); len(ids) != 1 || ids[0] != leaseID(d) {
		t.Errorf("Vault has %v, the status %s", ids, leaseID(d))
	}
	r.must(r.login(r.target("orders")))
}

func TestForceReplacedObjectHasOneLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before, mark := r.ready("orders"), r.vaultMark()
	manifest := r.secret("orders")
	manifest.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: dynamic}
	text, err := yaml.Marshal(manifest)
	r.must(err)
	path := filepath.Join(t.TempDir(), "orders.yaml")
	r.must(os.WriteFile(path, text, 0o600))
	out, err := r.Plane.Kubectl(t.Context(), "replace", "--force", "-f", path)
	t.Log(out)
	r.must(err)
	after := r.untilReady("orders")
	if after.UID == before.UID || !hasNewLease(before, after) || r.minted(mark) != 1 {
		t.Errorf("lease %s became %s, %d credentials were requested", leaseID(before), leaseID(after), r.minted(mark))
	}
	r.onlyLease(after)
}
