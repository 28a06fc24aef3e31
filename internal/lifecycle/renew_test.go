package lifecycle

import (
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// reason of a condition; empty: there is no such condition.
func (w *world) reason(condition string) string {
	if c := meta.FindStatusCondition(w.object.Status.Conditions, condition); c != nil {
		return c.Reason
	}
	return ""
}

// live lets the first process work for so long, whenever something is due.
func (w *world) live(t fataler, d time.Duration, check func()) {
	t.Helper()
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); {
		next, err := w.procs[0].run(nil)
		if err != nil {
			t.Fatal(err)
		}
		check()
		now := w.clock.Now()
		if step := now.Add(time.Second); next.Before(step) {
			next = step
		}
		w.clock.SetTime(earliest(next, end))
	}
}

// fataler is a test, or one of its examples.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// usable fails unless the Secret contains a live credential.
func (w *world) usable(t *testing.T) func() {
	return func() {
		t.Helper()
		s := w.secrets["orders"]
		if s == nil || w.backend.Live()[string(s.Data["username"])] == "" {
			t.Fatalf("at %s the Secret contains no live credential\neffects: %v", w.clock.Now(), tail(w.effects))
		}
	}
}

func TestARefusedLeaseIsReplacedWhileItLives(t *testing.T) {
	for _, op := range []string{"renew", "extend"} {
		w := newWorld(1)
		w.backend.TokenTTL, w.backend.TokenMaxTTL = 10*time.Hour, 20*time.Hour
		if op == "extend" {
			w.backend.TokenTTL = 30 * time.Minute
		}
		w.live(t, time.Minute, func() {})
		w.refuses[op] = true
		w.live(t, 20*time.Hour, w.usable(t))
		if n := w.backend.Issued(); n < 10 || n > 60 {
			t.Errorf("%s: %d credentials were issued in 20 hours", op, n)
		}
	}
}

func TestARefusalIsNotFinal(t *testing.T) {
	for _, op := range []string{"renew", "extend"} {
		w := newWorld(1)
		w.backend.TokenTTL, w.backend.TokenMaxTTL = 30*time.Minute, 20*time.Hour
		w.live(t, time.Minute, func() {})
		w.refuses[op] = true
		w.live(t, 19*time.Minute+30*time.Second, w.usable(t)) // until the session is due
		if op == "renew" {
			w.live(t, 20*time.Minute, w.usable(t)) // until the lease is
		}
		w.live(t, time.Minute, w.usable(t))
		before := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.ReconcilingCondition)
		if before == nil || before.Reason != v1alpha1.ReasonRenewing {
			t.Fatalf("%s: Reconciling is %+v", op, before)
		}
		w.live(t, 3*time.Minute, w.usable(t))
		after := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.ReconcilingCondition)
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%s: the condition changes from %+v to %+v", op, before, after)
		}
		clear(w.refuses)
		w.live(t, 10*time.Hour, w.usable(t))
		if n := w.backend.Issued(); n != 1 {
			t.Errorf("%s: %d credentials were issued", op, n)
		}
		if got := w.reason(v1alpha1.ReconcilingCondition); got != "" {
			t.Errorf("%s: at the end Reconciling has the reason %q", op, got)
		}
	}
}

// A refusal that ends just before the handover: the lease is renewed, not replaced.
func TestARenewalIsTriedBeforeAReplacement(t *testing.T) {
	w := newWorld(1)
	w.live(t, time.Minute, func() {})
	w.refuses["renew"], w.refuses["issue"] = true, true
	w.live(t, 55*time.Minute, w.usable(t))
	for w.reason(v1alpha1.StalledCondition) != v1alpha1.ReasonRequestRefused {
		w.live(t, 10*time.Second, w.usable(t))
	}
	clear(w.refuses)
	w.live(t, time.Hour, w.usable(t))
	if n := w.backend.Issued(); n != 1 {
		t.Errorf("%d credentials were issued", n)
	}
}

func TestALeaseIsRenewedOnceMoreAfterItsExpiry(t *testing.T) {
	w := newWorld(1)
	w.live(t, time.Minute, func() {})
	w.procs[0].skew = 2 * time.Hour
	w.live(t, time.Minute, w.usable(t))
	if n := w.backend.Issued(); n != 1 {
		t.Errorf("%d credentials were issued", n)
	}
	// Now it has expired by the backend's clock too.
	w.clock.Step(2 * time.Hour)
	w.live(t, time.Minute, func() {})
	w.usable(t)()
	if n := w.backend.Issued(); n != 2 {
		t.Errorf("%d credentials were issued", n)
	}
}

// Whatever happens in one reconciliation, such as the end of the lease and a refused issuance, an object whose request
// is refused says so, and continues by itself when the refusals end.
func TestARefusedRequestIsRetried(t *testing.T) {
	w := newWorld(1)
	w.live(t, time.Minute, func() {})
	w.refuses["renew"], w.refuses["issue"] = true, true
	w.clock.Step(2 * time.Hour)
	w.live(t, 10*time.Minute, func() {
		leased, stalled := w.reason(v1alpha1.LeasedCondition), w.reason(v1alpha1.StalledCondition)
		if leased != v1alpha1.ReasonExpired || stalled != v1alpha1.ReasonRequestRefused || len(w.secrets) > 0 {
			t.Fatalf("Leased has the reason %q, Stalled %q, and there are %d Secrets", leased, stalled, len(w.secrets))
		}
	})
	clear(w.refuses)
	w.live(t, time.Minute, func() {})
	w.usable(t)()
	if got := w.reason(v1alpha1.ReadyCondition); got != v1alpha1.ReasonLeased {
		t.Errorf("Ready has the reason %q", got)
	}
}

// A user who may edit the status can postpone a revocation to any time, but the deletion waits for the request limit
// only.
func TestATamperedStatusDoesNotDelayDeletion(t *testing.T) {
	w := newWorld(1)
	w.live(t, time.Minute, func() {})
	w.person(func(d *v1alpha1.DynamicSecret) {
		rec := *d.Status.Leases[0].DeepCopy()
		far := metav1.NewTime(w.clock.Now().Add(1000 * time.Hour))
		rec.ID, rec.Kind, rec.RevokeAfter, rec.Reason = "", "", &far, v1alpha1.ReasonIssuing
		rec.SetHandle("accessor-of-nothing")
		d.Status.Retiring = append(d.Status.Retiring, rec)
	})
	w.delete()
	for end := w.clock.Now().Add(testRequestLimit); w.object != nil; {
		next, err := w.procs[0].run(nil)
		if err != nil || w.object != nil && (next.IsZero() || next.After(end)) {
			t.Fatalf("it continues at %s, %s after the limit: %v", next, next.Sub(end), err)
		}
		w.clock.SetTime(next)
	}
	if live := w.backend.Live(); len(live) > 0 {
		t.Errorf("%v are alive", live)
	}
}
