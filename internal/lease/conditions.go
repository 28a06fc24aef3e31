package lease

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Summarize writes what the input and the step that follows from it mean into the object's status: the conditions, the
// observed generation and the next action. It is the one place that does.
func Summarize(in Input, s Step) {
	v := newView(&in)
	st := v.st
	st.ObservedGeneration = v.Object.Generation
	st.NextAction, st.NextActionAt = nextAction(s)

	ready, stalled := readyCondition(v, s)
	v.set(ready)
	v.set(stalled)
	v.set(reconcilingCondition(v, s, ready, stalled.Status == metav1.ConditionTrue))
	if c := leasedCondition(v); c != nil {
		v.set(*c)
	}
	if c := rotatedCondition(v); c != nil {
		v.set(*c)
	}
}

func nextAction(s Step) (string, *metav1.Time) {
	switch s.Action {
	case Wait:
		if s.Next == "" {
			return "", nil
		}
		at := metav1.NewTime(s.NextAt.Truncate(time.Second))
		return s.Next, &at
	case IssueCredential, RecordLease, DropAttempt:
		return v1alpha1.NextIssue, nil
	case PublishSecret, SyncSecret:
		return v1alpha1.NextPublish, nil
	case FollowRollout:
		return v1alpha1.NextRollout, nil
	case EndRecord, AbandonRecord, DropLease, DeleteSecret, RemoveFinalizer:
		return v1alpha1.NextEnd, nil
	}
	return v1alpha1.NextRenew, nil
}

// set writes a condition; Reconciling and Stalled are taken away when they are not True.
func (v *view) set(c metav1.Condition) {
	if (c.Type == v1alpha1.ReconcilingCondition || c.Type == v1alpha1.StalledCondition) && c.Status != metav1.ConditionTrue {
		meta.RemoveStatusCondition(&v.st.Conditions, c.Type)
		return
	}
	c.ObservedGeneration = v.Object.Generation
	c.LastTransitionTime = metav1.NewTime(v.Now)
	meta.SetStatusCondition(&v.st.Conditions, c)
}

func cond(kind string, status bool, reason, format string, args ...any) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
	if status {
		c.Status = metav1.ConditionTrue
	}
	return c
}

// readyCondition and whether the object is stalled.
func readyCondition(v *view, s Step) (ready, stalled metav1.Condition) {
	const kind = v1alpha1.ReadyCondition
	target := v.Object.TargetName()
	stall := func(why *Block) metav1.Condition {
		if why == nil || !why.Stalled {
			return cond(v1alpha1.StalledCondition, false, "", "")
		}
		return cond(v1alpha1.StalledCondition, true, why.Reason, "%s", why.Message)
	}
	final := func(reason, message string) (metav1.Condition, metav1.Condition) {
		return cond(kind, false, reason, "%s", message), stall(&Block{Reason: reason, Message: message, Stalled: true})
	}
	left := len(Records(v.st))
	why := v.obstacle(s)
	if why == nil && v.carried() {
		why = v.complaint()
	}
	switch {
	case !v.Object.DeletionTimestamp.IsZero():
		return cond(kind, false, v1alpha1.ReasonDeleting, "%s", v.goingMessage(left)), stall(nil)
	case v.Object.Spec.Revoked && (left > 0 || v.st.Secret != nil):
		return cond(kind, false, v1alpha1.ReasonRevoking, "%s", v.goingMessage(left)), stall(nil)
	case v.Object.Spec.Revoked:
		return final(v1alpha1.ReasonRevoked, "The lease is revoked and the Secret deleted, as spec.revoked says. Set it to false to issue anew.")
	case v.lease != nil && v.carried() && Leased(v.lease):
		return cond(kind, true, v1alpha1.ReasonLeased, "Secret %s holds a leased credential of %s.", target, v.lease.Path), stall(why)
	case v.lease != nil && v.carried():
		return cond(kind, true, v1alpha1.ReasonSynced, "Secret %s holds the answer of %s.", target, v.lease.Path), stall(why)
	case v.lease == nil && v.st.GrantEndedAt != nil:
		return final(v1alpha1.ReasonGrantEnded, "The one lease of this grant is over (spec.lease.reissue is Never). Delete the object, or ask for another with the annotation "+v1alpha1.RotateRequestedAtAnnotation+".")
	case why != nil:
		return cond(kind, false, why.Reason, "%s", why.Message), stall(why)
	case v.lease != nil:
		return cond(kind, false, v1alpha1.ReasonPublishing, "The credential is leased; Secret %s is being written.", target), stall(nil)
	}
	return cond(kind, false, v1alpha1.ReasonIssuing, "A credential is being asked for."), stall(nil)
}

// obstacle is what stands in the way of what is due; nil: nothing. Failures are remembered until the next success, so one
// counts only while what failed is still to be done.
func (v *view) obstacle(s Step) *Block {
	f := v.Tries.Issue
	switch {
	case v.Tries.Publish.Count > 0 && v.lease != nil && !v.carried():
		f = v.Tries.Publish
	case s.Blocked != nil:
		return s.Blocked
	case v.Tries.Sync.Count > 0 && v.OutOfSync:
		f = v.Tries.Sync
	case s.Action == Wait:
		return nil // no issue is due
	}
	if f.Count == 0 {
		return nil
	}
	return &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
}

// complaint is what a person must change although the credential is good; nil: nothing.
func (v *view) complaint() *Block {
	h := v.st.Handover
	switch {
	case v.Invalid != nil:
		return v.Invalid
	case v.RolloutOff && RollsOut(v.Object):
		return &Block{Reason: v1alpha1.ReasonRolloutDisabled, Stalled: true,
			Message: "spec.rollout needs the right to patch workloads: set rollout.enabled in leasekeeper's chart, or take spec.rollout out."}
	case v.rolling() && (h.Reason == v1alpha1.ReasonRolloutTargetNotFound || h.Reason == v1alpha1.ReasonRolloutForbidden):
		return &Block{Reason: h.Reason, Stalled: true, Message: rollingMessage(h)}
	}
	return nil
}

func rollingMessage(h *v1alpha1.HandoverStatus) string {
	if len(h.Waiting) == 0 {
		return "The consumers are moving to the new credential."
	}
	return "The consumers are moving to the new credential. " + strings.Join(h.Waiting, "; ") + "."
}

// rotatedCondition; nil: leave it as it is.
func rotatedCondition(v *view) *metav1.Condition {
	const kind = v1alpha1.RotatedCondition
	h := v.st.Handover
	if h == nil || !v.carried() || (!v.handingOver() && h.CutShortAt == nil && condition(v.st, kind) == nil) {
		return nil
	}
	var c metav1.Condition
	held, short := v.heldMessage()
	switch {
	case v.rolling() && v.RolloutOff:
		c = cond(kind, false, v1alpha1.ReasonRolloutDisabled, "The consumers are not rolled out.%s", held)
	case v.rolling():
		reason := h.Reason
		if reason == "" {
			reason = v1alpha1.ReasonRollingOut
		}
		c = cond(kind, false, reason, "%s%s", rollingMessage(h), held)
	case h.CutShortAt != nil:
		c = cond(kind, false, v1alpha1.ReasonHandoverCutShort,
			"The old lease ended at %s, before the hand-over was over: the backend would not extend it, or somebody revoked it. Shorten spec.rotation.overlap, or raise the maximum TTL.",
			utc(h.CutShortAt.Time))
	case held != "":
		reason := v1alpha1.ReasonOverlap
		if short {
			reason = v1alpha1.ReasonHandoverCutShort
		}
		c = cond(kind, false, reason, "The consumers have the new credential.%s", held)
	default:
		c = cond(kind, true, v1alpha1.ReasonRotated, "The consumers have the new credential, and the old lease is ended.")
	}
	return &c
}

// heldMessage says what becomes of the old leases, and whether one of them ends before the overlap is over; empty: none is
// held.
func (v *view) heldMessage() (text string, short bool) {
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !awaited(v.Object, rec) {
			continue
		}
		until, known := heldUntil(v.Object, rec)
		over, complete := handedOverAt(v.Object)
		_, _, certain := certainEnd(rec)
		switch {
		case known && complete && !until.Before(over):
			text = fmt.Sprintf(" The old lease is held until %s (spec.rotation.overlap).", utc(until))
		case known && complete && certain:
			text, short = fmt.Sprintf(" The old lease cannot be extended and ends at %s, before spec.rotation.overlap is over: shorten it, or raise the maximum TTL.", utc(until)), true
		case known && certain:
			text = fmt.Sprintf(" The old lease is held; it cannot be extended and ends at %s.", utc(until))
		default:
			text = " The old lease is held."
		}
	}
	return text, short
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (v *view) goingMessage(left int) string {
	for i := range v.st.Retiring {
		if f := v.Tries.End[TryKey(&v.st.Retiring[i])]; f.Count > 0 {
			return fmt.Sprintf("Lease records that are still to be ended: %d. The last try failed: %s", left, f.Message)
		}
	}
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if rec.EndAfter != nil && v.Now.Before(rec.EndAfter.Time) {
			return fmt.Sprintf("Lease records that are still to be ended: %d. An issue was left without an answer; its token is ended when the backend must be done with it.", left)
		}
	}
	return fmt.Sprintf("Lease records that are still to be ended: %d.", left)
}

func reconcilingCondition(v *view, s Step, ready metav1.Condition, stalled bool) metav1.Condition {
	const kind = v1alpha1.ReconcilingCondition
	why := v.obstacle(s)
	switch {
	case stalled || (why != nil && why.Reason == v1alpha1.ReasonSuspended):
		return cond(kind, false, "", "")
	case ready.Status != metav1.ConditionTrue:
		return cond(kind, true, ready.Reason, "%s", ready.Message)
	case why != nil:
		return cond(kind, true, v1alpha1.ReasonReplacing, "A new credential is due. %s", why.Message)
	case v.Tries.Renew.Count > 0:
		return cond(kind, true, v1alpha1.ReasonRenewing, "The lease is due for renewal. %s", v.Tries.Renew.Message)
	case v.Tries.ExtendToken.Count > 0:
		return cond(kind, true, v1alpha1.ReasonRenewing, "The issuing token is due for extension. %s", v.Tries.ExtendToken.Message)
	case s.Action == IssueCredential || s.Action == RecordLease || v.st.Attempt != nil:
		return cond(kind, true, v1alpha1.ReasonReplacing, "A new credential is being asked for.")
	}
	return cond(kind, false, "", "")
}

// leasedCondition; nil: leave it as it is.
func leasedCondition(v *view) *metav1.Condition {
	const kind = v1alpha1.LeasedCondition
	var c metav1.Condition
	switch before := condition(v.st, kind); {
	case Leased(v.lease):
		c = cond(kind, true, v1alpha1.ReasonLeased, "The credential has a live lease.")
	case v.lease != nil:
		c = cond(kind, false, v1alpha1.ReasonNotLeased,
			"%s is answered without a lease: nothing can be renewed or revoked. It is read again every spec.refreshInterval (%s).",
			v.lease.Path, v.Object.Spec.RefreshInterval.Duration)
	case before == nil || before.Status == metav1.ConditionFalse:
		return nil
	default:
		reason, message := v1alpha1.ReasonExpired, "The lease is over."
		if n := len(v.st.Retiring); n > 0 && v.st.Retiring[n-1].Reason != "" {
			reason = v.st.Retiring[n-1].Reason
		}
		switch reason {
		case v1alpha1.ReasonExpired:
			message = "The lease came to its end."
		case v1alpha1.ReasonLeaseLost:
			message = "The backend no longer knows the lease: somebody revoked it, or the token that it came from."
		case v1alpha1.ReasonGrantEnded:
			message = "The grant is over."
		case v1alpha1.ReasonDeleting, v1alpha1.ReasonRevoked:
			message = "The lease is being revoked."
		}
		c = cond(kind, false, reason, "%s", message)
	}
	return &c
}
