//go:build integration

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// leads reports whether the replica is the leader. A replica that does not run or respond is not.
func leads(m *testbed.Manager) bool {
	n, err := m.Metric(`leader_election_master_status{name="leasekeeper.leasekeeper.io"}`)
	return err == nil && n == 1
}

// Two replicas, each with its own proxy to the API server. The leader is killed, paused, then cut off. The replicas
// take turns: each returns as the other's standby.
func TestFailoverReplacesNothing(t *testing.T) {
	t.Parallel()
	b := ownBedWith(t, testbed.BedOptions{
		APIProxy: true, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Flags: []string{
			"--leader-election-lease-duration=10s", "--leader-election-renew-deadline=7s",
			"--leader-election-retry-period=1s",
		},
	})
	first, firstAPI := b.Manager, b.API
	second := b.addReplicaBehindProxy(t)
	r := newRig(t, b, withTTL(time.Minute, time.Hour))
	const objects = 20
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	before := r.snapshot()
	takesOver := func(how string, standby *testbed.Manager) {
		t.Helper()
		since := time.Now()
		r.eventually("the standby to lead", func() bool { return leads(standby) })
		t.Logf("%s: the standby took over within %s", how, time.Since(since).Round(100*time.Millisecond))
		r.untilAll(objects, "renewed as requested", func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.LastHandledRenewAt == how
		})
		r.unchanged(before)
	}

	r.must(first.Kill())
	r.annotateAll(v1alpha1.RenewRequestedAtAnnotation, "killed")
	takesOver("killed", second)
	r.must(first.Run(t.Context()))

	r.annotateAll(v1alpha1.RenewRequestedAtAnnotation, "paused")
	r.must(second.Pause()) // before, during or after a renewal
	takesOver("paused", first)
	was := r.all()
	r.must(second.Resume())
	r.eventually("the resumed manager to notice that it lost the lead", func() bool { return !second.Running() })
	for name, d := range r.all() {
		if record(d).Renewals < record(was[name]).Renewals || d.Status.LastHandledRenewAt != "paused" {
			t.Errorf("the resumed manager has overwritten the status of %s", name)
		}
	}
	r.unchanged(before)
	r.must(second.Run(t.Context()))

	r.must(firstAPI.RefuseConnections())
	r.annotateAll(v1alpha1.RenewRequestedAtAnnotation, "cut off")
	takesOver("cut off", second)
	r.eventually("the manager that is cut off to exit", func() bool { return !first.Running() })

	for name := range r.all() {
		r.remove(name)
	}
	r.untilAlive(0)
}

// addReplicaBehindProxy starts a replica with its own proxy to the API server.
func (b *bed) addReplicaBehindProxy(t *testing.T) *testbed.Manager {
	t.Helper()
	proxy, err := testbed.StartProxy(b.Plane.Config.Host, testbed.ProxyOptions{CA: b.Plane.CA, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	other := *b.Bed
	other.API = proxy
	m, err := (&bed{Bed: &other}).addReplica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}
