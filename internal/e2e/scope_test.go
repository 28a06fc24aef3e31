//go:build integration

package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// scopedBed is a bed with the rights and flags of the chart, whose manager serves namespace inside only.
func scopedBed(t *testing.T, values ...string) *bed {
	t.Helper()
	awaitSlot(t)
	install := func(ctx context.Context, plane *testbed.ControlPlane) ([]string, error) {
		manifests, err := testbed.RenderChart(ctx, "../..", append(values, "scope.namespaces={inside}")...)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(t.TempDir(), "chart.yaml")
		if err := os.WriteFile(path, []byte(manifests), 0o600); err != nil {
			return nil, err
		}
		for _, namespace := range []string{testbed.ManagerNamespace, "inside", "outside"} {
			if _, err := plane.Kubectl(ctx, "create", "namespace", namespace); err != nil {
				return nil, err
			}
		}
		_, err = plane.Kubectl(ctx, "apply", "--server-side", "-f", path)
		return regexp.MustCompile(`--(?:namespaces|cluster-kinds)=\S+`).FindAllString(manifests, -1), err
	}
	return newBed(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Install: install,
	})
}

// nothingWasForbidden fails if the manager requested something without the right to.
func (r *rig) nothingWasForbidden() {
	r.t.Helper()
	found, err := r.Plane.Requests(0, func(a testbed.APIRequest) bool {
		return a.User == managerUser && a.Code == http.StatusForbidden
	})
	if r.must(err); len(found) > 0 {
		r.t.Errorf("%d requests of the manager were forbidden, such as %+v", len(found), found[0])
	}
}

// ignores fails if the manager works on an object outside its scope.
func (r *rig) ignores(name string) {
	r.t.Helper()
	if d := r.get(name); len(d.Finalizers) > 0 || len(d.Status.Conditions) > 0 {
		r.t.Errorf("an object in namespace %s has finalizers %v and conditions %v",
			r.name, d.Finalizers, d.Status.Conditions)
	}
}

// The rights are exactly those of the chart.
func TestManagerServesSelectedNamespaces(t *testing.T) {
	t.Parallel()
	b := scopedBed(t)
	outside := newRig(t, b, withName("outside"))
	r := newRig(t, b, withName("inside"), withTTL(20*time.Second, time.Hour))
	outside.apply("orders")
	before := r.ready("orders")
	r.must(r.login(r.target("orders")))
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return record(d).Renewals > 0 })
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool { return atRest(d) && hasNewLease(before, d) })
	r.must(r.Vault.WritePolicy(t.Context(), "keeper", r.revokerPolicy()))
	r.untilFinished(r.revoke(), 1, 1)
	outside.ignores("orders")
	r.remove("orders")
	r.untilAlive(0)
	p := r.provider()
	r.must(r.Kube.Delete(t.Context(), p))
	r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
	r.nothingWasForbidden()
}

func TestManagerServesNamespacesWithoutClusterKinds(t *testing.T) {
	t.Parallel()
	b := scopedBed(t, "scope.clusterKinds=false")
	r := newRig(t, b, withName("inside"))
	r.allowKeeping()
	p := r.namespacedProvider()
	r.create(p)
	untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonUnattended)
	r.ready("orders", byNamespaced)
	r.must(r.login(r.target("orders")))
	r.apply("other") // from the rig's ClusterSecretProvider
	message := r.untilReason("other", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotFound)
	if !strings.Contains(message, "without cluster kinds") {
		t.Errorf("the message is %q", message)
	}
	r.remove("other")
	r.remove("orders")
	r.eventually("the lease to be revoked", func() bool { return len(r.leases()) == 0 })
	r.must(r.Kube.Delete(t.Context(), p))
	r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
	r.nothingWasForbidden()
}
