package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// renew extends a lease. A failure is retried until the lease has really expired; only the backend's statement that it
// is gone ends it early.
func (l *Lifecycle) renew(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	requested := lease.Increment(&rec, &o.d.Spec.Lease, l.clock.Now())
	var term lease.Term
	b, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		term, err = b.Renew(ctx, rec, requested)
	}
	if err != nil {
		l.announce.Count("renew", string(backend.KindOf(err)))
		return l.notExtended(ctx, o, s, &o.mem.tries.Renew, rec, err)
	}
	l.announce.Count("renew", "success")
	delete(o.mem.tries.Renew, lease.Key(&rec))
	o.mem.handled[rec.Source] = lease.RequestedRenewal(o.d)
	renewed := func(rec *v1alpha1.LeaseRecord) { lease.Renewed(rec, term, requested) }
	return l.commitFor(ctx, o, rec.ID, renewed, l.renewalHandled(o))
}

// renewalHandled acknowledges a requested renewal in the same write if this record was the last to renew.
func (l *Lifecycle) renewalHandled(o *observation) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		for i := range d.Status.Leases {
			rec := &d.Status.Leases[i]
			readAgain := rec.Kind == v1alpha1.ResponseStatic || rec.Kind == v1alpha1.ResponseScheduled
			pending := lease.Leased(rec) || readAgain
			if pending && o.mem.handled[rec.Source] != lease.RequestedRenewal(d) {
				return
			}
		}
		lease.RenewalHandled(d)
	}
}

// extendSession extends the session that issued a lease, as far as the backend permits.
func (l *Lifecycle) extendSession(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	var term lease.Term
	b, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		term, err = b.ExtendSession(ctx, rec, owner(o.d))
	}
	change := func(rec *v1alpha1.LeaseRecord) { lease.SessionExtended(rec, term) }
	switch {
	case err == nil:
	case backend.KindOf(err) == backend.Gone:
		// The lease ends with its session; the backend must confirm that it has.
		if b == nil || backend.KindOf(b.Lookup(ctx, rec)) != backend.Gone {
			err = backend.Errorf(backend.Failed, "%s", err.Error())
		}
		return l.notExtended(ctx, o, s, &o.mem.tries.ExtendSession, rec, err)
	case backend.KindOf(err) == backend.Denied, backend.KindOf(err) == backend.Refused,
		backend.KindOf(err) == backend.Mismatch:
		// It cannot live longer, so a successor is issued in time.
		l.announce.Event(o.d, corev1.EventTypeWarning, backend.BlockFor(err).Reason, err.Error())
		change = lease.SessionNotExtendable
	default:
		return l.notExtended(ctx, o, s, &o.mem.tries.ExtendSession, rec, err)
	}
	delete(o.mem.tries.ExtendSession, lease.Key(&rec))
	return l.commitFor(ctx, o, rec.ID, change, nil)
}

// notExtended notes why a lease, or its session, was not extended.
func (l *Lifecycle) notExtended(
	ctx context.Context, o *observation, s lease.Step,
	tries *map[string]lease.Failure, rec v1alpha1.LeaseRecord, err error,
) error {
	switch {
	case backend.KindOf(err) != backend.Gone:
		now := l.clock.Now()
		left := time.Minute
		if end, ok := lease.LifeEnd(&rec); ok {
			left = end.Sub(now)
		}
		failKey(tries, lease.Key(&rec), backend.BlockFor(err), now, func(count int) time.Duration {
			return lease.RenewBackoff(count, o.d.UID, left)
		})
		return nil
	case s.Retiring:
		delete(*tries, lease.Key(&rec))
		return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RetiringLost(d, s.Record, l.clock.Now()) })
	}
	o.mem.lost[rec.ID] = true
	return nil
}

// undisputed finds the backend in which a record lives, if leasekeeper may act on the record.
func (l *Lifecycle) undisputed(
	ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord,
) (backend.Backend, error) {
	if err := l.sources.Disputed(ctx, d, rec); err != nil {
		return nil, err
	}
	return l.sources.BackendFor(ctx, d, rec)
}

// verify asks the backend about a lease that was missing from a list. Only its statement that the lease is gone counts;
// a request that fails is repeated when the next list lacks the lease too.
func (l *Lifecycle) verify(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	l.memory.clearSuspect(o.key(), rec.ID)
	b, err := l.sources.BackendFor(ctx, o.d, &rec)
	if err == nil {
		err = b.Lookup(ctx, rec)
	}
	if err != nil && backend.KindOf(err) == backend.Gone {
		o.mem.lost[rec.ID] = true
	}
	return nil
}
