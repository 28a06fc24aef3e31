//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// A leader is stopped by SIGTERM during a slow issuance. A response within the grace period is published, so that the
// next leader issues nothing. Whatever the backend does, the next leader leads within 15 s.
func TestShutdownDuringAnIssuance(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--issue-timeout=16s", "--request-limit=24s",
		"--leader-election-lease-duration=60s", "--leader-election-renew-deadline=45s")
	first := b.Manager
	second, err := b.addReplica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Close() })
	r := newRig(t, b, withProxy())
	// handsOver stops the leader while the proxy has a request for a credential.
	handsOver := func(leader, standby *testbed.Manager, f testbed.Fault, start func()) {
		t.Helper()
		f.Path, f.Times = "/creds/", 1
		r.must(r.proxy.Break(f))
		before := len(r.requestTimes("^GET /v1/.*/creds/"))
		start()
		r.eventually("a request for a credential", func() bool {
			return len(r.requestTimes("^GET /v1/.*/creds/")) > before
		})
		r.must(leader.Terminate())
		since := time.Now()
		r.eventually("the standby to lead", func() bool { return leads(standby) })
		if took := time.Since(since); took > 15*time.Second {
			t.Errorf("the standby led after %s", took)
		}
		r.eventually("the leader to exit", func() bool { return !leader.Running() })
	}

	mark := r.vaultMark()
	handsOver(first, second, testbed.Fault{Action: testbed.Delay, After: 4 * time.Second}, func() { r.apply("orders") })
	before := r.untilReady("orders")
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were issued", n)
	}
	r.must(first.Run(t.Context()))

	handsOver(second, first, testbed.Fault{Action: testbed.Hang}, func() {
		r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	})
	r.untilReplaced(before)
	r.untilAlive(1)
	if n := r.minted(mark); n != 2 {
		t.Errorf("%d credentials were issued after the second shutdown", n)
	}
}
