package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// planCase is a sentence about Plan, and the reason for it.
type planCase struct {
	it, because string
	given       []given
	want        Step
}

func checkPlan(t *testing.T, cases []planCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.it, func(t *testing.T) {
			got := Plan(input(c.given...))
			if got.Blocked != nil && c.want.Blocked != nil {
				same(t, "blocked", *got.Blocked, *c.want.Blocked)
				got.Blocked = c.want.Blocked
			}
			got.Retrying = false // see TestNextActionAndExpiry
			same(t, c.it+", because "+c.because, got, c.want)
		})
	}
}

var (
	suspendedBlock = Block{Reason: v1alpha1.ReasonSuspended,
		Message: "spec.suspend is true: nothing is issued or replaced until it is false."}
	notReadyBlock = Block{Reason: v1alpha1.ReasonProviderNotReady, Message: "vault has not been checked yet."}
	foreignBlock  = Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
		Message: "Secret orders exists and does not belong to this object: delete it, or set another spec.target.name."}
	fullBlock = Block{Reason: v1alpha1.ReasonRetiringFull,
		Message: "status.retiring is full: nothing is issued until the backend has revoked some of it. " +
			"The events say why it fails."}
	backendBlock = Block{Reason: v1alpha1.ReasonBackendUnavailable, Message: "Vault is unavailable"}
	windowBlock  = Block{Reason: v1alpha1.ReasonInvalidWindow, Message: "the schedule is invalid", Stalled: true}
)

func step(a Action, reason string) Step { return Step{Action: a, Reason: reason} }

// of says which record the step is for.
func (s Step) of(record int) Step { s.Record = record; return s }

// ofRetiring says which retiring record the step is for.
func (s Step) ofRetiring(record int) Step { s.Record, s.Retiring = record, true; return s }

func (s Step) blockedBy(b Block) Step { s.Blocked = &b; return s }

func (s Step) withNext(what string, at time.Duration) Step {
	s.Next, s.NextAt = what, t0.Add(at)
	return s
}

// waitFor waits until the next thing is due.
func waitFor(what string, at time.Duration) Step {
	return Step{Action: Wait, At: t0.Add(at)}.withNext(what, at)
}

// waitBlocked waits at t0 + at for what blocks an issuance, and checks again.
func waitBlocked(at time.Duration, b Block) Step {
	return Step{Action: Wait, At: t0.Add(at + blockedRecheck)}.blockedBy(b)
}

func TestPlanTheFirstIssuance(t *testing.T) {
	issueFailed := tries(func(t *Tries) { t.Issue = failed(4 * time.Second) })
	oneLess := status(func(st *v1alpha1.DynamicSecretStatus) { st.Retiring = st.Retiring[1:] })
	checkPlan(t, []planCase{
		{
			it: "adds the finalizer first", because: "the object could be removed while a credential is issued",
			given: []given{finalizers()},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "adds a finalizer that was removed", because: "the recorded lease must be revoked",
			given: []given{finalizers(), kept(), after(time.Hour)},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "ignores finalizers of others", because: "they wait for other things",
			given: []given{finalizers("example.com/other")},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "issues for an object without leases", because: "that is its purpose",
			want: step(Issue, CauseFirst),
		}, {
			it: "issues although the Secret has other content", because: "a Secret of ours is overwritten",
			given: []given{target(TargetChanged)},
			want:  step(Issue, CauseFirst),
		}, {
			it: "issues nothing if the Secret is foreign", because: "the check comes before the credential is minted",
			given: []given{target(TargetForeign)},
			want:  waitBlocked(0, foreignBlock),
		}, {
			it: "issues nothing while the provider is not ready", because: "the credential could not be revoked",
			given: []given{blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock),
		}, {
			it: "issues nothing while suspended", because: "spec.suspend is true",
			given: []given{spec(suspended)},
			want:  waitBlocked(0, suspendedBlock),
		}, {
			it: "reports the suspension before other blocks", because: "the user set it",
			given: []given{spec(suspended), blocked(notReadyBlock), target(TargetForeign), full},
			want:  waitBlocked(0, suspendedBlock).withNext(v1alpha1.NextRevoke, 24*time.Hour),
		}, {
			it: "issues nothing for an invalid spec", because: "the first issuance waits for the correction",
			given: []given{func(in *Input) { in.Invalid = &windowBlock }},
			want:  waitBlocked(0, windowBlock),
		}, {
			it: "issues nothing while status.retiring is full", because: "each issuance can add records",
			given: []given{full},
			want:  waitBlocked(0, fullBlock).withNext(v1alpha1.NextRevoke, 24*time.Hour),
		}, {
			it: "issues if status.retiring has room for one", because: "the limit is 16, not 15",
			given: []given{full, oneLess},
			want:  step(Issue, CauseFirst),
		}, {
			it: "waits after a failure", because: "retries must not overload a backend",
			given: []given{issueFailed},
			want:  waitFor(v1alpha1.NextIssue, 4*time.Second).blockedBy(backendBlock),
		}, {
			it: "retries after the pause", because: "the pause is over",
			given: []given{issueFailed, after(4 * time.Second)},
			want:  step(Issue, CauseFirst),
		}, {
			it: "issues a grant", because: "reissue: Never applies to the second credential",
			given: []given{leaseSpec(never)},
			want:  step(Issue, CauseFirst),
		},
	})
}

func TestPlanAnAttempt(t *testing.T) {
	drop := step(DropAttempt, v1alpha1.ReasonIssuing)
	later := retiring(record(noResponse, retired(limit, v1alpha1.ReasonIssuing)))
	checkPlan(t, []planCase{
		{
			it: "drops the attempt of another process", because: "this process will never get its responses",
			given: []given{attempt(), after(time.Hour)},
			want:  drop,
		}, {
			it: "does not use the responses to another attempt", because: "they belong to other sessions",
			given: []given{attempt(), held(OutcomeIssued, false, record(numbered(9)))},
			want:  drop,
		}, {
			it: "drops its own attempt if a source failed", because: "a set is complete or useless",
			given: []given{attempt(), held(OutcomeFailed, true, record(noResponse))},
			want:  drop,
		}, {
			it: "drops its own attempt if a source did not respond", because: "the set is incomplete",
			given: []given{attempt(), held(OutcomePending, false, record(noResponse))},
			want:  drop,
		}, {
			it: "records the leases of a complete attempt", because: "they exist in memory only",
			given: []given{attempt(), issued(record())},
			want:  step(RecordLeases, v1alpha1.ReasonPublishing),
		}, {
			it: "records them while suspended", because: "they were issued before",
			given: []given{attempt(), issued(record()), spec(suspended)},
			want:  step(RecordLeases, v1alpha1.ReasonPublishing),
		}, {
			it: "records them while blocked", because: "the credentials exist already",
			given: []given{attempt(), issued(record()), blocked(notReadyBlock)},
			want:  step(RecordLeases, v1alpha1.ReasonPublishing),
		}, {
			it: "drops a complete attempt of a revoked object", because: "it must not be published",
			given: []given{attempt(), issued(record()), spec(revoking)},
			want:  drop,
		}, {
			it: "drops a complete attempt of a deleted object", because: "nothing will use it",
			given: []given{attempt(), issued(record()), deleted(0)},
			want:  step(DropAttempt, v1alpha1.ReasonDeleting),
		}, {
			it: "settles the attempt before it renews", because: "the attempt may replace the lease",
			given: []given{kept(), attempt(record(numbered(2), noResponse)), after(50 * time.Minute)},
			want:  drop,
		}, {
			it: "issues again right after it dropped an attempt", because: "only the old session has to wait",
			given: []given{later},
			want:  step(Issue, CauseFirst),
		},
	})
}

func TestPlanHeldResponses(t *testing.T) {
	resolve := step(ResolveHeld, v1alpha1.ReasonReplacing)
	settleFailed := tries(func(t *Tries) { t.Settle = failed(time.Second) })
	another := kept(numbered(2))
	partly := func(in *Input) { in.Held.Records[1].Settled = false }
	checkPlan(t, []planCase{
		{
			it: "resolves responses whose attempt was dropped", because: "only this process knows the credentials",
			given: []given{another, issued(record())},
			want:  resolve,
		}, {
			it: "resolves a failed issuance", because: "its sessions can be revoked without waiting",
			given: []given{another, held(OutcomeFailed, true, record(noResponse))},
			want:  resolve,
		}, {
			it: "resolves before the object is removed", because: "nothing names the credential afterwards",
			given: []given{deleted(0), issued(record())},
			want:  resolve,
		}, {
			it: "continues while resolving fails", because: "the outage of one backend must not block the rest",
			given: []given{another, issued(record()), settleFailed},
			want:  waitFor(v1alpha1.NextRevoke, time.Second),
		}, {
			it: "resolves without a finalizer of its own", because: "other finalizers keep the object",
			given: []given{deleted(0), finalizers("example.com/other"), issued(record()), settleFailed},
			want:  waitFor(v1alpha1.NextRevoke, time.Second),
		}, {
			it: "does not resolve while a source has not responded", because: "the record waits for the request limit",
			given: []given{another, held(OutcomeFailed, true, db(), broker()), partly},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "does not resolve a pending issuance", because: "it is not complete",
			given: []given{another, held(OutcomePending, true, record())},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "does not resolve what it recorded", because: "it will be published",
			given: []given{recorded(), issued(record())},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		},
	})
}
