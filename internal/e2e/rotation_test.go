//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// rotation sets spec.rotation.
func rotation(overlap, maxAge time.Duration, windows ...v1alpha1.RotationWindow) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rotation = v1alpha1.RotationSpec{Overlap: &metav1.Duration{Duration: overlap}, Windows: windows}
		if maxAge > 0 {
			d.Spec.Rotation.MaxAge = &metav1.Duration{Duration: maxAge}
		}
	}
}

// untilReplaced waits until the Secret holds another lease than before.
func (r *room) untilReplaced(before *v1alpha1.DynamicSecret) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(before.Name, "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease != nil && d.Status.Lease.ID != before.Status.Lease.ID && lease.Published(&d.Status)
	})
}

// untilRotated waits until the hand-over is over, and the old lease with it.
func (r *room) untilRotated(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "rotated", func(d *v1alpha1.DynamicSecret) bool {
		return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.RotatedCondition) && len(d.Status.Retiring) == 0
	})
}

// saysReplaced waits for the event of a replacement for that cause.
func (r *room) saysReplaced(cause string) {
	r.t.Helper()
	r.eventually("the cause to be told", func() bool { return r.event("Normal", dynamic, "Replaced", "("+cause+")") })
}

func TestAnOldCredentialLivesOnForTheOverlap(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders", rotation(8*time.Second, 0))
	old := r.target("orders")
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "now")
	during := r.untilReplaced(before)
	r.must(r.login(old))
	r.must(r.login(r.target("orders")))
	if over := during.Status.Handover.PublishedAt.Add(8 * time.Second); !strings.Contains(r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonOverlap), over.UTC().Format(time.RFC3339)) {
		t.Errorf("it is not said that the old lease is held until %s", over)
	}
	after := r.untilRotated("orders")
	if ended := r.conditionOf(after, v1alpha1.RotatedCondition).LastTransitionTime; ended.Before(&metav1.Time{Time: during.Status.Handover.PublishedAt.Add(8 * time.Second)}) {
		t.Errorf("the old lease was ended at %s, published at %s", ended, during.Status.Handover.PublishedAt)
	}
	if ids := r.leases(); len(ids) != 1 || ids[0] != after.Status.Lease.ID || r.login(old) == nil {
		t.Errorf("%v live, recorded is %s", ids, after.Status.Lease.ID)
	}
}

func (r *room) conditionOf(d *v1alpha1.DynamicSecret, kind string) metav1.Condition {
	r.t.Helper()
	c := meta.FindStatusCondition(d.Status.Conditions, kind)
	if c == nil {
		r.t.Fatalf("there is no condition %s", kind)
	}
	return *c
}

func TestTheDefaultOverlapIsTwoMinutes(t *testing.T) {
	t.Parallel()
	d := manifest(t, dynamic, "default-overlap")
	if err := shared.Kube.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shared.Kube.Delete(t.Context(), d) }()
	if rotation, ok := d.Object["spec"].(map[string]any)["rotation"].(map[string]any); !ok || rotation["overlap"] != "2m" {
		t.Errorf("%v", d.Object["spec"])
	}
}

// A held lease is renewed while it must be, however long the overlap is.
func TestAnOldLeaseIsRenewedWhileItIsHeld(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(6*time.Second, time.Hour))
	before := r.ready("orders", rotation(20*time.Second, 0))
	old := r.target("orders")
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(before)
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
		for _, rec := range d.Status.Retiring {
			if rec.ID == before.Status.Lease.ID && rec.Renewals >= before.Status.Lease.Renewals+2 {
				return true
			}
		}
		return false
	})
	r.must(r.login(old))
	r.untilRotated("orders")
}

func TestACredentialIsReplacedAtItsGreatestAge(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders", rotation(time.Second, 6*time.Second))
	after := r.untilReplaced(before)
	if age := after.Status.Lease.IssuedAt.Sub(before.Status.Lease.IssuedAt.Time); age < 5*time.Second {
		t.Errorf("it was replaced when it was %s old", age)
	}
	r.saysReplaced(lease.CauseMaxAge)
}

func TestAnOverlapThatIsLongerThanALeaseLivesIsSaidToBeCutShort(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(9*time.Second, 9*time.Second))
	before := r.ready("orders", rotation(time.Hour, 0))
	after := r.untilReplaced(before)
	if age := after.Status.Lease.IssuedAt.Sub(before.Status.Lease.IssuedAt.Time); age < 2*time.Second {
		t.Errorf("it was replaced when it was %s old, so that each would be at once", age)
	}
	message := r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonHandoverCutShort)
	for _, says := range []string{"overlap", "maximum TTL"} {
		if !strings.Contains(message, says) {
			t.Errorf("it says %q", message)
		}
	}
	r.until("orders", "rid of the first lease", func(d *v1alpha1.DynamicSecret) bool {
		for _, rec := range d.Status.Retiring {
			if rec.ID == before.Status.Lease.ID {
				return false
			}
		}
		return d.Status.Lease != nil
	})
}

// closed is a window that opened an hour ago for a minute, and opens again tomorrow.
func closed() v1alpha1.RotationWindow {
	then := time.Now().UTC().Add(-time.Hour)
	return v1alpha1.RotationWindow{Schedule: then.Format("4 15 * * *"), Duration: metav1.Duration{Duration: time.Minute}}
}

func TestAPlannedReplacementWaitsForItsWindowAndAnOrderDoesNot(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders", rotation(0, time.Second, closed()))
	waits := r.until("orders", "waiting", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.NextActionAt != nil && time.Since(d.Status.Lease.IssuedAt.Time) > 3*time.Second
	})
	if waits.Status.Lease.ID != before.Status.Lease.ID {
		t.Error("it was replaced, and the window is closed")
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rotation.Windows = append(d.Spec.Rotation.Windows, v1alpha1.RotationWindow{Schedule: "* * * * *", Duration: metav1.Duration{Duration: time.Hour}})
	})
	r.untilReplaced(before)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Windows = []v1alpha1.RotationWindow{closed()} })
	after := r.until("orders", "at rest", func(d *v1alpha1.DynamicSecret) bool { return d.Status.ObservedGeneration == d.Generation })
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(after)
}

func TestALeaseThatWouldDieBeforeItsWindowIsReplacedAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(8*time.Second, 8*time.Second))
	r.untilReplaced(r.ready("orders", rotation(2*time.Second, 0, closed())))
	r.saysReplaced(lease.CauseMaxTTLOutsideWindow)
}

func TestAWindowThatNobodyUnderstandsIsNamedBeforeAnythingIsIssued(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	mark := r.vaultMark()
	window := closed()
	window.TimeZone = "Europe/Wien"
	r.apply("orders", rotation(0, time.Hour, window))
	if message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonInvalidWindow); !strings.Contains(message, `windows[0].timeZone: "Europe/Wien"`) {
		t.Errorf("it says %q", message)
	}
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were issued", n)
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Windows[0].TimeZone = "Europe/Vienna" })
	r.untilReady("orders")
}

func TestWithoutTheRightToRollOutTheOldLeaseIsHeldAndTheChartsValueNamed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	before := r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true} })
	if message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRolloutDisabled); !strings.Contains(message, "rollout.enabled") {
		t.Errorf("it says %q", message)
	}
	r.askFor(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(before)
	r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonRolloutDisabled)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rollout = nil })
	r.untilRotated("orders")
	r.untilAlive(1)
}
