package lifecycle

import (
	"context"
	"slices"
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

// ListFunc lists the leases of a path in a provider's backend.
type ListFunc func(ctx context.Context, p v1alpha1.Provider, namespace, path string) (map[string]bool, error)

const (
	// settleTime is how old a lease must be before its absence from a list means anything: a standby lags behind.
	settleTime = 10 * time.Second
	// lookupRounds is over how many intervals single look-ups are spread where the backend does not let us list.
	lookupRounds = 10
)

// Verifier notices leases that were revoked behind our back. It asks for one list a path, so its cost grows with roles
// and not with leases. What is missing from a list is only suspect: the object's own reconciliation asks about it.
type Verifier struct {
	clock    clock.WithTicker
	cache    client.Reader
	list     ListFunc
	memory   *memory
	interval time.Duration
	// found takes the objects with a suspect lease to the work queue.
	found chan event.GenericEvent
	round int

	mu sync.Mutex
	// refused are the paths whose leases the keeper may not list, by provider.
	refused map[string][]string
}

// NewVerifier makes the verifier of the lifecycle's objects.
func NewVerifier(l *Lifecycle, c clock.WithTicker, list ListFunc, interval time.Duration) *Verifier {
	return &Verifier{clock: c, cache: l.cache, memory: l.memory, list: list, interval: interval, found: make(chan event.GenericEvent), refused: map[string][]string{}}
}

// Found are the objects with a suspect lease.
func (v *Verifier) Found() <-chan event.GenericEvent { return v.found }

// role is what one list is about.
type role struct {
	kind, name, namespace string // of the provider
	vaultNamespace, path  string
}

// Start looks once an interval, on the leader only.
func (v *Verifier) Start(ctx context.Context) error {
	ticker := v.clock.NewTicker(v.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			v.look(ctx)
		}
	}
}

// look lists every path that has leases.
func (v *Verifier) look(ctx context.Context) {
	var list v1alpha1.DynamicSecretList
	if err := v.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // they are only looked at
		log.FromContext(ctx).Error(err, "listing DynamicSecrets in the cache")
		return
	}
	v.round++
	roles := map[role][]*v1alpha1.DynamicSecret{}
	for i := range list.Items {
		d := &list.Items[i]
		if rec := d.Status.Lease; lease.Leased(rec) && rec.IssuedAt != nil && v.clock.Now().Sub(rec.IssuedAt.Time) > settleTime {
			namespace := d.Namespace
			if rec.Provider.Kind == v1alpha1.ProviderKindCluster {
				namespace = ""
			}
			k := role{rec.Provider.Kind, rec.Provider.Name, namespace, rec.VaultNamespace, rec.Path}
			roles[k] = append(roles[k], d)
		}
	}
	refused := map[string][]string{}
	for k, users := range roles {
		key := ProviderKey(k.kind, k.name, k.namespace)
		if v.compare(ctx, k, users) {
			refused[key] = append(refused[key], k.path)
		}
	}
	for _, paths := range refused {
		slices.Sort(paths)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused = refused
}

// Advice names the policy lines that would let the keeper of a provider list leases.
func (v *Verifier) Advice(p v1alpha1.Provider) []string {
	const most = 32
	v.mu.Lock()
	defer v.mu.Unlock()
	var lines []string
	for _, path := range slices.Compact(slices.Clone(v.refused[ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())])) {
		lines = append(lines, "sys/leases/lookup/"+path+": list, sudo")
	}
	return lines[:min(most, len(lines))]
}

// compare the recorded leases of one path with the backend's. It says whether listing them is denied.
func (v *Verifier) compare(ctx context.Context, k role, users []*v1alpha1.DynamicSecret) (denied bool) {
	p, err := GetProvider(ctx, v.cache, k.kind, k.name, k.namespace)
	if err != nil {
		return false // its reconciliation says so
	}
	live, err := v.list(ctx, p, k.vaultNamespace, k.path)
	denied = err != nil && backend.KindOf(err) == backend.Denied
	if err != nil && !denied {
		log.FromContext(ctx).V(1).Info("leases cannot be listed", "path", k.path, "error", err.Error())
		return false
	}
	for i, d := range users {
		// Where listing is denied each lease is asked about by itself, a few in each round.
		if missing := !live[d.Status.Lease.ID]; (denied && i%lookupRounds == v.round%lookupRounds) || (!denied && missing) {
			v.Raise(ctx, d)
		}
	}
	return denied
}

func (v *Verifier) Raise(ctx context.Context, d *v1alpha1.DynamicSecret) {
	v.memory.suspect(client.ObjectKeyFromObject(d), d.Status.Lease.ID)
	v.tell(ctx, d)
}

// RaiseLost is raise for a lease that the backend has said to be dead.
func (v *Verifier) RaiseLost(ctx context.Context, d *v1alpha1.DynamicSecret) {
	v.memory.lose(client.ObjectKeyFromObject(d), d.Status.Lease.ID)
	v.tell(ctx, d)
}

func (v *Verifier) tell(ctx context.Context, d *v1alpha1.DynamicSecret) {
	select {
	case v.found <- event.GenericEvent{Object: d}:
	case <-ctx.Done():
	}
}
