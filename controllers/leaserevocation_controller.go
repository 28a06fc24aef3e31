package controllers

import (
	"context"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/revocation"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=leaserevocations,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=leasekeeper.io,resources=leaserevocations/status,verbs=update

// concurrentRevocations is how many LeaseRevocations run at the same time. One that waits for a response costs little.
// The runner limits how many of them wait for the same backend.
const concurrentRevocations = 64

// LeaseRevocationReconciler runs LeaseRevocations.
type LeaseRevocationReconciler struct {
	// Runner executes them.
	Runner *revocation.Runner

	cache client.Reader
}

// Reconcile runs one step of a LeaseRevocation.
func (r *LeaseRevocationReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	after, err := r.Runner.Run(ctx, req.Name)
	return reconcile.Result{RequeueAfter: after}, err
}

// SetupWithManager wires the reconciler to a manager.
func (r *LeaseRevocationReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.cache = mgr.GetClient()
	waiting := handler.EnqueueRequestsFromMapFunc(r.waitingFor)
	return ctrl.NewControllerManagedBy(mgr).
		Named("leaserevocation").
		For(&v1alpha1.LeaseRevocation{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.SecretProvider{}, waiting, builder.WithPredicates(readinessChanged)).
		Watches(&v1alpha1.ClusterSecretProvider{}, waiting, builder.WithPredicates(readinessChanged)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrentRevocations}).
		Complete(r)
}

// waitingFor lists the unfinished LeaseRevocations of a provider.
func (r *LeaseRevocationReconciler) waitingFor(ctx context.Context, o client.Object) []reconcile.Request {
	p, ok := o.(v1alpha1.Provider)
	if !ok {
		return nil
	}
	var list v1alpha1.LeaseRevocationList
	if err := r.cache.List(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "listing LeaseRevocations in the cache")
		return nil
	}
	key := lifecycle.ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())
	var requests []reconcile.Request
	for i := range list.Items {
		item := &list.Items[i]
		ref := item.Spec.ProviderRef
		if !item.Finished() && lifecycle.ProviderKey(ref.Kind, ref.Name, ref.Namespace) == key {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(item)})
		}
	}
	return requests
}
