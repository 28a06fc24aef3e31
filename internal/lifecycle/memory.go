package lifecycle

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// memory is what this process knows of the objects and no other does. Losing it costs nothing but a try: whatever must
// outlive the process is in the ledger.
type memory struct {
	mu      sync.Mutex
	objects map[types.NamespacedName]*remembered
	// suspects are leases that were missing from a list of the backend's, by object. The verifier writes them.
	suspects map[types.NamespacedName]string
	// lost are leases that the backend has revoked by an order of ours, by object. Who gave the order writes them.
	lost map[types.NamespacedName]string
}

// remembered is the memory of one object. The work queue hands an object to one worker at a time, so only that worker
// touches it.
type remembered struct {
	uid    types.UID
	held   *held
	tries  lease.Tries
	lostID string
	// rolloutLook is when the consumers are to be looked at again.
	rolloutLook time.Time
	// tried tells the spec and the provider that the failures in tries are about.
	tried attemptKey
	// renewing tells the term of the lease that the failures to renew are about.
	renewing string
	// said is the last failure that an event told.
	said string
}

type attemptKey struct {
	generation         int64
	providerUID        types.UID
	providerGeneration int64
	recoveries         int64
}

// held is an issue of this process, from the journal until the Secret is written. The credential and the token are
// nowhere else.
type held struct {
	lease.Held
	rec    v1alpha1.LeaseRecord
	answer backend.Response
	salt   string
	cause  string
}

func newMemory() *memory {
	return &memory{objects: map[types.NamespacedName]*remembered{}, suspects: map[types.NamespacedName]string{}, lost: map[types.NamespacedName]string{}}
}

// suspect notes that a lease of the object was missing from a list; an empty id takes that back.
func (m *memory) suspect(key types.NamespacedName, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id == "" {
		delete(m.suspects, key)
		return
	}
	m.suspects[key] = id
}

func (m *memory) suspectOf(key types.NamespacedName) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.suspects[key]
}

// lose notes that a lease of the object is gone.
func (m *memory) lose(key types.NamespacedName, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost[key] = id
}

func (m *memory) lostOf(key types.NamespacedName) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost[key]
}

// of returns the memory of an object, a new one if the object was made again under the same name and nothing is held.
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
}

// heldForPlan is the part of what is held that decisions are made from.
func (r *remembered) heldForPlan() lease.Held {
	if r.held == nil {
		return lease.Held{}
	}
	return r.held.Held
}

// freshen forgets failures that were about another spec or another provider, because a person has changed something;
// failures to renew that somebody else has made good since; and all of them when the provider's backend came back.
func (r *remembered) freshen(now attemptKey, rec *v1alpha1.LeaseRecord) {
	if rec != nil {
		if term := fmt.Sprint(rec.ID, rec.Renewals); r.renewing != term {
			r.renewing = term
			r.tries.Renew, r.tries.ExtendToken = lease.Failure{}, lease.Failure{}
		}
	}
	if r.tried == now {
		return
	}
	if r.tried.recoveries != now.recoveries {
		// The backend is back: nobody waits any longer.
		r.tries = lease.Tries{}
	}
	r.tried = now
	r.tries.Issue, r.tries.Publish, r.tries.Sync = lease.Failure{}, lease.Failure{}, lease.Failure{}
}

// fail notes one more failure.
func fail(f *lease.Failure, b lease.Block, now time.Time, pause func(count int) time.Duration) {
	f.Count++
	f.NotBefore = now.Add(pause(f.Count))
	f.Reason, f.Message, f.Stalled = b.Reason, b.Message, b.Stalled
}

func (r *remembered) failEnd(rec *v1alpha1.LeaseRecord, err error, now time.Time, pause func(count int) time.Duration) {
	if r.tries.End == nil {
		r.tries.End = map[string]lease.Failure{}
	}
	f := r.tries.End[lease.TryKey(rec)]
	fail(&f, backend.BlockFor(err), now, pause)
	f.Final = backend.KindOf(err) == backend.Mismatch
	r.tries.End[lease.TryKey(rec)] = f
}

func (r *remembered) setKeep(key string, f lease.Failure) {
	if r.tries.Keep == nil {
		r.tries.Keep = map[string]lease.Failure{}
	}
	r.tries.Keep[key] = f
}
