package lifecycle

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// An object can disappear with a live ledger: kubectl replace removes its finalizer, and kubectl delete follows before
// the finalizer is restored. Then its last known state is planned like a deletion, until every record is revoked.

// remains are the last known state of an object that no longer exists, and its memory.
type remains struct {
	d   *v1alpha1.DynamicSecret
	mem *remembered
}

// Removed notes the last known state of an object that no longer exists. Gone revokes what it lists.
func (l *Lifecycle) Removed(d *v1alpha1.DynamicSecret) {
	m := l.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	key := keyOf(d)
	if m.released[key] == d.UID {
		delete(m.released, key) // nothing is left to do
		return
	}
	latest := m.latest[key]
	if latest != nil && latest.UID == d.UID && older(d.ResourceVersion, latest.ResourceVersion) {
		d = latest
	}
	delete(m.latest, key)
	if len(lease.Records(&d.Status)) == 0 {
		return
	}
	if m.removed[key] == nil {
		m.removed[key] = map[types.UID]*remains{}
	}
	m.removed[key][d.UID] = &remains{d: d.DeepCopy()}
}

// Gone revokes the leases of an object that no longer exists. It returns the pause before the next try; zero: none.
func (l *Lifecycle) Gone(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	at, err := l.settleRemains(ctx, key)
	if err != nil {
		return 0, err
	}
	if mem := l.memory.find(key); mem != nil && mem.held != nil {
		was := &v1alpha1.DynamicSecret{}
		was.Namespace, was.Name, was.UID = key.Namespace, key.Name, mem.uid
		if err := l.revokeHeld(ctx, was, mem.held); err != nil {
			log.FromContext(ctx).Info("the credential of an object that is gone could not be revoked yet",
				"error", err.Error())
			return 10 * time.Second, nil
		}
	}
	l.memory.forget(key)
	if at.IsZero() {
		return 0, nil
	}
	return max(at.Sub(l.clock.Now()), time.Second), nil
}

// settleRemains revokes what the removed objects of that name list, and returns when to continue (zero: never).
func (l *Lifecycle) settleRemains(ctx context.Context, key types.NamespacedName) (next time.Time, err error) {
	for _, r := range l.memory.remainsOf(key) {
		at, err := l.settleOne(ctx, r)
		if err != nil {
			return time.Time{}, err
		}
		if at.IsZero() {
			l.memory.settled(key, r.d.UID)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next, nil
}

// settleOne plans the last known state like that of an object that is being deleted.
func (l *Lifecycle) settleOne(ctx context.Context, r *remains) (time.Time, error) {
	l.prepare(ctx, r)
	o := &observation{d: r.d, mem: r.mem, sources: &resolved{}}
	for range maxSteps {
		l.refreshInput(ctx, o)
		step := o.step
		switch step.Action {
		case lease.Wait:
			return step.At, nil
		case lease.RevokeRecord, lease.AbandonRecord:
			if err := l.execute(ctx, o, step); err != nil {
				return time.Time{}, err
			}
		default:
			return time.Time{}, nil // only the finalizer is left
		}
	}
	return l.clock.Now().Add(time.Second), nil
}

// prepare makes the last known state one that is being deleted.
func (l *Lifecycle) prepare(ctx context.Context, r *remains) {
	if r.mem != nil {
		return
	}
	r.mem = l.memory.takeOver(r.d)
	log.FromContext(ctx).Info("the object was removed without its finalizer; revoking what its status lists",
		"records", len(lease.Records(&r.d.Status)))
	if r.d.DeletionTimestamp.IsZero() {
		now := metav1.NewTime(l.clock.Now())
		r.d.DeletionTimestamp = &now
	}
	r.d.Finalizers = []string{v1alpha1.Finalizer}
	lease.RetireAttempt(&r.d.Status, r.mem.heldForPlan(), v1alpha1.ReasonDeleting, l.requestLimit, l.clock.Now())
}

// revokeHeld revokes credentials that only this process knows of.
func (l *Lifecycle) revokeHeld(ctx context.Context, d *v1alpha1.DynamicSecret, h *held) error {
	var failed error
	for i := range h.Records {
		if !h.Records[i].Settled {
			continue // only the journal's record may be revoked, after the request limit
		}
		rec := h.Records[i].Record
		b, err := l.sources.BackendFor(ctx, d, &rec)
		if err == nil {
			err = b.Revoke(context.WithoutCancel(ctx), rec, holder(d))
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
