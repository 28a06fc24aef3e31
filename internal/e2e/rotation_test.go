//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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

// untilReplaced waits until the Secret contains the credential of another lease.
func (r *rig) untilReplaced(before *v1alpha1.DynamicSecret) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(before.Name, "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(before, d) && lease.Published(&d.Status)
	})
}

// untilRotated waits until the handover is complete and the old lease is revoked.
func (r *rig) untilRotated(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "rotated", func(d *v1alpha1.DynamicSecret) bool {
		return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.RotatedCondition) && len(d.Status.Retiring) == 0
	})
}

// reportsReplaced waits for the event about a replacement with this cause.
func (r *rig) reportsReplaced(cause string) {
	r.t.Helper()
	r.eventually("an event with the cause "+cause, func() bool {
		return r.event("Normal", dynamic, v1alpha1.ReasonReplaced, "("+cause+")")
	})
}

func TestOldCredentialStaysValidForTheOverlap(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders", rotation(8*time.Second, 0))
	old := r.target("orders")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	during := r.untilReplaced(before)
	r.must(r.login(old))
	r.must(r.login(r.target("orders")))
	until := during.Status.Handover.PublishedAt.Add(8 * time.Second)
	message := r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonOverlap)
	if want := until.UTC().Format(time.RFC3339); !strings.Contains(message, want) {
		t.Errorf("the message is %q, want %q in it", message, want)
	}
	after := r.untilRotated("orders")
	if at := r.conditionOf(after, v1alpha1.RotatedCondition).LastTransitionTime; at.Time.Before(until) {
		t.Errorf("the old lease was revoked at %s, before the overlap ended at %s", at, until)
	}
	if ids := r.leases(); len(ids) != 1 || ids[0] != leaseID(after) || r.login(old) == nil {
		t.Errorf("leases %v are alive, the status records %s", ids, leaseID(after))
	}
}

func (r *rig) conditionOf(d *v1alpha1.DynamicSecret, kind string) metav1.Condition {
	r.t.Helper()
	c := meta.FindStatusCondition(d.Status.Conditions, kind)
	if c == nil {
		r.t.Fatalf("condition %s does not exist", kind)
	}
	return *c
}

func TestDefaultOverlapIsTwoMinutes(t *testing.T) {
	t.Parallel()
	d := manifest(t, dynamic, "default-overlap")
	if err := shared.Kube.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shared.Kube.Delete(t.Context(), d) }()
	if overlap, _, _ := unstructured.NestedString(d.Object, "spec", "rotation", "overlap"); overlap != "2m0s" {
		t.Errorf("spec: %v", d.Object["spec"])
	}
}

// The overlap is longer than the lease, so the lease must be renewed.
func TestOldLeaseIsRenewedWhileHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(6*time.Second, time.Hour))
	before := r.ready("orders", rotation(20*time.Second, 0))
	old := r.target("orders")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(before)
	time.Sleep(12 * time.Second) // twice its TTL
	r.must(r.login(old))
	r.untilRotated("orders")
}

func TestCredentialIsReplacedAtMaxAge(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders", rotation(time.Second, 6*time.Second))
	after := r.untilReplaced(before)
	if age := record(after).IssuedAt.Sub(record(before).IssuedAt.Time); age < 5*time.Second {
		t.Errorf("it was replaced after only %s", age)
	}
	r.reportsReplaced(lease.CauseMaxAge)
}

func TestOverlapLongerThanLeaseIsReportedAsCutShort(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(9*time.Second, 9*time.Second))
	before := r.ready("orders", rotation(time.Hour, 0))
	after := r.untilReplaced(before)
	if age := record(after).IssuedAt.Sub(record(before).IssuedAt.Time); age < 2*time.Second {
		t.Errorf("it was replaced after only %s; then each credential would be replaced at once", age)
	}
	message := r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonHandoverCutShort)
	for _, want := range []string{"overlap", "maximum TTL"} {
		if !strings.Contains(message, want) {
			t.Errorf("the message is %q, want %q in it", message, want)
		}
	}
	r.until("orders", "rid of the first lease", func(d *v1alpha1.DynamicSecret) bool {
		return hasLease(d) && !retires(d, leaseID(before))
	})
}

// The first lease has a maximum that nobody knows, the second one that is known.
func TestOverlapLongerThanTheTTLIsKept(t *testing.T) {
	t.Parallel()
	const overlap = 20 * time.Second
	r := newRig(t, shared, withTTL(10*time.Second, time.Minute))
	before := r.ready("orders", rotation(overlap, 0))
	for range 2 {
		old := r.target("orders")
		after := r.untilReplaced(before)
		until := after.Status.Handover.PublishedAt.Add(overlap)
		for time.Now().Before(until) {
			if err := r.login(old); err != nil && time.Now().Before(until) {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		d := r.until("orders", "rid of the old lease", func(d *v1alpha1.DynamicSecret) bool {
			return !retires(d, leaseID(before))
		})
		if d.Status.Handover.CutShortAt != nil {
			t.Errorf("the handover was cut short at %s", d.Status.Handover.CutShortAt)
		}
		if r.login(old) == nil {
			t.Error("the old credential is still valid")
		}
		before = after
	}
}

// closed is a window that opened an hour ago for a minute, and opens again tomorrow.
func closed() v1alpha1.RotationWindow {
	then := time.Now().UTC().Add(-time.Hour)
	return v1alpha1.RotationWindow{
		Schedule: then.Format("4 15 * * *"), Duration: metav1.Duration{Duration: time.Minute},
	}
}

func TestPlannedReplacementWaitsForItsWindow(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders", rotation(0, time.Second, closed()))
	waits := r.until("orders", "waiting", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.NextActionAt != nil && time.Since(record(d).IssuedAt.Time) > 3*time.Second
	})
	if leaseID(waits) != leaseID(before) {
		t.Error("it was replaced although the window is closed")
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		open := v1alpha1.RotationWindow{Schedule: "* * * * *", Duration: metav1.Duration{Duration: time.Hour}}
		d.Spec.Rotation.Windows = append(d.Spec.Rotation.Windows, open)
	})
	r.untilReplaced(before)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Windows = []v1alpha1.RotationWindow{closed()} })
	after := r.until("orders", "reconciled", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.ObservedGeneration == d.Generation
	})
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(after)
}

func TestExpiringLeaseDoesNotWaitForItsWindow(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(8*time.Second, 8*time.Second))
	r.untilReplaced(r.ready("orders", rotation(2*time.Second, 0, closed())))
	r.reportsReplaced(lease.CauseMaxTTLOutsideWindow)
}

func TestInvalidWindowBlocksIssuance(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	mark := r.vaultMark()
	window := closed()
	window.TimeZone = "Europe/Wien"
	r.apply("orders", rotation(0, time.Hour, window))
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonInvalidWindow)
	if want := `windows[0].timeZone: "Europe/Wien"`; !strings.Contains(message, want) {
		t.Errorf("the message is %q, want %q in it", message, want)
	}
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were requested", n)
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Windows[0].TimeZone = "Europe/Vienna" })
	r.untilReady("orders")
}

func TestRolloutWithoutPermissionHoldsTheOldLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders", discovers)
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonRolloutDisabled)
	if want := "rollout.enabled"; !strings.Contains(message, want) {
		t.Errorf("the message is %q, want %q in it", message, want)
	}
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	r.untilReplaced(before)
	r.untilReason("orders", v1alpha1.RotatedCondition, v1alpha1.ReasonRolloutDisabled)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Rollout = nil })
	r.untilRotated("orders")
	r.untilAlive(1)
}
