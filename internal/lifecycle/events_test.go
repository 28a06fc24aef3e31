package lifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// reported counts the events with the reason.
func (w *world) reported(reason string) int {
	n := 0
	for _, e := range w.events {
		if strings.HasPrefix(e, reason+": ") {
			n++
		}
	}
	return n
}

// A rotation of a set of leases reports once that the old ones are revoked, when the last of them is.
func TestRevokedOldLeasesAreReportedOnce(t *testing.T) {
	w := newWorld(1)
	w.severalSources()
	w.object.Spec.Rotation.Overlap = &metav1.Duration{Duration: 10 * time.Second}
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	w.requestRotation("1")
	w.runFor(5 * time.Second)
	if n := w.reported(v1alpha1.ReasonOldLeaseRevoked); n != 0 {
		t.Errorf("%d events during the overlap: %v", n, w.events)
	}
	w.runFor(10 * time.Second)
	if n := w.reported(v1alpha1.ReasonOldLeaseRevoked); n != 1 || len(w.object.Status.Retiring) != 0 {
		t.Errorf("%d events, retiring %v: %v", n, w.object.Status.Retiring, w.events)
	}
	w.delete()
	w.runFor(5 * time.Second)
	if n := w.reported(v1alpha1.ReasonOldLeaseRevoked); n != 1 {
		t.Errorf("a deletion reports an old lease: %v", w.events)
	}
}

func TestSuspendedObjectReportsItsLostSecretOnce(t *testing.T) {
	w := newWorld(1)
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = true })
	w.runFor(2 * time.Second)
	if n := w.reported(v1alpha1.ReasonSecretLost); n != 0 {
		t.Errorf("nothing is lost: %v", w.events)
	}
	clear(w.secrets)
	w.runFor(10 * time.Second)
	w.procs[0].restart()
	w.runFor(10 * time.Second)
	if n := w.reported(v1alpha1.ReasonSecretLost); n != 1 || w.backend.Issued() != 1 {
		t.Errorf("%d events, %d issued: %v", n, w.backend.Issued(), w.events)
	}
}

func TestLeaseRevocationIsNamedAsTheCause(t *testing.T) {
	w := newWorld(1)
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	id := w.object.Status.Leases[0].ID
	w.backend.RevokeBehind(id)
	w.procs[0].life.memory.lose(keyOf(w.object), id)
	w.runFor(5 * time.Second)
	named := slices.ContainsFunc(w.events, func(e string) bool {
		return strings.HasPrefix(e, v1alpha1.ReasonLeaseRevoked) && strings.Contains(e, "by a LeaseRevocation")
	})
	if !named || w.reported(v1alpha1.ReasonLeaseLost) != 0 {
		t.Errorf("events: %v", w.events)
	}
}
