package backend

import (
	"context"
	"errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Driver serves the providers of one kind of backend. Implementations are safe for concurrent use.
type Driver interface {
	// Backend returns the backend of the provider: the same one until the provider's spec, or what it refers to,
	// changes. It does not contact the server. Errors are Misconfigured, TLS and Unavailable.
	Backend(ctx context.Context, p v1alpha1.Provider) (Backend, error)

	// Describe returns the record of a request before it is sent: RequestDigest, which identifies it, and the driver's
	// block. It contacts nobody. NoServiceAccount: neither the DynamicSecret nor the provider names one, and the login
	// needs it.
	Describe(p v1alpha1.Provider, who Identity, src v1alpha1.SecretSource) (v1alpha1.LeaseRecord, error)

	// Holds returns an error unless the credential of the record lives at the provider's server.
	Holds(p v1alpha1.Provider, rec *v1alpha1.LeaseRecord) error

	// Recoveries counts how often the provider's server became available again after an outage.
	Recoveries(p v1alpha1.Provider) int64

	// Forget drops what is kept in memory for a provider that is gone.
	Forget(p v1alpha1.Provider)

	// Close closes the sessions of all backends, as far as ctx permits.
	Close(ctx context.Context) error
}

// Registry finds the driver of a provider. Register all drivers before the first use.
type Registry struct {
	drivers    map[string]Driver
	decorators []Decorator
}

// Decorator adds something to the backends of all providers.
type Decorator interface {
	// Wrap decorates the backend of a provider.
	Wrap(b Backend, p v1alpha1.Provider) Backend
	// Forget drops what is kept for a provider that is gone.
	Forget(p v1alpha1.Provider)
}

// NewRegistry makes a registry whose backends are decorated; the last decorator is the outermost.
func NewRegistry(decorators ...Decorator) *Registry {
	return &Registry{drivers: map[string]Driver{}, decorators: decorators}
}

// Register adds the driver for a backend block of the provider's spec, such as "vault".
func (r *Registry) Register(block string, d Driver) { r.drivers[block] = d }

// driver of a provider.
func (r *Registry) driver(p v1alpha1.Provider) (Driver, error) {
	if d := r.drivers[p.ProviderSpec().Backend()]; d != nil {
		return d, nil
	}
	return nil, Errorf(Misconfigured, "%s %q names no backend that this version of leasekeeper knows",
		p.Kind(), p.GetName())
}

// Backend returns the backend of the provider.
func (r *Registry) Backend(ctx context.Context, p v1alpha1.Provider) (Backend, error) {
	d, err := r.driver(p)
	if err != nil {
		return nil, err
	}
	b, err := d.Backend(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, decorator := range r.decorators {
		b = decorator.Wrap(b, p)
	}
	return b, nil
}

// Describe returns the record of a request before it is sent.
func (r *Registry) Describe(
	p v1alpha1.Provider, who Identity, src v1alpha1.SecretSource,
) (v1alpha1.LeaseRecord, error) {
	d, err := r.driver(p)
	if err != nil {
		return v1alpha1.LeaseRecord{}, err
	}
	rec, err := d.Describe(p, who, src)
	rec.Source = src.Name
	rec.Provider = v1alpha1.ProviderIdentity{Kind: p.Kind(), Name: p.GetName(), UID: p.GetUID()}
	return rec, err
}

// Holds returns an error unless the credential of the record lives at the provider's server.
func (r *Registry) Holds(p v1alpha1.Provider, rec *v1alpha1.LeaseRecord) error {
	d, err := r.driver(p)
	if err != nil {
		return err
	}
	return d.Holds(p, rec)
}

// Recoveries counts how often the provider's server became available again after an outage.
func (r *Registry) Recoveries(p v1alpha1.Provider) int64 {
	if d, err := r.driver(p); err == nil {
		return d.Recoveries(p)
	}
	return 0
}

// Forget drops what is kept in memory for a provider that is gone.
func (r *Registry) Forget(p v1alpha1.Provider) {
	for _, d := range r.drivers {
		d.Forget(p)
	}
	for _, decorator := range r.decorators {
		decorator.Forget(p)
	}
}

// Close closes all sessions.
func (r *Registry) Close(ctx context.Context) error {
	var errs []error
	for _, d := range r.drivers {
		errs = append(errs, d.Close(ctx))
	}
	return errors.Join(errs...)
}
