package rollout

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// How far the roll-out of a workload is, by its own status. A status that its controller wrote before the last change of
// the spec says nothing. Then come, in this order: finished, what keeps it from ever finishing, and what is still to do.

const (
	unseen     = ": its controller has not seen the change yet"
	unfinished = ": its controller has not finished"
)

func rolling(text string) finding { return finding{v1alpha1.ReasonRollingOut, text} }
func paused(text string) finding  { return finding{v1alpha1.ReasonRolloutPaused, text} }
func stuck(text string) finding   { return finding{v1alpha1.ReasonRolloutStuck, text} }

// missing says which pods a roll-out lacks; empty: none.
func missing(want, all, updated, available int32) string {
	switch {
	case updated < want:
		return fmt.Sprintf("%d of %d pods updated", updated, want)
	case all > updated:
		return fmt.Sprintf("old pods still there: %d", all-updated)
	case available < want:
		return fmt.Sprintf("%d of %d updated pods available", available, want)
	}
	return ""
}

func describeDeployment(d *appsv1.Deployment) description {
	return description{template: &d.Spec.Template, selector: d.Spec.Selector, state: deploymentState(d)}
}

func deploymentState(d *appsv1.Deployment) finding {
	s := d.Status
	lacks := missing(ptr.Deref(d.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	switch {
	case s.ObservedGeneration < d.Generation:
		return rolling(unseen)
	case lacks == "":
		return finding{}
	case d.Spec.Paused:
		return paused(" is paused")
	}
	for _, c := range s.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded":
			return stuck(": " + lacks + ", and spec.progressDeadlineSeconds is over")
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			return stuck(": " + lacks + "; " + short(c.Message))
		}
	}
	return rolling(": " + lacks)
}

func describeStatefulSet(s *appsv1.StatefulSet) description {
	return description{template: &s.Spec.Template, selector: s.Spec.Selector, state: statefulSetState(s)}
}

func statefulSetState(set *appsv1.StatefulSet) finding {
	s, want := set.Status, ptr.Deref(set.Spec.Replicas, 1)
	lacks := missing(want, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	onDelete := set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
	var partition int32
	if rolling := set.Spec.UpdateStrategy.RollingUpdate; rolling != nil && !onDelete {
		partition = ptr.Deref(rolling.Partition, 0)
	}
	switch {
	case s.ObservedGeneration < set.Generation:
		return rolling(unseen)
	case lacks == "" && !onDelete && partition == 0 && s.CurrentRevision != s.UpdateRevision:
		return rolling(unfinished)
	case lacks == "":
		return finding{}
	case onDelete && s.UpdatedReplicas < want:
		return paused(onDeleteText(s.UpdatedReplicas, want))
	case partition > 0 && s.UpdatedReplicas < want:
		return paused(fmt.Sprintf(" updates only pods from ordinal %d on: %d of %d pods updated", partition, s.UpdatedReplicas, want))
	}
	return rolling(": " + lacks)
}

func onDeleteText(updated, want int32) string {
	return fmt.Sprintf(" replaces pods only when somebody deletes them: %d of %d pods updated", updated, want)
}

func describeDaemonSet(d *appsv1.DaemonSet) description {
	return description{template: &d.Spec.Template, selector: d.Spec.Selector, state: daemonSetState(d)}
}

func daemonSetState(d *appsv1.DaemonSet) finding {
	s := d.Status
	want, updated := s.DesiredNumberScheduled, s.UpdatedNumberScheduled
	lacks := missing(want, updated, updated, s.NumberAvailable)
	switch {
	case s.ObservedGeneration < d.Generation:
		return rolling(unseen)
	case lacks == "":
		return finding{}
	case d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType && updated < want:
		return paused(onDeleteText(updated, want))
	}
	return rolling(": " + lacks)
}

// argoRollout has the fields of a Rollout of argoproj.io/v1alpha1 that count here.
type argoRollout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              argoSpec   `json:"spec,omitempty"`
	Status            argoStatus `json:"status,omitempty"`
}

type argoSpec struct {
	Replicas    *int32                  `json:"replicas,omitempty"`
	Selector    *metav1.LabelSelector   `json:"selector,omitempty"`
	Template    *corev1.PodTemplateSpec `json:"template,omitempty"`
	WorkloadRef *argoWorkloadRef        `json:"workloadRef,omitempty"`
	Paused      bool                    `json:"paused,omitempty"`
}

type argoWorkloadRef struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
}

type argoStatus struct {
	// ObservedGeneration is a number, written as a string.
	ObservedGeneration string `json:"observedGeneration,omitempty"`
	Phase              string `json:"phase,omitempty"`
	Message            string `json:"message,omitempty"`
	Replicas           int32  `json:"replicas,omitempty"`
	UpdatedReplicas    int32  `json:"updatedReplicas,omitempty"`
	AvailableReplicas  int32  `json:"availableReplicas,omitempty"`
}

func describeArgoRollout(r *argoRollout) description {
	d := description{template: r.Spec.Template, selector: r.Spec.Selector, state: argoRolloutState(r)}
	// With a workloadRef the template is another's; to give the Rollout one of its own would be an error. Pods of the
	// Rollout have the labels of the Deployment that it refers to, so that one is followed in its place.
	if ref := r.Spec.WorkloadRef; ref != nil {
		d.template = nil
		d.state = paused(fmt.Sprintf(" takes its pod template from %s/%s: name that in spec.rollout.targets instead", ref.Kind, ref.Name))
	}
	return d
}

func argoRolloutState(r *argoRollout) finding {
	s := r.Status
	lacks := missing(ptr.Deref(r.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	if lacks == "" {
		lacks = "phase " + s.Phase
	}
	switch {
	case s.ObservedGeneration != strconv.FormatInt(r.Generation, 10):
		return rolling(unseen)
	case s.Phase == "Healthy":
		return healthy(r)
	case s.Phase == "Degraded":
		return stuck(" is degraded: " + lacks + because(s.Message))
	case s.Phase == "Paused" || r.Spec.Paused:
		return paused(" is paused: " + lacks + because(s.Message))
	}
	return rolling(": " + lacks + because(s.Message))
}

// healthy is the state of a Rollout that its controller calls so: it is, unless the numbers say otherwise.
func healthy(r *argoRollout) finding {
	s := r.Status
	if lacks := missing(ptr.Deref(r.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas); lacks != "" {
		return rolling(": " + lacks)
	}
	return finding{}
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return " (" + short(message) + ")"
}
