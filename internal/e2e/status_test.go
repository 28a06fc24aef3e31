//go:build integration

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// flaps records each time that Ready is not True, until stop returns them.
func (r *rig) flaps() (stop func() []string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	kube, err := client.NewWithWatch(r.Plane.Config, client.Options{Scheme: r.Kube.Scheme()})
	r.must(err)
	objects, err := kube.Watch(ctx, &v1alpha1.DynamicSecretList{}, client.InNamespace(r.name))
	r.must(err)
	var seen []string
	var following sync.WaitGroup
	following.Go(func() {
		for e := range objects.ResultChan() {
			d, ok := e.Object.(*v1alpha1.DynamicSecret)
			if !ok {
				continue
			}
			ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
			if ready == nil || ready.Status != metav1.ConditionTrue {
				seen = append(seen, fmt.Sprintf("%s at version %s: %+v", d.Name, d.ResourceVersion, ready))
			}
		}
	})
	return func() []string {
		cancel()
		objects.Stop()
		following.Wait()
		return seen
	}
}

func TestReadyStaysTrueThroughRotations(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders", rotation(time.Second, 0))
	stop := r.flaps()
	for i := range 4 {
		r.annotate(v1alpha1.RotateRequestedAtAnnotation, fmt.Sprint(i))
		after := r.untilReplaced(before)
		if after.Status.ExpiresAt == nil || after.Status.ExpiresAt.Before(before.Status.ExpiresAt) {
			t.Errorf("it expires at %s, before the rotation at %s", after.Status.ExpiresAt, before.Status.ExpiresAt)
		}
		before = after
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Target.Labels = map[string]string{"team": "shop"}
		d.Spec.Lease.Increment = &metav1.Duration{Duration: 2 * time.Hour}
	})
	r.untilReady("orders")
	r.untilRotated("orders")
	for _, flap := range stop() {
		t.Error(flap)
	}
}
