package lease

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func counts(n int64, at time.Duration, changes ...func(*v1alpha1.UnplannedIssuances)) given {
	return func(in *Input) {
		u := &v1alpha1.UnplannedIssuances{Count: n, LastAt: stamp(at), Generation: in.Object.Generation}
		for _, change := range changes {
			change(u)
		}
		in.Object.Status.Unplanned = u
	}
}

func unusableFor(reason string) func(*v1alpha1.UnplannedIssuances) {
	return func(u *v1alpha1.UnplannedIssuances) { u.Reason = reason }
}

func TestPlanPausesLoops(t *testing.T) {
	changed := all(kept(granted(1000*time.Hour)), target(TargetChanged))
	issue := func(cause string) Step { return step(Issue, cause) }
	pause := func(reason string) func(Step) bool {
		return func(s Step) bool { return s.Action == Wait && s.Blocked != nil && s.Blocked.Reason == reason }
	}
	is := func(want Step) func(Step) bool {
		return func(s Step) bool { return s.Action == want.Action && s.Reason == want.Reason }
	}
	contested, invalid := pause(v1alpha1.ReasonTargetContested), pause(v1alpha1.ReasonInvalidResponse)
	useless := unusableFor(v1alpha1.ReasonInvalidResponse)
	rotate := annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	otherRequest := func(in *Input) { in.Requests[0].Digest, in.Requests[0].Changed = "another", []string{"spec.x"} }
	edits := func(n int64) func(*v1alpha1.UnplannedIssuances) {
		return func(u *v1alpha1.UnplannedIssuances) { u.Edits = n }
	}
	full := func(u *v1alpha1.UnplannedIssuances) {
		for range mostInAnHour {
			u.Recent = append(u.Recent, u.LastAt)
		}
	}
	edited := pause(v1alpha1.ReasonRequestContested)
	for _, c := range []struct {
		it    string
		given []given
		want  func(Step) bool
	}{
		{"repairs at once the first time", []given{changed}, is(issue(CauseSecretChanged))},
		{"pauses after that", []given{changed, counts(1, 0)}, contested},
		{"repairs after the pause", []given{changed, counts(1, 0), after(2 * time.Second)},
			is(issue(CauseSecretChanged))},
		{"doubles the pause", []given{changed, counts(5, 0), after(31 * time.Second)}, contested},
		{"pauses an hour at most", []given{changed, counts(60, 0), after(time.Hour)}, is(issue(CauseSecretChanged))},
		{"pauses nearly an hour", []given{changed, counts(60, 0), after(59 * time.Minute)}, contested},
		{"pauses for a deleted Secret", []given{changed, target(TargetAbsent), counts(3, 0)}, contested},
		{"ends the pause for a request", []given{changed, counts(9, 0), rotate}, is(issue(CauseRequested))},
		{"ends the pause for another spec", []given{changed, counts(9, 0,
			func(u *v1alpha1.UnplannedIssuances) { u.Generation-- })}, is(issue(CauseSecretChanged))},
		{"does not end the pause for the sixth edit", []given{changed, counts(9, 0, edits(freeEdits),
			func(u *v1alpha1.UnplannedIssuances) { u.Generation-- })}, contested},
		{"issues for the fifth request at once", []given{kept(granted(1000 * time.Hour)), otherRequest,
			counts(9, 0, edits(freeEdits-1))}, is(issue(CauseRequestChanged))},
		{"pauses for the sixth", []given{kept(granted(1000 * time.Hour)), otherRequest,
			counts(9, 0, edits(freeEdits))}, edited},
		{"pauses for the sixth requested rotation", []given{kept(granted(1000 * time.Hour)), rotate,
			counts(9, 0, edits(freeEdits))}, edited},
		{"issues for a request after the pause", []given{kept(granted(1000 * time.Hour)), otherRequest,
			counts(5, 0, edits(freeEdits)), after(time.Minute)}, is(issue(CauseRequestChanged))},
		{"issues no more than 12 in an hour", []given{kept(granted(1000 * time.Hour)), otherRequest,
			counts(1, 0, full), after(59 * time.Minute)}, edited},
		{"issues another one after an hour", []given{kept(granted(1000 * time.Hour)), otherRequest,
			counts(1, 0, full), after(time.Hour)}, is(issue(CauseRequestChanged))},
		{"replaces a lease at its maximum although its request keeps changing", []given{kept(maxTTL), otherRequest,
			after(50 * time.Minute), counts(9, 50*time.Minute, edits(freeEdits))}, is(issue(CauseMaxTTL))},
		{"ignores a count of the far future", []given{changed, counts(9, 48*time.Hour)}, is(issue(CauseSecretChanged))},
		{"pauses after a response without use", []given{counts(3, 0, useless)}, invalid},
		{"pauses a rotation after such a response", []given{kept(maxTTL), after(50 * time.Minute),
			counts(9, 50*time.Minute, useless)}, invalid},
		{"does not pause a rotation otherwise", []given{kept(maxTTL), after(50 * time.Minute),
			counts(9, 50*time.Minute)}, is(issue(CauseMaxTTL))},
	} {
		t.Run(c.it, func(t *testing.T) {
			in := input(c.given...)
			if s := Plan(in); !c.want(s) {
				t.Errorf("the step is %+v (blocked by %+v)", s, s.Blocked)
			}
		})
	}
}

func TestRequestContestedNamesTheField(t *testing.T) {
	in := input(kept(granted(1000*time.Hour)), counts(9, 0), func(in *Input) {
		in.Object.Status.Unplanned.Edits = freeEdits
		in.Requests[0].Digest, in.Requests[0].Changed = "another", []string{"spec.vault.path"}
	})
	s := Plan(in)
	if s.Blocked == nil || !strings.Contains(s.Blocked.Message, "the last change was of spec.vault.path.") {
		t.Errorf("blocked by %+v", s.Blocked)
	}
	SetStatus(in.Object, in, s)
	ready := meta.IsStatusConditionTrue(in.Object.Status.Conditions, v1alpha1.ReadyCondition)
	if !ready || in.Object.Status.Summary != v1alpha1.ReasonRequestContested {
		t.Errorf("the status is %+v", in.Object.Status)
	}
}

func TestContestedNamesTheWriter(t *testing.T) {
	in := input(kept(granted(1000*time.Hour)), target(TargetChanged), counts(3, 0))
	in.Writer = `Field manager "rival" changes key password`
	s := Plan(in)
	if s.Blocked == nil || !strings.Contains(s.Blocked.Message, in.Writer+". ") {
		t.Errorf("blocked by %+v", s.Blocked)
	}
}

// However often a cause returns, and whoever edits the object meanwhile, at most 12 credentials are issued in any hour,
// with the first one.
func TestAtMostTwelveIssuancesAnHour(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := input().Object
		d.UID = oneOf(t, "uid", noJitter, muchJitter)
		now, cause := t0, CauseFirst
		var issued []time.Time
		for range 200 {
			issued = append(issued, now)
			if maybe(t, "unusable") {
				CountUnusable(d, cause, v1alpha1.ReasonInvalidResponse, now)
			} else {
				countIssuance(d, cause, now)
				d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.LeasedCondition}}
			}
			cause = oneOf(t, "cause", CauseFirst, CauseSecretLost, CauseSecretChanged, CauseRequestChanged,
				CauseRequested)
			if maybe(t, "the spec changes") {
				d.Generation++
			}
			if u := counted(d, now); u != nil {
				now = laterOf(now, nextAfterLoop(d, u, cause, now))
			}
			now = now.Add(oneOf(t, "later", 0, 0, time.Second, time.Hour, 3*time.Hour))
		}
		for i := range issued {
			if i+12 < len(issued) && issued[i+12].Sub(issued[i]) < time.Hour {
				t.Fatalf("13 issuances between %s and %s", issued[i], issued[i+12])
			}
		}
	})
}

func TestCountIssuance(t *testing.T) {
	for _, c := range []struct {
		it    string
		given []given
		cause string
		want  int64
	}{
		{"does not count the first", nil, CauseFirst, 0},
		{"counts the first after a revocation", []given{object(func(d *v1alpha1.DynamicSecret) {
			d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.LeasedCondition}}
		})}, CauseFirst, 1},
		{"starts again with an edit", []given{published, counts(9, 0)}, CauseRequestChanged, 0},
		{"counts a repair", []given{published}, CauseSecretChanged, 1},
		{"counts the next", []given{published, counts(2, 0)}, CauseSecretLost, 3},
		{"counts an issuance after a lost lease", []given{published}, CauseFirst, 1},
		{"keeps the count in a rotation", []given{published, counts(2, 0)}, CauseMaxAge, 2},
		{"starts again after two quiet hours", []given{published, counts(9, 0), after(3 * time.Hour)},
			CauseSecretLost, 1},
		{"forgets after two quiet hours", []given{published, counts(9, 0), after(3 * time.Hour)}, CauseMaxAge, 0},
	} {
		in := input(c.given...)
		countIssuance(in.Object, c.cause, in.Now)
		got := int64(0)
		if u := in.Object.Status.Unplanned; u != nil {
			got = u.Count
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.it, got, c.want)
		}
	}
}
