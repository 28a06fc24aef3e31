package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// Manager is the field manager of the stamps. It applies nothing else, so an apply removes no other field.
const Manager = client.FieldOwner("leasekeeper-rollout")

// maxTries bounds conflicts with other writers, such as the controller that writes the status.
const maxTries = 5

// StampKey returns the key of the annotation on the consumers of a Secret. It shortens long names, because the name
// part of a key has the same limit as a label value.
func StampKey(name string) string {
	return v1alpha1.StampAnnotationPrefix + secret.OwnerLabelValue(name)
}

// stampWorkload stamps a workload that needs it and reports whether the template changed.
func (r *Rollouts) stampWorkload(
	ctx context.Context, w *workload, c Consumer, others []Consumer, hold bool,
) (bool, error) {
	var err error
	for range maxTries {
		if !w.needsStamp(c) {
			return false, nil
		}
		if w.contested = c.Contested[w.String()]; w.contested {
			return false, nil
		}
		if hold && w.waitsForOthers(c, others) {
			w.state = rolling(" waits for its other credentials, to roll out only once")
			return false, nil
		}
		err = r.apply(ctx, w, w.desiredStamps(c, others))
		switch {
		case err == nil:
			return true, nil
		case lacksPermission(err):
			return false, &forbiddenError{"patch " + w.kind.resource}
		case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
			// Admission denied this workload; it may allow others.
			w.state = finding{v1alpha1.ReasonRolloutForbidden, " cannot be stamped: " + truncate(err.Error())}
			return false, nil
		case !apierrors.IsConflict(err):
			return false, fmt.Errorf("stamp %s: %w", w, err)
		}
		if err := r.reread(ctx, w); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("stamp %s: %w", w, err)
}

// needsStamp reports whether the workload lacks the consumer's stamp.
func (w *workload) needsStamp(c Consumer) bool {
	if c.Stamp == "" || w.template == nil || w.deleted() {
		return false
	}
	return c.targets(w) && w.template.Annotations[StampKey(c.Secret)] != c.Stamp
}

// waitsForOthers reports whether another consumer of the workload has no new credential yet.
func (w *workload) waitsForOthers(c Consumer, others []Consumer) bool {
	return slices.ContainsFunc(others, func(o Consumer) bool {
		return o.Stamp == "" && o.Secret != c.Secret && o.targets(w)
	})
}

// remover describes who removes the stamp of a contested workload. The API server does not record who removed a field,
// only who else has written something since the publication. An admission policy leaves no trace.
func (w *workload) remover(c Consumer, publishedAt time.Time) finding {
	text := " does not keep the annotation " + StampKey(c.Secret) + " on its pod template"
	var last metav1.ManagedFieldsEntry
	for _, f := range w.object.GetManagedFields() {
		ours := f.Manager == string(Manager) || f.Subresource != ""
		if !ours && f.Time != nil && f.Time.After(publishedAt) && (last.Time == nil || f.Time.After(last.Time.Time)) {
			last = f
		}
	}
	if last.Time == nil {
		return finding{v1alpha1.ReasonRolloutContested, text}
	}
	return finding{v1alpha1.ReasonRolloutContested, fmt.Sprintf("%s; field manager %q wrote the workload last",
		text, truncate(last.Manager))}
}

// desiredStamps returns the existing stamps, the consumer's, and those of other consumers that need one. An apply
// removes the fields that it omits, so it must repeat the existing stamps; removing one would cause a rollout too.
func (w *workload) desiredStamps(c Consumer, others []Consumer) map[string]any {
	all := map[string]any{}
	for k, v := range w.template.Annotations {
		if strings.HasPrefix(k, v1alpha1.StampAnnotationPrefix) {
			all[k] = v
		}
	}
	for _, o := range others {
		if o.Secret != c.Secret && w.needsStamp(o) {
			all[StampKey(o.Secret)] = o.Stamp
		}
	}
	all[StampKey(c.Secret)] = c.Stamp
	return all
}

// apply sets the stamps of the workload. The uid and resource version keep it from creating a deleted workload and
// from reverting another writer's stamp.
func (r *Rollouts) apply(ctx context.Context, w *workload, stamps map[string]any) error {
	patch := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{
			"name": w.object.GetName(), "namespace": w.object.GetNamespace(),
			"uid": string(w.object.GetUID()), "resourceVersion": w.object.GetResourceVersion(),
		},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": stamps}}},
	}}
	patch.SetGroupVersionKind(w.kind.gvk())
	if err := r.Writer.Apply(ctx, client.ApplyConfigurationFromUnstructured(patch), Manager,
		client.ForceOwnership); err != nil {
		return err
	}
	w.update(patch)
	return nil
}

// update replaces the workload with the API server's response.
func (w *workload) update(object *unstructured.Unstructured) {
	*w = *newWorkload(w.kind, object)
}

// reread reads the workload again. Pods of a deleted workload may still exist.
func (r *Rollouts) reread(ctx context.Context, w *workload) error {
	now, err := r.getWorkload(ctx, w.kind, client.ObjectKeyFromObject(w.object))
	switch {
	case err != nil:
		return err
	case now == nil:
		w.gone = true
	default:
		*w = *now
	}
	return nil
}

// lacksPermission distinguishes missing RBAC from a denial by admission. Both are Forbidden.
func lacksPermission(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot patch resource ")
}
