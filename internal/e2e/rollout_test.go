//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// newFleetRoom is a room on the bed with nodes.
func newFleetRoom(t *testing.T, options ...option) *room {
	t.Helper()
	b, err := fleet()
	if err != nil {
		t.Fatal(err)
	}
	return newRoom(t, b, options...)
}

func discovers(d *v1alpha1.DynamicSecret) { d.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true} }

// rotate orders a rotation and waits until the new credential is published. It returns the object of before.
func (r *room) rotate(name string) (before *v1alpha1.DynamicSecret, old *corev1.Secret) {
	r.t.Helper()
	before, old = r.get(name), r.target(name)
	r.edit(name, func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, time.Now().String())
	})
	r.untilReplaced(before)
	return before, old
}

// stampOf is what the pod template of the Deployment carries for a Secret.
func (r *room) stampOf(name, secretName string) string {
	r.t.Helper()
	d := &appsv1.Deployment{}
	if !r.read(name, d) {
		r.t.Fatalf("there is no Deployment %s", name)
	}
	return d.Spec.Template.Annotations[rollout.StampKey(secretName)]
}

// holds waits until the hand-over waits for that reason, and shows that the old credential works.
func (r *room) holds(name, reason, says string, old *corev1.Secret) {
	r.t.Helper()
	r.eventually("the old lease to be held: "+reason+", "+says, func() bool {
		d := r.get(name)
		for _, c := range d.Status.Conditions {
			if c.Type == v1alpha1.RotatedCondition && c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, says) {
				return true
			}
		}
		return false
	})
	r.must(r.login(old))
}

// movesOn waits until the hand-over is over; then the old credential is refused, and the new one works.
func (r *room) movesOn(name string, old *corev1.Secret) {
	r.t.Helper()
	r.untilRotated(name)
	if r.login(old) == nil {
		r.t.Error("the old credential works still")
	}
	r.must(r.login(r.target(name)))
}

func TestWorkloadsOfEachKindMoveToTheNewCredential(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	labels := map[string]string{"app": "stateful"}
	stateful := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "stateful", Labels: labels}}
	stateful.Spec.Replicas, stateful.Spec.Selector, stateful.Spec.Template = new(int32(2)), &metav1.LabelSelector{MatchLabels: labels}, podsWith(labels, "orders")
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
	for _, o := range []client.Object{r.workload("named", "orders", 2), r.workload("other", "orders", 1), stateful, daemon} {
		r.create(o)
	}
	r.available("named")
	r.available("other")
	_, old := r.rotate("orders")
	r.movesOn("orders", old)
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

func TestWorkloadsAreDiscoveredByTheSecretThatTheyUse(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", discovers)
	uses := map[string]func(*corev1.PodSpec){
		"env-from": func(pod *corev1.PodSpec) { *pod = podsWith(nil, "orders").Spec },
		"env": func(pod *corev1.PodSpec) {
			key := &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "orders"}, Key: "username"}
			pod.Containers[0].Env = []corev1.EnvVar{{Name: "USER", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: key}}}
		},
		"volume": func(pod *corev1.PodSpec) {
			pod.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "orders"}}}}
		},
		"projected": func(pod *corev1.PodSpec) {
			sources := []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "orders"}}}}
			pod.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}}
		},
		"pull":     func(pod *corev1.PodSpec) { pod.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "orders"}} },
		"stranger": func(*corev1.PodSpec) {},
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
	r.movesOn("orders", old)
	stamp := r.get("orders").Status.Handover.Stamp
	for name := range uses {
		if stamped := r.stampOf(name, "orders") == stamp; stamped != (name != "stranger") {
			t.Errorf("%s has the stamp: %v", name, stamped)
		}
	}
}

func TestAPodOfNobodysThatStartedBeforeHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", discovers)
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "bare"}, Spec: podsWith(nil, "orders").Spec}
	r.create(bare)
	r.eventually("the pod to run", func() bool { return r.read("bare", bare) && bare.Status.Phase == corev1.PodRunning })
	_, old := r.rotate("orders")
	r.holds("orders", v1alpha1.ReasonRollingOut, "Pod/bare started before the new credential", old)
	r.must(r.Kube.Delete(t.Context(), bare))
	r.movesOn("orders", old)
}

func TestAStuckRollOutHoldsTheOldLeaseAndIsNamed(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", rollsOut("orders"))
	d := r.workload("orders", "orders", 2)
	d.Spec.ProgressDeadlineSeconds = new(int32(3))
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { // the pods that come now do not become ready
		d.Spec.Template.Annotations = map[string]string{testbed.UnreadyAnnotation: "true"}
	})
	_, old := r.rotate("orders")
	r.holds("orders", v1alpha1.ReasonRolloutStuck, "Deployment/orders", old)
	change(r, d, func(d *appsv1.Deployment) { delete(d.Spec.Template.Annotations, testbed.UnreadyAnnotation) })
	r.movesOn("orders", old)
}

func TestAPausedDeploymentHoldsTheOldLeaseAndIsNamed(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", rollsOut("orders"))
	d := r.workload("orders", "orders", 2)
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	_, old := r.rotate("orders")
	r.holds("orders", v1alpha1.ReasonRolloutPaused, "Deployment/orders is paused", old)
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	r.movesOn("orders", old)
}

func TestATargetThatDoesNotExistHoldsTheOldLeaseAndStalls(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", rollsOut("order"))
	_, old := r.rotate("orders")
	r.holds("orders", v1alpha1.ReasonRolloutTargetNotFound, "Deployment/order does not exist", old)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRolloutTargetNotFound)
	r.create(r.workload("order", "orders", 1))
	r.movesOn("orders", old)
	if c := r.get("orders").Status.Conditions; len(c) != 3 { // Ready, Leased, Rotated
		t.Errorf("%+v", c)
	}
}

func TestAWorkloadThatIsScaledToZeroHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", rollsOut("orders"))
	r.create(r.workload("orders", "orders", 0))
	r.available("orders")
	_, old := r.rotate("orders")
	r.movesOn("orders", old)
	if r.stampOf("orders", "orders") != r.get("orders").Status.Handover.Stamp {
		t.Error("it is not stamped: the pods that it will have are none of the new template")
	}
}

func TestAStuckRollOutHoldsTheOldLeaseOnlyAsLongAsTheBackendAllows(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t, withTTL(10*time.Second, 20*time.Second))
	r.ready("orders", rollsOut("orders"), func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Overlap = &metav1.Duration{} })
	d := r.workload("orders", "orders", 1)
	r.create(d)
	r.available("orders")
	change(r, d, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	before, old := r.rotate("orders")
	r.holds("orders", v1alpha1.ReasonRolloutPaused, "is paused", old)
	r.until("orders", "rid of the first lease", func(d *v1alpha1.DynamicSecret) bool {
		for _, rec := range d.Status.Retiring {
			if rec.ID == before.Status.Lease.ID {
				return false
			}
		}
		return true
	})
	if r.login(old) == nil {
		t.Error("the backend has ended it")
	}
}

func TestTwoSecretsOfOneWorkloadRollItOutOnce(t *testing.T) {
	t.Parallel()
	r := newFleetRoom(t)
	r.ready("orders", discovers)
	r.ready("invoices", discovers)
	d := r.workload("both", "orders", 2)
	d.Spec.Template.Spec.Containers[0].EnvFrom = append(d.Spec.Template.Spec.Containers[0].EnvFrom, podsWith(nil, "invoices").Spec.Containers[0].EnvFrom...)
	r.create(d)
	r.available("both")
	_, old := r.rotate("orders")
	_, other := r.rotate("invoices")
	r.movesOn("orders", old)
	r.movesOn("invoices", other)
	if n := r.rolledOut("both"); n != 1 {
		t.Errorf("it was rolled out %d times", n)
	}
}
