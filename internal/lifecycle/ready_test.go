package lifecycle

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// contentLives says whether every lease in the Secret of the target is alive, and no certificate has expired.
func (w *world) contentLives() bool {
	s := w.secrets[w.object.TargetName()]
	if s == nil || w.expired() != "" {
		return false
	}
	live := w.backend.Live()
	for _, key := range []string{"username", "BROKER_username"} {
		id, ok := s.Data[key]
		end, expires := w.backend.Expiry(string(id))
		if ok && (live[string(id)] == "" || expires && !w.clock.Now().Before(end)) {
			return false
		}
	}
	return true
}

// Ready stays True while the Secret contains live credentials: through rotations, refreshes, outages and kills.
func TestReadyStaysTrueWhileTheContentLives(t *testing.T) {
	rotations := 0
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		for _, p := range w.procs {
			p.skew = 0
		}
		if w.backend.Unleased {
			w.backend.Unleased = false
		}
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		isReady := func(d *v1alpha1.DynamicSecret) bool {
			return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
		}
		w.stored = func(before, after *v1alpha1.DynamicSecret) {
			if isReady(before) && !isReady(after) && w.contentLives() {
				t.Fatalf("Ready is False although the content lives: %+v\neffects: %v",
					after.Status, tail(w.effects))
			}
		}
		all, some := w.actions(t), map[string]func(*rapid.T){}
		for _, name := range []string{"run", "run with a fault", "kill", "let time pass", "outage",
			"change the request", "request a rotation", "change the KV secret", "add a key to the Secret", "suspend"} {
			some[name] = all[name]
		}
		t.Repeat(some)
		rotations += w.backend.Issued()
	})
	if rotations == 0 {
		t.Error("nothing was issued, so nothing was tested")
	}
}

// An edit of the Secret while its successor cannot be written makes Ready False; keys of others do not.
func TestReadyEndsWithAnEdit(t *testing.T) {
	for _, several := range []bool{false, true} {
		for name, c := range map[string]struct {
			edit  func(*world)
			ready bool
		}{
			"none":            {func(*world) {}, true},
			"a key of others": {(*world).touch, true},
			"a key of ours":   {(*world).tamper, false},
		} {
			w := newWorld(1)
			if several {
				w.severalSources()
			}
			w.pass(10 * time.Second)
			w.person(func(d *v1alpha1.DynamicSecret) {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, "now")
			})
			w.admission = func(_ *corev1.Secret, dryRun bool) error {
				if dryRun {
					return nil
				}
				return apierrors.NewInternalError(errors.New("failed calling webhook"))
			}
			for _, restart := range []bool{false, true} {
				w.pass(3 * time.Second)
				c.edit(w)
				if restart {
					w.procs[0].restart()
				}
				w.pass(3 * time.Second)
				ready := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.ReadyCondition)
				if (ready.Status == metav1.ConditionTrue) != c.ready {
					t.Errorf("edit: %s, several sources %v, restart %v: %+v", name, several, restart, ready)
				}
			}
			w.admission = nil
			w.pass(2 * time.Minute)
			if !meta.IsStatusConditionTrue(w.object.Status.Conditions, v1alpha1.ReadyCondition) {
				t.Errorf("edit: %s, several sources %v: it is not ready at the end", name, several)
			}
		}
	}
}

// A process that has seen no Secret deletes the one that another process has written since, before its cache shows it.
func TestADeletionFindsTheSecretOfAnotherProcess(t *testing.T) {
	w := newWorld(2)
	late, leader := w.procs[0], w.procs[1]
	before := w.object.DeepCopy()
	w.down = true
	_, _ = leader.run(nil)
	_, _ = late.run(before) // its write conflicts, so it reads
	w.down = false
	w.clock.Step(time.Hour)
	if _, _ = leader.run(nil); len(w.secrets) != 1 {
		t.Fatalf("%d Secrets: %v", len(w.secrets), w.effects)
	}
	w.delete()
	for range 10 {
		if w.object != nil {
			_, _ = late.run(w.object.DeepCopy())
		}
		w.clock.Step(time.Second)
	}
	if w.object != nil || len(w.secrets) > 0 || len(w.backend.Live()) > 0 {
		t.Errorf("%d Secrets and %d leases are left: %v", len(w.secrets), len(w.backend.Live()), w.effects)
	}
}
