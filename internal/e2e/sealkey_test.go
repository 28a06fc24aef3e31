//go:build integration

package e2e

import (
	"context"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// The API server refuses the Secret with the seal key. The manager starts all the same, reports it and issues. Once the
// Secret is permitted, a restart creates it.
func TestManagerStartsWithoutItsSealKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}))
	sealed := func() float64 {
		n, err := r.Manager.Metric("leasekeeper_ledger_sealed")
		r.must(err)
		return n
	}
	if sealed() != 1 {
		t.Error("the manager has no seal key")
	}
	here := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: testbed.ManagerNamespace, Name: name}
	}
	none := corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: here("none"), Spec: corev1.ResourceQuotaSpec{Hard: none}}
	for _, c := range []struct {
		name   string
		refuse func() client.Object
	}{
		{"policy", func() client.Object {
			return r.denyPolicyIn(testbed.ManagerNamespace, "false", "no Secrets here", admissionv1.Create)
		}},
		{"quota", func() client.Object {
			r.create(quota)
			return quota
		}},
	} {
		r.must(r.Manager.Stop())
		r.must(r.Kube.Delete(t.Context(), &corev1.Secret{ObjectMeta: here("leasekeeper-ledger-seal")}))
		refusal := c.refuse()
		t.Cleanup(func() { _ = r.Kube.Delete(context.Background(), refusal) })
		probe := func() error {
			return r.Kube.Create(t.Context(), &corev1.Secret{ObjectMeta: here("probe")}, client.DryRunAll)
		}
		r.eventually("the "+c.name+" to refuse Secrets", func() bool { return probe() != nil })
		r.must(r.Manager.Run(t.Context()))
		if sealed() != 0 {
			t.Errorf("%s: the metric says that records are sealed", c.name)
		}
		r.ready(c.name)
		r.must(r.login(r.target(c.name)))
		r.must(r.Kube.Delete(t.Context(), refusal))
		r.eventually("the "+c.name+" to end", func() bool { return probe() == nil })
		r.must(r.Manager.Stop())
		r.must(r.Manager.Run(t.Context()))
		if sealed() != 1 {
			t.Errorf("%s: the manager has no seal key although it is permitted", c.name)
		}
	}
}
