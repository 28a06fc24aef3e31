package lease

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// copyInput copies whatever Plan could change.
func copyInput(in Input) Input {
	in.Object = in.Object.DeepCopy()
	in.Requests, in.Windows = slices.Clone(in.Requests), slices.Clone(in.Windows)
	in.Lost, in.Suspects, in.Done = maps.Clone(in.Lost), maps.Clone(in.Suspects), maps.Clone(in.Done)
	in.Reads, in.Handled = maps.Clone(in.Reads), maps.Clone(in.Handled)
	t := &in.Tries
	t.Renew, t.ExtendSession = maps.Clone(t.Renew), maps.Clone(t.ExtendSession)
	t.Revoke, t.Refresh = maps.Clone(t.Revoke), maps.Clone(t.Refresh)
	in.Held.Records = slices.Clone(in.Held.Records)
	for i := range in.Held.Records {
		in.Held.Records[i].Record = *in.Held.Records[i].Record.DeepCopy()
	}
	for _, b := range []**Block{&in.Block, &in.Invalid} {
		if *b != nil {
			c := **b
			*b = &c
		}
	}
	return in
}

// planned is the step. It fails if Plan changes its input or decides differently the second time.
func planned(t *rapid.T, in Input) Step {
	before := copyInput(in)
	s := Plan(in)
	if !reflect.DeepEqual(in, before) {
		t.Fatalf("Plan changed its input:\n got %+v\nwant %+v", in, before)
	}
	if again := Plan(before); !reflect.DeepEqual(again, s) {
		t.Fatalf("Plan decided differently:\n%+v\n%+v", again, s)
	}
	return s
}

func TestPlanIsDeterministicAndChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { planned(t, drawInput(t)) })
}

func TestPlanNamesStepsThatCanBeTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		checkStep(t, in, planned(t, in))
	})
}

// checkStep fails unless the step can and may be executed.
func checkStep(t *rapid.T, in Input, s Step) {
	must := func(ok bool, what string) {
		if !ok {
			t.Fatalf("%+v without %s", s, what)
		}
	}
	st, v := &in.Object.Status, newView(in)
	records := st.Leases
	if s.Retiring {
		records = st.Retiring
	}
	inRange := s.Record >= 0 && s.Record < len(records)
	must((s.Action == Wait) == (s.Reason == "") || s.Action == RevokeRecord && s.Reason == "\xff", "a reason")
	switch s.Action {
	case Wait:
		checkWait(must, in, s)
	case AddFinalizer:
		must(!slices.Contains(in.Object.Finalizers, v1alpha1.Finalizer) && in.Object.DeletionTimestamp.IsZero(), "need")
	case RemoveFinalizer:
		must(st.Attempt == nil && !slices.ContainsFunc(Records(st), func(rec v1alpha1.LeaseRecord) bool {
			return !in.Done[Key(&rec)]
		}), "every record done")
	case Issue:
		checkIssue(t, in)
	case RecordLeases:
		must(v.holds(v.attempt()) && in.Held.Outcome == OutcomeIssued, "responses to the attempt")
	case DropAttempt:
		must(st.Attempt != nil, "an attempt")
	case ResolveHeld:
		must(in.Held.settled() && !v.holds(v.attempt()) && !v.holds(st.Leases), "responses without an attempt")
	case DropLeases:
		must(len(records) > 0 && (inRange || s.Record == -1), "a record")
		must(mayDrop(in, s), "the end of a lease")
	case PublishSecret:
		must(v.holds(st.Leases) && in.Target != TargetForeign, "credentials and a place for them")
	case SyncSecret:
		must(len(st.Leases) > 0 && in.Target == TargetCurrent && in.OutOfSync, "something to correct")
	case DeleteSecret:
		must(st.Secret != nil || v.secretExists(), "a Secret")
	case RenewLease:
		must(inRange && Leased(&records[s.Record]) && !exhausted(&records[s.Record]), "a lease that can be renewed")
	case ExtendSession:
		must(inRange && Leased(&records[s.Record]) && records[s.Record].Session.Renewable,
			"a session that can be extended")
	case VerifyLease:
		must(inRange && Leased(&records[s.Record]), "a lease")
	case RefreshSource:
		must(inRange && ReadAgain(&records[s.Record]) && v.current() && v.issueBlock() == nil,
			"a source that can be read")
	case AcknowledgeRenew:
		must(len(st.Leases) > 0 && v.renewalRequested(), "a request")
	case FollowRollout:
		must(RollsOut(in.Object) && st.Handover != nil && st.Handover.RolledOutAt == nil, "consumers to follow")
	case RevokeRecord, AbandonRecord:
		must(inRange, "a record")
		checkRevocation(must, in, &records[s.Record], s)
	default:
		must(false, "a known action")
	}
}

func checkWait(must func(bool, string), in Input, s Step) {
	must(s.At.IsZero() || s.At.After(in.Now), "a time after now")
	must((s.Next == "") == s.NextAt.IsZero(), "a time of what is next")
	must(s.Next == "" || !s.At.IsZero() && !s.At.After(s.NextAt), "a check before or when it is due")
}

// mayDrop says whether a set may be dropped: nothing that lives is.
func mayDrop(in Input, s Step) bool {
	d := in.Object
	if s.Record < 0 {
		grant := d.Spec.Lease.Reissue == v1alpha1.ReissueNever && in.Target != TargetCurrent
		return d.Spec.Revoked || s.Reason == v1alpha1.ReasonGrantEnded && grant
	}
	rec := &d.Status.Leases[s.Record]
	end, dies := LifeEnd(rec)
	return rec.ID != "" && in.Lost[rec.ID] || dies && !in.Now.Before(end)
}

// checkRevocation: no record is revoked before its time, while consumers may use it, or while the Secret contains it;
// and none is abandoned without a reason.
func checkRevocation(must func(bool, string), in Input, rec *v1alpha1.LeaseRecord, s Step) {
	d := in.Object
	gone := !d.DeletionTimestamp.IsZero()
	must(gone || s.Retiring, "a deletion")
	must(gone || d.Spec.Revoked || !newView(in).inSecret(rec), "a published successor")
	if s.Action == AbandonRecord {
		must(mayAbandon(in, rec), "a reason to abandon")
		return
	}
	must(Replaced(rec) || rec.RevokeAfter == nil || !in.Now.Before(rec.RevokeAfter.Time), "its time")
	if s.Retiring && awaited(d, rec) {
		until, known := heldUntil(d, rec)
		must(known && !in.Now.Before(until), "the end of its handover")
	}
}

// mayAbandon: somebody requested it, another try is useless, or the revocation fails and the record is dead or the
// deadline of the deletion has passed.
func mayAbandon(in Input, rec *v1alpha1.LeaseRecord) bool {
	d, failure := in.Object, in.Tries.Revoke[Key(rec)]
	gone := !d.DeletionTimestamp.IsZero()
	annotated := d.Annotations[v1alpha1.AbandonLeaseAnnotation] == "true"
	requested := gone && (d.Spec.Lease.OnDelete == v1alpha1.OnDeleteAbandon || annotated)
	expired := rec.ExpiresAt != nil && expires(rec) && in.Now.After(rec.ExpiresAt.Time)
	sessionExpired := rec.Session != nil && in.Now.After(rec.Session.ExpiresAt.Time)
	dead := expired && (gone || rec.Session == nil || sessionExpired) || !expires(rec) && sessionExpired
	late := gone && !in.Now.Before(d.DeletionTimestamp.Add(revocationDeadline(&d.Spec.Lease)))
	hopeless := failure.Count > 0 && (dead || late)
	return failure.Final || requested || hopeless
}

// checkIssue fails where no credential may be requested.
func checkIssue(t *rapid.T, in Input) {
	d, v := in.Object, newView(in)
	rotate := d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	unpublished := v.holds(d.Status.Leases) && !v.current() && !v.requestChanged() && rotate == ""
	grant := len(d.Status.Leases) == 0 && d.Status.GrantEndedAt != nil && d.Spec.Lease.Reissue == v1alpha1.ReissueNever
	for why, forbidden := range map[string]bool{
		"an attempt is open":               d.Status.Attempt != nil,
		"it is suspended":                  d.Spec.Suspend,
		"it is revoked":                    d.Spec.Revoked,
		"it is being deleted":              !d.DeletionTimestamp.IsZero(),
		"it has no finalizer":              !slices.Contains(d.Finalizers, v1alpha1.Finalizer),
		"retiring is full":                 len(d.Status.Retiring) >= maxRetiring(len(d.AllSources())),
		"it is blocked":                    in.Block != nil,
		"the Secret is foreign":            in.Target == TargetForeign,
		"the pause is not over":            in.Tries.Issue.waiting(in.Now),
		"the set is in memory":             unpublished,
		"the grant has ended":              grant && rotate == "",
		"the set lives and nothing is due": quiet(in),
	} {
		if forbidden {
			t.Fatalf("a credential is requested although %s: %+v", why, in)
		}
	}
}

// calm removes what most often prevents an issuance.
func calm(d *v1alpha1.DynamicSecret) {
	d.Finalizers, d.DeletionTimestamp = []string{v1alpha1.Finalizer}, nil
	d.Spec.Suspend, d.Spec.Revoked = false, false
	d.Status.Attempt, d.Status.Retiring = nil, nil
}

func TestPlanIssuesOnlyForACause(t *testing.T) {
	issued := 0
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		if maybe(t, "calm") {
			calm(in.Object)
			in.Block, in.Invalid, in.Held, in.Tries = nil, nil, Held{}, Tries{}
		}
		if Plan(in).Action == Issue {
			issued++
			checkIssue(t, in)
		}
	})
	if issued == 0 {
		t.Error("no input led to an issuance: nothing was tested")
	}
}

// quiet is promise 2: the set is in the Secret, each credential can be kept, and nobody requested another.
func quiet(in Input) bool {
	d, v := in.Object, newView(in)
	if !v.current() || v.requestChanged() || d.Annotations[v1alpha1.RotateRequestedAtAnnotation] != "" {
		return false
	}
	for i := range d.Status.Leases {
		rec, age := &d.Status.Leases[i], d.Spec.Rotation.MaxAge
		_, _, ends := certainEnd(rec)
		ends = ends || probed(d, rec) && !in.Now.Before(handoverAt(d, issuedAt(rec), maximumEnd(rec)))
		if ends || age != nil && !ReadAgain(rec) && !in.Now.Before(maxAgeAt(rec, age.Duration, d.UID)) {
			return false
		}
	}
	return true
}

// Until the time that Wait names, another plan changes neither the step nor the status. Otherwise each plan would write
// the status, and each write would cause a plan.
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
		sameNext := again.Next == s.Next && again.NextAt.Equal(s.NextAt)
		if again.Action != Wait || !sameNext || !reflect.DeepEqual(again.Blocked, s.Blocked) {
			t.Fatalf("%s later:\n got %+v\nwant %+v", later.Now.Sub(in.Now), again, s)
		}
		if !slices.Contains(in.Object.Finalizers, v1alpha1.Finalizer) {
			return // it is no longer leasekeeper's
		}
		SetStatus(in.Object, in, s)
		later.Object = in.Object.DeepCopy()
		SetStatus(later.Object, later, again)
		if got, want := later.Object.Status, in.Object.Status; !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("%s later the status differs:\n got %s at %s, %+v\nwant %s at %s, %+v", later.Now.Sub(in.Now),
				got.NextAction, got.NextActionAt, got.Conditions, want.NextAction, want.NextActionAt, want.Conditions)
		}
	})
}

func TestSetStatusIsConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		checkStatus(t, in, Plan(in))
	})
}

// checkStatus fails unless the conditions are consistent, and the same the second time. It changes the status.
func checkStatus(t *rapid.T, in Input, s Step) {
	SetStatus(in.Object, in, s)
	st := &in.Object.Status
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
	_, reconciling := found[v1alpha1.ReconcilingCondition]
	if _, stalled := found[v1alpha1.StalledCondition]; stalled && reconciling {
		t.Fatalf("Reconciling and Stalled: %+v", st.Conditions)
	}
	if s.Action == Wait && st.NextAction != s.Next {
		t.Fatalf("next is %s in the status, %s in the step", st.NextAction, s.Next)
	}
	before := st.DeepCopy()
	SetStatus(in.Object, in, s)
	if !reflect.DeepEqual(before, st) {
		t.Fatalf("the second status differs:\n got %+v\nwant %+v", st, before)
	}
}
