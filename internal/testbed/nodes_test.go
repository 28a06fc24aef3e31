//go:build integration

package testbed_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const readyAfter = 300 * time.Millisecond

// withNodes starts three nodes in the shared control plane, once.
var withNodes = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return bed.plane.StartNodes(ctx, testbed.NodesOptions{ReadyAfter: readyAfter})
})

// nodes starts the nodes and creates a namespace for the test.
func nodes(t *testing.T, namespace string) string {
	t.Helper()
	check(t, withNodes())
	account(t, namespace)
	return namespace
}

func pods(app string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: maps.Clone(annotations)},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "prepare", Image: "app"}},
			Containers:     []corev1.Container{{Name: "app", Image: "app"}},
		},
	}
}

func deployment(name string, annotations map[string]string) *appsv1.Deployment {
	replicas := int32(3)
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: selector(name), Template: pods(name, annotations),
	}}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

// annotate returns a patch of a pod template.
func annotate(key string) []byte {
	return fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{%q:"now"}}}}}`, key)
}

// awaitRollout waits with kubectl.
func awaitRollout(t *testing.T, namespace, workload string) {
	t.Helper()
	must(bed.plane.Kubectl(t.Context(), "rollout", "status", workload, "-n", namespace, "--timeout=60s"))(t)
}

// podsOf returns the pods of an app that are not terminating.
func podsOf(t *testing.T, namespace, app string) []corev1.Pod {
	t.Helper()
	list := must(admin(t).CoreV1().Pods(namespace).List(t.Context(),
		metav1.ListOptions{LabelSelector: "app=" + app}))(t)
	var running []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			running = append(running, pod)
		}
	}
	return running
}

func isReady(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestWorkloadsRollOutOnNodes(t *testing.T) {
	namespace, client, ctx := nodes(t, "rollouts"), admin(t), t.Context()
	three := int32(3)
	must(client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", nil), metav1.CreateOptions{}))(t)
	must(client.AppsV1().StatefulSets(namespace).Create(ctx,
		&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "store"}, Spec: appsv1.StatefulSetSpec{
			Replicas: &three, Selector: selector("store"), Template: pods("store", nil),
		}}, metav1.CreateOptions{}))(t)
	must(client.AppsV1().DaemonSets(namespace).Create(ctx,
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{
			Selector: selector("agent"), Template: pods("agent", nil),
		}}, metav1.CreateOptions{}))(t)
	workloads := map[string]string{"web": "deployment/web", "store": "statefulset/store", "agent": "daemonset/agent"}
	for _, workload := range workloads {
		awaitRollout(t, namespace, workload)
	}

	must(client.AppsV1().Deployments(namespace).Patch(ctx, "web", types.StrategicMergePatchType, annotate("restarted"),
		metav1.PatchOptions{}))(t)
	must(client.AppsV1().StatefulSets(namespace).Patch(ctx, "store", types.StrategicMergePatchType,
		annotate("restarted"), metav1.PatchOptions{}))(t)
	must(client.AppsV1().DaemonSets(namespace).Patch(ctx, "agent", types.StrategicMergePatchType, annotate("restarted"),
		metav1.PatchOptions{}))(t)
	for app, workload := range workloads {
		awaitRollout(t, namespace, workload)
		eventually(t, "three new pods of "+app+" and no other pod", func() (bool, error) {
			return threeNewPodsReady(podsOf(t, namespace, app)), nil
		})
	}
}

func threeNewPodsReady(pods []corev1.Pod) bool {
	for _, pod := range pods {
		if pod.Annotations["restarted"] == "" || !isReady(pod) || pod.Status.PodIP == "" {
			return false
		}
	}
	return len(pods) == 3
}

func TestRolloutToUnreadyPodsIsStuck(t *testing.T) {
	namespace, client, ctx := nodes(t, "stuck"), admin(t), t.Context()
	must(client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", nil), metav1.CreateOptions{}))(t)
	awaitRollout(t, namespace, "deployment/web")

	must(client.AppsV1().Deployments(namespace).Patch(ctx, "web", types.StrategicMergePatchType,
		annotate(testbed.UnreadyAnnotation), metav1.PatchOptions{}))(t)
	var stuck corev1.Pod
	eventually(t, "a new pod to run", func() (bool, error) {
		for _, pod := range podsOf(t, namespace, "web") {
			if pod.Annotations[testbed.UnreadyAnnotation] != "" && pod.Status.Phase == corev1.PodRunning {
				stuck = pod
				return true, nil
			}
		}
		return false, nil
	})
	time.Sleep(5 * readyAfter)
	now := must(client.CoreV1().Pods(namespace).Get(ctx, stuck.Name, metav1.GetOptions{}))(t)
	if isReady(*now) {
		t.Error("a pod with the annotation became ready")
	}
	eventually(t, "three available old pods and one new pod", func() (bool, error) {
		web, err := client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && web.Status.AvailableReplicas == 3 && web.Status.UpdatedReplicas == 1, err
	})

	must(bed.plane.Kubectl(ctx, "annotate", "pod", stuck.Name, "-n", namespace, testbed.UnreadyAnnotation+"-"))(t)
	eventually(t, "the pod to be ready without the annotation", func() (bool, error) {
		now, err := client.CoreV1().Pods(namespace).Get(ctx, stuck.Name, metav1.GetOptions{})
		return err == nil && isReady(*now), err
	})
}

func TestPodDeletionAndJobCompletion(t *testing.T) {
	namespace, client, ctx := nodes(t, "deletion"), admin(t), t.Context()
	must(client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", nil), metav1.CreateOptions{}))(t)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: batchv1.JobSpec{Template: pods("once", nil)}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	must(client.BatchV1().Jobs(namespace).Create(ctx, job, metav1.CreateOptions{}))(t)
	awaitRollout(t, namespace, "deployment/web")
	check(t, client.AppsV1().Deployments(namespace).Delete(ctx, "web", metav1.DeleteOptions{}))
	eventually(t, "the pods of web to be gone", func() (bool, error) {
		list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		return err == nil && len(list.Items) == 0, err
	})
	must(bed.plane.Kubectl(ctx, "wait", "--for=condition=Complete", "job/once", "-n", namespace, "--timeout=60s"))(t)
}
