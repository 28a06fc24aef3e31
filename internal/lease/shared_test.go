package lease

import (
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
	in := input(inUse, handover(), old())
	s := Plan(in)
	if s.Action != Wait {
		t.Fatalf("the step is %+v", s)
	}
	SetStatus(in.Object, in, s)
	st := in.Object.Status
	stalled := meta.FindStatusCondition(st.Conditions, v1alpha1.StalledCondition)
	if stalled == nil || stalled.Reason != v1alpha1.ReasonSharedUser {
		t.Errorf("the conditions are %+v", st.Conditions)
	}
	if !meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ReadyCondition) {
		t.Error("it is not Ready")
	}
}
