package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A hand-over moves the consumers from one credential to the next: the new one is published, the consumers roll out,
// spec.rotation.overlap passes, the old leases are revoked. Until then the old leases are renewed as far as the backend
// permits.

const (
	// unknownRollout is the expected duration of the first roll-out.
	unknownRollout = 5 * time.Minute
	// rolloutMargin is added to twice the duration of the last roll-out.
	rolloutMargin = 2 * time.Second
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

// rolloutTime is the expected duration of a roll-out.
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

// handoverTime is the expected duration of a hand-over.
func handoverTime(d *v1alpha1.DynamicSecret) time.Duration { return rolloutTime(d) + overlap(d) }

// awaited says that consumers may still use the credential of a retiring record.
func awaited(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) bool {
	return rec.Reason == reasonReplaced && d.Status.Handover != nil && d.DeletionTimestamp.IsZero() && !d.Spec.Revoked
}

// handedOverAt is when the last hand-over is complete. False: some consumers do not use the credential yet.
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

// heldUntil is when the old lease may be revoked: the hand-over is complete, or the credential is dead. False: unknown.
func heldUntil(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	until, known := handedOverAt(d)
	if !expires(rec) {
		return until, known
	}
	dead, dies := finalEnd(rec, increment(&d.Spec.Lease))
	if end, _, certain := certainEnd(rec); certain && (!dies || end.Before(dead)) {
		dead, dies = end, true
	}
	if dies && (!known || dead.Before(until)) {
		return dead, true
	}
	return until, known
}

// handingOver says that a hand-over is in progress.
func (v *view) handingOver() bool {
	for i := range v.st.Retiring {
		if awaited(v.Object, &v.st.Retiring[i]) {
			return true
		}
	}
	return v.rolling()
}

// rolling says that not all consumers use what the Secret contains.
func (v *view) rolling() bool {
	h := v.st.Handover
	return h != nil && h.RolledOutAt == nil && RollsOut(v.Object) && v.current()
}

// followRollout checks the progress of the consumers, and stamps those that are not stamped.
func followRollout(v *view) *Step {
	if !v.rolling() {
		return nil
	}
	if v.Now.Before(v.RolloutCheckAt) {
		return v.later(v.RolloutCheckAt, "")
	}
	return &Step{Action: FollowRollout, Reason: v1alpha1.ReasonRollingOut, Hold: v.Now.Before(v.stampAt())}
}

// stampAt is when a roll-out stops waiting for the other Secrets of its workloads: after RolloutWindow, or earlier if
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
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !Leased(rec) || (!awaited(v.Object, rec) && !v.inSecret(rec)) {
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
			return nil // it lives long enough
		}
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
