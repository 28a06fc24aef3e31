//go:build integration

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// quotaFull makes the proxy refuse issuances and logins as Vault Enterprise does when a lease count quota is full.
func (r *rig) quotaFull() {
	r.t.Helper()
	for _, path := range []string{"/creds/", "/login$"} {
		r.must(r.proxy.Break(testbed.Fault{
			Path: path, Action: testbed.Answer, Status: http.StatusTooManyRequests, ContentType: "application/json",
			Body: `{"errors":["1 error occurred:\n\t* lease count quota exceeded\n\n"]}`,
		}))
	}
}

func TestLeaseCountQuotaStopsNoRenewal(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	before := r.ready("orders")
	r.quotaFull()
	r.apply("more")
	message := r.untilReason("more", v1alpha1.ReadyCondition, v1alpha1.ReasonQuotaExceeded)
	if !strings.Contains(message, "lease count quota exceeded") || !strings.Contains(message, "raise the quota") {
		t.Errorf("the message is %q", message)
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.until("orders", "waiting for the quota", func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReconcilingCondition)
		return c != nil && strings.Contains(c.Message, "lease count quota exceeded")
	})
	for i := range 3 {
		request := fmt.Sprint("renewal ", i)
		r.annotate(v1alpha1.RenewRequestedAtAnnotation, request)
		r.untilRenewedFor(request)
	}
	if d := r.get("orders"); leaseID(d) != leaseID(before) ||
		!meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
		t.Errorf("the lease changed, or the object is not Ready: %+v", d.Status)
	}
	if !meta.IsStatusConditionTrue(r.provider().Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the provider is not Ready")
	}
	r.proxy.Clear()
	r.untilReady("more")
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool { return hasNewLease(before, d) && atRest(d) })
	r.untilAlive(2)
}

func TestRateLimitOfOnePathStopsNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.must(r.Vault.WriteDatabaseRole(t.Context(), r.name, "limited", testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
	}))
	r.must(r.Vault.Write(t.Context(), "sys/quotas/rate-limit/"+r.name, map[string]any{
		"path": r.name + "/creds/limited", "rate": 1, "interval": "60s", "block_interval": "60s",
	}))
	t.Cleanup(func() { _, _ = r.Vault.Root.Logical().Delete("sys/quotas/rate-limit/" + r.name) })
	limited := func(d *v1alpha1.DynamicSecret) { asking("%s/creds/limited")(r, d) }
	for i := range 4 {
		r.apply(fmt.Sprint("limited-", i), limited)
	}
	refused := func() (n int) {
		for i := range 4 {
			c := meta.FindStatusCondition(r.get(fmt.Sprint("limited-", i)).Status.Conditions, v1alpha1.ReadyCondition)
			if c != nil && strings.Contains(c.Message, "rate limit quota exceeded") {
				n++
			}
		}
		return n
	}
	r.eventually("three of the four to be refused", func() bool { return refused() == 3 })
	before := r.ready("orders")
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	if after := r.untilRenewedFor("now"); leaseID(after) != leaseID(before) {
		t.Error("the lease was replaced")
	}
	if refused() != 3 || !meta.IsStatusConditionTrue(r.provider().Status.Conditions, v1alpha1.ReadyCondition) {
		t.Errorf("%d objects are refused, and the provider is %+v", refused(), r.provider().Status)
	}
	_, err := r.Vault.Root.Logical().Delete("sys/quotas/rate-limit/" + r.name)
	r.must(err)
	for i := range 4 {
		r.untilReady(fmt.Sprint("limited-", i))
	}
	r.untilAlive(5)
}
