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

// handOver is one that is watched to its end on a cluster with nodes.
type handOver struct {
	*testing.T
	client.Client
	who       Consumer
	published time.Time
}

func newHandOver(t *testing.T) *handOver {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	h := &handOver{T: t}
	h.check(plane.StartNodes(ctx, testbed.NodesOptions{}))
	h.Client, err = client.New(plane.Config, client.Options{})
	h.check(err)
	h.check(h.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	return h
}

func (h *handOver) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// eventually polls Follow, with a deadline that only a fault reaches. No answer may say that it is done while a pod is
// left that was there at the publication.
func (h *handOver) eventually(what string, holds func(Progress) bool) {
	h.Helper()
	var last Progress
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var err error
		last, err = (&Rollouts{Reader: h, Writer: h}).Follow(h.Context(), h.who, h.published, nil, false)
		h.check(err)
		if old := h.old(); last.Done && len(old) > 0 {
			h.Fatalf("done, while these have the old credential: %v", old)
		}
		if holds(last) {
			return
		}
	}
	h.Fatalf("%s: the last progress is %+v", what, last)
}

// old pods, told by their creation alone.
func (h *handOver) old() (names []string) {
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

// publish a credential. Pods of the second before count as old, so that second is over afterwards.
func (h *handOver) publish(stamp string) {
	h.who = discovering("orders-db", stamp)
	h.published = time.Now().Truncate(time.Second)
	time.Sleep(time.Until(h.published.Add(1100 * time.Millisecond)))
}

func waitsFor(text string) func(Progress) bool {
	return func(p Progress) bool { return strings.Contains(strings.Join(p.Waiting, "\n"), text) }
}

func TestAHandOverEndsWithTheLastOldPod(t *testing.T) {
	h := newHandOver(t)
	orders, set := deployment("orders", "orders-db"), statefulSet("orders-set", "orders-db")
	orders.Spec.Replicas, set.Spec.Replicas = ptr.To[int32](3), ptr.To[int32](2)
	byHand := statefulSet("orders-by-hand", "orders-db")
	byHand.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	all := []client.Object{orders, set, daemonSet("orders-agent", "orders-db"), byHand}
	for _, o := range all {
		h.check(h.Create(t.Context(), o))
	}
	h.publish("o1")
	// There may be no pod yet, and so no old one.
	h.eventually("the pods of the StatefulSet by hand", func(p Progress) bool {
		return p.Done || len(p.Waiting) == 1 && waitsFor("StatefulSet/orders-by-hand replaces pods only when somebody deletes them")(p)
	})
	h.deletePod("orders-by-hand-0")
	h.eventually("the first hand-over", func(p Progress) bool { return p.Done })

	h.publish("o2")
	h.eventually("all but the one that waits for a person", func(p Progress) bool {
		return p.Reason == v1alpha1.ReasonRolloutPaused && len(p.Waiting) == 1 && waitsFor("StatefulSet/orders-by-hand replaces pods only when somebody deletes them: 0 of 1 pods updated")(p)
	})
	h.deletePod("orders-by-hand-0")
	h.eventually("the second hand-over", func(p Progress) bool { return p.Done })
	for _, o := range all {
		h.check(h.Get(t.Context(), client.ObjectKeyFromObject(o), o))
		if o.GetGeneration() != 3 || annotations(o)[StampKey("orders-db")] != "o2" {
			t.Errorf("%s: generation %d, %v; want two changes after the creation", o.GetName(), o.GetGeneration(), annotations(o))
		}
	}
	h.aFinalizerHoldsTheLease(orders)
}

// aFinalizerHoldsTheLease: a pod that is deleted and does not go is no longer counted in any status.
func (h *handOver) aFinalizerHoldsTheLease(orders *appsv1.Deployment) {
	h.Helper()
	list := &corev1.PodList{}
	h.check(h.List(h.Context(), list, client.InNamespace(namespace), client.MatchingLabels(orders.Spec.Selector.MatchLabels)))
	held := &list.Items[0]
	held.Finalizers = []string{"example.org/slow"}
	h.check(h.Update(h.Context(), held))
	h.publish("o3")
	h.eventually("the pod that does not go", waitsFor(fmt.Sprintf("Deployment/orders: pod %s started before the new credential", held.Name)))
	h.check(h.Get(h.Context(), client.ObjectKeyFromObject(held), held))
	held.Finalizers = nil
	h.check(h.Update(h.Context(), held))
	h.eventually("the rest without the one that waits for a person", func(p Progress) bool {
		return len(p.Waiting) == 1 && waitsFor("StatefulSet/orders-by-hand")(p)
	})
}

func (h *handOver) deletePod(name string) {
	h.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	h.check(client.IgnoreNotFound(h.Delete(h.Context(), p)))
}
