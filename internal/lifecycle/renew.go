package lifecycle

import (
	"context"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// lastRenewal is how long the renewal of a lease may take that has expired by this process's clock. Its Secret is
// deleted if it fails.
const lastRenewal = 5 * time.Second

// renew extends a lease. A failure is retried until the lease has really expired; only the backend's statement that it
// is gone ends it early.
func (l *Lifecycle) renew(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	requested := lease.Increment(o.d, &rec, l.clock.Now())
	var term lease.Term
	b, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		ctx, cancel := l.boundLast(ctx, &rec)
		defer cancel()
		term, err = b.Renew(ctx, rec, requested)
	}
	if err != nil {
		l.announce.Count("renew", string(backend.KindOf(err)))
		return l.notExtended(ctx, o, s, &o.mem.tries.Renew, rec, err)
	}
	l.announce.Count("renew", "success")
	delete(o.mem.tries.Renew, lease.Key(&rec))
	put(&o.mem.handled, rec.Source, lease.RequestedRenewal(o.d))
	renewed := func(rec *v1alpha1.LeaseRecord) { lease.Renewed(rec, term, requested) }
	return l.commitFor(ctx, o, rec.ID, renewed, l.renewalHandled(o))
}

// boundLast bounds a request that extends the record if the record has expired.
func (l *Lifecycle) boundLast(ctx context.Context, rec *v1alpha1.LeaseRecord) (context.Context, context.CancelFunc) {
	if end, dies := lease.LifeEnd(rec); dies && !l.clock.Now().Before(end) {
		return context.WithTimeout(ctx, lastRenewal)
	}
	return ctx, func() {}
}

// renewalHandled acknowledges a requested renewal in the same write if this record was the last to renew.
func (l *Lifecycle) renewalHandled(o *observation) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		for i := range d.Status.Leases {
			rec := &d.Status.Leases[i]
			pending := lease.Leased(rec) || lease.ReadAgain(rec)
			if pending && o.mem.handled[rec.Source] != lease.RequestedRenewal(d) {
				return
			}
		}
		lease.RenewalHandled(d)
	}
}

// extendSession extends the session that issued a lease, as far as the backend permits. A refusal is retried like any
// other failure; Plan decides how long.
func (l *Lifecycle) extendSession(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	var term lease.Term
	b, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		ctx, cancel := l.boundLast(ctx, &rec)
		defer cancel()
		term, err = b.ExtendSession(ctx, rec, l.ownerOf(o.d, &rec))
	}
	if err != nil {
		// The lease ends with its session; the backend must confirm that it has.
		if backend.KindOf(err) == backend.Gone && (b == nil || backend.KindOf(b.Lookup(ctx, rec)) != backend.Gone) {
			err = backend.Errorf(backend.Failed, "%s", err.Error())
		}
		return l.notExtended(ctx, o, s, &o.mem.tries.ExtendSession, rec, err)
	}
	delete(o.mem.tries.ExtendSession, lease.Key(&rec))
	extended := func(rec *v1alpha1.LeaseRecord) { lease.SessionExtended(rec, term) }
	return l.commitFor(ctx, o, rec.ID, extended, nil)
}

// refused says that the backend definitely refused to extend a lease or a session, so that a repetition may be useless.
// An outage, an error of the backend's own, and a login that fails are no such refusals.
func refused(err error) bool {
	switch backend.KindOf(err) {
	case backend.Denied, backend.Refused, backend.Mismatch:
		return true
	}
	return false
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
		if end, ok := lease.LifeEnd(&rec); ok && end.After(now) {
			left = end.Sub(now)
		}
		key := lease.Key(&rec)
		f := failKey(tries, key, backend.BlockFor(err), now, func(count int) time.Duration {
			return lease.RenewBackoff(count, o.d.UID, left)
		})
		if f.Refusals++; !refused(err) {
			f.Refusals = 0
		}
		put(tries, key, *f)
		put(&o.mem.renewing, key, rec.Renewals)
		return nil
	case s.Retiring:
		delete(*tries, lease.Key(&rec))
		return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RetiringLost(d, s.Record, l.clock.Now()) })
	}
	put(&o.mem.lost, rec.ID, true)
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
		put(&o.mem.lost, rec.ID, true)
	}
	return nil
}
