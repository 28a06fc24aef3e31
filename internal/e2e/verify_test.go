//go:build integration

package e2e

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// replacedAfter does something to a lease that is nowhere near its renewal, and waits until it is replaced.
func (r *room) replacedAfter(what func(d *v1alpha1.DynamicSecret)) {
	r.t.Helper()
	before := r.ready("orders")
	old := r.target("orders")
	what(before)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease != nil && d.Status.Lease.ID != before.Status.Lease.ID && atRest(d)
	})
	r.must(r.login(r.target("orders")))
	if err := r.login(old); err == nil {
		r.t.Error("the old credential still logs in")
	}
	if n := r.countEvents(v1alpha1.ReasonLeaseLost); n != 1 {
		r.t.Errorf("%d events say that the lease was lost", n)
	}
}

func TestALeaseRevokedBehindOurBackIsReplacedLongBeforeItsRenewal(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": d.Status.Lease.ID, "sync": true}))
	})
}

func TestAPrefixRevokedBehindOurBackIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.replacedAfter(func(*v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke-prefix/"+r.name, map[string]any{"sync": true}))
	})
}

func TestAnIssuingTokenRevokedBehindOurBackIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "auth/token/revoke-accessor", map[string]any{"accessor": d.Status.Lease.TokenAccessor}))
	})
}

func TestAKeeperThatMayNotListNoticesByLookingUpLeasesOneByOneAndSaysWhatWouldBeFaster(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{})
	r := newRoom(t, b)
	r.must(b.Vault.WritePolicy(t.Context(), "keeper", testbed.KeeperPolicyWithoutList))
	r.ready("another")
	line := "sys/leases/lookup/" + r.name + "/creds/orders: list, sudo"
	r.eventually("the provider to name the line", func() bool {
		ready := meta.FindStatusCondition(r.provider().Status.Conditions, v1alpha1.ReadyCondition)
		return slices.Equal(r.provider().Status.AdvisedCapabilities, []string{line}) && ready.Status == metav1.ConditionTrue && strings.Contains(ready.Message, line)
	})
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": d.Status.Lease.ID, "sync": true}))
	})
}

func TestAListThatLacksALiveLeaseReplacesNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	before := r.ready("orders")
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.Answer, Path: "/sys/leases/lookup/", Method: "GET", Status: 404, Body: `{"errors":[]}`, ContentType: "application/json"}))
	lookups := func() int {
		found, err := r.proxy.Requests(`PUT /v1/sys/leases/lookup$`)
		r.must(err)
		return len(found)
	}
	r.eventually("the lease to be asked about three times", func() bool { return lookups() >= 3 })
	if d := r.get("orders"); d.Status.Lease.ID != before.Status.Lease.ID {
		t.Error("the lease was replaced because of a list that lacks it")
	}
}
