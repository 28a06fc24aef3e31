//go:build integration

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// 20 objects are issued, renewed, replaced, deleted and created again, and an object with three sources is replaced and
// its KV secret changed, while the manager is killed 200 times at random instants. Leases last an hour, so that a
// leaked one still exists when they are counted at the end.
func TestTwoHundredKillsLeakNothing(t *testing.T) {
	t.Parallel()
	const objects, kills = 20, 200
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	b := ownBedWith(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: 20 * time.Second},
		// Vault aborts a request that exceeds its limit, and may leave a user without a lease. That is not tested here.
		Flags: []string{"--leader-elect=false", "--request-limit=30s"},
	})
	sources := newRig(t, b, leaselessPolicy)
	sources.ready("orders", sources.threeSources())
	sources.onlyRecorded("orders", "DB_")
	sources.restartsIssueNothing("orders")
	r := newRig(t, b)
	name := func(i int) string { return fmt.Sprintf("orders-%d", i) }
	for i := range objects {
		r.apply(name(i))
	}
	var color string
	for kill := range kills {
		for range 3 {
			r.mutateObject(name(random.IntN(objects)), random.IntN(4), kill)
		}
		sources.mutateSources("orders", &color, kill, random)
		time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond)
		r.must(b.Manager.Kill())
		r.must(b.Manager.Start())
	}
	sources.sourcesSurvived("orders", color)
	r.objectsSurvived(name, objects)
	issued, err := b.Vault.Requests(0, "^read rig-[0-9]+/creds/")
	r.must(err)
	t.Logf("%d kills, %d credentials requested, 0 leaked", kills, len(issued))
}

// objectsSurvived expects the objects to have one lease each, and no lease to be left once they are deleted.
func (r *rig) objectsSurvived(name func(int) string, objects int) {
	r.t.Helper()
	for i := range objects {
		r.ensure(name(i))
	}
	r.eventually("every object to be at rest", func() bool {
		for i := range objects {
			r.forgetLoop(name(i))
			if !atRest(r.get(name(i))) {
				return false
			}
		}
		return true
	})
	r.verifyLedger(objects)
	for i := range objects {
		r.must(client.IgnoreNotFound(r.Kube.Delete(r.t.Context(), r.secret(name(i)))))
	}
	for i := range objects {
		r.eventually(name(i)+" to be gone", func() bool { return r.get(name(i)) == nil })
	}
	r.nothingLeft()
}

// forgetLoop forgets how many credentials the object got within an hour. The storms cause more than leasekeeper issues.
func (r *rig) forgetLoop(name string) {
	r.t.Helper()
	d := r.get(name)
	if d == nil || d.Status.Unplanned == nil {
		return
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"status":{"unplanned":null}}`))
	r.must(client.IgnoreNotFound(r.Kube.Status().Patch(context.Background(), d, patch)))
}

// mutateObject requests a renewal or a replacement of an object, deletes it, or creates it.
func (r *rig) mutateObject(name string, what, serial int) {
	r.t.Helper()
	annotation := map[int]string{0: v1alpha1.RenewRequestedAtAnnotation, 1: v1alpha1.RotateRequestedAtAnnotation}[what]
	switch {
	case annotation != "":
		r.forgetLoop(name)
		d := r.get(name)
		if d == nil || !d.DeletionTimestamp.IsZero() {
			return
		}
		patch := client.MergeFrom(d.DeepCopy())
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, annotation, fmt.Sprint(serial))
		r.must(client.IgnoreNotFound(r.Kube.Patch(context.Background(), d, patch)))
	case what == 2:
		r.forgetLoop(name)
		r.must(client.IgnoreNotFound(r.Kube.Delete(context.Background(), r.secret(name))))
	default:
		if r.get(name) == nil {
			r.apply(name)
		}
	}
}

// ensure creates the object, after its deletion has completed.
func (r *rig) ensure(name string) {
	r.t.Helper()
	r.eventually(name+" to exist", func() bool {
		d := r.get(name)
		if d == nil {
			r.apply(name)
			return true
		}
		return d.DeletionTimestamp.IsZero()
	})
}

// atRest reports whether the object is Ready and nothing is left to do in the backend.
func atRest(d *v1alpha1.DynamicSecret) bool {
	if d == nil || d.Status.Attempt != nil || len(d.Status.Leases) == 0 || len(d.Status.Retiring) > 0 {
		return false
	}
	handled := d.Status.ObservedGeneration == d.Generation &&
		d.Status.LastHandledRotateAt == d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	return handled && meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
}

// verifyLedger expects Vault to have just the recorded leases, and PostgreSQL just the users in the Secrets.
func (r *rig) verifyLedger(objects int) {
	r.t.Helper()
	var list v1alpha1.DynamicSecretList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	var recorded, published []string
	for i := range list.Items {
		d := &list.Items[i]
		recorded = append(recorded, leaseID(d))
		s := r.target(d.TargetName())
		if s == nil {
			r.t.Fatalf("%s has no Secret", d.Name)
		}
		if err := r.login(s); err != nil {
			r.t.Errorf("the login with the Secret of %s fails: %v", d.Name, err)
		}
		published = append(published, string(s.Data["username"]))
	}
	slices.Sort(recorded)
	slices.Sort(published)
	if len(recorded) != objects {
		r.t.Fatalf("%d leases are recorded for %d objects", len(recorded), objects)
	}
	var extra []string
	defer func() {
		if len(extra) > 0 {
			r.t.Logf("the sets differ: %v", extra)
			r.t.Log(r.Vault.Log())
		}
	}()
	r.eventually("Vault and PostgreSQL to have just the recorded leases and users", func() bool {
		extra = append(difference("lease", r.leases(), recorded), difference("user", r.users(), published)...)
		return len(extra) == 0
	})
}

// difference describes the difference between two sets.
func difference(what string, existing, wanted []string) []string {
	var out []string
	for _, x := range existing {
		if !slices.Contains(wanted, x) {
			out = append(out, what+" "+x+" is not recorded")
		}
	}
	for _, x := range wanted {
		if !slices.Contains(existing, x) {
			out = append(out, what+" "+x+" does not exist")
		}
	}
	return out
}
