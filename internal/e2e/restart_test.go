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

// versions of all Secrets in the room.
func (r *room) versions() map[string]string {
	r.t.Helper()
	var list corev1.SecretList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	out := map[string]string{}
	for _, s := range list.Items {
		out[s.Name] = string(s.UID) + "@" + s.ResourceVersion
	}
	return out
}

func TestARestartWithAHundredObjectsIssuesNothing(t *testing.T) {
	t.Parallel()
	const objects = 100
	b := ownBed(t, testbed.VaultOptions{})
	r := newRoom(t, b)
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	before := r.versions()
	mark, err := b.Vault.Mark()
	r.must(err)
	apiMark := r.apiMark()
	for _, stop := range []func() error{b.Manager.Stop, b.Manager.Kill} {
		r.must(stop())
		r.must(b.Manager.Run(context.Background()))
		r.eventually("the manager to have looked at every object", func() bool {
			n, err := b.Manager.Metric(`controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`)
			return err == nil && n >= objects
		})
	}
	issued, err := b.Vault.Requests(mark, "^read "+r.name+"/creds/")
	r.must(err)
	if len(issued) != 0 {
		t.Errorf("two restarts issued %d credentials", len(issued))
	}
	after := r.versions()
	for name, version := range before {
		if after[name] != version {
			t.Errorf("Secret %s was changed", name)
		}
	}
	if writes := r.writes(apiMark); len(writes) != 0 {
		t.Errorf("two restarts wrote %v", writes)
	}
	if n := len(r.leases()); n != objects {
		t.Errorf("Vault has %d leases for %d objects", n, objects)
	}
}
