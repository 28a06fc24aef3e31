package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// runFor lets the first process work for the time.
func (w *world) runFor(d time.Duration) {
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); w.clock.Step(time.Second) {
		_, _ = w.procs[0].run(nil)
	}
}

func (w *world) requestRotation(value string) {
	w.person(func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, value)
	})
}

// Consumers that cannot be inspected hold the old lease. They delay nothing else: renewals, replacements, a revocation,
// a deletion. They are inspected less and less often, and a message that changes only in digits is not written again.
func TestFailingInspectionBlocksNothingElse(t *testing.T) {
	w := newWorld(1)
	w.object.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	w.rolloutFault = fmt.Errorf("list deployments.apps: read tcp 10.0.0.1:%d: connection refused", 1)
	w.requestRotation("1")
	w.runFor(5 * time.Second)
	rotated := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.RotatedCondition)
	if rotated == nil || rotated.Reason != v1alpha1.ReasonRolloutCheckFailed ||
		!strings.Contains(rotated.Message, "connection refused") {
		t.Fatalf("Rotated is %+v", rotated)
	}
	if !meta.IsStatusConditionTrue(w.object.Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the credential is valid")
	}
	before, inspected := len(w.effects), w.inspections
	for i := range 10 {
		w.rolloutFault = fmt.Errorf("list deployments.apps: read tcp 10.0.0.1:%d: connection refused", 1000+i)
		w.runFor(time.Minute)
	}
	if n := w.inspections - inspected; n < 8 || n > 20 {
		t.Errorf("the consumers were inspected %d times in 10 minutes", n)
	}
	if extra := w.effects[before:]; len(extra) > 0 {
		t.Errorf("a failure that does not change had effects: %v", extra)
	}
	w.requestRotation("2")
	w.runFor(5 * time.Second)
	if w.object.Status.LastHandledRotateAt != "2" || w.backend.Issued() != 3 {
		t.Errorf("the second rotation is blocked: %v", tail(w.effects))
	}
	w.delete()
	w.runFor(5 * time.Second)
	if w.object != nil || len(w.backend.Live()) > 0 {
		t.Errorf("the deletion is blocked: %v", tail(w.effects))
	}
}

// A retiring lease that consumers do not use is revoked although the consumers cannot be inspected.
func TestFailingInspectionDelaysNoRevocation(t *testing.T) {
	w := newWorld(1)
	w.object.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	w.rolloutFault = fmt.Errorf("webhook is down")
	w.requestRotation("1")
	// The response of the issuance is lost; its session is revoked after the request limit.
	w.fault = fault{after: 2, kind: failAfter}
	w.runFor(testRequestLimit + time.Minute)
	if !slices.ContainsFunc(w.effects, func(e string) bool { return e == "a:revoke" }) || len(w.backend.Live()) != 2 {
		t.Errorf("live leases %v, effects %v", w.backend.Live(), w.effects)
	}
}

// Something removes the stamp again and again. leasekeeper stamps a few times quickly, then after growing pauses, keeps
// the old lease, and reports that once. The pauses end with the next credential, or when somebody changes the spec.
func TestRemovedStampsAreSetAfterGrowingPauses(t *testing.T) {
	for name, end := range map[string]func(*world){
		"another rotation": func(w *world) { w.requestRotation("2") },
		"a new spec": func(w *world) {
			w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"a": "b"} })
		},
		"nothing": func(w *world) { w.pass(time.Hour) },
	} {
		w := newWorld(1)
		w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
		w.object.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		w.unstamps = true
		w.requestRotation("1")
		stamps := func() (n int) {
			for _, e := range w.effects {
				if e == "a:stamp" {
					n++
				}
			}
			return n
		}
		w.pass(30 * time.Second)
		quick := stamps()
		w.pass(10 * time.Hour)
		if all := stamps(); quick < quickStamps || all > 24 || all <= quick {
			t.Errorf("%s: %d stamps in 30 s, %d in 10 hours", name, quick, all)
		}
		rotated := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.RotatedCondition)
		if rotated == nil || rotated.Reason != v1alpha1.ReasonRolloutContested || len(w.backend.Live()) != 2 {
			t.Errorf("%s: Rotated is %+v, %d leases live", name, rotated, len(w.backend.Live()))
		}
		if !meta.IsStatusConditionTrue(w.object.Status.Conditions, v1alpha1.StalledCondition) {
			t.Errorf("%s: it is not Stalled", name)
		}
		events := map[string]int{}
		for _, e := range w.events {
			reason, _, _ := strings.Cut(e, ":")
			events[reason]++
		}
		if events[v1alpha1.ReasonRolloutContested] == 0 || events[v1alpha1.ReasonRolloutContested] > 2 ||
			events[v1alpha1.ReasonRollingOut] != 1 {
			t.Errorf("%s: the events are %v", name, w.events)
		}
		w.unstamps = false
		end(w)
		w.pass(time.Minute)
		if !meta.IsStatusConditionTrue(w.object.Status.Conditions, v1alpha1.RotatedCondition) ||
			len(w.backend.Live()) != 1 {
			t.Errorf("%s: it does not complete: %s", name, w.messages())
		}
	}
}
