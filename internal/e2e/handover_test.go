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
)

// rollsOut sets Deployments as rollout targets.
func rollsOut(names ...string) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rollout = &v1alpha1.RolloutSpec{}
		for _, name := range names {
			target := v1alpha1.RolloutTarget{Kind: v1alpha1.KindDeployment, Name: name}
			d.Spec.Rollout.Targets = append(d.Spec.Rollout.Targets, target)
		}
	}
}

// killManager kills the manager every one to four seconds and starts it again, until stop is called.
func (r *rig) killManager(t *testing.T) (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	kills := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stopped:
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
	stop = sync.OnceFunc(func() { close(stopped); <-done; t.Logf("%d kills", kills) })
	t.Cleanup(stop)
	return stop
}

// rotations waits for n rotations, and checks after each that only the new lease is alive. If the manager is killed, an
// issuance may get no response; then its record is retiring until the request limit has passed.
func (r *rig) rotations(name string, n int, killed bool) {
	r.t.Helper()
	last := leaseID(r.get(name))
	for i := range n {
		var d *v1alpha1.DynamicSecret
		r.eventually(name+" to be rotated again", func() bool {
			d = r.get(name)
			rotated := meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.RotatedCondition)
			replaced := hasLease(d) && leaseID(d) != last
			return replaced && rotated && (killed || len(d.Status.Retiring) == 0)
		})
		last = leaseID(d)
		live := r.leasesOf(name)
		after := r.get(name)
		moreRetiring := len(after.Status.Retiring) > len(d.Status.Retiring)
		if leaseID(after) != last || after.Status.Attempt != nil || moreRetiring {
			r.t.Logf("rotation %d: the next one started during the check", i+1)
			continue
		}
		if !slices.Contains(live, last) || len(live) > 1+len(d.Status.Retiring) || !killed && len(live) != 1 {
			r.t.Errorf("rotation %d: %v live, recorded %s and %d retiring", i+1, live, last, len(d.Status.Retiring))
		}
	}
}

// leasesOf lists the live leases of the object's path.
func (r *rig) leasesOf(name string) []string {
	r.t.Helper()
	ids, err := r.Vault.Leases(r.t.Context(), r.get(name).Spec.Vault.Path)
	r.must(err)
	return ids
}

// atRestOnOneLease waits until the object has no retiring records and Vault has only its lease.
func (r *rig) atRestOnOneLease(name string) {
	r.t.Helper()
	r.until(name, "at rest", func(d *v1alpha1.DynamicSecret) bool {
		idle := d.Status.ObservedGeneration == d.Generation && d.Status.Attempt == nil && len(d.Status.Retiring) == 0
		rolledOut := lease.Published(&d.Status) && d.Status.Handover.RolledOutAt != nil
		return idle && rolledOut && len(r.leasesOf(name)) == 1
	})
}

// rolledOut counts the rollouts of the Deployment: each new pod template creates a revision.
func (r *rig) rolledOut(name string) int {
	r.t.Helper()
	d := &appsv1.Deployment{}
	if !r.read(name, d) {
		r.t.Fatalf("Deployment %s does not exist", name)
	}
	revision, err := strconv.Atoi(d.Annotations["deployment.kubernetes.io/revision"])
	r.must(err)
	return revision - 1
}
