package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// Setup is what the reconcilers need besides a manager.
type Setup struct {
	// Clock of the operator.
	Clock clock.WithTicker
	// Backends finds the backend of a provider.
	Backends *vault.Backends
	// Changes is what Backends tell of providers that go down or come back.
	Changes *ProviderChanges
	// Registry of the metrics.
	Registry prometheus.Registerer
	// RequestLimit is how long a backend may go on with a request that nobody waits for.
	RequestLimit time.Duration
	// Concurrency is how many DynamicSecrets are worked on at the same time.
	Concurrency int
	// ProviderInterval and ProviderRetryInterval are the pauses between looks at a provider that is ready, and at
	// one that is not.
	ProviderInterval, ProviderRetryInterval time.Duration
	// VerifyInterval is the pause between lists of the backends' leases.
	VerifyInterval time.Duration
	// SealKey seals ledger records; see LoadSealKey.
	SealKey []byte
	// Rollout lets workloads be rolled out; it needs rights of its own.
	Rollout bool
	// RolloutWindow is how long a roll-out may wait for the other Secrets of its workloads.
	RolloutWindow time.Duration

	metrics *backend.Metrics
}

// WithManager wires every reconciler to the manager.
func (s *Setup) WithManager(ctx context.Context, mgr ctrl.Manager) error {
	s.metrics = backend.NewMetrics(s.Registry)
	if err := lifecycle.AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	announcer := lifecycle.NewRecorder(mgr.GetEventRecorder("leasekeeper"), mgr.GetClient(), s.Registry)
	life := lifecycle.New(lifecycle.Config{
		Clock: s.Clock,
		Cache: mgr.GetClient(), Writer: mgr.GetClient(), Reader: mgr.GetAPIReader(),
		Backends:     s.backend,
		Recoveries:   s.Backends.Recoveries,
		RequestLimit: s.RequestLimit,
		SealKey:      s.SealKey,
		Rollout:      s.Rollout, RolloutWindow: s.RolloutWindow,
		Announce: announcer,
	})
	v := lifecycle.NewVerifier(life, s.Clock, s.list, s.VerifyInterval)
	secrets := &DynamicSecretReconciler{
		Clock: s.Clock, Lifecycle: life, Verifier: v, Recovered: s.Changes.users, Concurrency: s.Concurrency,
	}
	if err := secrets.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("DynamicSecret: %w", err)
	}
	for kind, empty := range map[string]func() ProviderObject{
		v1alpha1.ProviderKindNamespaced: func() ProviderObject { return &v1alpha1.SecretProvider{} },
		v1alpha1.ProviderKindCluster:    func() ProviderObject { return &v1alpha1.ClusterSecretProvider{} },
	} {
		providers := &ProviderReconciler{
			Clock:         s.Clock,
			Inspect:       s.inspect,
			Advice:        v.Advice,
			Announce:      announcer.ProviderEvent,
			Forget:        func(p v1alpha1.Provider) { s.Backends.Forget(p); s.metrics.Forget(p) },
			Interval:      s.ProviderInterval,
			RetryInterval: s.ProviderRetryInterval,
			New:           empty,
		}
		if err := providers.SetupWithManager(mgr, s.Changes.providers[kind]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	revocations := &LeaseRevocationReconciler{
		Clock:    s.Clock,
		Revoker:  s.revoker,
		Suspect:  v.Raise,
		Lost:     v.RaiseLost,
		Announce: announcer.RevocationEvent,
		Count:    announcer.CountRevocation,
	}
	if err := revocations.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("LeaseRevocation: %w", err)
	}
	return nil
}

func (s *Setup) backend(ctx context.Context, p v1alpha1.Provider) (backend.Backend, error) {
	b, err := s.Backends.For(ctx, p)
	if err != nil {
		return nil, err
	}
	return s.metrics.Wrap(b, p), nil
}

func (s *Setup) list(ctx context.Context, p v1alpha1.Provider, namespace, path string) (map[string]bool, error) {
	backend, err := s.Backends.For(ctx, p)
	if err != nil {
		return nil, err
	}
	return backend.ListLeases(ctx, namespace, path)
}

func (s *Setup) revoker(ctx context.Context, p v1alpha1.Provider) (revoker, error) {
	backend, err := s.Backends.For(ctx, p)
	if err != nil {
		return nil, err
	}
	return backend, nil
}

func (s *Setup) inspect(ctx context.Context, p v1alpha1.Provider) (vault.Report, error) {
	backend, err := s.Backends.For(ctx, p)
	if err != nil {
		return vault.Report{}, err
	}
	return backend.Inspect(ctx)
}
