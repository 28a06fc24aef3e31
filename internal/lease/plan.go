package lease

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// rules in the order in which they are asked. The first that names a step wins; when none does, Plan waits. What saves
// a living lease stands before what replaces it, and what is owed to the backend before what is wanted from it.
var rules = []func(*view) *Step{
	heldIsSettled,
	deleting,
	finalizer,
	attemptIsSettled,
	revoked,
	leaseIsOver,
	verify,
	renew,
	extendToken,
	keepRetiring,
	publish,
	deadSecret,
	followRollout,
	endRetiring,
	issue,
	syncSecret,
}

// Plan names the next step. It is total: every input has one.
func Plan(in Input) Step {
	v := newView(&in)
	for _, rule := range rules {
		if s := rule(v); s != nil {
			return *s
		}
	}
	return v.wait()
}

// view is the input with what the rules ask of it again and again.
type view struct {
	*Input
	uid     types.UID
	st      *v1alpha1.DynamicSecretStatus
	lease   *v1alpha1.LeaseRecord
	spec    *v1alpha1.LeaseSpec
	blocked *Block
	next    []upcoming
}

// upcoming is something that will be due.
type upcoming struct {
	at   time.Time
	what string
}

func newView(in *Input) *view {
	return &view{
		Input: in,
		uid:   in.Object.UID,
		st:    &in.Object.Status,
		lease: in.Object.Status.Lease,
		spec:  &in.Object.Spec.Lease,
	}
}

// later notes something that will be due (empty: a look, which no status tells); it never names a step.
func (v *view) later(at time.Time, what string) *Step {
	v.next = append(v.next, upcoming{at, what})
	return nil
}

// due names the step if its time has come, and notes it otherwise.
func (v *view) due(at time.Time, f Failure, what string, s Step) *Step {
	if f.waiting(v.Now) && f.NotBefore.After(at) {
		at = f.NotBefore
	}
	if v.Now.Before(at) {
		return v.later(at, what)
	}
	return &s
}

func (v *view) wait() Step {
	s := Step{Action: Wait, Blocked: v.blocked}
	for _, u := range v.next {
		if s.At.IsZero() || u.at.Before(s.At) {
			s.At = u.at
		}
		if u.what != "" && (s.Next == "" || u.at.Before(s.NextAt)) {
			s.Next, s.NextAt = u.what, u.at
		}
	}
	return s
}

func (v *view) holds(rec *v1alpha1.LeaseRecord) bool {
	return rec != nil && v.Held.Accessor != "" && v.Held.Accessor == rec.TokenAccessor
}

// ordered says that the annotation has a value that was not handled. To take an annotation off is no order.
func (v *view) ordered(annotation, handled string) bool {
	value := v.Object.Annotations[annotation]
	return value != "" && value != handled
}

func (v *view) renewRequested() bool {
	return v.ordered(v1alpha1.RenewRequestedAtAnnotation, v.st.LastHandledRenewAt) ||
		v.ordered(v1alpha1.ForceSyncAnnotation, v.st.LastHandledForceSync)
}

// published says that the lease's credential was written into the Secret, and the status knows it.
func (v *view) published() bool { return Published(v.st) }

// carried says that it is still there.
func (v *view) carried() bool { return v.Target == TargetCurrent && v.published() }

// publishable says that the credential of the lease is in memory and the API server is about to take it.
func (v *view) publishable() bool { return v.holds(v.lease) && v.Tries.Publish.Count < patientTries }

// replaced is the record whose credential the Secret still holds while that of its successor is not published; nil:
// none, or it is dead.
func (v *view) replaced() *v1alpha1.LeaseRecord {
	if v.lease == nil || v.published() {
		return nil
	}
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if end, ok := LifeEnd(rec); rec.Reason == v1alpha1.ReasonReplacing && (!ok || v.Now.Before(end)) {
			return rec
		}
	}
	return nil
}

// heldIsSettled: an answer came back, but its attempt is no longer there, because another replica took over while this
// one was asleep. The record that the other made can be completed, and where it ended the token already it must be
// ended once more: the answer proves that the credential exists.
func heldIsSettled(v *view) *Step {
	if !v.Held.answered() || v.holds(v.st.Attempt) || v.holds(v.lease) {
		return nil
	}
	return v.due(v.Now, v.Tries.Settle, v1alpha1.NextEnd, Step{Action: ResolveHeld, Reason: v1alpha1.ReasonReplacing})
}

func deleting(v *view) *Step {
	if v.Object.DeletionTimestamp.IsZero() {
		return nil
	}
	if !hasFinalizer(v.Object) {
		s := v.wait()
		return &s
	}
	if s := windDown(v, v1alpha1.ReasonDeleting); s != nil {
		return s
	}
	return &Step{Action: RemoveFinalizer, Reason: v1alpha1.ReasonDeleting}
}

// windDown ends everything: the intents first, then the Secret, then every record.
func windDown(v *view, reason string) *Step {
	if v.st.Attempt != nil {
		return dropAttempt(v, reason)
	}
	if v.lease != nil {
		return &Step{Action: DropLease, Reason: reason}
	}
	if v.st.Secret != nil {
		return &Step{Action: DeleteSecret, Reason: reason}
	}
	if s := endRetiring(v); s != nil {
		return s
	}
	if len(v.st.Retiring) > 0 {
		s := v.wait()
		return &s
	}
	return nil
}

func finalizer(v *view) *Step {
	if hasFinalizer(v.Object) {
		return nil
	}
	return &Step{Action: AddFinalizer, Reason: v1alpha1.ReasonIssuing}
}

// attemptIsSettled: an attempt either has an answer that this process holds, or it has none and never will.
func attemptIsSettled(v *view) *Step {
	if v.st.Attempt == nil {
		return nil
	}
	if v.holds(v.st.Attempt) && v.Held.Outcome == OutcomeIssued && !v.Object.Spec.Revoked {
		return &Step{Action: RecordLease, Reason: v1alpha1.ReasonPublishing}
	}
	return dropAttempt(v, v1alpha1.ReasonIssuing)
}

// dropAttempt: where the backend has answered, the token can be ended at once. Where it has not, it may still be
// minting, and ending the token now would leave a credential that nothing owns; so wait until it must be done. An
// attempt of another process is counted from now: its start was told by another clock.
func dropAttempt(v *view, reason string) *Step {
	s := &Step{Action: DropAttempt, Reason: reason, EndAfter: v.Now.Add(v.RequestLimit)}
	switch {
	case !v.holds(v.st.Attempt):
	case v.Held.answered():
		s.EndAfter = v.Now
	default:
		// The journal keeps whole seconds, rounded down.
		s.EndAfter = v.st.Attempt.StartedAt.Add(v.RequestLimit + time.Second)
	}
	return s
}

func revoked(v *view) *Step {
	if !v.Object.Spec.Revoked {
		return nil
	}
	if s := windDown(v, v1alpha1.ReasonRevoked); s != nil {
		return s
	}
	s := v.wait()
	return &s
}

// leaseIsOver: the backend says so, or its time has passed, or (a grant) its Secret is gone and there is no second.
func leaseIsOver(v *view) *Step {
	if !Leased(v.lease) {
		return nil
	}
	if v.LostID == v.lease.ID {
		return &Step{Action: DropLease, Reason: v1alpha1.ReasonLeaseLost}
	}
	if end, ok := LifeEnd(v.lease); ok {
		if !v.Now.Before(end) {
			return &Step{Action: DropLease, Reason: v1alpha1.ReasonExpired}
		}
		v.later(end, v1alpha1.NextExpire)
	}
	if v.spec.Reissue == v1alpha1.ReissueNever && v.published() && (v.Target == TargetAbsent || v.Target == TargetChanged) && !v.holds(v.lease) {
		return &Step{Action: DropLease, Reason: v1alpha1.ReasonGrantEnded}
	}
	return nil
}

// verify: a list that lacks the lease proves nothing; the backend is asked about it.
func verify(v *view) *Step {
	if !Leased(v.lease) || v.SuspectID != v.lease.ID {
		return nil
	}
	return &Step{Action: VerifyLease, Reason: v1alpha1.ReasonLeaseLost}
}

func renew(v *view) *Step {
	if v.lease == nil {
		return nil
	}
	if Leased(v.lease) && !exhausted(v.lease) {
		at := renewAt(v.lease, v.spec.RenewAtPercent, v.uid)
		if probe, ok := v.probeAt(); ok && probe.Before(at) {
			at = probe
		}
		if v.renewRequested() {
			at = v.Now
		}
		return v.due(at, v.Tries.Renew, v1alpha1.NextRenew, Step{Action: RenewLease, Reason: v1alpha1.ReasonRenewing})
	}
	if v.renewRequested() && Leased(v.lease) {
		return &Step{Action: AcknowledgeRenew, Reason: v1alpha1.ReasonRenewing}
	}
	return nil
}

func extendToken(v *view) *Step {
	if !Leased(v.lease) || !v.lease.TokenRenewable || !tokenDiesFirst(v.lease) {
		return nil
	}
	at := extendTokenAt(v.lease, v.spec.RenewAtPercent, v.uid)
	return v.due(at, v.Tries.ExtendToken, v1alpha1.NextRenew, Step{Action: ExtendToken, Reason: v1alpha1.ReasonRenewing})
}

func publish(v *view) *Step {
	if v.lease == nil || v.carried() || v.Target == TargetForeign || !v.holds(v.lease) || v.Target == TargetCurrent {
		return nil
	}
	return v.due(v.Now, v.Tries.Publish, v1alpha1.NextPublish, Step{Action: PublishSecret, Reason: v1alpha1.ReasonPublishing})
}

// deadSecret: the lease is over and the Secret still holds its credential; or that of its successor was never published
// and is lost with the process that held it, or is not taken. A new one is had in its place if that can be tried at once; otherwise the
// Secret goes.
func deadSecret(v *view) *Step {
	if v.st.Secret == nil || (v.st.Secret.UID == "" && v.Target != TargetCurrent && v.Target != TargetChanged) || (v.lease != nil && (v.published() || v.publishable() || v.Target == TargetCurrent)) {
		return nil
	}
	if rec := v.replaced(); rec != nil {
		if end, ok := LifeEnd(rec); ok {
			v.later(end, v1alpha1.NextExpire)
		}
		return nil
	}
	if v.st.GrantEndedAt == nil {
		if v.spec.OnExpiry == v1alpha1.OnExpiryRetain {
			return nil
		}
		if !v.holds(v.lease) && v.issueBlock() == nil && v.Tries.Issue.Count == 0 && v.Tries.Renew.Count == 0 {
			return nil
		}
	}
	return &Step{Action: DeleteSecret, Reason: v1alpha1.ReasonExpired}
}

// endRetiring ends, or gives up, what is owed an end.
func endRetiring(v *view) *Step {
	replaced := v.replaced()
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if rec == replaced {
			continue // the Secret still holds it
		}
		f := v.Tries.End[TryKey(rec)]
		if v.abandoned(rec, f) {
			return &Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned, Record: i}
		}
		from := v.Now
		if rec.EndAfter != nil {
			from = rec.EndAfter.Time
		}
		if awaited(v.Object, rec) {
			until, known := heldUntil(v.Object, rec)
			if !known {
				continue
			}
			from = later(from, until)
		}
		if s := v.due(from, f, v1alpha1.NextEnd, Step{Action: EndRecord, Record: i, Reason: rec.Reason}); s != nil {
			return s
		}
	}
	return nil
}

// abandoned says that the record is given up: somebody said so, its end makes no sense, or its bound has passed and
// the backend was asked in vain.
func (v *view) abandoned(rec *v1alpha1.LeaseRecord, f Failure) bool {
	if f.Final {
		return true
	}
	going := !v.Object.DeletionTimestamp.IsZero()
	if going && (v.spec.OnDelete == v1alpha1.OnDeleteAbandon || v.Object.Annotations[v1alpha1.AbandonLeaseAnnotation] == "true") {
		return true
	}
	if f.Count == 0 {
		return false
	}
	bound, bounded := ownEnd(rec, increment(v.spec))
	bound = bound.Add(abandonGrace)
	if going {
		deadline := v.Object.DeletionTimestamp.Add(v.spec.RevocationDeadline.Duration)
		if !bounded || deadline.Before(bound) {
			bound, bounded = deadline, true
		}
	}
	if !bounded {
		return false
	}
	if v.Now.Before(bound) {
		v.later(bound, v1alpha1.NextEnd)
		return false
	}
	return true
}

// issueBlock says why nothing can be issued now.
func (v *view) issueBlock() *Block {
	switch {
	case v.Object.Spec.Suspend:
		return &Block{Reason: v1alpha1.ReasonSuspended, Message: "spec.suspend is true: nothing is issued or replaced until it is false."}
	case v.Block != nil:
		return v.Block
	case v.lease == nil && v.Invalid != nil:
		return v.Invalid
	case v.Target == TargetForeign:
		return &Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
			Message: "Secret " + v.Object.TargetName() + " exists and belongs to somebody else: delete it, or set another spec.target.name."}
	case len(v.st.Retiring) >= v1alpha1.MaxRetiring:
		return &Block{Reason: v1alpha1.ReasonRetiringFull,
			Message: "status.retiring is full: nothing is issued until the backend ends some of it. See the events for what it says."}
	}
	return nil
}

// issue asks for a credential where there is a cause to.
func issue(v *view) *Step {
	reason, at := v.cause()
	if reason == "" {
		return nil
	}
	what := nextFor(reason)
	if v.Now.Before(at) {
		return v.later(at, what)
	}
	if b := v.issueBlock(); b != nil {
		v.blocked = b
		// What stands in the way may be something that is not watched, such as somebody else's Secret.
		return v.later(v.Now.Add(lookAgain), "")
	}
	if f := v.Tries.Issue; f.waiting(v.Now) {
		v.blocked = &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
		return v.later(f.NotBefore, what)
	}
	return &Step{Action: IssueCredential, Reason: reason}
}

// Causes for an issue, besides the reasons of the conditions.
const (
	CauseFirst          = "Issued"
	CauseRequestChanged = "RequestChanged"
	CauseRequested      = "RotateRequested"
	CauseSecretLost     = "SecretLost"
	CauseSecretChanged  = "SecretChanged"
	CauseUnpublished    = "Unpublished"
	CauseMaxTTL         = "MaxTTLReached"
	CauseMaxAge         = "MaxAge"
	// CauseMaxTTLOutsideWindow: the lease would have died before the next of spec.rotation.windows.
	CauseMaxTTLOutsideWindow = "MaxTTLReachedOutsideWindow"
	CauseRefresh             = "Refresh"
)

func nextFor(cause string) string {
	switch cause {
	case CauseFirst:
		return v1alpha1.NextIssue
	case CauseRefresh:
		return v1alpha1.NextRefresh
	}
	return v1alpha1.NextReplace
}

// cause is the list of promise 2: why, and from when, a credential may be asked for. Empty: there is no cause.
func (v *view) cause() (string, time.Time) {
	requested := v.ordered(v1alpha1.RotateRequestedAtAnnotation, v.st.LastHandledRotateAt)
	if v.lease == nil {
		if v.st.GrantEndedAt != nil && !requested && v.spec.Reissue == v1alpha1.ReissueNever {
			return "", time.Time{}
		}
		return CauseFirst, v.Now
	}
	switch {
	case v.RequestDigest != "" && v.RequestDigest != v.lease.RequestDigest:
		return CauseRequestChanged, v.Now
	case requested:
		return CauseRequested, v.Now
	case v.Target == TargetForeign:
		return CauseSecretLost, v.Now
	case v.holds(v.lease) && !v.carried():
		return "", time.Time{}
	case v.Target != TargetCurrent && !v.published():
		return CauseUnpublished, v.Now
	case v.Target == TargetAbsent:
		return CauseSecretLost, v.Now
	case v.Target == TargetChanged:
		return CauseSecretChanged, v.Now
	case !Leased(v.lease):
		if v.renewRequested() {
			return CauseRefresh, v.Now
		}
		return CauseRefresh, refreshAt(v.lease, v.Object.Spec.RefreshInterval.Duration, v.uid)
	}
	return v.planned()
}

func syncSecret(v *view) *Step {
	if v.lease == nil || v.Target != TargetCurrent || !v.OutOfSync {
		return nil
	}
	return v.due(v.Now, v.Tries.Sync, v1alpha1.NextPublish, Step{Action: SyncSecret, Reason: v1alpha1.ReasonPublishing})
}

func hasFinalizer(d *v1alpha1.DynamicSecret) bool {
	for _, f := range d.Finalizers {
		if f == v1alpha1.Finalizer {
			return true
		}
	}
	return false
}
