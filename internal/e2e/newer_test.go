//go:build integration

package e2e

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// The manager was rolled back to a version that does not know the format of the ledger.
func TestNewerLedgerIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before, mark := r.ready("orders"), r.vaultMark()
	version := func(n int32, request string) {
		t.Helper()
		r.forgeStatus("orders", func(st *v1alpha1.DynamicSecretStatus) { st.LedgerVersion = n })
		r.annotate(v1alpha1.RotateRequestedAtAnnotation, request)
	}
	version(lease.Version+1, "now")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonNewerLedger)
	if !strings.Contains(message, "upgrade leasekeeper") {
		t.Errorf("the message is %q", message)
	}
	r.eventually("an event about it", func() bool { return r.countEvents(v1alpha1.ReasonNewerLedger) == 1 })
	r.must(r.Kube.Delete(t.Context(), &v1alpha1.DynamicSecret{ObjectMeta: r.named("orders")}))
	after := r.until("orders", "waiting for the newer version", func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c.Reason == v1alpha1.ReasonNewerLedger
	})
	is, was := after.Status.Leases, before.Status.Leases
	if n := r.minted(mark); n != 0 || !equality.Semantic.DeepEqual(is, was) {
		t.Errorf("%d credentials were issued; the leases are %+v, were %+v", n, is, was)
	}
	r.must(r.login(r.target("orders")))
	version(lease.Version, "again")
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
}
