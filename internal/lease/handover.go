package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A hand-over goes from one credential to the next: the new one is published, the consumers roll out, spec.rotation.overlap
// passes, the old lease ends. Until then the old lease is held, and kept alive as far as the backend lets it be.

const (
	// unknownRollout is how long a roll-out is expected to take before one was seen.
	unknownRollout = 5 * time.Minute
	// rolloutMargin is added to twice the time that the last roll-out took.
	rolloutMargin = 2 * time.Second
)

// Stamp is what the pod templates of the consumers carry once they are to have the credential with this digest.
func Stamp(digest string) string {
	sum := sha256.Sum256([]byte("leasekeeper\x00" + digest))
	return hex.EncodeToString(sum[:8])
}

// RollsOut says whether somebody must be rolled out.
func RollsOut(d *v1alpha1.DynamicSecret) bool {
	r := d.Spec.Rollout
	return r != nil && (r.Discover || len(r.Targets) > 0)
}

func overlap(d *v1alpha1.DynamicSecret) time.Duration {
	if d.Spec.Rotation.Overlap == nil {
		return 0
	}
	return max(0, d.Spec.Rotation.Overlap.Duration)
}

// rolloutTime is how long a roll-out is expected to take.
func rolloutTime(d *v1alpha1.DynamicSecret) time.Duration {
	switch h := d.Status.Handover; {
	case !RollsOut(d):
		return 0
	case h == nil || h.RolloutSeconds <= 0:
		return unknownRollout
	default:
		return 2*duration(h.RolloutSeconds) + rolloutMargin
	}
}

// handoverTime is how long a hand-over is expected to take.
func handoverTime(d *v1alpha1.DynamicSecret) time.Duration { return rolloutTime(d) + overlap(d) }

// awaited says that consumers may still use the credential of a retiring record.
func awaited(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) bool {
	return rec.Reason == reasonReplaced && d.Status.Handover != nil && d.DeletionTimestamp.IsZero() && !d.Spec.Revoked
}

// handedOverAt is when the last hand-over is over. False: somebody has not moved yet.
func handedOverAt(d *v1alpha1.DynamicSecret) (time.Time, bool) {
	h := d.Status.Handover
	switch {
	case h.RolledOutAt != nil:
		return h.RolledOutAt.Add(overlap(d)), true
	case RollsOut(d):
		return time.Time{}, false
	}
	return h.PublishedAt.Add(overlap(d)), true
}

// heldUntil is from when on a record need not be held any longer: the hand-over is over, or the credential is dead. False:
// it is not known yet.
func heldUntil(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	until, known := handedOverAt(d)
	if !Leased(rec) {
		return until, known
	}
	dead, dies := ownEnd(rec, increment(&d.Spec.Lease))
	if end, _, certain := certainEnd(rec); certain && (!dies || end.Before(dead)) {
		dead, dies = end, true
	}
	if dies && (!known || dead.Before(until)) {
		return dead, true
	}
	return until, known
}

func increment(spec *v1alpha1.LeaseSpec) time.Duration {
	if spec.Increment == nil {
		return 0
	}
	return spec.Increment.Duration
}

// handingOver says that a hand-over is under way.
func (v *view) handingOver() bool {
	for i := range v.st.Retiring {
		if awaited(v.Object, &v.st.Retiring[i]) {
			return true
		}
	}
	return v.rolling()
}

// rolling says that the consumers of what the Secret holds have not all moved to it.
func (v *view) rolling() bool {
	h := v.st.Handover
	return h != nil && h.RolledOutAt == nil && RollsOut(v.Object) && v.lease != nil && v.carried()
}

// followRollout looks how far the consumers are, and stamps those that are not stamped.
func followRollout(v *view) *Step {
	if !v.rolling() {
		return nil
	}
	if v.Now.Before(v.RolloutLook) {
		return v.later(v.RolloutLook, "")
	}
	return &Step{Action: FollowRollout, Reason: v1alpha1.ReasonRollingOut, Hold: v.Now.Before(v.stampAt())}
}

// stampAt is until when a roll-out may wait for the other Secrets of its workloads: the window, but not longer than any of
// the old leases can bear. Without one that lives there is nothing to wait with.
func (v *view) stampAt() time.Time {
	published := v.st.Handover.PublishedAt.Time
	at, held := published.Add(v.RolloutWindow), false
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !awaited(v.Object, rec) {
			continue
		}
		held = true
		if end, _, certain := certainEnd(rec); certain && end.Add(-handoverTime(v.Object)).Before(at) {
			at = end.Add(-handoverTime(v.Object))
		}
	}
	if !held {
		return published
	}
	return at
}

// keepRetiring keeps the leases alive that consumers may still use.
func keepRetiring(v *view) *Step {
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !Leased(rec) || (!awaited(v.Object, rec) && rec != v.replaced()) {
			continue
		}
		if s := v.keep(i, rec); s != nil {
			return s
		}
	}
	return nil
}

func (v *view) keep(i int, rec *v1alpha1.LeaseRecord) *Step {
	end, dies := LifeEnd(rec)
	if dies && !v.Now.Before(end) {
		return nil
	}
	if awaited(v.Object, rec) {
		if over, known := handedOverAt(v.Object); known && dies && !end.Before(over) {
			return nil // it lasts
		}
	}
	f := v.Tries.Keep[TryKey(rec)]
	if rec.TokenRenewable && tokenDiesFirst(rec) {
		at := extendTokenAt(rec, v.spec.RenewAtPercent, v.uid)
		if s := v.due(at, f, v1alpha1.NextRenew, Step{Action: ExtendRetiring, Record: i, Reason: v1alpha1.ReasonRenewing}); s != nil {
			return s
		}
	}
	if exhausted(rec) {
		return nil
	}
	at := renewAt(rec, v.spec.RenewAtPercent, v.uid)
	return v.due(at, f, v1alpha1.NextRenew, Step{Action: RenewRetiring, Record: i, Reason: v1alpha1.ReasonRenewing})
}

// planned is why, and when, a credential that lives is due for its successor. Empty: nothing says so.
func (v *view) planned() (string, time.Time) {
	if v.spec.Reissue == v1alpha1.ReissueNever {
		return "", time.Time{}
	}
	cause, at := v.beforeItsEnd()
	// One hand-over at a time, unless the lease would die.
	if age := v.Object.Spec.Rotation.MaxAge; age != nil && !v.handingOver() {
		due := v.Windows.Next(maxAgeAt(v.lease, age.Duration, v.uid))
		if !due.IsZero() && (cause == "" || due.Before(at)) {
			return CauseMaxAge, due
		}
	}
	return cause, at
}

// beforeItsEnd: a lease that nothing can extend is replaced so early that the hand-over fits into what is left, where it
// can, and not before a third of its life is over: otherwise an overlap that is longer than a life would replace each lease
// at once. A window is waited for as long as that fits.
func (v *view) beforeItsEnd() (string, time.Time) {
	end, last, certain := certainEnd(v.lease)
	if !certain {
		return "", time.Time{}
	}
	issued := issuedAt(v.lease)
	floor := issued.Add(end.Sub(issued) / 3)
	latest := later(floor, end.Add(-handoverTime(v.Object)))
	at := latest
	if share := replaceAt(v.lease, end, v.spec.RenewAtPercent, v.uid); last && share.Before(at) {
		at = later(floor, share)
	}
	if opens := v.Windows.Next(at); !opens.IsZero() && !opens.After(latest) {
		return CauseMaxTTL, opens
	}
	return CauseMaxTTLOutsideWindow, latest
}

// certainEnd is when the credential dies whatever is tried, and whether this term of the lease is its last. False: there is
// no such time, or it is not known.
func certainEnd(rec *v1alpha1.LeaseRecord) (end time.Time, last, certain bool) {
	if !Leased(rec) || rec.ExpiresAt == nil {
		return time.Time{}, false, false
	}
	if !rec.Renewable || rec.MaxTTLReached {
		end, certain = rec.ExpiresAt.Time, true
	}
	if token := rec.TokenExpiresAt; token != nil && !rec.TokenRenewable && (!certain || token.Time.Before(end)) {
		end, certain = token.Time, true
	}
	return end, exhausted(rec), certain
}

// probeAt is when a lease whose maximum is known is renewed to learn whether that still holds, with the time left that a
// hand-over takes. False: it was, or the maximum is not known.
func (v *view) probeAt() (time.Time, bool) {
	if v.lease.MaxTTLSeconds <= 0 || v.spec.Reissue == v1alpha1.ReissueNever {
		return time.Time{}, false
	}
	issued, life := issuedAt(v.lease), duration(v.lease.MaxTTLSeconds)
	at := later(issued.Add(life/3), issued.Add(life-handoverTime(v.Object)))
	return at, at.After(lastGrant(v.lease))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func issuedAt(rec *v1alpha1.LeaseRecord) time.Time {
	if rec.IssuedAt != nil {
		return rec.IssuedAt.Time
	}
	return rec.StartedAt.Time
}
