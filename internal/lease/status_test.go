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

func TestRotated(t *testing.T) {
	waiting := func(reason, line string) given {
		return handover(func(h *v1alpha1.HandoverStatus) { h.Reason, h.Waiting = reason, []string{line} })
	}
	stuck := waiting(v1alpha1.ReasonRolloutStuck, "Deployment/orders: 1 of 3 pods updated")
	missing := waiting(v1alpha1.ReasonRolloutTargetNotFound, "Deployment/orders does not exist")
	forbidden := waiting(v1alpha1.ReasonRolloutForbidden, "patch deployments.apps")
	denied := waiting(v1alpha1.ReasonRolloutForbidden, "Deployment/orders cannot be stamped: denied by policy")
	failing := waiting(v1alpha1.ReasonRolloutCheckFailed, "Rollout/web cannot be parsed: replicas")
	short := handover(func(h *v1alpha1.HandoverStatus) { h.CutShortAt = stampPtr(0) })
	before := status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.RotatedCondition,
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonOverlap})
	})
	off := func(in *Input) { in.RolloutOff = true }
	stamped := func(h *v1alpha1.HandoverStatus) { h.StampedAt = stampPtr(0) }
	minutes, hours, rolls := overlapping(5*time.Minute), overlapping(5*time.Hour), spec(rollingOut)
	for _, c := range []struct {
		it           string
		given        []given
		status       metav1.ConditionStatus // empty: it does not exist
		reason, text string
		stalled      bool
	}{
		{"does not exist before the first replacement", []given{handover(rolledOut(0))}, "", "", "", false},
		{"is False during a rollout", []given{handover(), old(), rolls}, "False",
			v1alpha1.ReasonRollingOut, "The old lease is kept.", false},
		{"says that a rollout is stuck", []given{stuck, old(maxTTL), rolls}, "False", v1alpha1.ReasonRolloutStuck,
			"1 of 3 pods updated. Check the pods that do not become available. The old lease is kept; it cannot be " +
				"extended and ends at 2026-03-01T13:00:00Z.",
			false},
		{"says that a workload is missing", []given{missing, old(), rolls}, "False",
			v1alpha1.ReasonRolloutTargetNotFound, "does not exist", true},
		{"says that a permission is missing", []given{forbidden, old(), rolls}, "False",
			v1alpha1.ReasonRolloutForbidden, "leasekeeper lacks the permission to roll out workloads: patch " +
				"deployments.apps. Set rollout.enabled in leasekeeper's chart, or apply config/rollout.", true},
		{"says that admission denies the stamp", []given{denied, old(), rolls}, "False",
			v1alpha1.ReasonRolloutForbidden, "denied by policy. Let the admission policy accept", true},
		{"says that the consumers cannot be checked", []given{failing, old(), rolls}, "False",
			v1alpha1.ReasonRolloutCheckFailed, "and tries again. Rollout/web cannot be parsed: replicas. " +
				"The old lease is kept.", false},
		{"says that rollouts are disabled", []given{handover(), old(), rolls, off}, "False",
			v1alpha1.ReasonRolloutDisabled, "kept", true},
		{"is False during the overlap", []given{handover(), old(), minutes}, "False",
			v1alpha1.ReasonOverlap, "until 2026-03-01T12:05:00Z", false},
		{"says that the overlap is too long", []given{handover(), old(maxTTL), hours}, "False",
			v1alpha1.ReasonHandoverCutShort, "ends at 2026-03-01T13:00:00Z, before", false},
		{"says that the old lease ended early", []given{short, hours}, "False",
			v1alpha1.ReasonHandoverCutShort, "ended at 2026-03-01T12:00:00Z", false},
		{"is True after the handover", []given{handover(rolledOut(0)), before}, "True",
			v1alpha1.ReasonRotated, "Secret orders contains the new credential (workloads are not followed without " +
				"spec.rollout). No old lease is kept.", false},
		{"is True after the rollout", []given{handover(rolledOut(time.Second)), before, rolls}, "True",
			v1alpha1.ReasonRotated, "All workloads of spec.rollout use the new credential. No old lease is kept.",
			false},
		{"does not claim a rollout that was requested later", []given{handover(rolledOut(0)), before, rolls}, "True",
			v1alpha1.ReasonRotated, "Secret orders contains the new credential (its publication did not start a " +
				"rollout). No old lease is kept.", false},
		{"claims no revocation of what has no lease", []given{kept(static), handover(rolledOut(0)), before}, "True",
			v1alpha1.ReasonRotated, "without spec.rollout). No old lease is kept.", false},
		{"says when the rollout starts", []given{handover(), old(), rolls, settling(time.Minute)}, "False",
			v1alpha1.ReasonRollingOut, "The rollout of the workloads starts at 2026-03-01T12:01:02Z. The old lease",
			false},
		{"does not claim that workloads move before a stamp is recorded", []given{handover(), old(), rolls,
			after(propagation)}, "False", v1alpha1.ReasonRollingOut, "Waiting for the workloads to use the new", false},
		{"says that workloads move after a stamp", []given{handover(stamped), old(), rolls}, "False",
			v1alpha1.ReasonRollingOut, "Workloads are moving to the new credential. The old lease is kept.", false},
		{"says who has the new credential of a shared user", []given{kept(numbered(2), user("one")), handover(),
			old(user("one"))}, "False", v1alpha1.ReasonSharedUser, "Secret orders contains the new credential " +
			"(workloads are not followed without spec.rollout). The old lease is kept, because another", true},
	} {
		t.Run(c.it, func(t *testing.T) {
			st := statusOf(input(append([]given{kept(), checkAt(time.Minute)}, c.given...)...))
			got := conditionOf(st, v1alpha1.RotatedCondition)
			if got.status != c.status || got.reason != c.reason || !strings.Contains(got.message, c.text) {
				t.Errorf("Rotated is %+v", got)
			}
			stalled := conditionOf(st, v1alpha1.StalledCondition)
			if (stalled != says{}) != c.stalled || c.stalled && stalled.reason != c.reason {
				t.Errorf("Stalled is %+v", stalled)
			}
			if !meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ReadyCondition) {
				t.Error("the credential is valid all the time")
			}
		})
	}
}

func TestNextActionAndExpiry(t *testing.T) {
	long := failed(renewDue + half)
	long.At = t0
	oddPause := renewFailed(long, record())
	oneHour := stampPtr(time.Hour)
	for _, c := range []struct {
		it      string
		given   []given
		next    string
		at      *metav1.Time
		expires *metav1.Time
	}{
		{"a wait says what for and until when", []given{kept()}, v1alpha1.NextRenew, stampPtr(renewDue), oneHour},
		{"the API stores whole seconds", []given{kept(), oddPause}, v1alpha1.NextRenew, stampPtr(renewDue), oneHour},
		{"a short pause after a failure would be written each time",
			[]given{kept(), renewFailed(failed(renewDue+time.Minute), record()), after(renewDue)},
			v1alpha1.NextRenew, nil, oneHour},
		{"a wait for nothing says nothing", []given{spec(revoking)}, "", nil, nil},
		{"an issuance", nil, v1alpha1.NextIssue, nil, nil},
		{"an attempt", []given{attempt()}, v1alpha1.NextIssue, nil, nil},
		{"a publication", []given{recorded(), mine}, v1alpha1.NextPublish, nil, oneHour},
		{"a read", []given{kept(static), after(time.Hour)}, v1alpha1.NextRefresh, nil, nil},
		{"a removal", []given{kept(), deleted(0)}, v1alpha1.NextRevoke, nil, oneHour},
		{"a renewal", []given{kept(), after(renewDue)}, v1alpha1.NextRenew, nil, oneHour},
		{"a rollout", []given{kept(), handover(), spec(rollingOut), after(propagation)}, v1alpha1.NextRollout, nil,
			oneHour},
		{"the wait before it", []given{kept(), handover(), spec(rollingOut)}, v1alpha1.NextRollout,
			stampPtr(propagation), oneHour},
		{"the first expiry of a set", []given{keptSet(settings(), db(granted(2*time.Hour)), broker(expiring))},
			v1alpha1.NextReplace, stampPtr(renewDue), oneHour},
		{"a scheduled change is no expiry", []given{kept(scheduled(time.Hour))},
			v1alpha1.NextRefresh, nil, nil},
	} {
		st := statusOf(input(c.given...))
		if st.NextAction != c.next || !st.NextActionAt.Equal(c.at) || !st.ExpiresAt.Equal(c.expires) {
			t.Errorf("%s: %q at %s, expires at %s", c.it, st.NextAction, st.NextActionAt, st.ExpiresAt)
		}
	}
}

// status.retiring and the condition Rotated name the same time, also after a change of spec.rotation.overlap.
func TestRevokeAfterIsTheEndOfTheHandover(t *testing.T) {
	in := input(kept(), handover(rolledOut(0)), old(), overlapping(5*time.Minute))
	for _, overlap := range []time.Duration{5 * time.Minute, 30 * time.Minute, time.Minute} {
		overlapping(overlap)(&in)
		st := statusOf(in)
		at := st.Retiring[0].RevokeAfter
		if !at.Equal(stampPtr(overlap)) ||
			!strings.Contains(conditionOf(st, v1alpha1.RotatedCondition).message, utc(at.Time)) {
			t.Errorf("an overlap of %s: revokeAfter is %s, Rotated %+v", overlap, at,
				conditionOf(st, v1alpha1.RotatedCondition))
		}
	}
	rolling := input(kept(), handover(), old(), spec(rollingOut), checkAt(time.Minute))
	if at := statusOf(rolling).Retiring[0].RevokeAfter; at != nil {
		t.Errorf("revokeAfter is %s during a rollout", at)
	}
}

func TestSummary(t *testing.T) {
	const ownText, suspendText = "the policy lacks a line", " " + suspendedMessage
	stuck := all(handover(func(h *v1alpha1.HandoverStatus) { h.Reason = v1alpha1.ReasonRolloutStuck }), old(),
		spec(rollingOut), checkAt(time.Minute))
	for _, c := range []struct {
		it            string
		given         []given
		reason, start string
	}{
		{"all is well", []given{kept()}, "Leased", hasLease},
		{"not ready", nil, "Issuing", requesting1},
		{"not ready, and a person must act", []given{denied}, "AccessDenied", ownText},
		{"ready, but a person must act", []given{kept(), rotate, denied}, "AccessDenied", ownText},
		{"ready, but a renewal fails", []given{kept(), renewFails}, "Renewing", "The lease is due for renewal."},
		{"a handover that does not end", []given{kept(), stuck}, "RolloutStuck", ""},
		{"a handover in progress", []given{kept(), handover(), old(), overlapping(time.Minute)}, "Leased", hasLease},
		{"suspended", []given{spec(suspended)}, "Suspended", suspendedMessage},
		{"ready, and suspended", []given{kept(), spec(suspended)}, "Leased,Suspended", hasLease + suspendText},
		{"suspended with a failing renewal", []given{kept(), spec(suspended), renewFails}, "Renewing,Suspended", ""},
		{"being deleted", []given{kept(), deleted(0)}, "Deleting", oneLeft},
	} {
		st := statusOf(input(c.given...))
		if st.Summary != c.reason || !strings.HasPrefix(st.Message, c.start) {
			t.Errorf("%s: %s, %q", c.it, st.Summary, st.Message)
		}
	}
}

// A condition that does not change keeps its time, and one that no longer applies is removed.
func TestConditionsChangeOnlyWithTheirContent(t *testing.T) {
	in := input(issueFails)
	first := statusOf(in).DeepCopy()
	in.Now = t0.Add(time.Minute)
	in.Tries.Issue.Count = 7
	same(t, "conditions a minute and six failures later", statusOf(in).Conditions, first.Conditions)

	in.Tries.Issue = Failure{}
	kept()(&in)
	in.Object.Generation = 8
	st := statusOf(in)
	same(t, "Reconciling", conditionOf(st, v1alpha1.ReconcilingCondition), says{})
	ready := meta.FindStatusCondition(st.Conditions, v1alpha1.ReadyCondition)
	observed := ready.ObservedGeneration == 8 && st.ObservedGeneration == 8
	if !observed || !ready.LastTransitionTime.Equal(stampPtr(time.Minute)) {
		t.Errorf("Ready is %+v, observed generation %d", ready, st.ObservedGeneration)
	}
}

func TestSetSummary(t *testing.T) {
	good := Summary{Ready: true, Reason: "Good", Message: "good"}
	bad := Summary{Reason: "Bad", Message: "bad"}
	with := func(s Summary, change func(*Summary)) Summary { change(&s); return s }
	stalled := func(s *Summary) { s.Stalled = true }
	idle := func(s *Summary) { s.Idle = true }
	work := func(stalled bool) func(*Summary) {
		return func(s *Summary) { s.Work = &Block{Reason: "Work", Message: "work", Stalled: stalled} }
	}
	for _, c := range []struct {
		it                          string
		summary                     Summary
		ready, reconciling, stalled says
	}{
		{"ready", good, yes("Good", "good"), says{}, says{}},
		{"ready, and working", with(good, work(false)), yes("Good", "good"), yes("Work", "work"), says{}},
		{"ready, but a person must act", with(good, work(true)), yes("Good", "good"), says{}, yes("Work", "work")},
		{"not ready", bad, no("Bad", "bad"), yes("Bad", "bad"), says{}},
		{"not ready, and a person must act", with(bad, stalled), no("Bad", "bad"), says{}, yes("Bad", "bad")},
		{"not ready, and idle", with(bad, idle), no("Bad", "bad"), says{}, says{}},
		{"not ready, and working on something else",
			with(bad, work(false)), no("Bad", "bad"), yes("Work", "work"), says{}},
	} {
		st := &v1alpha1.DynamicSecretStatus{
			Conditions: []metav1.Condition{{Type: "Other", Status: "True", Reason: "Other"}},
		}
		for _, kind := range []string{v1alpha1.ReconcilingCondition, v1alpha1.StalledCondition} {
			meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: kind, Status: "True", Reason: "Before"})
		}
		SetSummary(&st.Conditions, 3, t0, c.summary)
		same(t, c.it+": Ready", conditionOf(st, v1alpha1.ReadyCondition), c.ready)
		same(t, c.it+": Reconciling", conditionOf(st, v1alpha1.ReconcilingCondition), c.reconciling)
		same(t, c.it+": Stalled", conditionOf(st, v1alpha1.StalledCondition), c.stalled)
		same(t, c.it+": a condition of others", conditionOf(st, "Other"), yes("Other", ""))
	}
}

// Reconciling and Stalled never exist together. A transition time changes only with the status of its condition.
func TestSetSummaryOverTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var conditions []metav1.Condition
		for i := range 6 {
			before := append([]metav1.Condition(nil), conditions...)
			s := Summary{Ready: rapid.Bool().Draw(t, "ready"), Stalled: rapid.Bool().Draw(t, "stalled"),
				Idle: rapid.Bool().Draw(t, "idle"), Reason: oneOf(t, "reason", "A", "B"),
				Message: oneOf(t, "message", "a", "b")}
			if rapid.Bool().Draw(t, "works") {
				s.Work = &Block{Reason: "Work", Stalled: rapid.Bool().Draw(t, "needs a person")}
			}
			now := t0.Add(time.Duration(i) * time.Minute)
			SetSummary(&conditions, int64(i), now, s)
			if meta.FindStatusCondition(conditions, v1alpha1.ReconcilingCondition) != nil &&
				meta.FindStatusCondition(conditions, v1alpha1.StalledCondition) != nil {
				t.Fatalf("both exist: %+v", conditions)
			}
			if meta.IsStatusConditionTrue(conditions, v1alpha1.ReadyCondition) != s.Ready {
				t.Fatalf("Ready is wrong: %+v", conditions)
			}
			for _, c := range conditions {
				want := now
				if old := meta.FindStatusCondition(before, c.Type); old != nil && old.Status == c.Status {
					want = old.LastTransitionTime.Time
				}
				if !c.LastTransitionTime.Time.Equal(want) || c.ObservedGeneration != int64(i) {
					t.Fatalf("step %d, before %+v: %+v", i, before, c)
				}
			}
		}
	})
}
