package controllers

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	// noHurry is for how soon an object without a lease wants to be looked at: after leases that end before that.
	noHurry = time.Minute
	// tooLate is the same for an object whose lease is over. A new one costs many times what a renewal does; those that
	// can still be saved by one are not to be lost to it.
	tooLate = 10 * time.Second
)

// urgencyEpoch keeps urgencies small enough for an int of 32 bits.
var urgencyEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// urgency is an object's priority in the work queue: the sooner its lease ends, the higher. When thousands are due at
// once, after an outage or a restart, those that can still be saved are not lost behind those that have time.
func urgency(d *v1alpha1.DynamicSecret, now time.Time) int {
	by := now.Add(noHurry)
	if end, ok := lease.LifeEnd(d.Status.Lease); ok && d.DeletionTimestamp.IsZero() {
		by = end
		if !end.After(now) {
			by = now.Add(tooLate)
		}
	}
	return int(urgencyEpoch.Sub(by) / time.Second)
}

// byUrgency enqueues the DynamicSecrets that an event is about, each with its urgency.
type byUrgency struct {
	clock clock.PassiveClock
	about func(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret
}

type requestQueue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Create implements handler.EventHandler.
func (h byUrgency) Create(ctx context.Context, e event.CreateEvent, q requestQueue) {
	h.add(ctx, e.Object, q)
}

// Update implements handler.EventHandler.
func (h byUrgency) Update(ctx context.Context, e event.UpdateEvent, q requestQueue) {
	h.add(ctx, e.ObjectNew, q)
}

// Delete implements handler.EventHandler.
func (h byUrgency) Delete(ctx context.Context, e event.DeleteEvent, q requestQueue) {
	h.add(ctx, e.Object, q)
}

// Generic implements handler.EventHandler.
func (h byUrgency) Generic(ctx context.Context, e event.GenericEvent, q requestQueue) {
	h.add(ctx, e.Object, q)
}

func (h byUrgency) add(ctx context.Context, o client.Object, q requestQueue) {
	now := h.clock.Now()
	for _, d := range h.about(ctx, o) {
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&d)}
		if ordered, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
			ordered.AddWithOpts(priorityqueue.AddOpts{Priority: new(urgency(&d, now))}, request)
		} else {
			q.Add(request)
		}
	}
}

// itself is for events about DynamicSecrets.
func itself(_ context.Context, o client.Object) []v1alpha1.DynamicSecret {
	if d, ok := o.(*v1alpha1.DynamicSecret); ok {
		return []v1alpha1.DynamicSecret{*d}
	}
	return nil
}
