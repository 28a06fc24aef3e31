package rollout

import (
	"errors"

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
	// state of the rollout.
	state finding
	// unparsed reports that nothing is known of the template and the pods.
	unparsed bool
	// contested reports that it lacks the stamp and is not stamped now, because something removes it.
	contested bool
	// gone reports that the workload was deleted after it was found.
	gone bool
}

// newWorkload returns a workload without a template and without pods if the object cannot be parsed; its state says so.
func newWorkload(k kind, object *unstructured.Unstructured) *workload {
	d, err := k.describe(object.Object)
	selector, invalid := metav1.LabelSelectorAsSelector(d.selector)
	if err = errors.Join(err, invalid); err != nil {
		return &workload{kind: k, object: object, podSelector: labels.Nothing(), unparsed: true,
			state: checkFailed(" cannot be parsed: " + truncate(err.Error()))}
	}
	return &workload{kind: k, object: object, template: d.template, podSelector: selector, state: d.state}
}

func (w *workload) String() string { return string(w.kind.name) + "/" + w.object.GetName() }

// deleted reports whether the workload is gone or terminating, and must not be stamped. Its pods may outlive it.
func (w *workload) deleted() bool { return w.gone || w.object.GetDeletionTimestamp() != nil }

// owns reports whether the pod belongs to the workload. It excludes only pods that another kind of controller owns, so
// that no pod is missed.
func (w *workload) owns(p *podFacts) bool {
	return w.podSelector.Matches(labels.Set(p.labels)) && (p.owner == "" || p.owner == w.kind.podOwner)
}
