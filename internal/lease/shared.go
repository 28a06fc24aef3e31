package lease

import (
	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// sharesUser says that the credential in use has the user of a retiring record. Revoking the record would drop the
// user, so it is kept, as far as the backend permits.
func (v *view) sharesUser(rec *v1alpha1.LeaseRecord) bool {
	if rec.UserDigest == "" || !Leased(rec) || !v.Object.DeletionTimestamp.IsZero() || v.Object.Spec.Revoked {
		return false
	}
	if end, dies := LifeEnd(rec); dies && !v.Now.Before(end) || rec.Reason == v1alpha1.ReasonLeaseLost {
		return false // the user is gone
	}
	for i := range v.leases {
		if v.sameUser(rec, &v.leases[i]) {
			return true
		}
	}
	for i := range v.st.Retiring {
		other := &v.st.Retiring[i]
		if v.sameUser(rec, other) && (v.inSecret(other) || v.inUse(other)) {
			return true
		}
	}
	return false
}

func (v *view) sameUser(a, b *v1alpha1.LeaseRecord) bool {
	return a.UserDigest == b.UserDigest && a.Provider == b.Provider && Key(a) != Key(b)
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
	for i := range v.st.Retiring {
		if other := &v.st.Retiring[i]; v.sameUser(rec, other) && v.inUse(other) {
			if until, known := heldUntil(v.Object, other); known {
				v.later(until, v1alpha1.NextRevoke)
			}
		}
	}
	return true
}
