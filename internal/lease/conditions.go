package lease

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// SetStatus derives the conditions, the observed generation, the expiry and the next action from the input and the step
// that follows from it, and writes them into the object's status. It is the one place that does.
func SetStatus(d *v1alpha1.DynamicSecret, in Input, s Step) {
	in.Object = d
	v := newView(in)
	st := &d.Status
	st.ObservedGeneration = d.Generation
	st.NextAction, st.NextActionAt = nextAction(s)
	st.ExpiresAt = nil
	if end, ok := SetEnd(st.Leases); ok {
		at := floor(end)
		st.ExpiresAt = &at
	}
	SetSummary(&st.Conditions, d.Generation, v.Now, v.summary(s))
	for _, c := range []*metav1.Condition{leasedCondition(v), rotatedCondition(v)} {
		if c != nil {
			c.ObservedGeneration, c.LastTransitionTime = d.Generation, metav1.NewTime(v.Now)
			meta.SetStatusCondition(&st.Conditions, *c)
		}
	}
}

func nextAction(s Step) (string, *metav1.Time) {
	switch s.Action {
	case Wait:
		if s.Next == "" {
			return "", nil
		}
		if s.Next == v1alpha1.NextRefresh {
			return s.Next, nil // it recurs without a write
		}
		at := floor(s.NextAt)
		return s.Next, &at
	case Issue, RecordLeases, DropAttempt:
		return v1alpha1.NextIssue, nil
	case PublishSecret, SyncSecret:
		return v1alpha1.NextPublish, nil
	case RefreshSource:
		return v1alpha1.NextRefresh, nil
	case FollowRollout:
		return v1alpha1.NextRollout, nil
	case RevokeRecord, AbandonRecord, DropLeases, DeleteSecret, RemoveFinalizer:
		return v1alpha1.NextRevoke, nil
	}
	return v1alpha1.NextRenew, nil
}

func condition(kind string, status bool, reason, format string, args ...any) *metav1.Condition {
	message := fmt.Sprintf(format, args...)
	c := &metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if status {
		c.Status = metav1.ConditionTrue
	}
	return c
}

// what names what the leases come from.
func (v *view) what() string {
	if len(v.leases) == 1 {
		return v.leases[0].Location()
	}
	return fmt.Sprintf("%d sources", len(v.leases))
}

// summary is what Ready, Reconciling and Stalled say.
func (v *view) summary(s Step) Summary {
	target := v.Object.TargetName()
	left := len(Records(v.st)) - len(v.Done)
	obstacle := v.obstacle(s)
	final := func(reason, message string) Summary {
		return Summary{Reason: reason, Message: message, Stalled: true}
	}
	switch {
	case !v.Object.DeletionTimestamp.IsZero():
		return Summary{Reason: v1alpha1.ReasonDeleting, Message: v.removalMessage(left)}
	case v.Object.Spec.Revoked && (left > 0 || v.st.Secret != nil):
		return Summary{Reason: v1alpha1.ReasonRevoking, Message: v.removalMessage(left)}
	case v.Object.Spec.Revoked:
		return final(v1alpha1.ReasonRevoked,
			"The leases are revoked and the Secret is deleted, because spec.revoked is true. "+
				"Set it to false to issue again.")
	case v.current():
		ready := Summary{Ready: true, Reason: v1alpha1.ReasonSynced,
			Message: fmt.Sprintf("Secret %s contains the response of %s.", target, v.what())}
		if anyLeased(v.leases) {
			ready.Reason = v1alpha1.ReasonLeased
			ready.Message = fmt.Sprintf("Secret %s contains a leased credential of %s.", target, v.what())
		}
		ready.Work = v.work(s, obstacle)
		return ready
	case len(v.leases) == 0 && v.st.GrantEndedAt != nil:
		return final(v1alpha1.ReasonGrantEnded, "The lease of this grant has ended (spec.lease.reissue is Never). "+
			"Delete the object, or request another lease with the annotation "+v1alpha1.RotateRequestedAtAnnotation+".")
	case obstacle != nil:
		return Summary{Reason: obstacle.Reason, Message: obstacle.Message, Stalled: obstacle.Stalled,
			Idle: obstacle.Reason == v1alpha1.ReasonSuspended}
	case len(v.leases) > 0:
		return Summary{Reason: v1alpha1.ReasonPublishing,
			Message: fmt.Sprintf("The credential is issued; writing Secret %s.", target)}
	}
	return Summary{Reason: v1alpha1.ReasonIssuing, Message: "Requesting a credential."}
}

// work is what is in progress, or needs a person, although the credential is valid; nil: nothing.
func (v *view) work(s Step, obstacle *Block) *Block {
	if obstacle == nil {
		obstacle = v.complaint()
		if obstacle != nil {
			return obstacle
		}
	}
	switch renewal, extension := worst(v.Tries.Renew, v.leases), worst(v.Tries.ExtendSession, v.leases); {
	case obstacle != nil && obstacle.Stalled:
		return obstacle
	case obstacle != nil && obstacle.Reason == v1alpha1.ReasonSuspended:
		return nil
	case obstacle != nil:
		return &Block{Reason: v1alpha1.ReasonReplacing, Message: "A new credential is due. " + obstacle.Message}
	case renewal.Count > 0:
		return &Block{Reason: v1alpha1.ReasonRenewing, Message: "The lease is due for renewal. " + renewal.Message}
	case extension.Count > 0:
		return &Block{Reason: v1alpha1.ReasonRenewing,
			Message: "The session that issued the lease is due for extension. " + extension.Message}
	case s.Action == Issue || s.Action == RecordLeases || v.st.Attempt != nil:
		return &Block{Reason: v1alpha1.ReasonReplacing, Message: "Requesting a new credential."}
	}
	return nil
}

// worst is the failure of one of the records; the zero value: none failed.
func worst(tries map[string]Failure, records []v1alpha1.LeaseRecord) Failure {
	for i := range records {
		if f := tries[Key(&records[i])]; f.Count > 0 {
			return f
		}
	}
	return Failure{}
}

func anyLeased(records []v1alpha1.LeaseRecord) bool {
	for i := range records {
		if Leased(&records[i]) {
			return true
		}
	}
	return false
}

// obstacle prevents what is due; nil: nothing does. Failures are remembered until the next success, so one counts only
// while what failed is still due.
func (v *view) obstacle(s Step) *Block {
	f := v.Tries.Issue
	switch {
	case v.Tries.Publish.Count > 0 && len(v.leases) > 0 && !v.current():
		f = v.Tries.Publish
	case s.Blocked != nil:
		return s.Blocked
	case v.Tries.Sync.Count > 0 && v.OutOfSync:
		f = v.Tries.Sync
	case v.refreshFailure().Count > 0:
		f = v.refreshFailure()
	case s.Action == Wait:
		return nil // no issuance is due
	}
	if f.Count == 0 {
		return nil
	}
	return &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
}

// refreshFailure is the failure to read a source again; the zero value: none failed.
func (v *view) refreshFailure() Failure {
	for i := range v.leases {
		if f := v.Tries.Refresh[v.leases[i].Source]; f.Count > 0 && readAgain(&v.leases[i]) {
			return f
		}
	}
	return Failure{}
}

// NotRevoked starts the message about an old credential that needs a person to be revoked.
const NotRevoked = "An old credential could not be revoked: "

// complaint is what a person must change although the credential is valid; nil: nothing.
func (v *view) complaint() *Block {
	h := v.st.Handover
	switch {
	case v.Invalid != nil:
		return v.Invalid
	case v.RolloutOff && RollsOut(v.Object):
		return &Block{Reason: v1alpha1.ReasonRolloutDisabled, Stalled: true,
			Message: "spec.rollout requires permission to patch workloads: set rollout.enabled in leasekeeper's " +
				"chart, or remove spec.rollout."}
	case v.rolling() &&
		(h.Reason == v1alpha1.ReasonRolloutTargetNotFound || h.Reason == v1alpha1.ReasonRolloutForbidden):
		return &Block{Reason: h.Reason, Stalled: true, Message: rollingMessage(h)}
	}
	for i := range v.st.Retiring {
		if f := v.Tries.Revoke[Key(&v.st.Retiring[i])]; f.Count > 0 && f.Stalled {
			return &Block{Reason: f.Reason, Stalled: true, Message: NotRevoked + f.Message}
		}
	}
	return nil
}

func rollingMessage(h *v1alpha1.HandoverStatus) string {
	if len(h.Waiting) == 0 {
		return "The consumers are moving to the new credential."
	}
	return "The consumers are moving to the new credential. " + strings.Join(h.Waiting, "; ") + "."
}

// rotatedCondition returns Rotated; nil: the condition does not change.
func rotatedCondition(v *view) *metav1.Condition {
	const kind = v1alpha1.RotatedCondition
	h := v.st.Handover
	reported := meta.FindStatusCondition(v.st.Conditions, kind) != nil
	if h == nil || !v.current() {
		return nil
	}
	if !v.handingOver() && h.CutShortAt == nil && !reported {
		return nil
	}
	held, short := v.heldMessage()
	switch {
	case v.rolling() && v.RolloutOff:
		return condition(kind, false, v1alpha1.ReasonRolloutDisabled, "The consumers are not rolled out.%s", held)
	case v.rolling():
		reason := h.Reason
		if reason == "" {
			reason = v1alpha1.ReasonRollingOut
		}
		return condition(kind, false, reason, "%s%s", rollingMessage(h), held)
	case h.CutShortAt != nil:
		return condition(kind, false, v1alpha1.ReasonHandoverCutShort,
			"The old lease ended at %s, before the hand-over was complete: the backend refused to extend it, or "+
				"somebody revoked it. Reduce spec.rotation.overlap, or raise the maximum TTL.", utc(h.CutShortAt.Time))
	case held != "":
		reason := v1alpha1.ReasonOverlap
		if short {
			reason = v1alpha1.ReasonHandoverCutShort
		}
		return condition(kind, false, reason, "The consumers have the new credential.%s", held)
	}
	return condition(kind, true, v1alpha1.ReasonRotated,
		"The consumers have the new credential, and the old lease is revoked.")
}

// heldMessage says what happens to the old leases, and whether one of them ends before the overlap is over; empty:
// there is none.
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
		case known && !v.Now.Before(until):
			text = " The old lease is being revoked."
		case known && complete && !until.Before(over):
			text = fmt.Sprintf(" The old lease is kept until %s (spec.rotation.overlap).", utc(until))
		case known && complete && certain:
			return fmt.Sprintf(" The old lease cannot be extended and ends at %s, before spec.rotation.overlap is "+
				"over: reduce it, or raise the maximum TTL.", utc(until)), true
		case known && certain:
			text = fmt.Sprintf(" The old lease is kept; it cannot be extended and ends at %s.", utc(until))
		default:
			text = " The old lease is kept."
		}
	}
	return text, false
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// removalMessage says how many records must still be revoked, and what delays that.
func (v *view) removalMessage(left int) string {
	message := fmt.Sprintf("Lease records still to be revoked: %d.", max(0, left))
	records := append(v.leases[:len(v.leases):len(v.leases)], v.st.Retiring...)
	for i := range records {
		if f := v.Tries.Revoke[Key(&records[i])]; f.Count > 0 && !v.Done[Key(&records[i])] {
			return message + " The last attempt failed: " + f.Message
		}
	}
	if f := v.Tries.DeleteSecret; f.Count > 0 {
		return message + " " + f.Message
	}
	for i := range records {
		waits := records[i].RevokeAfter != nil && v.Now.Before(records[i].RevokeAfter.Time)
		if waits && records[i].Kind == "" {
			return message + " A request got no response; its session is revoked after --request-limit."
		}
	}
	return message
}

// notEnded are reasons of retiring records that do not say why the last lease ended: it was replaced, it belongs to a
// set with one that ended, or it was never published.
var notEnded = []string{"", v1alpha1.ReasonReplacing, reasonReplaced, reasonIncomplete, CauseUnpublished,
	v1alpha1.ReasonIssuing}

// leasedCondition returns Leased; nil: the condition does not change.
func leasedCondition(v *view) *metav1.Condition {
	const kind = v1alpha1.LeasedCondition
	before := meta.FindStatusCondition(v.st.Conditions, kind)
	switch {
	case anyLeased(v.leases):
		return condition(kind, true, v1alpha1.ReasonLeased, "The credential has a live lease.")
	case len(v.leases) > 0:
		return condition(kind, false, v1alpha1.ReasonNotLeased, "%s", v.unleasedMessage())
	case before == nil || before.Status == metav1.ConditionFalse:
		return nil
	}
	reason := v1alpha1.ReasonExpired
	for i := range v.st.Retiring {
		if r := v.st.Retiring[i].Reason; !slices.Contains(notEnded, r) {
			reason = r
		}
	}
	message := map[string]string{
		v1alpha1.ReasonExpired: "The lease has expired.",
		v1alpha1.ReasonLeaseLost: "The backend no longer knows the lease: it, or the token that issued it, " +
			"was revoked.",
		v1alpha1.ReasonGrantEnded: "The grant has ended.",
		v1alpha1.ReasonDeleting:   "The lease is being revoked.",
		v1alpha1.ReasonRevoked:    "The lease is being revoked.",
	}[reason]
	if message == "" {
		message = "The lease has ended."
	}
	return condition(kind, false, reason, "%s", message)
}

// unleasedMessage says how responses without a lease are kept valid.
func (v *view) unleasedMessage() string {
	var parts []string
	for i := range v.leases {
		rec := &v.leases[i]
		how := fmt.Sprintf("it is read again every spec.refreshInterval (%s)", RefreshInterval(v.Object))
		switch {
		case rec.Kind == v1alpha1.ResponseExpiring && rec.Revocable:
			how = "it is replaced before it expires and can be revoked"
		case rec.Kind == v1alpha1.ResponseExpiring:
			how = "it is replaced before it expires and cannot be revoked"
		case rec.Kind == v1alpha1.ResponseScheduled:
			how = "it is read again after each scheduled change"
		case rec.ExpiryUnknown:
			how = fmt.Sprintf("leasekeeper cannot know when it expires, "+
				"and requests it again every spec.refreshInterval (%s)", RefreshInterval(v.Object))
		}
		parts = append(parts, fmt.Sprintf("The response of %s has no lease: %s.", rec.Location(), how))
	}
	return strings.Join(parts, " ")
}
