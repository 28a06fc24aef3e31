//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// leads says whether the replica is the leader; one that does not run or does not answer is none.
func leads(m *testbed.Manager) bool {
	n, err := m.Metric(`leader_election_master_status{name="leasekeeper.leasekeeper.io"}`)
	return err == nil && n == 1
}

// Two replicas, each with a way of its own to the API server. The leader is lost three times: killed, paused, cut off. The
// two take turns, so each comes back as the other's standby.
func TestWhenTheLeaderIsLostTheOtherTakesOverAndNothingChanges(t *testing.T) {
	t.Parallel()
	b := ownBedWith(t, testbed.BedOptions{APIProxy: true, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: []string{
		"--leader-election-lease-duration=10s", "--leader-election-renew-deadline=7s", "--leader-election-retry-period=1s",
	}})
	first, firstAPI := b.Manager, b.API
	second := b.anotherBehindItsOwnProxy(t)
	r := newRoom(t, b, withTTL(time.Minute, time.Hour))
	const objects = 20
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	before := r.hold()
	takesOver := func(how string, heir *testbed.Manager) {
		t.Helper()
		since := time.Now()
		r.eventually("the other to lead", func() bool { return leads(heir) })
		t.Logf("%s: the other took over within %s", how, time.Since(since).Round(100*time.Millisecond))
		r.untilAll(objects, "renewed as was ordered", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == how })
		r.unchanged(before)
	}

	r.must(first.Kill())
	r.order(v1alpha1.RenewRequestedAtAnnotation, "killed")
	takesOver("killed", second)
	r.must(first.Run(t.Context()))

	r.order(v1alpha1.RenewRequestedAtAnnotation, "paused")
	r.must(second.Pause()) // while it renews, or just before or after
	takesOver("paused", first)
	was := r.all()
	r.must(second.Resume())
	r.eventually("the one that was asleep to see that it is no longer the leader", func() bool { return !second.Running() })
	for name, d := range r.all() {
		if d.Status.Lease.Renewals < was[name].Status.Lease.Renewals || d.Status.LastHandledRenewAt != "paused" {
			t.Errorf("the one that was asleep has written over the status of %s", name)
		}
	}
	r.unchanged(before)
	r.must(second.Run(t.Context()))

	r.must(firstAPI.RefuseConnections())
	r.order(v1alpha1.RenewRequestedAtAnnotation, "cut off")
	takesOver("cut off", second)
	r.eventually("the one that is cut off to give up", func() bool { return !first.Running() })

	for name := range r.all() {
		r.remove(name)
	}
	r.untilAlive(0)
}

// anotherBehindItsOwnProxy starts a replica with a way of its own to the API server.
func (b *bed) anotherBehindItsOwnProxy(t *testing.T) *testbed.Manager {
	t.Helper()
	proxy, err := testbed.StartProxy(b.Plane.Config.Host, testbed.ProxyOptions{CA: b.Plane.CA, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	other := *b.Bed
	other.API = proxy
	m, err := (&bed{Bed: &other}).another(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}
