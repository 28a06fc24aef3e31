//go:build integration

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// hostile lets another controller write the Secret until the test ends or stop is called. patch returns the patch for
// the Secret as it is; empty: none.
func (r *rig) hostile(patch func(*corev1.Secret) string) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			s := &corev1.Secret{}
			if r.Kube.Get(ctx, types.NamespacedName{Namespace: r.name, Name: "orders"}, s) != nil {
				continue
			}
			if body := patch(s); body != "" {
				change := client.RawPatch(types.MergePatchType, []byte(body))
				_ = r.Kube.Patch(ctx, s, change, client.FieldOwner("rival"))
			}
		}
	}()
	stop = func() { cancel(); <-done }
	r.t.Cleanup(stop)
	return stop
}

// ours sets a label of the Secret.
func ours(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"team": "ours"} }

func TestAddedKeysReplaceNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before, mark := r.ready("orders"), r.vaultMark()
	n := 0
	stop := r.hostile(func(*corev1.Secret) string {
		n++
		return fmt.Sprintf(`{"data":{"added-%d":"eA=="}}`, n)
	})
	time.Sleep(10 * time.Second)
	if d := r.untilReady("orders"); leaseID(d) != leaseID(before) || r.minted(mark) != 0 {
		t.Errorf("lease %s became %s, %d credentials were requested", leaseID(before), leaseID(d), r.minted(mark))
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(before)
	stop()
	r.untilReady("orders")
	r.untilAlive(1)
	if r.minted(mark) != 1 || r.target("orders").Data["added-1"] == nil {
		t.Errorf("%d credentials were requested, want 1; or the keys of others are gone", r.minted(mark))
	}
}

func TestContestedSecretMintsFewCredentials(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(r *rig) func(*corev1.Secret) string
		want []string
	}{
		"a key is changed": {
			do: func(*rig) func(*corev1.Secret) string {
				return func(s *corev1.Secret) string {
					if string(s.Data["password"]) == "theirs" {
						return ""
					}
					return `{"data":{"password":"dGhlaXJz"}}`
				}
			},
			want: []string{`"rival"`, "password"},
		},
		"it is deleted": {
			do: func(r *rig) func(*corev1.Secret) string {
				return func(s *corev1.Secret) string {
					_ = r.Kube.Delete(context.Background(), s)
					return ""
				}
			},
			want: []string{"orders"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			r.ready("orders")
			mark, began := r.vaultMark(), time.Now()
			stop := r.hostile(c.do(r))
			r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetContested)
			time.Sleep(time.Until(began.Add(40 * time.Second)))
			// At 0, 2, 6, 14 and 30 s.
			if n := r.minted(mark); n < 2 || n > 6 {
				t.Errorf("%d credentials were requested in %s", n, time.Since(began))
			}
			message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetContested)
			for _, part := range c.want {
				if !strings.Contains(message, part) {
					t.Errorf("the message is %q, want %q in it", message, part)
				}
			}
			stop()
			r.edit("orders", ours)
			r.eventuallyWithin(20*time.Second, "the repair after a change of the spec", func() bool {
				s := r.target("orders")
				return s != nil && s.Labels["team"] == "ours" && r.login(s) == nil
			})
			r.untilReady("orders")
			r.untilAlive(1)
		})
	}
}

// mutateSecrets makes the API server merge an object into the rig's Secrets, and waits until it does.
func (r *rig) mutateSecrets(expression string, mutated func(*corev1.Secret) bool) {
	r.t.Helper()
	r.mutate(admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
		admissionv1.Mutation{
			PatchType:          admissionv1.PatchTypeApplyConfiguration,
			ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: expression},
		})
	r.eventually("the API server to change Secrets", func() bool {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, GenerateName: "probe-"}}
		r.must(r.Kube.Create(r.t.Context(), s, client.DryRunAll))
		return mutated(s)
	})
}

// mutate makes the API server change the rig's objects of a kind until the policy is deleted.
func (r *rig) mutate(kind admissionv1.Rule, mutation admissionv1.Mutation) *admissionv1.MutatingAdmissionPolicy {
	r.t.Helper()
	fail, equivalent := admissionv1.Fail, admissionv1.Equivalent
	writes := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}, Rule: kind,
	}
	policy := &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy: &fail, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			MatchConstraints: &admissionv1.MatchResources{
				MatchPolicy: &equivalent, ObjectSelector: &metav1.LabelSelector{},
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{
					"kubernetes.io/metadata.name": r.name}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: writes}},
			},
			Mutations: []admissionv1.Mutation{mutation},
		},
	}
	r.create(policy)
	r.create(&admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: r.name},
	})
	r.t.Cleanup(func() { _ = r.Kube.Delete(context.Background(), policy) })
	return policy
}

func TestLabelOfAnAdmissionPolicyCausesNoLoop(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.mutateSecrets(`Object{metadata: Object.metadata{labels: {"team": "theirs"}}}`, func(s *corev1.Secret) bool {
		return s.Labels["team"] == "theirs"
	})
	before := r.ready("orders", ours)
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetContested)
	if !strings.Contains(message, "label team") || !strings.Contains(message, "admission policy") {
		t.Errorf("the message is %q", message)
	}
	mark := r.apiMark()
	time.Sleep(20 * time.Second)
	writes := r.managerCalls(mark, func(a testbed.APIRequest) bool { return a.Verb != "get" && a.Verb != "watch" })
	if len(writes) > 12 {
		t.Errorf("%d writes in 20 s", len(writes))
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = nil })
	r.until("orders", "at rest", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && len(d.Status.Conditions) == 2
	})
	if d := r.get("orders"); leaseID(d) != leaseID(before) {
		t.Errorf("lease %s became %s", leaseID(before), leaseID(d))
	}
	r.must(r.login(r.target("orders")))
}

func TestDataOfAnAdmissionPolicyMintsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	mark := r.vaultMark()
	r.mutateSecrets(`Object{stringData: {"password": "theirs"}}`, func(s *corev1.Secret) bool {
		return string(s.Data["password"]) == "theirs" || s.StringData["password"] == "theirs"
	})
	r.apply("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetContested)
	t.Log(message)
	time.Sleep(15 * time.Second)
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
}

func TestImmutableSecretIsReplacedInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(20*time.Second, 30*time.Second))
	before := r.ready("orders")
	r.patchSecret("orders", `{"immutable":true}`)
	after := r.untilReplaced(before) // by the maximum TTL
	s := r.target("orders")
	if s == nil || s.UID == before.Status.Secret.UID || s.Immutable != nil && *s.Immutable {
		t.Fatal("the Secret was not created again")
	}
	r.must(r.login(s))
	if end := record(before).IssuedAt.Add(30 * time.Second); time.Now().After(end) {
		t.Errorf("lease %s replaced %s only after %s", leaseID(after), leaseID(before), end)
	}
}

func TestPolicyThatRequiresKeysAcceptsTheCredential(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	mark := r.vaultMark()
	r.denySecrets("has(object.data) && 'username' in object.data && 'password' in object.data",
		"missing username, password",
		func(o client.Object) error { return r.Kube.Create(t.Context(), o, client.DryRunAll) })
	r.ready("orders")
	r.must(r.login(r.target("orders")))
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
}

func TestPolicyThatRejectsTheCredentialCostsOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	mark := r.vaultMark()
	r.denySecrets("has(object.data) && 'DATABASE_URL' in object.data", "this Secret is not complete",
		func(o client.Object) error { return r.Kube.Create(t.Context(), o, client.DryRunAll) })
	r.apply("orders")
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	r.eventually("a credential to be tried", func() bool { return r.minted(mark) == 1 })
	r.eventually("it to be revoked", func() bool { return len(r.leases()) == 0 })
	time.Sleep(20 * time.Second)
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Fields = nil; d.Spec.Suspend = true })
}

// A type that does not fit is reported without an issuance, and the Secret is left alone.
func TestTypeThatDoesNotFitKeepsTheSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	s, mark := r.target("orders"), r.vaultMark()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(corev1.SecretTypeTLS) })
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonInvalidResponse)
	if !strings.Contains(message, "tls.crt") {
		t.Errorf("the message is %q", message)
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	time.Sleep(10 * time.Second)
	now := r.target("orders")
	same := now != nil && now.UID == s.UID && maps.EqualFunc(now.Data, s.Data, func(a, b []byte) bool {
		return string(a) == string(b)
	})
	if d := r.get("orders"); !same || leaseID(d) != leaseID(before) || r.minted(mark) != 0 {
		t.Errorf("the Secret has changed, or %d credentials were requested", r.minted(mark))
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(corev1.SecretTypeBasicAuth) })
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool { return hasNewLease(before, d) && atRest(d) })
	r.must(r.login(r.target("orders")))
}

// withSettings makes an object request a database credential, and then a KV secret.
func (r *rig) withSettings(data map[string]any) func(*v1alpha1.DynamicSecret) {
	r.t.Helper()
	stored := r.storeKV(1, "orders", data)
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault = nil
		d.Spec.Sources = []v1alpha1.SecretSource{
			{Name: "db", Vault: &v1alpha1.VaultRequest{Path: r.name + "/creds/orders"}},
			{Name: "settings", Vault: stored},
		}
	}
}

// A new object whose credential is of no use costs few credentials, and the condition says what to change.
func TestIssuancesWithoutUseMintFewCredentials(t *testing.T) {
	t.Parallel()
	firstSource := func(d *v1alpha1.DynamicSecret) { d.Spec.Sources = d.Spec.Sources[:1] }
	for name, c := range map[string]struct {
		options     []option
		spec        func(*rig) func(*v1alpha1.DynamicSecret)
		reason      string
		message     []string
		least, most int
		fix         func(*v1alpha1.DynamicSecret)
	}{
		"the type requires other keys": {
			spec: func(*rig) func(*v1alpha1.DynamicSecret) {
				return func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(corev1.SecretTypeTLS) }
			},
			reason: v1alpha1.ReasonInvalidResponse, message: []string{"/creds/orders", `"tls.crt"`},
			least: 4, most: 6, // at 0, 2, 6, 14, 30 and 62 s, less a jitter
			fix: func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = "" },
		},
		"another source has a key that a Secret cannot have": {
			options: []option{leaselessPolicy},
			spec: func(r *rig) func(*v1alpha1.DynamicSecret) {
				return r.withSettings(map[string]any{"the color": "red"})
			},
			reason: v1alpha1.ReasonInvalidResponse, message: []string{"cannot be a key of a Secret", `"the color"`},
			least: 4, most: 6,
			fix: firstSource,
		},
		"another source is denied": {
			spec: func(r *rig) func(*v1alpha1.DynamicSecret) {
				return r.withSettings(map[string]any{"color": "red"})
			},
			reason: v1alpha1.ReasonAccessDenied, message: []string{`"read"`, "-kv/orders"},
			least: 1, most: 1,
			fix: firstSource,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, c.options...)
			spec, mark, began := c.spec(r), r.vaultMark(), time.Now()
			r.apply("orders", spec)
			message := r.untilReason("orders", v1alpha1.StalledCondition, c.reason)
			for _, part := range c.message {
				if !strings.Contains(message, part) {
					t.Errorf("the message is %q, want %q in it", message, part)
				}
			}
			time.Sleep(time.Until(began.Add(time.Minute)))
			minted := r.minted(mark)
			if minted < c.least || minted > c.most {
				t.Errorf("%d credentials were requested in %s, want %d to %d",
					minted, time.Since(began), c.least, c.most)
			}
			r.until("orders", "counted", func(d *v1alpha1.DynamicSecret) bool {
				u := d.Status.Unplanned
				return u != nil && u.Reason == c.reason && u.Count >= int64(c.least)
			})
			r.untilReason("orders", v1alpha1.StalledCondition, c.reason)
			if r.target("orders") != nil {
				t.Error("the Secret exists")
			}
			r.edit("orders", c.fix)
			r.untilReady("orders")
			r.untilAlive(1)
		})
	}
}
