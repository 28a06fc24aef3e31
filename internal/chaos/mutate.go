package chaos

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/api"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// mutation changes an object or its Secret or lease.
type mutation struct {
	name string
	// weight is the relative probability.
	weight int
	// cause reports whether it causes a new credential.
	cause bool
	apply func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, value string) error
}

var mutations = []mutation{
	{"rotation requested", 6, true, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, value string) error {
		return s.annotate(ctx, d.Name, v1alpha1.RotateRequestedAtAnnotation, value)
	}},
	{"renewal requested", 3, false, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, value string) error {
		return s.annotate(ctx, d.Name, v1alpha1.RenewRequestedAtAnnotation, value)
	}},
	{"Secret deleted", 3, true, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
		return s.kube.Delete(ctx, &corev1.Secret{ObjectMeta: objectMeta(d.TargetName())})
	}},
	{"Secret edited", 3, true, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, value string) error {
		return s.editSecret(ctx, d, `{"data":{"password":"`+encoded("edited-"+value)+`"}}`)
	}},
	{"key added to the Secret", 1, false, func(
		s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, value string,
	) error {
		return s.editSecret(ctx, d, `{"data":{"added-by-others":"`+encoded(value)+`"}}`)
	}},
	{"label of the Secret changed", 1, false, func(
		s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, _ string,
	) error {
		return s.editSecret(ctx, d, `{"metadata":{"labels":{"`+teamLabel+`":"others"}}}`)
	}},
	// An immutable Secret is deleted and created again when its credential is replaced, and not before.
	{"Secret made immutable", 1, false, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
		return s.editSecret(ctx, d, `{"immutable":true}`)
	}},
	// The credential moves to the new name.
	{"target renamed", 1, false, (*storm).rename},
	// kubectl replace with a file from a repository does that.
	{"finalizer removed", 1, false, func(s *storm, ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
		return s.kube.Patch(ctx, d, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	}},
	{"lease revoked out of band", 3, true, (*storm).revoke},
	{"object deleted", 2, false, (*storm).deleteObject},
}

func encoded(value string) string { return base64.StdEncoding.EncodeToString([]byte(value)) }

// mutateObjects applies random mutations to random objects. It creates objects that do not exist.
func (s *storm) mutateObjects(stormCtx, ctx context.Context, random *rand.Rand) error {
	names := s.history.names(mutated, expiring)
	var weighted []mutation
	for _, m := range mutations {
		for range m.weight {
			weighted = append(weighted, m)
		}
	}
	pause := func() bool {
		return sleep(stormCtx, randomDuration(random, 50*time.Millisecond, 350*time.Millisecond))
	}
	for i := 0; pause() && s.awaitFaultsAllowed(stormCtx); i++ {
		name, m := names[random.IntN(len(names))], weighted[random.IntN(len(weighted))]
		if err := s.mutate(ctx, name, m, fmt.Sprint(i)); err != nil {
			return fmt.Errorf("%s of %s: %w", m.name, name, err)
		}
	}
	return nil
}

func (s *storm) mutate(ctx context.Context, name string, m mutation, value string) error {
	d := &v1alpha1.DynamicSecret{}
	err := s.kube.Get(ctx, types.NamespacedName{Namespace: runName, Name: name}, d)
	if apierrors.IsNotFound(err) {
		s.count("object created")
		return s.create(ctx, name)
	}
	if err != nil || !d.DeletionTimestamp.IsZero() {
		return err
	}
	markTriggered, withdraw := func() {}, func() {}
	if m.cause {
		if err := s.forgetLoop(ctx, d); err != nil {
			return client.IgnoreNotFound(err)
		}
		c := s.history.addCause(name)
		markTriggered, withdraw = c.markTriggered, c.withdraw
	}
	err = m.apply(s, ctx, d, value)
	if apierrors.IsNotFound(err) || errors.Is(err, errSkipped) {
		withdraw()
		return nil
	}
	markTriggered()
	s.count(m.name)
	return err
}

func (e *environment) annotate(ctx context.Context, name, annotation, value string) error {
	edit := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotation, value)
	return e.kube.Patch(ctx, object(name, "", 0), client.RawPatch(types.MergePatchType, []byte(edit)))
}

var errSkipped = errors.New("mutation skipped")

// editSecret patches the Secret. It skips one that is immutable, or whose writes are denied at the moment.
func (s *storm) editSecret(ctx context.Context, d *v1alpha1.DynamicSecret, edit string) error {
	err := s.kube.Patch(ctx, &corev1.Secret{ObjectMeta: objectMeta(d.TargetName())},
		client.RawPatch(types.MergePatchType, []byte(edit)))
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		return errSkipped
	}
	return err
}

// rename gives the Secret another name, or the object's name again.
func (s *storm) rename(ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
	to := `"` + d.Name + `-renamed"`
	if d.Spec.Target.Name != "" {
		to = "null"
	}
	return s.kube.Patch(ctx, d, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"target":{"name":`+to+`}}}`)))
}

// deleteObject skips an object whose finalizer was removed: while no manager runs, its ledger would vanish with it.
func (s *storm) deleteObject(ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
	if len(d.Finalizers) == 0 {
		return errSkipped
	}
	return s.kube.Delete(ctx, d)
}

// revoke revokes the lease as `vault lease revoke` does.
func (s *storm) revoke(ctx context.Context, d *v1alpha1.DynamicSecret, _ string) error {
	if !s.vaultRunning.TryRLock() {
		return errSkipped // Vault is stopped
	}
	defer s.vaultRunning.RUnlock()
	if err := s.kube.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
		return err
	}
	if onlyLease(d) == nil {
		return errSkipped
	}
	err := s.bed.Vault.Root.Sys().RevokeWithContext(ctx, onlyLease(d).ID)
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return nil // PostgreSQL is stopped, and Vault may have started the revocation
	}
	return err
}

// denySecrets makes the API server deny all writes of the run's Secrets for some seconds, again and again. That may
// cost a credential which no Secret ever contains, but causes no other: what a Secret contains stays valid.
func (s *storm) denySecrets(stormCtx, ctx context.Context, random *rand.Rand) error {
	for sleep(stormCtx, randomDuration(random, 10*time.Second, 30*time.Second)) && s.awaitFaultsAllowed(stormCtx) {
		policy, binding := denial()
		if err := errors.Join(s.kube.Create(ctx, policy), s.kube.Create(ctx, binding)); err != nil {
			return err
		}
		s.count("writes of Secrets denied")
		s.holdOutage(stormCtx, randomDuration(random, 2*time.Second, 6*time.Second))
		if err := errors.Join(s.kube.Delete(ctx, binding), s.kube.Delete(ctx, policy)); err != nil {
			return err
		}
	}
	return nil
}

func denial() (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {
	writes := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
		Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"},
		},
	}
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: runName}}
	policy.Spec.MatchConstraints = &admissionv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: runName}},
		ResourceRules:     []admissionv1.NamedRuleWithOperations{{RuleWithOperations: writes}},
	}
	policy.Spec.Validations = []admissionv1.Validation{{Expression: "false", Message: "no Secrets now"}}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: runName}}
	binding.Spec.PolicyName = runName
	binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Deny}
	return policy, binding
}
