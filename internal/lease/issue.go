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
	// CauseRenewalRefused: the backend keeps refusing to renew the lease, or to extend its session.
	CauseRenewalRefused = "RenewalRefused"
	// CauseMaxTTLOutsideWindow: the lease would have expired before the next of spec.rotation.windows.
	CauseMaxTTLOutsideWindow = "MaxTTLReachedOutsideWindow"
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
	if b := v.unprotected(); b != nil {
		v.blocked = b
		return nil // until the finalizer is there
	}
	if at, b := v.pausedByLoop(cause); b != nil {
		planned, due := v.planned()
		if !byRequest(cause) || planned == "" || v.Now.Before(due) {
			v.blocked = b
			if planned != "" && due.Before(at) {
				at = due
			}
			return v.later(at, what)
		}
		cause = planned // the old credential must not expire because its request keeps changing
		if at, b := v.pausedByLoop(cause); b != nil {
			v.blocked = b
			return v.later(at, what)
		}
	}
	if f := v.Tries.Issue; f.waiting(v.Now) {
		v.blocked = f.block()
		return v.retry(f, what)
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
	case requested && (v.current() || !v.publishable()):
		return CauseRequested, v.Now
	case v.Target == TargetForeign:
		return CauseSecretLost, v.Now
	case v.holds(v.leases) && !v.current():
		return "", time.Time{}
	case v.Target != TargetCurrent && !v.setPublished():
		return CauseUnpublished, v.Now
	case v.Target == TargetAbsent:
		return CauseSecretLost, v.Now
	case v.Target == TargetChanged:
		return CauseSecretChanged, v.Now
	}
	return v.planned()
}

// issueDue says that there is a cause for an issuance now.
func (v *view) issueDue() bool {
	cause, at := v.cause()
	return cause != "" && !v.Now.Before(at)
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

const suspendedMessage = "spec.suspend is true: nothing is issued or replaced until it is false."

// issueBlock says why nothing can be issued now; nil: nothing prevents it.
func (v *view) issueBlock() *Block {
	switch {
	case v.Object.Spec.Suspend:
		return &Block{Reason: v1alpha1.ReasonSuspended, Message: suspendedMessage}
	case v.Block != nil:
		return v.providerBlock()
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

// providerBlock is the block of the provider. While there are leases, it says what becomes of them.
func (v *view) providerBlock() *Block {
	b := *v.Block
	if b.Lapses && len(v.leases) > 0 {
		b.Message += " The leases are kept until they expire; they are neither renewed nor replaced."
	}
	return &b
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
		if t, ok := v.replaceRefusedAt(rec); ok && (cause == "" || t.Before(at)) {
			cause, at = CauseRenewalRefused, t
		}
		// One handover at a time, unless a lease would expire.
		age := v.Object.Spec.Rotation.MaxAge
		if age == nil || ReadAgain(rec) || v.handingOver() {
			continue
		}
		due := v.Windows.Next(maxAgeAt(rec, age.Duration, v.uid))
		if !due.IsZero() && (cause == "" || due.Before(at)) {
			cause, at = CauseMaxAge, due
		}
	}
	return cause, at
}

// beforeExpiry returns why and when to replace a credential that cannot be extended: early enough for a handover. It
// prefers the next window if a handover still fits after it opens.
func (v *view) beforeExpiry(rec *v1alpha1.LeaseRecord) (string, time.Time) {
	end, last, certain := certainEnd(rec)
	if known := maximumEnd(rec); probed(v.Object, rec) && (!certain || known.Before(end)) {
		// A backend that ignores the requested duration never says that the maximum limits it.
		end, certain = known, true
	}
	if !certain {
		return "", time.Time{}
	}
	latest := handoverAt(v.Object, issuedAt(rec), end)
	at := latest
	if share := replaceAt(rec, end, v.spec.RenewAtPercent, v.uid); last && share.Before(at) {
		at = laterOf(thirdOf(issuedAt(rec), end), share)
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

// maximumEnd is when the known maximum TTL ends the lease.
func maximumEnd(rec *v1alpha1.LeaseRecord) time.Time {
	return issuedAt(rec).Add(duration(rec.MaxTTLSeconds))
}

// probeAt is when a lease whose maximum is known is renewed to learn whether that maximum still applies, while the
// handover still fits. False: the maximum is unknown, or nothing follows from it.
func probeAt(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	if rec.MaxTTLSeconds <= 0 || d.Spec.Lease.Reissue == v1alpha1.ReissueNever {
		return time.Time{}, false
	}
	// In whole seconds, like the recorded time of the renewal, or that would seem to be earlier.
	return ceil(handoverAt(d, issuedAt(rec), maximumEnd(rec))).Time, true
}

// probed says that the lease was renewed at its known maximum and that the response did not disprove it.
func probed(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) bool {
	at, known := probeAt(d, rec)
	return known && expires(rec) && Leased(rec) && !at.After(lastGrant(rec))
}

func earlierOf(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
