//go:build integration

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Leases of seconds, and a manager whose clock is minutes ahead of Vault's and the API server's, then one whose is behind.
func TestAClockThatIsMinutesOffBreaksNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	manager, offsets := filepath.Join(dir, "manager"), []time.Duration{7 * time.Minute, -7 * time.Minute}
	for _, offset := range offsets {
		if err := buildManager(manager+offset.String(), "-race", "-ldflags=-X github.com/leasekeeper/leasekeeper/internal/offsetclock.offset="+offset.String()); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Rename(manager+offsets[0].String(), manager))
	b := ownBedWith(t, testbed.BedOptions{
		Manager: manager, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: []string{"--leader-elect=false"},
	})
	livesUnder(t, b, offsets[0])
	must(b.Manager.Stop())
	must(os.Rename(manager+offsets[1].String(), manager))
	must(b.Manager.Run(t.Context()))
	livesUnder(t, b, offsets[1])
}

// livesUnder takes leases through their whole life while the manager's clock is so much ahead.
func livesUnder(t *testing.T, b *bed, ahead time.Duration) {
	t.Helper()
	const ttl, maxTTL = 10 * time.Second, 25 * time.Second
	long, r := newRoom(t, b), newRoom(t, b, withProxy(), withTTL(ttl, maxTTL))
	if by := time.Until(long.ready("orders").Status.Lease.IssuedAt.Time); (by - ahead).Abs() > time.Minute {
		t.Fatalf("the clock is %s ahead, want %s", by, ahead)
	}
	before := long.hold()

	first := r.ready("orders")
	old := r.target("orders")
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease.Renewals > 0 })
	r.until("orders", "at its max TTL", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease.MaxTTLReached })
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && d.Status.Lease.ID != first.Status.Lease.ID
	})
	if n := r.minted(before.mark); n != 2 || r.login(old) == nil {
		t.Errorf("%d credentials were asked for, want 2; or the first one still logs in", n)
	}
	r.must(r.login(r.target("orders")))
	if n := r.countEvents(v1alpha1.ReasonExpired) + r.countEvents(v1alpha1.ReasonLeaseLost); n != 0 {
		t.Errorf("%d events say that a lease expired or was lost", n)
	}

	r.must(r.proxy.RefuseConnections())
	s, end := r.target("orders"), r.get("orders").Status.Lease.ExpiresAt.Add(-ahead)
	r.eventually("the Secret to go with its lease", func() bool { return r.target("orders") == nil })
	if early := time.Until(end); early > time.Second {
		t.Errorf("the Secret went %s before its lease", early)
	}
	r.eventually("Vault to end the lease", func() bool { return len(r.leases()) == 0 })
	if r.login(s) == nil {
		t.Error("the login still works")
	}
	r.must(r.proxy.Accept())
	r.untilReady("orders")
	r.remove("orders")
	r.untilAlive(0)

	long.renewAll("now")
	long.unchanged(before)
	long.remove("orders")
	long.untilAlive(0)
}
