package lifecycle

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// memory is all in-memory state of the lifecycles. Most of it costs only repeated requests when it is lost, because the
// ledger has everything that leads to a live lease. Two parts cost more: without held, an issuance that is not
// published yet is revoked and made again; without removed, nothing revokes the leases of an object that disappeared
// with a live ledger, and they live until they expire.
type memory struct {
	mu      sync.Mutex
	objects map[types.NamespacedName]*remembered
	// suspects are the ids of leases that were missing from a list of the backend; lost are those that a
	// LeaseRevocation has revoked. Other goroutines write them.
	suspects, lost map[types.NamespacedName]map[string]bool
	// released are the UIDs of objects whose finalizer this process removed, until the cache shows that they are gone.
	released map[types.NamespacedName]types.UID
	// latest are the objects as this process wrote or read them last, until the cache has caught up.
	latest map[types.NamespacedName]*v1alpha1.DynamicSecret
	// removed are objects that disappeared with a live ledger, until that is revoked. Nothing else knows their leases.
	removed map[types.NamespacedName]map[types.UID]*remains
}

// remembered is the memory of one object. The work queue gives an object to one worker at a time, so only that worker
// touches it.
type remembered struct {
	uid types.UID
	// secret is the Secret as this process wrote it last, until the cache has caught up.
	secret *ownWrite
	// verified is the resource version of a Secret that somebody else wrote, and whose content was read and is ours.
	verified string
	// noSecret: there was none at the last read, or this process deleted it. The cache does not show one whose labels
	// an admission policy removed, and a process that was killed after it wrote a Secret did not record it.
	noSecret bool
	// noSecretAnyMore: so it was while the object was being deleted, when no process creates one.
	noSecretAnyMore bool
	// searched is the generation for which this process has found no Secret of ours with another name; 0: none.
	searched int64
	// held is an issuance of this process. Losing it costs a credential.
	held *held
	// failedSource is the name of the source whose request failed last; empty: none, or the only one.
	failedSource string
	// tries, lost, done, reads and handled are inputs of the plan.
	tries   lease.Tries
	lost    map[string]bool
	done    map[string]bool
	reads   map[string]lease.Read
	handled map[string]string
	// unrecorded are the failures to write the status.
	unrecorded lease.Failure
	// conflicts is the number of conflicts since the object was last updated without one.
	conflicts int
	// unstored is the status of a removal that the API server does not accept; nil: it is stored.
	unstored *unstored
	// writer says who else writes the Secret; see secret.OtherWriter.
	writer string
	// response has the field names of the last response; nil: there was none.
	response *lastResponse
	// revokeBy bounds the times in the ledger before which a retiring record may not be revoked.
	revokeBy map[string]time.Time
	// rolloutCheckAt is when to check the consumers again.
	rolloutCheckAt time.Time
	// stamps of the current handover.
	stamps stamps
	// rolloutTries are the failures to check them.
	rolloutTries lease.Failure
	// tried identifies the spec, the request and the providers that the failures in tries are about.
	tried      string
	recoveries int64
	// renewing are the numbers of renewals after which a further one failed.
	renewing map[string]int64
	// reported are the reasons of the failures that events have reported.
	reported map[string]bool
}

// unstored is a status that this process continues with, and the one that the API server has instead. Losing it costs
// repeated revocations.
type unstored struct{ stored, status v1alpha1.DynamicSecretStatus }

// keep continues with a status that is not stored.
func (r *remembered) keep(before, d *v1alpha1.DynamicSecret) {
	if r.unstored == nil {
		r.unstored = &unstored{stored: *before.Status.DeepCopy()}
	}
	r.unstored.status = *d.Status.DeepCopy()
}

// restore gives an object that was read the status that is not stored, unless something else has written the status.
func (r *remembered) restore(d *v1alpha1.DynamicSecret) {
	u := r.unstored
	switch {
	case u == nil || equality.Semantic.DeepEqual(d.Status, u.status):
	case equality.Semantic.DeepEqual(d.Status, u.stored):
		d.Status = *u.status.DeepCopy()
	default:
		r.unstored = nil
	}
}

// ownWrite is a write of a Secret that the cache may not show yet.
type ownWrite struct {
	meta metav1.ObjectMeta
	at   time.Time
}

// held is an issuance of this process, from the journal until the Secret is written. Credentials and tokens are nowhere
// else.
type held struct {
	lease.Held
	sessions []backend.Session
	content  secret.Content
	salt     string
	cause    string
	// unusable is why what was minted is of no use; empty: it is, nothing was minted, or a backend was unavailable.
	unusable string
	// untested: an admission policy rejected invented data, so only the credential shows whether it accepts the Secret.
	untested bool
}

// lastResponse has the names of the fields of the last response, by source and digest of the request.
type lastResponse struct {
	fields     map[string]fieldNames
	generation int64
	at         time.Time
}

func newMemory() *memory {
	return &memory{objects: map[types.NamespacedName]*remembered{},
		suspects: map[types.NamespacedName]map[string]bool{}, lost: map[types.NamespacedName]map[string]bool{},
		released: map[types.NamespacedName]types.UID{}, latest: map[types.NamespacedName]*v1alpha1.DynamicSecret{},
		removed: map[types.NamespacedName]map[types.UID]*remains{}}
}

// suspect notes that leases of the object were missing from a list.
func (m *memory) suspect(key types.NamespacedName, ids ...string) { m.note(m.suspects, key, ids) }

// lose notes that leases of the object are gone.
func (m *memory) lose(key types.NamespacedName, ids ...string) { m.note(m.lost, key, ids) }

func (m *memory) note(in map[types.NamespacedName]map[string]bool, key types.NamespacedName, ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in[key] == nil {
		in[key] = map[string]bool{}
	}
	for _, id := range ids {
		in[key][id] = true
	}
}

// clearSuspect notes that the backend was asked about a lease.
func (m *memory) clearSuspect(key types.NamespacedName, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.suspects[key], id)
}

func (m *memory) suspectsOf(key types.NamespacedName) map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.suspects[key])
}

func (m *memory) lostOf(key types.NamespacedName) map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.lost[key])
}

// forgetIDs drops what other goroutines noted about leases that the object no longer has.
func (m *memory) forgetIDs(key types.NamespacedName, st *v1alpha1.DynamicSecretStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ids := range []map[string]bool{m.suspects[key], m.lost[key]} {
		for id := range ids {
			if !hasLease(st, id) {
				delete(ids, id)
			}
		}
	}
}

func hasLease(st *v1alpha1.DynamicSecretStatus, id string) bool {
	for i := range st.Leases {
		if st.Leases[i].ID == id {
			return true
		}
	}
	return false
}

// of returns the memory of an object. An object that was created again under the same name gets a new one, unless its
// predecessor still holds an issuance.
func (m *memory) of(key types.NamespacedName, uid types.UID) *remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.objects[key]
	if r == nil || (r.uid != uid && r.held == nil) {
		r = &remembered{uid: uid}
		m.objects[key] = r
	}
	return r
}

// takeOver returns the memory of an object that was removed.
func (m *memory) takeOver(d *v1alpha1.DynamicSecret) *remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := keyOf(d)
	r := m.objects[key]
	if r == nil || r.uid != d.UID {
		return &remembered{uid: d.UID}
	}
	if r.held == nil || inLedger(&d.Status, r.held) {
		delete(m.objects, key)
	}
	return r
}

// inLedger says that the ledger lists the held issuance.
func inLedger(st *v1alpha1.DynamicSecretStatus, h *held) bool {
	handles := map[string]bool{}
	for _, rec := range lease.Records(st) {
		handles[rec.Handle()] = true
	}
	return !slices.ContainsFunc(h.Records, func(r lease.HeldRecord) bool { return !handles[r.Record.Handle()] })
}

// remainsOf lists the removed objects of that name.
func (m *memory) remainsOf(key types.NamespacedName) []*remains {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.removed[key]))
}

// settled notes that nothing is left of a removed object.
func (m *memory) settled(key types.NamespacedName, uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.removed[key], uid)
	if len(m.removed[key]) == 0 {
		delete(m.removed, key)
	}
}

func (m *memory) find(key types.NamespacedName) *remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[key]
}

func (m *memory) forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	delete(m.suspects, key)
	delete(m.lost, key)
	delete(m.latest, key)
}

// release forgets an object whose finalizer was removed, except that there is nothing left to do for it.
func (m *memory) release(key types.NamespacedName, uid types.UID) {
	m.forget(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.removed[key][uid] != nil {
		delete(m.removed, key) // the cache was faster than the response
		return
	}
	m.released[key] = uid
}

func (m *memory) isReleased(key types.NamespacedName, uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.released[key] == uid
}

// setLatest notes what this process wrote or read last; nil: unknown.
func (m *memory) setLatest(key types.NamespacedName, d *v1alpha1.DynamicSecret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d == nil {
		delete(m.latest, key)
		return
	}
	m.latest[key] = d.DeepCopy()
}

// newest returns the object from the cache, or what this process wrote if the cache is behind.
func (m *memory) newest(cached *v1alpha1.DynamicSecret) *v1alpha1.DynamicSecret {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := types.NamespacedName{Namespace: cached.Namespace, Name: cached.Name}
	latest := m.latest[key]
	if latest == nil || latest.UID != cached.UID || !older(cached.ResourceVersion, latest.ResourceVersion) {
		delete(m.latest, key)
		return cached.DeepCopy()
	}
	return latest.DeepCopy()
}

// Observed notes that the cache shows a version of the object, so that this process's own copy can be dropped.
func (l *Lifecycle) Observed(o client.Object) {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	key := client.ObjectKeyFromObject(o)
	latest := l.memory.latest[key]
	if latest != nil && (latest.UID != o.GetUID() || !older(o.GetResourceVersion(), latest.ResourceVersion)) {
		delete(l.memory.latest, key)
	}
}

// older says that the first resource version is older than the second.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

// heldForPlan is the part of what is held that decisions are made from.
func (r *remembered) heldForPlan() lease.Held {
	if r.held == nil {
		return lease.Held{}
	}
	return r.held.Held
}

// refresh forgets failures that were about another spec, request or provider, because a person has changed something;
// failures to renew that have succeeded since; and all of them when a backend became available again.
func (r *remembered) refresh(tried string, recoveries int64, leases []v1alpha1.LeaseRecord) {
	for i := range leases {
		rec := &leases[i]
		key := lease.Key(rec)
		if was, failed := r.renewing[key]; failed && was != rec.Renewals {
			delete(r.renewing, key)
			delete(r.tries.Renew, key)
			delete(r.tries.ExtendSession, key)
		}
	}
	if r.recoveries != recoveries {
		r.recoveries, r.tries = recoveries, lease.Tries{}
	}
	if r.tried != tried {
		r.tried = tried
		r.tries.Issue, r.tries.Publish = lease.Failure{}, lease.Failure{}
		r.tries.Sync, r.tries.Repair, r.tries.DeleteSecret = lease.Failure{}, lease.Failure{}, lease.Failure{}
		r.stamps = stamps{}
		r.tries.Finalizer, r.unrecorded = lease.Failure{}, lease.Failure{}
		r.tries.Refresh = nil
	}
}

// boundRevocations notes the retiring records that would have to wait for longer than the request limit, and until when
// they do. A user who may edit a status can set any time. A request that is still in progress is over by then.
func (r *remembered) boundRevocations(st *v1alpha1.DynamicSecretStatus, limit time.Duration, now time.Time) {
	for i := range st.Retiring {
		rec, by := &st.Retiring[i], now.Add(limit)
		if _, known := r.revokeBy[lease.Key(rec)]; !known && rec.RevokeAfter != nil && rec.RevokeAfter.After(by) {
			put(&r.revokeBy, lease.Key(rec), by)
		}
	}
}

// prune drops what is remembered of records that the ledger no longer has.
func (r *remembered) prune(st *v1alpha1.DynamicSecretStatus) {
	keys := map[string]bool{}
	for _, rec := range append(append([]v1alpha1.LeaseRecord{}, st.Leases...), st.Retiring...) {
		keys[lease.Key(&rec)] = true
	}
	gone := func(key string, _ lease.Failure) bool { return !keys[key] }
	maps.DeleteFunc(r.tries.Renew, gone)
	maps.DeleteFunc(r.tries.ExtendSession, gone)
	maps.DeleteFunc(r.tries.Revoke, gone)
	maps.DeleteFunc(r.revokeBy, func(key string, _ time.Time) bool { return !keys[key] })
	maps.DeleteFunc(r.renewing, func(key string, _ int64) bool { return !keys[key] })
	maps.DeleteFunc(r.lost, func(id string, _ bool) bool { return !hasLease(st, id) })
}

// fail notes one more failure. A request that was not sent for the sake of others makes no pause longer.
func fail(f *lease.Failure, b lease.Block, now time.Time, pause func(count int) time.Duration) {
	f.At = now
	if b.RetryAfter > 0 {
		f.NotBefore = now.Add(b.RetryAfter)
		if f.Count > 0 {
			return // the message of the real failure says more
		}
		f.Count = 1
	} else {
		f.Count++
		f.NotBefore = now.Add(pause(f.Count))
	}
	f.Reason, f.Message, f.Stalled = b.Reason, b.Message, b.Stalled
}

// failKey notes one more failure under a key.
func failKey(
	all *map[string]lease.Failure, key string, b lease.Block, now time.Time, pause func(int) time.Duration,
) *lease.Failure {
	f := (*all)[key]
	fail(&f, b, now, pause)
	put(all, key, f)
	return &f
}

// put sets an entry of a map that most objects never need.
func put[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}
