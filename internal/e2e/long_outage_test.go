//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Vault is killed until every lease has expired, and started again. Nothing else intervenes.
func recoveryFromLongOutage(t *testing.T) {
	r := newRig(t, withVault(t, testbed.VaultOptions{Durable: true}), withTTL(25*time.Second, time.Hour))
	const deleted, retained = 8, 4
	for i := range deleted + retained {
		r.apply(fmt.Sprintf("orders-%d", i), func(d *v1alpha1.DynamicSecret) {
			if i >= deleted {
				d.Spec.Lease.OnExpiry = v1alpha1.OnExpiryRetain
			}
		})
	}
	r.apply("grant", grant)
	r.untilAll(deleted+retained+1, "at rest", atRest)
	before := r.snapshot()
	r.must(r.Vault.Kill())

	r.untilAll(deleted+retained+1, "without a lease, and to report it", func(d *v1alpha1.DynamicSecret) bool {
		leased := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.LeasedCondition)
		return !hasLease(d) && leased != nil && leased.Reason == v1alpha1.ReasonExpired &&
			meta.IsStatusConditionFalse(d.Status.Conditions, v1alpha1.ReadyCondition)
	})
	r.eventually("the Secrets to be deleted, except the retained ones", func() bool {
		return len(r.versions()) == retained
	})
	for name, version := range r.versions() {
		if before.objects[name].Spec.Lease.OnExpiry != v1alpha1.OnExpiryRetain || before.secrets[name] != version {
			t.Errorf("Secret %s exists or was written", name)
		}
	}
	r.eventually("the events", func() bool {
		return r.countEvents(v1alpha1.ReasonExpired) == deleted+retained+1 &&
			r.countEvents(v1alpha1.ReasonSecretDeleted) >= deleted
	})
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonBackendUnavailable)

	r.must(r.Vault.Start(t.Context()))
	back := time.Now()
	r.untilReason("grant", v1alpha1.ReadyCondition, v1alpha1.ReasonGrantEnded)
	r.untilAll(deleted+retained+1, "at rest with a new lease, or ended", func(d *v1alpha1.DynamicSecret) bool {
		if d.Name == "grant" {
			return !hasLease(d) && len(d.Status.Retiring) == 0
		}
		return atRest(d) && hasNewLease(before.objects[d.Name], d)
	})
	t.Logf("all objects have new credentials %s after Vault was back", time.Since(back).Round(time.Second))
	for name := range r.versions() {
		r.must(r.login(r.target(name)))
	}
	if n := r.minted(before.mark); n != deleted+retained {
		t.Errorf("%d credentials were requested, want %d", n, deleted+retained)
	}
	r.eventually("only the new leases and users to be alive", func() bool {
		return len(r.leases()) == deleted+retained && len(r.users()) == deleted+retained
	})
}
