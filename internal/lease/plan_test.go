package lease

import (
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	testLimit = 150 * time.Second
	// unjittered and mostJittered are UIDs whose hash subtracts nothing, and as much as there is.
	unjittered   = "uid-422"
	mostJittered = "uid-1341"
)

// start is when every lease of these tests was issued, and now unless a modifier says otherwise.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func since(d time.Duration) time.Time { return start.Add(d) }

func stamp(d time.Duration) *metav1.Time {
	t := metav1.NewTime(since(d))
	return &t
}

type modifier func(*Input)

// given is an object with its finalizer for which nothing was issued.
func given(modifiers ...modifier) Input {
	in := Input{
		Now: start, RequestDigest: "digest", Target: TargetAbsent, RequestLimit: testLimit,
		Object: &v1alpha1.DynamicSecret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: unjittered, Generation: 3,
				Finalizers: []string{v1alpha1.Finalizer}, Annotations: map[string]string{}},
			Spec: v1alpha1.DynamicSecretSpec{
				RefreshInterval: metav1.Duration{Duration: time.Hour},
				Lease: v1alpha1.LeaseSpec{RenewAtPercent: 50, OnExpiry: v1alpha1.OnExpiryDelete, Reissue: v1alpha1.ReissueAlways,
					OnDelete: v1alpha1.OnDeleteRevoke, RevocationDeadline: metav1.Duration{Duration: 10 * time.Minute}},
			},
		},
	}
	for _, m := range modifiers {
		m(&in)
	}
	return in
}

// leased is one whose Secret holds the credential of a lease of an hour, by a token that does not expire.
func leased(modifiers ...modifier) Input {
	rec := record("now")
	return given(append([]modifier{lease(rec), published, target(TargetCurrent)}, modifiers...)...)
}

func record(accessor string, changes ...func(*v1alpha1.LeaseRecord)) v1alpha1.LeaseRecord {
	rec := v1alpha1.LeaseRecord{Path: "database/creds/orders", RequestDigest: "digest", ID: "lease-" + accessor, TokenAccessor: accessor,
		StartedAt: *stamp(0), IssuedAt: stamp(0), ExpiresAt: stamp(time.Hour), DurationSeconds: 3600, Renewable: true}
	for _, change := range changes {
		change(&rec)
	}
	return rec
}

func lease(rec v1alpha1.LeaseRecord) modifier {
	return func(in *Input) { in.Object.Status.Lease = &rec }
}

func withRecord(change func(*v1alpha1.LeaseRecord)) modifier {
	return func(in *Input) { change(in.Object.Status.Lease) }
}

func published(in *Input) {
	in.Object.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "7", Digest: "data"}
}

// unpublished: a successor is recorded, the Secret still holds what was before.
func unpublished(in *Input) { in.Object.Status.Secret.ResourceVersion = "" }

// neverPublished: the first one is recorded, and there is no Secret.
func neverPublished(in *Input) {
	in.Object.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "data"}
	in.Target = TargetAbsent
}

func target(state TargetState) modifier { return func(in *Input) { in.Target = state } }

func at(d time.Duration) modifier { return func(in *Input) { in.Now = since(d) } }

func attempt(accessor string) modifier {
	return func(in *Input) {
		in.Object.Status.Attempt = &v1alpha1.LeaseRecord{Path: "database/creds/orders", RequestDigest: "digest", TokenAccessor: accessor, StartedAt: *stamp(0)}
	}
}

func holding(accessor string, outcome Outcome) modifier {
	return func(in *Input) { in.Held = Held{Accessor: accessor, Outcome: outcome} }
}

func retiringRecord(reason string, endAfter *metav1.Time, rec v1alpha1.LeaseRecord) modifier {
	return func(in *Input) {
		rec.Reason, rec.EndAfter = reason, endAfter
		in.Object.Status.Retiring = append(in.Object.Status.Retiring, rec)
	}
}

func annotated(name, value string) modifier {
	return func(in *Input) { in.Object.Annotations[name] = value }
}

func deletedAt(d time.Duration) modifier {
	return func(in *Input) { in.Object.DeletionTimestamp = stamp(d) }
}

func without(finalizer bool) modifier {
	return func(in *Input) {
		if finalizer {
			in.Object.Finalizers = []string{"somebody.example/else"}
		}
	}
}

func asked(change func(*v1alpha1.LeaseSpec)) modifier {
	return func(in *Input) { change(&in.Object.Spec.Lease) }
}

func never(s *v1alpha1.LeaseSpec)  { s.Reissue = v1alpha1.ReissueNever }
func retain(s *v1alpha1.LeaseSpec) { s.OnExpiry = v1alpha1.OnExpiryRetain }

func suspended(in *Input)     { in.Object.Spec.Suspend = true }
func revokedBySpec(in *Input) { in.Object.Spec.Revoked = true }
func grantEnded(in *Input)    { in.Object.Status.GrantEndedAt = stamp(0) }

func blockedBy(reason string) modifier {
	return func(in *Input) { in.Block = &Block{Reason: reason, Message: "because"} }
}

func failing(change func(*Tries)) modifier { return func(in *Input) { change(&in.Tries) } }

// failed is a failure that is tried again after d.
func failed(d time.Duration) Failure {
	return Failure{Count: 1, NotBefore: since(d), Reason: v1alpha1.ReasonBackendError, Message: "the database is down"}
}

func failedEnd(accessor string, f Failure) modifier {
	return func(in *Input) {
		rec := record(accessor)
		in.Tries.End = map[string]Failure{TryKey(&rec): f}
	}
}

func manyRetiring(n int) modifier {
	return func(in *Input) {
		for range n {
			retiringRecord(v1alpha1.ReasonReplacing, stamp(24*time.Hour), record("old"))(in)
		}
	}
}

func tokenEnds(d time.Duration, renewable bool) modifier {
	return withRecord(func(rec *v1alpha1.LeaseRecord) {
		rec.TokenExpiresAt, rec.TokenDurationSeconds, rec.TokenRenewable = stamp(d), int64(d/time.Second), renewable
	})
}

func maxTTLReached(rec *v1alpha1.LeaseRecord) { rec.MaxTTLReached = true }

func nonRenewable(rec *v1alpha1.LeaseRecord) { rec.Renewable = false }

func unleased(rec *v1alpha1.LeaseRecord) {
	rec.ID, rec.ExpiresAt, rec.DurationSeconds, rec.Renewable = "", nil, 0, false
}

func do(action Action, reason string) Step { return Step{Action: action, Reason: reason} }

// waiting until d, when next is due.
func waiting(d time.Duration, next string) Step {
	return Step{Action: Wait, At: since(d), Next: next, NextAt: since(d)}
}

// looking again at what blocks, until d.
func looking(d time.Duration, next string, nextAt time.Duration) Step {
	return Step{Action: Wait, At: since(d), Next: next, NextAt: since(nextAt)}
}

var nothing = Step{Action: Wait}

// planCase is a sentence and its reason.
type planCase struct {
	name, why string
	in        Input
	want      Step
	// blocked is the reason of the Step's Block.
	blocked string
}

func verifyPlans(t *testing.T, cases []planCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, blocked := Plan(c.in), ""
			if got.Blocked != nil {
				blocked = got.Blocked.Reason
			}
			got.Blocked = nil
			if got != c.want || blocked != c.blocked {
				t.Errorf("because %s:\n got %+v, blocked %q\nwant %+v, blocked %q", c.why, got, blocked, c.want, c.blocked)
			}
		})
	}
}

func TestTheFinalizerComesFirst(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "a new object gets its finalizer",
		why:  "without it the object could go before its leases",
		in:   given(without(true)), want: do(AddFinalizer, v1alpha1.ReasonIssuing),
	}, {
		name: "an object that lost its finalizer gets it back before its lease is renewed",
		why:  "what it has is at stake too",
		in:   leased(without(true), at(40*time.Minute)), want: do(AddFinalizer, v1alpha1.ReasonIssuing),
	}, {
		name: "an object that is going without the finalizer is let go",
		why:  "none can be added to an object that is being deleted",
		in:   leased(without(true), deletedAt(0)), want: nothing,
	}, {
		name: "an object with its finalizer is issued for",
		why:  "there is nothing else to do first",
		in:   given(), want: do(IssueCredential, CauseFirst),
	}})
}

func TestAnAttemptIsSettledBeforeTheNext(t *testing.T) {
	drop := func(reason string, d time.Duration) Step {
		return Step{Action: DropAttempt, Reason: reason, EndAfter: since(d)}
	}
	verifyPlans(t, []planCase{{
		name: "an attempt of another process waits the whole limit from now",
		why:  "its start was told by another clock, and the backend may have just begun",
		in:   given(attempt("a"), at(time.Hour)), want: drop(v1alpha1.ReasonIssuing, time.Hour+testLimit),
	}, {
		name: "an attempt of another process waits from now although this one holds an answer of its own",
		why:  "that answer says nothing of it",
		in:   leased(attempt("a"), holding("now", OutcomeIssued), at(time.Minute)), want: drop(v1alpha1.ReasonIssuing, time.Minute+testLimit),
	}, {
		name: "an attempt of this process without an answer waits the limit from its start, and a second",
		why:  "the journal keeps whole seconds, rounded down",
		in:   given(attempt("a"), holding("a", OutcomeUnanswered), at(time.Minute)), want: drop(v1alpha1.ReasonIssuing, testLimit+time.Second),
	}, {
		name: "a refused attempt is ended at once",
		why:  "the backend has answered, so it mints no more",
		in:   given(attempt("a"), holding("a", OutcomeRefused), at(time.Minute)), want: drop(v1alpha1.ReasonIssuing, time.Minute),
	}, {
		name: "an answered attempt becomes the lease",
		why:  "it is durable before it is published",
		in:   given(attempt("a"), holding("a", OutcomeIssued)), want: do(RecordLease, v1alpha1.ReasonPublishing),
	}, {
		name: "an answered attempt becomes the lease while the object is suspended",
		why:  "the credential exists already",
		in:   given(attempt("a"), holding("a", OutcomeIssued), suspended), want: do(RecordLease, v1alpha1.ReasonPublishing),
	}, {
		name: "an answered attempt of a revoked object is ended at once",
		why:  "nobody wants it any more",
		in:   given(attempt("a"), holding("a", OutcomeIssued), revokedBySpec, at(time.Minute)), want: drop(v1alpha1.ReasonIssuing, time.Minute),
	}, {
		name: "an attempt is settled before the living lease beside it is renewed",
		why:  "the settling writes only the status",
		in:   leased(attempt("a"), at(40*time.Minute)), want: drop(v1alpha1.ReasonIssuing, 40*time.Minute+testLimit),
	}})
}

func TestALateAnswerIsSettledThoughItsAttemptIsGone(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "an answer whose attempt another replica dropped is settled",
		why:  "it proves that the credential exists",
		in:   given(holding("a", OutcomeIssued)), want: do(ResolveHeld, v1alpha1.ReasonReplacing),
	}, {
		name: "a refusal whose attempt another replica dropped is settled",
		why:  "the token need not wait any more",
		in:   leased(holding("a", OutcomeRefused)), want: do(ResolveHeld, v1alpha1.ReasonReplacing),
	}, {
		name: "it is settled before the deletion goes on",
		why:  "after the finalizer nobody would",
		in:   given(holding("a", OutcomeIssued), deletedAt(0)), want: do(ResolveHeld, v1alpha1.ReasonReplacing),
	}, {
		name: "after a failure the settling pauses, and the rest goes on",
		why:  "a backend that is down is not hammered",
		in:   leased(holding("a", OutcomeIssued), failing(func(f *Tries) { f.Settle = failed(time.Minute) })),
		want: waiting(time.Minute, v1alpha1.NextEnd),
	}, {
		name: "an issue without an answer leaves nothing to settle",
		why:  "whoever dropped its attempt has seen to its end",
		in:   leased(holding("a", OutcomeUnanswered)), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "an answer that is the lease needs no settling",
		why:  "it is on record",
		in:   leased(holding("now", OutcomeIssued)), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}})
}

func TestTheSecretIsPublished(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "a recorded credential is published",
		why:  "that is what it was leased for",
		in:   leased(neverPublished, holding("now", OutcomeIssued)), want: do(PublishSecret, v1alpha1.ReasonPublishing),
	}, {
		name: "a successor is published over its predecessor's data",
		why:  "the Secret still has the old data",
		in:   leased(unpublished, target(TargetChanged), holding("now", OutcomeIssued)), want: do(PublishSecret, v1alpha1.ReasonPublishing),
	}, {
		name: "a failed publication is tried again with the same credential",
		why:  "another one would have to be minted",
		in:   leased(neverPublished, holding("now", OutcomeIssued), failing(func(f *Tries) { f.Publish = failed(time.Second) })),
		want: waiting(time.Second, v1alpha1.NextPublish),
	}, {
		name: "a credential that died with its process is issued anew",
		why:  "the data are nowhere",
		in:   leased(neverPublished), want: do(IssueCredential, CauseUnpublished),
	}, {
		name: "a grant whose credential died with its process is issued anew",
		why:  "nobody ever had the one that it is owed",
		in:   leased(neverPublished, asked(never)), want: do(IssueCredential, CauseUnpublished),
	}, {
		name: "a successor that was written, but not noted, is noted",
		why:  "the digest vouches for the data",
		in: func() Input {
			in := leased(unpublished)
			in.OutOfSync = true
			return in
		}(), want: do(SyncSecret, v1alpha1.ReasonPublishing),
	}, {
		name: "a Secret that lost its labels gets them back with the same data",
		why:  "no new credential is needed for it",
		in: func() Input {
			in := leased()
			in.OutOfSync = true
			return in
		}(), want: do(SyncSecret, v1alpha1.ReasonPublishing),
	}, {
		name: "a failed sync pauses",
		why:  "the API server has said no",
		in: func() Input {
			in := leased(failing(func(f *Tries) { f.Sync = failed(time.Minute) }))
			in.OutOfSync = true
			return in
		}(), want: waiting(time.Minute, v1alpha1.NextPublish),
	}})
}

func TestALeaseIsRenewedInTime(t *testing.T) {
	const half = 30 * time.Minute
	verifyPlans(t, []planCase{{
		name: "a lease is not renewed before its share has passed",
		why:  "each renewal costs the backend a write",
		in:   leased(at(half - time.Second)), want: waiting(half, v1alpha1.NextRenew),
	}, {
		name: "a lease is renewed when its share has passed",
		why:  "that leaves time for failures",
		in:   leased(at(half)), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "the share counts from the last renewal",
		why:  "that is when the present term began",
		in: leased(at(half), withRecord(func(rec *v1alpha1.LeaseRecord) {
			rec.RenewedAt, rec.ExpiresAt = stamp(20*time.Minute), stamp(80*time.Minute)
		})), want: waiting(50*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "a share that is not set is two thirds",
		why:  "that is the default of the API",
		in:   leased(asked(func(s *v1alpha1.LeaseSpec) { s.RenewAtPercent = 0 })), want: waiting(40*time.Minute+12*time.Second, v1alpha1.NextRenew),
	}, {
		name: "a failed renewal pauses",
		why:  "a backend that is down is not hammered",
		in:   leased(at(half), failing(func(f *Tries) { f.Renew = failed(half + time.Minute) })), want: waiting(half+time.Minute, v1alpha1.NextRenew),
	}, {
		name: "a failed renewal is tried again after its pause",
		why:  "the lease lives as long as it lives",
		in:   leased(at(59*time.Minute), failing(func(f *Tries) { f.Renew = failed(59 * time.Minute) })), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a pause that would outlive the lease ends with it",
		why:  "then the Secret must go",
		in:   leased(at(half), failing(func(f *Tries) { f.Renew = failed(2 * time.Hour) })), want: waiting(time.Hour, v1alpha1.NextExpire),
	}, {
		name: "an old failure does not make a renewal early",
		why:  "a pause only ever defers",
		in:   leased(at(time.Minute), failing(func(f *Tries) { f.Renew = failed(2 * time.Minute) })), want: waiting(half, v1alpha1.NextRenew),
	}, {
		name: "a suspended object's lease is renewed",
		why:  "suspending keeps what there is",
		in:   leased(at(half), suspended), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a lease is renewed although something speaks against issuing",
		why:  "renewing asks nobody who issues",
		in:   leased(at(half), blockedBy(v1alpha1.ReasonProviderNotReady)), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a lease is renewed before its request's change replaces it",
		why:  "what saves a lease stands before what replaces it: the issue may fail",
		in:   leased(at(half), func(in *Input) { in.RequestDigest = "other" }), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a lease is renewed before records are ended",
		why:  "ending may take long",
		in:   leased(at(half), retiringRecord(v1alpha1.ReasonReplacing, stamp(0), record("old"))), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}})
}

func TestAnOrderToRenewIsHandled(t *testing.T) {
	order := annotated(v1alpha1.RenewRequestedAtAnnotation, "today")
	verifyPlans(t, []planCase{{
		name: "an order renews at once",
		why:  "any value that was not handled counts",
		in:   leased(order), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "an order that was handled renews no more",
		why:  "it is one order",
		in:   leased(order, func(in *Input) { in.Object.Status.LastHandledRenewAt = "today" }), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "an order that fails is paused like any renewal",
		why:  "people order what does not work",
		in:   leased(order, failing(func(f *Tries) { f.Renew = failed(time.Second) })), want: waiting(time.Second, v1alpha1.NextRenew),
	}, {
		name: "an order for a lease at its max TTL is only noted",
		why:  "nothing can extend it",
		in:   leased(order, withRecord(maxTTLReached)), want: do(AcknowledgeRenew, v1alpha1.ReasonRenewing),
	}, {
		name: "an order for an answer without a lease reads it again",
		why:  "that is its renewal",
		in:   leased(order, withRecord(unleased)), want: do(IssueCredential, CauseRefresh),
	}})
}

func TestALeaseThatNothingExtendsIsReplacedInTime(t *testing.T) {
	const half = 30 * time.Minute
	verifyPlans(t, []planCase{{
		name: "a lease at its max TTL waits for its share",
		why:  "what is left is used",
		in:   leased(withRecord(maxTTLReached)), want: waiting(half, v1alpha1.NextReplace),
	}, {
		name: "a lease at its max TTL is replaced when its share has passed",
		why:  "its successor must fit before its end",
		in:   leased(withRecord(maxTTLReached), at(half)), want: do(IssueCredential, CauseMaxTTL),
	}, {
		name: "a lease that is not renewable is replaced",
		why:  "it ends as if at its max TTL",
		in:   leased(withRecord(nonRenewable), at(half)), want: do(IssueCredential, CauseMaxTTL),
	}, {
		name: "a lease whose token dies before it, for good, is replaced in the token's time",
		why:  "a lease dies with its token",
		in:   leased(tokenEnds(20*time.Minute, false), at(10*time.Minute)), want: do(IssueCredential, CauseMaxTTL),
	}, {
		name: "a token that dies after the lease for good is no hindrance yet",
		why:  "the lease is what ends first",
		in:   leased(tokenEnds(61*time.Minute, false), at(half)), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a successor that cannot be had leaves the lease in use",
		why:  "the old one lives on to its end",
		in:   leased(withRecord(maxTTLReached), at(half), failing(func(f *Tries) { f.Issue = failed(half + time.Minute) })),
		want: waiting(half+time.Minute, v1alpha1.NextReplace), blocked: v1alpha1.ReasonBackendError,
	}, {
		name: "a suspended object's lease is not replaced, and its end is awaited",
		why:  "suspended means that nothing is issued",
		in:   leased(withRecord(maxTTLReached), at(half), suspended),
		want: looking(half+lookAgain, v1alpha1.NextExpire, time.Hour), blocked: v1alpha1.ReasonSuspended,
	}})
}

func TestTheIssuingTokenIsExtended(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "a token that dies before its lease is extended in its own time",
		why:  "the lease would die with it",
		in:   leased(tokenEnds(20*time.Minute, true), at(10*time.Minute)), want: do(ExtendToken, v1alpha1.ReasonRenewing),
	}, {
		name: "it is not extended before",
		why:  "half of its time has not passed",
		in:   leased(tokenEnds(20*time.Minute, true), at(10*time.Minute-time.Second)), want: waiting(10*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "a token that dies with its lease is extended",
		why:  "at the same instant the lease dies too",
		in:   leased(tokenEnds(time.Hour, true), at(30*time.Minute), withRecord(func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt = stamp(time.Minute) })),
		want: do(ExtendToken, v1alpha1.ReasonRenewing),
	}, {
		name: "a token that dies after its lease is left alone",
		why:  "extending it gains nothing yet",
		in:   leased(tokenEnds(2*time.Hour, true), withRecord(maxTTLReached), at(20*time.Minute)), want: waiting(30*time.Minute, v1alpha1.NextReplace),
	}, {
		name: "a periodic token is extended again",
		why:  "it stays renewable after an extension",
		in:   leased(tokenEnds(20*time.Minute, true), at(25*time.Minute), withRecord(func(rec *v1alpha1.LeaseRecord) { rec.TokenExpiresAt = stamp(35 * time.Minute) })),
		want: do(ExtendToken, v1alpha1.ReasonRenewing),
	}, {
		name: "a token that was extended as far as it goes is not extended again",
		why:  "it ends when it ends; a successor is due instead",
		in:   leased(tokenEnds(20*time.Minute, false), at(5*time.Minute)), want: waiting(10*time.Minute, v1alpha1.NextReplace),
	}, {
		name: "a failed extension pauses",
		why:  "a backend that is down is not hammered",
		in:   leased(tokenEnds(20*time.Minute, true), at(10*time.Minute), failing(func(f *Tries) { f.ExtendToken = failed(11 * time.Minute) })),
		want: waiting(11*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "the token of an answer without a lease is not extended",
		why:  "nothing depends on it",
		in:   leased(tokenEnds(20*time.Minute, true), withRecord(unleased), at(19*time.Minute)), want: waiting(time.Hour, v1alpha1.NextRefresh),
	}})
}

func TestALeaseThatIsOverIsDropped(t *testing.T) {
	lost := func(in *Input) { in.LostID = "lease-now" }
	verifyPlans(t, []planCase{{
		name: "a lease is dropped at its end",
		why:  "its Secret must not be trusted a second longer",
		in:   leased(at(time.Hour)), want: do(DropLease, v1alpha1.ReasonExpired),
	}, {
		name: "a lease is not dropped before its end",
		why:  "a renewal may still save it",
		in:   leased(at(time.Hour - time.Second)), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a lease is dropped at the end of its token",
		why:  "it dies with it",
		in:   leased(tokenEnds(20*time.Minute, true), at(20*time.Minute)), want: do(DropLease, v1alpha1.ReasonExpired),
	}, {
		name: "a lease that the backend does not know is dropped",
		why:  "somebody revoked it",
		in:   leased(lost), want: do(DropLease, v1alpha1.ReasonLeaseLost),
	}, {
		name: "the loss of an earlier lease does not touch this one",
		why:  "the id is another",
		in:   leased(func(in *Input) { in.LostID = "lease-before" }), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "the loss of a lease without an id is not an unleased answer's",
		why:  "an empty id names nothing",
		in:   leased(withRecord(unleased), func(in *Input) { in.LostID = "" }), want: waiting(time.Hour, v1alpha1.NextRefresh),
	}, {
		name: "a suspended object's lease is dropped at its end",
		why:  "suspending does not make a dead credential good",
		in:   leased(suspended, at(time.Hour)), want: do(DropLease, v1alpha1.ReasonExpired),
	}, {
		name: "a grant whose Secret was deleted is over",
		why:  "there is no second credential to put there",
		in:   leased(asked(never), target(TargetAbsent)), want: do(DropLease, v1alpha1.ReasonGrantEnded),
	}, {
		name: "a grant whose Secret was changed is over",
		why:  "nobody has its credential any more",
		in:   leased(asked(never), target(TargetChanged)), want: do(DropLease, v1alpha1.ReasonGrantEnded),
	}, {
		name: "a grant whose Secret is being moved is not over",
		why:  "this process holds its data and publishes them again",
		in:   leased(asked(never), target(TargetAbsent), holding("now", OutcomeIssued)), want: do(PublishSecret, v1alpha1.ReasonPublishing),
	}})
}

func TestASuspectLeaseIsAskedAbout(t *testing.T) {
	suspect := func(id string) modifier { return func(in *Input) { in.SuspectID = id } }
	verifyPlans(t, []planCase{{
		name: "a lease that a list lacks is looked up",
		why:  "a list is a hint and proves nothing",
		in:   leased(suspect("lease-now")), want: do(VerifyLease, v1alpha1.ReasonLeaseLost),
	}, {
		name: "it is looked up before it is renewed",
		why:  "the answer decides whether there is anything to renew",
		in:   leased(suspect("lease-now"), at(30*time.Minute)), want: do(VerifyLease, v1alpha1.ReasonLeaseLost),
	}, {
		name: "a suspicion of an earlier lease is none of this one",
		why:  "the id is another",
		in:   leased(suspect("lease-before")), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "a suspect lease at its end is dropped without a question",
		why:  "it is over either way",
		in:   leased(suspect("lease-now"), at(time.Hour)), want: do(DropLease, v1alpha1.ReasonExpired),
	}})
}

func TestADeadCredentialDoesNotStay(t *testing.T) {
	over := func(modifiers ...modifier) Input {
		return given(append([]modifier{published, target(TargetCurrent), at(time.Hour)}, modifiers...)...)
	}
	verifyPlans(t, []planCase{{
		name: "a dead credential is replaced where it can be tried at once",
		why:  "the Secret need not go in between",
		in:   over(), want: do(IssueCredential, CauseFirst),
	}, {
		name: "a dead credential is deleted when the backend does not give another",
		why:  "onExpiry is Delete",
		in:   over(failing(func(f *Tries) { f.Issue = failed(2 * time.Hour) })), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "a dead credential is deleted when its renewal was failing",
		why:  "a backend that did not renew will hardly issue",
		in:   over(failing(func(f *Tries) { f.Renew = failed(2 * time.Hour) })), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "a dead credential is deleted when something speaks against issuing",
		why:  "nothing will come in its place",
		in:   over(blockedBy(v1alpha1.ReasonProviderNotReady)), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "a suspended object's dead credential is deleted",
		why:  "expiring goes on",
		in:   over(suspended), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "a dead credential stays where onExpiry is Retain",
		why:  "that is what it says",
		in:   over(asked(retain), suspended), want: Step{Action: Wait, At: since(time.Hour + lookAgain)}, blocked: v1alpha1.ReasonSuspended,
	}, {
		name: "a grant's Secret is deleted although onExpiry is Retain",
		why:  "when the life of a grant is over its Secret stays away",
		in:   over(asked(retain), asked(never), grantEnded), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "a Secret that is still to be written for the first time is not deleted",
		why:  "there is none",
		in:   given(neverPublished, blockedBy(v1alpha1.ReasonProviderNotReady)),
		want: Step{Action: Wait, At: since(lookAgain)}, blocked: v1alpha1.ReasonProviderNotReady,
	}, {
		name: "the predecessor's credential goes with it when its successor died with its process and none can be had",
		why:  "the Secret holds a dead credential",
		in:   leased(unpublished, target(TargetChanged), at(30*time.Minute), suspended), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "the predecessor's credential goes when its successor is not there to be written",
		why:  "the Secret holds a dead credential",
		in:   leased(unpublished, target(TargetChanged), suspended), want: do(DeleteSecret, v1alpha1.ReasonExpired),
	}, {
		name: "the predecessor's credential stays while it lives",
		why:  "it still serves",
		in:   leased(unpublished, target(TargetChanged), suspended, retiringRecord(v1alpha1.ReasonReplacing, stamp(0), record("old", expiring(10*time.Minute)))),
		want: looking(lookAgain, v1alpha1.NextExpire, 10*time.Minute), blocked: v1alpha1.ReasonSuspended,
	}})
}

func expiring(d time.Duration) func(*v1alpha1.LeaseRecord) {
	return func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = stamp(d) }
}

func TestEveryCauseIsACause(t *testing.T) {
	rotate := annotated(v1alpha1.RotateRequestedAtAnnotation, "today")
	changed := func(in *Input) { in.RequestDigest = "other" }
	verifyPlans(t, []planCase{{
		name: "a changed request is asked",
		why:  "the Secret is to hold what the spec says",
		in:   leased(changed), want: do(IssueCredential, CauseRequestChanged),
	}, {
		name: "a request that is not known has not changed",
		why:  "a provider that is away must not rotate everything",
		in:   leased(func(in *Input) { in.RequestDigest = "" }), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "an order to rotate is followed",
		why:  "somebody asked",
		in:   leased(rotate), want: do(IssueCredential, CauseRequested),
	}, {
		name: "an order to rotate that was handled is not followed again",
		why:  "it is one order",
		in:   leased(rotate, func(in *Input) { in.Object.Status.LastHandledRotateAt = "today" }), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "an order that was taken back is none",
		why:  "an absent annotation asks for nothing",
		in:   leased(func(in *Input) { in.Object.Status.LastHandledRotateAt = "yesterday" }), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}, {
		name: "a Secret that was deleted is made anew",
		why:  "its data are nowhere else",
		in:   leased(target(TargetAbsent)), want: do(IssueCredential, CauseSecretLost),
	}, {
		name: "a Secret that was edited is made anew",
		why:  "the digest no longer vouches for it",
		in:   leased(target(TargetChanged)), want: do(IssueCredential, CauseSecretChanged),
	}, {
		name: "a lost lease is followed by another",
		why:  "after its record is dropped nothing is leased",
		in:   given(published, target(TargetCurrent)), want: do(IssueCredential, CauseFirst),
	}, {
		name: "an unleased answer is not read again before its interval",
		why:  "reading costs",
		in:   leased(withRecord(unleased), at(time.Hour-time.Second)), want: waiting(time.Hour, v1alpha1.NextRefresh),
	}, {
		name: "an unleased answer is read again after its interval",
		why:  "it may have changed",
		in:   leased(withRecord(unleased), at(time.Hour)), want: do(IssueCredential, CauseRefresh),
	}, {
		name: "an unleased answer of a grant is read again",
		why:  "a grant is of a lease, and this is none",
		in:   leased(withRecord(unleased), asked(never), at(time.Hour)), want: do(IssueCredential, CauseRefresh),
	}})
}

func TestAGrantIsIssuedOnce(t *testing.T) {
	grant := asked(never)
	rotate := annotated(v1alpha1.RotateRequestedAtAnnotation, "today")
	verifyPlans(t, []planCase{{
		name: "a grant is issued",
		why:  "the first is the one",
		in:   given(grant), want: do(IssueCredential, CauseFirst),
	}, {
		name: "a grant that ended is not issued again",
		why:  "reissue is Never",
		in:   given(grant, grantEnded), want: nothing,
	}, {
		name: "a grant that ended is issued again when somebody asks",
		why:  "the annotation asks for another credential",
		in:   given(grant, grantEnded, rotate), want: do(IssueCredential, CauseFirst),
	}, {
		name: "a grant that ended is issued again when reissue becomes Always",
		why:  "then it is no grant any more",
		in:   given(grantEnded), want: do(IssueCredential, CauseFirst),
	}, {
		name: "a living grant is renewed",
		why:  "its life is the lease's",
		in:   leased(grant, at(30*time.Minute)), want: do(RenewLease, v1alpha1.ReasonRenewing),
	}, {
		name: "a grant at its max TTL is not replaced",
		why:  "reissue is Never",
		in:   leased(grant, withRecord(maxTTLReached), at(30*time.Minute)), want: waiting(time.Hour, v1alpha1.NextExpire),
	}, {
		name: "a living grant whose request changed is issued anew",
		why:  "the spec asks for another credential",
		in:   leased(grant, func(in *Input) { in.RequestDigest = "other" }), want: do(IssueCredential, CauseRequestChanged),
	}, {
		name: "a living grant is rotated when somebody asks",
		why:  "the annotation asks for another credential",
		in:   leased(grant, rotate), want: do(IssueCredential, CauseRequested),
	}, {
		name: "a grant at its end is dropped",
		why:  "then it is over",
		in:   leased(grant, at(time.Hour)), want: do(DropLease, v1alpha1.ReasonExpired),
	}})
}

func TestWhatSpeaksAgainstAnIssueIsLookedAtAgain(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "a suspended object is not issued for",
		why:  "nothing is issued until suspend is false",
		in:   given(suspended), want: Step{Action: Wait, At: since(lookAgain)}, blocked: v1alpha1.ReasonSuspended,
	}, {
		name: "what was observed to speak against it is said",
		why:  "the condition must tell",
		in:   given(blockedBy(v1alpha1.ReasonNamespaceNotAllowed)), want: Step{Action: Wait, At: since(lookAgain)}, blocked: v1alpha1.ReasonNamespaceNotAllowed,
	}, {
		name: "a Secret of somebody else's is not overwritten",
		why:  "it is theirs",
		in:   given(target(TargetForeign)), want: Step{Action: Wait, At: since(lookAgain)}, blocked: v1alpha1.ReasonTargetConflict,
	}, {
		name: "a leased credential is not written over somebody else's Secret",
		why:  "it is theirs",
		in:   leased(neverPublished, target(TargetForeign), holding("now", OutcomeIssued)),
		want: looking(lookAgain, v1alpha1.NextRenew, 30*time.Minute), blocked: v1alpha1.ReasonTargetConflict,
	}, {
		name: "a full ledger is not added to",
		why:  "what cannot be ended must not grow",
		in:   given(manyRetiring(v1alpha1.MaxRetiring)), want: looking(lookAgain, v1alpha1.NextEnd, 24*time.Hour), blocked: v1alpha1.ReasonRetiringFull,
	}, {
		name: "a ledger with one place is added to",
		why:  "the bound is not reached",
		in:   given(manyRetiring(v1alpha1.MaxRetiring - 1)), want: do(IssueCredential, CauseFirst),
	}, {
		name: "an issue that failed waits for its pause",
		why:  "a backend that is down is not hammered",
		in:   given(failing(func(f *Tries) { f.Issue = failed(time.Second) })), want: waiting(time.Second, v1alpha1.NextIssue), blocked: v1alpha1.ReasonBackendError,
	}, {
		name: "an issue that failed is tried again after its pause",
		why:  "there may be a credential by now",
		in:   given(at(time.Second), failing(func(f *Tries) { f.Issue = failed(time.Second) })), want: do(IssueCredential, CauseFirst),
	}, {
		name: "what speaks against an issue is not looked at where none is due",
		why:  "a provider that is away concerns a healthy lease only then",
		in:   leased(blockedBy(v1alpha1.ReasonProviderNotReady)), want: waiting(30*time.Minute, v1alpha1.NextRenew),
	}})
}

func TestABlockedIssueIsLookedAtAgainWithoutAWordInTheStatus(t *testing.T) {
	in := given(suspended)
	first := Plan(in)
	Summarize(in, first)
	before := in.Object.Status.DeepCopy()
	in.Now = first.At
	second := Plan(in)
	Summarize(in, second)
	if !reflect.DeepEqual(before, &in.Object.Status) {
		t.Errorf("a look changed the status, so each would be a write:\n%+v\n%+v", before, in.Object.Status)
	}
	if want := in.Now.Add(lookAgain); second.At != want {
		t.Errorf("the next look is at %s, not %s", second.At, want)
	}
}

func TestRecordsAreEndedWhenTheirTimeHasCome(t *testing.T) {
	end := func(i int, reason string) Step { return Step{Action: EndRecord, Reason: reason, Record: i} }
	replacing := v1alpha1.ReasonReplacing
	verifyPlans(t, []planCase{{
		name: "a record whose time has come is ended",
		why:  "it is owed an end",
		in:   leased(retiringRecord(replacing, stamp(0), record("old"))), want: end(0, replacing),
	}, {
		name: "a record without a time is ended at once",
		why:  "nothing speaks for waiting",
		in:   leased(retiringRecord(replacing, nil, record("old"))), want: end(0, replacing),
	}, {
		name: "a record is not ended before its time",
		why:  "the backend may still be minting",
		in:   leased(retiringRecord(replacing, stamp(time.Minute), record("old"))), want: waiting(time.Minute, v1alpha1.NextEnd),
	}, {
		name: "a record that must wait does not hold up the next",
		why:  "each has its own time",
		in:   leased(retiringRecord(replacing, stamp(time.Minute), record("old")), retiringRecord(v1alpha1.ReasonExpired, stamp(0), record("older"))),
		want: end(1, v1alpha1.ReasonExpired),
	}, {
		name: "a record that failed does not hold up the next",
		why:  "each is tried by itself",
		in:   leased(retiringRecord(replacing, stamp(0), record("old")), retiringRecord(replacing, stamp(0), record("older")), failedEnd("old", failed(time.Second))),
		want: end(1, replacing),
	}, {
		name: "records are ended before a new credential is asked for",
		why:  "what is owed to the backend stands before what is wanted from it",
		in:   given(retiringRecord(replacing, stamp(0), record("old"))), want: end(0, replacing),
	}, {
		name: "a replaced record is not ended before its successor is published",
		why:  "the Secret still holds it; its successor is published first",
		in: leased(unpublished, target(TargetChanged), holding("now", OutcomeIssued), failing(func(f *Tries) { f.Publish = failed(time.Second) }),
			retiringRecord(replacing, stamp(0), record("old"))),
		want: waiting(time.Second, v1alpha1.NextPublish),
	}, {
		name: "a replaced record is ended once its successor is published",
		why:  "nobody uses it any more",
		in:   leased(retiringRecord(replacing, stamp(0), record("old"))), want: end(0, replacing),
	}, {
		name: "a replaced record that is dead is ended although its successor is not published",
		why:  "it serves nobody",
		in: leased(unpublished, target(TargetChanged), holding("now", OutcomeIssued), failing(func(f *Tries) { f.Publish = failed(time.Hour) }), at(time.Minute),
			retiringRecord(replacing, stamp(0), record("old", expiring(time.Minute)))),
		want: end(0, replacing),
	}, {
		name: "a record that was never published is ended although its successor is not published either",
		why:  "the Secret does not hold it",
		in: leased(unpublished, target(TargetChanged), holding("now", OutcomeIssued), failing(func(f *Tries) { f.Publish = failed(time.Hour) }),
			retiringRecord(CauseUnpublished, stamp(0), record("lost"))),
		want: end(0, CauseUnpublished),
	}})
}

func TestADeletionGoesInOrder(t *testing.T) {
	going := func(modifiers ...modifier) Input {
		return given(append([]modifier{deletedAt(0)}, modifiers...)...)
	}
	deleting := v1alpha1.ReasonDeleting
	verifyPlans(t, []planCase{{
		name: "the attempt comes first",
		why:  "it must be owed an end before anything is forgotten",
		in:   going(attempt("a"), lease(record("now")), published, retiringRecord(deleting, stamp(0), record("old"))),
		want: Step{Action: DropAttempt, Reason: deleting, EndAfter: since(testLimit)},
	}, {
		name: "an attempt with an answer is not recorded any more",
		why:  "nobody will use it",
		in:   going(attempt("a"), holding("a", OutcomeIssued)), want: Step{Action: DropAttempt, Reason: deleting, EndAfter: since(0)},
	}, {
		name: "then the lease",
		why:  "the intent to end it is durable before the Secret goes",
		in:   going(lease(record("now")), published, retiringRecord(deleting, stamp(0), record("old"))), want: do(DropLease, deleting),
	}, {
		name: "a lease at its end is dropped for the deletion",
		why:  "a dead lease is no reason to issue",
		in:   going(lease(record("now")), published, at(2*time.Hour)), want: do(DropLease, deleting),
	}, {
		name: "then the Secret",
		why:  "its users stop before the credential does",
		in:   going(published, target(TargetCurrent), retiringRecord(deleting, stamp(0), record("old"))), want: do(DeleteSecret, deleting),
	}, {
		name: "then every record",
		why:  "they are owed an end",
		in:   going(retiringRecord(deleting, stamp(0), record("old"))), want: do(EndRecord, deleting),
	}, {
		name: "records that are not due are awaited",
		why:  "the finalizer holds until they are ended",
		in:   going(retiringRecord(deleting, stamp(time.Minute), record("old"))), want: waiting(time.Minute, v1alpha1.NextEnd),
	}, {
		name: "then the finalizer",
		why:  "nothing is left",
		in:   going(), want: do(RemoveFinalizer, deleting),
	}, {
		name: "a suspended object goes too",
		why:  "deleting goes on",
		in:   going(suspended, lease(record("now"))), want: do(DropLease, deleting),
	}})
}

func TestARevokedObjectStaysAsATombstone(t *testing.T) {
	verifyPlans(t, []planCase{{
		name: "the lease is dropped first",
		why:  "the intent is durable before the Secret goes",
		in:   leased(revokedBySpec), want: do(DropLease, v1alpha1.ReasonRevoked),
	}, {
		name: "then the Secret is deleted",
		why:  "its users stop before the credential does",
		in:   given(revokedBySpec, published, target(TargetCurrent)), want: do(DeleteSecret, v1alpha1.ReasonRevoked),
	}, {
		name: "then the records are ended",
		why:  "that is the revocation",
		in:   given(revokedBySpec, retiringRecord(v1alpha1.ReasonRevoked, stamp(0), record("old"))), want: do(EndRecord, v1alpha1.ReasonRevoked),
	}, {
		name: "an order to rotate does not wake it",
		why:  "only setting revoked to false issues anew",
		in:   given(revokedBySpec, annotated(v1alpha1.RotateRequestedAtAnnotation, "today")), want: nothing,
	}, {
		name: "a suspended one is revoked",
		why:  "revoking only takes away",
		in:   leased(revokedBySpec, suspended), want: do(DropLease, v1alpha1.ReasonRevoked),
	}, {
		name: "a record that fails is awaited",
		why:  "it is owed an end, and nothing else is due",
		in:   given(revokedBySpec, retiringRecord(v1alpha1.ReasonRevoked, stamp(0), record("old")), failedEnd("old", failed(time.Second))),
		want: waiting(time.Second, v1alpha1.NextEnd),
	}, {
		name: "set back to false, it is issued for",
		why:  "the object is whole again",
		in:   given(), want: do(IssueCredential, CauseFirst),
	}})
}

func TestARecordIsGivenUpAtItsBound(t *testing.T) {
	const replacing = v1alpha1.ReasonReplacing
	old := func(changes ...func(*v1alpha1.LeaseRecord)) modifier {
		return retiringRecord(replacing, stamp(0), record("old", changes...))
	}
	// Its own end, what an unrecorded renewal may have granted, and the grace.
	const bound = 2*time.Hour + abandonGrace
	abandon := Step{Action: AbandonRecord, Reason: v1alpha1.ReasonAbandoned}
	end := Step{Action: EndRecord, Reason: replacing}
	tried := func(now time.Duration) modifier {
		return func(in *Input) {
			failedEnd("old", failed(now+time.Second))(in)
			at(now)(in)
		}
	}
	verifyPlans(t, []planCase{{
		name: "a record past its bound that was never tried is tried",
		why:  "a backend that is up says itself that it is gone",
		in:   given(suspended, old(), at(9*time.Hour)), want: end,
	}, {
		name: "a record is not given up before its bound",
		why:  "an unrecorded renewal may keep it alive until then",
		in:   given(revokedBySpec, old(), tried(bound-time.Second)), want: waiting(bound, v1alpha1.NextEnd),
	}, {
		name: "a record is given up at its bound",
		why:  "by then it is dead whatever happened",
		in:   given(revokedBySpec, old(), tried(bound)), want: abandon,
	}, {
		name: "the increment that is asked for counts where it is more than what was granted",
		why:  "an unrecorded renewal may have been granted it",
		in:   given(revokedBySpec, old(), tried(bound), asked(func(s *v1alpha1.LeaseSpec) { s.Increment = &metav1.Duration{Duration: 3 * time.Hour} })),
		want: waiting(bound+time.Second, v1alpha1.NextEnd),
	}, {
		name: "a record that could not be renewed is given up after its own end and the grace",
		why:  "no renewal can have gone unrecorded",
		in:   given(revokedBySpec, old(nonRenewable), tried(time.Hour+abandonGrace)), want: abandon,
	}, {
		name: "a record at its max TTL is not given up within the grace",
		why:  "the backend's clock may be another",
		in:   given(revokedBySpec, old(maxTTLReached), tried(time.Hour+abandonGrace-2*time.Second)), want: waiting(time.Hour+abandonGrace-time.Second, v1alpha1.NextEnd),
	}, {
		name: "a token without a lease is given up after its own end",
		why:  "what it may have minted died with it",
		in: given(revokedBySpec, func(in *Input) {
			rec := record("old", unleased)
			rec.TokenExpiresAt = stamp(time.Hour)
			retiringRecord(replacing, stamp(0), rec)(in)
			in.Tries.End = map[string]Failure{TryKey(&rec): failed(9 * time.Hour)}
		}, at(time.Hour+abandonGrace)), want: abandon,
	}, {
		name: "a token without an end is never given up",
		why:  "it stays alive",
		in: given(revokedBySpec, func(in *Input) {
			rec := record("old", unleased)
			retiringRecord(replacing, stamp(0), rec)(in)
			in.Tries.End = map[string]Failure{TryKey(&rec): failed(1000 * time.Hour)}
		}, at(999*time.Hour)), want: waiting(1000*time.Hour, v1alpha1.NextEnd),
	}, {
		name: "a deletion does not wait beyond its deadline",
		why:  "a backend that is gone must not keep the object for ever",
		in:   given(deletedAt(0), old(), tried(10*time.Minute)), want: abandon,
	}, {
		name: "a deletion waits until its deadline",
		why:  "until then the backend may come back",
		in:   given(deletedAt(0), old(), tried(10*time.Minute-time.Second), failedEnd("old", failed(time.Hour))), want: waiting(10*time.Minute, v1alpha1.NextEnd),
	}, {
		name: "a deletion past its deadline asks the backend once",
		why:  "a restarted process has not tried",
		in:   given(deletedAt(0), old(), at(time.Hour)), want: end,
	}, {
		name: "a deletion does not wait for a lease that is dead before the deadline",
		why:  "the earlier bound counts",
		in:   given(deletedAt(0), old(nonRenewable, expiring(time.Minute)), tried(time.Minute+abandonGrace)), want: abandon,
	}, {
		name: "a deletion with onDelete Abandon gives up at once",
		why:  "that is what it says",
		in:   given(deletedAt(0), old(), asked(func(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon })), want: abandon,
	}, {
		name: "onDelete Abandon means nothing to a record of a living object",
		why:  "it speaks of the deletion",
		in:   given(old(), asked(func(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon })), want: end,
	}, {
		name: "a deletion with the annotation gives up at once",
		why:  "somebody said so",
		in:   given(deletedAt(0), old(), annotated(v1alpha1.AbandonLeaseAnnotation, "true")), want: abandon,
	}, {
		name: "an annotation that is not true says nothing",
		why:  "giving up must be meant",
		in:   given(deletedAt(0), old(), annotated(v1alpha1.AbandonLeaseAnnotation, "yes")), want: end,
	}, {
		name: "a record that is not ours is given up at once",
		why:  "trying again makes no sense, and must not act on it",
		in:   leased(old(), failedEnd("old", Failure{Count: 1, Final: true, NotBefore: since(time.Hour)})), want: abandon,
	}})
}
