package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// Manager names the owner of the stamps in managedFields. It applies nothing else, so nothing else is ever taken away by
// an apply that leaves it out.
const Manager = client.FieldOwner("leasekeeper-rollout")

// tries at a workload that others change at the same time, such as its controller, which writes its status.
const tries = 5

// StampKey is the key of the annotation that a Secret's consumers get. The name part of a key may be as long as the value
// of a label, so a long name is shortened as it is there.
func StampKey(name string) string {
	return v1alpha1.StampAnnotationPrefix + secret.OwnerLabelValue(name)
}

// stamp a workload, where that is due, and say whether its template was changed.
func (r *Rollouts) stamp(ctx context.Context, w *workload, c Consumer, others []Consumer, hold bool) (bool, error) {
	var err error
	for range tries {
		if !w.due(c) {
			return false, nil
		}
		if hold && w.awaits(c, others) {
			w.state = rolling(" waits for other credentials that it uses, so that it rolls out once")
			return false, nil
		}
		err = r.apply(ctx, w, w.stamps(c, others))
		switch {
		case err == nil:
			return true, nil
		case lacksRight(err):
			return false, &refusal{"patch " + w.kind.resource}
		case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
			// Admission refuses this one; others may be let pass.
			w.state = finding{v1alpha1.ReasonRolloutForbidden, " cannot be stamped: " + short(err.Error())}
			return false, nil
		case !apierrors.IsConflict(err):
			return false, fmt.Errorf("stamping %s: %w", w, err)
		}
		if err := r.reread(ctx, w); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("stamping %s: %w", w, err)
}

// due says whether the workload is to get the consumer's stamp and has not got it.
func (w *workload) due(c Consumer) bool {
	return c.Stamp != "" && w.template != nil && !w.deleted() && c.concerns(w) && w.template.Annotations[StampKey(c.Secret)] != c.Stamp
}

// awaits says whether somebody among the others concerns the workload too and has no new credential yet.
func (w *workload) awaits(c Consumer, others []Consumer) bool {
	return slices.ContainsFunc(others, func(o Consumer) bool { return o.Stamp == "" && o.Secret != c.Secret && o.concerns(w) })
}

// stamps are all that the template is to have: what it has, the consumer's, and those of the others that are due too.
// What is left out of an apply that was in the one before is taken away by the API server, and that would roll out too.
func (w *workload) stamps(c Consumer, others []Consumer) map[string]any {
	all := map[string]any{}
	for k, v := range w.template.Annotations {
		if strings.HasPrefix(k, v1alpha1.StampAnnotationPrefix) {
			all[k] = v
		}
	}
	for _, o := range others {
		if o.Secret != c.Secret && w.due(o) {
			all[StampKey(o.Secret)] = o.Stamp
		}
	}
	all[StampKey(c.Secret)] = c.Stamp
	return all
}

// apply the stamps to the workload as it was read. With its uid and resource version an apply neither makes a workload
// that has gone meanwhile, nor undoes a stamp that somebody else has just put on.
func (r *Rollouts) apply(ctx context.Context, w *workload, stamps map[string]any) error {
	patch := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{
			"name": w.object.GetName(), "namespace": w.object.GetNamespace(),
			"uid": string(w.object.GetUID()), "resourceVersion": w.object.GetResourceVersion(),
		},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": stamps}}},
	}}
	patch.SetGroupVersionKind(w.kind.gvk())
	if err := r.Writer.Apply(ctx, client.ApplyConfigurationFromUnstructured(patch), Manager, client.ForceOwnership); err != nil {
		return err
	}
	return w.become(patch)
}

// become what the API server says that the workload is by now.
func (w *workload) become(object *unstructured.Unstructured) error {
	now, err := newWorkload(w.kind, object)
	if err == nil {
		*w = *now
	}
	return err
}

// reread the workload, which may have gone. Its pods may be there still.
func (r *Rollouts) reread(ctx context.Context, w *workload) error {
	now, err := r.get(ctx, w.kind, client.ObjectKeyFromObject(w.object))
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

// lacksRight tells a right that is missing from an admission plugin's or a webhook's refusal, which is "forbidden" too.
func lacksRight(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot patch resource ")
}
