//go:build integration

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// An object with three sources is rotated, and its KV secret changed, while the manager is killed again and again.
// Leases last an hour, so that a lease which leaked is still there at the end.
func TestThreeSourcesSurviveRestartsAndKills(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// Vault abandons a request that exceeds its limit, and may leave a user without a lease; so the limit is high.
	b := ownBedWith(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: 20 * time.Second},
		Flags: []string{"--leader-elect=false", "--request-limit=30s"},
	})
	r := newRig(t, b, leaselessPolicy)
	r.ready("orders", r.threeSources())
	r.onlyRecorded("orders", "DB_")
	r.restartsIssueNothing("orders")
	r.survivesKills("orders", 100, random)
	r.onlyRecorded("orders", "DB_")
	r.must(r.loginAs(r.target("orders"), "APP_"))
	r.remove("orders")
	r.nothingLeft()
	// The sessions that only read sources again own nothing. Those of killed managers expire by themselves.
	t.Logf("%d sessions for reads are left to expire", len(r.tokens()))
	if r.target("orders") != nil {
		t.Error("the Secret is left")
	}
}

// restartsIssueNothing restarts the manager, in order and by a kill.
func (r *rig) restartsIssueNothing(name string) {
	r.t.Helper()
	before, version, mark := r.get(name), r.target(name).ResourceVersion, r.vaultMark()
	const waiting = `controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`
	for _, stop := range []func() error{r.Manager.Stop, r.Manager.Kill} {
		r.must(stop())
		r.must(r.Manager.Run(context.Background()))
		r.eventually("the manager to reconcile the object", func() bool {
			n, err := r.Manager.Metric(waiting)
			return err == nil && n >= 1
		})
	}
	// A requested renewal is handled after everything that a restart could cause.
	r.edit(name, func(d *v1alpha1.DynamicSecret) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation, "restarted")
	})
	after := r.until(name, "renewed", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRenewAt == "restarted"
	})
	if n := r.minted(mark); n != 0 || recordOf(after, "db").ID != recordOf(before, "db").ID {
		r.t.Errorf("two restarts issued %d credentials", n)
	}
	if r.target(name).ResourceVersion != version {
		r.t.Error("two restarts wrote the Secret")
	}
}

// survivesKills kills the manager at random instants, and waits until the object has settled.
func (r *rig) survivesKills(name string, kills int, random *rand.Rand) {
	r.t.Helper()
	mark, color := r.vaultMark(), ""
	for kill := range kills {
		if random.IntN(3) > 0 {
			r.edit(name, func(d *v1alpha1.DynamicSecret) {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, fmt.Sprint(kill))
			})
		}
		if random.IntN(3) > 0 {
			color = fmt.Sprint("color-", kill)
			r.storeKV(2, "orders", map[string]any{"color": color})
		}
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		r.must(r.Manager.Kill())
		r.must(r.Manager.Start())
	}
	r.until(name, "settled", settled)
	r.eventually("the last value of KV", func() bool { return r.value(name, "color") == color })
	r.t.Logf("%d kills, %d credentials requested", kills, r.minted(mark))
}
