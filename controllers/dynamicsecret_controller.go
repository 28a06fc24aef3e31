// Package controllers has one reconciler for each kind: watches, queues and wiring. Packages lifecycle, revocation and
// provider do the work.
package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets/status,verbs=update;patch
// +kubebuilder:rbac:groups=leasekeeper.io,resources=dynamicsecrets/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=serviceaccounts/token,verbs=create
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// DynamicSecretReconciler runs the lifecycle of each DynamicSecret.
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
	// Scope of the manager.
	Scope Scope

	cache client.Client
}

// Reconcile does everything that is due for the object.
func (r *DynamicSecretReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	d := &v1alpha1.DynamicSecret{}
	if err := r.cache.Get(ctx, req.NamespacedName, d); err != nil {
		if apierrors.IsNotFound(err) {
			after, err := r.Lifecycle.Gone(ctx, req.NamespacedName)
			return reconcile.Result{RequeueAfter: after}, err
		}
		return reconcile.Result{}, err
	}
	at, err := r.Lifecycle.Run(ctx, d)
	switch {
	case apierrors.IsNotFound(err):
		return reconcile.Result{RequeueAfter: time.Second}, nil // the object was deleted, but the cache still has it
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
	case err != nil || at.IsZero():
		return reconcile.Result{}, err
	}
	return requeue(d, at, r.Clock.Now()), nil
}

// requeue continues with the object when something is due. Its priority is that of the time when it is due.
func requeue(d *v1alpha1.DynamicSecret, due, now time.Time) reconcile.Result {
	return reconcile.Result{RequeueAfter: max(due.Sub(now), 50*time.Millisecond), Priority: new(urgency(d, due))}
}

// SetupWithManager wires the reconciler to a manager. The indexes are those of lifecycle.AddIndexes.
func (r *DynamicSecretReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.cache = r.Scope.client(mgr.GetClient())
	if err := mgr.Add(r.Verifier); err != nil {
		return fmt.Errorf("adding the verifier: %w", err)
	}
	to := func(affected func(context.Context, client.Object) []v1alpha1.DynamicSecret) byUrgency {
		return byUrgency{clock: r.Clock, affected: affected}
	}
	changed := predicate.Or(
		r.observed(), predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, deletionBegan,
		finalizerRemoved,
	)
	b := ctrl.NewControllerManagedBy(mgr).
		Named("dynamicsecret").
		Watches(&v1alpha1.DynamicSecret{}, to(itself), builder.WithPredicates(changed)).
		WatchesMetadata(&corev1.Secret{}, to(r.writersOf)).
		Watches(&v1alpha1.SecretProvider{}, to(r.usersOf), builder.WithPredicates(readinessChanged)).
		WatchesRawSource(ctrlsource.Channel(r.Verifier.Found(), to(itself))).
		WatchesRawSource(ctrlsource.Channel(r.Lifecycle.Woken(), to(r.cached))).
		WatchesRawSource(ctrlsource.Channel(r.Recovered, to(r.usersOf))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: r.Concurrency,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
				200*time.Millisecond, 30*time.Second),
		})
	if !r.Scope.NamespacedOnly {
		b = b.Watches(&v1alpha1.ClusterSecretProvider{}, to(r.usersOf), builder.WithPredicates(readinessChanged)).
			WatchesMetadata(&corev1.Namespace{}, to(r.inNamespace),
				builder.WithPredicates(predicate.LabelChangedPredicate{}))
	}
	return b.Complete(r)
}

// observed filters out every update. It notes that the cache has caught up with leasekeeper's own writes, and the last
// known state of an object that is gone.
func (r *DynamicSecretReconciler) observed() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			r.Lifecycle.Observed(e.ObjectNew)
			return false
		},
		DeleteFunc: func(e event.DeleteEvent) bool {
			if d, ok := e.Object.(*v1alpha1.DynamicSecret); ok {
				r.Lifecycle.Removed(d)
			}
			return true
		},
	}
}

// deletionBegan passes the update that sets the deletion timestamp. That update does not always change the generation.
var deletionBegan = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
}}

// finalizerRemoved passes the update that removes leasekeeper's finalizer, such as kubectl replace.
var finalizerRemoved = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return controllerutil.ContainsFinalizer(e.ObjectOld, v1alpha1.Finalizer) &&
		!controllerutil.ContainsFinalizer(e.ObjectNew, v1alpha1.Finalizer)
}}

// readinessChanged passes updates that change whether a provider can be used, or why not.
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

// usersOf lists the objects whose spec or ledger names the provider.
func (r *DynamicSecretReconciler) usersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	p, ok := o.(v1alpha1.Provider)
	if !ok {
		return nil
	}
	key := lifecycle.ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())
	return r.list(ctx, client.MatchingFields{lifecycle.IndexProvider: key})
}

// cached is the object that has the name of o.
func (r *DynamicSecretReconciler) cached(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	d := v1alpha1.DynamicSecret{}
	if err := r.cache.Get(ctx, client.ObjectKeyFromObject(o), &d); err != nil {
		return nil
	}
	return []v1alpha1.DynamicSecret{d}
}

// writersOf lists the objects that have this Secret as their target, and the one that controls it.
func (r *DynamicSecretReconciler) writersOf(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	writers, err := lifecycle.Writers(ctx, r.cache, o.GetNamespace(), o.GetName())
	if err != nil {
		log.FromContext(ctx).Error(err, "listing the DynamicSecrets of a Secret in the cache")
	}
	if c := metav1.GetControllerOf(o); c != nil && c.Kind == "DynamicSecret" {
		named := metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: c.Name}
		writers = append(writers, r.cached(ctx, &v1alpha1.DynamicSecret{ObjectMeta: named})...)
	}
	return writers
}

// inNamespace lists the objects of a namespace.
func (r *DynamicSecretReconciler) inNamespace(ctx context.Context, o client.Object) []v1alpha1.DynamicSecret {
	return r.list(ctx, client.InNamespace(o.GetName()))
}

func (r *DynamicSecretReconciler) list(ctx context.Context, opts ...client.ListOption) []v1alpha1.DynamicSecret {
	var list v1alpha1.DynamicSecretList
	// Callers only read the items.
	if err := r.cache.List(ctx, &list, append(opts, client.UnsafeDisableDeepCopy)...); err != nil {
		log.FromContext(ctx).Error(err, "listing DynamicSecrets in the cache")
		return nil
	}
	return list.Items
}
