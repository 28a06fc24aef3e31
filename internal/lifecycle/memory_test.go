package lifecycle

import (
	"maps"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

var ordersKey = types.NamespacedName{Namespace: "shop", Name: "orders"}

func TestRefreshForgetsFailuresThatNoLongerMatter(t *testing.T) {
	rec := vaultRecord("l", "a")
	renewed := vaultRecord("l", "a", func(r *v1alpha1.LeaseRecord) { r.Renewals = 1 })
	key := lease.Key(&rec)
	failed := lease.Failure{Count: 7}
	for _, c := range []struct {
		name, why  string
		tried      string
		recoveries int64
		leases     []v1alpha1.LeaseRecord
		left       []string
	}{
		{"nothing has changed", "the back-off continues", "1", 1, []v1alpha1.LeaseRecord{rec},
			[]string{"issue", "refresh", "renew", "revoke"}},
		{"the spec or a provider has changed",
			"a person may have repaired it; a revocation does not depend on the spec",
			"2", 1, []v1alpha1.LeaseRecord{rec}, []string{"renew", "revoke"}},
		{"the lease was renewed", "the failures are about an earlier term", "1", 1, []v1alpha1.LeaseRecord{renewed},
			[]string{"issue", "refresh", "revoke"}},
		{"a backend is available again", "the outage may have caused every failure", "1", 2,
			[]v1alpha1.LeaseRecord{rec}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := newMemory().of(ordersKey, "uid-1")
			mem.refresh("1", 1, []v1alpha1.LeaseRecord{rec})
			mem.tries.Issue, mem.tries.Refresh = failed, map[string]lease.Failure{"": failed}
			mem.tries.Renew, mem.renewing = map[string]lease.Failure{key: failed}, map[string]int64{key: rec.Renewals}
			mem.tries.Revoke = map[string]lease.Failure{key: failed}
			mem.refresh(c.tried, c.recoveries, c.leases)
			got, want := map[string]bool{}, map[string]bool{}
			for name, f := range map[string]lease.Failure{"issue": mem.tries.Issue, "refresh": mem.tries.Refresh[""],
				"renew": mem.tries.Renew[key], "revoke": mem.tries.Revoke[key]} {
				if f.Count > 0 {
					got[name] = true
				}
			}
			for _, name := range c.left {
				want[name] = true
			}
			if !maps.Equal(got, want) {
				t.Errorf("because %s: remembered %v, want %v", c.why, got, want)
			}
		})
	}
}

func TestPruneKeepsOnlyRecordsOfTheLedger(t *testing.T) {
	current, retiring, gone := vaultRecord("l", "a"), vaultRecord("m", "b"), vaultRecord("n", "c")
	mem := newMemory().of(ordersKey, "uid-1")
	all := func() map[string]lease.Failure {
		return map[string]lease.Failure{lease.Key(&current): {}, lease.Key(&retiring): {}, lease.Key(&gone): {}}
	}
	mem.tries.Renew, mem.tries.ExtendSession, mem.tries.Revoke = all(), all(), all()
	put(&mem.renewing, lease.Key(&gone), 0)
	mem.lost = map[string]bool{"l": true, "m": true, "n": true}
	mem.prune(&v1alpha1.DynamicSecretStatus{
		Leases: []v1alpha1.LeaseRecord{current}, Retiring: []v1alpha1.LeaseRecord{retiring},
	})
	for name, tries := range map[string]map[string]lease.Failure{
		"renew": mem.tries.Renew, "extend": mem.tries.ExtendSession, "revoke": mem.tries.Revoke,
	} {
		if _, left := tries[lease.Key(&gone)]; left || len(tries) != 2 {
			t.Errorf("%s: %v", name, tries)
		}
	}
	if len(mem.renewing) != 0 {
		t.Errorf("renewing: %v", mem.renewing)
	}
	// A retiring lease is being revoked, so its loss no longer causes anything.
	if !maps.Equal(mem.lost, map[string]bool{"l": true}) {
		t.Errorf("lost: %v", mem.lost)
	}
}

func TestSuspectAndLostLeases(t *testing.T) {
	m := newMemory()
	m.suspect(ordersKey, "l", "m")
	m.lose(ordersKey, "l", "old")
	m.suspectsOf(ordersKey)["x"], m.lostOf(ordersKey)["x"] = true, true // copies
	m.clearSuspect(ordersKey, "m")
	if got := m.suspectsOf(ordersKey); !maps.Equal(got, map[string]bool{"l": true}) {
		t.Errorf("suspects: %v", got)
	}
	m.forgetIDs(ordersKey, &v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{vaultRecord("l", "a")}})
	if got := m.lostOf(ordersKey); !maps.Equal(got, map[string]bool{"l": true}) {
		t.Errorf("lost: %v", got)
	}
	if other := m.suspectsOf(types.NamespacedName{Namespace: "bank", Name: "orders"}); len(other) != 0 {
		t.Errorf("suspects of another object: %v", other)
	}
	m.forget(ordersKey)
	if suspects, lost := m.suspectsOf(ordersKey), m.lostOf(ordersKey); len(suspects)+len(lost) != 0 {
		t.Errorf("after the object is gone: %v, %v", suspects, lost)
	}
}

func TestMemoryOfAnObjectThatWasCreatedAgain(t *testing.T) {
	m := newMemory()
	first := m.of(ordersKey, "uid-1")
	if m.of(ordersKey, "uid-1") != first || m.find(ordersKey) != first {
		t.Error("the memory of the same object is another one")
	}
	first.held = &held{}
	if m.of(ordersKey, "uid-2") != first {
		t.Error("a credential that only this process knows is forgotten, and never revoked")
	}
	first.held = nil
	if m.of(ordersKey, "uid-2") == first {
		t.Error("a new object has the failures of its predecessor")
	}
}

func TestNewestPrefersOwnWritesUntilTheCacheHasThem(t *testing.T) {
	version := func(uid types.UID, resourceVersion string) *v1alpha1.DynamicSecret {
		return requesting(func(d *v1alpha1.DynamicSecret) { d.UID, d.ResourceVersion = uid, resourceVersion })
	}
	for _, c := range []struct {
		name, why      string
		latest, cached *v1alpha1.DynamicSecret
		want           string
	}{
		{"nothing was written", "only the cache knows", nil, version("uid-1", "7"), "7"},
		{"the cache is behind", "a decision from an old ledger would fail with a conflict", version("uid-1", "10"),
			version("uid-1", "9"), "10"},
		{"the cache has the write", "it is as good", version("uid-1", "9"), version("uid-1", "9"), "9"},
		{"the cache has a later write", "somebody else wrote", version("uid-1", "9"), version("uid-1", "10"), "10"},
		{"the object was created again", "the write was to its predecessor", version("uid-1", "10"),
			version("uid-2", "9"), "9"},
		{"a version that cannot be compared", "the cache is used", version("uid-1", "10"), version("uid-1", "x"), "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			m.setLatest(ordersKey, c.latest)
			got := m.newest(c.cached)
			if got.ResourceVersion != c.want || got == c.cached || got == m.latest[ordersKey] {
				t.Errorf("because %s: version %s, want a copy of %s", c.why, got.ResourceVersion, c.want)
			}
		})
	}
}

func TestObservedDropsOwnWritesThatTheCacheHas(t *testing.T) {
	version := func(resourceVersion string) *v1alpha1.DynamicSecret {
		return requesting(func(d *v1alpha1.DynamicSecret) { d.ResourceVersion = resourceVersion })
	}
	l := &Lifecycle{memory: newMemory()}
	l.memory.setLatest(ordersKey, version("10"))
	if l.Observed(version("9")); l.memory.latest[ordersKey] == nil {
		t.Error("dropped before the cache has it")
	}
	if l.Observed(version("10")); l.memory.latest[ordersKey] != nil {
		t.Error("kept after the cache has it")
	}
	l.Observed(version("11"))
}

func TestRevocationsAreBoundOnce(t *testing.T) {
	mem := newMemory().of(ordersKey, "uid-1")
	at := func(id string, in time.Duration) v1alpha1.LeaseRecord {
		after := metav1.NewTime(checkedAt.Add(in))
		return vaultRecord(id, id, func(r *v1alpha1.LeaseRecord) { r.RevokeAfter = &after })
	}
	usual, far := at("l", time.Minute), at("m", 1000*time.Hour)
	st := &v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{usual, far, vaultRecord("n", "n")}}
	want := map[string]time.Time{lease.Key(&far): checkedAt.Add(time.Minute)}
	for _, later := range []time.Duration{0, 30 * time.Second} {
		mem.boundRevocations(st, time.Minute, checkedAt.Add(later))
		if !maps.Equal(mem.revokeBy, want) {
			t.Errorf("%s later: %v, want %v", later, mem.revokeBy, want)
		}
	}
	if mem.prune(&v1alpha1.DynamicSecretStatus{}); len(mem.revokeBy) > 0 {
		t.Errorf("at the end: %v", mem.revokeBy)
	}
}

func TestFailCountsAndPauses(t *testing.T) {
	now := checkedAt.Time
	pause := func(count int) time.Duration { return time.Duration(count) * time.Second }
	var tries map[string]lease.Failure
	block := lease.Block{Reason: v1alpha1.ReasonBackendError, Message: "the database is down"}
	failKey(&tries, "l", block, now, pause)
	f := failKey(&tries, "l", block, now, pause)
	want := lease.Failure{Count: 2, At: now, NotBefore: now.Add(2 * time.Second), Reason: block.Reason,
		Message: block.Message}
	if *f != want || tries["l"] != want {
		t.Errorf("got %+v and %+v, want %+v", *f, tries["l"], want)
	}
}
