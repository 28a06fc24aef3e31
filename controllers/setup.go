package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/provider"
	"github.com/leasekeeper/leasekeeper/internal/revocation"
)

// Setup has everything that the reconcilers need besides a manager.
type Setup struct {
	// Clock of the operator.
	Clock clock.WithTicker
	// Backends finds the backend of a provider.
	Backends *backend.Registry
	// Limits of the workers.
	Limits *backend.Limits
	// Changes reports providers whose backend became unavailable or available.
	Changes *ProviderChanges
	// Registry of the metrics.
	Registry prometheus.Registerer
	// RequestLimit is how long a backend may continue with a request after its client has stopped waiting.
	RequestLimit time.Duration
	// Concurrency is how many DynamicSecrets are worked on at the same time.
	Concurrency int
	// ProviderInterval is the pause between inspections of a provider that is ready, ProviderRetryInterval of one that
	// is not.
	ProviderInterval, ProviderRetryInterval time.Duration
	// ProbeDelay is the pause between a change of a backend's availability and the inspection of its provider.
	ProbeDelay time.Duration
	// VerifyInterval is the pause between two checks of all leases.
	VerifyInterval time.Duration
	// SealKey seals ledger records; see lifecycle.LoadSealKey.
	SealKey []byte
	// Rollout enables spec.rollout. It requires permission to list and patch workloads.
	Rollout bool
	// RolloutWindow is how long a workload waits until its other Secrets are replaced too.
	RolloutWindow time.Duration
	// Scope of the manager. Its cache must have the same namespaces.
	Scope Scope
}

// WithManager wires every reconciler to the manager.
func (s *Setup) WithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := lifecycle.AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	c := s.Scope.client(mgr.GetClient())
	owned := client.WithFieldOwner(c, string(lifecycle.FieldOwner))
	recorder := lifecycle.NewRecorder(mgr.GetEventRecorder("leasekeeper"), c, s.Registry)
	lifecycle.ReportSealed(s.Registry, len(s.SealKey) > 0)
	life := lifecycle.New(lifecycle.Config{
		Clock: s.Clock,
		Cache: c, Writer: c, Reader: mgr.GetAPIReader(),
		Backends:     s.Backends,
		Limits:       s.Limits,
		RequestLimit: s.RequestLimit,
		SealKey:      s.SealKey,
		Rollout:      s.Rollout, RolloutWindow: s.RolloutWindow,
		NamespacedOnly: s.Scope.NamespacedOnly,
		Announce:       recorder,
	})
	verifier := lifecycle.NewVerifier(life, s.Clock, s.Backends, s.VerifyInterval)
	secrets := &DynamicSecretReconciler{
		Clock: s.Clock, Lifecycle: life, Verifier: verifier, Recovered: s.Changes.users, Concurrency: s.Concurrency,
		Scope: s.Scope,
	}
	if err := secrets.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("DynamicSecret: %w", err)
	}
	if err := s.providers(mgr, recorder, verifier); err != nil {
		return err
	}
	if s.Scope.NamespacedOnly {
		return nil
	}
	revocations := &LeaseRevocationReconciler{Runner: revocation.New(revocation.Config{
		Clock:  s.Clock,
		Client: owned, Reader: mgr.GetAPIReader(),
		Provider: func(ctx context.Context, kind, name, namespace string) (v1alpha1.Provider, error) {
			return lifecycle.GetProvider(ctx, c, kind, name, namespace)
		},
		Backend:  s.Backends.Backend,
		Verifier: verifier,
		Recorder: recorder,
	})}
	if err := revocations.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("LeaseRevocation: %w", err)
	}
	return nil
}

// providers wires the reconcilers of the kinds of providers.
func (s *Setup) providers(mgr ctrl.Manager, recorder *lifecycle.Recorder, verifier *lifecycle.Verifier) error {
	runner := provider.New(provider.Config{
		Clock:  s.Clock,
		Client: client.WithFieldOwner(s.Scope.client(mgr.GetClient()), string(lifecycle.FieldOwner)),
		Reader: mgr.GetAPIReader(), Namespaces: s.Scope.Namespaces,
		Backends:     s.Backends,
		Verification: verifier.Verification,
		Announce:     recorder.ProviderEvent,
		Users:        lifecycle.IndexProvider, Key: lifecycle.ProviderKey,
		Interval: s.ProviderInterval, RetryInterval: s.ProviderRetryInterval,
		Workers: concurrentInspections, Patience: inspectionPatience,
	})
	for kind, empty := range map[string]func() provider.Object{
		v1alpha1.ProviderKindNamespaced: func() provider.Object { return &v1alpha1.SecretProvider{} },
		v1alpha1.ProviderKindCluster:    func() provider.Object { return &v1alpha1.ClusterSecretProvider{} },
	} {
		if kind == v1alpha1.ProviderKindCluster && s.Scope.NamespacedOnly {
			continue
		}
		r := &ProviderReconciler{Runner: runner, New: empty, ProbeDelay: s.ProbeDelay}
		if err := r.SetupWithManager(mgr, s.Changes.providers[kind]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}
