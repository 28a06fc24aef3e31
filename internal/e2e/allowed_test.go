//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// The lease would be renewed for an hour.
func TestExcludedNamespaceKeepsLeasesUntilTheyExpire(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(20*time.Second, time.Hour), withProxy())
	before := r.ready("orders")
	content := r.target("orders")
	mark := r.vaultMark()
	allow := func(names ...string) {
		change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
			p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Names: names}
		})
	}
	allow("elsewhere")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonNamespaceNotAllowed)
	for _, want := range []string{"does not allow namespace " + r.name, "kept until they expire", "nor replaced"} {
		if !strings.Contains(message, want) {
			t.Errorf("the message is %q, want %q in it", message, want)
		}
	}
	if d := r.untilReady("orders"); leaseID(d) != leaseID(before) {
		t.Error("the lease was replaced")
	}
	r.must(r.login(content))
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonNamespaceNotAllowed)
	r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
	r.untilAlive(0)
	if minted, renewed := r.minted(mark), len(r.requestTimes("/v1/sys/leases/renew$")); minted+renewed > 0 {
		t.Errorf("%d credentials were requested, and the lease was renewed %d times", minted, renewed)
	}
	allow(r.name)
	r.untilReady("orders")
	r.untilAlive(1)
}
