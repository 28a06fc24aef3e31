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

// Twenty objects of a database that does not respond, and twenty of another with leases of 30 s, share eight workers.
// The first ten issuances of the hanging database were answered, so its renewals hang as well.
func TestHangingDatabaseDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--leader-elect=false", "--concurrency=8")
	brief := testbed.DatabaseRole{DefaultTTL: 30 * time.Second, MaxTTL: time.Hour}
	healthy, hanging := newRig(t, b, withRole(brief)), newRig(t, b, withRole(brief))
	proxy, err := testbed.StartTCPProxy(b.Postgres.Address)
	healthy.must(err)
	t.Cleanup(func() { _ = proxy.Close() })
	hanging.databaseAt(proxy.Address)
	for i := range 20 {
		healthy.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range 10 {
		hanging.apply(fmt.Sprintf("orders-%d", i))
	}
	hanging.untilAll(10, "Ready", isReady)
	healthy.untilAll(20, "Ready", isReady)
	before := healthy.snapshot()
	proxy.Swallow()
	began := time.Now()
	for i := 10; i < 20; i++ {
		hanging.apply(fmt.Sprintf("orders-%d", i))
	}
	hanging.untilReason("orders-15", v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendUnavailable)
	for _, since := range []time.Duration{20 * time.Second, 45 * time.Second, 70 * time.Second} {
		time.Sleep(time.Until(began.Add(since)))
		healthy.untilAll(20, "renewed in time", renewedSince(began.Add(since-20*time.Second)))
	}
	healthy.unchanged(before)
	healthy.ready("late")
	proxy.Forward()
	hanging.untilAll(20, "Ready again", isReady)
	healthy.remove("late")
	healthy.unchanged(snapshot{objects: before.objects, secrets: before.secrets, mark: healthy.vaultMark()})
}

func isReady(d *v1alpha1.DynamicSecret) bool {
	return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
}

// databaseAt makes Vault reach the rig's database at another address.
func (r *rig) databaseAt(address string) {
	r.t.Helper()
	there := *r.Postgres
	there.Address = address
	r.must(r.Vault.ConnectDatabase(r.t.Context(), r.name, "postgres", &there, nil))
}
