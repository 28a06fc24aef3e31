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
	forbidden := waiting(v1alpha1.ReasonRolloutForbidden, "deployments is forbidden")
	short := handover(func(h *v1alpha1.HandoverStatus) { h.CutShortAt = stampPtr(0) })
	before := status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Conditions = append(st.Conditions, metav1.Condition{Type: v1alpha1.RotatedCondition,
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonOverlap})
	})
	off := func(in *Input) { in.RolloutOff = true }
	minutes, hours, rolls := overlapping(5*time.Minute), overlapping(5*time.Hour), spec(rollingOut)
	for _, c := range []struct {
		it           string
		given        []given
		status       metav1.ConditionStatus // empty: it does not exist
		reason, text string
		stalled      bool
	}{
		{"does not exist before the first replacement", []given{handover(rolledOut(0))}, "", "", "", false},
		{"is False during a roll-out", []given{handover(), old(), rolls}, "False",
			v1alpha1.ReasonRollingOut, "The old lease is kept.", false},
		{"says that a roll-out is stuck", []given{stuck, old(maxTTL), rolls}, "False", v1alpha1.ReasonRolloutStuck,
			"1 of 3 pods updated. The old lease is kept; it cannot be extended and ends at 2026-03-01T13:00:00Z.",
			false},
		{"says that a workload is missing", []given{missing, old(), rolls}, "False",
			v1alpha1.ReasonRolloutTargetNotFound, "does not exist", true},
		{"says that a permission is missing", []given{forbidden, old(), rolls}, "False",
			v1alpha1.ReasonRolloutForbidden, "is forbidden", true},
		{"says that roll-outs are disabled", []given{handover(), old(), rolls, off}, "False",
			v1alpha1.ReasonRolloutDisabled, "kept", true},
		{"is False during the overlap", []given{handover(), old(), minutes}, "False",
			v1alpha1.ReasonOverlap, "until 2026-03-01T12:05:00Z", false},
		{"says that the overlap is too long", []given{handover(), old(maxTTL), hours}, "False",
			v1alpha1.ReasonHandoverCutShort, "ends at 2026-03-01T13:00:00Z, before", false},
		{"says that the old lease ended early", []given{short, hours}, "False",
			v1alpha1.ReasonHandoverCutShort, "ended at 2026-03-01T12:00:00Z", false},
		{"is True after the hand-over", []given{handover(rolledOut(0)), before}, "True",
			v1alpha1.ReasonRotated, "the old lease is revoked", false},
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
	oddPause := renewFailed(failed(renewDue+half), record())
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
		{"a wait for nothing says nothing", []given{spec(revoking)}, "", nil, nil},
		{"an issuance", nil, v1alpha1.NextIssue, nil, nil},
		{"an attempt", []given{attempt()}, v1alpha1.NextIssue, nil, nil},
		{"a publication", []given{recorded(), mine}, v1alpha1.NextPublish, nil, oneHour},
		{"a read", []given{kept(static), after(time.Hour)}, v1alpha1.NextRefresh, nil, nil},
		{"a removal", []given{kept(), deleted(0)}, v1alpha1.NextRevoke, nil, oneHour},
		{"a renewal", []given{kept(), after(renewDue)}, v1alpha1.NextRenew, nil, oneHour},
		{"a roll-out", []given{kept(), handover(), spec(rollingOut)}, v1alpha1.NextRollout, nil, oneHour},
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
