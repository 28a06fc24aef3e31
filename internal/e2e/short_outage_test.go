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

// outage is a way in which Vault can be unavailable.
type outage struct {
	name       string
	begin, end func(*rig)
}

// faulty is an outage in which the proxy injects the fault into every request.
func faulty(name string, f testbed.Fault) outage {
	return outage{name, func(r *rig) { r.must(r.proxy.Break(f)) }, func(r *rig) { r.proxy.Clear() }}
}

func responding(status int, text string) outage {
	body := strings.Replace(vaultError, "%s", text, 1)
	return faulty(strconv.Itoa(status), testbed.Fault{Action: testbed.Answer, Status: status, Body: body})
}

var outages = []outage{
	{
		"refused",
		func(r *rig) { r.must(r.proxy.RefuseConnections()) },
		func(r *rig) { r.must(r.proxy.Accept()) },
	},
	{
		"sealed",
		func(r *rig) { r.must(r.Vault.Seal(context.Background())) },
		func(r *rig) { r.must(r.Vault.Unseal(context.Background())) },
	},
	faulty("reset", testbed.Fault{Action: testbed.Reset}),
	faulty("hanging", testbed.Fault{Action: testbed.Hang}),
	responding(http.StatusTooManyRequests, "request path: rate limit quota exceeded"),
	responding(http.StatusInternalServerError, "internal error"),
	responding(http.StatusServiceUnavailable, "Vault is sealed"),
}

// objectsPerOutage is LEASEKEEPER_OBJECTS, or few enough for an everyday run.
func objectsPerOutage(t *testing.T) int {
	text := os.Getenv("LEASEKEEPER_OBJECTS")
	if text == "" {
		return 10
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// snapshot is the state of a rig before something happens that must not change it.
type snapshot struct {
	objects map[string]*v1alpha1.DynamicSecret
	secrets map[string]string
	mark    testbed.Mark
}

// Leases of 75 s are due for renewal 45 to 50 s after the last one. Each outage begins after 38 s and lasts 20 s, so
// 17 s remain when it ends; a request that hangs then is given up after 10 s. All outages happen at about the same
// time, each in its own rig, with shared workers and a shared work queue.
func TestShortOutageChangesNothing(t *testing.T) {
	t.Parallel()
	objects, opts := objectsPerOutage(t), testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Flags: []string{"--backend-timeout=10s", "--leader-elect=false"},
	}
	b := ownBedWith(t, opts)
	rigs := make([]*rig, len(outages))
	for i, o := range outages {
		on := b
		if o.name == "sealed" {
			on = b.withVault(t, testbed.VaultOptions{})
		}
		rigs[i] = newRig(t, on, withProxy(), withTTL(75*time.Second, time.Hour))
		t.Logf("%s is the namespace of %q", rigs[i].name, o.name)
		for n := range objects {
			rigs[i].apply(fmt.Sprintf("orders-%d", n))
		}
	}
	var events schedule
	var checks []func()
	for i, r := range rigs {
		r.untilAll(objects, "at rest", atRest)
		events.at(time.Now(), func() { r.surviveOutage(outages[i], &events, &checks) })
	}
	events.run()
	for _, check := range checks {
		check()
	}
}

// surviveOutage makes Vault unavailable while the leases of the rig are due, and expects them to be unchanged.
func (r *rig) surviveOutage(o outage, events *schedule, checks *[]func()) {
	r.t.Helper()
	renewed := time.Now()
	r.renewAll("together")
	before := r.snapshot()
	events.at(renewed.Add(38*time.Second), func() {
		o.begin(r)
		began := time.Now()
		events.at(renewed.Add(58*time.Second), func() {
			r.checkMissedRenewals(before, began)
			o.end(r)
			ended := time.Now()
			r.t.Logf("%s: Vault was unavailable for %s", r.name, ended.Sub(began).Round(time.Second))
			*checks = append(*checks, func() {
				r.untilAll(len(before.objects), "renewed since", renewedSince(ended))
				r.unchanged(before)
			})
		})
	})
}

// schedule is a list of actions with their times. Actions of the same time run in the order in which they were added.
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

// checkMissedRenewals expects that leases came due during the outage, were not renewed, and are Ready nevertheless.
func (r *rig) checkMissedRenewals(before snapshot, began time.Time) {
	r.t.Helper()
	missed := 0
	for name, d := range r.all() {
		if due := before.objects[name].Status.NextActionAt; due.After(began) && time.Now().After(due.Time) {
			missed++
			if hasLease(d) && record(d).Renewals != record(before.objects[name]).Renewals {
				r.t.Errorf("%s/%s was renewed while Vault was unavailable", r.name, name)
			}
		}
		if !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Errorf("%s/%s is not Ready, although its lease is alive", r.name, name)
		}
	}
	r.t.Logf("%s: %d of %d leases were due while Vault was unavailable", r.name, missed, len(before.objects))
	if missed < len(before.objects)/2 {
		r.t.Errorf("%s: these are too few to prove anything", r.name)
	}
}

// snapshot records the state of the rig.
func (r *rig) snapshot() snapshot {
	r.t.Helper()
	return snapshot{objects: r.all(), secrets: r.versions(), mark: r.vaultMark()}
}

// all returns the DynamicSecrets of the rig, by name.
func (r *rig) all() map[string]*v1alpha1.DynamicSecret {
	r.t.Helper()
	var list v1alpha1.DynamicSecretList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace(r.name)))
	out := make(map[string]*v1alpha1.DynamicSecret, len(list.Items))
	for i := range list.Items {
		out[list.Items[i].Name] = &list.Items[i]
	}
	return out
}

// untilAll waits until the rig has n objects and ok accepts each. It polls only twice a second, because lists are
// expensive.
func (r *rig) untilAll(n int, what string, ok func(*v1alpha1.DynamicSecret) bool) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d objects to be %s", n, what), func() bool {
		objects := r.all()
		for _, d := range objects {
			if !ok(d) {
				time.Sleep(450 * time.Millisecond)
				return false
			}
		}
		return len(objects) == n
	})
}

// annotateAll sets an annotation on every object of the rig.
func (r *rig) annotateAll(annotation, value string) {
	r.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotation, value)
	for name := range r.all() {
		d := &v1alpha1.DynamicSecret{ObjectMeta: r.named(name)}
		r.must(r.Kube.Patch(context.Background(), d, client.RawPatch(types.MergePatchType, []byte(patch))))
	}
}

// renewAll requests the renewal of every lease of the rig, and waits for it.
func (r *rig) renewAll(request string) {
	r.t.Helper()
	r.annotateAll(v1alpha1.RenewRequestedAtAnnotation, request)
	r.untilAll(len(r.all()), "renewed as requested", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRenewAt == request
	})
}

// renewedSince is a condition for untilAll. The status stores whole seconds.
func renewedSince(then time.Time) func(*v1alpha1.DynamicSecret) bool {
	return func(d *v1alpha1.DynamicSecret) bool {
		at := record(d).RenewedAt
		return at != nil && !at.Time.Before(then.Truncate(time.Second))
	}
}

// unchanged expects the same leases, Secrets and number of credentials as before.
func (r *rig) unchanged(before snapshot) {
	r.t.Helper()
	objects, secrets := r.all(), r.versions()
	for name, d := range before.objects {
		if now := objects[name]; now == nil || !hasLease(now) || leaseID(now) != leaseID(d) {
			r.t.Errorf("the lease of %s/%s was replaced or lost", r.name, name)
		}
	}
	for name, version := range before.secrets {
		if secrets[name] != version {
			r.t.Errorf("Secret %s/%s was written", r.name, name)
		}
	}
	if len(objects) != len(before.objects) || len(secrets) != len(before.secrets) {
		r.t.Errorf("%s: there were %d objects and %d Secrets, now there are %d and %d",
			r.name, len(before.objects), len(before.secrets), len(objects), len(secrets))
	}
	if n := r.minted(before.mark); n != 0 {
		r.t.Errorf("%s: %d credentials were requested", r.name, n)
	}
}
