package vault

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// materialAge is how long TLS material that a provider refers to is taken for unchanged. An error of TLS ends that at
// once.
const materialAge = time.Minute

// Options of Backends. Clock and Kube are required.
type Options struct {
	Clock clock.PassiveClock
	Kube  Kube
	// Timeout of every request but issuing. 0: 10 s.
	Timeout time.Duration
	// IssueTimeout of the request that issues. 0: 60 s.
	IssueTimeout time.Duration
	// Sleep waits between two looks at a lease that Vault is revoking. nil: on the system's clock.
	Sleep func(context.Context, time.Duration) error
	// Changed is told when a provider's server is found to be down (up is false), and when it serves again; recovered
	// says that it had been down for more than a moment, so that many may be waiting. It must not block. nil: nobody is
	// told.
	Changed func(p v1alpha1.Provider, up, recovered bool)
}

// Backends gives out one Backend a provider, so that its connections and its keeper's session are shared.
type Backends struct {
	opts     Options
	accounts *accounts

	mu       sync.Mutex
	backends map[backendKey]*Backend
}

type backendKey struct {
	kind string
	uid  types.UID
	// name tells providers without a UID apart; there are none in a cluster.
	name string
}

// NewBackends makes an empty set.
func NewBackends(opts Options) *Backends {
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.IssueTimeout == 0 {
		opts.IssueTimeout = 60 * time.Second
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	return &Backends{opts: opts, accounts: newAccounts(opts.Clock, opts.Kube), backends: map[backendKey]*Backend{}}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// For returns the backend of the provider. It is the same one until the provider's generation or the TLS material that
// it refers to changes; the latter is looked at again once a minute and after an error of TLS. It talks to the API
// server only for such material, and never to Vault. Errors are Misconfigured, TLS and Unavailable.
func (s *Backends) For(ctx context.Context, p v1alpha1.Provider) (*Backend, error) {
	spec := p.ProviderSpec().Vault
	if spec == nil {
		return nil, backend.Errorf(backend.Misconfigured, "%s %q has no spec.vault", p.Kind(), p.GetName())
	}
	key, now := keyOf(p), s.opts.Clock.Now()
	old := s.lookup(key)
	if old != nil && old.generation == p.GetGeneration() && (spec.TLS == nil || old.materialFresh(now)) {
		return old, nil
	}
	m, err := readMaterial(ctx, s.opts.Kube, spec.TLS, p.GetNamespace())
	if err != nil {
		if old != nil && old.generation == p.GetGeneration() && backend.KindOf(err) == backend.Unavailable {
			// The API server is away; leases need renewing all the same.
			return old, nil
		}
		return nil, err
	}
	if old != nil && old.generation == p.GetGeneration() && old.materialVersion == m.version {
		old.materialSeen(now)
		return old, nil
	}
	made, err := s.newBackend(p, spec.DeepCopy(), m)
	if err != nil {
		return nil, err
	}
	made.materialSeen(now)
	return s.replace(key, old, made), nil
}

// Recoveries counts how often the provider's server was found to serve again after it had been down for more than a moment.
func (s *Backends) Recoveries(p v1alpha1.Provider) int64 {
	if b := s.lookup(keyOf(p)); b != nil {
		return b.gate.recovered()
	}
	return 0
}

func keyOf(p v1alpha1.Provider) backendKey {
	return backendKey{kind: p.Kind(), uid: p.GetUID(), name: p.GetNamespace() + "/" + p.GetName()}
}

func (s *Backends) lookup(key backendKey) *Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backends[key]
}

// replace puts the new backend in the old one's place, unless another caller was faster.
func (s *Backends) replace(key backendKey, old, made *Backend) *Backend {
	s.mu.Lock()
	current := s.backends[key]
	if current != old && current != nil && current.generation >= made.generation {
		s.mu.Unlock()
		return current
	}
	s.backends[key] = made
	s.mu.Unlock()
	if current != nil {
		current.retire()
	}
	return made
}

func (s *Backends) newBackend(p v1alpha1.Provider, spec *v1alpha1.VaultProvider, m material) (*Backend, error) {
	base, err := url.Parse(spec.Address)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, backend.Errorf(backend.Misconfigured, "address %q is no URL with http or https and a host", spec.Address)
	}
	client := newHTTPClient(m.config)
	g := &gate{clock: s.opts.Clock}
	if object, ok := p.(runtime.Object); ok && s.opts.Changed != nil {
		// The caller goes on to write into its own.
		mine := object.DeepCopyObject().(v1alpha1.Provider)
		g.changed = func(up, recovered bool) { s.opts.Changed(mine, up, recovered) }
	}
	return &Backend{
		clock: s.opts.Clock, kube: s.opts.Kube, accounts: s.accounts, sleep: s.opts.Sleep,
		timeout: s.opts.Timeout, issueTimeout: s.opts.IssueTimeout,
		namespace: p.GetNamespace(), generation: p.GetGeneration(), spec: spec,
		base: &url.URL{Scheme: base.Scheme, Host: base.Host}, http: client, minting: newOneShot(m.config, client.Transport),
		materialVersion: m.version,
		gate:            g,
		keeper:          newCached[keeperSession](s.opts.Clock),
	}, nil
}

// Forget drops the backend of a provider that is gone and ends its keeper's session.
func (s *Backends) Forget(p v1alpha1.Provider) {
	key := keyOf(p)
	s.mu.Lock()
	old := s.backends[key]
	delete(s.backends, key)
	s.mu.Unlock()
	if old != nil {
		old.retire()
	}
}

// Close ends the keepers' sessions, as far as ctx lets it. Sessions that it cannot end run out by themselves, and own
// nothing.
func (s *Backends) Close(ctx context.Context) error {
	s.mu.Lock()
	all := s.backends
	s.backends = map[backendKey]*Backend{}
	s.mu.Unlock()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, b := range all {
		wait.Go(func() {
			if err := b.Close(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
