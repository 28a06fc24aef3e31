package lease

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// says is what a condition says; the zero value: it does not exist.
type says struct {
	status          metav1.ConditionStatus
	reason, message string
}

func yes(reason, message string) says { return says{metav1.ConditionTrue, reason, message} }

func no(reason, message string) says { return says{metav1.ConditionFalse, reason, message} }

// statusOf is the status after Plan and SetStatus.
func statusOf(in Input) *v1alpha1.DynamicSecretStatus {
	SetStatus(in.Object, in, Plan(in))
	return &in.Object.Status
}

func conditionOf(st *v1alpha1.DynamicSecretStatus, kind string) says {
	c := meta.FindStatusCondition(st.Conditions, kind)
	if c == nil {
		return says{}
	}
	return says{c.Status, c.Reason, c.Message}
}

type conditionCase struct {
	it    string
	given []given
	want  says
}

func checkCondition(t *testing.T, kind string, cases []conditionCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.it, func(t *testing.T) {
			same(t, kind, conditionOf(statusOf(input(c.given...)), kind), c.want)
		})
	}
}

const (
	hasLease     = "Secret orders contains a leased credential of database/creds/orders."
	hasResponse  = "Secret orders contains the response of database/creds/orders."
	hasSet       = "Secret orders contains a leased credential of 3 sources."
	requesting1  = "Requesting a credential."
	requesting2  = "Requesting a new credential."
	beingWritten = "The credential is issued; writing Secret orders."
	unavailable  = "Vault is unavailable"
	oneLeft      = "Lease records still to be revoked: 1." + untilDeadline
	noneLeft     = "Lease records still to be revoked: 0."
	// revocationDeadline is an hour by default. Without a deletion, a lease is tried until a minute after its end, and
	// that may be an hour later than recorded.
	untilDeadline = " What is not revoked until 2026-03-01T13:00:00Z is abandoned."
	revokingOne   = "Lease records still to be revoked: 1. What is not revoked until 2026-03-01T14:01:00Z is abandoned."
	revokedText   = "The leases are revoked and the Secret is deleted, because spec.revoked is true. " +
		"Set it to false to issue again."
	grantText = "The lease of this grant has ended (spec.lease.reissue is Never). Delete the object, or request " +
		"another lease with the annotation leasekeeper.io/rotate-requested-at."
	lapses = "Not allowed. The leases are kept until they expire; they are neither renewed nor replaced."
	isLive = "The credential has a live lease."
)

var (
	issueFails   = tries(func(t *Tries) { t.Issue = failed(time.Hour) })
	publishFails = tries(func(t *Tries) {
		t.Publish = failed(time.Hour)
		t.Publish.Reason, t.Publish.Message = v1alpha1.ReasonPublishFailed, "Secret orders could not be written"
	})
	syncRejected = tries(func(t *Tries) {
		t.Sync = Failure{Count: 1, NotBefore: t0.Add(time.Hour), Reason: v1alpha1.ReasonTargetRejected,
			Message: "rejected", Stalled: true}
	})
	syncFails = tries(func(t *Tries) {
		t.Sync = Failure{Count: 1, NotBefore: t0.Add(time.Hour), Reason: v1alpha1.ReasonPublishFailed,
			Message: "the API server is down"}
	})
	denied = tries(func(t *Tries) {
		t.Issue = Failure{Count: 1, NotBefore: t0.Add(time.Hour), Reason: v1alpha1.ReasonAccessDenied,
			Message: "the policy lacks a line", Stalled: true}
	})
	secretFails = tries(func(t *Tries) {
		t.DeleteSecret = failed(time.Hour)
		t.DeleteSecret.Message = "Secret orders could not be deleted"
	})
	renewFails = all(after(renewDue), renewFailed(failed(time.Hour), record()))
	rotate     = annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	mine       = issued(record())
	grantDone  = all(leaseSpec(never), status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) }))
	invalid    = func(in *Input) { in.Invalid = &windowBlock }
	readFails  = all(kept(static), after(time.Hour), refreshFailed(failed(2*time.Hour), ""))
	aSet       = keptSet(db(), broker(), settings())
	wasReady   = status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.ReadyCondition,
			Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonLeased, Message: "as before"})
	})
	refreshing = status(func(st *v1alpha1.DynamicSecretStatus) { BeginRefresh(st, "digest-3") })
)

func TestReady(t *testing.T) {
	stillReady := yes(v1alpha1.ReasonLeased, "as before")
	successors := []*v1alpha1.LeaseRecord{record(numbered(2))}
	next := issued(successors...)
	stalledBlock := notReadyBlock
	stalledBlock.Stalled = true
	recorded1 := recorded()
	failing := all(retiring(record(retired(0, "x"))), revokeFailed(failed(time.Minute), record()))
	slow := "Lease records still to be revoked: 16." + untilDeadline + " A request got no response; its session is " +
		"revoked at 2026-03-01T12:30:00Z, when the backend must be done with it (--request-limit)."
	waiting := func(in *Input) {
		for i := range v1alpha1.MaxRetiring {
			retiring(record(numbered(i), noResponse, retired(time.Hour/2, v1alpha1.ReasonIssuing)))(in)
		}
	}
	checkCondition(t, v1alpha1.ReadyCondition, []conditionCase{
		{"is False during the first issuance", nil, no(v1alpha1.ReasonIssuing, requesting1)},
		{"is True with a leased credential", []given{kept()}, yes(v1alpha1.ReasonLeased, hasLease)},
		{"is True with a set", []given{aSet}, yes(v1alpha1.ReasonLeased, hasSet)},
		{"is True with a static response", []given{kept(static)}, yes(v1alpha1.ReasonSynced, hasResponse)},
		{"is True with a certificate", []given{kept(expiring)}, yes(v1alpha1.ReasonSynced, hasResponse)},
		{"stays True while a replacement fails",
			[]given{kept(), rotate, issueFails}, yes(v1alpha1.ReasonLeased, hasLease)},
		{"stays True while a renewal fails", []given{kept(), renewFails}, yes(v1alpha1.ReasonLeased, hasLease)},
		{"stays True while a read fails", []given{readFails}, yes(v1alpha1.ReasonSynced, hasResponse)},
		{"stays True while suspended", []given{kept(), spec(suspended), rotate}, yes(v1alpha1.ReasonLeased, hasLease)},
		{"stays True with an invalid spec", []given{kept(), invalid}, yes(v1alpha1.ReasonLeased, hasLease)},
		{"is False while the Secret is written", []given{recorded1, mine}, no(v1alpha1.ReasonPublishing, beingWritten)},
		{"says why the Secret cannot be written", []given{recorded1, mine, publishFails},
			no(v1alpha1.ReasonPublishFailed, "Secret orders could not be written")},
		{"says why nothing can be issued", []given{issueFails}, no(v1alpha1.ReasonBackendUnavailable, unavailable)},
		{"says what blocks the issuance", []given{blocked(stalledBlock)}, no(v1alpha1.ReasonProviderNotReady,
			notReadyBlock.Message)},
		{"says that it is suspended", []given{spec(suspended)}, no(v1alpha1.ReasonSuspended, suspendedBlock.Message)},
		{"says that the spec is invalid", []given{invalid}, no(v1alpha1.ReasonInvalidWindow, windowBlock.Message)},
		{"says that the Secret is foreign", []given{kept(), target(TargetForeign)}, no(v1alpha1.ReasonTargetConflict,
			foreignBlock.Message)},
		{"is False when the Secret was deleted", []given{kept(), target(TargetAbsent)}, no(v1alpha1.ReasonReplacing,
			"Secret orders was deleted; requesting a new credential.")},
		{"is False when the Secret was changed", []given{kept(), target(TargetChanged)}, no(v1alpha1.ReasonReplacing,
			"Secret orders was changed; requesting a new credential.")},
		{"stays True until the successor is written", []given{wasReady, succeeded(), next}, stillReady},
		{"stays True while the successor cannot be written",
			[]given{wasReady, succeeded(), next, publishFails}, stillReady},
		{"stays True while an unpublished successor is lost", []given{wasReady, succeeded()}, stillReady},
		{"stays True until a static value is written", []given{wasReady, succeeding(successors,
			record(static, retired(0, v1alpha1.ReasonReplacing))), next}, stillReady},
		{"stays True during a refresh", []given{kept(static), refreshing}, yes(v1alpha1.ReasonSynced, hasResponse)},
		{"is False if the old credential is dead", []given{wasReady, succeeded(), next, after(2 * time.Hour)},
			no(v1alpha1.ReasonPublishing, beingWritten)},
		{"is False if a part of the old set is dead", []given{wasReady, succeeding(successors,
			record(retired(0, reasonIncomplete))), next}, no(v1alpha1.ReasonPublishing, beingWritten)},
		{"is False if the Secret was edited before", []given{succeeded(), next},
			no(v1alpha1.ReasonPublishing, beingWritten)},
		{"is False if the Secret is edited while the successor cannot be written",
			[]given{wasReady, succeeded(), next, publishFails, func(in *Input) { in.Edited = true }},
			no(v1alpha1.ReasonPublishFailed, "Secret orders could not be written")},
		{"is False if the Secret is gone", []given{wasReady, succeeded(), next, target(TargetAbsent)},
			no(v1alpha1.ReasonPublishing, beingWritten)},
		{"says that the grant has ended", []given{grantDone}, no(v1alpha1.ReasonGrantEnded, grantText)},
		{"says that the object is deleted", []given{kept(), deleted(0)}, no(v1alpha1.ReasonDeleting, oneLeft)},
		{"counts what is not revoked", []given{deleted(0), waiting}, no(v1alpha1.ReasonDeleting, slow)},
		{"does not count what is revoked", []given{aSet, deleted(0), done(db())}, no(v1alpha1.ReasonDeleting, oneLeft)},
		{"says why a revocation fails", []given{deleted(0), failing},
			no(v1alpha1.ReasonDeleting, oneLeft+" The last attempt failed: "+unavailable)},
		{"says why the Secret cannot be deleted", []given{kept(), deleted(0), done(record()), secretFails},
			no(v1alpha1.ReasonDeleting, noneLeft+untilDeadline+" Secret orders could not be deleted")},
		{"says that it is revoking", []given{kept(), spec(revoking)}, no(v1alpha1.ReasonRevoking, revokingOne)},
		{"is revoking while the Secret exists",
			[]given{published, spec(revoking)}, no(v1alpha1.ReasonRevoking, noneLeft)},
		{"says that it is revoked", []given{spec(revoking)}, no(v1alpha1.ReasonRevoked, revokedText)},
	})
}

func TestStalled(t *testing.T) {
	stalledRead := func(in *Input) {
		f := in.Tries.Refresh[""]
		f.Stalled = true
		in.Tries.Refresh[""] = f
	}
	off := func(in *Input) { in.RolloutOff = true }
	checkCondition(t, v1alpha1.StalledCondition, []conditionCase{
		{"does not exist while all is well", []given{kept()}, says{}},
		{"does not exist while the backend is unavailable", []given{issueFails}, says{}},
		{"does not exist while suspended", []given{spec(suspended)}, says{}},
		{"exists if a person must act", []given{denied}, yes(v1alpha1.ReasonAccessDenied, "the policy lacks a line")},
		{"exists if a live credential cannot be replaced", []given{kept(), rotate, denied},
			yes(v1alpha1.ReasonAccessDenied, "the policy lacks a line")},
		{"exists if labels are rejected", []given{kept(), outOfSync, syncRejected}, yes(v1alpha1.ReasonTargetRejected,
			"rejected")},
		{"exists if a read needs a person", []given{readFails, stalledRead}, yes(v1alpha1.ReasonBackendUnavailable,
			unavailable)},
		{"exists if the Secret is foreign", []given{target(TargetForeign)}, yes(v1alpha1.ReasonTargetConflict,
			foreignBlock.Message)},
		{"exists if the spec is invalid", []given{invalid}, yes(v1alpha1.ReasonInvalidWindow, windowBlock.Message)},
		{"exists if the namespace is not allowed", []given{lapsing},
			yes(v1alpha1.ReasonNamespaceNotAllowed, "Not allowed.")},
		{"says what becomes of the leases then", []given{kept(), lapsing},
			yes(v1alpha1.ReasonNamespaceNotAllowed, lapses)},
		{"says the same when a credential is due", []given{kept(), lapsing, rotate},
			yes(v1alpha1.ReasonNamespaceNotAllowed, lapses)},
		{"exists for a live credential of an invalid spec", []given{kept(), invalid},
			yes(v1alpha1.ReasonInvalidWindow, windowBlock.Message)},
		{"exists if rollouts are not permitted", []given{kept(), spec(rollingOut), off},
			yes(v1alpha1.ReasonRolloutDisabled, "spec.rollout requires permission to patch workloads: "+
				"set rollout.enabled in leasekeeper's chart, or remove spec.rollout.")},
		{"exists after a grant", []given{grantDone}, yes(v1alpha1.ReasonGrantEnded, grantText)},
		{"exists after a revocation", []given{spec(revoking)}, yes(v1alpha1.ReasonRevoked, revokedText)},
		{"does not exist during a revocation", []given{kept(), spec(revoking), denied}, says{}},
		{"does not exist during a deletion", []given{kept(), deleted(0), denied}, says{}},
		// Failures are remembered until the next success, but their cause may be over before.
		{"ends if no replacement is requested any more", []given{kept(), denied}, says{}},
		{"ends if the labels are correct", []given{kept(), syncRejected}, says{}},
	})
}

func TestReconciling(t *testing.T) {
	const due = "A new credential is due. " + unavailable
	extensionFails := all(kept(session(30*time.Minute, true)), after(25*time.Minute),
		extendFailed(failed(time.Hour), record()))
	oneOfTwo := all(aSet, after(renewDue), renewFailed(failed(time.Hour), broker()))
	checkCondition(t, v1alpha1.ReconcilingCondition, []conditionCase{
		{"does not exist while all is well", []given{kept()}, says{}},
		{"exists from the start", nil, yes(v1alpha1.ReasonIssuing, requesting1)},
		{"exists during an attempt", []given{kept(), attempt(record(numbered(2), noResponse))},
			yes(v1alpha1.ReasonReplacing, requesting2)},
		{"says why nothing can be issued", []given{issueFails}, yes(v1alpha1.ReasonBackendUnavailable, unavailable)},
		{"says why a replacement fails", []given{kept(), rotate, issueFails}, yes(v1alpha1.ReasonReplacing, due)},
		{"says why a renewal fails", []given{kept(), renewFails},
			yes(v1alpha1.ReasonRenewing, "The lease is due for renewal. "+unavailable)},
		{"says why a renewal of one of a set fails", []given{oneOfTwo,
			func(in *Input) { renewedAt(renewDue)(&in.Object.Status.Leases[0]) }},
			yes(v1alpha1.ReasonRenewing, "The lease is due for renewal. "+unavailable)},
		{"says why an extension fails", []given{extensionFails},
			yes(v1alpha1.ReasonRenewing, "The session that issued the lease is due for extension. "+unavailable)},
		{"exists while the Secret is written", []given{recorded(), mine}, yes(v1alpha1.ReasonPublishing, beingWritten)},
		{"says that a successor is written", []given{wasReady, succeeded(), issued(record(numbered(2)))},
			yes(v1alpha1.ReasonPublishing, beingWritten)},
		{"says why a successor cannot be written",
			[]given{wasReady, succeeded(), issued(record(numbered(2))), publishFails},
			yes(v1alpha1.ReasonPublishFailed, "Secret orders could not be written")},
		{"says why a response cannot be read again", []given{readFails},
			yes(v1alpha1.ReasonReplacing, "A response is due to be read again. "+unavailable)},
		{"says why a response is not read again", []given{kept(static), after(time.Hour), blocked(notReadyBlock)},
			yes(v1alpha1.ReasonReplacing, "A response is due to be read again. "+notReadyBlock.Message)},
		{"says why the Secret's labels cannot be written", []given{kept(), outOfSync, syncFails},
			yes(v1alpha1.ReasonPublishFailed, "the API server is down")},
		{"exists during a deletion", []given{kept(), deleted(0)}, yes(v1alpha1.ReasonDeleting, oneLeft)},
		{"exists during a revocation", []given{kept(), spec(revoking)}, yes(v1alpha1.ReasonRevoking, revokingOne)},
		{"does not exist while stalled", []given{kept(), rotate, denied}, says{}},
		{"does not exist while suspended", []given{kept(), spec(suspended), rotate}, says{}},
		{"does not exist while suspended from the start", []given{spec(suspended)}, says{}},
		{"does not exist before a renewal is due", []given{kept(), after(time.Minute)}, says{}},
		// A write whose response was lost is remembered as a failure. The Secret shows that it succeeded.
		{"ends if the Secret is written after all", []given{kept(), publishFails}, says{}},
		{"ends if no replacement is requested any more", []given{kept(), issueFails}, says{}},
	})
}

func TestLeased(t *testing.T) {
	before := func(s metav1.ConditionStatus) given {
		return status(func(st *v1alpha1.DynamicSecretStatus) {
			st.Conditions = append(st.Conditions,
				metav1.Condition{Type: v1alpha1.LeasedCondition, Status: s, Reason: "Before", Message: "before"})
		})
	}
	wasLeased, wasNot := before(metav1.ConditionTrue), before(metav1.ConditionFalse)
	wasRevoked := status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.LeasedCondition,
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRevoked, Message: "The lease is being revoked."})
	})
	last := func(reason string) given { return retiring(record(retired(0, reason))) }
	const lostText = "The backend no longer knows the lease: it, or the token that issued it, was revoked."
	notLeased := func(how string) says {
		return no(v1alpha1.ReasonNotLeased, "The response of database/creds/orders has no lease: "+how+".")
	}
	web := func(rec *v1alpha1.LeaseRecord) { rec.Vault.Path = "pki/issue/web" }
	const readAgain = "it is read again every spec.refreshInterval (1h0m0s)"
	checkCondition(t, v1alpha1.LeasedCondition, []conditionCase{
		{"does not exist before the first issuance", nil, says{}},
		{"is True with a lease", []given{kept()}, yes(v1alpha1.ReasonLeased, isLive)},
		{"is True with a lease in a set", []given{aSet}, yes(v1alpha1.ReasonLeased, isLive)},
		{"is True before the Secret is written", []given{recorded(), mine}, yes(v1alpha1.ReasonLeased, isLive)},
		{"is True while a successor without a lease is written", []given{succeeding(
			[]*v1alpha1.LeaseRecord{record(static)}, record(retired(0, v1alpha1.ReasonReplacing)))},
			yes(v1alpha1.ReasonLeased, isLive)},
		{"is True while an unpublished successor is lost", []given{wasLeased, succeeded(), status(noLeases)},
			yes(v1alpha1.ReasonLeased, isLive)},
		{"says how a static response is kept", []given{kept(static)}, notLeased(readAgain)},
		{"says how a scheduled response is kept", []given{kept(scheduled(time.Hour))},
			notLeased("it is read again after each scheduled change")},
		{"says how a certificate is kept", []given{kept(revocable)},
			notLeased("it is replaced before it expires and can be revoked")},
		{"says that a certificate cannot be revoked", []given{kept(expiring)},
			notLeased("it is replaced before it expires and cannot be revoked")},
		{"says that an expiry is unknown", []given{kept(static, unknownExpiry)},
			notLeased("leasekeeper cannot know when it expires, " +
				"and requests it again every spec.refreshInterval (1h0m0s)")},
		{"says that a response is kept", []given{kept(once)},
			notLeased("another request would return another one, so it is kept until spec.rotation.maxAge, " +
				"or until you request a replacement")},
		{"describes each response of a set", []given{keptSet(settings(), db(expiring, web))},
			no(v1alpha1.ReasonNotLeased, "The response of database/creds/orders has no lease: "+readAgain+". "+
				"The response of pki/issue/web has no lease: it is replaced before it expires and cannot be revoked.")},
		{"says that the lease expired", []given{wasLeased, last(v1alpha1.ReasonExpired)},
			no(v1alpha1.ReasonExpired, "The lease has expired.")},
		{"says that the lease was lost", []given{wasLeased, last(v1alpha1.ReasonLeaseLost)},
			no(v1alpha1.ReasonLeaseLost, lostText)},
		{"says that the grant has ended", []given{wasLeased, last(v1alpha1.ReasonGrantEnded)},
			no(v1alpha1.ReasonGrantEnded, "The grant has ended.")},
		{"says that the lease is revoked", []given{wasLeased, last(v1alpha1.ReasonRevoked), spec(revoking)},
			no(v1alpha1.ReasonRevoked, "The lease is being revoked.")},
		{"says that the lease was revoked", []given{wasRevoked, spec(revoking)},
			no(v1alpha1.ReasonRevoked, "The lease is revoked.")},
		{"says that a LeaseRevocation revoked it", []given{wasLeased, last(v1alpha1.ReasonLeaseRevoked)},
			no(v1alpha1.ReasonLeaseRevoked, "A LeaseRevocation revoked the lease.")},
		{"says that the lease expired if nothing says more", []given{wasLeased}, no(v1alpha1.ReasonExpired,
			"The lease has expired.")},
		{"gives a reason without a text of its own",
			[]given{wasLeased, last("Other")}, no("Other", "The lease has ended.")},
		{"speaks of the last lease", []given{wasLeased, last("Other"), last(v1alpha1.ReasonLeaseLost)},
			no(v1alpha1.ReasonLeaseLost, lostText)},
		{"speaks of the lost lease, not of its set", []given{wasLeased, last(v1alpha1.ReasonLeaseLost),
			last(reasonIncomplete)},
			no(v1alpha1.ReasonLeaseLost, lostText)},
		{"does not speak of a lease that was replaced",
			[]given{wasLeased, last(reasonReplaced), last(reasonIncomplete)},
			no(v1alpha1.ReasonExpired, "The lease has expired.")},
		{"does not speak of an attempt that was dropped", []given{wasLeased, last(v1alpha1.ReasonLeaseLost),
			last(v1alpha1.ReasonIssuing)},
			no(v1alpha1.ReasonLeaseLost, lostText)},
		{"stays as it was", []given{wasNot, last(v1alpha1.ReasonExpired)}, no("Before", "before")},
	})
}
