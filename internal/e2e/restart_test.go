//go:build integration

package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// versions are the UIDs and resource versions of all Secrets in the rig.
func (r *rig) versions() map[string]string {
	r.t.Helper()
	var list corev1.SecretList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	out := map[string]string{}
	for _, s := range list.Items {
		out[s.Name] = string(s.UID) + "@" + s.ResourceVersion
	}
	return out
}

// A restart with Ready objects costs the API server nothing but the lists and watches that fill the caches, and leader
// election.
func TestRestartIssuesNothing(t *testing.T) {
	t.Parallel()
	const objects = 100
	b := ownBed(t, testbed.VaultOptions{})
	r := newRig(t, b)
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	r.costSince(r.apiMark())
	before, vaultMark, apiMark := r.versions(), r.vaultMark(), r.apiMark()
	for _, stop := range []func() error{b.Manager.Stop, b.Manager.Kill} {
		r.must(stop())
		r.must(b.Manager.Run(context.Background()))
		r.eventually("the manager to reconcile every object", func() bool {
			n, err := b.Manager.Metric(
				`controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`)
			return err == nil && n >= objects
		})
	}
	if n := r.minted(vaultMark); n != 0 {
		t.Errorf("two restarts issued %d credentials", n)
	}
	after := r.versions()
	for name, version := range before {
		if after[name] != version {
			t.Errorf("Secret %s was changed", name)
		}
	}
	r.costs("two restarts with Ready objects", r.costSince(apiMark), 0)
	if n := len(r.leases()); n != objects {
		t.Errorf("Vault has %d leases for %d objects", n, objects)
	}
}
