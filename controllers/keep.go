package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// renew extends the lease. A failure is tried again until the lease truly ends; only the backend's word that it is gone
// ends it early.
func (l *lifecycle) renew(ctx context.Context, o *observation) error {
	rec := *o.d.Status.Lease
	change, err := l.renewRecord(ctx, o, &rec)
	if err != nil {
		l.notKept(&o.mem.tries.Renew, o, &rec, err)
		return nil
	}
	o.mem.tries.Renew = lease.Failure{}
	return l.commitFor(ctx, o, rec.ID, func(d *v1alpha1.DynamicSecret) {
		change(d.Status.Lease)
		lease.RenewalHandled(d)
	})
}

// renewRecord renews the lease of a record, wherever in the ledger it is, and returns what that changes of it.
func (l *lifecycle) renewRecord(ctx context.Context, o *observation, rec *v1alpha1.LeaseRecord) (func(*v1alpha1.LeaseRecord), error) {
	asked := lease.Increment(rec, &o.d.Spec.Lease, l.clock.Now())
	lessor, err := l.undisputed(ctx, o.d, rec)
	var term lease.Term
	if err == nil {
		term, err = lessor.Renew(ctx, *rec, asked)
	}
	if err != nil {
		l.announce.Count("renewal", string(lease.KindOf(err)))
		return nil, err
	}
	l.announce.Count("renewal", "success")
	return func(rec *v1alpha1.LeaseRecord) { lease.Renewed(rec, term, asked) }, nil
}

// notKept notes why the lease, or its token, was not extended.
func (l *lifecycle) notKept(f *lease.Failure, o *observation, rec *v1alpha1.LeaseRecord, err error) {
	if lease.KindOf(err) == lease.Gone {
		o.mem.lostID = rec.ID
		return
	}
	l.renewFailed(f, o, rec, err)
}

// undisputed finds the backend that a record lives in, if the record may be acted on.
func (l *lifecycle) undisputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (lease.Lessor, error) {
	if err := l.sources.Disputed(ctx, d, rec); err != nil {
		return nil, err
	}
	return l.sources.LessorFor(ctx, d, rec)
}

// verify asks about a lease that was missing from a list. Only the backend's word that it is gone counts; a question that
// fails is asked again when the next list lacks the lease too.
func (l *lifecycle) verify(ctx context.Context, o *observation) error {
	rec := *o.d.Status.Lease
	l.memory.suspect(client.ObjectKeyFromObject(o.d), "")
	lessor, err := l.sources.LessorFor(ctx, o.d, &rec)
	if err == nil {
		err = lessor.Lookup(ctx, rec)
	}
	if err != nil && lease.KindOf(err) == lease.Gone {
		o.mem.lostID = rec.ID
	}
	return nil
}

func (l *lifecycle) renewFailed(f *lease.Failure, o *observation, rec *v1alpha1.LeaseRecord, err error) {
	now := l.clock.Now()
	left := time.Minute
	if end, ok := lease.LifeEnd(rec); ok {
		left = end.Sub(now)
	}
	fail(f, lease.BlockFor(err), now, func(count int) time.Duration {
		return lease.RenewBackoff(count, o.d.UID, left)
	})
}

// commitFor is commit for something that has happened to the lease already: when somebody wrote meanwhile (a person
// edits labels) it is written onto what they wrote, as long as that lease is still there.
func (l *lifecycle) commitFor(ctx context.Context, o *observation, id string, transition func(*v1alpha1.DynamicSecret)) error {
	err := l.commit(ctx, o, transition)
	for range 3 {
		if !apierrors.IsConflict(err) {
			break
		}
		fresh, getErr := l.objects.Get(ctx, types.NamespacedName{Namespace: o.d.Namespace, Name: o.d.Name})
		if getErr != nil {
			return getErr
		}
		o.d = fresh
		if o.glanced { // more may have changed than the cache knew
			anew, getErr := l.observe(ctx, fresh)
			if getErr != nil {
				return getErr
			}
			*o = *anew
		}
		if o.d.Status.Lease == nil || o.d.Status.Lease.ID != id {
			return nil
		}
		err = l.commit(ctx, o, transition)
	}
	return ignoreConflict(err)
}

// extendToken extends the issuing token, as far as it goes.
func (l *lifecycle) extendToken(ctx context.Context, o *observation) error {
	rec := *o.d.Status.Lease
	change, err := l.extendRecord(ctx, o, &rec)
	if err != nil {
		l.notKept(&o.mem.tries.ExtendToken, o, &rec, err)
		return nil
	}
	o.mem.tries.ExtendToken = lease.Failure{}
	return l.commitFor(ctx, o, rec.ID, func(d *v1alpha1.DynamicSecret) { change(d.Status.Lease) })
}

// extendRecord extends the issuing token of a record, wherever in the ledger it is, and returns what that changes of it. The
// error is Gone only where the lease is.
func (l *lifecycle) extendRecord(ctx context.Context, o *observation, rec *v1alpha1.LeaseRecord) (func(*v1alpha1.LeaseRecord), error) {
	lessor, err := l.undisputed(ctx, o.d, rec)
	var term lease.Term
	if err == nil {
		term, err = lessor.ExtendToken(ctx, *rec, owner(o.d))
	}
	if err == nil {
		return func(rec *v1alpha1.LeaseRecord) { lease.TokenExtended(rec, term) }, nil
	}
	switch lease.KindOf(err) {
	case lease.Gone:
		// With its token goes the lease; that the lease is gone is for the backend to say.
		if lease.KindOf(lessor.Lookup(ctx, *rec)) != lease.Gone {
			err = lease.Errorf(lease.Failed, "%s", err.Error())
		}
	case lease.Denied, lease.Refused, lease.Mismatch:
		// It lives no longer than it does: a successor is made in time.
		l.announce.Event(o.d, corev1.EventTypeWarning, lease.BlockFor(err).Reason, err.Error())
		return lease.TokenNotExtendable, nil
	}
	return nil, err
}

// dropLease takes the lease out of use; its end follows.
func (l *lifecycle) dropLease(ctx context.Context, o *observation, s lease.Step) error {
	id := o.d.Status.Lease.ID
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RetireLease(d, s.Reason, l.clock.Now()) })
	if err != nil {
		return ignoreConflict(err)
	}
	switch s.Reason {
	case v1alpha1.ReasonLeaseLost:
		l.announce.Event(o.d, corev1.EventTypeWarning, s.Reason, "The backend no longer knows lease "+id+": somebody revoked it, or the token that it came from.")
	case v1alpha1.ReasonRevoked:
		l.announce.Event(o.d, corev1.EventTypeNormal, s.Reason, "Lease "+id+" is being revoked, as spec.revoked says.")
	case v1alpha1.ReasonExpired:
		l.announce.Event(o.d, corev1.EventTypeWarning, s.Reason, "Lease "+id+" came to its end.")
	}
	return nil
}

// end ends a retiring record in the backend, then drops it.
func (l *lifecycle) end(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.d.Status.Retiring[s.Record]
	lessor, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		err = lessor.End(ctx, rec, owner(o.d))
	}
	if err != nil {
		l.announce.Count("end", string(lease.KindOf(err)))
		o.mem.failEnd(&rec, err, l.clock.Now(), o.backoff)
		return nil
	}
	l.announce.Count("end", "success")
	delete(o.mem.tries.End, lease.TryKey(&rec))
	return ignoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Ended(d, s.Record, l.clock.Now()) }))
}

// abandon gives a record up, and says so.
func (l *lifecycle) abandon(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.d.Status.Retiring[s.Record]
	why := "spec.lease.onDelete or the annotation " + v1alpha1.AbandonLeaseAnnotation + " says so"
	if f, ok := o.mem.tries.End[lease.TryKey(&rec)]; ok && f.Count > 0 {
		why = f.Message
	}
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Ended(d, s.Record, l.clock.Now()) }); err != nil {
		return ignoreConflict(err)
	}
	delete(o.mem.tries.End, lease.TryKey(&rec))
	log.FromContext(ctx).Info("lease abandoned", "lease", rec.ID, "accessor", rec.TokenAccessor, "path", rec.Path, "why", why)
	l.announce.Abandoned(ctx, o.d, &rec, why)
	return nil
}

// letGo removes the finalizer.
func (l *lifecycle) letGo(ctx context.Context, o *observation) error {
	if err := l.objects.SetFinalizer(ctx, o.d, false); err != nil && !apierrors.IsNotFound(err) {
		return ignoreConflict(err)
	}
	l.memory.forget(types.NamespacedName{Namespace: o.d.Namespace, Name: o.d.Name})
	return nil
}
