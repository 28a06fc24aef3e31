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
	// resource as in RBAC.
	resource string
	// podOwner is the kind of the pods' controller.
	podOwner string
	describe func(content map[string]any) (description, error)
}

func (k kind) gvk() schema.GroupVersionKind { return k.version.WithKind(string(k.name)) }

var kinds = []kind{
	{v1alpha1.KindDeployment, appsv1.SchemeGroupVersion, "deployments.apps", "ReplicaSet", decode(describeDeployment)},
	{v1alpha1.KindStatefulSet, appsv1.SchemeGroupVersion, "statefulsets.apps", "StatefulSet",
		decode(describeStatefulSet)},
	{v1alpha1.KindDaemonSet, appsv1.SchemeGroupVersion, "daemonsets.apps", "DaemonSet", decode(describeDaemonSet)},
	// Argo Rollouts may not be installed.
	{v1alpha1.KindRollout, schema.GroupVersion{Group: "argoproj.io", Version: "v1alpha1"}, "rollouts.argoproj.io",
		"ReplicaSet", decode(describeArgoRollout)},
}

// description contains what the kinds have in common.
type description struct {
	// template is nil if another workload has the pod template.
	template *corev1.PodTemplateSpec
	selector *metav1.LabelSelector
	state    finding
}

// decode converts the API server's object before describing it.
func decode[T any](describe func(*T) description) func(map[string]any) (description, error) {
	return func(content map[string]any) (description, error) {
		var object T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &object); err != nil {
			return description{}, err
		}
		return describe(&object), nil
	}
}

// workload as last read.
type workload struct {
	kind   kind
	object *unstructured.Unstructured
	// template is nil if another workload has the pod template.
	template *corev1.PodTemplateSpec
	// podSelector selects the workload's pods.
	podSelector labels.Selector
	// state of the roll-out.
	state finding
	// gone reports that the workload was deleted after it was found.
	gone bool
}

func newWorkload(k kind, object *unstructured.Unstructured) (*workload, error) {
	d, err := k.describe(object.Object)
	if err != nil {
		return nil, fmt.Errorf("parse %s/%s: %w", k.name, object.GetName(), err)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.selector)
	if err != nil {
		return nil, fmt.Errorf("parse the selector of %s/%s: %w", k.name, object.GetName(), err)
	}
	return &workload{kind: k, object: object, template: d.template, podSelector: selector, state: d.state}, nil
}

func (w *workload) String() string { return string(w.kind.name) + "/" + w.object.GetName() }

// deleted reports whether the workload is gone or terminating, and must not be stamped. Its pods may outlive it.
func (w *workload) deleted() bool { return w.gone || w.object.GetDeletionTimestamp() != nil }

// owns reports whether the pod belongs to the workload. It excludes only pods that another kind of controller owns, so
// that no pod is missed.
func (w *workload) owns(pod *corev1.Pod) bool {
	if !w.podSelector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	owner := metav1.GetControllerOf(pod)
	return owner == nil || owner.Kind == w.kind.podOwner
}
