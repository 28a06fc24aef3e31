package vault

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// materialAge is how long material that a provider refers to is assumed to be unchanged. A TLS error ends that.
const materialAge = time.Minute

// Options of a Driver. Clock and Kube are required.
type Options struct {
	Clock clock.PassiveClock
	Kube  Kube
	// Timeout of every request except the one that issues. 0: 10 s.
	Timeout time.Duration
	// IssueTimeout of the request that issues. 0: 60 s.
	IssueTimeout time.Duration
	// AllowedAddresses are the hosts that leasekeeper connects to. The zero value: all except protected addresses.
	AllowedAddresses Hosts
	// Sleep waits between two lookups of a lease that Vault is revoking. nil: on the system's clock.
	Sleep func(context.Context, time.Duration) error
	// Changed is called when a provider's server becomes unavailable (up is false), and when it is available again.
	// recovered is true if the outage was longer than a moment, so many objects may be waiting. It must not block. nil:
	// nothing is called.
	Changed func(p v1alpha1.Provider, up, recovered bool)
}

// Driver serves the providers that have a vault block. It has one Backend for each provider, so that connections and
// sessions are shared.
type Driver struct {
	opts            Options
	serviceAccounts *serviceAccountTokens
	secrets         *authSecrets
	// cloud is shared, because all providers use the same services.
	cloud auth.HTTPClients

	mu       sync.Mutex
	backends map[backendKey]*Backend
	// unwrapped outlives a change of the provider's spec.
	unwrapped map[backendKey]*unwrapped
}

var _ backend.Driver = (*Driver)(nil)

type backendKey struct {
	kind string
	uid  types.UID
	// name distinguishes providers without a UID, which only tests have.
	name string
}

// NewDriver makes a driver without backends.
func NewDriver(opts Options) *Driver {
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.IssueTimeout == 0 {
		opts.IssueTimeout = 60 * time.Second
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	return &Driver{
		opts:            opts,
		serviceAccounts: newServiceAccountTokens(opts.Clock, opts.Kube),
		secrets:         newAuthSecrets(opts.Clock, opts.Kube),
		cloud:           newCloudClients(opts.Timeout, dialer{opts.AllowedAddresses}),
		backends:        map[backendKey]*Backend{},
		unwrapped:       map[backendKey]*unwrapped{},
	}
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

// Backend implements backend.Driver. TLS material and headers that the provider refers to are read again once a minute
// and after a TLS error; nothing else is requested from the API server.
func (d *Driver) Backend(ctx context.Context, p v1alpha1.Provider) (backend.Backend, error) {
	b, err := d.backendFor(ctx, p)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (d *Driver) backendFor(ctx context.Context, p v1alpha1.Provider) (*Backend, error) {
	spec, err := specOf(p)
	if err != nil {
		return nil, err
	}
	key, now := keyOf(p), d.opts.Clock.Now()
	old := d.find(key)
	sameSpec := old != nil && old.generation == p.GetGeneration()
	if sameSpec && (!refersTo(spec) || old.materialFresh(now)) {
		return old, nil
	}
	m, err := readMaterial(ctx, confine(d.opts.Kube, p.GetNamespace()), spec, p.GetNamespace())
	switch {
	case err != nil && sameSpec && backend.KindOf(err) == backend.Unavailable:
		// The API server is unavailable. Leases must be renewed nevertheless.
		return old, nil
	case err != nil:
		return nil, err
	case sameSpec && old.materialVersion == m.version:
		old.markMaterialRead(now)
		return old, nil
	}
	created, err := d.newBackend(p, spec.DeepCopy(), m)
	if err != nil {
		return nil, err
	}
	created.markMaterialRead(now)
	return d.replace(key, old, created), nil
}

// specOf is the vault block of the provider.
func specOf(p v1alpha1.Provider) (*v1alpha1.VaultProvider, error) {
	if spec := p.ProviderSpec().Vault; spec != nil {
		return spec, nil
	}
	return nil, backend.Errorf(backend.Misconfigured, "%s %q has no spec.vault: set it", p.Kind(), p.GetName())
}

// Recoveries implements backend.Driver.
func (d *Driver) Recoveries(p v1alpha1.Provider) int64 {
	if b := d.find(keyOf(p)); b != nil {
		return b.breaker.recovered()
	}
	return 0
}

func keyOf(p v1alpha1.Provider) backendKey {
	return backendKey{kind: p.Kind(), uid: p.GetUID(), name: p.GetNamespace() + "/" + p.GetName()}
}

func (d *Driver) find(key backendKey) *Backend {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.backends[key]
}

func (d *Driver) unwrappedOf(key backendKey) *unwrapped {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unwrapped[key] == nil {
		d.unwrapped[key] = newRecent[*cached[string]](maxUnwrapped)
	}
	return d.unwrapped[key]
}

// replace installs the new backend unless another caller was faster.
func (d *Driver) replace(key backendKey, old, created *Backend) *Backend {
	d.mu.Lock()
	current := d.backends[key]
	if current != nil && current != old && current.generation >= created.generation {
		d.mu.Unlock()
		return current
	}
	d.backends[key] = created
	if current != nil && current.spec.Address == created.spec.Address {
		created.withoutNamespaces.Store(current.withoutNamespaces.Load())
	}
	d.mu.Unlock()
	if current != nil {
		current.retire()
	}
	return created
}

func (d *Driver) newBackend(p v1alpha1.Provider, spec *v1alpha1.VaultProvider, m material) (*Backend, error) {
	base, err := url.Parse(spec.Address)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, backend.Errorf(backend.Misconfigured,
			"address %q is not a URL with http or https and a host: set spec.vault.address to one", spec.Address)
	}
	redirectHosts, err := ParseHosts(spec.RedirectHosts)
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "spec.vault.redirectHosts: %s", err)
	}
	proxy, err := proxyOf(spec)
	if err != nil {
		return nil, err
	}
	dial := dialer{d.opts.AllowedAddresses}
	client := newHTTPClient(m.config, dial, proxy)
	br := &breaker{clock: d.opts.Clock}
	if object, ok := p.(runtime.Object); ok && d.opts.Changed != nil {
		// The caller may change its own copy.
		provider := object.DeepCopyObject().(v1alpha1.Provider)
		br.changed = func(up, recovered bool) { d.opts.Changed(provider, up, recovered) }
	}
	b := &Backend{
		clock:           d.opts.Clock,
		kube:            confine(d.opts.Kube, p.GetNamespace()),
		serviceAccounts: d.serviceAccounts,
		secrets:         d.secrets,
		unwrapped:       d.unwrappedOf(keyOf(p)),
		refusals:        newRefusals(d.opts.Clock),
		sleep:           d.opts.Sleep,
		timeout:         d.opts.Timeout,
		issueTimeout:    d.opts.IssueTimeout,
		namespace:       p.GetNamespace(),
		generation:      p.GetGeneration(),
		spec:            spec,
		base:            &url.URL{Scheme: base.Scheme, Host: base.Host, Path: strings.TrimRight(base.Path, "/")},
		redirectHosts:   redirectHosts,
		headers:         m.headers,
		dial:            dial,
		proxy:           proxy,
		http:            client,
		tls:             m.config,
		cloud:           d.cloud,
		minting:         newOneShot(m.config, dial, proxy, client.Transport),
		materialVersion: m.version,
		breaker:         br,
		keeper:          newCached[session](d.opts.Clock),
		readers:         newSessionCache(d.opts.Clock),
	}
	b.keeper.keep, b.readers.keep, b.readers.renew = b.keepSession, b.keepSession, b.renewSession
	return b, nil
}

// Forget implements backend.Driver.
func (d *Driver) Forget(p v1alpha1.Provider) {
	key := keyOf(p)
	d.mu.Lock()
	old := d.backends[key]
	delete(d.backends, key)
	delete(d.unwrapped, key)
	d.mu.Unlock()
	if old != nil {
		old.retire()
	}
}

// Close implements backend.Driver. Sessions that it cannot close expire by themselves and own nothing.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	all := d.backends
	d.backends = map[backendKey]*Backend{}
	d.mu.Unlock()
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
