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
	// unleasedDeadline is the assumed deadline of an object without an expiry. Leases that expire earlier go first.
	unleasedDeadline = time.Minute
	// expiredDeadline is the assumed deadline of an object whose lease has expired. An issuance is much slower than a
	// renewal, so leases that a renewal can still save go first.
	expiredDeadline = 10 * time.Second
)

// urgencyEpoch keeps urgencies small enough for an int of 32 bits.
var urgencyEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// urgency is the priority in the work queue of an object that is due at a time: the sooner a credential in use expires,
// the higher. After an outage or a restart thousands of objects are due at once. Leases that are about to expire do not
// wait behind the others. During a handover, and until a successor is published, an old lease is in use too.
func urgency(d *v1alpha1.DynamicSecret, due time.Time) int {
	by := due.Add(unleasedDeadline)
	if d.DeletionTimestamp.IsZero() {
		end, expires := lease.SetEnd(d.Status.Leases)
		if expires && !end.After(due) {
			end = due.Add(expiredDeadline)
		}
		if kept, ok := lease.KeptEnd(d, due); ok && (!expires || kept.Before(end)) {
			end, expires = kept, true
		}
		if expires {
			by = end
		}
	}
	return int(urgencyEpoch.Sub(by) / time.Second)
}

// byUrgency enqueues the DynamicSecrets that an event affects, each with its urgency.
type byUrgency struct {
	clock    clock.PassiveClock
	affected func(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret
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
	for _, d := range h.affected(ctx, o) {
		enqueue(q, client.ObjectKeyFromObject(&d), urgency(&d, now), 0)
	}
}

// enqueue enqueues an object with a priority after a pause.
func enqueue(q requestQueue, key client.ObjectKey, priority int, after time.Duration) {
	request := reconcile.Request{NamespacedName: key}
	if ordered, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		ordered.AddWithOpts(priorityqueue.AddOpts{Priority: &priority, After: after}, request)
	} else {
		q.AddAfter(request, after)
	}
}

// itself is for events of DynamicSecrets.
func itself(_ context.Context, o client.Object) []v1alpha1.DynamicSecret {
	if d, ok := o.(*v1alpha1.DynamicSecret); ok {
		return []v1alpha1.DynamicSecret{*d}
	}
	return nil
}
