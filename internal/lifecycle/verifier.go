package lifecycle

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	// settleTime is the minimum age of a lease before its absence from a list means anything: a replica may lag behind.
	settleTime = 10 * time.Second
	// lookupRounds is over how many intervals look-ups are spread if leases cannot be listed.
	lookupRounds = 10
)

// listsAtOnce is how many lists of one provider are requested at the same time.
const listsAtOnce = 4

// Verifier notices leases that were revoked without leasekeeper. It requests one list for each folder of the backend,
// so its cost grows with roles and not with leases. A lease that is missing from a list is only suspect: the object's
// own reconciliation asks about it.
//
// Each provider has its own rounds. A round has a time budget; the next one begins with the tenants and the folders
// that were not checked for the longest time. So a slow server delays no other, and a tenant with many paths no other
// tenant.
type Verifier struct {
	clock    clock.WithTicker
	cache    client.Reader
	backends *backend.Registry
	memory   *memory
	interval time.Duration
	// found takes the objects with suspect leases to the work queue.
	found  chan event.GenericEvent
	rounds sync.WaitGroup

	mu sync.Mutex
	// began is true after the first look at the cache.
	began bool
	// checks by provider. Losing them starts the look-ups at the first lease again, and late checks are
	// reported later.
	checks map[string]*checks
}

// NewVerifier makes the verifier of the lifecycle's objects.
func NewVerifier(l *Lifecycle, c clock.WithTicker, backends *backend.Registry, interval time.Duration) *Verifier {
	return &Verifier{clock: c, cache: l.cache, memory: l.memory, backends: backends, interval: interval,
		found: make(chan event.GenericEvent), checks: map[string]*checks{}}
}

// Found are the objects with suspect leases.
func (v *Verifier) Found() <-chan event.GenericEvent { return v.found }

// Start begins the rounds once an interval, on the leader only.
func (v *Verifier) Start(ctx context.Context) error {
	ticker := v.clock.NewTicker(v.interval)
	defer ticker.Stop()
	defer v.rounds.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			v.begin(ctx)
		}
	}
}

// begin starts a round for each provider, unless its last one is not complete.
func (v *Verifier) begin(ctx context.Context) {
	var list v1alpha1.DynamicSecretList
	if err := v.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // read only
		log.FromContext(ctx).Error(err, "listing DynamicSecrets in the cache")
		return
	}
	all := v.group(ctx, list.Items)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.began = true
	for key, c := range v.checks {
		if all[key] == nil && !c.running {
			delete(v.checks, key)
		}
	}
	for key, r := range all {
		c := v.checks[key]
		if c == nil {
			c = &checks{}
			v.checks[key] = c
		}
		if c.running {
			continue
		}
		c.running = true
		queue := c.plan(r.folders, v.clock.Now())
		v.rounds.Go(func() { v.run(ctx, r, c, queue) })
	}
}

// run checks the folders in the queue within the budget.
func (v *Verifier) run(ctx context.Context, r *round, c *checks, queue []*folder) {
	until := v.clock.Now().Add(v.interval * 3 / 4) // the last lists may take longer
	var mu sync.Mutex
	next := func() *folder {
		mu.Lock()
		defer mu.Unlock()
		if len(queue) == 0 || ctx.Err() != nil || !v.clock.Now().Before(until) {
			return nil
		}
		f := queue[0]
		queue = queue[1:]
		return f
	}
	var workers sync.WaitGroup
	for range listsAtOnce {
		workers.Go(func() {
			for f := next(); f != nil; f = next() {
				v.compare(ctx, r, f, until)
			}
		})
	}
	workers.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	c.running = false
}

// round is one round of a provider.
type round struct {
	backend backend.Backend
	lister  backend.Lister
	folders map[string]*folder
}

// folder is what one list covers.
type folder struct {
	path    string
	entries []entry
	// check is kept from round to round.
	check *check
}

// entry is a lease of an object.
type entry struct {
	object *v1alpha1.DynamicSecret
	record *v1alpha1.LeaseRecord
}

// tenant is the namespace with the first lease.
func (f *folder) tenant() string { return f.entries[0].object.Namespace }

// group sorts the leases by provider and by the list that contains them.
func (v *Verifier) group(ctx context.Context, objects []v1alpha1.DynamicSecret) map[string]*round {
	all := map[string]*round{}
	for i := range objects {
		d := &objects[i]
		for j := range d.Status.Leases {
			rec := &d.Status.Leases[j]
			if !lease.Leased(rec) || rec.IssuedAt == nil || v.clock.Now().Sub(rec.IssuedAt.Time) <= settleTime {
				continue
			}
			key := ProviderKey(rec.Provider.Kind, rec.Provider.Name, d.Namespace)
			if _, known := all[key]; !known {
				all[key] = v.newRound(ctx, rec.Provider, d.Namespace)
			}
			if all[key] != nil {
				all[key].add(d, rec)
			}
		}
	}
	maps.DeleteFunc(all, func(_ string, r *round) bool { return r == nil })
	for _, r := range all {
		for _, f := range r.folders {
			// The cache lists objects in random order.
			slices.SortFunc(f.entries, func(a, b entry) int { return strings.Compare(a.record.ID, b.record.ID) })
		}
	}
	return all
}

// newRound of a provider; nil: its backend cannot list, or cannot be found, which its own reconciliation reports.
func (v *Verifier) newRound(ctx context.Context, of v1alpha1.ProviderIdentity, namespace string) *round {
	p, err := GetProvider(ctx, v.cache, of.Kind, of.Name, namespace)
	if err != nil {
		return nil
	}
	b, err := v.backends.Backend(ctx, p)
	if err != nil {
		return nil
	}
	lister, ok := backend.As[backend.Lister](b)
	if !ok {
		return nil
	}
	return &round{backend: b, lister: lister, folders: map[string]*folder{}}
}

func (r *round) add(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) {
	path := r.lister.Folder(rec)
	f := r.folders[path]
	if f == nil {
		f = &folder{path: path}
		r.folders[path] = f
	}
	f.entries = append(f.entries, entry{d, rec})
}

// compare the recorded leases of a folder with those of the backend. If they cannot be listed, a few are looked up.
func (v *Verifier) compare(ctx context.Context, r *round, f *folder, until time.Time) {
	live, err := r.lister.List(ctx, *f.entries[0].record)
	if ctx.Err() != nil {
		return
	}
	switch {
	case err == nil:
		for _, e := range f.entries {
			if !live[e.record.ID] {
				v.Raise(ctx, e.object, e.record.ID)
			}
		}
	case canLookUp(err):
		v.lookUp(ctx, r.backend, f, until)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f.check.at, f.check.failed = v.clock.Now(), err
}

// canLookUp is false for errors that look-ups would get too, and that the provider reports.
func canLookUp(err error) bool {
	switch backend.KindOf(err) {
	case backend.Unavailable, backend.QuotaExceeded, backend.LoginFailed, backend.TLS, backend.NoServiceAccount,
		backend.Misconfigured:
		return false
	}
	return true
}

// lookUp looks a part of the leases up, within the budget. Each lease gets its turn. A list that used up the budget
// before it failed leaves some time: otherwise the leases of its path would never be verified.
func (v *Verifier) lookUp(ctx context.Context, b backend.Backend, f *folder, until time.Time) {
	if least := v.clock.Now().Add(v.interval / 4); until.Before(least) {
		until = least
	}
	for range (len(f.entries) + lookupRounds - 1) / lookupRounds {
		if !v.clock.Now().Before(until) {
			return
		}
		e := f.entries[f.check.next%len(f.entries)]
		f.check.next++
		err := b.Lookup(ctx, *e.record)
		switch {
		case err == nil:
		case backend.KindOf(err) == backend.Gone:
			v.Raise(ctx, e.object, e.record.ID)
		default:
			return
		}
	}
}

// Raise makes an object ask the backend about its leases, at once.
func (v *Verifier) Raise(ctx context.Context, d *v1alpha1.DynamicSecret, ids ...string) {
	v.memory.suspect(keyOf(d), ids...)
	v.enqueue(ctx, d)
}

// RaiseLost is Raise for leases that the backend has reported as gone.
func (v *Verifier) RaiseLost(ctx context.Context, d *v1alpha1.DynamicSecret, ids ...string) {
	v.memory.lose(keyOf(d), ids...)
	v.enqueue(ctx, d)
}

func (v *Verifier) enqueue(ctx context.Context, d *v1alpha1.DynamicSecret) {
	select {
	case v.found <- event.GenericEvent{Object: d}:
	case <-ctx.Done():
	}
}
