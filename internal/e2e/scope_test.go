//go:build integration

package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// scopedValues are the chart's values of the scoped bed. Namespace outside exists, but is not in the scope.
var scopedValues = []string{
	"scope.namespaces={inside,second}", "rollout.enabled=true", "rollout.window=1s", "fullnameOverride=shop",
	"admissionPolicies.audiences={vault,sts.example.com}",
}

// installScoped installs the rights of the chart, and returns the flags of the chart that depend on the scope.
func installScoped(ctx context.Context, plane *testbed.ControlPlane, values ...string) ([]string, error) {
	manifests, err := testbed.RenderChart(ctx, "../..", append(values, scopedValues...)...)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "chart-*.yaml")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteString(manifests); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	_, err = plane.Kubectl(ctx, "apply", "--server-side", "-f", file.Name())
	return regexp.MustCompile(`--(?:namespaces=|cluster-kinds=|rollout)\S*`).FindAllString(manifests, -1), err
}

// scopedBed is a bed with the rights and flags of the chart, without the kinds of the cluster.
func scopedBed(t *testing.T) *bed {
	t.Helper()
	awaitSlot(t)
	return newBed(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Install: func(ctx context.Context, plane *testbed.ControlPlane) ([]string, error) {
			for _, namespace := range []string{testbed.ManagerNamespace, "inside", "second", "outside"} {
				if _, err := plane.Kubectl(ctx, "create", "namespace", namespace); err != nil {
					return nil, err
				}
			}
			return installScoped(ctx, plane, "scope.clusterKinds=false")
		},
	})
}

// serveClusterKinds upgrades the chart. The rights that it adds are those of the kinds of the cluster.
func (b *bed) serveClusterKinds(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := errors.Join(b.Manager.Stop(), b.Manager.Close())
	if err == nil {
		_, err = installScoped(ctx, b.Plane)
	}
	if err == nil {
		b.Manager, err = b.NewManager(ctx, "--cluster-kinds") // the bed has the flags of the first installation
	}
	if err == nil {
		err = b.Manager.Run(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
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

// ignores fails if the manager has worked on an object outside its scope.
func (r *rig) ignores(name string) {
	r.t.Helper()
	if d := r.get(name); len(d.Finalizers) > 0 || len(d.Status.Conditions) > 0 {
		r.t.Errorf("an object in namespace %s has finalizers %v and conditions %v",
			r.name, d.Finalizers, d.Status.Conditions)
	}
	if leases := r.leases(); r.target(name) != nil || len(leases) > 0 {
		r.t.Errorf("an object in namespace %s has a Secret or the leases %v", r.name, leases)
	}
}

// The rights are exactly those of the chart: first without the kinds of the cluster, then with them.
func TestManagerServesSelectedNamespaces(t *testing.T) {
	t.Parallel()
	b := scopedBed(t)
	outside := newRig(t, b, withName("outside"))
	inside := newRig(t, b, withName("inside"), withTTL(20*time.Second, time.Hour))
	second := newRig(t, b, withName("second"))
	outside.apply("orders")
	byOutside := outside.namespacedProvider()
	outside.create(byOutside)
	outside.apply("namespaced", byNamespaced)
	inside.limitsAudiences()
	for _, r := range []*rig{inside, second} {
		r.servesSecretProviders()
	}
	b.serveClusterKinds(t)
	second.rollsOutInScope()
	inside.servesClusterKinds()
	outside.ignores("orders")
	outside.ignores("namespaced")
	if outside.must(outside.Kube.Get(t.Context(), client.ObjectKeyFromObject(byOutside), byOutside)); len(
		byOutside.Finalizers) > 0 || len(byOutside.Status.Conditions) > 0 {
		t.Errorf("a SecretProvider outside the scope has finalizers %v and conditions %v",
			byOutside.Finalizers, byOutside.Status.Conditions)
	}
	for _, r := range []*rig{inside, second} {
		r.remove("orders")
		r.untilAlive(0)
		p := r.provider()
		r.must(r.Kube.Delete(t.Context(), p))
		r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
	}
	inside.nothingWasForbidden()
}

// servesSecretProviders leases with a SecretProvider from a manager without the kinds of the cluster.
func (r *rig) servesSecretProviders() {
	r.t.Helper()
	r.allowKeeping()
	p := r.namespacedProvider()
	r.create(p)
	untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonUnattended)
	r.ready("orders", byNamespaced)
	r.must(r.login(r.target("orders")))
	r.apply("other") // from the rig's ClusterSecretProvider
	message := r.untilReason("other", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotFound)
	if !strings.Contains(message, "without cluster kinds") {
		r.t.Errorf("the message is %q", message)
	}
	_, old := r.rotate("orders")
	r.handoverCompletes("orders", old)
	r.remove("other")
	r.remove("orders")
	r.eventually("the lease to be revoked", func() bool { return len(r.leases()) == 0 })
	r.must(r.Kube.Delete(r.t.Context(), p))
	r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
}

// rollsOutInScope rolls out a Deployment. It has no replicas, because the bed has no nodes.
func (r *rig) rollsOutInScope() {
	r.t.Helper()
	r.create(r.workload("app", "orders", 0))
	r.ready("orders", rollsOut("app"))
	_, old := r.rotate("orders")
	r.handoverCompletes("orders", old)
	if r.stampOf("app", "orders") == "" {
		r.t.Error("the Deployment has no stamp")
	}
}

// servesClusterKinds issues, renews, replaces and revokes a lease of a ClusterSecretProvider.
func (r *rig) servesClusterKinds() {
	r.t.Helper()
	before := r.ready("orders")
	r.must(r.login(r.target("orders")))
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return record(d).Renewals > 0 })
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool { return atRest(d) && hasNewLease(before, d) })
	r.must(r.Vault.WritePolicy(r.t.Context(), "keeper", r.revokerPolicy()))
	r.untilFinished(r.revoke(), 1, 1)
	r.until("orders", "issued again", isReady)
}

// limitsAudiences requests tokens as the manager. The admission policy of the chart permits the two audiences of
// scopedValues, and nothing else.
func (r *rig) limitsAudiences() {
	r.t.Helper()
	config, err := r.Plane.ConfigForServiceAccount(r.t.Context(), testbed.ManagerNamespace, testbed.ManagerAccount)
	r.must(err)
	manager := r.clientOf(config)
	request := func(audiences ...string) error {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		return manager.SubResource("token").Create(r.t.Context(), r.account("orders"), request)
	}
	// The API server loads policies in the background.
	r.eventually("the policy to be active", func() bool { return request("https://kubernetes.default.svc") != nil })
	const refusal = "for these audiences only: ['vault', 'sts.example.com']"
	r.refuses(request(), refusal)
	r.refuses(request("https://kubernetes.default.svc"), refusal)
	r.refuses(request("sts.example.com", "https://kubernetes.default.svc"), refusal)
	r.must(request("vault"))
	r.must(request("sts.example.com"))
	r.must(request("vault", "sts.example.com"))
}
