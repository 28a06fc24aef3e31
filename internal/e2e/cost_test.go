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
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// The targets of these tests are the table in DESIGN.md: the manager's requests to the API server for one object, with
// reads, dry runs, events and failures. A TokenRequest is not counted: there is one for each ServiceAccount and hour,
// so each test issues once before it counts.

// managerUser is the manager's name in the audit log of the API server.
const managerUser = "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount

// cost is a list of requests, such as "update dynamicsecrets/status".
type cost []string

// reads lists the requests that only read.
func (c cost) reads() cost {
	var reads cost
	for _, request := range c {
		if verb, _, _ := strings.Cut(request, " "); verb == "get" || verb == "list" || verb == "watch" {
			reads = append(reads, request)
		}
	}
	return reads
}

// costSince waits until the manager has sent no request about the rig for a while, and lists its requests since the
// mark.
func (r *rig) costSince(mark testbed.Mark) cost {
	r.t.Helper()
	const quietPeriod = 2 * time.Second
	var counted, tokens cost
	var since time.Time
	r.eventually("a quiet period", func() bool {
		before := len(counted) + len(tokens)
		counted, tokens = r.requestsSince(mark)
		if since.IsZero() || len(counted)+len(tokens) != before {
			since = time.Now()
		}
		return time.Since(since) > quietPeriod
	})
	if len(tokens) > 0 {
		r.t.Logf("besides the counted requests: %v", tokens)
	}
	return counted
}

// requestsSince lists the manager's requests about the rig since the mark: those that count, and TokenRequests.
func (r *rig) requestsSince(mark testbed.Mark) (counted, tokens cost) {
	r.t.Helper()
	found, err := r.Plane.Requests(mark, func(a testbed.APIRequest) bool {
		return a.User == managerUser && a.Namespace == r.name
	})
	r.must(err)
	for _, a := range found {
		request := strings.TrimSuffix(a.Verb+" "+a.Resource+"/"+a.Subresource, "/")
		if a.DryRun {
			request += " (dry run)"
		}
		if a.Code >= 300 {
			request += fmt.Sprintf(" (%d)", a.Code)
		}
		if a.Subresource == "token" {
			tokens = append(tokens, request)
		} else {
			counted = append(counted, request)
		}
	}
	return counted, tokens
}

// costs fails the test if the operation took more requests.
func (r *rig) costs(operation string, got cost, most int) {
	r.t.Helper()
	r.t.Logf("%s: %d requests to the API server: %s", operation, len(got), strings.Join(got, ", "))
	if len(got) > most {
		r.t.Errorf("%s took %d requests to the API server, want at most %d: %v", operation, len(got), most, got)
	}
}

// vaultRequests lists the requests of the manager that the rig's proxy received, except logins, checks of the provider
// and lists of leases.
func (r *rig) vaultRequests() []string {
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

// loginRequests counts the logins that the rig's proxy received.
func (r *rig) loginRequests() int {
	r.t.Helper()
	found, err := r.proxy.Requests(`/v1/auth/kubernetes/login`)
	r.must(err)
	return len(found)
}

func (r *rig) apiMark() testbed.Mark {
	r.t.Helper()
	mark, err := r.Plane.Mark()
	r.must(err)
	return mark
}

// countEvents counts the events of the rig with a reason; empty: all.
func (r *rig) countEvents(reason string) int {
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

func (r *rig) providerReady() {
	r.t.Helper()
	r.eventually("the provider to be Ready", func() bool {
		return meta.IsStatusConditionTrue(r.provider().Status.Conditions, v1alpha1.ReadyCondition)
	})
}

func TestFirstIssuanceCost(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("first") // requests the ServiceAccount's token
	r.costSince(r.apiMark())
	mark, logins, sent := r.apiMark(), r.loginRequests(), len(r.vaultRequests())
	r.ready("orders")
	got := r.costSince(mark)
	r.costs("the first issuance", got, 6)
	if reads := got.reads(); len(reads) > 0 {
		t.Errorf("the first issuance read %v", reads)
	}
	if n := r.loginRequests() - logins; n != 1 {
		t.Errorf("the first issuance logged in %d times", n)
	}
	if sent := r.vaultRequests()[sent:]; !slices.Equal(sent, []string{"GET /v1/" + r.name + "/creds/orders"}) {
		t.Errorf("besides the login, the first issuance sent Vault %v", sent)
	}
}

func rotationCost(t *testing.T) {
	r := newRig(t, shared)
	before := r.ready("orders", rotation(15*time.Second, 0))
	r.costSince(r.apiMark())
	mark := r.apiMark()
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	during := r.untilReplaced(before)
	r.costs("the rotation", r.costSince(mark), 5)
	if d := r.get("orders"); leaseID(d) != leaseID(during) || !retires(d, leaseID(before)) {
		t.Fatal("the overlap is too short to count the requests separately")
	}
	mark = r.apiMark()
	r.untilRotated("orders")
	r.costs("the revocation of the old lease", r.costSince(mark), 2)
}

func TestRenewalCost(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy(), withTTL(6*time.Second, time.Hour))
	r.ready("orders")
	renewals := func(n int64) int64 {
		return record(r.until("orders", fmt.Sprintf("renewed %d times", n), func(d *v1alpha1.DynamicSecret) bool {
			return record(d).Renewals >= n
		})).Renewals
	}
	first := renewals(1)
	events := r.countEvents("")
	mark, sent := r.apiMark(), len(r.vaultRequests())
	n := int(renewals(first+3) - first)
	requests := r.vaultRequests()[sent:]
	if len(requests) != n || strings.Count(strings.Join(requests, " "), "sys/leases/renew") != n {
		t.Errorf("%d renewals sent Vault %v", n, requests)
	}
	var got cost
	r.eventually("the audit log to contain the last renewal", func() bool {
		got, _ = r.requestsSince(mark)
		return len(got) >= n
	})
	r.costs(fmt.Sprintf("%d renewals", n), got, n)
	if r.countEvents("") != events {
		t.Error("a renewal emitted an event")
	}
}

func TestDeletionCost(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.ready("orders")
	r.costSince(r.apiMark())
	mark := r.apiMark()
	r.remove("orders")
	r.costs("the deletion", r.costSince(mark), 3)
	r.untilAlive(0)
}

func TestIdleObjectCostsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders")
	r.costSince(r.apiMark())
	inspections := func() int {
		found, err := r.proxy.Requests("capabilities-self")
		r.must(err)
		return len(found)
	}
	mark, sent, before := r.apiMark(), len(r.vaultRequests()), inspections()
	// The provider is checked every few seconds. After three checks, an object that is not at rest has acted.
	r.eventually("three checks of the provider", func() bool { return inspections() >= before+3 })
	if got := r.vaultRequests()[sent:]; len(got) != 0 {
		t.Errorf("an idle object sent Vault %v", got)
	}
	got, _ := r.requestsSince(mark)
	r.costs("an idle object", got, 0)
}
