package lease

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// The generators make whatever fits into the types, not only what leasekeeper itself would write: a status can be edited
// by who has the rights, and be older than the program. Values are few, so that they meet.

func oneOf[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

func drawTime(t *rapid.T, label string) metav1.Time {
	return stamp(time.Duration(oneOf(t, label, -7200, -150, -60, -1, 0, 1, 60, 150, 1206, 2412, 3600, 3661, 7200, 7260)) * time.Second)
}

func drawTimePtr(t *rapid.T, label string) *metav1.Time {
	if rapid.Bool().Draw(t, "no "+label) {
		return nil
	}
	at := drawTime(t, label)
	return &at
}

func drawRecord(t *rapid.T, label string) v1alpha1.LeaseRecord {
	n := rapid.IntRange(0, 3).Draw(t, label)
	rec := *record(numbered(n))
	if rapid.Bool().Draw(t, "unleased") {
		rec.ID = ""
	}
	if rapid.IntRange(0, 9).Draw(t, "without accessor if 0") == 0 {
		rec.TokenAccessor = ""
	}
	rec.RequestDigest = oneOf(t, "digest", "asked", "changed")
	rec.StartedAt = drawTime(t, "startedAt")
	rec.IssuedAt, rec.RenewedAt, rec.ExpiresAt = drawTimePtr(t, "issuedAt"), drawTimePtr(t, "renewedAt"), drawTimePtr(t, "expiresAt")
	rec.TokenExpiresAt = drawTimePtr(t, "tokenExpiresAt")
	rec.DurationSeconds = oneOf(t, "duration", int64(0), 60, 3600, 7200, -5)
	rec.TokenDurationSeconds = oneOf(t, "token duration", int64(0), 60, 3600)
	rec.Renewable, rec.TokenRenewable = rapid.Bool().Draw(t, "renewable"), rapid.Bool().Draw(t, "token renewable")
	rec.MaxTTLReached = rapid.Bool().Draw(t, "max TTL reached")
	rec.EndAfter = drawTimePtr(t, "endAfter")
	rec.MaxTTLSeconds = oneOf(t, "max TTL", int64(0), 0, 3600, 7200)
	rec.Reason = oneOf(t, "reason", "", reasonReplaced, reasonReplaced, v1alpha1.ReasonReplacing, v1alpha1.ReasonIssuing, v1alpha1.ReasonExpired, CauseUnpublished)
	return rec
}

func drawRecordPtr(t *rapid.T, label string) *v1alpha1.LeaseRecord {
	if !rapid.Bool().Draw(t, "has "+label) {
		return nil
	}
	rec := drawRecord(t, label)
	return &rec
}

func drawFailure(t *rapid.T, label string) Failure {
	count := oneOf(t, label+" failures", 0, 0, 1, 5)
	if count == 0 {
		return Failure{}
	}
	return Failure{Count: count, NotBefore: drawTime(t, label+" not before").Time, Reason: v1alpha1.ReasonBackendUnavailable,
		Message: label + " failed", Stalled: rapid.Bool().Draw(t, "stalled"), Final: rapid.IntRange(0, 9).Draw(t, "final if 0") == 0}
}

func drawObject(t *rapid.T) *v1alpha1.DynamicSecret {
	d := input().Object
	d.UID = types.UID(oneOf(t, "uid", string(calm), string(hasty), "", "other"))
	d.Annotations = map[string]string{}
	for _, key := range []string{v1alpha1.RenewRequestedAtAnnotation, v1alpha1.ForceSyncAnnotation, v1alpha1.RotateRequestedAtAnnotation, v1alpha1.AbandonLeaseAnnotation} {
		if v := oneOf(t, key, "", "", "1", "true"); v != "" {
			d.Annotations[key] = v
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "without finalizer if 0") == 0 {
		d.Finalizers = nil
	}
	if rapid.IntRange(0, 5).Draw(t, "deleting if 0") == 0 {
		d.DeletionTimestamp = drawTimePtr(t, "deletionTimestamp")
	}
	d.Spec.Suspend = rapid.IntRange(0, 3).Draw(t, "suspended if 0") == 0
	d.Spec.Revoked = rapid.IntRange(0, 7).Draw(t, "revoked if 0") == 0
	d.Spec.RefreshInterval.Duration = oneOf(t, "refreshInterval", 0, time.Second, time.Hour)
	ls := &d.Spec.Lease
	ls.RenewAtPercent = oneOf(t, "renewAtPercent", int32(0), 10, 67, 90)
	ls.OnExpiry = oneOf(t, "onExpiry", v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain, "")
	ls.Reissue = oneOf(t, "reissue", v1alpha1.ReissueAlways, v1alpha1.ReissueNever, "")
	ls.OnDelete = oneOf(t, "onDelete", v1alpha1.OnDeleteRevoke, v1alpha1.OnDeleteRevoke, v1alpha1.OnDeleteAbandon)
	ls.RevocationDeadline.Duration = oneOf(t, "revocationDeadline", 0, time.Minute, time.Hour)
	if rapid.Bool().Draw(t, "has an increment") {
		ls.Increment = &metav1.Duration{Duration: oneOf(t, "increment", time.Second, 2*time.Hour)}
	}
	drawRotation(t, &d.Spec)

	st := &d.Status
	st.Handover = drawHandover(t)
	if rapid.IntRange(0, 7).Draw(t, "attempt if 0") == 0 {
		st.Attempt = drawRecordPtr(t, "attempt")
	}
	st.Lease = drawRecordPtr(t, "lease")
	n := oneOf(t, "retiring", 0, 0, 1, 2, v1alpha1.MaxRetiring-1, v1alpha1.MaxRetiring, v1alpha1.MaxRetiring+3)
	some := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) v1alpha1.LeaseRecord { return drawRecord(t, "retiring") }), min(n, 2), min(n, 2)).Draw(t, "retiring records")
	for i := range n {
		st.Retiring = append(st.Retiring, *some[i%2].DeepCopy())
	}
	if rapid.Bool().Draw(t, "has a Secret") {
		st.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1",
			UID: types.UID(oneOf(t, "Secret's uid", "", "secret-1")), ResourceVersion: oneOf(t, "Secret's version", "", "5")}
	}
	if rapid.IntRange(0, 3).Draw(t, "grant ended if 0") == 0 {
		st.GrantEndedAt = drawTimePtr(t, "grantEndedAt")
	}
	st.LastHandledRenewAt, st.LastHandledRotateAt = oneOf(t, "handled renew", "", "1"), oneOf(t, "handled rotate", "", "1")
	return d
}

func drawRotation(t *rapid.T, spec *v1alpha1.DynamicSecretSpec) {
	spec.Rotation.MaxAge = oneOf(t, "maxAge", nil, nil, &metav1.Duration{Duration: time.Minute}, &metav1.Duration{Duration: time.Hour})
	spec.Rotation.Overlap = oneOf(t, "overlap", nil, &metav1.Duration{}, &metav1.Duration{Duration: time.Minute}, &metav1.Duration{Duration: 5 * time.Hour})
	spec.Rollout = oneOf(t, "rollout", nil, nil, &v1alpha1.RolloutSpec{Discover: true})
}

func drawHandover(t *rapid.T) *v1alpha1.HandoverStatus {
	if !rapid.Bool().Draw(t, "has a hand-over") {
		return nil
	}
	return &v1alpha1.HandoverStatus{
		Stamp: "stamp", PublishedAt: drawTime(t, "publishedAt"), StampedAt: drawTimePtr(t, "stampedAt"), RolledOutAt: drawTimePtr(t, "rolledOutAt"),
		CutShortAt: drawTimePtr(t, "cutShortAt"), RolloutSeconds: oneOf(t, "rolloutSeconds", int64(0), 5, 600),
		Reason: oneOf(t, "roll-out", "", v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutTargetNotFound),
	}
}

var nightly, _ = ParseWindows([]v1alpha1.RotationWindow{{Schedule: "0 2 * * *", Duration: metav1.Duration{Duration: time.Hour}}})

func drawInput(t *rapid.T) Input {
	in := Input{
		Now:           drawTime(t, "now").Add(oneOf(t, "fraction", 0, time.Nanosecond, 600*time.Millisecond)),
		Object:        drawObject(t),
		RequestDigest: oneOf(t, "request", "asked", "changed", ""),
		Target:        oneOf(t, "target", TargetCurrent, TargetAbsent, TargetChanged, TargetForeign),
		OutOfSync:     rapid.Bool().Draw(t, "out of sync"),
		LostID:        oneOf(t, "lost", "", "", "lease-1", "lease-2"),
		SuspectID:     oneOf(t, "suspect", "", "", "lease-1"),
		RequestLimit:  oneOf(t, "request limit", 0, limit),
		Held: Held{Accessor: oneOf(t, "held", "", "", "", "", "", "token-1", "token-2"),
			Outcome: oneOf(t, "outcome", OutcomeNone, OutcomeIssued, OutcomeRefused, OutcomeUnanswered)},
		Tries: Tries{Issue: drawFailure(t, "issue"), Renew: drawFailure(t, "renew"), ExtendToken: drawFailure(t, "extend"),
			Publish: drawFailure(t, "publish"), Sync: drawFailure(t, "sync"), Settle: drawFailure(t, "settle"), End: map[string]Failure{}},
		Windows:       oneOf(t, "windows", nil, nil, nightly),
		RolloutLook:   drawTime(t, "look").Time,
		RolloutWindow: oneOf(t, "rollout window", 0, 30*time.Second),
		RolloutOff:    rapid.IntRange(0, 5).Draw(t, "roll-outs off if 0") == 0,
	}
	for i := range in.Object.Status.Retiring {
		if f := drawFailure(t, fmt.Sprintf("end of %d", i)); f.Count > 0 {
			in.Tries.End[TryKey(&in.Object.Status.Retiring[i])] = f
		}
		if i == 1 {
			break // the others are the same two
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "blocked if 0") == 0 {
		in.Block = &Block{Reason: v1alpha1.ReasonProviderNotReady, Message: "not checked yet", Stalled: rapid.Bool().Draw(t, "stalled block")}
	}
	return in
}

func copyInput(in Input) Input {
	in.Object = in.Object.DeepCopy()
	in.Tries.End = maps.Clone(in.Tries.End)
	if in.Block != nil {
		b := *in.Block
		in.Block = &b
	}
	return in
}

func TestPlanIsDeterministicAndChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		before := copyInput(in)
		first := Plan(in)
		if !reflect.DeepEqual(in, before) {
			t.Fatalf("the input was changed:\n got %+v\nwant %+v", in, before)
		}
		if second := Plan(copyInput(in)); !reflect.DeepEqual(first, second) {
			t.Fatalf("two answers to one question:\n%+v\n%+v", first, second)
		}
	})
}

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Fatalf(format string, args ...any)
}

// takeable fails unless the step can be carried out: what it is about is there.
func takeable(t fataler, in Input, s Step) {
	st := &in.Object.Status
	must := func(ok bool, what string) {
		if !ok {
			t.Fatalf("%+v, but not: %s", s, what)
		}
	}
	leased := Leased(st.Lease)
	holds := func(rec *v1alpha1.LeaseRecord) bool {
		return rec != nil && rec.TokenAccessor != "" && rec.TokenAccessor == in.Held.Accessor
	}
	must((s.Action == Wait) == (s.Reason == "") || s.Action == EndRecord, "a reason for whatever is done")
	switch s.Action {
	case Wait:
		must(s.At.IsZero() || s.At.After(in.Now), "a look later than now")
		must((s.Next == "") == s.NextAt.IsZero(), "a time with what is next")
		must(s.Next == "" || !s.At.After(s.NextAt), "a look before or when it is due")
		must(s.Next == "" || !s.At.IsZero(), "a look for what is next")
	case AddFinalizer:
		must(!slices.Contains(in.Object.Finalizers, v1alpha1.Finalizer) && in.Object.DeletionTimestamp.IsZero(), "a place for the finalizer")
	case RemoveFinalizer:
		must(len(Records(st)) == 0 && st.Lease == nil && st.Secret == nil, "an empty ledger")
	case RecordLease:
		must(holds(st.Attempt) && in.Held.Outcome == OutcomeIssued, "an answer for the attempt")
	case DropAttempt:
		must(st.Attempt != nil, "an attempt")
		must(holds(st.Attempt) || !s.EndAfter.Before(in.Now.Add(in.RequestLimit)), "the whole limit for another's attempt")
	case ResolveHeld:
		must(in.Held.Accessor != "" && !holds(st.Attempt) && !holds(st.Lease), "an answer of nobody's")
	case DropLease:
		must(st.Lease != nil, "a lease")
	case PublishSecret:
		must(holds(st.Lease) && in.Target != TargetForeign, "a credential and a place for it")
	case SyncSecret:
		must(st.Lease != nil && in.Target == TargetCurrent && in.OutOfSync, "something to bring in line")
	case DeleteSecret:
		must(st.Secret != nil, "a Secret")
	case RenewLease, VerifyLease, AcknowledgeRenew:
		must(leased, "a lease")
	case ExtendToken:
		must(leased && st.Lease.TokenRenewable && st.Lease.TokenExpiresAt != nil, "a token that can be extended")
	case RenewRetiring, ExtendRetiring:
		must(s.Record >= 0 && s.Record < len(st.Retiring) && Leased(&st.Retiring[s.Record]), "a lease that retires")
	case FollowRollout:
		must(RollsOut(in.Object) && st.Handover != nil && st.Handover.RolledOutAt == nil, "somebody to follow")
	case EndRecord:
		must(s.Record >= 0 && s.Record < len(st.Retiring), "a record")
		rec := st.Retiring[s.Record]
		must(rec.EndAfter == nil || !in.Now.Before(rec.EndAfter.Time), "its time come")
		if awaited(in.Object, &rec) {
			until, known := heldUntil(in.Object, &rec)
			must(known && !in.Now.Before(until), "nobody who may still use it")
		}
	case AbandonRecord:
		must(s.Record >= 0 && s.Record < len(st.Retiring), "a record")
	case IssueCredential:
	default:
		must(false, "a known action")
	}
	if end, ok := LifeEnd(st.Lease); ok && !in.Now.Before(end) {
		must(!slices.Contains([]Action{RenewLease, VerifyLease, ExtendToken, PublishSecret, SyncSecret, Wait}, s.Action) ||
			!in.Object.DeletionTimestamp.IsZero(), "nothing kept up for a dead lease")
	}
}

func TestPlanNamesStepsThatCanBeTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		takeable(t, in, Plan(in))
	})
}

// issuable fails where a credential may not be asked for.
func issuable(t fataler, in Input) {
	d := in.Object
	for why, forbidden := range map[string]bool{
		"an attempt is recorded":               d.Status.Attempt != nil,
		"it is suspended":                      d.Spec.Suspend,
		"it is revoked":                        d.Spec.Revoked,
		"it is being deleted":                  !d.DeletionTimestamp.IsZero(),
		"it has no finalizer":                  !hasFinalizer(d),
		"retiring is full":                     len(d.Status.Retiring) >= v1alpha1.MaxRetiring,
		"the provider speaks against it":       in.Block != nil,
		"the Secret is somebody else's":        in.Target == TargetForeign,
		"the last failure is not over":         in.Tries.Issue.waiting(in.Now),
		"an answer is held for the lease":      d.Status.Lease != nil && in.Held.answered() && in.Held.Accessor == d.Status.Lease.TokenAccessor && in.Held.Accessor != "" && !Published(&d.Status) && in.RequestDigest == d.Status.Lease.RequestDigest && d.Annotations[v1alpha1.RotateRequestedAtAnnotation] == "",
		"the grant is over and nobody asked":   d.Status.Lease == nil && d.Status.GrantEndedAt != nil && d.Spec.Lease.Reissue == v1alpha1.ReissueNever && d.Annotations[v1alpha1.RotateRequestedAtAnnotation] == "",
		"the lease lives and nothing happened": carriedAndQuiet(in),
	} {
		if forbidden {
			t.Fatalf("a credential is asked for although %s: %+v", why, in)
		}
	}
}

func TestPlanIssuesNothingThatMustNotBe(t *testing.T) {
	issued := 0
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		if Plan(in).Action != IssueCredential {
			return
		}
		issued++
		issuable(t, in)
	})
	if issued == 0 {
		t.Error("no input led to an issue: nothing was tested")
	}
}

// carriedAndQuiet is the case of promise 2: the credential is in the Secret, it can be renewed, and nobody asked.
func carriedAndQuiet(in Input) bool {
	rec, d := in.Object.Status.Lease, in.Object
	if !Leased(rec) {
		return false
	}
	_, _, ends := certainEnd(rec)
	age := d.Spec.Rotation.MaxAge
	old := age != nil && !in.Now.Before(maxAgeAt(rec, age.Duration, d.UID))
	return Published(&d.Status) && in.Target == TargetCurrent && !ends && !old &&
		(in.RequestDigest == "" || in.RequestDigest == rec.RequestDigest) && d.Annotations[v1alpha1.RotateRequestedAtAnnotation] == ""
}

// Until the time that Wait names, another look changes nothing: not the step, not what the status says. Otherwise each
// look would write the status, and each write cause a look.
func TestPlanIsStableUntilItsTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		s := Plan(in)
		if s.Action != Wait {
			return
		}
		span := 100 * time.Hour
		if !s.At.IsZero() {
			span = s.At.Sub(in.Now) - 1
		}
		later := copyInput(in)
		later.Now = in.Now.Add(time.Duration(rapid.Int64Range(0, int64(span)).Draw(t, "later")))
		again := Plan(later)
		if again.Action != Wait || again.Next != s.Next || !again.NextAt.Equal(s.NextAt) || !reflect.DeepEqual(again.Blocked, s.Blocked) {
			t.Fatalf("%s later:\n got %+v\nwant %+v", later.Now.Sub(in.Now), again, s)
		}
		if !hasFinalizer(in.Object) {
			return // its leases are no longer its own to speak of
		}
		Summarize(in, s)
		later.Object = in.Object.DeepCopy()
		Summarize(later, again)
		if got, want := later.Object.Status, in.Object.Status; !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("%s later the status says something else:\n got %s at %s, %+v\nwant %s at %s, %+v", later.Now.Sub(in.Now),
				got.NextAction, got.NextActionAt, got.Conditions, want.NextAction, want.NextActionAt, want.Conditions)
		}
	})
}

// Conditions are consistent whatever the input.
func TestSummarizeIsConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		s := Plan(in)
		Summarize(in, s)
		st := in.Object.Status
		found := map[string]metav1.Condition{}
		for _, c := range st.Conditions {
			found[c.Type] = c
			if c.Reason == "" || c.ObservedGeneration != in.Object.Generation {
				t.Fatalf("%+v", c)
			}
		}
		if _, ok := found[v1alpha1.ReadyCondition]; !ok {
			t.Fatal("Ready is missing")
		}
		reconciling, ok1 := found[v1alpha1.ReconcilingCondition]
		stalled, ok2 := found[v1alpha1.StalledCondition]
		if ok1 && ok2 {
			t.Fatalf("both %+v and %+v", reconciling, stalled)
		}
		if ok1 && reconciling.Status != metav1.ConditionTrue || ok2 && stalled.Status != metav1.ConditionTrue {
			t.Fatalf("%+v %+v", reconciling, stalled)
		}
		if s.Action == Wait && st.NextAction != s.Next {
			t.Fatalf("next is %s in the status, %s in the step", st.NextAction, s.Next)
		}
		before := st.DeepCopy()
		Summarize(in, s)
		if !reflect.DeepEqual(before, &in.Object.Status) {
			t.Fatalf("saying it twice says something else:\n got %+v\nwant %+v", in.Object.Status, before)
		}
	})
}
