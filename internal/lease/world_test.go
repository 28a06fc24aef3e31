package lease

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// world executes steps, with a backend and an API server that respond as rapid decides.
type world struct {
	cause string // of the last issuance
	*rapid.T
	in *Input
	// minted counts the sessions of this world.
	minted int
	// content are the handles of the records whose credentials the Secret contains.
	content map[string]bool
}

func (w *world) fails(f *Failure) bool {
	if !rarely(w.T, "fails") {
		*f = Failure{}
		return false
	}
	*f = Failure{Count: f.Count/2 + 1, NotBefore: w.in.Now.Add(Backoff(f.Count, w.in.Object.UID)),
		Reason: v1alpha1.ReasonBackendUnavailable, Message: "failed", Final: rarely(w.T, "final")}
	return true
}

func (w *world) failsFor(failures *map[string]Failure, key string) bool {
	f := (*failures)[key]
	failed := w.fails(&f)
	if *failures == nil {
		*failures = map[string]Failure{}
	}
	(*failures)[key] = f
	return failed
}

func (w *world) term() Term {
	return Term{At: w.in.Now, Duration: oneOf(w.T, "granted", time.Hour, time.Minute),
		Renewable: maybe(w.T, "renewable"), Capped: rarely(w.T, "capped")}
}

// take executes the step. False: there is nothing more to do.
func (w *world) take(s Step) bool {
	in, d, st := w.in, w.in.Object, &w.in.Object.Status
	switch s.Action {
	case Wait:
		in.Now = s.At
		return !s.At.IsZero()
	case RemoveFinalizer:
		return false
	case AddFinalizer:
		d.Finalizers = append(d.Finalizers, v1alpha1.Finalizer)
	case Issue:
		w.cause = s.Reason
		w.issue()
	case RecordLeases:
		var records []v1alpha1.LeaseRecord
		for i := range in.Held.Records {
			records = append(records, in.Held.Records[i].Record)
		}
		w.minted++
		Record(d, records, w.cause, fmt.Sprintf("digest-%d", w.minted), in.Now)
		in.Target, in.Handled, in.Reads = w.stale(), map[string]string{}, map[string]Read{}
	case DropAttempt:
		RetireAttempt(st, in.Held, s.Reason, in.RequestLimit, in.Now)
		in.Held = Held{}
	case ResolveHeld:
		if !w.fails(&in.Tries.Settle) {
			for i := range in.Held.Records {
				Resolve(st, &in.Held.Records[i].Record, in.Now)
			}
			in.Held = Held{}
		}
	case DropLeases:
		RetireLeases(d, s.Reason, s.Record, in.Now)
	case AcknowledgeRenew:
		RenewalHandled(d)
	case FollowRollout:
		if maybe(w.T, "rolled out") {
			RolledOut(st, in.Now)
		} else {
			in.RolloutCheckAt = in.Now.Add(time.Second)
			RecordRollout(st, v1alpha1.ReasonRollingOut, nil, maybe(w.T, "stamped"), in.Now)
		}
	case RevokeRecord, AbandonRecord:
		w.revoke(s)
	case PublishSecret, SyncSecret, DeleteSecret, RefreshSource:
		w.secret(s)
	default:
		w.keep(s)
	}
	return true
}

// stale is the state of a Secret that does not contain the leases.
func (w *world) stale() TargetState {
	if w.in.Target == TargetCurrent {
		return TargetChanged
	}
	return w.in.Target
}

// issue journals an attempt of all sources. Some respond; rarely the process ends before.
func (w *world) issue() {
	in := w.in
	if w.fails(&in.Tries.Issue) {
		return
	}
	var records []v1alpha1.LeaseRecord
	for _, r := range in.Requests {
		w.minted++
		rec := record(noResponse, source(r.Source), func(rec *v1alpha1.LeaseRecord) { rec.RequestDigest = r.Digest })
		SetSession(rec, tokenOf(1000+w.minted), Term{Duration: oneOf(w.T, "session", 0, time.Hour), At: in.Now,
			Renewable: maybe(w.T, "session renewable")})
		records = append(records, *rec)
	}
	Journal(&in.Object.Status, records, in.Now)
	if in.Held = (Held{}); rarely(w.T, "the process ends") {
		return
	}
	in.Held.Outcome = OutcomeIssued
	for i := range records {
		rec := HeldRecord{Record: records[i], Settled: true}
		if rarely(w.T, "no credential") {
			in.Held.Outcome, rec.Settled = OutcomeFailed, maybe(w.T, "settled")
		} else {
			kind, id := v1alpha1.ResponseLeased, "id-of-"+rec.Record.Handle()
			if maybe(w.T, "without a lease") {
				id = ""
				kind = oneOf(w.T, "kind",
					v1alpha1.ResponseExpiring, v1alpha1.ResponseScheduled, v1alpha1.ResponseStatic)
				rec.Record.Revocable = kind == v1alpha1.ResponseExpiring && maybe(w.T, "revocable")
			}
			Respond(&rec.Record, kind, id, w.term())
		}
		in.Held.Records = append(in.Held.Records, rec)
	}
}

func (w *world) revoke(s Step) {
	in := w.in
	key := Key(&recordsOf(in.Object, s)[s.Record])
	switch {
	case s.Action == RevokeRecord && w.failsFor(&in.Tries.Revoke, key):
	case !in.Object.DeletionTimestamp.IsZero():
		in.Done[key] = true
	default:
		RemoveRetired(in.Object, s.Record, in.Now)
	}
}

// secret executes a step that writes or deletes the Secret.
func (w *world) secret(s Step) {
	in, d, st := w.in, w.in.Object, &w.in.Object.Status
	existed := in.Target != TargetAbsent
	switch s.Action {
	case PublishSecret:
		if !w.fails(&in.Tries.Publish) {
			w.publish(existed)
			in.Held = Held{}
		}
	case SyncSecret:
		if !w.fails(&in.Tries.Sync) {
			w.publish(existed)
		}
	case DeleteSecret:
		if w.fails(&in.Tries.DeleteSecret) {
			return
		}
		in.Target, w.content = TargetAbsent, nil
		if d.DeletionTimestamp.IsZero() {
			SecretDeleted(st)
		}
	case RefreshSource:
		rec := &st.Leases[s.Record]
		if w.failsFor(&in.Tries.Refresh, rec.Source) {
			return
		}
		in.Handled[rec.Source] = RequestedRenewal(d)
		if maybe(w.T, "nothing new") {
			in.Reads[rec.Source] = Read{At: in.Now}
			return
		}
		w.minted++
		if BeginRefresh(st, fmt.Sprintf("digest-%d", w.minted)); rarely(w.T, "the refresh is interrupted") {
			in.OutOfSync = true
			return
		}
		Refreshed(rec, oneOf(w.T, "kind", v1alpha1.ResponseStatic, v1alpha1.ResponseScheduled), "part", w.term())
		w.publish(existed)
	}
}

func (w *world) publish(existed bool) {
	in, st := w.in, &w.in.Object.Status
	digest := "digest-0"
	if st.Secret != nil {
		digest = st.Secret.Digest
	}
	RecordPublished(in.Object, *writtenSecret(digest), existed, in.Now)
	in.Target, in.OutOfSync, w.content = TargetCurrent, false, map[string]bool{}
	for i := range st.Leases {
		w.content[st.Leases[i].Handle()] = true
	}
}

// keep executes a step that renews, extends or verifies.
func (w *world) keep(s Step) {
	in, d := w.in, w.in.Object
	rec := &recordsOf(d, s)[s.Record]
	failures := &in.Tries.Renew
	if s.Action == ExtendSession {
		failures = &in.Tries.ExtendSession
	}
	switch {
	case s.Action == VerifyLease:
		delete(in.Suspects, rec.ID)
		in.Lost[rec.ID] = maybe(w.T, "lost")
	case w.failsFor(failures, Key(rec)):
	case s.Retiring && rarely(w.T, "lost"):
		RetiringLost(d, s.Record, in.Now)
	case s.Action == RenewLease:
		Renewed(rec, w.term(), Increment(d, rec, in.Now))
		in.Handled[rec.Source] = RequestedRenewal(d)
	default:
		SessionExtended(rec, w.term())
	}
}
