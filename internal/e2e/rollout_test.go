//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// newRigWithNodes is a rig on the bed with nodes.
func newRigWithNodes(t *testing.T, options ...option) *rig {
	t.Helper()
	b, err := startBedWithNodes()
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, b, options...)
}

func discovers(d *v1alpha1.DynamicSecret) { d.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true} }

// rotate requests a rotation and waits until the new credential is published. It returns the old object and Secret.
func (r *rig) rotate(name string) (before *v1alpha1.DynamicSecret, old *corev1.Secret) {
	r.t.Helper()
	before, old = r.get(name), r.target(name)
	r.edit(name, func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, time.Now().String())
	})
	r.untilReplaced(before)
	return before, old
}

// stampOf is the stamp of the Secret in the Deployment's pod template.
func (r *rig) stampOf(name, secretName string) string {
	r.t.Helper()
	d := &appsv1.Deployment{}
	if !r.read(name, d) {
		r.t.Fatalf("Deployment %s does not exist", name)
	}
	return d.Spec.Template.Annotations[rollout.StampKey(secretName)]
}

// holdsOldLease waits until the handover reports why it is waiting, and expects the old credential to be valid.
func (r *rig) holdsOldLease(name, reason, message string, old *corev1.Secret) {
	r.t.Helper()
	r.eventually("the old lease to be held: "+reason+", "+message, func() bool {
		c := meta.FindStatusCondition(r.get(name).Status.Conditions, v1alpha1.RotatedCondition)
		waiting := c != nil && c.Status == metav1.ConditionFalse
		return waiting && c.Reason == reason && strings.Contains(c.Message, message)
	})
	r.must(r.login(old))
}

// handoverCompletes waits until the handover is complete, and expects only the new credential to be valid.
func (r *rig) handoverCompletes(name string, old *corev1.Secret) {
	r.t.Helper()
	r.untilRotated(name)
	if r.login(old) == nil {
		r.t.Error("the old credential is still valid")
	}
	r.must(r.login(r.target(name)))
}

func TestEachWorkloadKindRollsOut(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	labels := map[string]string{"app": "stateful"}
	stateful := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "stateful", Labels: labels}}
	stateful.Spec.Replicas, stateful.Spec.Selector = new(int32(2)), &metav1.LabelSelector{MatchLabels: labels}
	stateful.Spec.Template = podsWith(labels, "orders")
	each := map[string]string{"app": "each"}
	daemon := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "each", Labels: each}}
	daemon.Spec.Selector, daemon.Spec.Template = &metav1.LabelSelector{MatchLabels: each}, podsWith(each, "orders")
	r.ready("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rollout = &v1alpha1.RolloutSpec{Targets: []v1alpha1.RolloutTarget{
			{Kind: v1alpha1.KindDeployment, Name: "named"},
			{Kind: v1alpha1.KindStatefulSet, Selector: &metav1.LabelSelector{MatchLabels: labels}},
			{Kind: v1alpha1.KindDaemonSet, Name: "each"},
		}}
	})
	named, other := r.workload("named", "orders", 2), r.workload("other", "orders", 1)
	for _, o := range []client.Object{named, other, stateful, daemon} {
		r.create(o)
	}
	r.available("named")
	r.available("other")
	_, old := r.rotate("orders")
	r.handoverCompletes("orders", old)
	stamp := r.get("orders").Status.Handover.Stamp
	var pods corev1.PodList
	r.must(r.Kube.List(t.Context(), &pods, client.InNamespace(r.name)))
	for _, pod := range pods.Items {
		want := stamp
		if pod.Labels["app"] == "other" {
			want = ""
		}
		if got := pod.Annotations[rollout.StampKey("orders")]; got != want {
			t.Errorf("pod %s has the stamp %q, want %q", pod.Name, got, want)
		}
	}
}

func TestDiscoveryFindsEachUseOfASecret(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", discovers)
	orders := corev1.LocalObjectReference{Name: "orders"}
	uses := map[string]func(*corev1.PodSpec){
		"env-from": func(pod *corev1.PodSpec) { *pod = podsWith(nil, "orders").Spec },
		"env": func(pod *corev1.PodSpec) {
			key := &corev1.SecretKeySelector{LocalObjectReference: orders, Key: "username"}
			pod.Containers[0].Env = []corev1.EnvVar{{Name: "USER", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: key}}}
		},
		"volume": func(pod *corev1.PodSpec) {
			source := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders"}}
			pod.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		},
		"projected": func(pod *corev1.PodSpec) {
			sources := []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: orders}}}
			source := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}
			pod.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		},
		"pull":      func(pod *corev1.PodSpec) { pod.ImagePullSecrets = []corev1.LocalObjectReference{orders} },
		"unrelated": func(*corev1.PodSpec) {},
	}
	for name, use := range uses {
		d := r.workload(name, "others", 1)
		use(&d.Spec.Template.Spec)
		r.create(d)
	}
	for name := range uses {
		r.available(name)
	}
	_, old := r.rotate("orders")
	r.handoverCompletes("orders", old)
	stamp := r.get("orders").Status.Handover.Stamp
	for name := range uses {
		if stamped := r.stampOf(name, "orders") == stamp; stamped != (name != "unrelated") {
			t.Errorf("%s has the stamp: %v", name, stamped)
		}
	}
}

func TestUnmanagedPodHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", discovers)
	bare := &corev1.Pod{ObjectMeta: r.named("bare"), Spec: podsWith(nil, "orders").Spec}
	r.create(bare)
	r.eventually("the pod to run", func() bool {
		return r.read("bare", bare) && bare.Status.Phase == corev1.PodRunning
	})
	_, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRollingOut, "Pod/bare started before the new credential", old)
	r.must(r.Kube.Delete(t.Context(), bare))
	r.handoverCompletes("orders", old)
}

func TestStuckRolloutHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", rollsOut("orders"))
	d := r.workload("orders", "orders", 2)
	d.Spec.ProgressDeadlineSeconds = new(int32(3))
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { // new pods do not become ready
		d.Spec.Template.Annotations = map[string]string{testbed.UnreadyAnnotation: "true"}
	})
	_, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRolloutStuck, "Deployment/orders", old)
	change(r, d, func(d *appsv1.Deployment) {
		delete(d.Spec.Template.Annotations, testbed.UnreadyAnnotation)
	})
	r.handoverCompletes("orders", old)
}

func TestPausedDeploymentHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", rollsOut("orders"))
	d := r.workload("orders", "orders", 2)
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	_, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRolloutPaused, "Deployment/orders is paused", old)
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	r.handoverCompletes("orders", old)
}

func TestMissingRolloutTargetHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", rollsOut("order"))
	_, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRolloutTargetNotFound, "Deployment/order does not exist", old)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRolloutTargetNotFound)
	r.create(r.workload("order", "orders", 1))
	r.handoverCompletes("orders", old)
	if c := r.get("orders").Status.Conditions; len(c) != 3 { // Ready, Leased, Rotated
		t.Errorf("%+v", c)
	}
}

func TestWorkloadScaledToZeroHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", rollsOut("orders"))
	r.create(r.workload("orders", "orders", 0))
	r.available("orders")
	_, old := r.rotate("orders")
	r.handoverCompletes("orders", old)
	if r.stampOf("orders", "orders") != r.get("orders").Status.Handover.Stamp {
		t.Error("the pod template is not stamped")
	}
}

func TestStuckRolloutHoldsUntilMaxTTL(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t, withTTL(10*time.Second, 20*time.Second))
	r.ready("orders", rollsOut("orders"))
	d := r.workload("orders", "orders", 1)
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	before, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRolloutPaused, "is paused", old)
	r.until("orders", "rid of the first lease", func(d *v1alpha1.DynamicSecret) bool {
		return !retires(d, leaseID(before))
	})
	if r.login(old) == nil {
		t.Error("the old credential is valid after its lease has ended")
	}
}

func TestTwoSecretsOfOneWorkloadRollOutOnce(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", discovers)
	r.ready("invoices", discovers)
	d := r.workload("both", "orders", 2)
	app := &d.Spec.Template.Spec.Containers[0]
	app.EnvFrom = append(app.EnvFrom, podsWith(nil, "invoices").Spec.Containers[0].EnvFrom...)
	r.create(d)
	r.available("both")
	_, old := r.rotate("orders")
	_, other := r.rotate("invoices")
	r.handoverCompletes("orders", old)
	r.handoverCompletes("invoices", other)
	if n := r.rolledOut("both"); n != 1 {
		t.Errorf("the workload was rolled out %d times", n)
	}
}

// An admission policy removes the stamp. The old lease is held and the condition says why, after few patches. Without
// the policy, another rotation ends the pause.
func TestRemovedStampIsReported(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.ready("orders", discovers)
	r.create(r.workload("orders", "orders", 1))
	r.available("orders")
	policy := r.mutate(admissionv1.Rule{
		APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"},
	}, admissionv1.Mutation{
		PatchType: admissionv1.PatchTypeJSONPatch,
		JSONPatch: &admissionv1.JSONPatch{Expression: `has(object.spec.template.metadata.annotations) ? ` +
			`[JSONPatch{op: "remove", path: "/spec/template/metadata/annotations"}] : []`},
	})
	r.eventually("the API server to remove annotations", func() bool {
		probe := r.workload("probe", "none", 0)
		probe.Spec.Template.Annotations = map[string]string{"a": "b"}
		r.must(r.Kube.Create(t.Context(), probe, client.DryRunAll))
		return len(probe.Spec.Template.Annotations) == 0
	})
	mark := r.apiMark()
	_, old := r.rotate("orders")
	r.holdsOldLease("orders", v1alpha1.ReasonRolloutContested, rollout.StampKey("orders"), old)
	t.Log(r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRolloutContested))
	r.eventually("the event", func() bool { return r.warned(dynamic, v1alpha1.ReasonRolloutContested, "") })
	patches := r.managerCalls(mark, func(a testbed.APIRequest) bool {
		return a.Resource == "deployments" && a.Verb == "patch"
	})
	if len(patches) == 0 || len(patches) > 5 {
		t.Errorf("%d patches of the Deployment", len(patches))
	}
	r.must(r.Kube.Delete(t.Context(), policy))
	r.eventually("the policy to end", func() bool {
		probe := r.workload("probe", "none", 0)
		probe.Spec.Template.Annotations = map[string]string{"a": "b"}
		r.must(r.Kube.Create(t.Context(), probe, client.DryRunAll))
		return len(probe.Spec.Template.Annotations) == 1
	})
	_, old = r.rotate("orders")
	r.handoverCompletes("orders", old)
}
