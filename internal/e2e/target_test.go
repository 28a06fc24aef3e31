//go:build integration

package e2e

import (
	"context"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestFirstOfTwoObjectsOwnsTheTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("orders")
	version, mark := r.target("orders").ResourceVersion, r.vaultMark()
	r.apply("second", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "orders" })
	message := r.untilReason("second", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	want := "DynamicSecret orders has the same target, Secret orders, and was first: set another spec.target.name."
	if message != want {
		t.Errorf("the message is %q, want %q", message, want)
	}
	if r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Error("the second object has minted, or written the Secret")
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now") // not blocked by the second object
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRotateAt == "now" && len(d.Status.Retiring) == 0
	})
	r.remove("orders")
	r.untilReady("second")
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}

func TestForeignSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	foreign := &corev1.Secret{ObjectMeta: r.named("orders"), Data: map[string][]byte{"mine": []byte("mine")}}
	r.create(foreign)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	logins := r.loginRequests()
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonTargetConflict)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	r.ready("other") // handled after the first object
	if n := len(r.requestTimes(r.issuing())); n != 1 || r.loginRequests() != logins+1 {
		t.Errorf("%d logins and %d issuances, want only those of the other object", r.loginRequests()-logins, n)
	}
	if s := r.target("orders"); s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written")
	}
	r.must(r.Kube.Delete(t.Context(), foreign))
	r.untilReady("orders")
	r.untilAlive(2)
}

func TestForeignSecretOutlivesTheObject(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	foreign := &corev1.Secret{ObjectMeta: r.named("orders"), Data: map[string][]byte{"mine": []byte("mine")}}
	r.create(foreign)
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonTargetConflict)
	r.remove("orders")
	if s := r.target("orders"); s == nil || s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written or deleted")
	}
}

func TestOlderObjectDoesNotTakeOverATarget(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("older")
	r.ready("younger")
	version, mark := r.target("younger").ResourceVersion, r.vaultMark()
	r.edit("older", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "younger" })
	r.untilReason("older", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	if r.target("older") == nil || r.target("younger").ResourceVersion != version || r.minted(mark) != 0 {
		t.Error("a Secret was deleted or written, or a credential was requested")
	}
	r.edit("older", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "" })
	r.until("older", "no longer stalled", func(d *v1alpha1.DynamicSecret) bool {
		return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.StalledCondition) == nil
	})
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were requested", n)
	}
}

// denySecrets makes the API server reject the rig's Secrets for which the CEL expression is false, and waits until it
// does.
func (r *rig) denySecrets(
	expression, message string, probe func(client.Object) error,
) *admissionv1.ValidatingAdmissionPolicy {
	r.t.Helper()
	policy := r.denyPolicy(expression, message, admissionv1.Create, admissionv1.Update)
	r.eventually("the API server to reject Secrets", func() bool {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: r.name, GenerateName: "probe-", Labels: map[string]string{v1alpha1.OwnerLabel: "probe"},
		}}
		err := probe(s)
		if err == nil {
			_ = r.Kube.Delete(r.t.Context(), s)
		}
		return apierrors.IsInvalid(err)
	})
	return policy
}

// protectSecrets makes the API server reject deletions of the rig's Secrets, and waits until it does.
func (r *rig) protectSecrets() *admissionv1.ValidatingAdmissionPolicy {
	r.t.Helper()
	probe := &corev1.Secret{ObjectMeta: r.named("probe")}
	policy := r.denyPolicy("false", "Secrets are protected", admissionv1.Delete)
	r.eventually("the API server to reject deletions", func() bool {
		err := r.Kube.Create(r.t.Context(), probe.DeepCopy())
		r.must(client.IgnoreAlreadyExists(err))
		return apierrors.IsInvalid(r.Kube.Delete(r.t.Context(), probe.DeepCopy()))
	})
	return policy
}

// denyPolicy makes the API server reject the operations on the rig's Secrets for which the CEL expression is false.
func (r *rig) denyPolicy(
	expression, message string, operations ...admissionv1.OperationType,
) *admissionv1.ValidatingAdmissionPolicy {
	r.t.Helper()
	return r.denyPolicyIn(r.name, expression, message, operations...)
}

func (r *rig) denyPolicyIn(
	namespace, expression, message string, operations ...admissionv1.OperationType,
) *admissionv1.ValidatingAdmissionPolicy {
	r.t.Helper()
	fail, equivalent := admissionv1.Fail, admissionv1.Equivalent
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}}
	writes := admissionv1.RuleWithOperations{
		Operations: operations,
		Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"},
		},
	}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{
				MatchPolicy: &equivalent, NamespaceSelector: here, ObjectSelector: &metav1.LabelSelector{},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: writes}},
			},
			Validations: []admissionv1.Validation{{Expression: expression, Message: message}},
		},
	}
	r.create(policy)
	r.create(&admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: r.name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	})
	r.t.Cleanup(func() { _ = r.Kube.Delete(context.Background(), policy) })
	return policy
}

func TestRejectedSecretMintsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	policy := r.denySecrets("false", "no Secrets on Sundays", func(o client.Object) error {
		return r.Kube.Create(t.Context(), o, client.DryRunAll)
	})
	logins := r.loginRequests()
	r.apply("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	if !strings.Contains(message, "no Secrets on Sundays") {
		t.Errorf("the message is %q, want the policy's message in it", message)
	}
	if r.loginRequests() != logins || len(r.leases()) != 0 {
		t.Error("leasekeeper has logged in, or has a lease")
	}
	r.must(r.Kube.Delete(t.Context(), policy))
	r.untilReady("orders")
	r.untilAlive(1)
	if n := len(r.requestTimes(r.issuing())); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
}

func TestSecretRejectedAfterIssuanceIsWrittenLater(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	create := func(o client.Object) error { return r.Kube.Create(t.Context(), o) }
	policy := r.denySecrets("has(request.dryRun) && request.dryRun", "no Secrets on Sundays", create)
	r.apply("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	// A policy's message may quote the Secret, so it is shown only for the dry run, which contains no credential.
	if !strings.Contains(message, "rejects Secret orders: ") || strings.Contains(message, "Sundays") {
		t.Errorf("the message is %q", message)
	}
	id := leaseID(r.get("orders"))
	r.must(r.Kube.Delete(t.Context(), policy))
	after := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if n := len(r.requestTimes(r.issuing())); n != 1 || leaseID(after) != id {
		t.Errorf("%d credentials were requested, want 1; lease %s became %s", n, id, leaseID(after))
	}
	r.untilAlive(1)
}
