package chaos

import (
	"testing"
	"time"
)

func TestIsolationIsBroken(t *testing.T) {
	t.Parallel()
	kept := Isolation{Neighbours: 350, ClosestCall: leastLife, LookUps: 1}
	if err := kept.broken(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Isolation){
		"a credential was replaced":       func(r *Isolation) { r.Changed = 1 },
		"a lease almost expired":          func(r *Isolation) { r.ClosestCall = leastLife - time.Second },
		"a slow provider is not verified": func(r *Isolation) { r.LookUps = 0 },
	} {
		broken := kept
		if change(&broken); broken.broken() == nil {
			t.Errorf("%s, and the promise counts as kept", name)
		}
	}
}
