package lease

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// The functions of this file are the only ones that change the ledger. Each is one transition, to be made durable by
// one locked write before anything that depends on it is done.

// Journal begins an attempt: the session's token exists, its credential is about to be asked for.
func Journal(st *v1alpha1.DynamicSecretStatus, where v1alpha1.LeaseRecord, handle string, session Term, now time.Time) {
	rec := where
	rec.StartedAt = floor(now)
	rec.TokenAccessor = handle
	setToken(&rec, session)
	st.Attempt = &rec
}

// Record turns the attempt into the lease. The lease before it, if any, retires.
func Record(d *v1alpha1.DynamicSecret, id string, term Term, digest string, now time.Time) {
	st := &d.Status
	rec := *st.Attempt
	st.Attempt = nil
	before, why := st.Lease, v1alpha1.ReasonReplacing
	if !Published(st) {
		why = CauseUnpublished
	}
	RetireLease(d, why, now)
	issued := floor(term.At)
	rec.IssuedAt = &issued
	rec.ID = id
	if Leased(&rec) {
		if before != nil && before.RequestDigest == rec.RequestDigest {
			rec.MaxTTLSeconds = before.MaxTTLSeconds
		}
		setTerm(&rec, term)
	} else {
		// Nothing depends on the token of an answer without a lease.
		retire(st, rec, v1alpha1.ReasonNotLeased, now)
	}
	st.Lease = &rec
	st.GrantEndedAt = nil
	st.LastHandledRotateAt = d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	if !Leased(&rec) {
		RenewalHandled(d)
	}
	if st.Secret == nil {
		st.Secret = &v1alpha1.SecretStatus{Name: d.TargetName()}
	}
	if st.Secret.Digest != digest {
		// Until it is written there is no version of the Secret with this digest; see Published.
		st.Secret.Digest, st.Secret.ResourceVersion = digest, ""
	}
}

// Published says that the Secret with the digest that the status names was written.
func Published(st *v1alpha1.DynamicSecretStatus) bool {
	return st.Secret != nil && st.Secret.UID != "" && st.Secret.ResourceVersion != ""
}

// RetireAttempt moves the attempt to the retiring records. Its id is known where the backend has answered.
func RetireAttempt(st *v1alpha1.DynamicSecretStatus, id string, endAfter time.Time, reason string) {
	if st.Attempt == nil {
		return
	}
	rec := *st.Attempt
	st.Attempt = nil
	rec.ID = id
	retire(st, rec, reason, endAfter)
}

// RetireLease moves the lease to the retiring records, to be ended at once. An answer without a lease is dropped: its
// token was retired when it was recorded.
func RetireLease(d *v1alpha1.DynamicSecret, reason string, now time.Time) {
	st := &d.Status
	if st.Lease == nil {
		return
	}
	rec := *st.Lease
	st.Lease = nil
	if !Leased(&rec) {
		return
	}
	endAfter := now
	if reason == v1alpha1.ReasonLeaseLost {
		endAfter = now.Add(lostGrace)
	}
	retire(st, rec, reason, endAfter)
	if over(reason) && d.Spec.Lease.Reissue == v1alpha1.ReissueNever {
		at := floor(now)
		st.GrantEndedAt = &at
	}
}

// over says whether the reason ends the life of a lease, and is no step on the way to the next.
func over(reason string) bool {
	switch reason {
	case v1alpha1.ReasonExpired, v1alpha1.ReasonLeaseLost, v1alpha1.ReasonGrantEnded:
		return true
	}
	return false
}

func retire(st *v1alpha1.DynamicSecretStatus, rec v1alpha1.LeaseRecord, reason string, endAfter time.Time) {
	at := ceil(endAfter)
	rec.EndAfter, rec.Reason = &at, reason
	st.Retiring = append(st.Retiring, rec)
}

// Resolve completes a retiring record by an answer that came late: the backend is done, so it may be ended at once.
func Resolve(st *v1alpha1.DynamicSecretStatus, accessor, id string, now time.Time) {
	for i := range st.Retiring {
		if st.Retiring[i].TokenAccessor == accessor {
			at := floor(now)
			st.Retiring[i].ID, st.Retiring[i].EndAfter = id, &at
		}
	}
}

// Ended drops the i-th retiring record: its backend has said that it is gone, or it was given up.
func Ended(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	cutShort(d, i, now)
	st := &d.Status
	st.Retiring = append(st.Retiring[:i:i], st.Retiring[i+1:]...)
	if len(st.Retiring) == 0 {
		st.Retiring = nil
	}
}

// Renewed records what a renewal granted for the increment that was asked.
func Renewed(rec *v1alpha1.LeaseRecord, t Term, asked time.Duration) {
	elapsed, before := t.At.Sub(lastGrant(rec)), rec.ExpiresAt
	setTerm(rec, t)
	at := floor(t.At)
	rec.RenewedAt = &at
	rec.Renewals++
	// Without a warning, a maximum shows in an end that stands still although less than asked was granted and time
	// has passed. A periodic token grants its period, which is less than asked too, but its end moves on.
	stoodStill := before != nil && rec.ExpiresAt.Sub(before.Time) < expiryEpsilon && elapsed >= 2*expiryEpsilon
	life := rec.ExpiresAt.Sub(issuedAt(rec))
	switch {
	case t.Capped || (stoodStill && t.Duration < asked-expiryEpsilon):
		rec.MaxTTLReached = true
		rec.MaxTTLSeconds = int64(life / time.Second)
	case life > duration(rec.MaxTTLSeconds)+expiryEpsilon:
		rec.MaxTTLSeconds = 0 // it was raised
	}
}

// RenewalHandled notes that the orders to renew, if there were any, were handled.
func RenewalHandled(d *v1alpha1.DynamicSecret) {
	d.Status.LastHandledRenewAt = d.Annotations[v1alpha1.RenewRequestedAtAnnotation]
	d.Status.LastHandledForceSync = d.Annotations[v1alpha1.ForceSyncAnnotation]
}

// TokenExtended records what an extension granted to the issuing token of a record. Only a token that was not capped (a
// periodic one) can be extended again.
func TokenExtended(rec *v1alpha1.LeaseRecord, t Term) {
	if t.Capped {
		t.Renewable = false
	}
	setToken(rec, t)
}

// TokenNotExtendable records that the issuing token lives no longer than it is known to.
func TokenNotExtendable(rec *v1alpha1.LeaseRecord) { rec.TokenRenewable = false }

// reasonReplaced is why a record retires whose successor is in the Secret.
const reasonReplaced = "Replaced"

// Publish records the Secret that was written. What it held before it holds no longer: see replaced. A new credential begins
// a hand-over, but for the first one in a Secret that nobody can have used (existed: somebody can).
func Publish(d *v1alpha1.DynamicSecret, written v1alpha1.SecretStatus, existed bool, now time.Time) {
	st := &d.Status
	st.Secret = &written
	for i := range st.Retiring {
		if st.Retiring[i].Reason == v1alpha1.ReasonReplacing {
			st.Retiring[i].Reason = reasonReplaced
		}
	}
	before, stamp, at := st.Handover, Stamp(written.Digest), floor(now)
	if before != nil && before.Stamp == stamp {
		return // the same credential
	}
	st.Handover = &v1alpha1.HandoverStatus{Stamp: stamp, PublishedAt: at}
	if before != nil {
		st.Handover.RolloutSeconds = before.RolloutSeconds
	}
	if !RollsOut(d) || (before == nil && !existed) {
		st.Handover.RolledOutAt = &at
	}
}

// Rolling records how far the consumers are, and when the first of them was stamped.
func Rolling(st *v1alpha1.DynamicSecretStatus, reason string, waiting []string, stamped bool, now time.Time) {
	h := st.Handover
	h.Reason, h.Waiting = reason, waiting
	if stamped && h.StampedAt == nil {
		at := floor(now)
		h.StampedAt = &at
	}
}

// RolledOut records that all consumers have moved.
func RolledOut(st *v1alpha1.DynamicSecretStatus, now time.Time) {
	h, at := st.Handover, ceil(now)
	h.RolledOutAt, h.Reason, h.Waiting = &at, "", nil
	if h.StampedAt != nil {
		h.RolloutSeconds = max(1, int64(at.Sub(h.StampedAt.Time)/time.Second))
	}
}

// RetiringLost records that the backend no longer knows the i-th retiring lease: there is nothing left to hold.
func RetiringLost(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	cutShort(d, i, now)
	d.Status.Retiring[i].Reason = v1alpha1.ReasonLeaseLost
}

// cutShort notes that the i-th retiring record ends before its hand-over is over.
func cutShort(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	if !awaited(d, &d.Status.Retiring[i]) {
		return
	}
	if over, known := handedOverAt(d); !known || now.Before(over) {
		at := floor(now)
		d.Status.Handover.CutShortAt = &at
	}
}

// SecretDeleted records that the Secret is gone. Where a lease is recorded that is still to be published, what its Secret
// will hold stays on record.
func SecretDeleted(st *v1alpha1.DynamicSecretStatus) {
	if st.Lease == nil {
		st.Secret = nil
		return
	}
	st.Secret = &v1alpha1.SecretStatus{Name: st.Secret.Name, Digest: st.Secret.Digest}
}

func setTerm(rec *v1alpha1.LeaseRecord, t Term) {
	end := floor(t.At.Add(t.Duration))
	rec.ExpiresAt = &end
	rec.DurationSeconds = int64(t.Duration / time.Second)
	rec.Renewable = t.Renewable
}

func setToken(rec *v1alpha1.LeaseRecord, t Term) {
	rec.TokenRenewable = t.Renewable
	rec.TokenExpiresAt, rec.TokenDurationSeconds = nil, 0
	if t.Duration > 0 {
		end := floor(t.At.Add(t.Duration))
		rec.TokenExpiresAt = &end
		rec.TokenDurationSeconds = int64(t.Duration / time.Second)
	}
}

// floor and ceil: the API keeps whole seconds, and what is planned from a status that was just written must be what is
// planned from it when it is read again, or each write would be followed by another. An end is rounded down, the start of
// a wait up, so that rounding never makes anything too late or too early.
func floor(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

func ceil(t time.Time) metav1.Time {
	if down := t.Truncate(time.Second); down.Before(t) {
		return metav1.NewTime(down.Add(time.Second))
	}
	return metav1.NewTime(t)
}

// Records lists every record of the ledger that may be alive in the backend.
func Records(st *v1alpha1.DynamicSecretStatus) []v1alpha1.LeaseRecord {
	var all []v1alpha1.LeaseRecord
	for _, rec := range []*v1alpha1.LeaseRecord{st.Attempt, st.Lease} {
		if rec != nil && (rec == st.Attempt || Leased(rec)) {
			all = append(all, *rec)
		}
	}
	return append(all, st.Retiring...)
}

func condition(st *v1alpha1.DynamicSecretStatus, kind string) *metav1.Condition {
	return meta.FindStatusCondition(st.Conditions, kind)
}
