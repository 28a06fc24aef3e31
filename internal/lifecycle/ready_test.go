package lifecycle

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
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
