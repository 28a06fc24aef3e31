package controllers

import (
	"context"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/provider"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=secretproviders;clustersecretproviders,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=leasekeeper.io,resources=secretproviders/status;clustersecretproviders/status,verbs=update
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get

// concurrentInspections of each kind of provider. Inspections of hosts that do not respond must not delay the others.
const concurrentInspections = 24

// ProviderReconciler inspects the providers of one kind.
type ProviderReconciler struct {
	// Runner inspects providers, and releases deleted ones once no lease needs them.
	Runner *provider.Runner
	// New makes an empty object of the kind.
	New func() provider.Object
	// ProbeDelay is the pause between a change of the server's availability and the inspection. The first probe of the
	// server is faster, so one dropped connection does not make the provider unready.
	ProbeDelay time.Duration

	cache client.Reader
}

// Reconcile inspects one provider.
func (r *ProviderReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	p := r.New()
	if err := r.cache.Get(ctx, req.NamespacedName, p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	after, err := r.Runner.Run(ctx, p)
	return reconcile.Result{RequeueAfter: after}, err
}

// SetupWithManager wires the reconciler to a manager. changed has providers whose server became unavailable or
// available. The indexes are those of lifecycle.AddIndexes.
func (r *ProviderReconciler) SetupWithManager(mgr ctrl.Manager, changed <-chan event.GenericEvent) error {
	r.cache = mgr.GetClient()
	kind := r.New().Kind()
	// A provider that is being deleted waits until no ledger names it.
	toProviders := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return providersOf(o.(*v1alpha1.DynamicSecret), kind)
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(strings.ToLower(kind)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrentInspections}).
		For(r.New(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, deletionBegan))).
		Watches(&v1alpha1.DynamicSecret{}, toProviders, builder.WithPredicates(onlyDeleted)).
		WatchesRawSource(ctrlsource.Channel(changed, handler.Funcs{GenericFunc: r.enqueueLater})).
		Complete(r)
}

// onlyDeleted passes only the event that an object no longer exists.
var onlyDeleted = predicate.Funcs{
	CreateFunc:  func(event.CreateEvent) bool { return false },
	UpdateFunc:  func(event.UpdateEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// enqueueLater enqueues a provider after the probe delay.
func (r *ProviderReconciler) enqueueLater(
	_ context.Context, e event.GenericEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request],
) {
	q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(e.Object)}, r.ProbeDelay)
}

// providersOf lists the providers of a kind in the spec and in the ledger of a DynamicSecret.
func providersOf(d *v1alpha1.DynamicSecret, kind string) []reconcile.Request {
	names := sets.New[string]()
	add := func(of, name string) {
		if of == kind && name != "" {
			names.Insert(name)
		}
	}
	for _, source := range d.AllSources() {
		ref := d.ProviderOf(&source)
		add(ref.Kind, ref.Name)
	}
	for _, rec := range lease.Records(&d.Status) {
		add(rec.Provider.Kind, rec.Provider.Name)
	}
	var requests []reconcile.Request
	for _, name := range sets.List(names) {
		key := types.NamespacedName{Name: name}
		if kind == v1alpha1.ProviderKindNamespaced {
			key.Namespace = d.Namespace
		}
		requests = append(requests, reconcile.Request{NamespacedName: key})
	}
	return requests
}
