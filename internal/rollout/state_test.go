package rollout

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	done          = ""
	rollingReason = v1alpha1.ReasonRollingOut
	pausedReason  = v1alpha1.ReasonRolloutPaused
	stuckReason   = v1alpha1.ReasonRolloutStuck
)

// stateOf converts a workload to the API server's representation and describes it.
func stateOf(t *testing.T, name v1alpha1.WorkloadKind, object any) finding {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if k.name == name {
			d, err := k.describe(content)
			if err != nil {
				t.Fatal(err)
			}
			return d.state
		}
	}
	t.Fatalf("no kind %s", name)
	return finding{}
}

func expectFinding(t *testing.T, got finding, reason, text string) {
	t.Helper()
	if got.reason != reason || !strings.Contains(got.text, text) || (reason == done) != (got.text == "") {
		t.Errorf("got %q %q, want %q with %q", got.reason, got.text, reason, text)
	}
}

func TestDeploymentState(t *testing.T) {
	type modify = func(*appsv1.Deployment)
	counts := func(replicas, updated, available int32) modify {
		return func(d *appsv1.Deployment) {
			d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas = replicas, updated, available
		}
	}
	condition := func(
		kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string,
	) modify {
		return func(d *appsv1.Deployment) {
			d.Status.Conditions = append(d.Status.Conditions,
				appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message})
		}
	}
	progressing := condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", "")
	quota := condition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate", "exceeded quota")
	deadline := condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", "")
	stop := func(d *appsv1.Deployment) { d.Spec.Paused = true }
	scale := func(to int32) modify { return func(d *appsv1.Deployment) { d.Spec.Replicas = &to } }
	unobserved := func(d *appsv1.Deployment) { d.Status.ObservedGeneration = 6 }
	for _, c := range []struct {
		name    string
		changes []modify
		reason  string
		text    string
	}{
		{"all pods are new and available", nil, done, ""},
		{"controller has not observed the change", []modify{unobserved}, rollingReason, "has not observed the change"},
		{"paused, but controller has not observed it", []modify{unobserved, stop}, rollingReason,
			"has not observed the change"},
		{"pods not replaced yet", []modify{counts(4, 1, 4)}, rollingReason, ": 1 of 3 pods updated"},
		{"old pods not deleted yet", []modify{counts(5, 3, 5)}, rollingReason, ": old pods remaining: 2"},
		{"new pods not available yet", []modify{counts(3, 3, 2)}, rollingReason,
			": 2 of 3 updated pods available"},
		{"paused", []modify{counts(3, 0, 3), stop}, pausedReason, " is paused"},
		{"paused, but all pods are new", []modify{stop}, done, ""},
		{"deadline exceeded", []modify{counts(4, 1, 3), deadline}, stuckReason,
			": 1 of 3 pods updated, progressDeadlineSeconds exceeded"},
		{"deadline exceeded, but all pods are new", []modify{deadline}, done, ""},
		{"progressing", []modify{counts(4, 1, 3), progressing}, rollingReason, "1 of 3"},
		{"quota exceeded", []modify{counts(3, 0, 3), quota}, stuckReason, "exceeded quota"},
		{"replicas default to 1", []modify{func(d *appsv1.Deployment) { d.Spec.Replicas = nil }, counts(1, 0, 1)},
			rollingReason, "0 of 1 pods updated"},
		{"scaled to zero", []modify{scale(0), counts(0, 0, 0)}, done, ""},
		{"scaled to zero and paused", []modify{scale(0), counts(0, 0, 0), stop}, done, ""},
		{"scaled to zero with pods left", []modify{scale(0), counts(2, 0, 2)}, rollingReason, "old pods remaining: 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](3)}}
			d.Generation, d.Status.ObservedGeneration = 7, 7
			counts(3, 3, 3)(d)
			for _, change := range c.changes {
				change(d)
			}
			expectFinding(t, stateOf(t, v1alpha1.KindDeployment, d), c.reason, c.text)
		})
	}
}

func TestStatefulSetState(t *testing.T) {
	type modify = func(*appsv1.StatefulSet)
	counts := func(replicas, updated, available int32) modify {
		return func(s *appsv1.StatefulSet) {
			s.Status.Replicas, s.Status.UpdatedReplicas, s.Status.AvailableReplicas = replicas, updated, available
			if updated == replicas {
				s.Status.CurrentRevision = s.Status.UpdateRevision
			}
		}
	}
	partition := func(n int32) modify {
		return func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
		}
	}
	unobserved := func(s *appsv1.StatefulSet) { s.Status.ObservedGeneration = 6 }
	onDelete := func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }
	oldRevision := func(s *appsv1.StatefulSet) { s.Status.CurrentRevision = "old" }
	for _, c := range []struct {
		name    string
		changes []modify
		reason  string
		text    string
	}{
		{"all pods are new and available", nil, done, ""},
		{"controller has not observed the change", []modify{unobserved},
			rollingReason, "has not observed the change"},
		{"pods not replaced yet", []modify{counts(3, 1, 3)}, rollingReason, ": 1 of 3 pods updated"},
		{"new pods not available yet", []modify{counts(3, 3, 2)}, rollingReason,
			": 2 of 3 updated pods available"},
		{"current revision is old", []modify{oldRevision}, rollingReason, "has not finished"},
		{"OnDelete, pods not deleted yet", []modify{onDelete, counts(3, 1, 3)}, pausedReason,
			" replaces only pods that are deleted (OnDelete): 1 of 3 pods updated"},
		{"OnDelete, all pods deleted", []modify{onDelete, oldRevision}, done, ""},
		{"OnDelete, new pods not available yet", []modify{onDelete, counts(3, 3, 2)}, rollingReason,
			"2 of 3 updated pods available"},
		{"its partition keeps pods", []modify{partition(2), counts(3, 1, 3)}, pausedReason,
			" has partition 2: 1 of 3 pods updated"},
		{"its partition keeps none", []modify{partition(0), counts(3, 1, 3)}, rollingReason, "1 of 3 pods updated"},
		{"scaled to zero",
			[]modify{func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](0) }, counts(0, 0, 0)}, done, ""},
		{"replicas default to 1", []modify{func(s *appsv1.StatefulSet) { s.Spec.Replicas = nil }, counts(1, 0, 1)},
			rollingReason, "0 of 1 pods updated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3)}}
			s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
			s.Generation, s.Status.ObservedGeneration = 7, 7
			s.Status.CurrentRevision, s.Status.UpdateRevision = "old", "new"
			counts(3, 3, 3)(s)
			for _, change := range c.changes {
				change(s)
			}
			expectFinding(t, stateOf(t, v1alpha1.KindStatefulSet, s), c.reason, c.text)
		})
	}
}

func TestDaemonSetState(t *testing.T) {
	type modify = func(*appsv1.DaemonSet)
	counts := func(desired, updated, available int32) modify {
		return func(d *appsv1.DaemonSet) {
			d.Status.DesiredNumberScheduled, d.Status.UpdatedNumberScheduled = desired, updated
			d.Status.NumberAvailable = available
		}
	}
	unobserved := func(d *appsv1.DaemonSet) { d.Status.ObservedGeneration = 6 }
	onDelete := func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }
	for _, c := range []struct {
		name    string
		changes []modify
		reason  string
		text    string
	}{
		{"all pods are new and available", nil, done, ""},
		{"controller has not observed the change", []modify{unobserved},
			rollingReason, "has not observed the change"},
		{"pods not replaced yet", []modify{counts(3, 1, 3)}, rollingReason, ": 1 of 3 pods updated"},
		{"new pods not available yet", []modify{counts(3, 3, 2)}, rollingReason,
			": 2 of 3 updated pods available"},
		{"OnDelete, pods not deleted yet", []modify{onDelete, counts(3, 1, 3)}, pausedReason,
			" replaces only pods that are deleted (OnDelete): 1 of 3 pods updated"},
		{"OnDelete, all pods deleted", []modify{onDelete}, done, ""},
		{"no node matches", []modify{counts(0, 0, 0)}, done, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &appsv1.DaemonSet{}
			d.Generation, d.Status.ObservedGeneration = 7, 7
			counts(3, 3, 3)(d)
			for _, change := range c.changes {
				change(d)
			}
			expectFinding(t, stateOf(t, v1alpha1.KindDaemonSet, d), c.reason, c.text)
		})
	}
}

func TestArgoRolloutState(t *testing.T) {
	type modify = func(*argoRollout)
	counts := func(replicas, updated, available int32) modify {
		return func(r *argoRollout) {
			r.Status.Replicas, r.Status.UpdatedReplicas, r.Status.AvailableReplicas = replicas, updated, available
		}
	}
	phase := func(phase, message string) modify {
		return func(r *argoRollout) { r.Status.Phase, r.Status.Message = phase, message }
	}
	for _, c := range []struct {
		name    string
		changes []modify
		reason  string
		text    string
	}{
		{"healthy", nil, done, ""},
		{"controller has not observed the change", []modify{func(r *argoRollout) { r.Status.ObservedGeneration = "6" }},
			rollingReason, "has not observed the change"},
		{"progressing", []modify{phase("Progressing", "more replicas need to be updated"), counts(4, 1, 4)},
			rollingReason, ": 1 of 3 pods updated (more replicas need to be updated)"},
		{"progressing with complete pod counts", []modify{phase("Progressing", "")}, rollingReason,
			": phase Progressing"},
		{"paused at a step", []modify{phase("Paused", "CanaryPauseStep"), counts(4, 1, 4)}, pausedReason,
			" is paused: 1 of 3 pods updated (CanaryPauseStep)"},
		{"paused by spec",
			[]modify{phase("Progressing", ""), counts(4, 1, 4),
				func(r *argoRollout) { r.Spec.Paused = true }}, pausedReason, " is paused"},
		{"aborted", []modify{phase("Degraded", "RolloutAborted"), counts(4, 1, 4)}, stuckReason,
			" is degraded: 1 of 3 pods updated (RolloutAborted)"},
		{"healthy with old pods", []modify{counts(6, 3, 3)}, rollingReason, "old pods remaining: 3"},
		{"no phase", []modify{phase("", "")}, rollingReason, "phase "},
		{"template of a Deployment",
			[]modify{func(r *argoRollout) {
				r.Spec.WorkloadRef = &argoWorkloadRef{Kind: "Deployment",
					Name: "orders"}
			}}, pausedReason, " uses the pod template of Deployment/orders"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &argoRollout{Spec: argoSpec{Replicas: ptr.To[int32](3)}}
			r.Generation, r.Status.ObservedGeneration = 7, "7"
			phase("Healthy", "")(r)
			counts(3, 3, 3)(r)
			for _, change := range c.changes {
				change(r)
			}
			expectFinding(t, stateOf(t, v1alpha1.KindRollout, r), c.reason, c.text)
		})
	}
}
