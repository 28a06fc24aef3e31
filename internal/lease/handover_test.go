package lease

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func overlapping(d time.Duration) given {
	return spec(func(s *v1alpha1.DynamicSecretSpec) { s.Rotation.Overlap = &metav1.Duration{Duration: d} })
}

func maxAge(d time.Duration) given {
	return spec(func(s *v1alpha1.DynamicSecretSpec) { s.Rotation.MaxAge = &metav1.Duration{Duration: d} })
}

func rollingOut(s *v1alpha1.DynamicSecretSpec) { s.Rollout = &v1alpha1.RolloutSpec{Discover: true} }

func windows(specs ...v1alpha1.RotationWindow) given {
	return func(in *Input) {
		in.Object.Spec.Rotation.Windows = specs
		var err error
		if in.Windows, err = ParseWindows(specs); err != nil {
			panic(err)
		}
	}
}

// handover of the lease of kept, published at t0.
func handover(changes ...func(*v1alpha1.HandoverStatus)) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Handover = &v1alpha1.HandoverStatus{Stamp: Stamp("digest-1"), PublishedAt: stamp(0)}
		for _, c := range changes {
			c(st.Handover)
		}
	})
}

func rolledOut(at time.Duration) func(*v1alpha1.HandoverStatus) {
	return func(h *v1alpha1.HandoverStatus) { h.RolledOutAt = stampPtr(at) }
}

func took(d time.Duration) func(*v1alpha1.HandoverStatus) {
	return func(h *v1alpha1.HandoverStatus) { h.RolloutSeconds = int64(d / time.Second) }
}

// old is the lease before that of kept, which consumers may still use.
func old(changes ...change) given {
	return retiring(record(append([]change{numbered(0), retired(0, reasonReplaced)}, changes...)...))
}

func TestWhenACredentialIsReplacedByPlan(t *testing.T) {
	const hour = time.Hour

	for _, c := range []struct {
		name  string
		given []given
		cause string
		at    time.Duration
	}{
		{"one that can be renewed is not", []given{kept()}, "", 0},
		{"at its greatest age", []given{kept(), maxAge(10 * hour)}, CauseMaxAge, 10 * hour},
		{"not by age while the last hand-over is under way", []given{kept(), maxAge(10 * hour), handover(rolledOut(0)), old()}, "", 0},
		{"at the renewal's share of what is left", []given{kept(maxTTL)}, CauseMaxTTL, renewDue},
		{"earlier where the overlap would not fit", []given{kept(maxTTL), overlapping(30 * time.Minute)}, CauseMaxTTL, 30 * time.Minute},
		{"earlier where the roll-out is not known to fit", []given{kept(maxTTL), spec(rollingOut), overlapping(20 * time.Minute)}, CauseMaxTTL, 35 * time.Minute},
		{"with time for twice the last roll-out", []given{kept(maxTTL), spec(rollingOut), handover(rolledOut(0), took(10*time.Minute)), overlapping(10 * time.Minute)},
			CauseMaxTTL, 30*time.Minute - rolloutMargin},
		{"after a third of its life at the earliest", []given{kept(maxTTL), overlapping(5 * hour)}, CauseMaxTTL, 20 * time.Minute},
		{"whatever comes first: age", []given{kept(maxTTL), maxAge(10 * time.Minute)}, CauseMaxAge, 10 * time.Minute},
		{"whatever comes first: the maximum", []given{kept(maxTTL), maxAge(hour)}, CauseMaxTTL, renewDue},
		{"before its token ends, which nothing can extend", []given{kept(token(10*hour, false)), overlapping(hour)}, CauseMaxTTL, 9 * hour},
		{"a grant is not", []given{kept(maxTTL), maxAge(hour), leaseSpec(never)}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(c.given...)
			cause, at := newView(&in).cause()
			want, wantAt := c.cause, t0.Add(c.at)
			if cause != want || (cause != "" && !at.Equal(wantAt)) {
				t.Errorf("%s at %s, want %s at %s", cause, at.Sub(t0), want, c.at)
			}
		})
	}
}

// lasting changes how long the lease was granted for.
func lasting(d time.Duration) change {
	return func(rec *v1alpha1.LeaseRecord) {
		rec.ExpiresAt, rec.DurationSeconds = stampPtr(d), int64(d/time.Second)
	}
}

// t0 is a Sunday at noon.
func TestAPlannedReplacementWaitsForAWindow(t *testing.T) {
	opening := func(schedule, zone string, open time.Duration) v1alpha1.RotationWindow {
		return v1alpha1.RotationWindow{Schedule: schedule, TimeZone: zone, Duration: metav1.Duration{Duration: open}}
	}
	night := opening("0 2 * * *", "", 2*time.Hour)
	const day = 24 * time.Hour
	for _, c := range []struct {
		name  string
		given []given
		cause string
		at    time.Duration
	}{
		{"age", []given{kept(), maxAge(time.Hour), windows(night)}, CauseMaxAge, 14 * time.Hour},
		{"age, in a window that is open", []given{kept(), maxAge(15 * time.Hour), windows(night)}, CauseMaxAge, 15 * time.Hour},
		{"age, at the moment in which it closes", []given{kept(), maxAge(16 * time.Hour), windows(night)}, CauseMaxAge, 38 * time.Hour},
		{"age, in the first of two", []given{kept(), maxAge(20 * time.Hour), windows(night, opening("@daily", "", time.Hour))}, CauseMaxAge, 36 * time.Hour},
		{"age, in the time zone of the window", []given{kept(), maxAge(time.Hour), windows(opening("0 2 * * *", "America/New_York", time.Hour))}, CauseMaxAge, 19 * time.Hour},
		{"age, on working days", []given{kept(), maxAge(time.Hour), windows(opening("0 10 * * TUE-FRI", "", time.Hour))}, CauseMaxAge, 2*day - 2*time.Hour},
		{"the maximum, where one opens in time", []given{kept(maxTTL, lasting(day)), overlapping(2 * time.Hour), windows(opening("0 5 * * *", "", time.Hour))}, CauseMaxTTL, 17 * time.Hour},
		{"the maximum, but not longer than the lease lives", []given{kept(maxTTL, lasting(day)), overlapping(2 * time.Hour), windows(night)}, CauseMaxTTLOutsideWindow, 22 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(c.given...)
			if cause, at := newView(&in).cause(); cause != c.cause || !at.Equal(t0.Add(c.at)) {
				t.Errorf("%s at %s, want %s at %s", cause, at.Sub(t0), c.cause, c.at)
			}
		})
	}
	in := input(kept(), windows(night), annotated(v1alpha1.RotateRequestedAtAnnotation, "now"))
	if s := Plan(in); s.Action != IssueCredential {
		t.Errorf("an order does not wait for a window, but: %+v", s)
	}
}

func TestWindowsThatNobodyUnderstandsAreNamed(t *testing.T) {
	for _, c := range []struct{ schedule, zone, says string }{
		{"0 25 * * *", "", "spec.rotation.windows[1].schedule"},
		{"0 2 30 2 *", "", "never comes"},
		{"0 2 * * *", "Europe/Wien", `spec.rotation.windows[1].timeZone: "Europe/Wien"`},
	} {
		_, err := ParseWindows([]v1alpha1.RotationWindow{{Schedule: "@hourly"}, {Schedule: c.schedule, TimeZone: c.zone}})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q in %q: %v", c.schedule, c.zone, err)
		}
	}
	invalid := Block{Reason: v1alpha1.ReasonInvalidWindow, Message: "not understood", Stalled: true}
	misgiven := func(in *Input) { in.Invalid = &invalid }
	if s := Plan(input(misgiven)); s.Action != Wait || s.Blocked == nil || s.Blocked.Reason != v1alpha1.ReasonInvalidWindow {
		t.Errorf("the first credential waits for a spec that is understood, but: %+v", s)
	}
	if s := Plan(input(misgiven, kept(maxTTL), after(renewDue))); s.Action != IssueCredential {
		t.Errorf("a lease that would die is replaced all the same, but: %+v", s)
	}
	in := input(misgiven, kept())
	Summarize(in, Plan(in))
	if c := condition(&in.Object.Status, v1alpha1.StalledCondition); c == nil || c.Message != invalid.Message {
		t.Errorf("Stalled is %+v", c)
	}
}

// Where the maximum is known from the lease before, the lease is renewed once more when there is just the time left that a
// hand-over takes: the answer says whether the maximum still holds.
func TestALeaseIsRenewedToLearnWhetherItsMaximumStillHolds(t *testing.T) {
	most := func(rec *v1alpha1.LeaseRecord) { rec.MaxTTLSeconds = 5000 }
	in := input(kept(most, lasting(4000*time.Second)), overlapping(2500*time.Second))
	if s := Plan(in); s != upNext(v1alpha1.NextRenew, 2500*time.Second) {
		t.Fatalf("%+v", s)
	}
	in.Now = t0.Add(2500 * time.Second)
	if s := Plan(in); s.Action != RenewLease {
		t.Fatalf("%+v", s)
	}
	raised := copyInput(in)
	Renewed(raised.Object.Status.Lease, Term{At: in.Now, Duration: 4000 * time.Second, Renewable: true}, 4000*time.Second)
	if got := raised.Object.Status.Lease; got.MaxTTLSeconds != 0 || Plan(raised).Action != Wait {
		t.Errorf("the maximum was raised, but: %+v, %+v", got, Plan(raised))
	}
	Renewed(in.Object.Status.Lease, Term{At: in.Now, Duration: 2500 * time.Second, Renewable: true, Capped: true}, 4000*time.Second)
	if s := Plan(in); s.Action != IssueCredential || s.Reason != CauseMaxTTL {
		t.Errorf("the hand-over just fits, but: %+v", s)
	}
}

func TestTheNextLeaseKnowsTheMaximumOfTheLastOfItsKind(t *testing.T) {
	for digest, want := range map[string]int64{"asked": 5000, "changed": 0} {
		in := input(kept(func(rec *v1alpha1.LeaseRecord) { rec.MaxTTLSeconds = 5000 }), attempt(numbered(2)))
		in.Object.Status.Attempt.RequestDigest = digest
		recordAnswer(in.Object, "lease-2", "digest-2", t0)
		if got := in.Object.Status.Lease.MaxTTLSeconds; got != want {
			t.Errorf("%s: %d, want %d", digest, got, want)
		}
	}
}

func TestAnOldLeaseIsHeldUntilNobodyNeedsIt(t *testing.T) {
	const minute = time.Minute
	for _, c := range []struct {
		name  string
		given []given
		until time.Duration // negative: nobody knows
	}{
		{"not at all without roll-out and overlap", []given{handover(), old()}, 0},
		{"for the overlap", []given{handover(), old(), overlapping(5 * minute)}, 5 * minute},
		{"for the overlap after the roll-out", []given{handover(rolledOut(10 * minute)), old(), spec(rollingOut), overlapping(5 * minute)}, 15 * minute},
		{"until all have rolled out", []given{handover(), old(), spec(rollingOut), overlapping(5 * minute)}, 2 * time.Hour},
		{"not for longer than it lives", []given{handover(), old(maxTTL), spec(rollingOut)}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(append([]given{kept(lasting(100 * time.Hour)), tries(func(ts *Tries) {
				ts.Keep = map[string]Failure{TryKey(record(numbered(0))): failed(99 * time.Hour)} // it cannot be renewed
			}), func(in *Input) { in.RolloutLook = t0.Add(90 * time.Hour) }}, c.given...)...)
			in.Now = t0.Add(c.until - time.Second)
			if s := Plan(in); s.Action != Wait {
				t.Errorf("a second before: %+v", s)
			}
			in.Now = t0.Add(c.until)
			if s := Plan(in); s.Action != EndRecord {
				t.Errorf("then: %+v", s)
			}
		})
	}
	for name, change := range map[string]given{
		"deleted": deleted(0), "revoked": spec(revoking),
	} {
		in := input(handover(), old(), spec(rollingOut), change) // nothing but the old one is left
		if s := Plan(in); s.Action != EndRecord {
			t.Errorf("%s: nobody is to have it any longer, but: %+v", name, s)
		}
	}
}

func TestAnOldLeaseThatIsHeldIsKeptAlive(t *testing.T) {
	old := func(changes ...change) given { return all(handover(), old(changes...), spec(rollingOut)) }
	look := func(in *Input) { in.RolloutLook = t0.Add(90 * time.Hour) }
	for _, c := range []struct {
		name   string
		given  given
		action Action
		at     time.Duration
	}{
		{"by renewing it", old(), RenewRetiring, renewDue},
		{"by extending its token", old(token(time.Hour, true)), ExtendRetiring, renewDue},
		{"not where it cannot be", old(maxTTL), EndRecord, time.Hour},
		{"not where it lasts", all(old(), handover(rolledOut(0)), overlapping(time.Hour)), EndRecord, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(kept(lasting(100*time.Hour)), look, c.given, after(c.at-time.Second))
			if s := Plan(in); s.Action != Wait {
				t.Errorf("a second before: %+v", s)
			}
			in.Now = t0.Add(c.at)
			if s := Plan(in); s.Action != c.action {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestConsumersAreFollowedUntilTheyHaveMoved(t *testing.T) {
	quick := func(in *Input) { in.RolloutWindow = 30 * time.Second }
	in := input(kept(), handover(), old(), spec(rollingOut), quick)
	if s := Plan(in); s.Action != FollowRollout || !s.Hold {
		t.Errorf("others may come within the window, but: %+v", s)
	}
	in.Now = t0.Add(30 * time.Second)
	if s := Plan(in); s.Action != FollowRollout || s.Hold {
		t.Errorf("the window is over, but: %+v", s)
	}
	in.RolloutLook = t0.Add(40 * time.Second)
	if s := Plan(in); s.Action != Wait || !s.At.Equal(in.RolloutLook) {
		t.Errorf("there is a next look, but: %+v", s)
	}
	for name, g := range map[string][]given{
		"the old lease is dead":            nil,
		"the old lease cannot bear to":     {old(maxTTL, lasting(10*time.Minute)), overlapping(5 * time.Minute)},
		"one of two old leases cannot":     {old(), old(numbered(9), maxTTL, lasting(10*time.Minute)), overlapping(5 * time.Minute)},
		"nobody else is waited for at all": {old(), func(in *Input) { in.RolloutWindow = 0 }},
	} {
		in := input(append([]given{kept(), handover(), spec(rollingOut), quick}, g...)...)
		if s := Plan(in); s.Action != FollowRollout || s.Hold {
			t.Errorf("%s: %+v", name, s)
		}
	}
	RolledOut(&in.Object.Status, in.Now)
	in.Now = in.Now.Add(time.Second)
	if s := Plan(in); s.Action != EndRecord {
		t.Errorf("all have moved, but: %+v", s)
	}
}

func TestPublishBeginsAHandover(t *testing.T) {
	written := func(digest string) v1alpha1.SecretStatus {
		return v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "5", Digest: digest}
	}
	d := input(kept(), spec(rollingOut)).Object
	Publish(d, written("digest-1"), false, t0)
	if h := d.Status.Handover; h.Stamp != Stamp("digest-1") || h.RolledOutAt == nil {
		t.Errorf("nobody can have used a Secret that was not there, but: %+v", h)
	}
	Publish(d, written("digest-2"), false, t0.Add(time.Hour))
	if h := d.Status.Handover; h.RolledOutAt != nil || !h.PublishedAt.Equal(stampPtr(time.Hour)) {
		t.Errorf("who used the last one is to move, but: %+v", h)
	}
	Rolling(&d.Status, "", nil, true, t0.Add(time.Hour+time.Second))
	RolledOut(&d.Status, t0.Add(time.Hour+9*time.Second))
	Publish(d, written("digest-2"), true, t0.Add(2*time.Hour))
	if h := d.Status.Handover; h.RolledOutAt == nil || h.RolloutSeconds != 8 {
		t.Errorf("the same credential is no reason to move, but: %+v", h)
	}
	Publish(d, written("digest-3"), true, t0.Add(3*time.Hour))
	if h := d.Status.Handover; h.RolledOutAt != nil || h.StampedAt != nil || h.RolloutSeconds != 8 {
		t.Errorf("a hand-over begins, and it is known how long the last one took, but: %+v", h)
	}
	d.Spec.Rollout = nil
	Publish(d, written("digest-4"), true, t0.Add(4*time.Hour))
	if h := d.Status.Handover; h.RolledOutAt == nil {
		t.Errorf("nobody is rolled out, but: %+v", h)
	}
	restored := input(kept(), spec(rollingOut)).Object
	Publish(restored, written("digest-1"), true, t0)
	if restored.Status.Handover.RolledOutAt != nil {
		t.Error("the Secret was there, so somebody may use what was in it")
	}
}

func TestRotatedSaysHowFarTheHandoverIs(t *testing.T) {
	stuck := func(h *v1alpha1.HandoverStatus) {
		h.Reason, h.Waiting = v1alpha1.ReasonRolloutStuck, []string{"Deployment/orders: 1 of 3 pods updated"}
	}
	missing := func(h *v1alpha1.HandoverStatus) {
		h.Reason, h.Waiting = v1alpha1.ReasonRolloutTargetNotFound, []string{"Deployment/orders does not exist"}
	}
	was := status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.RotatedCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonOverlap})
	})
	for _, c := range []struct {
		name           string
		given          []given
		status         metav1.ConditionStatus
		reason, says   string
		stalled, isNot bool
	}{
		{name: "not there before the first replacement", given: []given{handover(rolledOut(0))}, isNot: true},
		{name: "rolling out", given: []given{handover(), old(), spec(rollingOut)}, status: "False", reason: v1alpha1.ReasonRollingOut, says: "The old lease is held."},
		{name: "stuck", given: []given{handover(stuck), old(maxTTL), spec(rollingOut)}, status: "False", reason: v1alpha1.ReasonRolloutStuck,
			says: "1 of 3 pods updated. The old lease is held; it cannot be extended and ends at 2026-03-01T13:00:00Z."},
		{name: "no such target", given: []given{handover(missing), old(), spec(rollingOut)}, status: "False", reason: v1alpha1.ReasonRolloutTargetNotFound, says: "does not exist", stalled: true},
		{name: "without the right", given: []given{handover(), old(), spec(rollingOut), func(in *Input) { in.RolloutOff = true }}, status: "False", reason: v1alpha1.ReasonRolloutDisabled, says: "held", stalled: true},
		{name: "overlap", given: []given{handover(), old(), overlapping(5 * time.Minute)}, status: "False", reason: v1alpha1.ReasonOverlap, says: "until 2026-03-01T12:05:00Z"},
		{name: "an overlap that does not fit", given: []given{handover(), old(maxTTL), overlapping(5 * time.Hour)}, status: "False", reason: v1alpha1.ReasonHandoverCutShort, says: "ends at 2026-03-01T13:00:00Z, before"},
		{name: "cut short", given: []given{handover(func(h *v1alpha1.HandoverStatus) { h.CutShortAt = stampPtr(0) }), overlapping(5 * time.Hour)}, status: "False", reason: v1alpha1.ReasonHandoverCutShort, says: "ended at 2026-03-01T12:00:00Z"},
		{name: "over", given: []given{handover(rolledOut(0)), was}, status: "True", reason: v1alpha1.ReasonRotated, says: "the old lease is ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(append([]given{kept(), func(in *Input) { in.RolloutLook = t0.Add(time.Minute) }}, c.given...)...)
			Summarize(in, Plan(in))
			got := meta.FindStatusCondition(in.Object.Status.Conditions, v1alpha1.RotatedCondition)
			if c.isNot {
				if got != nil {
					t.Errorf("%+v", got)
				}
				return
			}
			if got == nil || got.Status != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.says) {
				t.Errorf("%+v", got)
			}
			stalled := meta.FindStatusCondition(in.Object.Status.Conditions, v1alpha1.StalledCondition)
			if (stalled != nil) != c.stalled || c.stalled && stalled.Reason != c.reason {
				t.Errorf("Stalled is %+v", stalled)
			}
			if !meta.IsStatusConditionTrue(in.Object.Status.Conditions, v1alpha1.ReadyCondition) {
				t.Error("the credential is good all the while")
			}
		})
	}
}

func TestALeaseThatEndsBeforeItsHandoverIsSaidToBeCutShort(t *testing.T) {
	in := input(kept(), handover(), old(), overlapping(5*time.Minute))
	early, d := in.Object.DeepCopy(), in.Object
	Ended(d, 0, t0.Add(5*time.Minute))
	if d.Status.Handover.CutShortAt != nil {
		t.Error("it ended in time")
	}
	RetiringLost(early, 0, t0.Add(time.Minute))
	if early.Status.Handover.CutShortAt == nil || awaited(early, &early.Status.Retiring[0]) {
		t.Errorf("%+v", early.Status)
	}
}
