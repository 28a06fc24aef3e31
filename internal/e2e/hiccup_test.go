//go:build integration

package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// kubeStatus is an error in the API server's words.
func kubeStatus(code int, reason metav1.StatusReason) testbed.Fault {
	return testbed.Fault{Action: testbed.Answer, Status: code, Body: fmt.Sprintf(
		`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"not now","reason":%q,"code":%d}`, reason, code)}
}

// hiccups of an API server, or of what stands before it, when a Secret is read.
var hiccups = []struct {
	name  string
	fault testbed.Fault
}{
	{"500", kubeStatus(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
	{"503", kubeStatus(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)},
	{"429", kubeStatus(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)},
	{"a gateway's 502", testbed.Fault{Action: testbed.Answer, Status: http.StatusBadGateway, Body: "bad gateway", ContentType: "text/plain"}},
	{"a 404 of somebody else", testbed.Fault{Action: testbed.Answer, Status: http.StatusNotFound, Body: "404 page not found", ContentType: "text/plain"}},
	{"reset", testbed.Fault{Action: testbed.Reset}},
	{"hanging", testbed.Fault{Action: testbed.Hang}},
}

const hiccupObjects = 6

// The lease of each object is due every 24 to 27 s, and what happens meanwhile happens to its renewals too.
func TestAnAPIServersHiccupIsNotReadAsALostSecret(t *testing.T) {
	t.Parallel()
	b := ownBedWith(t, testbed.BedOptions{
		APIProxy: true, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: []string{"--leader-elect=false"},
	})
	r := newRoom(t, b, withTTL(40*time.Second, time.Hour))
	for i := range hiccupObjects {
		r.apply(fmt.Sprintf("orders-%d", i), func(d *v1alpha1.DynamicSecret) {
			if i%2 == 1 {
				never(d) // whose lease goes with its Secret
			}
		})
	}
	r.untilAll(hiccupObjects, "at rest", atRest)
	r.touchSecrets("first")
	before := r.hold()
	for _, h := range hiccups {
		r.readsInVain(h.name, h.fault)
		r.unchanged(before)
	}
	r.renewAll("after the reads")

	before = r.renewsFromAStaleCache()
	for name, hiccup := range map[string]func(){
		"all connections broken": func() { r.must(b.API.RefuseConnections()); r.must(b.API.Accept()) },
		"paused":                 func() { r.must(b.Plane.Pause()); time.Sleep(5 * time.Second); r.must(b.Plane.Resume()) },
		"restarted":              func() { r.must(b.Plane.StopAPIServer()); r.must(b.Plane.StartAPIServer(t.Context())) },
	} {
		hiccup()
		r.renewAll(name)
		r.unchanged(before)
	}
	r.onlyTheLostOneIsReplaced()
}

// touchSecrets edits what is not leasekeeper's of every Secret, so that its version is not the one of the status, and
// every look at an object reads its Secret.
func (r *room) touchSecrets(note string) {
	r.t.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"annotations":{"note":%q}}}`, note)))
	for name := range r.all() {
		r.must(r.Kube.Patch(r.t.Context(), &corev1.Secret{ObjectMeta: r.named(name)}, patch))
	}
}

// readsInVain lets every read of a Secret meet the fault until that has happened often enough.
func (r *room) readsInVain(name string, fault testbed.Fault) {
	r.t.Helper()
	fault.Method, fault.Path = http.MethodGet, "^/api/v1/namespaces/"+r.name+"/secrets/"
	had := r.met(fault.Action)
	r.must(r.API.Break(fault))
	r.order("anything", name) // makes the manager look
	r.eventually("the Secrets to be read in vain: "+name, func() bool { return r.met(fault.Action) >= had+hiccupObjects })
	r.API.Clear()
}

// met counts the reads of the room's Secrets that met such a fault.
func (r *room) met(fault testbed.Action) int {
	r.t.Helper()
	found, err := r.API.Requests("^GET /api/v1/namespaces/" + r.name + "/secrets/")
	r.must(err)
	n := 0
	for _, q := range found {
		if q.Fault == fault {
			n++
		}
	}
	return n
}

// renewsFromAStaleCache holds all watches back until every lease was renewed, while everything is edited that the manager
// then does not see.
func (r *room) renewsFromAStaleCache() held {
	r.t.Helper()
	r.must(r.API.Break(testbed.Fault{Action: testbed.Stall, Query: "watch=true"}))
	r.touchSecrets("unseen")
	r.order("unseen", "this")
	before := r.hold()
	since := time.Now()
	r.untilAll(hiccupObjects, "renewed all the same", renewedSince(since))
	r.unchanged(before)
	r.API.Clear()
	return before
}

// onlyTheLostOneIsReplaced: a Secret is deleted while none can be read.
func (r *room) onlyTheLostOneIsReplaced() {
	r.t.Helper()
	before := r.hold()
	fault := kubeStatus(http.StatusInternalServerError, metav1.StatusReasonInternalError)
	fault.Method, fault.Path = http.MethodGet, "^/api/v1/namespaces/"+r.name+"/secrets/"
	had := r.met(fault.Action)
	r.must(r.API.Break(fault))
	r.must(r.Kube.Delete(r.t.Context(), r.target("orders-0")))
	r.eventually("the Secret to be missed, in vain", func() bool { return r.met(fault.Action) >= had+2 })
	if n := r.minted(before.mark); n != 0 {
		r.t.Errorf("%d credentials were asked for while the Secret could not be read", n)
	}
	r.API.Clear()
	r.until("orders-0", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && d.Status.Lease.ID != before.leases["orders-0"].Status.Lease.ID
	})
	if n := r.minted(before.mark); n != 1 {
		r.t.Errorf("%d credentials were asked for, want 1", n)
	}
}
