package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A role may give several leases the same user. Revoking one of them drops the user, so it is kept, as far as the
// backend permits, while the credential of another one is in use: of the same object or of another one.

// sharesUser says that a credential in use has the user of a record that should be revoked. spec.revoked is an order to
// end the access of this object's user, whoever else has it.
func (v *view) sharesUser(rec *v1alpha1.LeaseRecord) bool {
	if rec.UserDigest == "" || !Leased(rec) || userGone(rec, v.Now) || v.Object.Spec.Revoked {
		return false
	}
	if v.Sharers[Key(rec)] != "" {
		return true
	}
	return v.Object.DeletionTimestamp.IsZero() && v.usesUserOf(rec)
}

// userGone says that the lease has ended, and its user with it.
func userGone(rec *v1alpha1.LeaseRecord, now time.Time) bool {
	end, dies := LifeEnd(rec)
	return dies && !now.Before(end) || rec.Reason == v1alpha1.ReasonLeaseLost
}

// usesUserOf says that a credential of this object that is in use has the user of a record, and another lease.
func (v *view) usesUserOf(rec *v1alpha1.LeaseRecord) bool {
	for i := range v.leases {
		if sameUser(rec, &v.leases[i]) {
			return true
		}
	}
	for i := range v.st.Retiring {
		other := &v.st.Retiring[i]
		if sameUser(rec, other) && (v.inSecret(other) || v.inUse(other)) {
			return true
		}
	}
	return false
}

// UsesUserOf says that the other object has a credential in use with the user of a record of the object.
func UsesUserOf(other *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, now time.Time) bool {
	if !other.DeletionTimestamp.IsZero() || other.Spec.Revoked {
		return false
	}
	return newView(Input{Object: other, Now: now}).usesUserOf(rec)
}

// sameUser says that two leases have the same user. Records that name one lease or session are disputed, not shared.
func sameUser(a, b *v1alpha1.LeaseRecord) bool {
	return a.UserDigest != "" && a.UserDigest == b.UserDigest && a.ID != b.ID && a.Handle() != b.Handle()
}

// inUse says that the handover from a retiring record is not complete.
func (v *view) inUse(rec *v1alpha1.LeaseRecord) bool {
	if !awaited(v.Object, rec) {
		return false
	}
	until, known := heldUntil(v.Object, rec)
	return !known || v.Now.Before(until)
}

// shared is a retiring record whose user is in use; nil: there is none.
func (v *view) shared() *v1alpha1.LeaseRecord {
	for i := range v.st.Retiring {
		if rec := &v.st.Retiring[i]; v.sharesUser(rec) && !v.inUse(rec) {
			return rec
		}
	}
	return nil
}

// keepsShared waits for what may end the common user.
func (v *view) keepsShared(rec *v1alpha1.LeaseRecord) bool {
	if !v.sharesUser(rec) {
		return false
	}
	if end, dies := LifeEnd(rec); dies {
		v.later(end, v1alpha1.NextRevoke)
	}
	if v.Sharers[Key(rec)] != "" {
		v.later(v.Now.Add(blockedRecheck), "") // nothing watches the other object for this one
	}
	for i := range v.st.Retiring {
		if other := &v.st.Retiring[i]; sameUser(rec, other) && v.inUse(other) {
			if until, known := heldUntil(v.Object, other); known {
				v.later(until, v1alpha1.NextRevoke)
			}
		}
	}
	return true
}

// sharedMessage says why a record is kept, and what to do.
func (v *view) sharedMessage(rec *v1alpha1.LeaseRecord) string {
	const fix = "because its revocation would drop the user; at its maximum TTL the backend drops the user. Change " +
		"the role so that each lease gets a user of its own (username template), then request a rotation"
	if other := v.Sharers[Key(rec)]; other != "" && !v.usesUserOf(rec) {
		return rec.Location() + " gave DynamicSecret " + other + " the user of an old lease of this object. The old " +
			"lease is kept, " + fix + " of both objects."
	}
	return rec.Location() + " gave the new lease the user of the old one. The old lease is kept, " + fix + "."
}
