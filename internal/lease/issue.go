package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Causes of an issuance, besides the reasons of the conditions.
const (
	CauseFirst          = "Issued"
	CauseRequestChanged = "RequestChanged"
	CauseRequested      = "RotateRequested"
	CauseSecretLost     = "SecretLost"
	CauseSecretChanged  = "SecretChanged"
	CauseUnpublished    = "Unpublished"
	CauseMaxTTL         = "MaxTTLReached"
	CauseMaxAge         = "MaxAge"
	// CauseMaxTTLOutsideWindow: the lease would have expired before the next of spec.rotation.windows.
	CauseMaxTTLOutsideWindow = "MaxTTLReachedOutsideWindow"
	// CauseRefresh: a static or scheduled source has a new value. Nothing was issued.
	CauseRefresh = "Refresh"
)

// issue requests credentials if there is a cause to.
func issue(v *view) *Step {
	cause, at := v.cause()
	if cause == "" {
		return nil
	}
	what := v1alpha1.NextReplace
	if cause == CauseFirst {
		what = v1alpha1.NextIssue
	}
	if v.Now.Before(at) {
		return v.later(at, what)
	}
	if b := v.issueBlock(); b != nil {
		v.blocked = b
		// The cause of the block may not be watched, such as a Secret of something else.
		return v.later(v.Now.Add(blockedRecheck), "")
	}
	if f := v.Tries.Issue; f.waiting(v.Now) {
		v.blocked = &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
		return v.later(f.NotBefore, what)
	}
	return &Step{Action: Issue, Reason: cause}
}

// cause is the list of promise 2: why, and from when, credentials may be issued. Empty: there is no cause.
func (v *view) cause() (string, time.Time) {
	requested := v.requested(v1alpha1.RotateRequestedAtAnnotation, v.st.LastHandledRotateAt)
	if len(v.leases) == 0 {
		if v.st.GrantEndedAt != nil && !requested && v.spec.Reissue == v1alpha1.ReissueNever {
			return "", time.Time{}
		}
		return CauseFirst, v.Now
	}
	switch {
	case v.requestChanged():
		return CauseRequestChanged, v.Now
	case requested:
		return CauseRequested, v.Now
	case v.Target == TargetForeign:
		return CauseSecretLost, v.Now
	case v.holds(v.leases) && !v.current():
		return "", time.Time{}
	case v.Target != TargetCurrent && !v.published():
		return CauseUnpublished, v.Now
	case v.Target == TargetAbsent:
		return CauseSecretLost, v.Now
	case v.Target == TargetChanged:
		return CauseSecretChanged, v.Now
	}
	return v.planned()
}

// requestChanged says that the spec requests something else than what was issued.
func (v *view) requestChanged() bool {
	if len(v.Requests) == 0 {
		return false
	}
	if len(v.Requests) != len(v.leases) {
		return true
	}
	issued := map[string]string{}
	for i := range v.leases {
		issued[v.leases[i].Source] = v.leases[i].RequestDigest
	}
	for _, r := range v.Requests {
		digest, known := issued[r.Source]
		if !known || r.Digest != "" && r.Digest != digest {
			return true
		}
	}
	return false
}

// issueBlock says why nothing can be issued now; nil: nothing prevents it.
func (v *view) issueBlock() *Block {
	switch {
	case v.Object.Spec.Suspend:
		return &Block{Reason: v1alpha1.ReasonSuspended,
			Message: "spec.suspend is true: nothing is issued or replaced until it is false."}
	case v.Block != nil:
		return v.Block
	case len(v.leases) == 0 && v.Invalid != nil:
		return v.Invalid
	case v.Target == TargetForeign:
		return &Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
			Message: "Secret " + v.Object.TargetName() +
				" exists and does not belong to this object: delete it, or set another spec.target.name."}
	case len(v.st.Retiring) >= maxRetiring(len(v.Object.AllSources())):
		return &Block{Reason: v1alpha1.ReasonRetiringFull,
			Message: "status.retiring is full: nothing is issued until the backend has revoked some of it. " +
				"The events say why it fails."}
	}
	return nil
}

// maxRetiring is how many records may be retiring when another set of n is issued. The list has room for 64: both the
// current set and the attempt may have to join it.
func maxRetiring(n int) int { return max(v1alpha1.MaxRetiring, min(2*n, 64-2*n)) }

// planned is why, and when, a live credential is due for its successor. Empty: never.
func (v *view) planned() (string, time.Time) {
	if v.spec.Reissue == v1alpha1.ReissueNever {
		return "", time.Time{}
	}
	cause, at := "", time.Time{}
	for i := range v.leases {
		rec := &v.leases[i]
		if c, t := v.beforeExpiry(rec); c != "" && (cause == "" || t.Before(at)) {
			cause, at = c, t
		}
		// One hand-over at a time, unless a lease would expire.
		age := v.Object.Spec.Rotation.MaxAge
		if age == nil || readAgain(rec) || v.handingOver() {
			continue
		}
		due := v.Windows.Next(maxAgeAt(rec, age.Duration, v.uid))
		if !due.IsZero() && (cause == "" || due.Before(at)) {
			cause, at = CauseMaxAge, due
		}
	}
	return cause, at
}

// beforeExpiry replaces a credential that nothing can extend while the hand-over still fits into what is left of its
// life. It does so no earlier than after a third of that life: otherwise an overlap that is longer than the life would
// replace each credential at once. It waits for a window as long as the hand-over still fits.
func (v *view) beforeExpiry(rec *v1alpha1.LeaseRecord) (string, time.Time) {
	end, last, certain := certainEnd(rec)
	if !certain {
		return "", time.Time{}
	}
	issued := issuedAt(rec)
	earliest := issued.Add(end.Sub(issued) / 3)
	latest := later(earliest, end.Add(-handoverTime(v.Object)))
	at := latest
	if share := replaceAt(rec, end, v.spec.RenewAtPercent, v.uid); last && share.Before(at) {
		at = later(earliest, share)
	}
	if opens := v.Windows.Next(at); !opens.IsZero() && !opens.After(latest) {
		return CauseMaxTTL, opens
	}
	return CauseMaxTTLOutsideWindow, latest
}

// certainEnd is when the credential expires whatever is tried, and whether this term of its lease is the last. False:
// there is no such time, or it is unknown.
func certainEnd(rec *v1alpha1.LeaseRecord) (end time.Time, last, certain bool) {
	if !expires(rec) {
		return time.Time{}, false, false
	}
	if !rec.Renewable || rec.MaxTTLReached {
		end, certain = rec.ExpiresAt.Time, true
	}
	if s := rec.Session; s != nil && !s.Renewable && (!certain || s.ExpiresAt.Time.Before(end)) {
		end, certain = s.ExpiresAt.Time, true
	}
	return end, exhausted(rec), certain
}

// probeAt is when a lease whose maximum is known is renewed to learn whether that maximum still applies, while the
// hand-over still fits. False: it was probed, or the maximum is unknown.
func (v *view) probeAt(rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	if rec.MaxTTLSeconds <= 0 || v.spec.Reissue == v1alpha1.ReissueNever {
		return time.Time{}, false
	}
	issued, life := issuedAt(rec), duration(rec.MaxTTLSeconds)
	at := later(issued.Add(life/3), issued.Add(life-handoverTime(v.Object)))
	return at, at.After(lastGrant(rec))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
