package rollout

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// kind of workload.
type kind struct {
	name    v1alpha1.WorkloadKind
	version schema.GroupVersion
	// resource as a right names it.
	resource string
	// podOwner is the kind that controls the pods.
	podOwner string
	describe func(content map[string]any) (description, error)
}

func (k kind) gvk() schema.GroupVersionKind { return k.version.WithKind(string(k.name)) }

var kinds = []kind{
	{v1alpha1.KindDeployment, appsv1.SchemeGroupVersion, "deployments.apps", "ReplicaSet", as(describeDeployment)},
	{v1alpha1.KindStatefulSet, appsv1.SchemeGroupVersion, "statefulsets.apps", "StatefulSet", as(describeStatefulSet)},
	{v1alpha1.KindDaemonSet, appsv1.SchemeGroupVersion, "daemonsets.apps", "DaemonSet", as(describeDaemonSet)},
	// Argo Rollouts need not be installed.
	{v1alpha1.KindRollout, schema.GroupVersion{Group: "argoproj.io", Version: "v1alpha1"}, "rollouts.argoproj.io", "ReplicaSet", as(describeArgoRollout)},
}

// description is what the kinds have in common.
type description struct {
	// template of its pods; nil where it takes that from another workload.
	template *corev1.PodTemplateSpec
	selector *metav1.LabelSelector
	state    finding
}

// as makes a description from the fields that the API server sent.
func as[T any](describe func(*T) description) func(map[string]any) (description, error) {
	return func(content map[string]any) (description, error) {
		var object T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &object); err != nil {
			return description{}, err
		}
		return describe(&object), nil
	}
}

// workload as it was read last.
type workload struct {
	kind   kind
	object *unstructured.Unstructured
	// template of its pods; nil where it has none of its own.
	template *corev1.PodTemplateSpec
	// pods selects them.
	pods labels.Selector
	// state says how far its roll-out is.
	state finding
	// gone since it was found.
	gone bool
}

func newWorkload(k kind, object *unstructured.Unstructured) (*workload, error) {
	d, err := k.describe(object.Object)
	if err != nil {
		return nil, fmt.Errorf("%s/%s cannot be understood: %w", k.name, object.GetName(), err)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.selector)
	if err != nil {
		return nil, fmt.Errorf("%s/%s has a selector that cannot be understood: %w", k.name, object.GetName(), err)
	}
	return &workload{kind: k, object: object, template: d.template, pods: selector, state: d.state}, nil
}

func (w *workload) String() string { return string(w.kind.name) + "/" + w.object.GetName() }

// deleted: it has gone or is going, and is not to be stamped. Its pods may outlive it.
func (w *workload) deleted() bool { return w.gone || w.object.GetDeletionTimestamp() != nil }

// owns says whether the pod is one of the workload's. To be sure that none is overlooked, only pods of another kind of
// controller are left out, though the selector chooses them.
func (w *workload) owns(pod *corev1.Pod) bool {
	if !w.pods.Matches(labels.Set(pod.Labels)) {
		return false
	}
	owner := metav1.GetControllerOf(pod)
	return owner == nil || owner.Kind == w.kind.podOwner
}
