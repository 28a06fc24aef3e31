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

// replacedAfter calls what for a lease long before its renewal, and waits until the lease is replaced.
func (r *rig) replacedAfter(what func(d *v1alpha1.DynamicSecret)) {
	r.t.Helper()
	before := r.ready("orders")
	old := r.target("orders")
	what(before)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(before, d) && atRest(d)
	})
	r.must(r.login(r.target("orders")))
	if err := r.login(old); err == nil {
		r.t.Error("the old credential is still valid")
	}
	if n := r.countEvents(v1alpha1.ReasonLeaseLost); n != 1 {
		r.t.Errorf("%d events report that the lease was lost, want 1", n)
	}
}

func TestRevokedLeaseIsReplacedBeforeItsRenewal(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": leaseID(d), "sync": true}))
	})
}

func TestRevokedPrefixIsDetected(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.replacedAfter(func(*v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke-prefix/"+r.name, map[string]any{"sync": true}))
	})
}

func TestRevokedTokenIsDetected(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "auth/token/revoke-accessor", map[string]any{"accessor": accessor(d)}))
	})
}

func TestKeeperWithoutListLooksLeasesUp(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{})
	r := newRig(t, b)
	r.must(b.Vault.WritePolicy(t.Context(), "keeper", testbed.KeeperPolicyWithoutList))
	r.ready("another")
	line := "sys/leases/lookup/" + r.name + "/creds/orders: list, sudo"
	r.eventually("the provider to name the line", func() bool {
		ready := meta.FindStatusCondition(r.provider().Status.Conditions, v1alpha1.ReadyCondition)
		reported := strings.Contains(ready.Message, line) && ready.Status == metav1.ConditionTrue
		return reported && slices.Equal(r.provider().Status.AdvisedCapabilities, []string{line})
	})
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": leaseID(d), "sync": true}))
	})
}

func TestFailedListsLookLeasesUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("another")
	r.untilProvider(v1alpha1.VerifyingCondition, v1alpha1.ReasonLeasesListed)
	r.must(r.proxy.Break(testbed.Fault{
		Path: "/sys/leases/lookup/", Method: "GET", Action: testbed.Answer,
		Status: 500, ContentType: "application/json",
		Body: `{"errors":["1 error occurred:\n\t* context deadline exceeded\n\n"]}`,
	}))
	message := r.untilProvider(v1alpha1.VerifyingCondition, v1alpha1.ReasonListFailed)
	if !strings.Contains(message, r.name+"/creds/orders") || !strings.Contains(message, "one by one") {
		t.Errorf("the message is %q", message)
	}
	r.replacedAfter(func(d *v1alpha1.DynamicSecret) {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": leaseID(d), "sync": true}))
	})
	r.proxy.Clear()
	r.untilProvider(v1alpha1.VerifyingCondition, v1alpha1.ReasonLeasesListed)
}

func TestIncompleteListReplacesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	before := r.ready("orders")
	r.must(r.proxy.Break(testbed.Fault{
		Path: "/sys/leases/lookup/", Method: "GET", Action: testbed.Answer, Status: 404, Body: `{"errors":[]}`,
		ContentType: "application/json",
	}))
	lookups := func() int {
		found, err := r.proxy.Requests(`PUT /v1/sys/leases/lookup$`)
		r.must(err)
		return len(found)
	}
	r.eventually("the lease to be looked up three times", func() bool { return lookups() >= 3 })
	if d := r.get("orders"); leaseID(d) != leaseID(before) {
		t.Error("the lease was replaced because it is missing from a list")
	}
}
