package lifecycle

import (
	"context"
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
	// lookupRounds is over how many intervals look-ups are spread if the backend does not permit lists.
	lookupRounds = 10
)

// Verifier notices leases that were revoked without leasekeeper. It requests one list for each folder of the backend,
// so its cost grows with roles and not with leases. A lease that is missing from a list is only suspect: the object's
// own reconciliation asks about it.
type Verifier struct {
	clock    clock.WithTicker
	cache    client.Reader
	backends *backend.Registry
	memory   *memory
	interval time.Duration
	// found takes the objects with suspect leases to the work queue.
	found chan event.GenericEvent
	round int

	mu sync.Mutex
	// denied are the permissions that the listings lack, by provider.
	denied map[string][]string
}

// NewVerifier makes the verifier of the lifecycle's objects.
func NewVerifier(l *Lifecycle, c clock.WithTicker, backends *backend.Registry, interval time.Duration) *Verifier {
	return &Verifier{clock: c, cache: l.cache, memory: l.memory, backends: backends, interval: interval,
		found: make(chan event.GenericEvent), denied: map[string][]string{}}
}

// Found are the objects with suspect leases.
func (v *Verifier) Found() <-chan event.GenericEvent { return v.found }

// folder is what one list covers.
type folder struct {
	kind, name, namespace string // of the provider
	path                  string
}

// entry is a lease of an object.
type entry struct {
	object *v1alpha1.DynamicSecret
	record *v1alpha1.LeaseRecord
}

// Start verifies once an interval, on the leader only.
func (v *Verifier) Start(ctx context.Context) error {
	ticker := v.clock.NewTicker(v.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			v.verifyAll(ctx)
		}
	}
}

// verifyAll lists every folder that has leases.
func (v *Verifier) verifyAll(ctx context.Context) {
	var list v1alpha1.DynamicSecretList
	if err := v.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // read only
		log.FromContext(ctx).Error(err, "listing DynamicSecrets in the cache")
		return
	}
	v.round++
	folders, providers := v.group(ctx, list.Items)
	denied := map[string][]string{}
	for f, entries := range folders {
		key := ProviderKey(f.kind, f.name, f.namespace)
		if missing := v.compare(ctx, providers[key], f, entries); len(missing) > 0 {
			denied[key] = append(denied[key], missing...)
		}
	}
	for _, lines := range denied {
		slices.Sort(lines)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.denied = denied
}

// group sorts the leases by the list that contains them.
func (v *Verifier) group(
	ctx context.Context, objects []v1alpha1.DynamicSecret,
) (map[folder][]entry, map[string]backend.Lister) {
	folders, listers := map[folder][]entry{}, map[string]backend.Lister{}
	for i := range objects {
		d := &objects[i]
		for j := range d.Status.Leases {
			rec := &d.Status.Leases[j]
			if !lease.Leased(rec) || rec.IssuedAt == nil || v.clock.Now().Sub(rec.IssuedAt.Time) <= settleTime {
				continue
			}
			f := folder{kind: rec.Provider.Kind, name: rec.Provider.Name, namespace: d.Namespace}
			if f.kind == v1alpha1.ProviderKindCluster {
				f.namespace = ""
			}
			key := ProviderKey(f.kind, f.name, f.namespace)
			if _, known := listers[key]; !known {
				listers[key] = v.lister(ctx, f)
			}
			if listers[key] == nil {
				continue
			}
			f.path = listers[key].Folder(rec)
			folders[f] = append(folders[f], entry{d, rec})
		}
	}
	return folders, listers
}

// lister of a provider; nil: its backend cannot list, or cannot be found, which its own reconciliation reports.
func (v *Verifier) lister(ctx context.Context, f folder) backend.Lister {
	p, err := GetProvider(ctx, v.cache, f.kind, f.name, f.namespace)
	if err != nil {
		return nil
	}
	b, err := v.backends.Backend(ctx, p)
	if err != nil {
		return nil
	}
	lister, _ := backend.As[backend.Lister](b)
	return lister
}

// Advice names the permissions with which the leases of a provider could be listed.
func (v *Verifier) Advice(p v1alpha1.Provider) []string {
	const most = 32
	v.mu.Lock()
	defer v.mu.Unlock()
	lines := slices.Compact(slices.Clone(v.denied[ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())]))
	return lines[:min(most, len(lines))]
}

// compare the recorded leases of a folder with those of the backend. It returns the permissions that the list lacks.
func (v *Verifier) compare(ctx context.Context, lister backend.Lister, f folder, entries []entry) (missing []string) {
	live, err := lister.List(ctx, *entries[0].record)
	denied := err != nil && backend.KindOf(err) == backend.Denied
	if err != nil && !denied {
		log.FromContext(ctx).V(1).Info("leases cannot be listed", "folder", f.path, "error", err.Error())
		return nil
	}
	// The cache lists objects in random order. Only a fixed one gives every lease its turn.
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.record.ID, b.record.ID) })
	for i, e := range entries {
		// If lists are denied, each lease is looked up, a few in each round.
		turn := denied && i%lookupRounds == v.round%lookupRounds
		if turn || !denied && !live[e.record.ID] {
			v.Raise(ctx, e.object, e.record.ID)
		}
	}
	return backend.MissingFrom(err)
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
