package lease

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// said is what a condition says; the zero value: it is not there.
type said struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

func yes(reason, message string) said { return said{metav1.ConditionTrue, reason, message} }

func no(reason, message string) said { return said{metav1.ConditionFalse, reason, message} }

// summarized is the status after Plan and Summarize.
func summarized(in Input) *v1alpha1.DynamicSecretStatus {
	Summarize(in, Plan(in))
	return &in.Object.Status
}

func saidOf(st *v1alpha1.DynamicSecretStatus, kind string) said {
	c := meta.FindStatusCondition(st.Conditions, kind)
	if c == nil {
		return said{}
	}
	return said{c.Status, c.Reason, c.Message}
}

type conditionCase struct {
	it    string
	given []given
	want  said
}

func checkCondition(t *testing.T, kind string, cases []conditionCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.it, func(t *testing.T) {
			same(t, kind, saidOf(summarized(input(c.given...)), kind), c.want)
		})
	}
}

const (
	holdsLease   = "Secret orders holds a leased credential of database/creds/orders."
	holdsAnswer  = "Secret orders holds the answer of database/creds/orders."
	beingWritten = "The credential is leased; Secret orders is being written."
	notAnswering = "vault does not answer"
	owedOne      = "Lease records that are still to be ended: 1."
	revokedNow   = "The lease is revoked and the Secret deleted, as spec.revoked says. Set it to false to issue anew."
	grantOver    = "The one lease of this grant is over (spec.lease.reissue is Never). Delete the object, or ask for another with the annotation leasekeeper.io/rotate-requested-at."
)

var (
	issueFails   = tries(func(t *Tries) { t.Issue = failed(time.Hour) })
	publishFails = tries(func(t *Tries) {
		t.Publish = failed(time.Hour)
		t.Publish.Reason, t.Publish.Message = v1alpha1.ReasonPublishFailed, "Secret orders could not be written"
	})
	syncRejected = tries(func(t *Tries) {
		t.Sync = Failure{Count: 1, NotBefore: t0.Add(time.Hour), Reason: v1alpha1.ReasonTargetRejected, Message: "not taken", Stalled: true}
	})
	denied = tries(func(t *Tries) {
		t.Issue = Failure{Count: 1, NotBefore: t0.Add(time.Hour), Reason: v1alpha1.ReasonAccessDenied, Message: "policy lacks a line", Stalled: true}
	})
	rotate    = annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	mine      = held("token-1", OutcomeIssued)
	grantDone = all(leaseSpec(never), status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) }))
	outOfSync = func(in *Input) { in.OutOfSync = true }
)

func TestReady(t *testing.T) {
	stalledBlock := notReadyBlock
	stalledBlock.Stalled = true
	checkCondition(t, v1alpha1.ReadyCondition, []conditionCase{
		{"is False while the first credential is asked for", nil, no(v1alpha1.ReasonIssuing, "A credential is being asked for.")},
		{"is True while the Secret holds a leased credential", []given{kept()}, yes(v1alpha1.ReasonLeased, holdsLease)},
		{"is True while the Secret holds an answer without a lease", []given{kept(unleased)}, yes(v1alpha1.ReasonSynced, holdsAnswer)},
		{"stays True while a replacement fails", []given{kept(), rotate, issueFails}, yes(v1alpha1.ReasonLeased, holdsLease)},
		{"stays True while a renewal fails", []given{kept(), after(renewDue), tries(func(t *Tries) { t.Renew = failed(time.Hour) })}, yes(v1alpha1.ReasonLeased, holdsLease)},
		{"stays True while suspended", []given{kept(), spec(suspended), rotate}, yes(v1alpha1.ReasonLeased, holdsLease)},
		{"is False while the Secret is being written", []given{recorded(), mine}, no(v1alpha1.ReasonPublishing, beingWritten)},
		{"says why the Secret cannot be written", []given{recorded(), mine, publishFails}, no(v1alpha1.ReasonPublishFailed, "Secret orders could not be written")},
		{"says why no credential can be had", []given{issueFails}, no(v1alpha1.ReasonBackendUnavailable, notAnswering)},
		{"says what is in the way", []given{blocked(stalledBlock)}, no(v1alpha1.ReasonProviderNotReady, notReadyBlock.Message)},
		{"says that it is suspended", []given{spec(suspended)}, no(v1alpha1.ReasonSuspended, suspendedBlock.Message)},
		{"says that there is a Secret of somebody else's", []given{kept(), target(TargetForeign)}, no(v1alpha1.ReasonTargetConflict, foreignBlock.Message)},
		{"is False when the Secret is lost and another credential asked for", []given{kept(), target(TargetAbsent)}, no(v1alpha1.ReasonPublishing, beingWritten)},
		{"says that the grant is over", []given{grantDone}, no(v1alpha1.ReasonGrantEnded, grantOver)},
		{"says that it is going", []given{kept(), deleted(0)}, no(v1alpha1.ReasonDeleting, owedOne)},
		{"counts what is still owed", []given{deleted(0), full}, no(v1alpha1.ReasonDeleting, "Lease records that are still to be ended: 16. An issue was left without an answer; its token is ended when the backend must be done with it.")},
		{"says why an end fails", []given{deleted(0), retiring(record(retired(0, "x"))), endFailed(record(), failed(time.Minute))},
			no(v1alpha1.ReasonDeleting, owedOne[:len(owedOne)-1]+". The last try failed: vault does not answer")},
		{"says that it is revoking", []given{kept(), spec(revoking)}, no(v1alpha1.ReasonRevoking, owedOne)},
		{"is revoking while the Secret is there", []given{published, spec(revoking)}, no(v1alpha1.ReasonRevoking, "Lease records that are still to be ended: 0.")},
		{"says that it is revoked", []given{spec(revoking)}, no(v1alpha1.ReasonRevoked, revokedNow)},
	})
}

func TestStalled(t *testing.T) {
	checkCondition(t, v1alpha1.StalledCondition, []conditionCase{
		{"is not there while things go well", []given{kept()}, said{}},
		{"is not there while the backend is down: that passes", []given{issueFails}, said{}},
		{"is not there while suspended: a person has chosen it", []given{spec(suspended)}, said{}},
		{"is there when a person has to do something", []given{denied}, yes(v1alpha1.ReasonAccessDenied, "policy lacks a line")},
		{"is there beside a good credential that cannot be replaced", []given{kept(), rotate, denied}, yes(v1alpha1.ReasonAccessDenied, "policy lacks a line")},
		{"is there when labels are refused", []given{kept(), outOfSync, syncRejected}, yes(v1alpha1.ReasonTargetRejected, "not taken")},
		{"is there when the target is somebody else's", []given{target(TargetForeign)}, yes(v1alpha1.ReasonTargetConflict, foreignBlock.Message)},
		{"is there when the grant is over", []given{grantDone}, yes(v1alpha1.ReasonGrantEnded, grantOver)},
		{"is there when it is revoked", []given{spec(revoking)}, yes(v1alpha1.ReasonRevoked, revokedNow)},
		{"is not there while it is being revoked", []given{kept(), spec(revoking), denied}, said{}},
		{"is not there while it is going: that is bounded", []given{kept(), deleted(0), denied}, said{}},
		// Failures are kept in memory until the next success. What they were about may be over before.
		{"goes when nobody asks for the replacement any more", []given{kept(), denied}, said{}},
		{"goes when the labels are as they should be", []given{kept(), syncRejected}, said{}},
	})
}

func TestReconciling(t *testing.T) {
	checkCondition(t, v1alpha1.ReconcilingCondition, []conditionCase{
		{"is not there while things go well", []given{kept()}, said{}},
		{"is there from the first look", nil, yes(v1alpha1.ReasonIssuing, "A credential is being asked for.")},
		{"is there while an attempt is under way", []given{kept(), attempt(numbered(2), unanswered)}, yes(v1alpha1.ReasonReplacing, "A new credential is being asked for.")},
		{"says why no credential can be had", []given{issueFails}, yes(v1alpha1.ReasonBackendUnavailable, notAnswering)},
		{"says why a replacement fails", []given{kept(), rotate, issueFails}, yes(v1alpha1.ReasonReplacing, "A new credential is due. "+notAnswering)},
		{"says why a renewal fails", []given{kept(), after(renewDue), tries(func(t *Tries) { t.Renew = failed(time.Hour) })},
			yes(v1alpha1.ReasonRenewing, "The lease is due for renewal. "+notAnswering)},
		{"says why an extension fails", []given{kept(token(30*time.Minute, true)), after(25 * time.Minute), tries(func(t *Tries) { t.ExtendToken = failed(time.Hour) })},
			yes(v1alpha1.ReasonRenewing, "The issuing token is due for extension. "+notAnswering)},
		{"is there while the Secret is written", []given{recorded(), mine}, yes(v1alpha1.ReasonPublishing, beingWritten)},
		{"is there while it is going", []given{kept(), deleted(0)}, yes(v1alpha1.ReasonDeleting, owedOne)},
		{"is there while it is being revoked", []given{kept(), spec(revoking)}, yes(v1alpha1.ReasonRevoking, owedOne)},
		{"is not there when stalled", []given{kept(), rotate, denied}, said{}},
		{"is not there while suspended: nothing is worked on", []given{kept(), spec(suspended), rotate}, said{}},
		{"is not there while suspended before the first credential", []given{spec(suspended)}, said{}},
		{"is not there for a renewal that is not due", []given{kept(), after(time.Minute)}, said{}},
		// A write whose answer was lost failed, for all that memory knows; the next look found the Secret written.
		{"goes when the Secret that could not be written is there", []given{kept(), publishFails}, said{}},
		{"goes when nobody asks for the replacement any more", []given{kept(), issueFails}, said{}},
	})
}

func TestLeased(t *testing.T) {
	before := func(s metav1.ConditionStatus) given {
		return status(func(st *v1alpha1.DynamicSecretStatus) {
			st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.LeasedCondition, Status: s, Reason: "Before", Message: "before"})
		})
	}
	wasLeased, wasNot := before(metav1.ConditionTrue), before(metav1.ConditionFalse)
	last := func(reason string) given { return retiring(record(retired(0, reason))) }
	revoking2 := "The lease is being revoked."
	checkCondition(t, v1alpha1.LeasedCondition, []conditionCase{
		{"is not there before anything was issued", nil, said{}},
		{"is True while there is a lease", []given{kept()}, yes(v1alpha1.ReasonLeased, "The credential has a live lease.")},
		{"is True before the Secret is written", []given{recorded(), mine}, yes(v1alpha1.ReasonLeased, "The credential has a live lease.")},
		{"is False for an answer without a lease", []given{kept(unleased)}, no(v1alpha1.ReasonNotLeased,
			"database/creds/orders is answered without a lease: nothing can be renewed or revoked. It is read again every spec.refreshInterval (1h0m0s).")},
		{"says that the lease came to its end", []given{wasLeased, last(v1alpha1.ReasonExpired)}, no(v1alpha1.ReasonExpired, "The lease came to its end.")},
		{"says that the lease was lost", []given{wasLeased, last(v1alpha1.ReasonLeaseLost)}, no(v1alpha1.ReasonLeaseLost,
			"The backend no longer knows the lease: somebody revoked it, or the token that it came from.")},
		{"says that the grant is over", []given{wasLeased, last(v1alpha1.ReasonGrantEnded)}, no(v1alpha1.ReasonGrantEnded, "The grant is over.")},
		{"says that the lease is revoked", []given{wasLeased, last(v1alpha1.ReasonRevoked), spec(revoking)}, no(v1alpha1.ReasonRevoked, revoking2)},
		{"says that the object is going", []given{wasLeased, last(v1alpha1.ReasonDeleting), deleted(0)}, no(v1alpha1.ReasonDeleting, revoking2)},
		{"says that the lease came to its end when nothing tells why", []given{wasLeased}, no(v1alpha1.ReasonExpired, "The lease came to its end.")},
		{"says that it is over for a reason that needs no words", []given{wasLeased, last("Other")}, no("Other", "The lease is over.")},
		{"speaks of the lease that went last", []given{wasLeased, last("Other"), last(v1alpha1.ReasonLeaseLost)}, no(v1alpha1.ReasonLeaseLost,
			"The backend no longer knows the lease: somebody revoked it, or the token that it came from.")},
		{"keeps what it said last", []given{wasNot, last(v1alpha1.ReasonExpired)}, no("Before", "before")},
	})
}

func TestNextAction(t *testing.T) {
	for _, c := range []struct {
		it    string
		given []given
		what  string
		at    *metav1.Time
	}{
		{"a wait tells what for, and when", []given{kept()}, v1alpha1.NextRenew, stampPtr(renewDue)},
		{"a fraction of a second is left out: the API keeps none", []given{kept(), tries(func(t *Tries) { t.Renew = failed(renewDue + half) })}, v1alpha1.NextRenew, stampPtr(renewDue)},
		{"a wait for nothing tells nothing", []given{spec(revoking)}, "", nil},
		{"an issue is next", nil, v1alpha1.NextIssue, nil},
		{"an issue is next while an attempt is under way", []given{attempt()}, v1alpha1.NextIssue, nil},
		{"the Secret is next", []given{recorded(), mine}, v1alpha1.NextPublish, nil},
		{"an end is next", []given{kept(), deleted(0)}, v1alpha1.NextEnd, nil},
		{"a renewal is next", []given{kept(), after(renewDue)}, v1alpha1.NextRenew, nil},
	} {
		st := summarized(input(c.given...))
		if st.NextAction != c.what || !st.NextActionAt.Equal(c.at) {
			t.Errorf("%s: %q at %s, want %q at %s", c.it, st.NextAction, st.NextActionAt, c.what, c.at)
		}
	}
}

// A condition that says the same keeps the time of its change, and one that is over goes.
func TestConditionsChangeOnlyWithWhatTheySay(t *testing.T) {
	in := input(issueFails)
	Summarize(in, Plan(in))
	first := in.Object.Status.DeepCopy()
	in.Now = t0.Add(time.Minute)
	in.Tries.Issue.Count = 7
	Summarize(in, Plan(in))
	same(t, "conditions a minute and six failures later", in.Object.Status.Conditions, first.Conditions)

	in.Tries.Issue = Failure{}
	kept()(&in)
	in.Object.Generation = 8
	Summarize(in, Plan(in))
	st := in.Object.Status
	if meta.FindStatusCondition(st.Conditions, v1alpha1.ReconcilingCondition) != nil {
		t.Error("Reconciling is still there")
	}
	ready := meta.FindStatusCondition(st.Conditions, v1alpha1.ReadyCondition)
	if !ready.LastTransitionTime.Equal(stampPtr(time.Minute)) || ready.ObservedGeneration != 8 || st.ObservedGeneration != 8 {
		t.Errorf("Ready is %+v, observed %d", ready, st.ObservedGeneration)
	}
}
