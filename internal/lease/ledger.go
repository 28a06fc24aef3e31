package lease

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// The functions of this file are the only ones that change the ledger. Each is one transition, stored by one locked
// write before anything that depends on it is done.

// Version of the ledger's format.
const Version = 1

const (
	// reasonReplaced: the credential of the successor is in the Secret.
	reasonReplaced = "Replaced"
	// reasonIncomplete: another lease of the same set has ended, so the whole set is being replaced.
	reasonIncomplete = "SetIncomplete"
)

// Journal starts an attempt: the sessions exist, the credentials are about to be requested.
func Journal(st *v1alpha1.DynamicSecretStatus, records []v1alpha1.LeaseRecord, now time.Time) {
	st.LedgerVersion = Version
	st.Attempt = &v1alpha1.IssuanceAttempt{Records: make([]v1alpha1.LeaseRecord, len(records))}
	for i := range records {
		records[i].DeepCopyInto(&st.Attempt.Records[i])
		st.Attempt.Records[i].StartedAt = floor(now)
	}
}

// SetSession records the session of an issuance.
func SetSession(rec *v1alpha1.LeaseRecord, handle string, term Term) {
	rec.SetHandle(handle)
	grantSession(rec, term)
}

// Respond records the response to the request of a record.
func Respond(rec *v1alpha1.LeaseRecord, kind v1alpha1.ResponseKind, id string, term Term) {
	rec.Kind, rec.ID = kind, id
	issued := floor(term.At)
	rec.IssuedAt = &issued
	if kind == v1alpha1.ResponseLeased {
		setTerm(rec, term)
		return
	}
	rec.Session = nil // nothing depends on it
	setNext(rec, term)
}

// setNext records when an unleased response expires, changes, or should be read again.
func setNext(rec *v1alpha1.LeaseRecord, term Term) {
	rec.ExpiresAt, rec.DurationSeconds = nil, 0
	if term.Duration > 0 {
		setTerm(rec, Term{At: term.At, Duration: term.Duration})
	}
}

// Record turns the responses to an issuance for the cause into the leases, in place of the attempt. The leases before
// retire. digest is that of the data that will be published.
func Record(d *v1alpha1.DynamicSecret, records []v1alpha1.LeaseRecord, cause, digest string, now time.Time) {
	st := &d.Status
	countIssuance(d, cause, now)
	st.Attempt = nil
	before, why := st.Leases, v1alpha1.ReasonReplacing
	if !contained(st) {
		why = CauseUnpublished
	}
	moveToRetiring(st, why, now)
	st.Leases = make([]v1alpha1.LeaseRecord, len(records))
	for i := range records {
		records[i].DeepCopyInto(&st.Leases[i])
		keepMaximum(&st.Leases[i], before)
	}
	st.GrantEndedAt = nil
	st.LastHandledRotateAt = d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	if st.Secret == nil {
		st.Secret = &v1alpha1.SecretStatus{Name: d.TargetName()}
	}
	if st.Secret.Digest != digest {
		// Until it is written there is no version of the Secret with this digest; see Published.
		st.Secret.Digest, st.Secret.ResourceVersion = digest, ""
	}
	st.Secret.PreviousDigest = ""
}

// keepMaximum carries the observed maximum TTL over to the next lease of the same request.
func keepMaximum(rec *v1alpha1.LeaseRecord, before []v1alpha1.LeaseRecord) {
	for i := range before {
		if Leased(rec) && before[i].Source == rec.Source && before[i].RequestDigest == rec.RequestDigest {
			rec.MaxTTLSeconds = before[i].MaxTTLSeconds
		}
	}
}

// Published says that the Secret with the digest in the status was written.
func Published(st *v1alpha1.DynamicSecretStatus) bool {
	return st.Secret != nil && st.Secret.UID != "" && st.Secret.ResourceVersion != ""
}

// contained says that the Secret contains the credentials of the leases: they were published, or a refresh of them is
// not complete.
func contained(st *v1alpha1.DynamicSecretStatus) bool {
	refreshing := st.Secret != nil && st.Secret.UID != "" && st.Secret.PreviousDigest != ""
	return refreshing || Published(st)
}

// RetireAttempt moves the attempt to the retiring records. A session is revoked at once if the backend has finished
// with its request. Otherwise the backend may still be minting, and revoking the session now would leave a credential
// that nothing owns; so it is revoked when the request must be over. The attempt of another process is counted from
// now: its start was recorded by another clock.
func RetireAttempt(st *v1alpha1.DynamicSecretStatus, held Held, reason string, limit time.Duration, now time.Time) {
	if st.Attempt == nil {
		return
	}
	records := st.Attempt.Records
	st.Attempt = nil
	for i := range records {
		rec := records[i]
		at := now.Add(limit)
		switch h := held.find(rec.Handle()); {
		case h == nil:
		case h.Settled:
			// A response that cannot be revoked leaves the session, which its backend may have failed to close.
			if !Irrevocable(&h.Record) {
				h.Record.DeepCopyInto(&rec)
			}
			at = now
		default:
			// The journal stores whole seconds, rounded down.
			at = rec.StartedAt.Add(limit + time.Second)
		}
		retire(st, rec, reason, at)
	}
}

// RetireLeases moves the leases to the retiring records. ended is the index of the one that ended; -1: the reason
// applies to all. If the Secret contains the set, the others stay valid until their successors are published.
func RetireLeases(d *v1alpha1.DynamicSecret, reason string, ended int, now time.Time) {
	st := &d.Status
	over := ended >= 0 && d.Spec.Lease.Reissue == v1alpha1.ReissueNever || reason == v1alpha1.ReasonGrantEnded
	others := reasonIncomplete
	if !contained(st) {
		others = CauseUnpublished
	}
	records := st.Leases
	st.Leases = nil
	for i := range records {
		switch {
		case ended < 0 || over && i != ended:
			if ended >= 0 {
				retire(st, records[i], v1alpha1.ReasonGrantEnded, now)
				continue
			}
			retire(st, records[i], reason, now)
		case i == ended && (reason == v1alpha1.ReasonLeaseLost || reason == v1alpha1.ReasonLeaseRevoked):
			retire(st, records[i], reason, now.Add(lostGrace))
		case i == ended:
			retire(st, records[i], reason, now)
		default:
			retire(st, records[i], others, now)
		}
	}
	if over {
		at := floor(now)
		st.GrantEndedAt = &at
	}
}

func moveToRetiring(st *v1alpha1.DynamicSecretStatus, reason string, now time.Time) {
	records := st.Leases
	st.Leases = nil
	for i := range records {
		retire(st, records[i], reason, now)
	}
}

// retire adds a record to the retiring records. A response that cannot be revoked needs one only while the Secret may
// still contain it.
func retire(st *v1alpha1.DynamicSecretStatus, rec v1alpha1.LeaseRecord, reason string, revokeAfter time.Time) {
	if Irrevocable(&rec) && reason != v1alpha1.ReasonReplacing {
		return
	}
	at := ceil(revokeAfter)
	rec.RevokeAfter, rec.Reason = &at, reason
	st.Retiring = append(st.Retiring, rec)
}

// Resolve completes a retiring record with a response that arrived late: the backend has finished, so it may be revoked
// at once. A record whose response is known stays as it is: its lease may have been renewed since.
func Resolve(st *v1alpha1.DynamicSecretStatus, response *v1alpha1.LeaseRecord, now time.Time) {
	for i := range st.Retiring {
		rec := &st.Retiring[i]
		if known := rec.Kind != "" || Leased(rec); known || rec.Handle() != response.Handle() {
			continue
		}
		reason, at := rec.Reason, floor(now)
		if !Irrevocable(response) { // else the session is left to revoke, as in RetireAttempt
			response.DeepCopyInto(rec)
		}
		rec.Reason, rec.RevokeAfter = reason, &at
	}
}

// Replaced says that the Secret contains the successor of a retiring record.
func Replaced(rec *v1alpha1.LeaseRecord) bool { return rec.Reason == reasonReplaced }

// noteHeld records until when the handover holds the old leases; no time: until the consumers have rolled out. That is
// for readers: the plan derives it again, because the spec may have changed.
func noteHeld(d *v1alpha1.DynamicSecret) {
	for i := range d.Status.Retiring {
		rec := &d.Status.Retiring[i]
		if !awaited(d, rec) {
			continue
		}
		rec.RevokeAfter = nil
		until, known := heldUntil(d, rec)
		_, complete := handedOverAt(d)
		_, _, certain := certainEnd(rec)
		if known && (complete || certain) {
			at := ceil(until)
			rec.RevokeAfter = &at
		}
	}
}

// RemoveRetired removes the i-th retiring record: the backend confirmed that it is gone, or it was given up.
func RemoveRetired(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	cutShort(d, i, now)
	st := &d.Status
	incomplete(st, i)
	st.Retiring = append(st.Retiring[:i:i], st.Retiring[i+1:]...)
	if len(st.Retiring) == 0 {
		st.Retiring = nil
	}
}

// Renewed records what a renewal granted for the requested increment.
func Renewed(rec *v1alpha1.LeaseRecord, t Term, requested time.Duration) {
	elapsed, before := t.At.Sub(lastGrant(rec)), rec.ExpiresAt
	setTerm(rec, t)
	at := floor(t.At)
	rec.RenewedAt = &at
	rec.Renewals++
	// Without a warning, a maximum shows in an expiry that does not move although less than requested was granted and
	// time has passed. A periodic token grants its period, which is less than requested too, but its expiry moves.
	unmoved := before != nil && rec.ExpiresAt.Sub(before.Time) < expiryEpsilon && elapsed >= 2*expiryEpsilon
	life := rec.ExpiresAt.Sub(issuedAt(rec))
	switch {
	case t.Capped || (unmoved && t.Duration < requested-expiryEpsilon):
		rec.MaxTTLReached = true
		rec.MaxTTLSeconds = int64(life / time.Second)
	case life > duration(rec.MaxTTLSeconds)+expiryEpsilon:
		rec.MaxTTLSeconds = 0 // it was raised
	}
}

// RenewalHandled records that the requests to renew, if there were any, were handled.
func RenewalHandled(d *v1alpha1.DynamicSecret) {
	d.Status.LastHandledRenewAt = d.Annotations[v1alpha1.RenewRequestedAtAnnotation]
	d.Status.LastHandledForceSync = d.Annotations[v1alpha1.ForceSyncAnnotation]
}

// SessionExtended records what an extension granted to the session of a record. Only a session that was not capped (a
// periodic token) can be extended again.
func SessionExtended(rec *v1alpha1.LeaseRecord, t Term) {
	if t.Capped {
		t.Renewable = false
	}
	grantSession(rec, t)
}

// BeginRefresh records that the data of a static source are about to change to those with the digest.
func BeginRefresh(st *v1alpha1.DynamicSecretStatus, digest string) {
	st.Secret.PreviousDigest = st.Secret.Digest
	st.Secret.Digest, st.Secret.ResourceVersion = digest, ""
}

// Refreshed records the new value of a static or scheduled source.
func Refreshed(rec *v1alpha1.LeaseRecord, kind v1alpha1.ResponseKind, digest string, t Term) {
	at := floor(t.At)
	rec.Kind, rec.IssuedAt, rec.Digest = kind, &at, digest
	setNext(rec, t)
}

// RecordPublished records the Secret that was written. What it contained before is replaced. New data start a handover,
// except for the first data of a Secret that nobody can have used (existed: somebody can).
func RecordPublished(d *v1alpha1.DynamicSecret, written v1alpha1.SecretStatus, existed bool, now time.Time) {
	st := &d.Status
	st.Secret = &written
	st.Retiring = slices.DeleteFunc(st.Retiring, func(rec v1alpha1.LeaseRecord) bool { return Irrevocable(&rec) })
	if len(st.Retiring) == 0 {
		st.Retiring = nil
	}
	for i := range st.Retiring {
		if r := st.Retiring[i].Reason; r == v1alpha1.ReasonReplacing || r == reasonIncomplete {
			st.Retiring[i].Reason = reasonReplaced
		}
	}
	before, stamp, at := st.Handover, Stamp(written.Digest), floor(now)
	if before != nil && before.Stamp == stamp {
		return // the same data
	}
	st.Handover = &v1alpha1.HandoverStatus{Stamp: stamp, PublishedAt: at}
	if before != nil {
		st.Handover.RolloutSeconds = before.RolloutSeconds
	}
	if !RollsOut(d) || (before == nil && !existed) {
		st.Handover.RolledOutAt = &at
	}
}

// RecordRollout records the progress of the consumers, and when the first of them was stamped.
func RecordRollout(st *v1alpha1.DynamicSecretStatus, reason string, waiting []string, stamped bool, now time.Time) {
	h, at := st.Handover, floor(now)
	h.Reason, h.Waiting = reason, waiting
	resume(h, at)
	if stamped && h.StampedAt == nil {
		h.StampedAt, h.HaltedSeconds = &at, 0
	}
	if reason != "" && reason != v1alpha1.ReasonRollingOut {
		h.HaltedAt = &at
	}
}

// resume adds the time for which the rollout waited for a person.
func resume(h *v1alpha1.HandoverStatus, at metav1.Time) {
	if h.HaltedAt != nil {
		h.HaltedSeconds += max(0, int64(at.Sub(h.HaltedAt.Time)/time.Second))
	}
	h.HaltedAt = nil
}

// RolledOut records that all consumers use the credential, and how long that took. It counts from the publication if a
// crash prevented the record of the first stamp.
func RolledOut(st *v1alpha1.DynamicSecretStatus, now time.Time) {
	h, at := st.Handover, ceil(now)
	resume(h, at)
	from := h.PublishedAt
	if h.StampedAt != nil {
		from = *h.StampedAt
	}
	took := int64(at.Sub(from.Time)/time.Second) - h.HaltedSeconds
	h.RolloutSeconds = max(1, min(took, int64(maxRollout/time.Second)))
	h.RolledOutAt, h.Reason, h.Waiting, h.HaltedSeconds = &at, "", nil, 0
}

// RetiringLost records that the backend no longer knows the i-th retiring lease: there is nothing left to renew. If the
// Secret still contains its credential, that is dead.
func RetiringLost(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	cutShort(d, i, now)
	incomplete(&d.Status, i)
	d.Status.Retiring[i].Reason = v1alpha1.ReasonLeaseLost
}

// incomplete records that the i-th retiring record has ended. If it belongs to a set that the Secret may still contain,
// that set is no longer complete.
func incomplete(st *v1alpha1.DynamicSecretStatus, i int) {
	if st.Retiring[i].Reason != v1alpha1.ReasonReplacing {
		return
	}
	for j := range st.Retiring {
		if st.Retiring[j].Reason == v1alpha1.ReasonReplacing {
			st.Retiring[j].Reason = reasonIncomplete
		}
	}
}

// cutShort records that the i-th retiring record ends before its handover is complete.
func cutShort(d *v1alpha1.DynamicSecret, i int, now time.Time) {
	if !awaited(d, &d.Status.Retiring[i]) {
		return
	}
	if over, known := handedOverAt(d); !known || now.Before(over) {
		at := floor(now)
		d.Status.Handover.CutShortAt = &at
	}
}

// SecretDeleted records that the Secret is gone. If leases are recorded whose credentials are still to be published,
// the status keeps what their Secret will contain.
func SecretDeleted(st *v1alpha1.DynamicSecretStatus) {
	if len(st.Leases) == 0 {
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

func grantSession(rec *v1alpha1.LeaseRecord, t Term) {
	rec.Session = nil
	if t.Duration > 0 {
		rec.Session = &v1alpha1.SessionTerm{
			ExpiresAt:       floor(t.At.Add(t.Duration)),
			DurationSeconds: int64(t.Duration / time.Second),
			Renewable:       t.Renewable,
		}
	}
}

// floor and ceil: the API stores whole seconds. Plan must return the same step for a status in memory and for the same
// status read back, or each write would cause another. An expiry is rounded down and the start of a wait up, so that
// rounding makes nothing too late or too early.
func floor(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

func ceil(t time.Time) metav1.Time {
	if down := t.Truncate(time.Second); down.Before(t) {
		return metav1.NewTime(down.Add(time.Second))
	}
	return metav1.NewTime(t)
}

// Records lists every record of the ledger that may be alive in a backend.
func Records(st *v1alpha1.DynamicSecretStatus) []v1alpha1.LeaseRecord {
	var all []v1alpha1.LeaseRecord
	if st.Attempt != nil {
		all = append(all, st.Attempt.Records...)
	}
	for i := range st.Leases {
		if Revocable(&st.Leases[i]) {
			all = append(all, st.Leases[i])
		}
	}
	for i := range st.Retiring {
		if !Irrevocable(&st.Retiring[i]) {
			all = append(all, st.Retiring[i])
		}
	}
	return all
}
