package lifecycle

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// A status that somebody emptied in part must not stop the object forever.
func TestPublishesIfTheStatusLostItsSecret(t *testing.T) {
	w := newWorld(1)
	// The effects until then: finalizer, login, journal, issuance, record.
	w.fault = fault{after: 5, kind: failBefore}
	_, _ = w.procs[0].run(nil)
	if len(w.object.Status.Leases) == 0 || lease.Published(&w.object.Status) {
		t.Fatalf("it did not stop between record and publication, but after %v", w.effects)
	}
	w.person(func(d *v1alpha1.DynamicSecret) { d.Status.Secret = nil })
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	if w.secrets["orders"] == nil || !lease.Published(&w.object.Status) || w.backend.Issued() != 1 {
		t.Errorf("Secret there: %t, status %+v, issued %d",
			w.secrets["orders"] != nil, w.object.Status.Secret, w.backend.Issued())
	}
}

// A shutdown between any two effects of a first issuance costs no second credential, and begins nothing new.
func TestShutdownMintsNothingTwice(t *testing.T) {
	for after := range 15 {
		for _, sources := range []int{1, 2} {
			w := newWorld(1)
			if sources > 1 {
				w.severalSources()
			}
			w.fault = fault{after: after, kind: shutdown}
			_, _ = w.procs[0].run(nil)
			stopped := len(w.effects)
			if err := w.settle(); err != nil {
				t.Fatal(err)
			}
			if w.backend.Issued() != sources || !lease.Published(&w.object.Status) || len(w.leaked()) > 0 {
				t.Errorf("a shutdown at effect %d, %v, and then %v: %d credentials were issued",
					after, w.effects[:stopped], w.effects[stopped:], w.backend.Issued())
			}
		}
	}
}

// A deletion deletes the Secret of the old name although something else has taken the new one: with
// --cascade=orphan the garbage collector would not.
func TestADeletionDuringARenameDeletesTheSecret(t *testing.T) {
	w := newWorld(1)
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "new" })
	w.foreign()
	w.delete()
	for range 5 {
		_, _ = w.procs[0].run(nil)
	}
	if w.object != nil || w.secrets["orders"] != nil || w.secrets["new"] == nil {
		t.Errorf("the object is gone: %t, its Secret: %t, the foreign one is there: %t\neffects: %v",
			w.object == nil, w.secrets["orders"] == nil, w.secrets["new"] != nil, tail(w.effects))
	}
}
