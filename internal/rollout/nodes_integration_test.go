//go:build integration

package rollout

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// handover is a handover on a cluster with nodes.
type handover struct {
	*testing.T
	client.Client
	consumer  Consumer
	published time.Time
}

func newHandover(t *testing.T) *handover {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	h := &handover{T: t}
	h.check(plane.StartNodes(ctx, testbed.NodesOptions{}))
	h.Client, err = client.New(plane.Config, client.Options{})
	h.check(err)
	h.check(h.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	return h
}

func (h *handover) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// eventually polls Follow for up to two minutes. Follow must not be done while an old pod exists.
func (h *handover) eventually(what string, holds func(Progress) bool) {
	h.Helper()
	var last Progress
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var err error
		last, err = (&Rollouts{Reader: h, Writer: h}).Follow(h.Context(), h.consumer, h.published, nil, false)
		h.check(err)
		if old := h.old(); last.Done && len(old) > 0 {
			h.Fatalf("done while these pods hold the old credential: %v", old)
		}
		if holds(last) {
			return
		}
	}
	h.Fatalf("timed out waiting for %s: %+v", what, last)
}

// old returns the pods created before the publication.
func (h *handover) old() (names []string) {
	h.Helper()
	list := &corev1.PodList{}
	h.check(h.List(h.Context(), list, client.InNamespace(namespace)))
	for _, p := range list.Items {
		if !p.CreationTimestamp.After(h.published) {
			names = append(names, p.Name)
		}
	}
	return names
}

// publish waits for the second of publication to end. Pods created in that second count as old.
func (h *handover) publish(stamp string) {
	h.consumer = discoverConsumer("orders-db", stamp)
	h.published = time.Now().Truncate(time.Second)
	time.Sleep(time.Until(h.published.Add(1100 * time.Millisecond)))
}

func waitsFor(text string) func(Progress) bool {
	return func(p Progress) bool { return strings.Contains(strings.Join(p.Waiting, "\n"), text) }
}

func TestHandoverEndsWithTheLastOldPod(t *testing.T) {
	h := newHandover(t)
	orders, set := deployment("orders", "orders-db"), statefulSet("orders-set", "orders-db")
	orders.Spec.Replicas, set.Spec.Replicas = ptr.To[int32](3), ptr.To[int32](2)
	onDelete := statefulSet("orders-on-delete", "orders-db")
	onDelete.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	all := []client.Object{orders, set, daemonSet("orders-agent", "orders-db"), onDelete}
	for _, o := range all {
		h.check(h.Create(t.Context(), o))
	}
	h.publish("o1")
	// There may be no pod yet, and thus no old pod.
	h.eventually("the OnDelete StatefulSet", func(p Progress) bool {
		return p.Done || len(p.Waiting) == 1 &&
			waitsFor("StatefulSet/orders-on-delete replaces only pods that are deleted (OnDelete)")(p)
	})
	h.deletePod("orders-on-delete-0")
	h.eventually("the first handover", func(p Progress) bool { return p.Done })

	h.publish("o2")
	h.eventually("all but the OnDelete StatefulSet", func(p Progress) bool {
		const text = "StatefulSet/orders-on-delete replaces only pods that are deleted (OnDelete): 0 of 1 pods updated"
		return p.Reason == v1alpha1.ReasonRolloutPaused && len(p.Waiting) == 1 && waitsFor(text)(p)
	})
	h.deletePod("orders-on-delete-0")
	h.eventually("the second handover", func(p Progress) bool { return p.Done })
	for _, o := range all {
		h.check(h.Get(t.Context(), client.ObjectKeyFromObject(o), o))
		if o.GetGeneration() != 3 || annotations(o)[StampKey("orders-db")] != "o2" {
			t.Errorf("%s: generation %d, %v; want two changes after creation", o.GetName(), o.GetGeneration(),
				annotations(o))
		}
	}
	h.finalizerKeepsTheOldLease(orders)
}

// finalizerKeepsTheOldLease checks a terminating pod, which no workload status counts.
func (h *handover) finalizerKeepsTheOldLease(orders *appsv1.Deployment) {
	h.Helper()
	list := &corev1.PodList{}
	h.check(h.List(h.Context(), list, client.InNamespace(namespace),
		client.MatchingLabels(orders.Spec.Selector.MatchLabels)))
	terminating := &list.Items[0]
	terminating.Finalizers = []string{"example.org/slow"}
	h.check(h.Update(h.Context(), terminating))
	h.publish("o3")
	h.eventually("the pod with a finalizer",
		waitsFor(fmt.Sprintf("Deployment/orders: pod %s started before the new credential", terminating.Name)))
	h.check(h.Get(h.Context(), client.ObjectKeyFromObject(terminating), terminating))
	terminating.Finalizers = nil
	h.check(h.Update(h.Context(), terminating))
	h.eventually("all but the OnDelete StatefulSet", func(p Progress) bool {
		return len(p.Waiting) == 1 && waitsFor("StatefulSet/orders-on-delete")(p)
	})
}

func (h *handover) deletePod(name string) {
	h.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	h.check(client.IgnoreNotFound(h.Delete(h.Context(), p)))
}
