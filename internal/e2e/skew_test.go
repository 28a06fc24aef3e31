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

// Leases last seconds. The manager's clock is minutes ahead of those of Vault and the API server, then minutes behind.
func TestClockSkewOfMinutes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	manager, offsets := filepath.Join(dir, "manager"), []time.Duration{7 * time.Minute, -7 * time.Minute}
	for _, offset := range offsets {
		const variable = "github.com/leasekeeper/leasekeeper/internal/offsetclock.offset"
		ldflags := "-ldflags=-w -X " + variable + "=" + offset.String()
		if err := buildManager(manager+offset.String(), ldflags); err != nil {
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
		Manager: manager, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Flags: []string{"--leader-elect=false"},
	})
	runLifecycle(t, b, offsets[0])
	must(b.Manager.Stop())
	must(os.Rename(manager+offsets[1].String(), manager))
	must(b.Manager.Run(t.Context()))
	runLifecycle(t, b, offsets[1])
}

// runLifecycle takes leases through their whole life while the manager's clock is ahead by this much.
func runLifecycle(t *testing.T, b *bed, ahead time.Duration) {
	t.Helper()
	const ttl, maxTTL = 10 * time.Second, 25 * time.Second
	long, r := newRig(t, b), newRig(t, b, withProxy(), withTTL(ttl, maxTTL))
	if by := time.Until(record(long.ready("orders")).IssuedAt.Time); (by - ahead).Abs() > time.Minute {
		t.Fatalf("the clock is %s ahead, want %s", by, ahead)
	}
	before := long.snapshot()

	first := r.ready("orders")
	old := r.target("orders")
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return record(d).Renewals > 0 })
	r.until("orders", "at its max TTL", func(d *v1alpha1.DynamicSecret) bool { return record(d).MaxTTLReached })
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && hasNewLease(first, d)
	})
	if n := r.minted(before.mark); n != 2 || r.login(old) == nil {
		t.Errorf("%d credentials were requested, want 2; or the first one is still valid", n)
	}
	r.must(r.login(r.target("orders")))
	if n := r.countEvents(v1alpha1.ReasonExpired) + r.countEvents(v1alpha1.ReasonLeaseLost); n != 0 {
		t.Errorf("%d events report that a lease expired or was lost", n)
	}

	r.must(r.proxy.RefuseConnections())
	s, end := r.target("orders"), record(r.get("orders")).ExpiresAt.Add(-ahead)
	r.eventually("the Secret to be deleted with its lease", func() bool { return r.target("orders") == nil })
	if early := time.Until(end); early > time.Second {
		t.Errorf("the Secret was deleted %s before its lease expired", early)
	}
	r.eventually("Vault to revoke the lease", func() bool { return len(r.leases()) == 0 })
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
