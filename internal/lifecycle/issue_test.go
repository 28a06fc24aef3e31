package lifecycle

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// A login is part of an issuance: if it fails as that of any other object would, the others of the path do not try.
func TestRefusedLoginClosesThePath(t *testing.T) {
	for _, c := range []struct {
		kind   backend.ErrorKind
		closed bool
	}{
		{backend.NoResponse, true},
		{backend.QuotaExceeded, true},
		{backend.Unavailable, true}, // no token of the ServiceAccount
		{backend.Failed, true},
		{backend.LoginFailed, false}, // of this ServiceAccount
	} {
		w := newWorld(1)
		w.failing["login"] = backend.Errorf(c.kind, "refused")
		for range 2 {
			_, _ = w.procs[0].run(nil)
		}
		other := backend.Waiter{Key: "shop/other", Wake: func() {}}
		limited := worldSources{w.procs[0]}.backend()
		if _, err := backend.Admit(limited, leasedPath, true, other); (err != nil) != c.closed {
			t.Errorf("%s: another object got %v", c.kind, err)
		}
	}
}
