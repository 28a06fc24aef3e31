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

// kubeStatus is an error response in the API server's format.
func kubeStatus(code int, reason metav1.StatusReason) testbed.Fault {
	const body = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"not now",` +
		`"reason":%q,"code":%d}`
	return testbed.Fault{Action: testbed.Answer, Status: code, Body: fmt.Sprintf(body, reason, code)}
}

// apiErrors are responses of the API server, or of a gateway in front of it, to the read of a Secret.
var apiErrors = []struct {
	name  string
	fault testbed.Fault
}{
	{"500", kubeStatus(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
	{"503", kubeStatus(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)},
	{"429", kubeStatus(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)},
	{"502 from a gateway", testbed.Fault{
		Action: testbed.Answer, Status: http.StatusBadGateway, Body: "bad gateway", ContentType: "text/plain",
	}},
	{"404 from a gateway", testbed.Fault{
		Action: testbed.Answer, Status: http.StatusNotFound, Body: "404 page not found", ContentType: "text/plain",
	}},
	{"reset", testbed.Fault{Action: testbed.Reset}},
	{"hanging", testbed.Fault{Action: testbed.Hang}},
}

const apiErrorObjects = 6

// Each lease is renewed every 24 to 27 s, so the errors also meet renewals.
func TestAPIServerErrorIsNotALostSecret(t *testing.T) {
	t.Parallel()
	b := ownBedWith(t, testbed.BedOptions{
		APIProxy: true, Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Flags: []string{"--leader-elect=false"},
	})
	r := newRig(t, b, withTTL(40*time.Second, time.Hour))
	for i := range apiErrorObjects {
		r.apply(fmt.Sprintf("orders-%d", i), func(d *v1alpha1.DynamicSecret) {
			if i%2 == 1 {
				grant(d) // its lease is revoked when its Secret is gone
			}
		})
	}
	r.untilAll(apiErrorObjects, "at rest", atRest)
	for _, e := range apiErrors {
		r.failReads(e.name, e.fault)
	}
	r.renewAll("after the reads")

	before := r.renewFromStaleCache()
	for name, interrupt := range map[string]func(){
		"all connections broken": func() { r.must(b.API.RefuseConnections()); r.must(b.API.Accept()) },
		"paused": func() {
			r.must(b.Plane.Pause())
			time.Sleep(5 * time.Second)
			r.must(b.Plane.Resume())
		},
		"restarted": func() {
			r.must(b.Plane.StopAPIServer())
			r.must(b.Plane.StartAPIServer(t.Context()))
		},
	} {
		interrupt()
		r.renewAll(name)
		r.unchanged(before)
	}
	r.onlyTheLostOneIsReplaced()
}

// touchSecrets sets an annotation that is not leasekeeper's on every Secret. The manager then has to read the Secret,
// to learn whether its data changed.
func (r *rig) touchSecrets(note string) {
	r.t.Helper()
	patch := client.RawPatch(types.MergePatchType,
		[]byte(fmt.Sprintf(`{"metadata":{"annotations":{"note":%q}}}`, note)))
	for name := range r.all() {
		r.must(r.Kube.Patch(r.t.Context(), &corev1.Secret{ObjectMeta: r.named(name)}, patch))
	}
}

// failReads makes every read of a Secret meet the fault until that has happened often enough, and expects that nothing
// changes.
func (r *rig) failReads(name string, fault testbed.Fault) {
	r.t.Helper()
	fault.Method, fault.Path = http.MethodGet, "^/api/v1/namespaces/"+r.name+"/secrets/"
	before := r.failedReads(fault.Action)
	r.must(r.API.Break(fault))
	r.touchSecrets(name)
	unchanged := r.snapshot()
	r.annotateAll("anything", name) // triggers a reconciliation
	r.eventually("reads of the Secrets to fail: "+name, func() bool {
		return r.failedReads(fault.Action) >= before+apiErrorObjects
	})
	r.API.Clear()
	r.unchanged(unchanged)
}

// failedReads counts the reads of the rig's Secrets that met the fault.
func (r *rig) failedReads(fault testbed.Action) int {
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

// renewFromStaleCache stalls all watches until every lease is renewed. Meanwhile it edits all objects, which the
// manager does not see.
func (r *rig) renewFromStaleCache() snapshot {
	r.t.Helper()
	r.must(r.API.Break(testbed.Fault{Action: testbed.Stall, Query: "watch=true"}))
	r.touchSecrets("unseen")
	r.annotateAll("unseen", "this")
	before := r.snapshot()
	since := time.Now()
	r.untilAll(apiErrorObjects, "renewed nevertheless", renewedSince(since))
	r.unchanged(before)
	r.API.Clear()
	return before
}

// onlyTheLostOneIsReplaced deletes a Secret while no Secret can be read.
func (r *rig) onlyTheLostOneIsReplaced() {
	r.t.Helper()
	before := r.snapshot()
	fault := kubeStatus(http.StatusInternalServerError, metav1.StatusReasonInternalError)
	fault.Method, fault.Path = http.MethodGet, "^/api/v1/namespaces/"+r.name+"/secrets/"
	failed := r.failedReads(fault.Action)
	r.must(r.API.Break(fault))
	r.must(r.Kube.Delete(r.t.Context(), r.target("orders-0")))
	r.eventually("reads of the Secret to fail", func() bool { return r.failedReads(fault.Action) >= failed+2 })
	if n := r.minted(before.mark); n != 0 {
		r.t.Errorf("%d credentials were requested while the Secret could not be read", n)
	}
	r.API.Clear()
	r.until("orders-0", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && hasNewLease(before.objects["orders-0"], d)
	})
	if n := r.minted(before.mark); n != 1 {
		r.t.Errorf("%d credentials were requested, want 1", n)
	}
}
