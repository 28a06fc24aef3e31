package lifecycle

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// dropLeases takes the leases out of use; their revocation follows.
func (l *Lifecycle) dropLeases(ctx context.Context, o *observation, s lease.Step) error {
	var ended v1alpha1.LeaseRecord
	if s.Record >= 0 {
		ended = o.record(s)
	}
	n := len(o.d.Status.Leases)
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.RetireLeases(d, s.Reason, s.Record, l.clock.Now())
	})
	if err != nil {
		return err
	}
	what := "The credential of " + ended.Location()
	if lease.Leased(&ended) {
		what = "Lease " + ended.ID
	}
	others := ""
	if n > 1 && s.Record >= 0 {
		others = " All credentials of this object are replaced."
	}
	switch s.Reason {
	case v1alpha1.ReasonLeaseLost:
		l.announce.Event(o.d, corev1.EventTypeWarning, s.Reason,
			what+" no longer exists in the backend: it, or the token that issued it, was revoked."+others)
	case v1alpha1.ReasonLeaseRevoked:
		l.announce.Event(o.d, corev1.EventTypeWarning, s.Reason, what+" was revoked by a LeaseRevocation."+others)
	case v1alpha1.ReasonRevoked:
		l.announce.Event(o.d, corev1.EventTypeNormal, s.Reason,
			"The leases are being revoked, because spec.revoked is true.")
	case v1alpha1.ReasonExpired:
		l.announce.Event(o.d, corev1.EventTypeWarning, s.Reason, what+" has expired."+others)
	}
	return nil
}

// revoke revokes a record in the backend, then removes it. While the object is being deleted nothing is written: the
// finalizer is removed once all records are revoked.
func (l *Lifecycle) revoke(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	key := lease.Key(&rec)
	if lease.Irrevocable(&rec) || lease.Expired(&rec, l.clock.Now()) {
		delete(o.mem.tries.Revoke, key)
		return l.forgetRecord(ctx, o, s, key)
	}
	b, err := l.undisputed(ctx, o.d, &rec)
	if err == nil {
		err = b.Revoke(ctx, rec, l.ownerOf(o.d, &rec))
	}
	if err != nil {
		l.announce.Count("revoke", string(backend.KindOf(err)))
		f := failKey(&o.mem.tries.Revoke, key, backend.BlockFor(err), l.clock.Now(), o.backoff)
		if backend.KindOf(err) == backend.Mismatch {
			f.Final = true
			o.mem.tries.Revoke[key] = *f
		}
		return nil
	}
	l.announce.Count("revoke", "success")
	delete(o.mem.tries.Revoke, key)
	if err := l.forgetRecord(ctx, o, s, key); err != nil {
		return err
	}
	l.reportRevoked(o, &rec)
	return nil
}

// reportRevoked emits one event when the last old lease of a handover is revoked.
func (l *Lifecycle) reportRevoked(o *observation, rec *v1alpha1.LeaseRecord) {
	replaced := func(rec v1alpha1.LeaseRecord) bool { return lease.Replaced(&rec) }
	others := slices.ContainsFunc(o.d.Status.Retiring, replaced)
	if others || !lease.Replaced(rec) || !o.d.DeletionTimestamp.IsZero() {
		return
	}
	what := "credential of " + rec.Location()
	if lease.Leased(rec) {
		what = "lease " + rec.ID
	}
	message := "The old " + what + " is revoked: the handover is complete."
	if len(o.d.Status.Leases) > 1 {
		message = "The old credentials are revoked: the handover is complete."
	}
	l.announce.Event(o.d, corev1.EventTypeNormal, v1alpha1.ReasonOldLeaseRevoked, message)
}

// forgetRecord takes a record off the ledger; while the object is being deleted, off the list of what is left.
func (l *Lifecycle) forgetRecord(ctx context.Context, o *observation, s lease.Step, key string) error {
	if !o.d.DeletionTimestamp.IsZero() {
		put(&o.mem.done, key, true)
		return nil
	}
	return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RemoveRetired(d, s.Record, l.clock.Now()) })
}

// abandon gives a record up, and reports that.
func (l *Lifecycle) abandon(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	key := lease.Key(&rec)
	why := "spec.lease.onDelete or the annotation " + v1alpha1.AbandonLeaseAnnotation + " requests it"
	if other := o.in.Sharers[key]; other != "" {
		why = "DynamicSecret " + other +
			" has the same user, which a revocation would drop; the lease ends at its expiry"
	}
	if f := o.mem.tries.Revoke[key]; f.Count > 0 {
		why = f.Message
	}
	if err := l.forgetRecord(ctx, o, s, key); err != nil {
		return err
	}
	delete(o.mem.tries.Revoke, key)
	log.FromContext(ctx).Info("lease abandoned",
		"lease", rec.ID, "handle", rec.Handle(), "location", rec.Location(), "why", why)
	l.announce.Abandoned(ctx, o.d, &rec, why)
	return nil
}
