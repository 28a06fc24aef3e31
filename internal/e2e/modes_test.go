//go:build integration

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// away is a way in which a Vault can be away.
type away struct {
	name       string
	begin, end func(*room)
}

// faulty Vault: the proxy does this to every request.
func faulty(name string, f testbed.Fault) away {
	return away{name, func(r *room) { r.must(r.proxy.Break(f)) }, func(r *room) { r.proxy.Clear() }}
}

func answering(status int, words string) away {
	body := strings.Replace(vaultSays, "%s", words, 1)
	return faulty(strconv.Itoa(status), testbed.Fault{Action: testbed.Answer, Status: status, Body: body})
}

var outages = []away{
	{"refused", func(r *room) { r.must(r.proxy.RefuseConnections()) }, func(r *room) { r.must(r.proxy.Accept()) }},
	{"sealed", func(r *room) { r.must(r.Vault.Seal(context.Background())) }, func(r *room) { r.must(r.Vault.Unseal(context.Background())) }},
	faulty("reset", testbed.Fault{Action: testbed.Reset}),
	faulty("hanging", testbed.Fault{Action: testbed.Hang}),
	answering(http.StatusTooManyRequests, "request path: rate limit quota exceeded"),
	answering(http.StatusInternalServerError, "internal error"),
	answering(http.StatusServiceUnavailable, "Vault is sealed"),
}

// objectsAMode is how many leases meet each outage: LEASEKEEPER_OBJECTS, or few enough for an everyday run.
func objectsAMode(t *testing.T) int {
	text := os.Getenv("LEASEKEEPER_OBJECTS")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// held is what a room has before something happens that must not change it.
type held struct {
	leases  map[string]v1alpha1.DynamicSecret
	secrets map[string]string
	mark    testbed.Mark
}

// Leases of 60 s are due for renewal 36 to 40 s after the last one. Each outage begins 30 s after it and lasts 20 s; so when
// it ends there are 10 s left. All of them run at about the same time, each in a room of its own: the workers, the work
// queue and the way to the API server are shared.
func TestAnOutageShorterThanLifeChangesNothing(t *testing.T) {
	t.Parallel()
	objects, opts := objectsAMode(t), testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: []string{"--backend-timeout=10s", "--leader-elect=false"},
	}
	if objects > 50 { // the race detector makes the manager ten times slower
		opts.Manager = quickManager(t)
	}
	b := ownBedWith(t, opts)
	rooms := make([]*room, len(outages))
	for i, mode := range outages {
		of := b
		if mode.name == "sealed" {
			of = b.withVault(t, testbed.VaultOptions{})
		}
		rooms[i] = newRoom(t, of, withProxy(), withTTL(time.Minute, time.Hour))
		t.Logf("%s is the namespace of %q", rooms[i].name, mode.name)
		for n := range objects {
			rooms[i].apply(fmt.Sprintf("orders-%d", n))
		}
	}
	var events schedule
	var checks []func()
	for i, r := range rooms {
		r.untilAll(objects, "at rest", atRest)
		events.at(time.Now(), func() { r.outlives(outages[i], &events, &checks) })
	}
	events.run()
	for _, check := range checks {
		check()
	}
}

// outlives lets Vault be away while the leases of the room are due, and expects them to be what they were.
func (r *room) outlives(mode away, events *schedule, checks *[]func()) {
	r.t.Helper()
	renewed := time.Now()
	r.renewAll("together")
	before := r.hold()
	events.at(renewed.Add(30*time.Second), func() {
		mode.begin(r)
		began := time.Now()
		events.at(renewed.Add(50*time.Second), func() {
			r.missed(before, began)
			mode.end(r)
			ended := time.Now()
			r.t.Logf("%s: Vault was away for %s", r.name, ended.Sub(began).Round(time.Second))
			*checks = append(*checks, func() {
				r.untilAll(len(before.leases), "renewed since", renewedSince(ended))
				r.unchanged(before)
			})
		})
	})
}

// schedule is what to do when; what is due at the same time is done in the order in which it was noted.
type schedule []struct {
	at time.Time
	do func()
}

func (s *schedule) at(when time.Time, do func()) {
	*s = append(*s, struct {
		at time.Time
		do func()
	}{when, do})
}

func (s *schedule) run() {
	for len(*s) > 0 {
		next := 0
		for i, e := range *s {
			if e.at.Before((*s)[next].at) {
				next = i
			}
		}
		e := (*s)[next]
		*s = slices.Delete(*s, next, next+1)
		time.Sleep(time.Until(e.at))
		e.do()
	}
}

// missed expects that leases were due since the outage began, were not renewed, and are Ready all the same.
func (r *room) missed(before held, began time.Time) {
	r.t.Helper()
	missed := 0
	for name, d := range r.all() {
		was := before.leases[name].Status
		if due := was.NextActionAt; due.After(began) && time.Now().After(due.Time) {
			missed++
			if d.Status.Lease != nil && d.Status.Lease.Renewals != was.Lease.Renewals {
				r.t.Errorf("%s/%s was renewed while Vault was away", r.name, name)
			}
		}
		if !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Errorf("%s/%s is not Ready while its lease lives", r.name, name)
		}
	}
	r.t.Logf("%s: %d of %d leases were due while Vault was away", r.name, missed, len(before.leases))
	if missed < len(before.leases)/2 {
		r.t.Errorf("%s: too few to show anything", r.name)
	}
}

// hold notes what the room has.
func (r *room) hold() held {
	r.t.Helper()
	return held{leases: r.all(), secrets: r.versions(), mark: r.vaultMark()}
}

// all DynamicSecrets of the room, by name.
func (r *room) all() map[string]v1alpha1.DynamicSecret {
	r.t.Helper()
	var list v1alpha1.DynamicSecretList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	out := make(map[string]v1alpha1.DynamicSecret, len(list.Items))
	for i := range list.Items {
		out[list.Items[i].Name] = list.Items[i]
	}
	return out
}

// untilAll waits until every one of the room's objects is as wanted. It looks twice a second: lists are not cheap.
func (r *room) untilAll(n int, what string, ok func(*v1alpha1.DynamicSecret) bool) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d objects to be %s", n, what), func() bool {
		objects := r.all()
		for _, d := range objects {
			if !ok(&d) {
				time.Sleep(450 * time.Millisecond)
				return false
			}
		}
		return len(objects) == n
	})
}

// order sets an annotation of every object of the room.
func (r *room) order(annotation, value string) {
	r.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotation, value)
	for name := range r.all() {
		r.must(r.Kube.Patch(context.Background(), r.secret(name), client.RawPatch(types.MergePatchType, []byte(patch))))
	}
}

// renewAll orders every lease of the room to be renewed now, and waits for it.
func (r *room) renewAll(order string) {
	r.t.Helper()
	r.order(v1alpha1.RenewRequestedAtAnnotation, order)
	r.untilAll(len(r.all()), "renewed as ordered", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == order })
}

// renewedSince is for untilAll; times of the status are whole seconds.
func renewedSince(then time.Time) func(*v1alpha1.DynamicSecret) bool {
	return func(d *v1alpha1.DynamicSecret) bool {
		l := d.Status.Lease
		return l != nil && l.RenewedAt != nil && !l.RenewedAt.Time.Before(then.Truncate(time.Second))
	}
}

// unchanged fails where a lease, a Secret or the number of credentials is another than before.
func (r *room) unchanged(before held) {
	r.t.Helper()
	leases, secrets := r.all(), r.versions()
	for name, d := range before.leases {
		if l := leases[name].Status.Lease; l == nil || l.ID != d.Status.Lease.ID {
			r.t.Errorf("the lease of %s/%s is another", r.name, name)
		}
	}
	for name, version := range before.secrets {
		if secrets[name] != version {
			r.t.Errorf("Secret %s/%s was written", r.name, name)
		}
	}
	if len(leases) != len(before.leases) || len(secrets) != len(before.secrets) {
		r.t.Errorf("%s: %d objects became %d, %d Secrets %d", r.name, len(before.leases), len(leases), len(before.secrets), len(secrets))
	}
	if n := r.minted(before.mark); n != 0 {
		r.t.Errorf("%s: %d credentials were asked for", r.name, n)
	}
}
