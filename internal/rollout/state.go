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

// The state of a rollout, from the workload's own status. A status older than the last spec change says nothing. The
// order of checks is: finished, blocked, in progress.

const (
	notObserved = ": controller has not observed the change yet"
	notFinished = ": controller has not finished"
)

func rolling(text string) finding { return finding{v1alpha1.ReasonRollingOut, text} }
func paused(text string) finding  { return finding{v1alpha1.ReasonRolloutPaused, text} }
func checkFailed(text string) finding {
	return finding{v1alpha1.ReasonRolloutCheckFailed, text}
}
func stuck(text string) finding { return finding{v1alpha1.ReasonRolloutStuck, text} }

// remaining describes the pods that a rollout still needs; empty if none.
func remaining(want, all, updated, available int32) string {
	switch {
	case updated < want:
		return fmt.Sprintf("%d of %d pods updated", updated, want)
	case all > updated:
		return fmt.Sprintf("old pods remaining: %d", all-updated)
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
	todo := remaining(ptr.Deref(d.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	switch {
	case s.ObservedGeneration < d.Generation:
		return rolling(notObserved)
	case todo == "":
		return finding{}
	case d.Spec.Paused:
		return paused(" is paused")
	}
	for _, c := range s.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" &&
			c.Status == corev1.ConditionFalse:
			return stuck(": " + todo + ", progressDeadlineSeconds exceeded")
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			return stuck(": " + todo + "; " + truncate(c.Message))
		}
	}
	return rolling(": " + todo)
}

func describeStatefulSet(s *appsv1.StatefulSet) description {
	return description{template: &s.Spec.Template, selector: s.Spec.Selector, state: statefulSetState(s)}
}

func statefulSetState(set *appsv1.StatefulSet) finding {
	s, want := set.Status, ptr.Deref(set.Spec.Replicas, 1)
	todo := remaining(want, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	onDelete := set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
	var partition int32
	if strategy := set.Spec.UpdateStrategy.RollingUpdate; strategy != nil && !onDelete {
		partition = ptr.Deref(strategy.Partition, 0)
	}
	switch {
	case s.ObservedGeneration < set.Generation:
		return rolling(notObserved)
	case todo == "" && !onDelete && partition == 0 && s.CurrentRevision != s.UpdateRevision:
		return rolling(notFinished)
	case todo == "":
		return finding{}
	case onDelete && s.UpdatedReplicas < want:
		return paused(onDeleteText(s.UpdatedReplicas, want))
	case partition > 0 && s.UpdatedReplicas < want:
		return paused(fmt.Sprintf(" has partition %d: %d of %d pods updated", partition, s.UpdatedReplicas, want))
	}
	return rolling(": " + todo)
}

func onDeleteText(updated, want int32) string {
	return fmt.Sprintf(" replaces only pods that are deleted (OnDelete): %d of %d pods updated", updated, want)
}

func describeDaemonSet(d *appsv1.DaemonSet) description {
	return description{template: &d.Spec.Template, selector: d.Spec.Selector, state: daemonSetState(d)}
}

func daemonSetState(d *appsv1.DaemonSet) finding {
	s := d.Status
	want, updated := s.DesiredNumberScheduled, s.UpdatedNumberScheduled
	todo := remaining(want, updated, updated, s.NumberAvailable)
	switch {
	case s.ObservedGeneration < d.Generation:
		return rolling(notObserved)
	case todo == "":
		return finding{}
	case d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType && updated < want:
		return paused(onDeleteText(updated, want))
	}
	return rolling(": " + todo)
}

// argoRollout contains the fields of an argoproj.io/v1alpha1 Rollout that are needed here.
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
	// ObservedGeneration is a number in a string.
	ObservedGeneration string `json:"observedGeneration,omitempty"`
	Phase              string `json:"phase,omitempty"`
	Message            string `json:"message,omitempty"`
	Replicas           int32  `json:"replicas,omitempty"`
	UpdatedReplicas    int32  `json:"updatedReplicas,omitempty"`
	AvailableReplicas  int32  `json:"availableReplicas,omitempty"`
}

func describeArgoRollout(r *argoRollout) description {
	d := description{template: r.Spec.Template, selector: r.Spec.Selector, state: argoRolloutState(r)}
	// With a workloadRef the template belongs to another workload, and stamping the Rollout would be an error. The
	// Rollout's pods have the labels of the referenced Deployment, so the Deployment must be the target.
	if ref := r.Spec.WorkloadRef; ref != nil {
		d.template = nil
		d.state = paused(fmt.Sprintf(" uses the pod template of %s/%s: list that in spec.rollout.targets instead",
			ref.Kind, ref.Name))
	}
	return d
}

func argoRolloutState(r *argoRollout) finding {
	s := r.Status
	todo := remaining(ptr.Deref(r.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	if todo == "" {
		todo = "phase " + s.Phase
	}
	switch {
	case s.ObservedGeneration != strconv.FormatInt(r.Generation, 10):
		return rolling(notObserved)
	case s.Phase == "Healthy":
		return healthy(r)
	case s.Phase == "Degraded":
		return stuck(" is degraded: " + todo + inParentheses(s.Message))
	case s.Phase == "Paused" || r.Spec.Paused:
		return paused(" is paused: " + todo + inParentheses(s.Message))
	}
	return rolling(": " + todo + inParentheses(s.Message))
}

// healthy checks the pod counts of a Rollout in phase Healthy.
func healthy(r *argoRollout) finding {
	s := r.Status
	if todo := remaining(ptr.Deref(r.Spec.Replicas, 1), s.Replicas, s.UpdatedReplicas,
		s.AvailableReplicas); todo != "" {
		return rolling(": " + todo)
	}
	return finding{}
}

func inParentheses(message string) string {
	if message == "" {
		return ""
	}
	return " (" + truncate(message) + ")"
}
