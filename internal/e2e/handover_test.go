//go:build integration

package e2e

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// rollsOut names Deployments that are rolled out.
func rollsOut(names ...string) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rollout = &v1alpha1.RolloutSpec{}
		for _, name := range names {
			d.Spec.Rollout.Targets = append(d.Spec.Rollout.Targets, v1alpha1.RolloutTarget{Kind: v1alpha1.KindDeployment, Name: name})
		}
	}
}

// It runs before all that is parallel: two clusters that roll out all the time are enough for a machine of two cores.
//
// Leases of 15 s that end after 40 s at most, of which one is replaced by age and the other at its maximum, each used by a
// Deployment, through twenty rotations of the first.
func TestNobodyIsRefusedThroughTwentyRotations(t *testing.T) {
	brief := testbed.DatabaseRole{DefaultTTL: 15 * time.Second, MaxTTL: 40 * time.Second}
	for name, harried := range map[string]bool{"the manager is left alone": false, "the manager is killed again and again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := []string{"--rollout-window=2s"}
			if harried {
				flags = append(flags, "--leader-elect=false")
			}
			r := newRoom(t, ownBedWith(t, testbed.BedOptions{
				Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Rollout: true, Flags: flags,
			}), withRole(brief))
			r.ready("orders", rotation(time.Second, 8*time.Second), rollsOut("orders"))
			r.must(r.Vault.WriteDatabaseRole(t.Context(), r.name, "invoices", brief))
			r.ready("invoices", rotation(time.Second, 0), rollsOut("invoices"), func(d *v1alpha1.DynamicSecret) {
				d.Spec.Vault.Path = r.name + "/creds/invoices"
			})
			r.create(r.workload("orders", "orders", 3))
			r.create(r.workload("invoices", "invoices", 2))
			r.available("orders")
			r.available("invoices")
			crowd, disperse := r.gather(t, 20)
			calm := func() {}
			if harried {
				calm = r.harry(t)
			}
			r.rotations("orders", 20, harried)
			// A lease that the manager did not live to publish was no rotation.
			r.eventually("twenty rotations, and three at the maximum", func() bool {
				return crowd.credentials("orders") > 20 && crowd.credentials("invoices") > 3
			})
			calm()
			for _, name := range []string{"orders", "invoices"} {
				r.atRestOnOneLease(name)
			}
			disperse()
			for name, least := range map[string]int{"orders": 20, "invoices": 3} {
				rotations, rolled := crowd.credentials(name)-1, r.rolledOut(name)
				if rotations != rolled || rotations < least {
					t.Errorf("%s was rotated %d times, and rolled out %d times", name, rotations, rolled)
				}
				t.Logf("%s: %d rotations", name, rotations)
			}
			crowd.nobodyWasRefused()
		})
	}
}

// harry kills the manager every one to four seconds and starts it again, until calm is called.
func (r *room) harry(t *testing.T) (calm func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	kills := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second + rand.N(3*time.Second)):
				kills++
				if err := r.Manager.Kill(); err != nil {
					t.Error(err)
				}
				if err := r.Manager.Start(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	calm = sync.OnceFunc(func() { close(stop); <-done; t.Logf("%d kills", kills) })
	t.Cleanup(calm)
	return calm
}

// rotations waits for so many of them, and looks after each that nothing but the new lease is alive. Where issues are left
// without an answer, what they may have made is on record and lives until the request limit.
func (r *room) rotations(name string, n int, unanswered bool) {
	r.t.Helper()
	last := r.get(name).Status.Lease.ID
	for i := range n {
		var d *v1alpha1.DynamicSecret
		r.eventually(name+" to be rotated once more", func() bool {
			d = r.get(name)
			st := &d.Status
			return st.Lease != nil && st.Lease.ID != last && meta.IsStatusConditionTrue(st.Conditions, v1alpha1.RotatedCondition) &&
				(unanswered || len(st.Retiring) == 0)
		})
		last = d.Status.Lease.ID
		live := r.leasesOf(name)
		if again := r.get(name).Status.Lease; again == nil || again.ID != last {
			r.t.Logf("rotation %d: the next one came while Vault was asked", i+1)
			continue
		}
		if !slices.Contains(live, last) || len(live) > 1+len(d.Status.Retiring) || !unanswered && len(live) != 1 {
			r.t.Errorf("rotation %d: %v live, recorded %s and %d retiring", i+1, live, last, len(d.Status.Retiring))
		}
	}
}

// leasesOf lists the live leases of the object's own path.
func (r *room) leasesOf(name string) []string {
	r.t.Helper()
	ids, err := r.Vault.Leases(r.t.Context(), r.get(name).Spec.Vault.Path)
	r.must(err)
	return ids
}

// atRestOnOneLease waits until nothing of the object retires, and its one lease is all that Vault has.
func (r *room) atRestOnOneLease(name string) {
	r.t.Helper()
	r.until(name, "at rest", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Attempt == nil && len(d.Status.Retiring) == 0 && lease.Published(&d.Status) && d.Status.Handover.RolledOutAt != nil &&
			len(r.leasesOf(name)) == 1
	})
}

// rolledOut is how often the Deployment was: each new pod template makes a revision.
func (r *room) rolledOut(name string) int {
	r.t.Helper()
	d := &appsv1.Deployment{}
	if !r.read(name, d) {
		r.t.Fatalf("there is no Deployment %s", name)
	}
	revision, err := strconv.Atoi(d.Annotations["deployment.kubernetes.io/revision"])
	r.must(err)
	return revision - 1
}
