//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// TestNoCredentialIsExposed searches everything that leasekeeper prints or writes during issuances, renewals, failures
// and a deletion.
func TestNoCredentialIsExposed(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy(), kvPolicy)
	kv(1, "orders", map[string]any{"password": "kv-5tr1ctly-c0nf1dent1al"})(r)
	var secrets []string
	collect := func() {
		for _, name := range []string{"orders", "kv", "chosen"} {
			if s := r.target(name); s != nil {
				secrets = append(secrets, string(s.Data["password"]))
			}
		}
	}
	r.ready("orders")
	r.ready("kv", func(d *v1alpha1.DynamicSecret) { asking("%s-kv/orders")(r, d) })
	collect()
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "now" && len(d.Status.Retiring) == 0
	})
	collect()
	create := func(o client.Object) error { return r.Kube.Create(t.Context(), o) }
	policy := r.denySecrets("has(request.dryRun) && request.dryRun", "no Secrets on Sundays", create)
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "refused")
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	r.must(r.Kube.Delete(t.Context(), policy))
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "refused" && len(d.Status.Retiring) == 0
	})
	collect()
	databaseRole("orders", testbed.DatabaseRole{
		CreationStatements: []string{`CREATE NONSENSE "{{name}}" PASSWORD '{{password}}'`},
	})(r)
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "wrong")
	r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonReplacing)
	warned := r.allOutput()
	r.remove("orders")
	warned += r.allOutput()
	if len(secrets) < 5 {
		t.Fatalf("%d credentials were seen, want 5", len(secrets))
	}
	for _, secret := range secrets {
		if secret == "" || strings.Contains(warned, secret) {
			t.Error("a credential is exposed")
		}
	}
	for what, pattern := range map[string]string{
		"a Vault token": `\bhvs\.[A-Za-z0-9_-]{20,}`, "a batch token": `\bhvb\.[A-Za-z0-9_-]{20,}`,
		"a JWT": `\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.`,
	} {
		if regexp.MustCompile(pattern).MatchString(warned) {
			t.Errorf("%s is exposed", what)
		}
	}
}

// allOutput is the manager's log, its metrics, and the rig's events, objects and metadata of Secrets.
func (r *rig) allOutput() string {
	r.t.Helper()
	log, err := r.Manager.Log()
	r.must(err)
	response, err := http.Get(r.Manager.Metrics)
	r.must(err)
	defer func() { _ = response.Body.Close() }()
	metrics, err := io.ReadAll(response.Body)
	r.must(err)
	objects, err := r.Plane.Kubectl(r.t.Context(), "get", "events,dynamicsecrets,clustersecretproviders",
		"-n", r.name, "-o", "yaml", "--show-managed-fields")
	r.must(err)
	var list corev1.SecretList
	r.must(r.Kube.List(r.t.Context(), &list, client.InNamespace(r.name)))
	metadata := ""
	for i := range list.Items {
		metadata += fmt.Sprintf("%+v\n", list.Items[i].ObjectMeta)
	}
	return log + string(metrics) + objects + metadata
}
