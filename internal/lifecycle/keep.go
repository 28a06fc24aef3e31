package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// renew extends the lease. A failure is tried again until the lease truly ends; only the backend's word that it is gone
// ends it early.
func (l *Lifecycle) renew(ctx context.Context, o *observation) error {
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
func (l *Lifecycle) renewRecord(ctx context.Context, o *observation, rec *v1alpha1.LeaseRecord) (func(*v1alpha1.LeaseRecord), error) {
	asked := lease.Increment(rec, &o.d.Spec.Lease, l.clock.Now())
	server, err := l.undisputed(ctx, o.d, rec)
	var term lease.Term
	if err == nil {
		term, err = server.Renew(ctx, *rec, asked)
	}
	if err != nil {
		l.announce.Count("renewal", string(backend.KindOf(err)))
		return nil, err
	}
	l.announce.Count("renewal", "success")
	return func(rec *v1alpha1.LeaseRecord) { lease.Renewed(rec, term, asked) }, nil
}

// notKept notes why the lease, or its token, was not extended.
func (l *Lifecycle) notKept(f *lease.Failure, o *observation, rec *v1alpha1.LeaseRecord, err error) {
	if backend.KindOf(err) == backend.Gone {
		o.mem.lostID = rec.ID
		return
	}
	l.renewFailed(f, o, rec, err)
}

// undisputed finds the backend that a record lives in, if the record may be acted on.
func (l *Lifecycle) undisputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (backend.Backend, error) {
	if err := l.sources.Disputed(ctx, d, rec); err != nil {
		return nil, err
	}
	return l.sources.BackendFor(ctx, d, rec)
}

// verify asks about a lease that was missing from a list. Only the backend's word that it is gone counts; a question that
// fails is asked again when the next list lacks the lease too.
func (l *Lifecycle) verify(ctx context.Context, o *observation) error {
	rec := *o.d.Status.Lease
	l.memory.suspect(client.ObjectKeyFromObject(o.d), "")
	server, err := l.sources.BackendFor(ctx, o.d, &rec)
	if err == nil {
		err = server.Lookup(ctx, rec)
	}
	if err != nil && backend.KindOf(err) == backend.Gone {
		o.mem.lostID = rec.ID
	}
	return nil
}

func (l *Lifecycle) renewFailed(f *lease.Failure, o *observation, rec *v1alpha1.LeaseRecord, err error) {
	now := l.clock.Now()
	left := time.Minute
	if end, ok := lease.LifeEnd(rec); ok {
		left = end.Sub(now)
	}
	fail(f, backend.BlockFor(err), now, func(count int) time.Duration {
		return lease.RenewBackoff(count, o.d.UID, left)
	})
}

// commitFor is commit for something that has happened to the lease already: when somebody wrote meanwhile (a person
// edits labels) it is written onto what they wrote, as long as that lease is still there.
func (l *Lifecycle) commitFor(ctx context.Context, o *observation, id string, transition func(*v1alpha1.DynamicSecret)) error {
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
	return IgnoreConflict(err)
}

// extendToken extends the issuing token, as far as it goes.
func (l *Lifecycle) extendToken(ctx context.Context, o *observation) error {
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
func (l *Lifecycle) extendRecord(ctx context.Context, o *observation, rec *v1alpha1.LeaseRecord) (func(*v1alpha1.LeaseRecord), error) {
	server, err := l.undisputed(ctx, o.d, rec)
	var term lease.Term
	if err == nil {
		term, err = server.ExtendSession(ctx, *rec, owner(o.d))
	}
	if err == nil {
		return func(rec *v1alpha1.LeaseRecord) { lease.TokenExtended(rec, term) }, nil
	}
	switch backend.KindOf(err) {
	case backend.Gone:
		// With its token goes the lease; that the lease is gone is for the backend to say.
		if backend.KindOf(server.Lookup(ctx, *rec)) != backend.Gone {
			err = backend.Errorf(backend.Failed, "%s", err.Error())
		}
	case backend.Denied, backend.Refused, backend.Mismatch:
		// It lives no longer than it does: a successor is made in time.
		l.announce.Event(o.d, corev1.EventTypeWarning, backend.BlockFor(err).Reason, err.Error())
		return lease.TokenNotExtendable, nil
	}
	return nil, err
}

// dropLease takes the lease out of use; its end follows.
func (l *Lifecycle) dropLease(ctx context.Context, o *observation, s lease.Step) error {
	id := o.d.Status.Lease.ID
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RetireLease(d, s.Reason, l.clock.Now()) })
	if err != nil {
		return IgnoreConflict(err)
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
func (l *Lifecycle) end(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.d.Status.Retiring[s.Record]
	server, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		err = server.Revoke(ctx, rec, owner(o.d))
	}
	if err != nil {
		l.announce.Count("end", string(backend.KindOf(err)))
		o.mem.failEnd(&rec, err, l.clock.Now(), o.backoff)
		return nil
	}
	l.announce.Count("end", "success")
	delete(o.mem.tries.End, lease.TryKey(&rec))
	return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Ended(d, s.Record, l.clock.Now()) }))
}

// abandon gives a record up, and says so.
func (l *Lifecycle) abandon(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.d.Status.Retiring[s.Record]
	why := "spec.lease.onDelete or the annotation " + v1alpha1.AbandonLeaseAnnotation + " says so"
	if f, ok := o.mem.tries.End[lease.TryKey(&rec)]; ok && f.Count > 0 {
		why = f.Message
	}
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Ended(d, s.Record, l.clock.Now()) }); err != nil {
		return IgnoreConflict(err)
	}
	delete(o.mem.tries.End, lease.TryKey(&rec))
	log.FromContext(ctx).Info("lease abandoned", "lease", rec.ID, "accessor", rec.TokenAccessor, "path", rec.Path, "why", why)
	l.announce.Abandoned(ctx, o.d, &rec, why)
	return nil
}

// letGo removes the finalizer.
func (l *Lifecycle) letGo(ctx context.Context, o *observation) error {
	if err := l.objects.SetFinalizer(ctx, o.d, false); err != nil && !apierrors.IsNotFound(err) {
		return IgnoreConflict(err)
	}
	l.memory.forget(types.NamespacedName{Namespace: o.d.Namespace, Name: o.d.Name})
	return nil
}
