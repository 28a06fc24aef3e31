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
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
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
	// Lifecycle of the objects.
	Lifecycle *lifecycle.Lifecycle
	// Verifier finds leases that were revoked without leasekeeper.
	Verifier *lifecycle.Verifier
	// Recovered are providers whose backend became available again.
	Recovered <-chan event.GenericEvent
	// Concurrency is how many objects are worked on at the same time.
	Concurrency int

	cache client.Client
}

// Reconcile takes the object as far as it can be taken now.
func (r *DynamicSecretReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	d := &v1alpha1.DynamicSecret{}
	if err := r.cache.Get(ctx, req.NamespacedName, d); err != nil {
		if apierrors.IsNotFound(err) {
			after, err := r.Lifecycle.Gone(ctx, req.NamespacedName)
			return reconcile.Result{RequeueAfter: after}, err
		}
		return reconcile.Result{}, err
	}
	at, err := r.Lifecycle.Work(ctx, d)
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

// SetupWithManager wires the reconciler to a manager.
func (r *DynamicSecretReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.cache = mgr.GetClient()
	if err := mgr.Add(r.Verifier); err != nil {
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
		WatchesRawSource(ctrlsource.Channel(r.Verifier.Found(), to(itself))).
		WatchesRawSource(ctrlsource.Channel(r.Recovered, to(r.usersOf))).
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
		!equality.Semantic.DeepEqual(lifecycle.NotReady(before, ""), lifecycle.NotReady(after, ""))
}}

// usersOf lists who uses a provider.
func (r *DynamicSecretReconciler) usersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	p, ok := o.(v1alpha1.Provider)
	if !ok {
		return nil
	}
	return r.list(ctx, client.MatchingFields{lifecycle.IndexProvider: lifecycle.ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())})
}

// writersOf lists who writes, or wants to write, a Secret.
func (r *DynamicSecretReconciler) writersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	users := r.list(ctx, client.InNamespace(o.GetNamespace()), client.MatchingFields{lifecycle.IndexTarget: o.GetName()})
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
