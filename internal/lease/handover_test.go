package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

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

func settling(d time.Duration) given {
	return spec(func(s *v1alpha1.DynamicSecretSpec) { s.Rotation.Settle = lasting(d) })
}

func checkAt(at time.Duration) given { return func(in *Input) { in.RolloutCheckAt = t0.Add(at) } }

func TestWhenALiveCredentialIsReplaced(t *testing.T) {
	const hour, minute = time.Hour, time.Minute
	tenHours := granted(10 * hour)
	handingOver := all(handover(rolledOut(0)), old())
	for _, c := range []struct {
		it    string
		given []given
		cause string
		at    time.Duration
	}{
		{"never, if it can be renewed", []given{kept()}, "", 0},
		{"at its maximum age", []given{kept(), maxAge(10 * hour)}, CauseMaxAge, 10 * hour},
		{"not for its age during a handover", []given{kept(), maxAge(10 * hour), handingOver}, "", 0},
		{"before it expires, even during a handover", []given{kept(maxTTL), maxAge(hour / 2), handingOver},
			CauseMaxTTL, renewDue},
		{"after renewAtPercent of what is left", []given{kept(maxTTL)}, CauseMaxTTL, renewDue},
		{"earlier for a long overlap",
			[]given{kept(maxTTL), overlapping(30 * time.Minute)}, CauseMaxTTL, 30*time.Minute - issueTime},
		{"earlier for a rollout of unknown duration",
			[]given{kept(maxTTL), spec(rollingOut), overlapping(20 * time.Minute)},
			CauseMaxTTL, 35*time.Minute - issueTime - propagation},
		{"earlier for a credential that needs time to work", []given{kept(maxTTL), spec(rollingOut), settling(minute),
			handover(rolledOut(0), took(10*minute)), overlapping(10 * minute)},
			CauseMaxTTL, 29*minute - rolloutMargin - issueTime - propagation},
		{"early enough for twice the last rollout", []given{kept(maxTTL), spec(rollingOut),
			handover(rolledOut(0), took(10*time.Minute)), overlapping(10 * time.Minute)},
			CauseMaxTTL, 30*time.Minute - rolloutMargin - issueTime - propagation},
		{"not before a third of its life", []given{kept(maxTTL), overlapping(5 * hour)}, CauseMaxTTL, 20 * time.Minute},
		{"at the age, if that is first",
			[]given{kept(maxTTL), maxAge(10 * time.Minute)}, CauseMaxAge, 10 * time.Minute},
		{"at the maximum TTL, if that is first", []given{kept(maxTTL), maxAge(hour)}, CauseMaxTTL, renewDue},
		{"before its session ends", []given{kept(session(10*hour, false)), overlapping(hour)}, CauseMaxTTL,
			9*hour - issueTime},
		{"never, if it is a grant", []given{kept(maxTTL), maxAge(hour), leaseSpec(never)}, "", 0},
		{"never, if it is static", []given{kept(static), maxAge(hour)}, "", 0},
		{"at the maximum age, if it is not read again", []given{kept(once), maxAge(hour)}, CauseMaxAge, hour},
		{"never, if it is scheduled", []given{kept(scheduled(hour)), maxAge(hour)}, "", 0},
		{"before a certificate expires", []given{kept(expiring), overlapping(30 * time.Minute)}, CauseMaxTTL,
			30*time.Minute - issueTime},
		{"when the first of a set is due",
			[]given{keptSet(db(tenHours), broker(maxTTL), settings())}, CauseMaxTTL, renewDue},
		{"when the first of a set reaches its age", []given{keptSet(settings(), db(tenHours)), maxAge(hour)},
			CauseMaxAge, hour},
	} {
		t.Run(c.it, func(t *testing.T) {
			cause, at := newView(input(c.given...)).cause()
			if cause != c.cause || (cause != "" && !at.Equal(t0.Add(c.at))) {
				t.Errorf("%s at %s, want %s at %s", cause, at.Sub(t0), c.cause, c.at)
			}
		})
	}
}

// A lease whose maximum is known is renewed again while the handover still fits, to learn whether that maximum still
// applies.
func TestPlanProbesTheMaximumTTL(t *testing.T) {
	const overlap, due = 1000 * time.Second, 4000*time.Second - issueTime
	known := func(rec *v1alpha1.LeaseRecord) { rec.MaxTTLSeconds = 5000 }
	in := input(kept(known, granted(6000*time.Second)), overlapping(overlap))
	in.Now = t0.Add(due - time.Second)
	same(t, "before", Plan(in), waitFor(v1alpha1.NextRenew, due))
	in.Now = t0.Add(due)
	same(t, "then", Plan(in), renewLease)

	requested := Increment(in.Object, &in.Object.Status.Leases[0], in.Now)
	if most := 5000*time.Second - due; requested <= most {
		t.Errorf("%s is requested, although the maximum permits %s", requested, most)
	}
	for _, c := range []struct {
		it      string
		granted Term
		want    Action
	}{
		{"it is raised", Term{Duration: requested}, Wait},
		{"it still applies", Term{Duration: 1000*time.Second + issueTime, Capped: true}, Issue},
		{"the backend ignores what is requested", Term{Duration: 500 * time.Second}, Issue},
	} {
		renewed := copyInput(in)
		c.granted.At, c.granted.Renewable = in.Now, true
		Renewed(&renewed.Object.Status.Leases[0], c.granted, requested)
		if s := Plan(renewed); s.Action != c.want {
			t.Errorf("%s: %+v, %+v", c.it, s, renewed.Object.Status.Leases[0])
		}
	}
	grant := input(kept(known, granted(6000*time.Second)), overlapping(overlap), leaseSpec(never))
	same(t, "a grant", Plan(grant), waitFor(v1alpha1.NextRenew, 4020*time.Second))
}

func TestAnOldLeaseIsHeldForItsConsumers(t *testing.T) {
	const minute = time.Minute
	minutes := overlapping(5 * minute)
	notExtendable := renewFailed(failedAt(99*time.Hour), record(numbered(0)))
	for _, c := range []struct {
		it    string
		given []given
		until time.Duration
	}{
		{"not at all without rollout and overlap", []given{handover(), old()}, 0},
		{"for the overlap", []given{handover(), old(), minutes}, 5 * minute},
		{"for the overlap after the rollout", []given{handover(rolledOut(10 * minute)), old(), spec(rollingOut),
			minutes}, 15 * minute},
		{"until it is dead, if the rollout never ends", []given{handover(), old(), spec(rollingOut), minutes},
			2 * time.Hour},
		{"not longer than it lives", []given{handover(), old(maxTTL), spec(rollingOut)}, time.Hour},
		{"a certificate as well", []given{handover(), old(revocable), minutes}, 5 * minute},
	} {
		t.Run(c.it, func(t *testing.T) {
			base := []given{kept(granted(100 * time.Hour)), notExtendable, checkAt(90 * time.Hour)}
			in := input(append(base, c.given...)...)
			in.Now = t0.Add(c.until - time.Second)
			if s := Plan(in); s.Action != Wait {
				t.Errorf("a second earlier: %+v", s)
			}
			in.Now = t0.Add(c.until)
			same(t, "then", Plan(in), step(RevokeRecord, reasonReplaced).ofRetiring(0))
		})
	}
}

func TestAllOldLeasesOfASetAreHeld(t *testing.T) {
	in := input(keptSet(db(numbered(4), granted(9*time.Hour)), broker(numbered(5), granted(9*time.Hour))),
		handover(), overlapping(5*time.Minute),
		retiring(db(retired(0, reasonReplaced)), broker(retired(0, reasonReplaced))))
	same(t, "during the overlap", Plan(in), waitFor(v1alpha1.NextRevoke, 5*time.Minute))
	in.Now = t0.Add(5 * time.Minute)
	for _, id := range []string{"lease-1", "lease-2"} {
		s := Plan(in)
		if s.Action != RevokeRecord || in.Object.Status.Retiring[s.Record].ID != id {
			t.Fatalf("%s is to be revoked: %+v", id, s)
		}
		RemoveRetired(in.Object, s.Record, in.Now)
	}
	if h := in.Object.Status.Handover; h.CutShortAt != nil {
		t.Errorf("the handover was complete: %+v", h)
	}
}

func TestAHeldLeaseIsKeptAlive(t *testing.T) {
	held := func(changes ...change) given { return all(handover(), old(changes...), spec(rollingOut)) }
	short := all(handover(rolledOut(0)), overlapping(time.Hour))
	for _, c := range []struct {
		it    string
		given given
		want  Step
		at    time.Duration
	}{
		{"it is renewed", held(), renewLease, renewDue},
		{"its session is extended",
			held(session(time.Hour, true)), step(ExtendSession, v1alpha1.ReasonRenewing), renewDue},
		{"it is renewed after its end, to learn whether it is gone", all(held(), renewFailed(Failure{Count: 9,
			NotBefore: t0.Add(61 * time.Minute)}, record(numbered(0)))), renewLease, 61 * time.Minute},
		{"it is revoked at the end if it cannot be renewed",
			held(maxTTL), step(RevokeRecord, reasonReplaced), time.Hour},
		{"it is not renewed if it lasts long enough",
			all(held(), short), step(RevokeRecord, reasonReplaced), time.Hour},
	} {
		t.Run(c.it, func(t *testing.T) {
			in := input(kept(granted(100*time.Hour)), checkAt(90*time.Hour), c.given, after(c.at-time.Second))
			if s := Plan(in); s.Action != Wait {
				t.Errorf("a second earlier: %+v", s)
			}
			in.Now = t0.Add(c.at)
			same(t, "then", Plan(in), c.want.ofRetiring(0))
		})
	}
}

func TestTheEndOfAKeptCredential(t *testing.T) {
	current := kept(numbered(2), granted(100*time.Hour), user("one"))
	for _, c := range []struct {
		it, because string
		given       []given
		want        time.Duration
	}{
		{"without an old credential", "there is none", []given{current}, 0},
		{"awaited by a handover", "consumers use it", []given{current, handover(), old()}, time.Hour},
		{"of a session", "the lease ends with it", []given{current, handover(), old(session(time.Minute, true))},
			time.Minute},
		{"of the first of several", "it is the most urgent",
			[]given{current, handover(), old(), old(granted(time.Minute))}, time.Minute},
		{"still in the Secret", "the successor is not published", []given{succeeded()}, time.Hour},
		{"with the user in use", "its end drops the user",
			[]given{current, old(retired(0, v1alpha1.ReasonLeaseRevoked), user("one"))}, time.Hour},
		{"never published", "nobody uses it",
			[]given{current, retiring(record(retired(0, CauseUnpublished)))}, 0},
		{"of a revoked object", "nobody may use it", []given{current, handover(), old(), spec(revoking)}, 0},
		{"that is over", "nothing can save it", []given{current, handover(), old(), after(time.Hour)}, 0},
	} {
		t.Run(c.it, func(t *testing.T) {
			in := input(c.given...)
			end, ok := KeptEnd(in.Object, in.Now)
			if ok != (c.want > 0) || ok && !end.Equal(t0.Add(c.want)) {
				t.Errorf("because %s: %s, %t, want %s", c.because, end, ok, c.want)
			}
		})
	}
}

func TestPlanFollowsARollOut(t *testing.T) {
	quick := func(in *Input) { in.RolloutWindow = 30 * time.Second }
	base := all(kept(), handover(), spec(rollingOut), quick, after(propagation))
	dying := old(maxTTL, granted(10*time.Minute))
	minutes := overlapping(5 * time.Minute)
	follow := step(FollowRollout, v1alpha1.ReasonRollingOut)
	hold := follow
	hold.Hold = true
	window := after(30 * time.Second)
	for _, c := range []struct {
		it    string
		given []given
		want  Step
	}{
		{"waits for other Secrets of the workloads", []given{old()}, hold},
		{"stops waiting after the rollout window", []given{old(), window}, follow},
		{"does not wait without a live old lease", nil, follow},
		{"does not wait if the old lease has no time for it", []given{dying, minutes}, follow},
		{"does not wait if one of two old leases has no time", []given{old(), dying, minutes}, follow},
		{"does not wait without a rollout window", []given{old(), func(in *Input) { in.RolloutWindow = 0 }}, follow},
		{"gives the kubelets a moment to see the Secret", []given{old(), after(propagation - time.Second)},
			waitFor(v1alpha1.NextRollout, propagation)},
		{"does not stamp before the credential has settled", []given{dying, minutes, settling(time.Minute),
			after(time.Minute)}, waitFor(v1alpha1.NextRollout, time.Minute+propagation)},
		{"stamps when it has", []given{dying, minutes, settling(time.Minute), after(time.Minute + propagation)},
			follow},
		{"checks again later", []given{old(), window, checkAt(40 * time.Second)},
			Step{Action: Wait, At: t0.Add(40 * time.Second)}.withNext(v1alpha1.NextRenew, renewDue)},
		{"is done when all consumers are rolled out", []given{old(), handover(rolledOut(0))},
			step(RevokeRecord, reasonReplaced).ofRetiring(0)},
		{"follows nothing while the Secret is not current",
			[]given{target(TargetAbsent)}, step(Issue, CauseSecretLost)},
	} {
		t.Run(c.it, func(t *testing.T) {
			same(t, "the step", Plan(input(append([]given{base}, c.given...)...)), c.want)
		})
	}
}

func TestPublishStartsAHandover(t *testing.T) {
	d := input(kept(), spec(rollingOut)).Object
	st := &d.Status
	publish := func(n string, existed bool, at time.Duration) *v1alpha1.HandoverStatus {
		RecordPublished(d, *writtenSecret("digest-" + n), existed, t0.Add(at))
		return st.Handover
	}
	if h := publish("1", false, 0); h.Stamp != Stamp("digest-1") || h.RolledOutAt == nil {
		t.Errorf("nobody can have used a Secret that did not exist: %+v", h)
	}
	if h := publish("2", false, time.Hour); h.RolledOutAt != nil || !h.PublishedAt.Equal(stampPtr(time.Hour)) {
		t.Errorf("the consumers of the last credential have to move: %+v", h)
	}
	RecordRollout(st, "", nil, true, t0.Add(time.Hour+time.Second))
	RolledOut(st, t0.Add(time.Hour+9*time.Second))
	if h := publish("2", true, 2*time.Hour); h.RolledOutAt == nil || h.RolloutSeconds != 8 {
		t.Errorf("the same data start no handover: %+v", h)
	}
	if h := publish("3", true, 3*time.Hour); h.RolledOutAt != nil || h.StampedAt != nil || h.RolloutSeconds != 8 {
		t.Errorf("a new handover remembers how long the last rollout took: %+v", h)
	}
	d.Spec.Rollout = nil
	if h := publish("4", true, 4*time.Hour); h.RolledOutAt == nil {
		t.Errorf("there are no consumers to roll out: %+v", h)
	}
	restored := input(kept(), spec(rollingOut)).Object
	if RecordPublished(restored, *writtenSecret("digest-1"), true, t0); restored.Status.Handover.RolledOutAt != nil {
		t.Error("the Secret existed, so consumers may use its former content")
	}
}

func TestRollingRecordsTheProgress(t *testing.T) {
	st := &input(kept(), handover(), spec(rollingOut)).Object.Status
	waiting := []string{"Deployment/orders: 1 of 3 pods updated"}
	RecordRollout(st, v1alpha1.ReasonRolloutStuck, waiting, false, t0.Add(time.Second))
	want := v1alpha1.HandoverStatus{Stamp: Stamp("digest-1"), PublishedAt: stamp(0),
		Reason: v1alpha1.ReasonRolloutStuck, Waiting: waiting, HaltedAt: stampPtr(time.Second)}
	same(t, "before the first stamp", *st.Handover, want)

	RecordRollout(st, "", nil, true, t0.Add(2*time.Second))
	RecordRollout(st, "", nil, true, t0.Add(3*time.Second))
	want.Reason, want.Waiting, want.StampedAt, want.HaltedAt = "", nil, stampPtr(2*time.Second), nil
	same(t, "after it", *st.Handover, want)

	RolledOut(st, t0.Add(2*time.Second+half))
	want.RolledOutAt, want.RolloutSeconds = stampPtr(3*time.Second), 1
	same(t, "at the end", *st.Handover, want)
}

// The duration of a rollout decides how early the next handover starts, so it is what the workloads need, not people.
func TestTheDurationOfARollout(t *testing.T) {
	const minute, paused = time.Minute, v1alpha1.ReasonRolloutPaused
	type event struct {
		at      time.Duration
		reason  string
		stamped bool
	}
	rolling := v1alpha1.ReasonRollingOut
	for _, c := range []struct {
		it     string
		events []event
		done   time.Duration
		want   time.Duration
	}{
		{"counts from the first stamp", []event{{minute, rolling, true}, {2 * minute, rolling, true}},
			4 * minute, 3 * minute},
		{"counts from the publication if the stamp was not recorded", nil, 4 * minute, 4 * minute},
		{"replaces the last one, even if there was nothing to do", nil, 0, time.Second},
		{"omits a pause", []event{{0, rolling, true}, {minute, paused, false}, {50 * minute, rolling, false}},
			52 * minute, 3 * minute},
		{"omits a pause from the start", []event{{0, paused, true}, {20 * time.Hour, rolling, false}},
			20*time.Hour + minute, minute},
		{"omits a pause until the end", []event{{0, rolling, true}, {minute, paused, false}},
			20 * time.Hour, minute},
		{"omits two pauses", []event{{0, rolling, true}, {minute, paused, false}, {2 * minute, rolling, false},
			{3 * minute, v1alpha1.ReasonRolloutStuck, false}, {9 * minute, paused, false},
			{20 * minute, rolling, false}}, 21 * minute, 3 * minute},
		{"omits the time before a missing workload existed", []event{{0, v1alpha1.ReasonRolloutTargetNotFound, false},
			{9 * time.Hour, rolling, true}}, 9*time.Hour + minute, minute},
		{"has a limit", []event{{0, rolling, true}}, 99 * time.Hour, maxRollout},
	} {
		t.Run(c.it, func(t *testing.T) {
			st := &input(kept(), handover(took(2*time.Hour)), spec(rollingOut)).Object.Status
			for _, e := range c.events {
				RecordRollout(st, e.reason, nil, e.stamped, t0.Add(e.at))
			}
			RolledOut(st, t0.Add(c.done))
			if got := duration(st.Handover.RolloutSeconds); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if h := st.Handover; h.HaltedAt != nil || h.HaltedSeconds != 0 {
				t.Errorf("at the end: %+v", h)
			}
		})
	}
}

func TestAHandoverIsCutShort(t *testing.T) {
	minutes := overlapping(5 * time.Minute)
	for _, c := range []struct {
		it    string
		given given
		end   func(d *v1alpha1.DynamicSecret)
		short bool
	}{
		{"not by a revocation in time", minutes, func(d *v1alpha1.DynamicSecret) {
			RemoveRetired(d, 0,
				t0.Add(5*time.Minute))
		}, false},
		{"by a revocation during the overlap", minutes, func(d *v1alpha1.DynamicSecret) {
			RemoveRetired(d, 0,
				t0.Add(time.Minute))
		}, true},
		{"by a revocation during the rollout", spec(rollingOut), func(d *v1alpha1.DynamicSecret) {
			RemoveRetired(d, 0,
				t0.Add(time.Hour))
		}, true},
		{"by the loss of the old lease", minutes, func(d *v1alpha1.DynamicSecret) {
			RetiringLost(d, 0,
				t0.Add(time.Minute))
		}, true},
		{"not if the object is deleted", all(minutes, deleted(0)), func(d *v1alpha1.DynamicSecret) {
			RemoveRetired(d, 0,
				t0.Add(time.Minute))
		}, false},
		{"not if spec.revoked is true", all(minutes, spec(revoking)), func(d *v1alpha1.DynamicSecret) {
			RemoveRetired(d, 0,
				t0.Add(time.Minute))
		}, false},
	} {
		d := input(kept(), handover(), old(), c.given).Object
		c.end(d)
		if got := d.Status.Handover.CutShortAt != nil; got != c.short {
			t.Errorf("%s: %v", c.it, got)
		}
	}
}
