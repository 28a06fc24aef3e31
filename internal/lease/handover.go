package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A handover moves the consumers from one credential to the next: the new one is published, spec.rotation.settle
// passes, the consumers roll out, spec.rotation.overlap passes, the old leases are revoked. Until then the old leases
// are renewed as far as the backend permits.

const (
	// unknownRollout is the expected duration of the first rollout.
	unknownRollout = 5 * time.Minute
	// maxRollout bounds the recorded duration of a rollout: what takes longer waited for something unusual.
	maxRollout = time.Hour
	// maxOverlap keeps sums and products of durations within their type.
	maxOverlap = 10 * 365 * 24 * time.Hour
	// rolloutMargin is added to twice the duration of the last rollout.
	rolloutMargin = 2 * time.Second
	// propagation is the least time between a write of the Secret and the restart of a workload: a kubelet whose watch
	// lags would start the new pods with the old data. Publication times are whole seconds, rounded down.
	propagation = 2 * time.Second
	// issueTime is the expected time from the decision to replace a credential until its successor is in the Secret.
	issueTime = 10 * time.Second
)

// Stamp is the value that the pod templates of the consumers get once they are to use the data with this digest.
func Stamp(digest string) string {
	sum := sha256.Sum256([]byte("leasekeeper\x00" + digest))
	return hex.EncodeToString(sum[:8])
}

// RollsOut says whether the object has consumers to roll out.
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

// settle is how long a rollout waits after the publication.
func settle(d *v1alpha1.DynamicSecret) time.Duration {
	if d.Spec.Rotation.Settle == nil {
		return propagation
	}
	return propagation + min(max(0, d.Spec.Rotation.Settle.Duration), maxOverlap)
}

// rolloutTime is the expected time from the publication to the end of the rollout.
func rolloutTime(d *v1alpha1.DynamicSecret) time.Duration {
	switch h := d.Status.Handover; {
	case !RollsOut(d):
		return 0
	case h == nil || h.RolloutSeconds <= 0:
		return settle(d) + unknownRollout
	default:
		return settle(d) + 2*min(duration(h.RolloutSeconds), maxRollout) + rolloutMargin
	}
}

// handoverTime is the expected duration of a handover, from the decision to the revocation of the old credential. 0:
// no consumer needs the old credential once the successor is in the Secret, or there will be no successor.
func handoverTime(d *v1alpha1.DynamicSecret) time.Duration {
	held := rolloutTime(d) + min(overlap(d), maxOverlap)
	if held == 0 || d.Spec.Lease.Reissue == v1alpha1.ReissueNever {
		return 0
	}
	return issueTime + held
}

// probeTime is the least duration to request at a renewal. A lease that gets it is renewed again when half of it is
// left, so a response that is capped by the maximum TTL arrives while the handover still fits.
func probeTime(d *v1alpha1.DynamicSecret) time.Duration { return 2 * handoverTime(d) }

// handoverAt is when the handover of a credential must start that lives from one time to another. It is no earlier
// than after a third of that life: otherwise an overlap that is longer than the life would replace each credential at
// once.
func handoverAt(d *v1alpha1.DynamicSecret, from, end time.Time) time.Time {
	return laterOf(thirdOf(from, end), end.Add(-handoverTime(d)))
}

func thirdOf(from, end time.Time) time.Time { return from.Add(end.Sub(from) / 3) }

// awaited says that consumers may still use the credential of a retiring record.
func awaited(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) bool {
	return rec.Reason == reasonReplaced && d.Status.Handover != nil && d.DeletionTimestamp.IsZero() && !d.Spec.Revoked
}

// handedOverAt is when the last handover is complete. False: some consumers do not use the credential yet.
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

// heldUntil is when the old lease may be revoked: the handover is complete, or the credential is dead. False: unknown.
func heldUntil(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	until, known := handedOverAt(d)
	if !expires(rec) {
		return until, known
	}
	dead, dies := finalEnd(rec, longestRequest(d, rec))
	if end, _, certain := certainEnd(rec); certain && (!dies || end.Before(dead)) {
		dead, dies = end, true
	}
	if dies && (!known || dead.Before(until)) {
		return dead, true
	}
	return until, known
}

// handingOver says that a handover is in progress.
func (v *view) handingOver() bool {
	for i := range v.st.Retiring {
		if awaited(v.Object, &v.st.Retiring[i]) {
			return true
		}
	}
	return v.isRolling()
}

// isRolling says that not all consumers use what the Secret contains.
func (v *view) isRolling() bool {
	h := v.st.Handover
	return h != nil && h.RolledOutAt == nil && RollsOut(v.Object) && v.current()
}

// followRollout checks the progress of the consumers, and stamps those that are not stamped.
func followRollout(v *view) *Step {
	if !v.isRolling() {
		return nil
	}
	if settled := v.st.Handover.PublishedAt.Add(settle(v.Object)); v.Now.Before(settled) {
		return v.later(settled, v1alpha1.NextRollout)
	}
	if v.Now.Before(v.RolloutCheckAt) {
		return v.later(v.RolloutCheckAt, "")
	}
	return &Step{Action: FollowRollout, Reason: v1alpha1.ReasonRollingOut, Hold: v.Now.Before(v.stampAt())}
}

// stampAt is when a rollout stops waiting for the other Secrets of its workloads: after RolloutWindow, or earlier if
// an old lease ends. Without a live old lease it does not wait.
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

// keepRetiring renews the leases that consumers may still use.
func keepRetiring(v *view) *Step {
	if v.lapses() {
		return nil
	}
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !Leased(rec) || !v.kept(rec) {
			continue
		}
		if s := v.keep(i, rec); s != nil {
			return s
		}
	}
	return nil
}

// kept says that somebody may still use the credential of a retiring record.
func (v *view) kept(rec *v1alpha1.LeaseRecord) bool {
	return awaited(v.Object, rec) || v.inSecret(rec) || v.sharesUser(rec)
}

// KeptEnd is when the first retiring credential expires that somebody may still use: the Secret contains it, a handover
// awaits its consumers, or the credential in use has the same user. False: none expires after now.
func KeptEnd(d *v1alpha1.DynamicSecret, now time.Time) (first time.Time, ok bool) {
	v := newView(Input{Object: d, Now: now})
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		end, dies := LifeEnd(rec)
		if dies && end.After(now) && v.kept(rec) && (!ok || end.Before(first)) {
			first, ok = end, true
		}
	}
	return first, ok
}

func (v *view) keep(i int, rec *v1alpha1.LeaseRecord) *Step {
	end, dies := LifeEnd(rec)
	if awaited(v.Object, rec) && !v.sharesUser(rec) {
		if over, known := handedOverAt(v.Object); known && dies && !end.Before(over) {
			return nil // it lives long enough
		}
	}
	if dies && !v.Now.Before(end) {
		// A renewal that succeeded may not be recorded. Only the backend can tell that the lease is gone.
		s, f := v.extension(i, rec)
		if s == nil {
			return nil
		}
		s.Retiring = true
		return v.due(end, f, v1alpha1.NextRenew, *s)
	}
	if dies {
		v.later(end, "")
	}
	key := Key(rec)
	if sessionExpiresFirst(rec) && rec.Session.Renewable {
		at := extendSessionAt(rec, v.spec.RenewAtPercent, v.uid)
		step := Step{Action: ExtendSession, Record: i, Retiring: true, Reason: v1alpha1.ReasonRenewing}
		if s := v.due(at, v.Tries.ExtendSession[key], v1alpha1.NextRenew, step); s != nil {
			return s
		}
	}
	if exhausted(rec) {
		return nil
	}
	at := renewAt(rec, v.spec.RenewAtPercent, v.uid)
	step := Step{Action: RenewLease, Record: i, Retiring: true, Reason: v1alpha1.ReasonRenewing}
	return v.due(at, v.Tries.Renew[key], v1alpha1.NextRenew, step)
}
