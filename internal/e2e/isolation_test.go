//go:build integration

package e2e

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Twenty objects of a database that does not respond, twenty whose Secrets an admission webhook never admits, twenty
// whose namespace gets no ServiceAccount tokens because of another webhook, and twenty others with leases of 30 s share
// eight workers. Those of the database and those without tokens share the provider of the last. The first ten issuances
// of the hanging database were answered, so its renewals hang as well.
func TestHangingDatabaseAndWebhookDelayNobodyElse(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--leader-elect=false", "--concurrency=8")
	halfAMinute := withTTL(30*time.Second, time.Hour)
	healthy, hanging, unadmitted := newRig(t, b, halfAMinute), newRig(t, b, halfAMinute), newRig(t, b)
	tokenless := newRig(t, b)
	proxy, err := testbed.StartTCPProxy(b.Postgres.Address)
	healthy.must(err)
	t.Cleanup(func() { _ = proxy.Close() })
	hanging.databaseAt(proxy.Address)
	healthy.admitTenants(hanging, tokenless)
	there := func(d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Name = healthy.name }
	for i := range 20 {
		healthy.apply(fmt.Sprintf("orders-%d", i))
		unadmitted.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range 10 {
		hanging.apply(fmt.Sprintf("orders-%d", i), there)
	}
	hanging.untilAll(10, "Ready", isReady)
	unadmitted.untilAll(20, "Ready", isReady)
	healthy.untilAll(20, "Ready", isReady)
	before := healthy.snapshot()
	proxy.Swallow()
	admit, issueTokens := unadmitted.hangingWebhook("secrets"), tokenless.hangingWebhook("serviceaccounts/token")
	unadmitted.labelSecrets("team", "blue")
	began := time.Now()
	for i := 10; i < 20; i++ {
		hanging.apply(fmt.Sprintf("orders-%d", i), there)
	}
	for i := range 20 {
		tokenless.apply(fmt.Sprintf("orders-%d", i), there)
	}
	hanging.untilReason("orders-15", v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendUnavailable)
	for _, since := range []time.Duration{20 * time.Second, 45 * time.Second, 70 * time.Second} {
		time.Sleep(time.Until(began.Add(since)))
		healthy.untilAll(20, "renewed in time", renewedSince(began.Add(since-20*time.Second)))
	}
	healthy.unchanged(before)
	unadmitted.untilOneReports(v1alpha1.ReasonPublishFailed, "admission webhook")
	tokenless.untilOneReports(v1alpha1.ReasonBackendUnavailable, "admission webhook for serviceaccounts/token")
	if leases := tokenless.leases(); len(leases) > 0 {
		t.Errorf("there are the leases %v, so the webhook did not hang", leases)
	}
	healthy.ready("late")
	admit()
	issueTokens()
	proxy.Forward()
	hanging.untilAll(20, "Ready again", isReady)
	tokenless.untilAll(20, "Ready", isReady)
	unadmitted.eventually("every Secret to have the label", func() bool {
		var list corev1.SecretList
		unadmitted.must(b.Kube.List(t.Context(), &list, client.InNamespace(unadmitted.name),
			client.MatchingLabels{"team": "blue"}))
		return len(list.Items) == 20
	})
	healthy.remove("late")
	healthy.unchanged(snapshot{objects: before.objects, secrets: before.secrets, mark: healthy.vaultMark()})
}

// untilOneReports waits until an object of the rig has the reason and a message with the text.
func (r *rig) untilOneReports(reason, text string) {
	r.t.Helper()
	r.eventually("an object to report "+reason+", "+text, func() bool {
		for _, d := range r.all() {
			c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReconcilingCondition)
			if c != nil && c.Reason == reason && strings.Contains(c.Message, text) {
				return true
			}
		}
		return false
	})
}

// admitTenants lets the objects of other rigs use the provider of this one, for their own database mounts.
func (r *rig) admitTenants(others ...*rig) {
	r.t.Helper()
	names := []string{r.name}
	for _, other := range others {
		names = append(names, other.name)
	}
	r.must(r.Vault.WriteRole(r.t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: names, Policies: names, Audience: "vault",
		TTL: time.Hour, MaxTTL: 24 * time.Hour,
	}))
}

// hangingWebhook makes every write of a resource in the rig's namespace, secrets or serviceaccounts/token, wait for a
// webhook that never responds, until it is removed.
func (r *rig) hangingWebhook(resource string) (remove func()) {
	r.t.Helper()
	ended := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-request.Context().Done():
		case <-ended:
		}
	}))
	r.t.Cleanup(server.Close)
	r.t.Cleanup(func() { close(ended) })
	w := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	w.Webhooks = []admissionv1.ValidatingWebhook{{
		Name: "hangs.example.com", TimeoutSeconds: ptr.To[int32](30), AdmissionReviewVersions: []string{"v1"},
		SideEffects: ptr.To(admissionv1.SideEffectClassNone),
		ClientConfig: admissionv1.WebhookClientConfig{
			URL:      &server.URL,
			CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: r.name}},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
			Rule: admissionv1.Rule{
				APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource},
			},
		}},
	}}
	r.create(w)
	remove = sync.OnceFunc(func() { r.must(client.IgnoreNotFound(r.Kube.Delete(context.Background(), w))) })
	r.t.Cleanup(remove)
	r.eventually("the webhook to be called", func() bool {
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		if resource == "secrets" {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, GenerateName: "any-"}}
			return r.Kube.Create(ctx, s, client.DryRunAll) != nil
		}
		return r.Kube.SubResource("token").Create(ctx, r.account("orders"), &authenticationv1.TokenRequest{}) != nil
	})
	return remove
}

// labelSecrets sets a label in the target of every object of the rig.
func (r *rig) labelSecrets(key, value string) {
	r.t.Helper()
	patch := fmt.Sprintf(`{"spec":{"target":{"labels":{%q:%q}}}}`, key, value)
	for name := range r.all() {
		d := &v1alpha1.DynamicSecret{ObjectMeta: r.named(name)}
		r.must(r.Kube.Patch(r.t.Context(), d, client.RawPatch(types.MergePatchType, []byte(patch))))
	}
}

func isReady(d *v1alpha1.DynamicSecret) bool {
	return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
}

// databaseAt makes Vault reach the rig's database at another address.
func (r *rig) databaseAt(address string) {
	r.t.Helper()
	there := *r.Postgres
	there.Address = address
	r.must(r.Vault.ConnectDatabase(r.t.Context(), r.name, "postgres", &there, nil))
}
