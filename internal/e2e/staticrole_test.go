//go:build integration

package e2e

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Vault checks every 5 s whether a rotation is due. Until then the ttl of a static role is 0, for up to 5 s.
const rotationPeriod = 20 * time.Second

func TestStaticRoleIsReadOnceAfterEachRotation(t *testing.T) {
	t.Parallel()
	r := newRigWithNodes(t)
	r.create(r.workload("web", "orders", 1))
	r.available("web")
	mark, versions := r.apiMark(), r.versionsOf("orders")
	r.ready("orders", requesting(r.staticRole("app", rotationPeriod)), refreshing(10*time.Second),
		func(d *v1alpha1.DynamicSecret) {
			d.Spec.Rollout = &v1alpha1.RolloutSpec{Targets: []v1alpha1.RolloutTarget{{Name: "web"}}}
		})
	r.must(r.login(r.target("orders")))

	r.eventually("two rotations to be published", func() bool { return len(versions.all()) >= 3 })
	seen := versions.all()[:3]
	for i := 1; i < len(seen); i++ {
		if bytes.Equal(seen[i].Data["password"], seen[i-1].Data["password"]) {
			t.Errorf("version %d of the Secret has the password of the version before", i+1)
		}
	}
	r.must(r.login(r.target("orders")))
	written := r.secretWrites(mark, 3)
	for i := 1; i < 3; i++ {
		rotated, err := time.Parse(time.RFC3339, string(seen[i].Data["last_vault_rotation"]))
		r.must(err)
		after := written[i].Sub(rotated)
		t.Logf("rotation %d: in the Secret after %s", i, after)
		if after < 0 || after > 2*time.Second {
			t.Errorf("Vault rotated at %s, and the Secret was written at %s", rotated, written[i])
		}
	}

	r.eventually("the second rollout", func() bool { return len(r.rollouts(mark)) >= 2 })
	r.eventually("the events of two rotations", func() bool { return r.eventsFor(v1alpha1.ReasonRefreshed) >= 2 })
	// A third rotation may have begun.
	rotations := len(versions.all()) - 1
	rollouts, events := len(r.rollouts(mark)), r.eventsFor(v1alpha1.ReasonRefreshed)
	if rollouts > rotations || events > rotations {
		t.Errorf("%d rotations cost %d rollouts and %d events", rotations, rollouts, events)
	}
	r.remove("orders")
}

// rollouts are the restarts of workloads by the manager since the mark.
func (r *rig) rollouts(since testbed.Mark) []testbed.APIRequest {
	r.t.Helper()
	return r.managerCalls(since, writing("deployments"))
}

// eventsFor counts the events of the rig's objects with the reason. The second of a series is recorded in the first;
// client-go does not report the third for minutes.
func (r *rig) eventsFor(reason string) int {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	n := 0
	for _, e := range list.Items {
		switch {
		case e.Reason != reason:
		case e.Series != nil:
			n += int(e.Series.Count)
		default:
			n++
		}
	}
	return n
}

// secretVersions are the versions of a Secret, in order.
type secretVersions struct {
	mu    sync.Mutex
	found []*corev1.Secret
}

func (v *secretVersions) all() []*corev1.Secret {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.found)
}

// versionsOf watches a Secret until the test ends.
func (r *rig) versionsOf(name string) *secretVersions {
	r.t.Helper()
	kube, err := kubernetes.NewForConfig(r.Plane.Config)
	r.must(err)
	only := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	watch, err := kube.CoreV1().Secrets(r.name).Watch(r.t.Context(), only)
	r.must(err)
	r.t.Cleanup(watch.Stop)
	v := &secretVersions{}
	go func() {
		for event := range watch.ResultChan() {
			if s, ok := event.Object.(*corev1.Secret); ok {
				v.mu.Lock()
				v.found = append(v.found, s)
				v.mu.Unlock()
			}
		}
	}()
	return v
}
