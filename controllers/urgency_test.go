package controllers

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestOfManyThatAreDueTheNearestExpiryComesFirst(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	ending := func(name string, in time.Duration) v1alpha1.DynamicSecret {
		end := metav1.NewTime(now.Add(in))
		d := v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Name: name}}
		d.Status.Lease = &v1alpha1.LeaseRecord{ID: "l/" + name, ExpiresAt: &end}
		return d
	}
	going := ending("going", time.Second)
	going.DeletionTimestamp = &metav1.Time{Time: now}
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	h := byUrgency{clock: testclock.NewFakePassiveClock(now), about: func(context.Context, client.Object) []v1alpha1.DynamicSecret {
		return []v1alpha1.DynamicSecret{
			ending("in an hour", time.Hour), {ObjectMeta: metav1.ObjectMeta{Name: "without a lease"}}, going,
			ending("in a second", time.Second), ending("in eleven seconds", 11*time.Second), ending("in half a minute", 30*time.Second), ending("over", -time.Second),
		}
	}}
	h.Generic(t.Context(), event.GenericEvent{Object: &v1alpha1.DynamicSecret{}}, q)
	for _, want := range []string{"in a second", "over", "in eleven seconds", "in half a minute", "without a lease", "going", "in an hour"} {
		if got, _ := q.Get(); got.Name != want {
			t.Errorf("%q came, where %q should have", got.Name, want)
		}
	}
}
