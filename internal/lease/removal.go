package lease

import (
	"slices"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// deleting removes everything: the Secret first, then every record, then the finalizer. The deletion timestamp is the
// recorded intent, so nothing is written to the ledger on the way.
func deleting(v *view) *Step {
	if v.Object.DeletionTimestamp.IsZero() {
		return nil
	}
	if !slices.Contains(v.Object.Finalizers, v1alpha1.Finalizer) {
		s := v.wait()
		return &s
	}
	if v.st.Attempt != nil {
		return &Step{Action: DropAttempt, Reason: v1alpha1.ReasonDeleting}
	}
	if v.secretExists() {
		if s := deleteSecret(v, v1alpha1.ReasonDeleting); s != nil {
			return s
		}
	}
	left := false
	for _, retiring := range []bool{false, true} {
		records := v.leases
		if retiring {
			records = v.st.Retiring
		}
		for i := range records {
			if v.Done[Key(&records[i])] || Irrevocable(&records[i]) || (!retiring && !Revocable(&records[i])) {
				continue
			}
			left = true
			if s := v.revoke(&records[i], i, retiring); s != nil {
				return s
			}
		}
	}
	if left || v.secretExists() && v.Now.Before(v.deletionDeadline()) {
		if !left {
			v.later(v.deletionDeadline(), v1alpha1.NextRevoke)
		}
		s := v.wait()
		return &s
	}
	// A Secret that cannot be deleted is left to the garbage collector.
	step := Step{Action: RemoveFinalizer, Reason: v1alpha1.ReasonDeleting}
	if s := v.due(v.Now, v.Tries.Finalizer, v1alpha1.NextRevoke, step); s != nil {
		return s
	}
	s := v.wait()
	return &s
}

func (v *view) deletionDeadline() time.Time {
	return v.Object.DeletionTimestamp.Add(revocationDeadline(v.spec))
}

// revokeAll does what spec.revoked says. Records are revoked whether or not the Secret can be deleted.
func revokeAll(v *view) *Step {
	if !v.Object.Spec.Revoked {
		return nil
	}
	if len(v.leases) > 0 {
		return &Step{Action: DropLeases, Reason: v1alpha1.ReasonRevoked, Record: -1}
	}
	if v.st.Secret != nil {
		if s := deleteSecret(v, v1alpha1.ReasonRevoked); s != nil {
			return s
		}
	}
	if s := revokeRetiring(v); s != nil {
		return s
	}
	s := v.wait()
	return &s
}

func deleteSecret(v *view, reason string) *Step {
	return v.due(v.Now, v.Tries.DeleteSecret, v1alpha1.NextRevoke, Step{Action: DeleteSecret, Reason: reason})
}

// deleteDeadSecret deletes a Secret whose credential is dead, unless a replacement can be issued now.
func deleteDeadSecret(v *view) *Step {
	written := v.st.Secret != nil && (v.st.Secret.UID != "" || v.secretExists())
	valid := len(v.leases) > 0 && (v.setPublished() || v.publishable() || v.Target == TargetCurrent)
	if !written || valid {
		return nil
	}
	if until, alive := v.contentAlive(); alive {
		if !until.IsZero() {
			v.later(until, v1alpha1.NextExpire)
		}
		return nil
	}
	if v.st.GrantEndedAt == nil {
		if v.spec.OnExpiry == v1alpha1.OnExpiryRetain {
			return nil
		}
		canIssue := v.issueBlock() == nil && v.Tries.Issue.Count == 0 && !failing(v.Tries.Renew)
		if !v.holds(v.leases) && canIssue {
			return nil
		}
	}
	return deleteSecret(v, v1alpha1.ReasonExpired)
}

func failing(tries map[string]Failure) bool {
	for _, f := range tries {
		if f.Count > 0 {
			return true
		}
	}
	return false
}

// revokeRetiring revokes, or abandons, the retiring records.
func revokeRetiring(v *view) *Step {
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if v.inSecret(rec) {
			if end, dies := LifeEnd(rec); dies {
				v.later(end, "")
			}
			continue
		}
		if s := v.revoke(rec, i, true); s != nil {
			return s
		}
	}
	return nil
}

func (v *view) revoke(rec *v1alpha1.LeaseRecord, i int, retiring bool) *Step {
	f := v.Tries.Revoke[Key(rec)]
	if v.keepsShared(rec) {
		if v.Object.DeletionTimestamp.IsZero() || v.Now.Before(v.keptUntil(rec)) && !v.abandonRequested() {
			return nil
		}
		return &Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned, Record: i, Retiring: retiring}
	}
	if v.abandoned(rec, f) {
		return &Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned, Record: i, Retiring: retiring}
	}
	from := v.Now
	if !Replaced(rec) {
		from = v.revokeFrom(rec)
	}
	if retiring && awaited(v.Object, rec) {
		until, known := heldUntil(v.Object, rec)
		if !known {
			return nil
		}
		from = until
	}
	reason := rec.Reason
	if reason == "" {
		reason = v1alpha1.ReasonDeleting
	}
	return v.due(from, f, v1alpha1.NextRevoke,
		Step{Action: RevokeRecord, Record: i, Retiring: retiring, Reason: reason})
}

// revokeFrom is when the record may be revoked. A status can contain any time.
func (v *view) revokeFrom(rec *v1alpha1.LeaseRecord) time.Time {
	if rec.RevokeAfter == nil {
		return v.Now
	}
	if by, bounded := v.RevokeBy[Key(rec)]; bounded {
		return earlierOf(by, rec.RevokeAfter.Time)
	}
	return rec.RevokeAfter.Time
}

// abandoned says that the record is given up: somebody requested it, revoking it is useless, or its deadline has passed
// and the backend has failed to revoke it.
func (v *view) abandoned(rec *v1alpha1.LeaseRecord, f Failure) bool {
	if f.Final {
		return true
	}
	if !Leased(rec) && rec.Revocable && v.Object.DeletionTimestamp.IsZero() {
		return false // it expires, and then there is nothing left to revoke
	}
	if v.abandonRequested() {
		return true
	}
	if f.Count == 0 {
		return false
	}
	bound, bounded := v.abandonedAt(rec)
	if !bounded {
		return false
	}
	if v.Now.Before(bound) {
		v.later(bound, v1alpha1.NextRevoke)
		return false
	}
	return true
}

// abandonRequested says that the spec or somebody requests that a deletion gives the leases up.
func (v *view) abandonRequested() bool {
	requested := v.spec.OnDelete == v1alpha1.OnDeleteAbandon ||
		v.Object.Annotations[v1alpha1.AbandonLeaseAnnotation] == "true"
	return !v.Object.DeletionTimestamp.IsZero() && requested
}

// keptUntil is until when a deletion keeps a lease whose user another object uses: until its deadline, or until the
// lease has expired, and the user with it.
func (v *view) keptUntil(rec *v1alpha1.LeaseRecord) time.Time {
	at := v.deletionDeadline()
	if end, dies := LifeEnd(rec); dies {
		at = earlierOf(at, end)
	}
	v.later(at, v1alpha1.NextRevoke)
	return at
}

// abandonedAt is until when the backend may fail to revoke the record. False: there is no such time. A session may
// outlive its lease. It owns nothing else, so a deletion does not wait for its end, but an object that stays does.
func (v *view) abandonedAt(rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	bound, bounded := finalEnd(rec, longestRequest(v.Object, rec))
	removed := !v.Object.DeletionTimestamp.IsZero()
	if s := rec.Session; s != nil && bounded && !removed && s.ExpiresAt.After(bound) {
		bound = s.ExpiresAt.Time
	}
	bound = bound.Add(abandonGrace)
	if removed {
		if deadline := v.deletionDeadline(); !bounded || deadline.Before(bound) {
			return deadline, true
		}
	}
	return bound, bounded
}
