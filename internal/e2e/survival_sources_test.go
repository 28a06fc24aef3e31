//go:build integration

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

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

// mutateSources usually requests a rotation of the object, and usually changes its KV secret.
func (r *rig) mutateSources(name string, color *string, serial int, random *rand.Rand) {
	r.t.Helper()
	if random.IntN(3) > 0 {
		r.forgetLoop(name)
		r.edit(name, func(d *v1alpha1.DynamicSecret) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, fmt.Sprint(serial))
		})
	}
	if random.IntN(3) > 0 {
		*color = fmt.Sprint("color-", serial)
		r.storeKV(2, "orders", map[string]any{"color": *color})
	}
}

// sourcesSurvived expects the object to have the last value of KV and one lease, and nothing to be left of it once it
// is deleted.
func (r *rig) sourcesSurvived(name, color string) {
	r.t.Helper()
	r.forgetLoop(name)
	r.until(name, "settled", settled)
	r.eventually("the last value of KV", func() bool { return r.value(name, "color") == color })
	r.onlyRecorded(name, "DB_")
	r.must(r.loginAs(r.target(name), "APP_"))
	r.remove(name)
	r.nothingLeft()
	// The sessions that only read sources again own nothing. Those of killed managers expire by themselves.
	r.t.Logf("%d sessions for reads are left to expire", len(r.tokens()))
	if r.target(name) != nil {
		r.t.Error("the Secret is left")
	}
}
