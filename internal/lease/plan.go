package lease

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// rules in the order in which they apply. The first that returns a step wins; if none does, Plan waits. Rules that save
// a live lease come before rules that replace one, and rules that revoke come before rules that issue.
var rules = []func(*view) *Step{
	resolveHeld,
	deleting,
	addFinalizer,
	settleAttempt,
	revokeAll,
	dropEnded,
	verify,
	renewRequested,
	renew,
	extendSession,
	keepRetiring,
	publishHeld,
	deleteDeadSecret,
	syncSecret,
	followRollout,
	revokeRetiring,
	refresh,
	issue,
}

// Plan returns the next step. It is total: every input has one.
func Plan(in Input) Step {
	v := newView(in)
	for _, rule := range rules {
		if s := rule(v); s != nil {
			return *s
		}
	}
	return v.wait()
}

// view is the input with what several rules need.
type view struct {
	Input
	uid     types.UID
	st      *v1alpha1.DynamicSecretStatus
	leases  []v1alpha1.LeaseRecord
	spec    *v1alpha1.LeaseSpec
	blocked *Block
	next    []upcoming
}

// upcoming is something that will be due.
type upcoming struct {
	at   time.Time
	what string
	// retry: it was due, has failed, and will be tried again soon.
	retry bool
}

func newView(in Input) *view {
	return &view{
		Input:  in,
		uid:    in.Object.UID,
		st:     &in.Object.Status,
		leases: in.Object.Status.Leases,
		spec:   &in.Object.Spec.Lease,
	}
}

// later notes something that will be due (empty: a check that status.nextAction does not show); it returns no step.
func (v *view) later(at time.Time, what string) *Step {
	v.next = append(v.next, upcoming{at: at, what: what})
	return nil
}

// retry is later for something that has failed.
func (v *view) retry(f Failure, what string) *Step {
	v.next = append(v.next, upcoming{at: f.NotBefore, what: what, retry: f.pausesBriefly()})
	return nil
}

// due returns the step if its time has come, and notes it otherwise.
func (v *view) due(at time.Time, f Failure, what string, s Step) *Step {
	if f.waiting(v.Now) && f.NotBefore.After(at) {
		return v.retry(f, what)
	}
	if v.Now.Before(at) {
		return v.later(at, what)
	}
	return &s
}

// announces says that status.nextAction should show u instead of what the step has. A refresh recurs without a write,
// so anything else takes precedence.
func (v *view) announces(s Step, u upcoming) bool {
	if u.what == "" {
		return false
	}
	refresh, shown := u.what == v1alpha1.NextRefresh, s.Next == v1alpha1.NextRefresh
	if s.Next == "" || refresh != shown {
		return s.Next == "" || shown
	}
	return u.at.Before(s.NextAt)
}

func (v *view) wait() Step {
	s := Step{Action: Wait, Blocked: v.blocked}
	for _, u := range v.next {
		if s.At.IsZero() || u.at.Before(s.At) {
			s.At = u.at
		}
		if v.announces(s, u) {
			s.Next, s.NextAt = u.what, u.at
			s.Retrying = u.retry
		}
	}
	return s
}

// holds says that this process holds the issuance that the records come from.
func (v *view) holds(records []v1alpha1.LeaseRecord) bool {
	return len(records) > 0 && v.Held.find(records[0].Handle()) != nil
}

func (v *view) attempt() []v1alpha1.LeaseRecord {
	if v.st.Attempt == nil {
		return nil
	}
	return v.st.Attempt.Records
}

// lapses says that the leases are kept until they expire, and not renewed.
func (v *view) lapses() bool { return v.Block != nil && v.Block.Lapses }

// requested says that the annotation has a value that was not handled. Removing the annotation requests nothing.
func (v *view) requested(annotation, handled string) bool {
	value := v.Object.Annotations[annotation]
	return value != "" && value != handled
}

func (v *view) renewalRequested() bool {
	return v.requested(v1alpha1.RenewRequestedAtAnnotation, v.st.LastHandledRenewAt) ||
		v.requested(v1alpha1.ForceSyncAnnotation, v.st.LastHandledForceSync)
}

// setPublished says that the credentials of the leases were written to the Secret, and that the status records it.
func (v *view) setPublished() bool { return len(v.leases) > 0 && Published(v.st) }

// contains says that the Secret contains the responses of the leases, published or while one is refreshed.
func (v *view) contains() bool {
	return v.Target == TargetCurrent && len(v.leases) > 0 && contained(v.st)
}

// current says that they are still there.
func (v *view) current() bool { return v.Target == TargetCurrent && v.setPublished() }

// publishable says that the credentials of the leases are in memory and the API server is likely to accept them.
func (v *view) publishable() bool {
	return v.holds(v.leases) && v.Tries.Publish.Count < maxPublishTries
}

// secretExists says that there is a Secret of ours.
func (v *view) secretExists() bool { return v.Target == TargetCurrent || v.Target == TargetChanged }

// unreplaced says that a retiring record belongs to the set that the Secret contains, because the successors are not
// published. They never will be once spec.revoked is true.
func (v *view) unreplaced(rec *v1alpha1.LeaseRecord) bool {
	replaced := rec.Reason == v1alpha1.ReasonReplacing || rec.Reason == reasonIncomplete
	written := v.st.Secret != nil && v.st.Secret.UID != ""
	return replaced && written && !v.setPublished() && !v.Object.Spec.Revoked
}

// inSecret says that the Secret still contains the credential of a retiring record, and that the credential is alive.
func (v *view) inSecret(rec *v1alpha1.LeaseRecord) bool {
	end, dies := LifeEnd(rec)
	return v.unreplaced(rec) && (!dies || v.Now.Before(end))
}

// contentAlive says that the Secret contains a complete set of live credentials although the successors are not
// published, and until when. A zero time: it does not expire.
func (v *view) contentAlive() (until time.Time, alive bool) {
	for i := range v.st.Retiring {
		rec := &v.st.Retiring[i]
		if !v.unreplaced(rec) {
			continue
		}
		if rec.Reason == reasonIncomplete || !v.inSecret(rec) {
			return time.Time{}, false
		}
		alive = true
		if end, dies := LifeEnd(rec); dies && (until.IsZero() || end.Before(until)) {
			until = end
		}
	}
	return until, alive
}

// resolveHeld: responses arrived, but their attempt is gone, because another replica took over while this one was
// paused. The retiring records that the other replica made are completed; a credential whose session is already revoked
// is revoked again, because the response proves that it exists.
func resolveHeld(v *view) *Step {
	if !v.Held.settled() || v.holds(v.attempt()) || v.holds(v.leases) {
		return nil
	}
	return v.due(v.Now, v.Tries.Settle, v1alpha1.NextRevoke,
		Step{Action: ResolveHeld, Reason: v1alpha1.ReasonReplacing})
}

// addFinalizer comes before an issuance. Without a finalizer, leases that exist are kept as usual.
func addFinalizer(v *view) *Step {
	if slices.Contains(v.Object.Finalizers, v1alpha1.Finalizer) {
		return nil
	}
	return v.due(v.Now, v.Tries.Finalizer, "", Step{Action: AddFinalizer, Reason: v1alpha1.ReasonIssuing})
}

// unprotected says why the object has no finalizer; nil: it has one.
func (v *view) unprotected() *Block {
	if slices.Contains(v.Object.Finalizers, v1alpha1.Finalizer) {
		return nil
	}
	return v.Tries.Finalizer.block()
}

// settleAttempt: an attempt either has responses that this process holds, or it has none and never will.
func settleAttempt(v *view) *Step {
	if v.st.Attempt == nil {
		return nil
	}
	if v.holds(v.attempt()) && v.Held.Outcome == OutcomeIssued && !v.Object.Spec.Revoked {
		return &Step{Action: RecordLeases, Reason: v1alpha1.ReasonPublishing}
	}
	return &Step{Action: DropAttempt, Reason: v1alpha1.ReasonIssuing}
}

// dropEnded retires the leases when one of them was lost or has expired, or when the Secret of a grant is gone. A lease
// that has expired by the operator's clock is renewed again, because the backend's clock may differ.
func dropEnded(v *view) *Step {
	for i := range v.leases {
		rec := &v.leases[i]
		end, dies := LifeEnd(rec)
		lost := Leased(rec) && v.Lost[rec.ID]
		switch {
		case dies && !v.Now.Before(end):
			if s := v.lastRenewal(i, rec, end); s != nil && !lost {
				return s
			}
			return &Step{Action: DropLeases, Reason: v1alpha1.ReasonExpired, Record: i}
		case lost && v.Revoked[rec.ID]:
			return &Step{Action: DropLeases, Reason: v1alpha1.ReasonLeaseRevoked, Record: i}
		case lost:
			return &Step{Action: DropLeases, Reason: v1alpha1.ReasonLeaseLost, Record: i}
		case dies:
			v.later(end, v1alpha1.NextExpire)
		}
	}
	grant := v.spec.Reissue == v1alpha1.ReissueNever && v.setPublished()
	if grant && v.Target != TargetCurrent && v.Target != TargetForeign && !v.holds(v.leases) {
		temporary := func(rec v1alpha1.LeaseRecord) bool { return Revocable(&rec) || expires(&rec) }
		if slices.ContainsFunc(v.leases, temporary) {
			return &Step{Action: DropLeases, Reason: v1alpha1.ReasonGrantEnded, Record: -1}
		}
	}
	return nil
}

// verify: a list without the lease proves nothing, so the backend is asked about the lease itself.
func verify(v *view) *Step {
	for i := range v.leases {
		if Leased(&v.leases[i]) && v.Suspects[v.leases[i].ID] {
			return &Step{Action: VerifyLease, Reason: v1alpha1.ReasonLeaseLost, Record: i}
		}
	}
	return nil
}

// renewRequested renews every lease that can be renewed, and reads every static source again. A credential that expires
// and cannot be renewed is left alone, and so is one that may expire without saying when: to read it could mint
// another, and a requested renewal never mints.
func renewRequested(v *view) *Step {
	if len(v.leases) == 0 || !v.renewalRequested() || v.lapses() {
		return nil
	}
	pending := false
	for i := range v.leases {
		rec := &v.leases[i]
		if Leased(rec) && !exhausted(rec) && !v.renewedFor(rec) {
			pending = true
			if s := v.due(v.Now, v.Tries.Renew[Key(rec)], v1alpha1.NextRenew,
				Step{Action: RenewLease, Reason: v1alpha1.ReasonRenewing, Record: i}); s != nil {
				return s
			}
		}
	}
	for i := range v.leases {
		rec := &v.leases[i]
		if !ReadAgain(rec) || rec.ExpiryUnknown || v.renewedFor(rec) {
			continue
		}
		pending = true
		if !v.current() {
			continue // it is read or issued again first
		}
		if s := v.readSource(i, v.Now, v1alpha1.ReasonRenewing); s != nil {
			return s
		}
	}
	if pending {
		return nil
	}
	return &Step{Action: AcknowledgeRenew, Reason: v1alpha1.ReasonRenewing}
}

// renewedFor says that this process has already renewed the record, or read it again, for the pending request.
func (v *view) renewedFor(rec *v1alpha1.LeaseRecord) bool {
	return v.Handled[rec.Source] == RequestedRenewal(v.Object)
}

// RequestedRenewal identifies what the annotations request.
func RequestedRenewal(d *v1alpha1.DynamicSecret) string {
	return d.Annotations[v1alpha1.RenewRequestedAtAnnotation] + "|" + d.Annotations[v1alpha1.ForceSyncAnnotation]
}

func publishHeld(v *view) *Step {
	if len(v.leases) == 0 || v.Target == TargetCurrent || v.Target == TargetForeign || !v.holds(v.leases) {
		return nil
	}
	return v.due(v.Now, v.Tries.Publish, v1alpha1.NextPublish,
		Step{Action: PublishSecret, Reason: v1alpha1.ReasonPublishing})
}

// refresh reads a static or scheduled source again.
func refresh(v *view) *Step {
	if !v.current() {
		return nil
	}
	for i := range v.leases {
		rec := &v.leases[i]
		if !ReadAgain(rec) {
			continue
		}
		at := refreshAt(rec, v.Reads[rec.Source], RefreshInterval(v.Object), v.uid)
		if s := v.readSource(i, at, v1alpha1.ReasonSynced); s != nil {
			return s
		}
	}
	return nil
}

// readSource reads the source of the i-th lease again, unless something blocks that.
func (v *view) readSource(i int, at time.Time, reason string) *Step {
	step := Step{Action: RefreshSource, Reason: reason, Record: i}
	s := v.due(at, v.Tries.Refresh[v.leases[i].Source], v1alpha1.NextRefresh, step)
	if s == nil {
		return nil
	}
	if b := v.issueBlock(); b != nil {
		v.blocked = b
		return v.later(v.Now.Add(blockedRecheck), "")
	}
	return s
}

// syncSecret comes before an issuance: a Secret that was written and not recorded counts as unpublished, so its
// credentials would be revoked at once when a successor is recorded.
func syncSecret(v *view) *Step {
	if len(v.leases) == 0 || v.Target != TargetCurrent || !v.OutOfSync {
		return nil
	}
	f := v.Tries.Sync
	if v.Tries.Repair.waiting(v.Now) && v.Tries.Repair.NotBefore.After(f.NotBefore) {
		f = v.Tries.Repair
	}
	return v.due(v.Now, f, v1alpha1.NextPublish, Step{Action: SyncSecret, Reason: v1alpha1.ReasonPublishing})
}
