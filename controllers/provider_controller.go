package controllers

import (
	"context"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
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

const (
	// concurrentInspections of each kind of provider. An inspection that waits for a response costs little, and must
	// not delay the others.
	concurrentInspections = 100
	// inspectionPatience is how long an inspection may take before it counts as hanging. A server whose health request
	// gets no response fails its inspection earlier.
	inspectionPatience = 4 * time.Second
)

// Priorities of providers in the queue.
const (
	// failingPriority: the last inspection failed, and the next one may hang.
	failingPriority = iota - 1
	// readyPriority is also that of the events of other objects.
	readyPriority
	// changedPriority: this spec was not inspected yet, or the provider is being deleted. A user waits.
	changedPriority
)

// inspectionPriority is the priority of a provider in the queue.
func inspectionPriority(p provider.Object) int {
	ready := provider.Ready(p)
	switch {
	case !p.GetDeletionTimestamp().IsZero(), ready.ObservedGeneration != p.GetGeneration():
		return changedPriority
	case ready.Status == metav1.ConditionTrue:
		return readyPriority
	}
	return failingPriority
}

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
	return reconcile.Result{RequeueAfter: after, Priority: new(inspectionPriority(p))}, err
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
		Watches(r.New(), itsPriority(0),
			builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, deletionBegan))).
		Watches(&v1alpha1.DynamicSecret{}, toProviders, builder.WithPredicates(onlyDeleted)).
		WatchesRawSource(ctrlsource.Channel(changed, itsPriority(r.ProbeDelay))).
		Complete(r)
}

// onlyDeleted passes only the event that an object no longer exists.
var onlyDeleted = predicate.Funcs{
	CreateFunc:  func(event.CreateEvent) bool { return false },
	UpdateFunc:  func(event.UpdateEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// itsPriority enqueues the provider of an event, with its priority, after a delay.
func itsPriority(delay time.Duration) handler.EventHandler {
	add := func(o client.Object, q requestQueue) {
		if p, ok := o.(provider.Object); ok {
			enqueue(q, client.ObjectKeyFromObject(p), inspectionPriority(p), delay)
		}
	}
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, e event.CreateEvent, q requestQueue) { add(e.Object, q) },
		UpdateFunc:  func(_ context.Context, e event.UpdateEvent, q requestQueue) { add(e.ObjectNew, q) },
		DeleteFunc:  func(_ context.Context, e event.DeleteEvent, q requestQueue) { add(e.Object, q) },
		GenericFunc: func(_ context.Context, e event.GenericEvent, q requestQueue) { add(e.Object, q) },
	}
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
