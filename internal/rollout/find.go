package rollout

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// find reads the workloads that the consumer's spec means, each once. What the spec names and is not there is a finding.
func (r *Rollouts) find(ctx context.Context, c Consumer) (found []*workload, open []finding, err error) {
	open = invalidSelectors(c.Spec)
	for _, k := range kinds {
		candidates, known, err := r.candidates(ctx, k, c)
		if err != nil {
			return nil, nil, err
		}
		for _, w := range candidates {
			if c.concerns(w) {
				found = append(found, w)
			}
		}
		for _, name := range names(k, c.Spec) {
			if !slices.ContainsFunc(candidates, func(w *workload) bool { return w.object.GetName() == name }) {
				open = append(open, notFound(k, name, known))
			}
		}
	}
	return found, open, nil
}

func notFound(k kind, name string, known bool) finding {
	text := fmt.Sprintf("%s/%s does not exist", k.name, name)
	if !known {
		text += fmt.Sprintf(": the cluster has no %s", k.resource)
	}
	return finding{v1alpha1.ReasonRolloutTargetNotFound, text}
}

// candidates are the workloads of a kind that the spec may mean. known is false where the cluster has no such kind.
func (r *Rollouts) candidates(ctx context.Context, k kind, c Consumer) (all []*workload, known bool, err error) {
	switch {
	case c.Spec.Discover || selects(k, c.Spec):
		all, err = r.list(ctx, k, c.Namespace)
	default:
		for _, name := range names(k, c.Spec) {
			w, e := r.get(ctx, k, client.ObjectKey{Namespace: c.Namespace, Name: name})
			if err = e; err != nil {
				break
			}
			if w != nil {
				all = append(all, w)
			}
		}
	}
	if meta.IsNoMatchError(err) {
		return nil, false, nil
	}
	return all, true, err
}

// list all workloads of a kind in a namespace.
func (r *Rollouts) list(ctx context.Context, k kind, namespace string) ([]*workload, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(k.gvk())
	err := r.Reader.List(ctx, list, client.InNamespace(namespace))
	if apierrors.IsNotFound(err) {
		// A list is never "not found", unless the kind has gone since it was looked up.
		return nil, &meta.NoKindMatchError{GroupKind: k.gvk().GroupKind(), SearchedVersions: []string{k.version.Version}}
	}
	if err != nil {
		return nil, reading(err, "list", k.resource)
	}
	all := make([]*workload, 0, len(list.Items))
	for i := range list.Items {
		w, err := newWorkload(k, &list.Items[i])
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

// get one workload; nil: it does not exist.
func (r *Rollouts) get(ctx context.Context, k kind, key client.ObjectKey) (*workload, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(k.gvk())
	err := r.Reader.Get(ctx, key, object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, reading(err, "get", k.resource)
	}
	return newWorkload(k, object)
}

// reading is the error of a read: a refusal where a right is missing.
func reading(err error, verb, resource string) error {
	if apierrors.IsForbidden(err) {
		return &refusal{verb + " " + resource}
	}
	return fmt.Errorf("%s %s: %w", verb, resource, err)
}

// concerns says whether the consumer's spec means the workload.
func (c Consumer) concerns(w *workload) bool {
	for _, t := range c.Spec.Targets {
		if kindOf(t) == w.kind.name && (t.Name == w.object.GetName() || t.Selector != nil && matches(t.Selector, w.object.GetLabels())) {
			return true
		}
	}
	return c.Spec.Discover && w.template != nil && startsWith(&w.template.Spec, c.Secret)
}

// matches says whether a selector chooses the labels. One that is not valid chooses nothing.
func matches(selector *metav1.LabelSelector, have map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(have))
}

// invalidSelectors of the targets. The schema does not check their operators.
func invalidSelectors(spec v1alpha1.RolloutSpec) (open []finding) {
	for i, t := range spec.Targets {
		if _, err := metav1.LabelSelectorAsSelector(t.Selector); err != nil {
			open = append(open, finding{v1alpha1.ReasonRolloutTargetNotFound, fmt.Sprintf("the selector of spec.rollout.targets[%d] is not valid: %s", i, short(err.Error()))})
		}
	}
	return open
}

// kindOf a target: Deployment unless it says another.
func kindOf(t v1alpha1.RolloutTarget) v1alpha1.WorkloadKind {
	if t.Kind == "" {
		return v1alpha1.KindDeployment
	}
	return t.Kind
}

// names of the kind's workloads that the spec names, each once.
func names(k kind, spec v1alpha1.RolloutSpec) (all []string) {
	for _, t := range spec.Targets {
		if kindOf(t) == k.name && t.Name != "" && !slices.Contains(all, t.Name) {
			all = append(all, t.Name)
		}
	}
	return all
}

// selects says whether the spec has a selector for the kind.
func selects(k kind, spec v1alpha1.RolloutSpec) bool {
	return slices.ContainsFunc(spec.Targets, func(t v1alpha1.RolloutTarget) bool { return kindOf(t) == k.name && t.Selector != nil })
}

// short keeps a text of somebody else's from filling the status.
func short(text string) string {
	const most = 256
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
