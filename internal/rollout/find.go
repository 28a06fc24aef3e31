package rollout

import (
	"context"
	"errors"
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

// findWorkloads returns the workloads that the spec selects, each once. What cannot be read, and a named workload that
// does not exist, is a finding. An error is a missing permission.
func (r *Rollouts) findWorkloads(ctx context.Context, c Consumer) (found []*workload, findings []finding, err error) {
	findings = invalidSelectors(c.Spec)
	for _, k := range kinds {
		selected, known, err := r.selected(ctx, k, c)
		if lacksAny(err) {
			return nil, nil, err
		}
		if err != nil {
			findings = append(findings, failed(err))
			continue
		}
		found = append(found, selected...)
		for _, name := range targetNames(k, c.Spec) {
			if !slices.ContainsFunc(selected, func(w *workload) bool { return w.object.GetName() == name }) {
				findings = append(findings, notFound(k, name, known))
			}
		}
	}
	return found, findings, nil
}

func notFound(k kind, name string, known bool) finding {
	text := fmt.Sprintf("%s/%s does not exist", k.name, name)
	if !known {
		text += fmt.Sprintf(": the cluster has no %s", k.resource)
	}
	return finding{v1alpha1.ReasonRolloutTargetNotFound, text}
}

// selected returns the workloads of a kind that the spec selects. known is false if the cluster has no such kind.
func (r *Rollouts) selected(ctx context.Context, k kind, c Consumer) (all []*workload, known bool, err error) {
	switch {
	case c.Spec.Discover || hasSelector(k, c.Spec):
		all, err = r.listWorkloads(ctx, k, c)
	default:
		for _, name := range targetNames(k, c.Spec) {
			w, e := r.getWorkload(ctx, k, client.ObjectKey{Namespace: c.Namespace, Name: name})
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

// listWorkloads lists the workloads of a kind page by page and returns those that the spec selects.
func (r *Rollouts) listWorkloads(ctx context.Context, k kind, c Consumer) (all []*workload, err error) {
	for next := ""; ; {
		page := &unstructured.UnstructuredList{}
		page.SetGroupVersionKind(k.gvk())
		err := r.Reader.List(ctx, page, client.InNamespace(c.Namespace), client.Limit(pageSize), client.Continue(next))
		if apierrors.IsNotFound(err) {
			// The API server returns 404 for a list only if the kind was deleted after discovery.
			return nil, &meta.NoKindMatchError{GroupKind: k.gvk().GroupKind(),
				SearchedVersions: []string{k.version.Version}}
		}
		if err != nil {
			return nil, readError(err, "list", k.resource)
		}
		for i := range page.Items {
			if w := newWorkload(k, &page.Items[i]); c.targets(w) {
				all = append(all, w)
			}
		}
		if next = page.GetContinue(); next == "" {
			return all, nil
		}
	}
}

// getWorkload returns nil if the workload does not exist.
func (r *Rollouts) getWorkload(ctx context.Context, k kind, key client.ObjectKey) (*workload, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(k.gvk())
	err := r.Reader.Get(ctx, key, object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(err, "get", k.resource)
	}
	return newWorkload(k, object), nil
}

// lacksAny says whether the error is a missing permission.
func lacksAny(err error) bool {
	var forbidden *forbiddenError
	return errors.As(err, &forbidden)
}

// failed is the finding of a request that failed.
func failed(err error) finding {
	var forbidden *forbiddenError
	if errors.As(err, &forbidden) {
		return finding{v1alpha1.ReasonRolloutForbidden, forbidden.permission}
	}
	return checkFailed("leasekeeper cannot " + truncate(err.Error()))
}

// readError identifies a missing permission.
func readError(err error, verb, resource string) error {
	if apierrors.IsForbidden(err) {
		return &forbiddenError{verb + " " + resource}
	}
	return fmt.Errorf("%s %s: %w", verb, resource, err)
}

// targets reports whether the spec selects the workload.
func (c Consumer) targets(w *workload) bool {
	for _, t := range c.Spec.Targets {
		byName := t.Name == w.object.GetName()
		bySelector := t.Selector != nil && selectorMatches(t.Selector, w.object.GetLabels())
		if kindOf(t) == w.kind.name && (byName || bySelector) {
			return true
		}
	}
	if !c.Spec.Discover {
		return false
	}
	// A workload that cannot be parsed may use the Secret if it mentions its name anywhere.
	return w.unparsed && mentions(w.object.Object, c.Secret) || w.template != nil && uses(&w.template.Spec, c.Secret)
}

// mentions reports whether the text is a string anywhere in the value.
func mentions(value any, text string) bool {
	switch v := value.(type) {
	case string:
		return v == text
	case map[string]any:
		for _, each := range v {
			if mentions(each, text) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(each any) bool { return mentions(each, text) })
	}
	return false
}

// selectorMatches returns false for an invalid selector.
func selectorMatches(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}

// invalidSelectors checks the selectors of targets. The schema does not validate their operators.
func invalidSelectors(spec v1alpha1.RolloutSpec) (findings []finding) {
	for i, t := range spec.Targets {
		if _, err := metav1.LabelSelectorAsSelector(t.Selector); err != nil {
			text := fmt.Sprintf("spec.rollout.targets[%d].selector is invalid: %s", i, truncate(err.Error()))
			findings = append(findings, finding{v1alpha1.ReasonRolloutTargetNotFound, text})
		}
	}
	return findings
}

// kindOf defaults to Deployment.
func kindOf(t v1alpha1.RolloutTarget) v1alpha1.WorkloadKind {
	if t.Kind == "" {
		return v1alpha1.KindDeployment
	}
	return t.Kind
}

// targetNames returns the names that the spec lists for the kind, each once.
func targetNames(k kind, spec v1alpha1.RolloutSpec) (all []string) {
	for _, t := range spec.Targets {
		if kindOf(t) == k.name && t.Name != "" && !slices.Contains(all, t.Name) {
			all = append(all, t.Name)
		}
	}
	return all
}

// hasSelector reports whether the spec has a selector for the kind.
func hasSelector(k kind, spec v1alpha1.RolloutSpec) bool {
	return slices.ContainsFunc(spec.Targets, func(t v1alpha1.RolloutTarget) bool {
		return kindOf(t) == k.name && t.Selector != nil
	})
}

// truncate bounds the length of foreign text in the status.
func truncate(text string) string {
	const maxRunes = 256
	if runes := []rune(text); len(runes) > maxRunes {
		return string(runes[:maxRunes]) + "…"
	}
	return text
}
