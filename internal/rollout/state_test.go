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

// stateOf sends a workload through the form in which it comes from the API server.
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

func expect(t *testing.T, got finding, reason, text string) {
	t.Helper()
	if got.reason != reason || !strings.Contains(got.text, text) || (reason == done) != (got.text == "") {
		t.Errorf("got %q %q, want %q with %q", got.reason, got.text, reason, text)
	}
}

func TestStateOfADeployment(t *testing.T) {
	type modify = func(*appsv1.Deployment)
	counts := func(replicas, updated, available int32) modify {
		return func(d *appsv1.Deployment) {
			d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas = replicas, updated, available
		}
	}
	condition := func(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) modify {
		return func(d *appsv1.Deployment) {
			d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message})
		}
	}
	deadline := condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", "")
	stop := func(d *appsv1.Deployment) { d.Spec.Paused = true }
	scale := func(to int32) modify { return func(d *appsv1.Deployment) { d.Spec.Replicas = &to } }
	unobserved := func(d *appsv1.Deployment) { d.Status.ObservedGeneration = 6 }
	for _, c := range []struct {
		it      string
		changes []modify
		reason  string
		text    string
	}{
		{"it is finished when all pods are new and available", nil, done, ""},
		{"nothing is known until the controller has seen the change", []modify{unobserved}, rollingReason, "has not seen the change"},
		{"not even that it is paused", []modify{unobserved, stop}, rollingReason, "has not seen the change"},
		{"pods are still to be replaced", []modify{counts(4, 1, 4)}, rollingReason, ": 1 of 3 pods updated"},
		{"old pods are still to go", []modify{counts(5, 3, 5)}, rollingReason, ": old pods still there: 2"},
		{"new pods are still to become available", []modify{counts(3, 3, 2)}, rollingReason, ": 2 of 3 updated pods available"},
		{"it is paused", []modify{counts(3, 0, 3), stop}, pausedReason, " is paused"},
		{"paused does not matter when all are new", []modify{stop}, done, ""},
		{"its deadline is over", []modify{counts(4, 1, 3), deadline}, stuckReason, ": 1 of 3 pods updated, and spec.progressDeadlineSeconds is over"},
		{"a deadline does not matter when all are new", []modify{deadline}, done, ""},
		{"progress is none of the trouble", []modify{counts(4, 1, 3), condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", "")}, rollingReason, "1 of 3"},
		{"a quota refuses its pods", []modify{counts(3, 0, 3), condition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate", "exceeded quota")}, stuckReason, "exceeded quota"},
		{"without a number it has one pod", []modify{func(d *appsv1.Deployment) { d.Spec.Replicas = nil }, counts(1, 0, 1)}, rollingReason, "0 of 1 pods updated"},
		{"scaled to zero it is finished", []modify{scale(0), counts(0, 0, 0)}, done, ""},
		{"scaled to zero and paused it is finished", []modify{scale(0), counts(0, 0, 0), stop}, done, ""},
		{"scaled to zero it has pods left", []modify{scale(0), counts(2, 0, 2)}, rollingReason, "old pods still there: 2"},
	} {
		t.Run(c.it, func(t *testing.T) {
			d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](3)}}
			d.Generation, d.Status.ObservedGeneration = 7, 7
			counts(3, 3, 3)(d)
			for _, change := range c.changes {
				change(d)
			}
			expect(t, stateOf(t, v1alpha1.KindDeployment, d), c.reason, c.text)
		})
	}
}

func TestStateOfAStatefulSet(t *testing.T) {
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
	onDelete := func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }
	oldRevision := func(s *appsv1.StatefulSet) { s.Status.CurrentRevision = "old" }
	for _, c := range []struct {
		it      string
		changes []modify
		reason  string
		text    string
	}{
		{"it is finished when all pods are new and available", nil, done, ""},
		{"nothing is known until the controller has seen the change", []modify{func(s *appsv1.StatefulSet) { s.Status.ObservedGeneration = 6 }}, rollingReason, "has not seen the change"},
		{"pods are still to be replaced", []modify{counts(3, 1, 3)}, rollingReason, ": 1 of 3 pods updated"},
		{"new pods are still to become available", []modify{counts(3, 3, 2)}, rollingReason, ": 2 of 3 updated pods available"},
		{"its revision is not yet the new one", []modify{oldRevision}, rollingReason, "has not finished"},
		{"somebody has to delete its pods", []modify{onDelete, counts(3, 1, 3)}, pausedReason, " replaces pods only when somebody deletes them: 1 of 3 pods updated"},
		{"somebody has deleted its pods", []modify{onDelete, oldRevision}, done, ""},
		{"deleted pods are still to come back", []modify{onDelete, counts(3, 3, 2)}, rollingReason, "2 of 3 updated pods available"},
		{"its partition keeps pods", []modify{partition(2), counts(3, 1, 3)}, pausedReason, " updates only pods from ordinal 2 on: 1 of 3 pods updated"},
		{"its partition keeps none", []modify{partition(0), counts(3, 1, 3)}, rollingReason, "1 of 3 pods updated"},
		{"scaled to zero it is finished", []modify{func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](0) }, counts(0, 0, 0)}, done, ""},
		{"without a number it has one pod", []modify{func(s *appsv1.StatefulSet) { s.Spec.Replicas = nil }, counts(1, 0, 1)}, rollingReason, "0 of 1 pods updated"},
	} {
		t.Run(c.it, func(t *testing.T) {
			s := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3)}}
			s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
			s.Generation, s.Status.ObservedGeneration = 7, 7
			s.Status.CurrentRevision, s.Status.UpdateRevision = "old", "new"
			counts(3, 3, 3)(s)
			for _, change := range c.changes {
				change(s)
			}
			expect(t, stateOf(t, v1alpha1.KindStatefulSet, s), c.reason, c.text)
		})
	}
}

func TestStateOfADaemonSet(t *testing.T) {
	type modify = func(*appsv1.DaemonSet)
	counts := func(desired, updated, available int32) modify {
		return func(d *appsv1.DaemonSet) {
			d.Status.DesiredNumberScheduled, d.Status.UpdatedNumberScheduled, d.Status.NumberAvailable = desired, updated, available
		}
	}
	onDelete := func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }
	for _, c := range []struct {
		it      string
		changes []modify
		reason  string
		text    string
	}{
		{"it is finished when all pods are new and available", nil, done, ""},
		{"nothing is known until the controller has seen the change", []modify{func(d *appsv1.DaemonSet) { d.Status.ObservedGeneration = 6 }}, rollingReason, "has not seen the change"},
		{"pods are still to be replaced", []modify{counts(3, 1, 3)}, rollingReason, ": 1 of 3 pods updated"},
		{"new pods are still to become available", []modify{counts(3, 3, 2)}, rollingReason, ": 2 of 3 updated pods available"},
		{"somebody has to delete its pods", []modify{onDelete, counts(3, 1, 3)}, pausedReason, " replaces pods only when somebody deletes them: 1 of 3 pods updated"},
		{"somebody has deleted its pods", []modify{onDelete}, done, ""},
		{"where no node takes it, it is finished", []modify{counts(0, 0, 0)}, done, ""},
	} {
		t.Run(c.it, func(t *testing.T) {
			d := &appsv1.DaemonSet{}
			d.Generation, d.Status.ObservedGeneration = 7, 7
			counts(3, 3, 3)(d)
			for _, change := range c.changes {
				change(d)
			}
			expect(t, stateOf(t, v1alpha1.KindDaemonSet, d), c.reason, c.text)
		})
	}
}

func TestStateOfAnArgoRollout(t *testing.T) {
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
		it      string
		changes []modify
		reason  string
		text    string
	}{
		{"it is finished when it is healthy", nil, done, ""},
		{"nothing is known until the controller has seen the change", []modify{func(r *argoRollout) { r.Status.ObservedGeneration = "6" }}, rollingReason, "has not seen the change"},
		{"it makes progress", []modify{phase("Progressing", "more replicas need to be updated"), counts(4, 1, 4)}, rollingReason, ": 1 of 3 pods updated (more replicas need to be updated)"},
		{"it makes progress though the numbers are right", []modify{phase("Progressing", "")}, rollingReason, ": phase Progressing"},
		{"it waits at a step", []modify{phase("Paused", "CanaryPauseStep"), counts(4, 1, 4)}, pausedReason, " is paused: 1 of 3 pods updated (CanaryPauseStep)"},
		{"somebody has paused it", []modify{phase("Progressing", ""), counts(4, 1, 4), func(r *argoRollout) { r.Spec.Paused = true }}, pausedReason, " is paused"},
		{"it was aborted", []modify{phase("Degraded", "RolloutAborted"), counts(4, 1, 4)}, stuckReason, " is degraded: 1 of 3 pods updated (RolloutAborted)"},
		{"the version before is still there, though it is healthy", []modify{counts(6, 3, 3)}, rollingReason, "old pods still there: 3"},
		{"a controller without phases says nothing", []modify{phase("", "")}, rollingReason, "phase "},
		{"its template is a Deployment's", []modify{func(r *argoRollout) { r.Spec.WorkloadRef = &argoWorkloadRef{Kind: "Deployment", Name: "orders"} }}, pausedReason, " takes its pod template from Deployment/orders"},
	} {
		t.Run(c.it, func(t *testing.T) {
			r := &argoRollout{Spec: argoSpec{Replicas: ptr.To[int32](3)}}
			r.Generation, r.Status.ObservedGeneration = 7, "7"
			phase("Healthy", "")(r)
			counts(3, 3, 3)(r)
			for _, change := range c.changes {
				change(r)
			}
			expect(t, stateOf(t, v1alpha1.KindRollout, r), c.reason, c.text)
		})
	}
}
