//go:build integration

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// writes lists what the manager stored in the room since the mark: objects created, changed or deleted, events
// included. A dry run stores nothing, nor does the request for a ServiceAccount's token.
func (r *room) writes(since testbed.Mark) []string {
	r.t.Helper()
	manager := "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount
	found, err := r.Plane.Requests(since, func(a testbed.APIRequest) bool {
		return a.User == manager && a.Namespace == r.name && !a.DryRun && a.Code < 300 &&
			slices.Contains([]string{"create", "update", "patch", "delete"}, a.Verb) && a.Subresource != "token"
	})
	r.must(err)
	var out []string
	for _, a := range found {
		out = append(out, strings.TrimSuffix(a.Verb+" "+a.Resource+"/"+a.Subresource, "/"))
	}
	return out
}

// proxied lists what the manager asked Vault for through the room's proxy, but for the looks at the provider itself, the
// lists that are made once a role, and logins. The proxy has its own address, so nothing of other rooms is among it.
func (r *room) proxied() []string {
	r.t.Helper()
	found, err := r.proxy.Requests(`/v1/(auth/token|sys/leases|` + r.name + `)`)
	r.must(err)
	var out []string
	for _, q := range found {
		if q.Method != http.MethodGet || !strings.HasPrefix(q.Path, "/v1/sys/leases/lookup/") {
			out = append(out, q.Method+" "+q.Path)
		}
	}
	return out
}

func (r *room) proxiedLogins() int {
	r.t.Helper()
	found, err := r.proxy.Requests(`/v1/auth/kubernetes/login`)
	r.must(err)
	return len(found)
}

func (r *room) apiMark() testbed.Mark {
	r.t.Helper()
	mark, err := r.Plane.Mark()
	r.must(err)
	return mark
}

func (r *room) countEvents(reason string) int {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	n := 0
	for _, e := range list.Items {
		if reason == "" || e.Reason == reason {
			n++
		}
	}
	return n
}

func (r *room) providerReady() {
	r.t.Helper()
	r.eventually("the provider to be Ready", func() bool {
		p := &v1alpha1.ClusterSecretProvider{}
		r.must(r.Kube.Get(context.Background(), client.ObjectKey{Name: r.name}, p))
		return len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Status == "True"
	})
}

func TestAFirstIssueCostsTwoVaultRequestsAndSixWrites(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.providerReady()
	mark, logins := r.apiMark(), r.proxiedLogins()
	r.ready("orders")
	r.eventually("its event", func() bool { return r.countEvents("Issued") == 1 })
	var writes []string
	r.eventually("the audit log to tell of the event", func() bool {
		writes = r.writes(mark)
		return slices.Contains(writes, "create events")
	})
	want := []string{
		"patch dynamicsecrets", "update dynamicsecrets/status", "update dynamicsecrets/status", "create secrets",
		"update dynamicsecrets/status", "create events",
	}
	t.Logf("written: %v", writes)
	if len(writes) > len(want) {
		t.Errorf("a first issue wrote %d times: %v", len(writes), writes)
	}
	if n := r.proxiedLogins() - logins; n != 1 {
		t.Errorf("a first issue logged in %d times", n)
	}
	if asked := r.proxied(); !slices.Equal(asked, []string{"GET /v1/" + r.name + "/creds/orders"}) {
		t.Errorf("besides the login, a first issue asked Vault for %v", asked)
	}
}

func TestARenewalCostsOneVaultRequestAndOneWriteNoReadAndNoEvent(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy(), withTTL(6*time.Second, time.Hour))
	r.ready("orders")
	renewals := func(n int64) *v1alpha1.DynamicSecret {
		return r.until("orders", fmt.Sprintf("renewed %d times", n), func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease.Renewals >= n })
	}
	first := renewals(1).Status.Lease.Renewals
	events := r.countEvents("")
	mark, asked := r.apiMark(), len(r.proxied())
	last := renewals(first + 3).Status.Lease.Renewals
	n := int(last - first)
	if got := r.proxied()[asked:]; len(got) != n || strings.Count(strings.Join(got, " "), "sys/leases/renew") != n {
		t.Errorf("%d renewals asked Vault for %v", n, got)
	}
	var writes []string
	r.eventually("the audit log to tell of the last renewal", func() bool {
		writes = r.writes(mark)
		return len(writes) >= n
	})
	if len(writes) != n {
		t.Errorf("%d renewals wrote %v", n, writes)
	}
	manager := "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount
	reads, err := r.Plane.Requests(mark, func(a testbed.APIRequest) bool { return a.User == manager && a.Namespace == r.name && a.Verb == "get" })
	if r.must(err); len(reads) > 0 {
		t.Errorf("%d renewals read %v", n, reads)
	}
	if r.countEvents("") != events {
		t.Errorf("a renewal made an event")
	}
}

func TestAnIdleObjectCostsNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.ready("orders")
	r.eventually("its event", func() bool { return r.countEvents("Issued") == 1 })
	inspections := func() int {
		found, err := r.proxy.Requests("capabilities-self")
		r.must(err)
		return len(found)
	}
	mark, asked, seen := r.apiMark(), len(r.proxied()), inspections()
	// The provider is looked at every few seconds; three looks are time enough for an object that is not at rest.
	r.eventually("three looks at the provider", func() bool { return inspections() >= seen+3 })
	if got := r.proxied()[asked:]; len(got) != 0 {
		t.Errorf("an idle object asked Vault for %v", got)
	}
	if writes := r.writes(mark); len(writes) != 0 {
		t.Errorf("an idle object wrote %v", writes)
	}
}
