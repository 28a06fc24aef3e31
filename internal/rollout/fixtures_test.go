package rollout

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	namespace = "shop"
	stampNow  = "0123456789abcdef"
)

var published = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// podTemplate returns a pod template that reads Secrets into its environment.
func podTemplate(app string, secrets ...string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}}
	container := corev1.Container{Name: "main", Image: "example.org/app"}
	for _, s := range secrets {
		container.EnvFrom = append(container.EnvFrom, envFrom(s).EnvFrom[1])
	}
	t.Spec.Containers = []corev1.Container{container}
	return t
}

func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": name}}
}

func appSelector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func deployment(name string, secrets ...string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: objectMeta(name),
		Spec:       appsv1.DeploymentSpec{Selector: appSelector(name), Template: podTemplate(name, secrets...)},
	}
}

func statefulSet(name string, secrets ...string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: objectMeta(name),
		Spec:       appsv1.StatefulSetSpec{Selector: appSelector(name), Template: podTemplate(name, secrets...)},
	}
}

func daemonSet(name string, secrets ...string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: objectMeta(name),
		Spec:       appsv1.DaemonSetSpec{Selector: appSelector(name), Template: podTemplate(name, secrets...)},
	}
}

// pod returns a pod created at age before the publication.
func pod(app, name string, age time.Duration, changes ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: objectMeta(name), Spec: podTemplate(app, "orders-db").Spec}
	p.Labels["app"] = app
	p.CreationTimestamp = metav1.NewTime(published.Add(-age))
	for _, change := range changes {
		change(p)
	}
	return p
}

func ownedBy(kind string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		controller := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "owner", Controller: &controller}}
	}
}

func waitingFor(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: waiting}}
	}
}

func phase(phase corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = phase }
}

func discoverConsumer(secret, stamp string) Consumer {
	return Consumer{Namespace: namespace, Secret: secret, Stamp: stamp, Spec: v1alpha1.RolloutSpec{Discover: true}}
}

func targetConsumer(secret, stamp string, targets ...v1alpha1.RolloutTarget) Consumer {
	return Consumer{Namespace: namespace, Secret: secret, Stamp: stamp, Spec: v1alpha1.RolloutSpec{Targets: targets}}
}

func target(kind v1alpha1.WorkloadKind, name string) v1alpha1.RolloutTarget {
	return v1alpha1.RolloutTarget{Kind: kind, Name: name}
}

func selectorTarget(kind v1alpha1.WorkloadKind, app string) v1alpha1.RolloutTarget {
	return v1alpha1.RolloutTarget{Kind: kind, Selector: appSelector(app)}
}

// annotations returns those of the pod template.
func annotations(object client.Object) map[string]string {
	switch o := object.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template.Annotations
	case *appsv1.StatefulSet:
		return o.Spec.Template.Annotations
	case *appsv1.DaemonSet:
		return o.Spec.Template.Annotations
	}
	return nil
}
