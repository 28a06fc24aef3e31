//go:build integration

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	manyLeases = 2000
	manyRoles  = 5
	// manyTTL leaves time to make them all, and to let an outage last until all are due.
	manyTTL = 180 * time.Second
)

// crowd is a room with thousands of objects on a few roles, by name.
type crowd struct {
	*room
	leases map[string]string
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	quick := filepath.Join(t.TempDir(), "manager")
	if err := buildManager(quick); err != nil {
		t.Fatal(err)
	}
	b := ownBedWith(t, testbed.BedOptions{Manager: quick, Flags: []string{"--leader-elect=false", "--verify-interval=10s", "--zap-log-level=info"}})
	c := &crowd{room: newRoom(t, b, withProxy())}
	for i := range manyRoles {
		c.must(b.Vault.WriteDatabaseRole(t.Context(), c.name, fmt.Sprintf("role-%d", i), testbed.DatabaseRole{DefaultTTL: manyTTL, MaxTTL: 24 * time.Hour}))
	}
	for i := range manyLeases {
		c.apply(fmt.Sprintf("orders-%d", i), func(d *v1alpha1.DynamicSecret) {
			d.Spec.Vault.Path = fmt.Sprintf("%s/creds/role-%d", c.name, i%manyRoles)
		})
	}
	c.eventually("all to be at rest", func() bool { return c.count(atRest) == manyLeases })
	c.leases = map[string]string{}
	c.each(func(d *v1alpha1.DynamicSecret) { c.leases[d.Name] = d.Status.Lease.ID })
	return c
}

func (c *crowd) each(do func(d *v1alpha1.DynamicSecret)) {
	c.t.Helper()
	var list v1alpha1.DynamicSecretList
	c.must(c.Kube.List(c.t.Context(), &list, client.InNamespace(c.name)))
	for i := range list.Items {
		do(&list.Items[i])
	}
}

func (c *crowd) count(is func(d *v1alpha1.DynamicSecret) bool) (n int) {
	c.t.Helper()
	c.each(func(d *v1alpha1.DynamicSecret) {
		if is(d) {
			n++
		}
	})
	return n
}

// changed lists the objects that have another lease than at first.
func (c *crowd) changed() (names []string) {
	c.t.Helper()
	c.each(func(d *v1alpha1.DynamicSecret) {
		if d.Status.Lease == nil || d.Status.Lease.ID != c.leases[d.Name] {
			names = append(names, d.Name)
		}
	})
	return names
}

// leastLeft is how long the lease lives that ends first.
func (c *crowd) leastLeft() time.Duration {
	c.t.Helper()
	least := manyTTL
	c.each(func(d *v1alpha1.DynamicSecret) { least = min(least, time.Until(d.Status.Lease.ExpiresAt.Time)) })
	return least
}

// At thousands of leases: an outage until all of them are due costs none that can still be saved when the backend is back,
// and while it is down one request at a time asks; and a list a role finds the few that were revoked among them.
func TestTwoThousandLeasesOutliveAnOutageAndAreWatchedByAListARole(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	mark := c.vaultMark()

	c.must(c.proxy.Break(testbed.Fault{Action: testbed.Hang}))
	c.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonBackendUnavailable)
	// Those who had asked before it was known wait no longer than --backend-timeout.
	time.Sleep(5 * time.Second)
	c.proxy.Peak()
	c.eventuallyWithin(manyTTL, "the first lease to have 12 s left", func() bool { return c.leastLeft() < 12*time.Second })
	due := c.count(func(d *v1alpha1.DynamicSecret) bool { return time.Since(d.Status.NextActionAt.Time) > 0 })
	if peak := c.proxy.Peak(); peak > 1 {
		t.Errorf("%d requests at once were made to a backend that is down, want one probe", peak)
	}
	c.proxy.Clear()
	back := time.Now()
	renewed := func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease != nil && d.Status.Lease.Renewals > 0 }
	c.eventually("all to be renewed", func() bool { return c.count(renewed) == manyLeases })
	t.Logf("%d leases, %d of them due, were renewed within %s of the backend's return", manyLeases, due, time.Since(back).Round(100*time.Millisecond))
	if names := c.changed(); len(names) > 0 || c.minted(mark) > 0 {
		t.Errorf("%d leases were lost, and %d credentials issued: %v", len(names), c.minted(mark), names)
	}

	c.noticesRevocations()
}

// noticesRevocations of some leases among the many, by at most one list a role in each interval.
func (c *crowd) noticesRevocations() {
	c.t.Helper()
	const some = 20
	lists := func(since testbed.Mark) int { return c.requests(since, "^list sys/leases/lookup/"+c.name+"/") }
	mark := c.vaultMark()
	c.eventually("a round of lists", func() bool { return lists(mark) >= manyRoles })
	mark = c.vaultMark()
	began := time.Now()
	for i := range some {
		c.must(c.Vault.Write(c.t.Context(), "sys/leases/revoke", map[string]any{"lease_id": c.leases[fmt.Sprintf("orders-%d", i)], "sync": true}))
	}
	c.eventually("the revoked ones to be replaced", func() bool { return len(c.changed()) >= some && c.count(atRest) == manyLeases })
	took := time.Since(began)
	c.t.Logf("%d revocations among %d leases were noticed and replaced within %s, by %d lists", some, manyLeases, took.Round(100*time.Millisecond), lists(mark))
	if names := c.changed(); len(names) != some {
		c.t.Errorf("%d leases were replaced where %d were revoked: %v", len(names), some, names)
	}
	if n, rounds := lists(mark), int(took/(10*time.Second))+1; n > rounds*manyRoles {
		c.t.Errorf("%d lists in %d intervals, want %d a round at most", n, rounds, manyRoles)
	}
}
