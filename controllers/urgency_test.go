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

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// expiring is a DynamicSecret whose leases expire after these times.
func expiring(name string, in ...time.Duration) v1alpha1.DynamicSecret {
	d := v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, after := range in {
		d.Status.Leases = append(d.Status.Leases, v1alpha1.LeaseRecord{ID: "l/" + name, Kind: v1alpha1.ResponseLeased,
			ExpiresAt: &metav1.Time{Time: now.Add(after)}})
	}
	return d
}

// retiring is a record whose lease expires after that time.
func retiring(reason string, in time.Duration) []v1alpha1.LeaseRecord {
	old := expiring("old", in).Status.Leases
	old[0].Reason = reason
	return old
}

func TestQueueIsOrderedByExpiry(t *testing.T) {
	deleting := expiring("being deleted", time.Second)
	deleting.DeletionTimestamp = &metav1.Time{Time: now}
	static := expiring("static")
	static.Status.Leases = []v1alpha1.LeaseRecord{{Kind: v1alpha1.ResponseStatic}}
	certificate := expiring("certificate", 20*time.Second)
	certificate.Status.Leases[0].ID, certificate.Status.Leases[0].Kind = "", v1alpha1.ResponseExpiring
	session := expiring("session", 2*time.Hour)
	session.Status.Leases[0].Session = &v1alpha1.SessionTerm{ExpiresAt: metav1.NewTime(now.Add(40 * time.Second))}
	handingOver := expiring("handing over", 2*time.Hour)
	handingOver.Status.Handover = &v1alpha1.HandoverStatus{PublishedAt: metav1.NewTime(now)}
	handingOver.Status.Retiring = retiring("Replaced", 25*time.Second)
	unpublished := expiring("unpublished", 2*time.Hour)
	unpublished.Status.Secret = &v1alpha1.SecretStatus{UID: "secret"}
	unpublished.Status.Retiring = retiring(v1alpha1.ReasonReplacing, 15*time.Second)
	lost := expiring("lost")
	lost.Status.Secret = unpublished.Status.Secret
	lost.Status.Retiring = retiring("SetIncomplete", 2*time.Hour)
	revoking := expiring("revoking an unused lease", 90*time.Minute)
	revoking.Status.Retiring = retiring("Replaced", time.Second)
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	h := byUrgency{
		clock: testclock.NewFakePassiveClock(now),
		affected: func(context.Context, client.Object) []v1alpha1.DynamicSecret {
			return []v1alpha1.DynamicSecret{
				expiring("in an hour", time.Hour), static, expiring("new"), deleting, session, certificate,
				expiring("in a second", time.Second), expiring("in eleven seconds", 11*time.Second),
				expiring("a set", 2*time.Hour, 30*time.Second, time.Hour), expiring("expired", -time.Second),
				handingOver, unpublished, lost, revoking,
			}
		},
	}
	h.Generic(t.Context(), event.GenericEvent{Object: &v1alpha1.DynamicSecret{}}, q)
	for _, want := range []string{
		"in a second", "expired", "in eleven seconds", "unpublished", "certificate", "handing over", "a set", "session",
		"static", "new", "being deleted", "in an hour", "revoking an unused lease", "lost",
	} {
		if got, _ := q.Get(); got.Name != want {
			t.Errorf("got %q, want %q", got.Name, want)
		}
	}
}

// The priority of a requeue follows its due time, not the time of the decision.
func TestThePriorityOfARequeueFollowsTheDueTime(t *testing.T) {
	priority := func(d v1alpha1.DynamicSecret, in time.Duration) int {
		r := requeue(&d, now.Add(in), now)
		if want := max(in, 50*time.Millisecond); r.RequeueAfter != want {
			t.Errorf("%s is requeued after %s, want %s", d.Name, r.RequeueAfter, want)
		}
		return *r.Priority
	}
	for _, c := range []struct {
		name, why     string
		sooner, later int
	}{
		{"two without a lease", "the first waits longer", priority(expiring("new"), 0),
			priority(expiring("new"), time.Hour)},
		{"a lease that ends before it is due", "it counts as expired at that time, not now",
			priority(expiring("expired", time.Minute), 2*time.Minute),
			priority(expiring("expired", time.Minute), time.Hour)},
		{"a lease that outlives a new object", "its end is later than that object's assumed deadline",
			priority(expiring("new"), time.Hour), priority(expiring("lease", 2*time.Hour), time.Hour)},
		{"a lease that ends right after it is due", "a new object can wait for a minute",
			priority(expiring("lease", 61*time.Minute), time.Hour), priority(expiring("new"), time.Hour+2*time.Minute)},
	} {
		if c.sooner <= c.later {
			t.Errorf("%s: the priorities are %d and %d, but %s", c.name, c.sooner, c.later, c.why)
		}
	}
	if same := expiring("lease", time.Hour); priority(same, time.Second) != priority(same, time.Minute) {
		t.Error("the end of a lease decides while it is later than the due time")
	}
}

// The queue's priority is an int, which has 32 bits on some machines.
func TestUrgencyFitsIntoThirtyTwoBits(t *testing.T) {
	for _, in := range []time.Duration{-20 * 365 * 24 * time.Hour, 50 * 365 * 24 * time.Hour} {
		d := expiring("orders", in)
		if u := urgency(&d, now); int(int32(u)) != u {
			t.Errorf("a lease that expires in %s has urgency %d", in, u)
		}
	}
}

func TestEveryEventEnqueuesTheAffectedObjects(t *testing.T) {
	about := func(name string) *v1alpha1.DynamicSecret {
		return &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	}
	h := byUrgency{clock: testclock.NewFakePassiveClock(now), affected: itself}
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	h.Create(t.Context(), event.CreateEvent{Object: about("created")}, q)
	h.Update(t.Context(), event.UpdateEvent{ObjectOld: about("before"), ObjectNew: about("updated")}, q)
	h.Delete(t.Context(), event.DeleteEvent{Object: about("deleted")}, q)
	h.Generic(t.Context(), event.GenericEvent{Object: about("raised")}, q)
	h.Generic(t.Context(), event.GenericEvent{Object: &v1alpha1.SecretProvider{}}, q) // affects nothing
	for _, want := range []string{"created", "updated", "deleted", "raised"} {
		if got, _ := q.Get(); got.Name != want || got.Namespace != "shop" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if q.Len() != 0 {
		t.Errorf("%d more objects are queued", q.Len())
	}
}
