package lease

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func user(digest string) change { return func(rec *v1alpha1.LeaseRecord) { rec.UserDigest = digest } }

// A role whose username is the same for each lease: revoking the old lease would drop the user in use.
func TestPlanKeepsALeaseWithTheUserInUse(t *testing.T) {
	old := func(changes ...change) given {
		return retiring(record(append([]change{user("one"), retired(0, reasonReplaced)}, changes...)...))
	}
	inUse := kept(numbered(2), granted(10000*time.Hour), user("one"))
	revoke := step(RevokeRecord, reasonReplaced).ofRetiring(0)
	checkPlan(t, []planCase{
		{
			it: "revokes an old lease with another user", because: "nothing uses that user",
			given: []given{kept(numbered(2), granted(10000*time.Hour), user("two")), handover(), old()},
			want:  revoke,
		}, {
			it: "revokes an old lease without a known user", because: "nothing says that it is in use",
			given: []given{kept(numbered(2), granted(10000*time.Hour)), handover(), old(user(""))},
			want:  revoke,
		}, {
			it: "renews an old lease with the user in use", because: "its end drops the user",
			given: []given{inUse, handover(), old(), after(renewDue)},
			want:  step(RenewLease, v1alpha1.ReasonRenewing).ofRetiring(0),
		}, {
			it: "revokes it once its successor has another user", because: "nothing uses its user",
			given: []given{kept(numbered(3), granted(10000*time.Hour), user("two")), handover(), old()},
			want:  revoke,
		}, {
			it: "revokes it in a deletion", because: "nothing uses the user any more",
			given: []given{inUse, target(TargetAbsent), old(), deleted(0), done(record(numbered(2), user("one")))},
			want:  revoke,
		}, {
			it: "removes it once it has expired", because: "the user is gone",
			given: []given{inUse, handover(), old(maxTTL), after(time.Hour)},
			want:  revoke,
		},
	})
	byOther := func(in *Input) {
		in.Sharers = map[string]string{}
		for _, records := range [][]v1alpha1.LeaseRecord{in.Object.Status.Leases, in.Object.Status.Retiring} {
			for i := range records {
				in.Sharers[Key(&records[i])] = "billing/reports"
			}
		}
	}
	corrected := kept(numbered(2), granted(10000*time.Hour), user("two"))
	mine := kept(granted(10000*time.Hour), user("one"))
	checkPlan(t, []planCase{
		{
			it: "renews an old lease whose user another object has", because: "its end drops the user",
			given: []given{corrected, handover(), old(), byOther, after(renewDue)},
			want:  step(RenewLease, v1alpha1.ReasonRenewing).ofRetiring(0),
		}, {
			it: "revokes it if the spec orders that", because: "the access of the user must end",
			given: []given{target(TargetAbsent), old(), byOther,
				object(func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })},
			want: revoke,
		}, {
			it: "gives it up at the deadline of a deletion", because: "a deletion always completes",
			given: []given{mine, target(TargetAbsent), byOther, deleted(0), after(time.Hour)},
			want:  step(AbandonRecord, v1alpha1.ReasonAbandoned),
		}, {
			it: "gives it up in a deletion on request", because: "somebody cannot wait",
			given: []given{mine, target(TargetAbsent), byOther, deleted(0),
				annotated(v1alpha1.AbandonLeaseAnnotation, "true")},
			want: step(AbandonRecord, v1alpha1.ReasonAbandoned),
		},
	})
	in := input(mine, target(TargetAbsent), byOther, deleted(0))
	if s := Plan(in); s.Action != Wait || s.At.IsZero() {
		t.Errorf("a deletion takes the step %+v", s)
	} else if SetStatus(in.Object, in, s); !strings.Contains(in.Object.Status.Message, "billing/reports") {
		t.Errorf("the message is %q", in.Object.Status.Message)
	}
	verifySharedUserIsReported(t, input(inUse, handover(), old()), "gave the new lease the user of the old one")
	verifySharedUserIsReported(t, input(corrected, handover(), old(), byOther), "gave DynamicSecret billing/reports")
}

func verifySharedUserIsReported(t *testing.T, in Input, message string) {
	t.Helper()
	s := Plan(in)
	if s.Action != Wait {
		t.Fatalf("the step is %+v", s)
	}
	SetStatus(in.Object, in, s)
	st := in.Object.Status
	stalled := meta.FindStatusCondition(st.Conditions, v1alpha1.StalledCondition)
	if stalled == nil || stalled.Reason != v1alpha1.ReasonSharedUser || !strings.Contains(stalled.Message, message) {
		t.Errorf("the conditions are %+v", st.Conditions)
	}
	if !meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ReadyCondition) {
		t.Error("it is not Ready")
	}
}

// An object uses the users of the credentials that it or its consumers have, and of no others.
func TestUsesUserOf(t *testing.T) {
	rec := record(numbered(9), user("one"))
	for _, c := range []struct {
		it    string
		given []given
		want  bool
	}{
		{"is of another user", []given{kept(user("two"))}, false},
		{"has a lease", []given{kept(user("one"))}, true},
		{"is the same record", []given{kept(numbered(9), user("one"))}, false},
		{"has consumers with an old lease", []given{kept(numbered(2)), handover(),
			retiring(record(user("one"), retired(0, reasonReplaced))),
			object(func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Overlap = lasting(time.Hour) })}, true},
		{"has an old lease that nobody uses", []given{kept(numbered(2)), handover(),
			retiring(record(user("one"), retired(0, reasonReplaced)))}, false},
		{"is being deleted", []given{kept(user("one")), deleted(0)}, false},
		{"is revoked", []given{kept(user("one")),
			object(func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })}, false},
	} {
		if in := input(c.given...); UsesUserOf(in.Object, rec, in.Now) != c.want {
			t.Errorf("%s: %v", c.it, !c.want)
		}
	}
}
