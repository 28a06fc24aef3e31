// Package controllers has one reconciler for each kind.
//
// The life of a lease is in lifecycle.go (observe, plan, execute one step, write the status once) with one file for
// each group of actions; ports.go has the interfaces between it and the API server and the backends. What to do is
// decided in internal/lease.
package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets/status,verbs=update
// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=serviceaccounts/token,verbs=create
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// DynamicSecretReconciler keeps each DynamicSecret's credential leased, and its Secret written.
type DynamicSecretReconciler struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Lessors finds the backend of a provider.
	Lessors LessorFunc
	// Recoveries counts how often a provider's backend came back.
	Recoveries func(p v1alpha1.Provider) int64
	// RequestLimit is how long a backend may go on with a request that nobody waits for: more than Vault's
	// max_request_duration, by half at least.
	RequestLimit time.Duration
	// Concurrency is how many objects are worked on at the same time.
	Concurrency int
	// SealKey seals ledger records; empty: none is sealed.
	SealKey []byte
	// Rollout lets workloads be rolled out; RolloutWindow is how long that may wait for their other Secrets.
	Rollout       bool
	RolloutWindow time.Duration

	cache     client.Client
	sources   *providerSources
	lifecycle *lifecycle
}

// Reconcile takes the object as far as it can be taken now.
func (r *DynamicSecretReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	d := &v1alpha1.DynamicSecret{}
	if err := r.cache.Get(ctx, req.NamespacedName, d); err != nil {
		if apierrors.IsNotFound(err) {
			return r.gone(ctx, req.NamespacedName)
		}
		return reconcile.Result{}, err
	}
	at, err := r.work(ctx, d)
	switch {
	case apierrors.IsNotFound(err):
		return reconcile.Result{RequeueAfter: time.Second}, nil // the object went; look once more
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
	case err != nil || at.IsZero():
		return reconcile.Result{}, err
	}
	now := r.Clock.Now()
	return reconcile.Result{RequeueAfter: max(at.Sub(now), 50*time.Millisecond), Priority: new(urgency(d, now))}, nil
}

// work does what is due, from the cache alone where that will do: an object at rest costs no request, and a renewal costs
// the one that renews and the one that writes it down. d is brought up to date.
func (r *DynamicSecretReconciler) work(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	o, err := r.glance(ctx, d)
	if err != nil {
		return time.Time{}, err
	}
	if o == nil {
		return r.lifecycle.run(ctx, d)
	}
	step := lease.Plan(o.in)
	switch step.Action {
	case lease.Wait:
		lease.Summarize(o.in, step)
		if equality.Semantic.DeepEqual(d.Status, o.d.Status) {
			return step.At, nil
		}
	case lease.VerifyLease:
		// A question does no harm; what follows from the answer is decided anew.
		if err := r.lifecycle.verify(ctx, o); err != nil {
			return time.Time{}, err
		}
	case lease.RenewLease, lease.ExtendToken:
		// Neither does harm if the cache was stale, and the write that follows is locked.
		at, done, err := r.lifecycle.keep(ctx, o, step)
		o.d.DeepCopyInto(d)
		if done || err != nil {
			return at, err
		}
	}
	return r.lifecycle.run(ctx, d)
}

// glance makes an observation from the cache; nil: the Secret is not as the status says, or there is more to look at.
func (r *DynamicSecretReconciler) glance(ctx context.Context, d *v1alpha1.DynamicSecret) (*observation, error) {
	known := d.Status.Secret
	if known == nil || known.UID == "" || known.Name != d.TargetName() || !d.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := r.cache.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: known.Name}, m)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if m.UID != known.UID || m.ResourceVersion != known.ResourceVersion || !secret.InSync(m, d) {
		return nil, nil
	}
	src, err := r.sources.Resolve(ctx, d)
	if err != nil {
		return nil, err
	}
	mem := r.lifecycle.memory.of(types.NamespacedName{Namespace: d.Namespace, Name: d.Name}, d.UID)
	if mem.held != nil {
		return nil, nil
	}
	o := &observation{d: d.DeepCopy(), mem: mem, source: src, glanced: true}
	r.lifecycle.refreshInput(o)
	return o, nil
}

// gone: the object is no more. What this process may still hold for it is ended.
func (r *DynamicSecretReconciler) gone(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	mem := r.lifecycle.memory.find(key)
	if mem == nil {
		return reconcile.Result{}, nil
	}
	if h := mem.held; h != nil && (h.Outcome == lease.OutcomeIssued || h.Outcome == lease.OutcomeRefused) {
		was := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: mem.uid}}
		if err := r.lifecycle.endHeld(ctx, was, h); err != nil {
			log.FromContext(ctx).Info("the lease of an object that is gone could not be ended yet", "lease", h.answer.LeaseID, "error", err.Error())
			return reconcile.Result{RequeueAfter: 10 * time.Second}, nil
		}
	}
	r.lifecycle.memory.forget(key)
	return reconcile.Result{}, nil
}

// SetupWithManager wires the reconciler to a manager.
func (r *DynamicSecretReconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, announce announcer, v *verifier, recovered <-chan event.GenericEvent) error {
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	r.cache = mgr.GetClient()
	r.sources = &providerSources{cache: mgr.GetClient(), lessors: r.Lessors, recoveries: r.Recoveries, requestLimit: r.RequestLimit, sealKey: r.SealKey}
	r.lifecycle = &lifecycle{
		clock:         r.Clock,
		objects:       apiObjects{reader: mgr.GetAPIReader(), writer: mgr.GetClient()},
		secrets:       apiSecrets{reader: mgr.GetAPIReader(), writer: mgr.GetClient()},
		sources:       r.sources,
		announce:      announce,
		memory:        newMemory(),
		requestLimit:  r.RequestLimit,
		sendWithin:    r.RequestLimit / 8,
		sealKey:       r.SealKey,
		rolloutWindow: r.RolloutWindow,
	}
	if r.Rollout {
		r.lifecycle.rollouts = apiRollouts{&rollout.Rollouts{Reader: mgr.GetAPIReader(), Writer: mgr.GetClient()}, mgr.GetClient()}
	}
	v.cache, v.memory = mgr.GetClient(), r.lifecycle.memory
	if err := mgr.Add(v); err != nil {
		return fmt.Errorf("adding the verifier: %w", err)
	}
	to := func(about func(context.Context, client.Object) []v1alpha1.DynamicSecret) byUrgency {
		return byUrgency{clock: r.Clock, about: about}
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("dynamicsecret").
		Watches(&v1alpha1.DynamicSecret{}, to(itself), builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, deletionBegan))).
		WatchesMetadata(&corev1.Secret{}, to(r.writersOf)).
		WatchesMetadata(&corev1.Namespace{}, to(r.inNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&v1alpha1.SecretProvider{}, to(r.usersOf), builder.WithPredicates(readinessChanged)).
		Watches(&v1alpha1.ClusterSecretProvider{}, to(r.usersOf), builder.WithPredicates(readinessChanged)).
		WatchesRawSource(ctrlsource.Channel(v.found, to(itself))).
		WatchesRawSource(ctrlsource.Channel(recovered, to(r.usersOf))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: r.Concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](200*time.Millisecond, 30*time.Second),
		}).
		Complete(r)
}

// deletionBegan lets the update pass that sets the deletion timestamp; it changes no generation in every case.
var deletionBegan = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
}}

// readinessChanged lets pass what changes whether, or with what, a provider can be asked.
var readinessChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(v1alpha1.Provider)
	after, ok2 := e.ObjectNew.(v1alpha1.Provider)
	if !ok1 || !ok2 {
		return true
	}
	return before.GetGeneration() != after.GetGeneration() ||
		before.GetDeletionTimestamp().IsZero() != after.GetDeletionTimestamp().IsZero() ||
		!equality.Semantic.DeepEqual(notReady(before, ""), notReady(after, ""))
}}

// usersOf lists who uses a provider.
func (r *DynamicSecretReconciler) usersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	p, ok := o.(v1alpha1.Provider)
	if !ok {
		return nil
	}
	return r.list(ctx, client.MatchingFields{indexProvider: providerKey(p.Kind(), p.GetName(), p.GetNamespace())})
}

// writersOf lists who writes, or wants to write, a Secret.
func (r *DynamicSecretReconciler) writersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	users := r.list(ctx, client.InNamespace(o.GetNamespace()), client.MatchingFields{indexTarget: o.GetName()})
	if c := metav1.GetControllerOf(o); c != nil && c.Kind == "DynamicSecret" {
		d := v1alpha1.DynamicSecret{}
		if err := r.cache.Get(ctx, types.NamespacedName{Namespace: o.GetNamespace(), Name: c.Name}, &d); err == nil {
			users = append(users, d)
		}
	}
	return users
}

func (r *DynamicSecretReconciler) inNamespace(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	return r.list(ctx, client.InNamespace(o.GetName()))
}

func (r *DynamicSecretReconciler) list(ctx context.Context, opts ...client.ListOption) []v1alpha1.DynamicSecret {
	var list v1alpha1.DynamicSecretList
	// What is listed is only looked at.
	if err := r.cache.List(ctx, &list, append(opts, client.UnsafeDisableDeepCopy)...); err != nil {
		log.FromContext(ctx).Error(err, "listing DynamicSecrets in the cache")
		return nil
	}
	return list.Items
}
