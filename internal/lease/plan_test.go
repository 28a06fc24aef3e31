package lease

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// planCase is a sentence about what Plan does, and the reason why it has to.
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
			same(t, c.it+", because "+c.because, got, c.want)
		})
	}
}

var (
	suspendedBlock = Block{Reason: v1alpha1.ReasonSuspended, Message: "spec.suspend is true: nothing is issued or replaced until it is false."}
	notReadyBlock  = Block{Reason: v1alpha1.ReasonProviderNotReady, Message: "vault has not been checked yet."}
	foreignBlock   = Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
		Message: "Secret orders exists and belongs to somebody else: delete it, or set another spec.target.name."}
	fullBlock = Block{Reason: v1alpha1.ReasonRetiringFull,
		Message: "status.retiring is full: nothing is issued until the backend ends some of it. See the events for what it says."}
	backendBlock = Block{Reason: v1alpha1.ReasonBackendUnavailable, Message: "vault does not answer"}
)

// heldUp is a Step that waits for what is in the way of an issue at t0 + at, and looks again.
func heldUp(at time.Duration, b Block) Step {
	return Step{Action: Wait, At: t0.Add(at + lookAgain), Blocked: &b}
}

func withNext(s Step, what string, at time.Duration) Step {
	s.Next, s.NextAt = what, t0.Add(at)
	return s
}

func step(a Action, reason string) Step { return Step{Action: a, Reason: reason} }

func TestPlanTheFirstIssue(t *testing.T) {
	noFinalizer := object(func(d *v1alpha1.DynamicSecret) { d.Finalizers = nil })
	checkPlan(t, []planCase{
		{
			it: "adds the finalizer before anything else", because: "an object that goes at once must not leave a credential",
			given: []given{noFinalizer},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "adds the finalizer again where somebody took it off", because: "the lease that is recorded is owed an end",
			given: []given{noFinalizer, kept(), after(time.Hour)},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "does not take another's finalizer for its own", because: "others wait for other things",
			given: []given{object(func(d *v1alpha1.DynamicSecret) { d.Finalizers = []string{"example.com/other"} })},
			want:  step(AddFinalizer, v1alpha1.ReasonIssuing),
		}, {
			it: "issues for an object that has nothing", because: "that is what it is there for",
			want: step(IssueCredential, CauseFirst),
		}, {
			it: "issues although the Secret's remains are there", because: "a Secret of ours without a lease is brought up to date",
			given: []given{target(TargetChanged)},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "issues nothing over somebody else's Secret", because: "the check comes before the mint",
			given: []given{target(TargetForeign)},
			want:  heldUp(0, foreignBlock),
		}, {
			it: "issues nothing while the provider is not ready", because: "what could not be ended must not begin",
			given: []given{blocked(notReadyBlock)},
			want:  heldUp(0, notReadyBlock),
		}, {
			it: "issues nothing while suspended", because: "spec.suspend says so",
			given: []given{spec(suspended)},
			want:  heldUp(0, suspendedBlock),
		}, {
			it: "names the suspension before the provider", because: "that is what the person did",
			given: []given{spec(suspended), blocked(notReadyBlock), target(TargetForeign), full},
			want:  withNext(heldUp(0, suspendedBlock), v1alpha1.NextEnd, 24*time.Hour),
		}, {
			it: "issues nothing while the retiring records are full", because: "each try may add one",
			given: []given{full},
			want:  withNext(heldUp(0, fullBlock), v1alpha1.NextEnd, 24*time.Hour),
		}, {
			it: "issues while one retiring record has room", because: "the bound is 16, not 15",
			given: []given{full, status(func(st *v1alpha1.DynamicSecretStatus) { st.Retiring = st.Retiring[1:] })},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "waits after a failure", because: "a backend that is down must not be hammered",
			given: []given{tries(func(t *Tries) { t.Issue = failed(4 * time.Second) })},
			want: func() Step {
				s := upNext(v1alpha1.NextIssue, 4*time.Second)
				s.Blocked = &backendBlock
				return s
			}(),
		}, {
			it: "tries again when the pause is over", because: "the pause ends at its end",
			given: []given{after(4 * time.Second), tries(func(t *Tries) { t.Issue = failed(4 * time.Second) })},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "issues a grant too", because: "reissue: Never is about the second",
			given: []given{leaseSpec(never)},
			want:  step(IssueCredential, CauseFirst),
		},
	})
}

func TestPlanAnAttempt(t *testing.T) {
	started := attempt(func(rec *v1alpha1.LeaseRecord) { rec.StartedAt = stamp(0) })
	drop := func(at time.Duration) Step {
		return Step{Action: DropAttempt, Reason: v1alpha1.ReasonIssuing, EndAfter: t0.Add(at)}
	}
	checkPlan(t, []planCase{
		{
			it: "counts the limit of another process's attempt from now", because: "its start was told by another clock, which may be behind",
			given: []given{started, after(time.Hour)},
			want:  drop(time.Hour + limit),
		}, {
			it: "takes an answer to another attempt for no answer", because: "the backend may still be minting for this one",
			given: []given{started, after(time.Minute), held("token-9", OutcomeUnanswered)},
			want:  drop(time.Minute + limit),
		}, {
			it: "counts the limit of its own attempt from its start, and a second more", because: "the journal keeps whole seconds, rounded down",
			given: []given{started, after(time.Minute), held("token-1", OutcomeUnanswered)},
			want:  drop(limit + time.Second),
		}, {
			it: "does not end its own attempt at once when it cannot tell what became of it", because: "only an answer says that the backend has done with it",
			given: []given{started, after(time.Minute), held("token-1", OutcomeNone)},
			want:  drop(limit + time.Second),
		}, {
			it: "ends a refused attempt at once", because: "the backend itself has answered",
			given: []given{started, after(time.Minute), held("token-1", OutcomeRefused)},
			want:  drop(time.Minute),
		}, {
			it: "records the lease of an answered attempt", because: "it is alive and in memory only",
			given: []given{started, held("token-1", OutcomeIssued)},
			want:  step(RecordLease, v1alpha1.ReasonPublishing),
		}, {
			it: "records it while suspended too", because: "it was minted before, and dropping it would be waste",
			given: []given{started, held("token-1", OutcomeIssued), spec(suspended)},
			want:  step(RecordLease, v1alpha1.ReasonPublishing),
		}, {
			it: "ends an answered attempt at once when the lease is to be revoked", because: "it must not be published first",
			given: []given{started, after(time.Minute), held("token-1", OutcomeIssued), spec(revoking)},
			want:  drop(time.Minute),
		}, {
			it: "ends an answered attempt at once when the object is deleted", because: "nobody is there to use it",
			given: []given{started, after(time.Minute), held("token-1", OutcomeIssued), deleted(0)},
			want:  Step{Action: DropAttempt, Reason: v1alpha1.ReasonDeleting, EndAfter: t0.Add(time.Minute)},
		}, {
			it: "settles the attempt before it renews", because: "until then the lease before it is not known to stay",
			given: []given{kept(), attempt(numbered(2), unanswered), after(50 * time.Minute)},
			want:  drop(50*time.Minute + limit),
		}, {
			it: "begins anew at once when an attempt was dropped", because: "the wait is the token's, not the user's",
			given: []given{retiring(record(unanswered, retired(limit, v1alpha1.ReasonIssuing)))},
			want:  step(IssueCredential, CauseFirst),
		},
	})
}

func TestPlanAHeldAnswer(t *testing.T) {
	settle := step(ResolveHeld, v1alpha1.ReasonReplacing)
	checkPlan(t, []planCase{
		{
			it: "settles an answer whose attempt somebody dropped", because: "the credential exists, and only this process knows of it",
			given: []given{kept(numbered(2)), held("token-1", OutcomeIssued)},
			want:  settle,
		}, {
			it: "settles a refusal too", because: "the token may be ended now, without the wait",
			given: []given{kept(numbered(2)), held("token-1", OutcomeRefused)},
			want:  settle,
		}, {
			it: "settles it before the object goes", because: "after that nothing names it",
			given: []given{deleted(0), held("token-1", OutcomeIssued)},
			want:  settle,
		}, {
			it: "goes on while settling fails", because: "a backend that is away must not stop what the rest needs",
			given: []given{kept(numbered(2)), held("token-1", OutcomeIssued), tries(func(t *Tries) { t.Settle = failed(time.Second) }), after(0)},
			want:  upNext(v1alpha1.NextEnd, time.Second),
		}, {
			it: "goes on trying for an object that others keep", because: "its own finalizer is off, and the credential lives",
			given: []given{deleted(0), object(func(d *v1alpha1.DynamicSecret) { d.Finalizers = []string{"example.com/other"} }),
				held("token-1", OutcomeIssued), tries(func(t *Tries) { t.Settle = failed(time.Second) })},
			want: upNext(v1alpha1.NextEnd, time.Second),
		}, {
			it: "leaves an answer alone that was never given", because: "the record waits for the request limit",
			given: []given{kept(numbered(2)), held("token-1", OutcomeUnanswered)},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "has nothing to settle for the lease that it recorded", because: "that one is on its way into the Secret",
			given: []given{recorded(), held("token-1", OutcomeIssued)},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		},
	})
}

func TestPlanRenewals(t *testing.T) {
	asked := annotated(v1alpha1.RenewRequestedAtAnnotation, "now")
	handled := status(func(st *v1alpha1.DynamicSecretStatus) { st.LastHandledRenewAt = "now" })
	renewLease := step(RenewLease, v1alpha1.ReasonRenewing)
	checkPlan(t, []planCase{
		{
			it: "waits until a renewal is due", because: "a live credential is left alone",
			given: []given{kept(), after(renewDue - time.Second)},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "renews at 67 percent of what was granted", because: "that is what the spec says",
			given: []given{kept(), after(renewDue)},
			want:  renewLease,
		}, {
			it: "counts from the last renewal", because: "that is when the term began",
			given: []given{kept(func(rec *v1alpha1.LeaseRecord) {
				rec.RenewedAt, rec.ExpiresAt = stampPtr(30*time.Minute), stampPtr(90*time.Minute)
			}), after(renewDue)},
			want: upNext(v1alpha1.NextRenew, 30*time.Minute+renewDue),
		}, {
			it: "counts in percent of the spec", because: "renewAtPercent was set",
			given: []given{kept(), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RenewAtPercent = 10 }), after(6 * time.Minute)},
			want:  renewLease,
		}, {
			it: "renews while suspended", because: "suspending must not let the credential die",
			given: []given{kept(), spec(suspended), after(renewDue)},
			want:  renewLease,
		}, {
			it: "renews although the provider is not ready for issues", because: "the lease can still be saved",
			given: []given{kept(), blocked(notReadyBlock), after(renewDue)},
			want:  renewLease,
		}, {
			it: "renews a grant", because: "its one lease lives as long as it can",
			given: []given{kept(), leaseSpec(never), after(renewDue)},
			want:  renewLease,
		}, {
			it: "waits after a failed renewal", because: "a backend that is down must not be hammered",
			given: []given{kept(), after(renewDue), tries(func(t *Tries) { t.Renew = failed(renewDue + 4*time.Second) })},
			want:  upNext(v1alpha1.NextRenew, renewDue+4*time.Second),
		}, {
			it: "does not renew early because an old failure's pause is over", because: "the pause only makes later",
			given: []given{kept(), tries(func(t *Tries) { t.Renew = failed(-time.Second) })},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "looks at the end although a pause would last longer", because: "the Secret goes with its lease",
			given: []given{kept(), after(59 * time.Minute), tries(func(t *Tries) { t.Renew = failed(61 * time.Minute) })},
			want:  upNext(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "renews at once when asked", because: "the annotation has a value that was not handled",
			given: []given{kept(), asked},
			want:  renewLease,
		}, {
			it: "keeps to the pause when asked", because: "asking does not bring the backend back",
			given: []given{kept(), asked, tries(func(t *Tries) { t.Renew = failed(4 * time.Second) })},
			want:  upNext(v1alpha1.NextRenew, 4*time.Second),
		}, {
			it: "renews once for one order", because: "the value was handled",
			given: []given{kept(), asked, handled},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "takes the removal of an order for no order", because: "nobody asked for anything",
			given: []given{kept(), handled},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "acknowledges an order that nothing can be done for", because: "the lease is as long as it gets, and who asked waits for the echo",
			given: []given{kept(maxTTL), asked},
			want:  step(AcknowledgeRenew, v1alpha1.ReasonRenewing),
		}, {
			it: "leaves an order be while there is no lease", because: "the issue that follows is newer than any renewal",
			given: []given{asked},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "does not renew what cannot be renewed", because: "the backend has said so",
			given: []given{kept(notRenewable), after(renewDue - time.Second)},
			want:  upNext(v1alpha1.NextReplace, renewDue),
		}, {
			it: "does not renew a lease whose token dies first and cannot be extended", because: "the lease would die with it all the same",
			given: []given{kept(token(time.Hour, false)), after(renewDue - time.Second)},
			want:  upNext(v1alpha1.NextReplace, renewDue),
		}, {
			it: "asks about a lease that a list lacked", because: "a list is a hint",
			given: []given{kept(), func(in *Input) { in.SuspectID = "lease-1" }},
			want:  step(VerifyLease, v1alpha1.ReasonLeaseLost),
		}, {
			it: "does not ask about a lease that is not its any more", because: "the list is older than the lease",
			given: []given{kept(), func(in *Input) { in.SuspectID = "lease-0" }},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "does not ask about an answer without a lease", because: "an empty id is no suspicion",
			given: []given{kept(unleased)},
			want:  upNext(v1alpha1.NextRefresh, time.Hour),
		},
	})
}

func TestPlanTheToken(t *testing.T) {
	extend := step(ExtendToken, v1alpha1.ReasonRenewing)
	// Of 30 minutes, 67 percent are 20:06.
	const due = 20*time.Minute + 6*time.Second
	checkPlan(t, []planCase{
		{
			it: "extends the token in time where it dies before its lease", because: "a lease dies with its token",
			given: []given{kept(token(30*time.Minute, true)), after(due)},
			want:  extend,
		}, {
			it: "does not extend it before", because: "an extension that is not needed yet is a request too many",
			given: []given{kept(token(30*time.Minute, true)), after(due - time.Second)},
			want:  upNext(v1alpha1.NextRenew, due),
		}, {
			it: "leaves a token alone that outlives the lease", because: "it is extended once, so not before it has to be",
			given: []given{kept(token(61*time.Minute, true)), after(renewDue - time.Second)},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "extends it when both end together", because: "a renewal would not outlive it",
			given: []given{kept(token(time.Hour, true), maxTTL), after(renewDue)},
			want:  extend,
		}, {
			it: "does not extend it a second time", because: "it was extended as far as it goes",
			given: []given{kept(token(30*time.Minute, false)), after(due - time.Second)},
			want:  upNext(v1alpha1.NextReplace, due),
		}, {
			it: "extends a periodic token again and again", because: "each extension grants the period anew",
			given: []given{kept(func(rec *v1alpha1.LeaseRecord) {
				rec.RenewedAt, rec.ExpiresAt, rec.Renewals = stampPtr(20*time.Hour), stampPtr(21*time.Hour), 30
				rec.TokenExpiresAt, rec.TokenDurationSeconds, rec.TokenRenewable = stampPtr(20*time.Hour+30*time.Minute), 1800, true
			}), after(20*time.Hour + due)},
			want: extend,
		}, {
			it: "waits after a failed extension", because: "a backend that is down must not be hammered",
			given: []given{kept(token(30*time.Minute, true)), after(due), tries(func(t *Tries) { t.ExtendToken = failed(due + 4*time.Second) })},
			want:  upNext(v1alpha1.NextRenew, due+4*time.Second),
		}, {
			it: "has no token to extend for an answer without a lease", because: "that token was ended at once",
			given: []given{kept(unleased, token(30*time.Minute, true)), after(due)},
			want:  upNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "renews the lease before it extends the token", because: "one thing at a time, the shorter road first",
			given: []given{kept(token(30*time.Minute, true)), after(due), annotated(v1alpha1.RenewRequestedAtAnnotation, "now")},
			want:  step(RenewLease, v1alpha1.ReasonRenewing),
		},
	})
}

func TestPlanTheEndOfALease(t *testing.T) {
	dropLease := func(reason string) Step { return step(DropLease, reason) }
	over := all(published, after(time.Hour))
	checkPlan(t, []planCase{
		{
			it: "drops the lease at its end", because: "the Secret never outlives it",
			given: []given{kept(), after(time.Hour)},
			want:  dropLease(v1alpha1.ReasonExpired),
		}, {
			it: "keeps it to its last second", because: "it can be renewed until then",
			given: []given{kept(), after(time.Hour - time.Second)},
			want:  step(RenewLease, v1alpha1.ReasonRenewing),
		}, {
			it: "drops it at the end of its token", because: "a lease dies with its token",
			given: []given{kept(token(30*time.Minute, true)), after(30 * time.Minute)},
			want:  dropLease(v1alpha1.ReasonExpired),
		}, {
			it: "drops it while suspended", because: "a dead credential helps nobody",
			given: []given{kept(), spec(suspended), after(time.Hour)},
			want:  dropLease(v1alpha1.ReasonExpired),
		}, {
			it: "drops a lease that the backend does not know", because: "somebody revoked it behind our back",
			given: []given{kept(), func(in *Input) { in.LostID = "lease-1" }},
			want:  dropLease(v1alpha1.ReasonLeaseLost),
		}, {
			it: "keeps a lease when another was lost", because: "the word was about the one before",
			given: []given{kept(), func(in *Input) { in.LostID = "lease-0" }},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "sees no end in an answer without a lease", because: "its duration means nothing, nor does its token's",
			given: []given{kept(unleased, token(time.Minute, false)), after(30 * time.Minute)},
			want:  upNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "has another in the place of a lease that is over", because: "there is nothing in the way",
			given: []given{over},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "has another in the place of a lost lease whose Secret is kept", because: "Retain is about what cannot be replaced",
			given: []given{over, leaseSpec(retain)},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "deletes the Secret when no other can be had now", because: "nobody is to use a dead credential",
			given: []given{over, blocked(notReadyBlock)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "deletes it when suspended", because: "nothing will replace it",
			given: []given{over, spec(suspended)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "deletes it after a failure to issue, whether or not it is to be tried now", because: "the try may fail again while the dead credential stays",
			given: []given{over, tries(func(t *Tries) { t.Issue = failed(0) })},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "deletes it after a failure to renew", because: "the backend that could not renew will not issue",
			given: []given{over, tries(func(t *Tries) { t.Renew = failed(0) })},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "leaves a dead credential where it is when told to", because: "onExpiry is Retain",
			given: []given{over, leaseSpec(retain), blocked(notReadyBlock)},
			want:  heldUp(time.Hour, notReadyBlock),
		}, {
			it: "deletes a Secret that was tampered with too", because: "it may still hold some of the dead credential",
			given: []given{published, target(TargetChanged), blocked(notReadyBlock)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "has nothing to delete where nothing was written", because: "the record of a Secret without a UID is an intent",
			given: []given{recorded(), status(func(st *v1alpha1.DynamicSecretStatus) { st.Lease = nil }), blocked(notReadyBlock)},
			want:  heldUp(0, notReadyBlock),
		}, {
			it: "deletes what was written by a process that died before it could say so", because: "the Secret is ours and its lease is not to be had",
			given: []given{recorded(), status(func(st *v1alpha1.DynamicSecretStatus) { st.Lease = nil }), target(TargetChanged), blocked(notReadyBlock)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		},
	})
}

func TestPlanReplacements(t *testing.T) {
	asked := annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	handled := status(func(st *v1alpha1.DynamicSecretStatus) { st.LastHandledRotateAt = "now" })
	changed := func(in *Input) { in.RequestDigest = "changed" }
	checkPlan(t, []planCase{
		{
			it: "replaces a lease that cannot be extended, at 67 percent of its life", because: "the successor must be there before it ends",
			given: []given{kept(maxTTL), after(renewDue)},
			want:  step(IssueCredential, CauseMaxTTL),
		}, {
			it: "does not replace it before", because: "a live credential is left alone",
			given: []given{kept(maxTTL), after(renewDue - time.Second)},
			want:  upNext(v1alpha1.NextReplace, renewDue),
		}, {
			it: "replaces one that was never renewable", because: "its end is known from its start",
			given: []given{kept(notRenewable), after(renewDue)},
			want:  step(IssueCredential, CauseMaxTTL),
		}, {
			it: "replaces one whose token dies, by the token's life", because: "that is the one that counts",
			given: []given{kept(token(30*time.Minute, false)), after(20*time.Minute + 6*time.Second)},
			want:  step(IssueCredential, CauseMaxTTL),
		}, {
			it: "replaces one whose end stood still, by what is left of it", because: "the last renewal began its last term",
			given: []given{kept(maxTTL, func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt = stampPtr(50 * time.Minute) }), after(56*time.Minute + 41*time.Second)},
			want:  upNext(v1alpha1.NextReplace, 56*time.Minute+42*time.Second),
		}, {
			it: "replaces a lease whose request changed", because: "the credential is not the one that is asked for",
			given: []given{kept(), changed},
			want:  step(IssueCredential, CauseRequestChanged),
		}, {
			it: "keeps the lease when what is asked for is not known", because: "a provider that is not there changes no request",
			given: []given{kept(), func(in *Input) { in.RequestDigest = "" }},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "replaces a lease when asked", because: "the annotation has a value that was not handled",
			given: []given{kept(), asked},
			want:  step(IssueCredential, CauseRequested),
		}, {
			it: "replaces it once for one order", because: "the value was handled",
			given: []given{kept(), asked, handled},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "takes the removal of an order for no order", because: "nobody asked for anything",
			given: []given{kept(), handled},
			want:  upNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "does not replace while suspended, whoever asks", because: "spec.suspend says so",
			given: []given{kept(), asked, changed, spec(suspended)},
			want:  withNext(heldUp(0, suspendedBlock), v1alpha1.NextRenew, renewDue),
		}, {
			it: "renews before it replaces", because: "what saves a living lease stands before what may fail",
			given: []given{kept(), changed, after(renewDue)},
			want:  step(RenewLease, v1alpha1.ReasonRenewing),
		}, {
			it: "extends the token before it replaces", because: "what saves a living lease stands before what may fail",
			given: []given{kept(token(30*time.Minute, true)), changed, after(29 * time.Minute)},
			want:  step(ExtendToken, v1alpha1.ReasonRenewing),
		}, {
			it: "ends what it owes before it replaces", because: "the records have a bound",
			given: []given{kept(numbered(2)), changed, retiring(record(retired(0, v1alpha1.ReasonLeaseLost)))},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "replaces although an end fails", because: "the user's credential does not wait for a clean-up",
			given: []given{kept(numbered(2)), changed, retiring(record(retired(0, v1alpha1.ReasonLeaseLost))),
				endFailed(record(), failed(time.Second))},
			want: step(IssueCredential, CauseRequestChanged),
		}, {
			it: "looks again at what keeps it from issuing, and says nothing of when", because: "a status that tells of each look would be written at each",
			given: []given{kept(), changed, blocked(notReadyBlock), after(time.Minute)},
			want:  withNext(heldUp(time.Minute, notReadyBlock), v1alpha1.NextRenew, renewDue),
		}, {
			it: "reads an answer without a lease again when the interval is over", because: "nothing tells when it changes",
			given: []given{kept(unleased), after(time.Hour)},
			want:  step(IssueCredential, CauseRefresh),
		}, {
			it: "does not read it again before", because: "the interval is the user's",
			given: []given{kept(unleased), after(time.Hour - time.Second)},
			want:  upNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "reads it again when a renewal is asked for", because: "that is what a renewal means where there is no lease",
			given: []given{kept(unleased), annotated(v1alpha1.RenewRequestedAtAnnotation, "now")},
			want:  step(IssueCredential, CauseRefresh),
		}, {
			it: "does not read it again because an order was taken away", because: "reading may mint: a PKI answer has no lease",
			given: []given{kept(unleased), status(func(st *v1alpha1.DynamicSecretStatus) { st.LastHandledRenewAt = "now" })},
			want:  upNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "reads a grant's answer without a lease again", because: "there is no life that could be over",
			given: []given{kept(unleased), leaseSpec(never), after(time.Hour)},
			want:  step(IssueCredential, CauseRefresh),
		},
	})
}

// A grant is issued once. What a person asks for explicitly, and what was never handed out, is another matter.
func TestPlanAGrant(t *testing.T) {
	ended := all(leaseSpec(never), status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) }))
	checkPlan(t, []planCase{
		{
			it: "does not follow a lease at its maximum", because: "the grant is as long as its one lease",
			given: []given{kept(maxTTL), leaseSpec(never), after(59 * time.Minute)},
			want:  upNext(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "ends with its lease", because: "that was its time",
			given: []given{kept(maxTTL), leaseSpec(never), after(time.Hour)},
			want:  step(DropLease, v1alpha1.ReasonExpired),
		}, {
			it: "ends when its lease is lost", because: "somebody took it back",
			given: []given{kept(), leaseSpec(never), func(in *Input) { in.LostID = "lease-1" }},
			want:  step(DropLease, v1alpha1.ReasonLeaseLost),
		}, {
			it: "ends when its Secret is deleted", because: "who deletes it does not want it",
			given: []given{kept(), leaseSpec(never), target(TargetAbsent)},
			want:  step(DropLease, v1alpha1.ReasonGrantEnded),
		}, {
			it: "ends when its Secret is edited", because: "its data are lost, and there is no second",
			given: []given{kept(), leaseSpec(never), target(TargetChanged)},
			want:  step(DropLease, v1alpha1.ReasonGrantEnded),
		}, {
			it: "is written again where the credential is still in memory", because: "it is the same one",
			given: []given{kept(), leaseSpec(never), target(TargetAbsent), held("token-1", OutcomeIssued)},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "is issued again where it was never published", because: "nobody has had it yet",
			given: []given{recorded(), leaseSpec(never)},
			want:  step(IssueCredential, CauseUnpublished),
		}, {
			it: "takes its Secret with it", because: "it stays away until somebody asks",
			given: []given{ended, published},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "takes its Secret with it although dead credentials are kept", because: "Retain is for what comes back",
			given: []given{ended, leaseSpec(retain), published},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "stays ended", because: "Never means never",
			given: []given{ended},
			want:  Step{Action: Wait},
		}, {
			it: "begins anew when a person asks", because: "the message says how",
			given: []given{ended, annotated(v1alpha1.RotateRequestedAtAnnotation, "now")},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "begins anew when it is none any more", because: "reissue is Always now",
			given: []given{ended, leaseSpec(func(s *v1alpha1.LeaseSpec) { s.Reissue = v1alpha1.ReissueAlways })},
			want:  step(IssueCredential, CauseFirst),
		}, {
			it: "is replaced when its request changes", because: "another request is another grant",
			given: []given{kept(), leaseSpec(never), func(in *Input) { in.RequestDigest = "changed" }},
			want:  step(IssueCredential, CauseRequestChanged),
		},
	})
}

func TestPlanTheSecret(t *testing.T) {
	outOfSync := func(in *Input) { in.OutOfSync = true }
	mine := held("token-1", OutcomeIssued)
	checkPlan(t, []planCase{
		{
			it: "writes the credential that it holds", because: "the lease is recorded and nobody has it",
			given: []given{recorded(), mine},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "waits after a failed write", because: "the same credential is tried again, not another",
			given: []given{recorded(), mine, tries(func(t *Tries) { t.Publish = failed(4 * time.Second) })},
			want:  upNext(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "has another where the credential died with its process", because: "a lease id gives nothing back",
			given: []given{recorded()},
			want:  step(IssueCredential, CauseUnpublished),
		}, {
			it: "does not take another's answer for the lost one", because: "it is a credential of another lease",
			given: []given{recorded(), held("token-9", OutcomeUnanswered)},
			want:  step(IssueCredential, CauseUnpublished),
		}, {
			it: "notes what was written by a process that died before it could", because: "the digest vouches for the data",
			given: []given{recorded(), target(TargetCurrent), outOfSync},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "replaces the credential of a Secret that was deleted", because: "its data are nowhere else",
			given: []given{kept(), target(TargetAbsent)},
			want:  step(IssueCredential, CauseSecretLost),
		}, {
			it: "replaces the credential of a Secret that was edited", because: "what was there may have been read or lost",
			given: []given{kept(), target(TargetChanged)},
			want:  step(IssueCredential, CauseSecretChanged),
		}, {
			it: "writes it again where it is still in memory", because: "no other is needed",
			given: []given{kept(), target(TargetChanged), mine},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "leaves a Secret alone that somebody took over", because: "it is not ours any more",
			given: []given{kept(), target(TargetForeign), mine},
			want:  withNext(heldUp(0, foreignBlock), v1alpha1.NextRenew, renewDue),
		}, {
			it: "brings labels in line with the data that are there", because: "an edit of a label is no cause for a credential",
			given: []given{kept(), outOfSync},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "brings labels in line while suspended", because: "nothing is issued by that",
			given: []given{kept(), outOfSync, spec(suspended)},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "waits after labels were refused", because: "an API server that said no says no again",
			given: []given{kept(), outOfSync, tries(func(t *Tries) { t.Sync = failed(4 * time.Second) })},
			want:  upNext(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "replaces before it brings labels in line", because: "the new credential brings them along",
			given: []given{kept(), outOfSync, func(in *Input) { in.RequestDigest = "changed" }},
			want:  step(IssueCredential, CauseRequestChanged),
		},
	})
}

// Promise 4: the credential in the Secret lives until its successor is there.
func TestPlanAReplacedRecord(t *testing.T) {
	next := held("token-2", OutcomeIssued)
	replacing := retired(0, v1alpha1.ReasonReplacing)
	lost := record(numbered(0), retired(-time.Hour, v1alpha1.ReasonLeaseLost))
	checkPlan(t, []planCase{
		{
			it: "publishes the successor before it ends what it replaces", because: "the Secret still holds the old one",
			given: []given{succeeded(), next},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "does not end it while the write fails", because: "consumers would be cut off",
			given: []given{succeeded(), next, tries(func(t *Tries) { t.Publish = failed(4 * time.Second) })},
			want:  upNext(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "has another successor where the first was lost with its process", because: "the old one is still in use and must still go",
			given: []given{succeeded()},
			want:  step(IssueCredential, CauseUnpublished),
		}, {
			it: "does not end it when no other successor can be had", because: "consumers would be cut off",
			given: []given{succeeded(), blocked(notReadyBlock)},
			want:  withNext(heldUp(0, notReadyBlock), v1alpha1.NextRenew, renewDue),
		}, {
			it: "ends what else is owed an end meanwhile", because: "only one record is in the Secret",
			given: []given{kept(numbered(2)), retiring(lost), succeeded(), next, tries(func(t *Tries) { t.Publish = failed(4 * time.Second) })},
			want:  Step{Action: EndRecord, Reason: v1alpha1.ReasonLeaseLost, Record: 0},
		}, {
			it: "ends it when the successor is in the Secret", because: "it has been handed over",
			given: []given{kept(numbered(2)), retiring(record(replacing))},
			want:  step(EndRecord, v1alpha1.ReasonReplacing),
		}, {
			it: "takes the Secret away when it dies before its successor comes", because: "the Secret never outlives its lease",
			given: []given{succeeded(func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = stampPtr(time.Minute) }), blocked(notReadyBlock), after(time.Minute)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "looks when it dies", because: "the Secret goes then, and not at the next look",
			given: []given{succeeded(func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = stampPtr(time.Minute) }), blocked(notReadyBlock), after(50 * time.Second)},
			want:  Step{Action: Wait, At: t0.Add(time.Minute), Next: v1alpha1.NextExpire, NextAt: t0.Add(time.Minute), Blocked: &notReadyBlock},
		}, {
			it: "ends it when it is dead anyway", because: "there is nobody to cut off",
			given: []given{succeeded(func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = stampPtr(time.Minute) }), next, after(time.Minute),
				tries(func(t *Tries) { t.Publish = failed(time.Minute + 4*time.Second) })},
			want: step(EndRecord, v1alpha1.ReasonReplacing),
		},
	})
}

// The order of a deletion: what may be minting, what lives, what shows it, what is owed, and only then the object.
func TestPlanADeletion(t *testing.T) {
	gone := deleted(0)
	drop := Step{Action: DropAttempt, Reason: v1alpha1.ReasonDeleting, EndAfter: t0.Add(limit)}
	owed := retiring(record(numbered(3), retired(0, v1alpha1.ReasonDeleting)))
	checkPlan(t, []planCase{
		{
			it: "drops the attempt first", because: "it can become a lease",
			given: []given{gone, attempt(numbered(2), unanswered), kept(), owed},
			want:  drop,
		}, {
			it: "drops the lease before the Secret", because: "the intent is durable before the effect",
			given: []given{gone, kept(), owed},
			want:  step(DropLease, v1alpha1.ReasonDeleting),
		}, {
			it: "drops an answer without a lease too", because: "it says that there is nothing left",
			given: []given{gone, kept(unleased)},
			want:  step(DropLease, v1alpha1.ReasonDeleting),
		}, {
			it: "deletes the Secret before it revokes", because: "no consumer is to find a dead credential",
			given: []given{gone, published, owed},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "deletes a Secret that may have been written", because: "the process that wrote it may have died",
			given: []given{gone, recorded(), status(func(st *v1alpha1.DynamicSecretStatus) { st.Lease = nil })},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "ends the records before the object goes", because: "after that nothing names them",
			given: []given{gone, owed},
			want:  step(EndRecord, v1alpha1.ReasonDeleting),
		}, {
			it: "waits for an end that was put off", because: "the backend may still be minting",
			given: []given{gone, retiring(record(unanswered, retired(limit, v1alpha1.ReasonDeleting)))},
			want:  upNext(v1alpha1.NextEnd, limit),
		}, {
			it: "lets the object go when nothing is owed", because: "finalizers are bounded",
			given: []given{gone},
			want:  step(RemoveFinalizer, v1alpha1.ReasonDeleting),
		}, {
			it: "lets the object go while suspended, blocked and without a target", because: "a deletion always ends",
			given: []given{gone, spec(suspended), blocked(notReadyBlock), target(TargetForeign)},
			want:  step(RemoveFinalizer, v1alpha1.ReasonDeleting),
		}, {
			it: "has nothing to do for an object that others keep", because: "its own finalizer is off",
			given: []given{gone, kept(), object(func(d *v1alpha1.DynamicSecret) { d.Finalizers = []string{"example.com/other"} }), after(2 * time.Hour)},
			want:  Step{Action: Wait},
		}, {
			it: "does not renew, replace or publish any more", because: "it is on its way out",
			given: []given{gone, recorded(), held("token-1", OutcomeIssued), after(renewDue)},
			want:  step(DropLease, v1alpha1.ReasonDeleting),
		},
	})
}

func TestPlanARevocation(t *testing.T) {
	owed := retiring(record(numbered(3), retired(0, v1alpha1.ReasonRevoked)))
	checkPlan(t, []planCase{
		{
			it: "drops the lease", because: "spec.revoked says so",
			given: []given{kept(), spec(revoking)},
			want:  step(DropLease, v1alpha1.ReasonRevoked),
		}, {
			it: "deletes the Secret before it revokes", because: "no consumer is to find a dead credential",
			given: []given{published, owed, spec(revoking)},
			want:  step(DeleteSecret, v1alpha1.ReasonRevoked),
		}, {
			it: "deletes the Secret although dead credentials are kept", because: "Retain is about an expiry",
			given: []given{published, owed, spec(revoking), leaseSpec(retain)},
			want:  step(DeleteSecret, v1alpha1.ReasonRevoked),
		}, {
			it: "ends the records", because: "that is the order",
			given: []given{owed, spec(revoking)},
			want:  step(EndRecord, v1alpha1.ReasonRevoked),
		}, {
			it: "goes on while suspended", because: "suspending stops issues, not revocations",
			given: []given{kept(), spec(revoking), spec(suspended)},
			want:  step(DropLease, v1alpha1.ReasonRevoked),
		}, {
			it: "stays as a tombstone", because: "nothing is issued until it is false",
			given: []given{spec(revoking), annotated(v1alpha1.RotateRequestedAtAnnotation, "now")},
			want:  Step{Action: Wait},
		}, {
			it: "tries a failed end again", because: "the lease lives still",
			given: []given{owed, spec(revoking), endFailed(record(numbered(3)), failed(4*time.Second))},
			want:  upNext(v1alpha1.NextEnd, 4*time.Second),
		}, {
			it: "does not abandon by the orders for a deletion", because: "the object stays",
			given: []given{owed, spec(revoking), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon }),
				annotated(v1alpha1.AbandonLeaseAnnotation, "true")},
			want: step(EndRecord, v1alpha1.ReasonRevoked),
		},
	})
}

func TestPlanTheRetiring(t *testing.T) {
	rec := record(retired(0, v1alpha1.ReasonLeaseLost))
	final := failed(time.Hour)
	final.Final = true
	abandon := step(AbandonRecord, v1alpha1.ReasonAbandoned)
	// A lease that was issued for an hour may have been renewed for another without a record; and a minute for a
	// backend that is up to say so itself.
	const bound = 2*time.Hour + time.Minute
	quiet := kept(numbered(2), func(rec *v1alpha1.LeaseRecord) {
		rec.ExpiresAt, rec.DurationSeconds = stampPtr(10000*time.Hour), int64(10000*3600)
	})
	idle := spec(revoking) // nothing but the records is left to do
	shortened := leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RevocationDeadline = metav1.Duration{Duration: 10 * time.Minute} })
	unbounded := record(unanswered, retired(0, v1alpha1.ReasonIssuing))
	checkPlan(t, []planCase{
		{
			it: "ends a record when its time has come", because: "it is owed an end",
			given: []given{quiet, retiring(rec)},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "ends a record that has no time", because: "an older ledger may lack it",
			given: []given{quiet, retiring(record(func(r *v1alpha1.LeaseRecord) { r.Reason = "Old" }))},
			want:  step(EndRecord, "Old"),
		}, {
			it: "ends none before its time", because: "the backend may still be minting",
			given: []given{quiet, retiring(record(unanswered, retired(limit, v1alpha1.ReasonIssuing))), after(limit - time.Second)},
			want:  upNext(v1alpha1.NextEnd, limit),
		}, {
			it: "does not let one record wait for another", because: "each has its own failures",
			given: []given{quiet, retiring(rec, record(numbered(3), retired(0, v1alpha1.ReasonExpired))), endFailed(rec, failed(time.Minute))},
			want:  Step{Action: EndRecord, Reason: v1alpha1.ReasonExpired, Record: 1},
		}, {
			it: "tries again before the bound", because: "the lease may live",
			given: []given{idle, retiring(rec), endFailed(rec, failed(bound-time.Second)), after(bound - time.Second)},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "waits no longer than to the bound", because: "what is over is over",
			given: []given{idle, retiring(rec), endFailed(rec, failed(bound+time.Hour)), after(bound - time.Second)},
			want:  upNext(v1alpha1.NextEnd, bound),
		}, {
			it: "gives up after the record's own end, an unrecorded renewal and a grace", because: "then it is dead whatever the backend says",
			given: []given{idle, retiring(rec), endFailed(rec, failed(0)), after(bound)},
			want:  abandon,
		}, {
			it: "does not give up what was never tried", because: "a backend that is up tells in its own words",
			given: []given{idle, retiring(rec), after(bound)},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "counts the longer of what was granted and what may be asked for", because: "the unrecorded renewal asked for the wish",
			given: []given{idle, retiring(rec), endFailed(rec, failed(0)), after(bound),
				leaseSpec(func(s *v1alpha1.LeaseSpec) { s.Increment = &metav1.Duration{Duration: 2 * time.Hour} })},
			want: step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "counts no renewal where none could be had", because: "the end of a lease at its maximum stands",
			given: []given{idle, retiring(record(maxTTL, retired(0, v1alpha1.ReasonLeaseLost))), endFailed(rec, failed(0)), after(time.Hour + time.Minute)},
			want:  abandon,
		}, {
			it: "gives up a token at its own end", because: "a record without a lease is its token",
			given: []given{idle, retiring(record(unanswered, token(30*time.Minute, true), retired(0, v1alpha1.ReasonIssuing))),
				endFailed(unbounded, failed(0)), after(31 * time.Minute)},
			want: abandon,
		}, {
			it: "never gives up a token without an end while the object stays", because: "it may live for ever",
			given: []given{idle, retiring(unbounded), endFailed(unbounded, failed(0)), after(10000 * time.Hour)},
			want:  step(EndRecord, v1alpha1.ReasonIssuing),
		}, {
			it: "gives up at the revocation deadline of a deletion", because: "a deletion always ends",
			given: []given{deleted(0), shortened, retiring(unbounded), endFailed(unbounded, failed(time.Hour)), after(10 * time.Minute)},
			want:  abandon,
		}, {
			it: "does not give up before the deadline", because: "the backend may come back",
			given: []given{deleted(0), shortened, retiring(unbounded), endFailed(unbounded, failed(time.Hour)), after(10*time.Minute - time.Second)},
			want:  upNext(v1alpha1.NextEnd, 10*time.Minute),
		}, {
			it: "gives up at the record's own bound where that is before the deadline", because: "what is dead needs no wait",
			given: []given{deleted(0), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RevocationDeadline = metav1.Duration{Duration: 100 * time.Hour} }),
				retiring(rec), endFailed(rec, failed(bound+time.Hour)), after(bound)},
			want: abandon,
		}, {
			it: "tries once although the deadline is past", because: "an object that was long deleted may meet a backend that is up",
			given: []given{deleted(0), shortened, retiring(unbounded), after(time.Hour)},
			want:  step(EndRecord, v1alpha1.ReasonIssuing),
		}, {
			it: "gives up at once with onDelete: Abandon", because: "the lease is to run out by itself",
			given: []given{deleted(0), retiring(rec), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon })},
			want:  abandon,
		}, {
			it: "gives up at once with the annotation", because: "a person wants the object gone",
			given: []given{deleted(0), retiring(rec), annotated(v1alpha1.AbandonLeaseAnnotation, "true")},
			want:  abandon,
		}, {
			it: "takes no other value of the annotation", because: "\"false\" means no",
			given: []given{deleted(0), retiring(rec), annotated(v1alpha1.AbandonLeaseAnnotation, "false")},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "abandons nothing of an object that stays", because: "onDelete is for its deletion",
			given: []given{quiet, retiring(rec), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon })},
			want:  step(EndRecord, v1alpha1.ReasonLeaseLost),
		}, {
			it: "gives up a record whose end makes no sense", because: "the token is somebody else's",
			given: []given{quiet, retiring(record(numbered(3), retired(limit, v1alpha1.ReasonLeaseLost)), rec), endFailed(rec, final)},
			want:  Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned, Record: 1},
		}, {
			it: "gives up the record and not its neighbour", because: "the other still has time",
			given: []given{deleted(0), shortened, after(2 * time.Minute),
				retiring(unbounded, record(numbered(3), maxTTL, retired(0, v1alpha1.ReasonDeleting), func(r *v1alpha1.LeaseRecord) { r.ExpiresAt = stampPtr(time.Minute) })),
				endFailed(unbounded, failed(time.Hour)), endFailed(record(numbered(3)), failed(time.Hour))},
			want: Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned, Record: 1},
		},
	})
}
