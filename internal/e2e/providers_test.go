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

func TestUnreachableProvidersDelayNoOther(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{}, "--backend-timeout=10s") // as by default
	for _, path := range []string{"", "/login$"} {
		hanging := newRig(t, b, withProxy())
		hanging.must(hanging.proxy.Break(testbed.Fault{Path: path, Action: testbed.Hang}))
		for i := range 100 {
			p := hanging.newProvider(hanging.proxy.Address)
			p.Name = fmt.Sprint(p.Name, "-", i)
			hanging.create(p)
		}
		hanging.eventually("a provider to be not Ready", func() bool {
			return meta.IsStatusConditionFalse(hanging.provider().Status.Conditions, v1alpha1.ReadyCondition)
		})
	}
	r := newRig(t, b)
	r.apply("orders")
	r.eventuallyWithin(20*time.Second, "orders to be Ready next to 202 providers that hang", func() bool {
		return meta.IsStatusConditionTrue(r.get("orders").Status.Conditions, v1alpha1.ReadyCondition)
	})
	r.remove("orders")
}
