//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// metric reads one series of the manager's, such as name{label="value"}; 0: there is none.
func (b *bed) metric(series string) (float64, error) {
	answer, err := http.Get(b.metrics)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		return 0, nil
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// versions of all Secrets in the room.
func (r *room) versions() map[string]string {
	r.t.Helper()
	var list corev1.SecretList
	r.must(r.kube.List(context.Background(), &list, client.InNamespace(r.name)))
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
	for i := range objects {
		r.untilReady(fmt.Sprintf("orders-%d", i))
	}
	before := r.versions()
	mark, err := b.vault.Mark()
	r.must(err)
	apiMark := r.apiMark()
	for _, stop := range []func() error{b.manager.Stop, b.manager.Kill} {
		r.must(stop())
		r.must(b.startManager(context.Background()))
		r.eventually("the manager to have looked at every object", func() bool {
			n, err := b.metric(`controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`)
			return err == nil && n >= objects
		})
	}
	issued, err := b.vault.Requests(mark, "^read "+r.name+"/creds/")
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
