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
	noteHeld(d)
	st.ObservedGeneration = d.Generation
	st.NextAction, st.NextActionAt = nextAction(s)
	st.ExpiresAt = nil
	if end, ok := v.contentEnd(); ok {
		at := floor(end)
		st.ExpiresAt = &at
	}
	SetSummary(&st.Conditions, d.Generation, v.Now, v.summarize(s))
	for _, c := range []*metav1.Condition{leasedCondition(v), rotatedCondition(v)} {
		if c != nil {
			c.ObservedGeneration, c.LastTransitionTime = d.Generation, metav1.NewTime(v.Now)
			meta.SetStatusCondition(&st.Conditions, *c)
		}
	}
	st.Summary, st.Message = headline(d)
}

// troubled are the reasons of Rotated that a person should know of although nothing else is wrong.
var troubled = []string{v1alpha1.ReasonRolloutPaused, v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutCheckFailed,
	v1alpha1.ReasonRolloutContested, v1alpha1.ReasonHandoverCutShort}

// personal are the reasons of a rollout that does not continue until a person changes something.
var personal = []string{v1alpha1.ReasonRolloutTargetNotFound, v1alpha1.ReasonRolloutForbidden,
	v1alpha1.ReasonRolloutContested}

// headline is the most important reason of the conditions, and its message.
func headline(d *v1alpha1.DynamicSecret) (reason, message string) {
	find := func(kind string) *metav1.Condition { return meta.FindStatusCondition(d.Status.Conditions, kind) }
	c := find(v1alpha1.ReadyCondition)
	stalled, reconciling := find(v1alpha1.StalledCondition), find(v1alpha1.ReconcilingCondition)
	rotated := find(v1alpha1.RotatedCondition)
	switch {
	case c.Status != metav1.ConditionTrue:
	case stalled != nil:
		c = stalled
	case reconciling != nil:
		c = reconciling
	case rotated != nil && slices.Contains(troubled, rotated.Reason):
		c = rotated
	}
	reason, message = c.Reason, c.Message
	if d.Spec.Suspend && reason != v1alpha1.ReasonSuspended {
		reason, message = reason+","+v1alpha1.ReasonSuspended, message+" "+suspendedMessage
	}
	return reason, message
}

func nextAction(s Step) (string, *metav1.Time) {
	switch s.Action {
	case Wait:
		if s.Next == "" {
			return "", nil
		}
		if s.Next == v1alpha1.NextRefresh || s.Retrying {
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

// contentEnd is when the first credential in the Secret expires; before anything is published, when the first of the
// leases does. False: none does.
func (v *view) contentEnd() (time.Time, bool) {
	if until, alive := v.contentAlive(); alive {
		return until, !until.IsZero()
	}
	return SetEnd(v.leases)
}

// summarize returns what Ready, Reconciling and Stalled say.
func (v *view) summarize(s Step) Summary {
	left := len(Records(v.st)) - len(v.Done)
	switch {
	case !v.Object.DeletionTimestamp.IsZero():
		return Summary{Reason: v1alpha1.ReasonDeleting, Message: v.removalMessage(left)}
	case v.Object.Spec.Revoked && (left > 0 || v.st.Secret != nil):
		return Summary{Reason: v1alpha1.ReasonRevoking, Message: v.removalMessage(left)}
	case v.Object.Spec.Revoked:
		return Summary{Stalled: true, Reason: v1alpha1.ReasonRevoked,
			Message: "The leases are revoked and the Secret is deleted, because spec.revoked is true. " +
				"Set it to false to issue again."}
	}
	if ready := v.readySummary(); ready != nil {
		ready.Work = v.work(s)
		return *ready
	}
	if len(v.leases) == 0 && v.st.GrantEndedAt != nil {
		return Summary{Stalled: true, Reason: v1alpha1.ReasonGrantEnded,
			Message: "The lease of this grant has ended (spec.lease.reissue is Never). Delete the object, or request " +
				"another lease with the annotation " + v1alpha1.RotateRequestedAtAnnotation + "."}
	}
	if b, _ := v.obstacle(s); b != nil {
		return Summary{Reason: b.Reason, Message: b.Message, Stalled: b.Stalled,
			Idle: b.Reason == v1alpha1.ReasonSuspended}
	}
	progress := v.progress()
	return Summary{Reason: progress.Reason, Message: progress.Message}
}

// readySummary is what Ready says while the Secret contains live credentials; nil: it does not.
func (v *view) readySummary() *Summary {
	if v.contains() {
		ready := Summary{Ready: true, Reason: v1alpha1.ReasonSynced,
			Message: fmt.Sprintf("Secret %s contains the response of %s.", v.Object.TargetName(), v.what())}
		if anyLeased(v.leases) {
			ready.Reason = v1alpha1.ReasonLeased
			ready.Message = fmt.Sprintf("Secret %s contains a leased credential of %s.",
				v.Object.TargetName(), v.what())
		}
		return &ready
	}
	// Once an edit was seen, Ready is False until the successor is written.
	before := meta.FindStatusCondition(v.st.Conditions, v1alpha1.ReadyCondition)
	_, alive := v.contentAlive()
	if !alive || !v.secretExists() || v.Edited || before == nil || before.Status != metav1.ConditionTrue {
		return nil
	}
	return &Summary{Ready: true, Reason: before.Reason, Message: before.Message}
}

// progress is the work towards a Secret that contains the credentials of the leases.
func (v *view) progress() Block {
	target := v.Object.TargetName()
	switch {
	case v.holds(v.leases):
		return Block{Reason: v1alpha1.ReasonPublishing,
			Message: fmt.Sprintf("The credential is issued; writing Secret %s.", target)}
	case v.setPublished() && v.Target == TargetAbsent:
		return Block{Reason: v1alpha1.ReasonReplacing,
			Message: fmt.Sprintf("Secret %s was deleted; requesting a new credential.", target)}
	case v.setPublished() && v.Target == TargetChanged:
		return Block{Reason: v1alpha1.ReasonReplacing,
			Message: fmt.Sprintf("Secret %s was changed; requesting a new credential.", target)}
	}
	return Block{Reason: v1alpha1.ReasonIssuing, Message: "Requesting a credential."}
}

// work is what is in progress, or needs a person, although the credential is valid; nil: nothing.
func (v *view) work(s Step) *Block {
	obstacle, due := v.obstacle(s)
	if obstacle == nil {
		if b := v.complaint(); b != nil {
			return b
		}
	}
	renewal, extension := worst(v.Tries.Renew, v.leases), worst(v.Tries.ExtendSession, v.leases)
	switch {
	case obstacle != nil && obstacle.Stalled:
		return obstacle
	case obstacle != nil && obstacle.Reason == v1alpha1.ReasonSuspended:
		return nil
	case obstacle != nil && due == v1alpha1.NextPublish:
		return obstacle
	case obstacle != nil && due == v1alpha1.NextRefresh:
		return &Block{Reason: v1alpha1.ReasonReplacing,
			Message: "A response is due to be read again. " + obstacle.Message}
	case obstacle != nil:
		return &Block{Reason: v1alpha1.ReasonReplacing, Message: "A new credential is due. " + obstacle.Message}
	case renewal.Count > 0:
		return &Block{Reason: v1alpha1.ReasonRenewing, Message: "The lease is due for renewal. " + renewal.Message}
	case extension.Count > 0:
		return &Block{Reason: v1alpha1.ReasonRenewing,
			Message: "The session that issued the lease is due for extension. " + extension.Message}
	case s.Action == Issue || s.Action == RecordLeases || v.st.Attempt != nil || len(v.leases) == 0:
		return &Block{Reason: v1alpha1.ReasonReplacing, Message: "Requesting a new credential."}
	case !v.contains():
		progress := v.progress()
		return &progress
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

// obstacle prevents what is due, in the words of status.nextAction; nil: nothing does. Failures are remembered until
// the next success, so one counts only while what failed is still due.
func (v *view) obstacle(s Step) (b *Block, due string) {
	read := v.refreshFailure()
	switch {
	case v.Tries.Publish.Count > 0 && len(v.leases) > 0 && !v.contains():
		return v.Tries.Publish.block(), v1alpha1.NextPublish
	case s.Blocked != nil && v.issueDue():
		return s.Blocked, v1alpha1.NextReplace
	case s.Blocked != nil:
		return s.Blocked, v1alpha1.NextRefresh
	case v.Tries.Sync.Count > 0 && v.OutOfSync:
		return v.Tries.Sync.block(), v1alpha1.NextPublish
	case v.Tries.Repair.waiting(v.Now) && v.OutOfSync:
		return v.contested(), v1alpha1.NextPublish
	case read.Count > 0:
		return read.block(), v1alpha1.NextRefresh
	case s.Action == Wait:
		return nil, "" // no issuance is due
	}
	return v.Tries.Issue.block(), v1alpha1.NextReplace
}

// refreshFailure is the failure to read a source again; the zero value: none failed.
func (v *view) refreshFailure() Failure {
	for i := range v.leases {
		if f := v.Tries.Refresh[v.leases[i].Source]; f.Count > 0 && ReadAgain(&v.leases[i]) {
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
	case v.lapses():
		return v.providerBlock()
	case v.Invalid != nil:
		return v.Invalid
	case v.unprotected() != nil:
		return v.unprotected()
	case v.RolloutOff && RollsOut(v.Object):
		return &Block{Reason: v1alpha1.ReasonRolloutDisabled, Stalled: true,
			Message: "spec.rollout requires permission to patch workloads: set rollout.enabled in leasekeeper's " +
				"chart, or remove spec.rollout."}
	case v.isRolling() && slices.Contains(personal, h.Reason):
		return &Block{Reason: h.Reason, Stalled: true, Message: v.rollingMessage()}
	}
	if rec := v.shared(); rec != nil {
		return &Block{Reason: v1alpha1.ReasonSharedUser, Stalled: true, Message: v.sharedMessage(rec)}
	}
	for i := range v.st.Retiring {
		if f := v.Tries.Revoke[Key(&v.st.Retiring[i])]; f.Count > 0 && f.Stalled {
			return &Block{Reason: f.Reason, Stalled: true, Message: NotRevoked + f.Message}
		}
	}
	return nil
}

// rollingMessage says how far the rollout is, and what to do if it does not continue.
func (v *view) rollingMessage() string {
	h := v.st.Handover
	state, fix := "Waiting for the workloads to use the new credential.", ""
	settled := h.PublishedAt.Add(settle(v.Object))
	switch h.Reason {
	case v1alpha1.ReasonRolloutForbidden:
		return forbiddenMessage(h.Waiting)
	case v1alpha1.ReasonRolloutCheckFailed:
		state = "leasekeeper cannot check whether all workloads use the new credential, and tries again."
	case v1alpha1.ReasonRolloutTargetNotFound:
		state, fix = "spec.rollout.targets selects a workload that leasekeeper cannot find.",
			" Create it, or correct spec.rollout.targets."
	case v1alpha1.ReasonRolloutContested:
		state, fix = "Something removes the annotation that rolls out a workload.",
			" leasekeeper sets it again after pauses of up to an hour. Let the policy or tool that removes it ignore "+
				"annotations with the prefix "+v1alpha1.StampAnnotationPrefix+" on pod templates."
	case v1alpha1.ReasonRolloutPaused:
		state, fix = "Not all workloads use the new credential.", " Resume the rollout, or delete the old pods."
	case v1alpha1.ReasonRolloutStuck:
		state, fix = "Not all workloads use the new credential.", " Check the pods that do not become available."
	default:
		if h.StampedAt != nil {
			state = "Workloads are moving to the new credential."
		} else if v.Now.Before(settled) {
			state = fmt.Sprintf("The rollout of the workloads starts at %s.", utc(settled))
		}
	}
	if len(h.Waiting) == 0 {
		return state + fix
	}
	return state + " " + strings.Join(h.Waiting, "; ") + "." + fix
}

// forbiddenMessage tells a missing permission, such as "list pods", from an admission policy that denies the stamp.
func forbiddenMessage(waiting []string) string {
	what := strings.Join(waiting, "; ")
	if strings.Contains(what, " cannot be stamped: ") {
		return "The API server does not accept the rollout of a workload. " + what +
			". Let the admission policy accept annotations with the prefix " + v1alpha1.StampAnnotationPrefix +
			" on pod templates."
	}
	return "leasekeeper lacks the permission to roll out workloads: " + what +
		". Set rollout.enabled in leasekeeper's chart, or apply config/rollout."
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
	case v.isRolling() && v.RolloutOff:
		return condition(kind, false, v1alpha1.ReasonRolloutDisabled, "The workloads of spec.rollout are not "+
			"rolled out: set rollout.enabled in leasekeeper's chart, or remove spec.rollout.%s", held)
	case v.isRolling():
		reason := h.Reason
		if reason == "" {
			reason = v1alpha1.ReasonRollingOut
		}
		return condition(kind, false, reason, "%s%s", v.rollingMessage(), held)
	case h.CutShortAt != nil:
		return condition(kind, false, v1alpha1.ReasonHandoverCutShort,
			"The old lease ended at %s, before the handover was complete: the backend refused to extend it, or "+
				"somebody revoked it. Reduce spec.rotation.overlap, or raise the maximum TTL.", utc(h.CutShortAt.Time))
	case v.shared() != nil:
		return condition(kind, false, v1alpha1.ReasonSharedUser,
			"%s. The old lease is kept, because another lease has the same user.", v.movedMessage())
	case held != "":
		reason := v1alpha1.ReasonOverlap
		if short {
			reason = v1alpha1.ReasonHandoverCutShort
		}
		return condition(kind, false, reason, "%s.%s", v.movedMessage(), held)
	}
	// What became of the old credential is no longer known: it was revoked, abandoned, or has expired, or there was no
	// lease.
	return condition(kind, true, v1alpha1.ReasonRotated, "%s. No old lease is kept.", v.movedMessage())
}

// movedMessage says who has the new credential, as far as leasekeeper knows.
func (v *view) movedMessage() string {
	h, why := v.st.Handover, "workloads are not followed without spec.rollout"
	if RollsOut(v.Object) {
		if h.RolledOutAt != nil && h.RolledOutAt.After(h.PublishedAt.Time) {
			return "All workloads of spec.rollout use the new credential"
		}
		why = "its publication did not start a rollout"
	}
	return fmt.Sprintf("Secret %s contains the new credential (%s)", v.Object.TargetName(), why)
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

// removalMessage says how many records must still be revoked, what delays that, and for how long.
func (v *view) removalMessage(left int) string {
	message := fmt.Sprintf("Lease records still to be revoked: %d.", max(0, left))
	records := Records(v.st)
	var bound, unanswered time.Time
	failure, shared := "", ""
	for i := range records {
		rec := &records[i]
		if v.Done[Key(rec)] {
			continue
		}
		if v.sharesUser(rec) {
			shared = " " + v.sharedMessage(rec)
			bound = laterOf(bound, v.keptUntil(rec))
		}
		if f := v.Tries.Revoke[Key(rec)]; f.Count > 0 && failure == "" {
			failure = " The last attempt failed: " + f.Message
		}
		if at, bounded := v.abandonedAt(rec); bounded {
			bound = laterOf(bound, at)
		}
		if from := v.revokeFrom(rec); rec.Kind == "" && v.Now.Before(from) {
			unanswered = laterOf(unanswered, from)
		}
	}
	if f := v.Tries.DeleteSecret; failure == "" && f.Count > 0 {
		failure = " " + f.Message
		if !v.Object.DeletionTimestamp.IsZero() {
			bound = laterOf(bound, v.deletionDeadline())
		}
	}
	if f := v.Tries.Finalizer; failure == "" && f.Count > 0 {
		failure = " " + f.Message
	}
	if !bound.IsZero() {
		message += fmt.Sprintf(" What is not revoked until %s is abandoned.", utc(bound))
	}
	if failure == "" && shared != "" {
		return message + shared
	}
	if failure == "" && !unanswered.IsZero() {
		return message + fmt.Sprintf(" A request got no response; its session is revoked at %s, when the backend must "+
			"be done with it (--request-limit).", utc(unanswered))
	}
	return message + failure
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
	case before != nil && before.Reason == v1alpha1.ReasonRevoked && v.Object.Spec.Revoked && len(v.st.Retiring) == 0:
		return condition(kind, false, v1alpha1.ReasonRevoked, "The lease is revoked.")
	case anyLeased(v.leases) || v.contentLeased():
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
		v1alpha1.ReasonLeaseRevoked: "A LeaseRevocation revoked the lease.",
		v1alpha1.ReasonGrantEnded:   "The grant has ended.",
		v1alpha1.ReasonDeleting:     "The lease is being revoked.",
		v1alpha1.ReasonRevoked:      "The lease is being revoked.",
	}[reason]
	if message == "" {
		message = "The lease has ended."
	}
	return condition(kind, false, reason, "%s", message)
}

// contentLeased says that a credential in the Secret has a live lease although its successor is not published.
func (v *view) contentLeased() bool {
	_, alive := v.contentAlive()
	return alive && slices.ContainsFunc(v.st.Retiring, func(rec v1alpha1.LeaseRecord) bool {
		return Leased(&rec) && v.inSecret(&rec)
	})
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
		case rec.Once:
			how = "another request would return another one, so it is kept until spec.rotation.maxAge, " +
				"or until you request a replacement"
		case rec.ExpiryUnknown:
			how = fmt.Sprintf("leasekeeper cannot know when it expires, "+
				"and requests it again every spec.refreshInterval (%s)", RefreshInterval(v.Object))
		}
		parts = append(parts, fmt.Sprintf("The response of %s has no lease: %s.", rec.Location(), how))
	}
	return strings.Join(parts, " ")
}
