package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=secretproviders;clustersecretproviders,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=leasekeeper.io,resources=secretproviders/status;clustersecretproviders/status,verbs=update
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get

// InspectFunc asks a provider's backend who it is and what the keeper may do there.
type InspectFunc func(ctx context.Context, p v1alpha1.Provider) (vault.Report, error)

// ProviderReconciler keeps the status of one kind of provider, and keeps a provider from going while a lease needs it.
type ProviderReconciler struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Inspect the backend.
	Inspect InspectFunc
	// Advice names the policy lines that the keeper can do without and would be better with.
	Advice func(p v1alpha1.Provider) []string
	// Announce an event on a provider.
	Announce func(p v1alpha1.Provider, kind, reason, message string)
	// Forget what is kept for a provider that is gone.
	Forget func(p v1alpha1.Provider)
	// Interval between inspections of a provider that is ready.
	Interval time.Duration
	// RetryInterval between inspections of one that is not.
	RetryInterval time.Duration
	// New makes an empty object of the kind.
	New func() ProviderObject

	client client.Client
	reader client.Reader
}

// ProviderObject is a provider as the API machinery sees it.
type ProviderObject interface {
	v1alpha1.Provider
	client.Object
}

// Reconcile inspects the backend and says what it found.
func (r *ProviderReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	p := r.New()
	if err := r.client.Get(ctx, req.NamespacedName, p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !p.GetDeletionTimestamp().IsZero() {
		return r.letGo(ctx, p)
	}
	if !controllerutil.ContainsFinalizer(p, v1alpha1.ProviderFinalizer) {
		before := p.DeepCopyObject().(client.Object)
		controllerutil.AddFinalizer(p, v1alpha1.ProviderFinalizer)
		if err := r.client.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), lifecycle.FieldOwner); err != nil {
			return reconcile.Result{}, lifecycle.IgnoreConflict(err)
		}
	}
	report, err := r.Inspect(ctx, p)
	report.Advised = r.Advice(p)
	before := lifecycle.Ready(p)
	if err := r.write(ctx, p, func(now metav1.Time) { judge(p, report, err, now) }); err != nil {
		return reconcile.Result{}, err
	}
	r.tellTurn(p, before)
	if meta.IsStatusConditionTrue(p.ProviderStatus().Conditions, v1alpha1.ReadyCondition) {
		return reconcile.Result{RequeueAfter: r.Interval}, nil
	}
	return reconcile.Result{RequeueAfter: r.RetryInterval}, nil
}

// tellTurn says by an event that a provider is no longer ready, why it is not where that has changed, and that it is again.
func (r *ProviderReconciler) tellTurn(p v1alpha1.Provider, before metav1.Condition) {
	now := lifecycle.Ready(p)
	switch {
	case now.Status == metav1.ConditionTrue && before.Status == metav1.ConditionFalse:
		r.Announce(p, corev1.EventTypeNormal, now.Reason, now.Message)
	case now.Status == metav1.ConditionFalse && (before.Status != now.Status || before.Reason != now.Reason):
		r.Announce(p, corev1.EventTypeWarning, now.Reason, now.Message)
	}
}

// write the status if it says something new.
func (r *ProviderReconciler) write(ctx context.Context, p ProviderObject, change func(now metav1.Time)) error {
	st := p.ProviderStatus()
	before := st.DeepCopy()
	st.ObservedGeneration = p.GetGeneration()
	change(metav1.NewTime(r.Clock.Now()))
	if equality.Semantic.DeepEqual(before, st) {
		return nil
	}
	return lifecycle.IgnoreConflict(r.client.Status().Update(ctx, p, lifecycle.FieldOwner))
}

// judge turns what was found into conditions.
func judge(p ProviderObject, report vault.Report, err error, now metav1.Time) {
	spec := p.ProviderSpec().Vault
	switch {
	case err != nil:
		b := backend.BlockFor(err)
		say(p, now, metav1.ConditionFalse, b.Reason, b.Message, b.Stalled)
		return
	case len(report.Missing) > 0 && spec.KeeperAuth != nil:
		p.ProviderStatus().MissingCapabilities = report.Missing
		say(p, now, metav1.ConditionFalse, v1alpha1.ReasonKeeperPolicyIncomplete,
			"The keeper's policy lacks: "+strings.Join(report.Missing, "; ")+". Nothing is issued, because it could not be ended.", true)
	case spec.KeeperAuth == nil:
		p.ProviderStatus().MissingCapabilities = report.Missing
		say(p, now, metav1.ConditionTrue, v1alpha1.ReasonNoKeeper, noKeeperMessage(spec.Address, report), false)
	default:
		p.ProviderStatus().MissingCapabilities = nil
		say(p, now, metav1.ConditionTrue, v1alpha1.ReasonReachable, spec.Address+" answers and takes the keeper's login."+slowly(report.Advised), false)
	}
	p.ProviderStatus().AdvisedCapabilities = report.Advised
	p.ProviderStatus().Server = &v1alpha1.ServerStatus{Kind: report.ServerKind, Version: report.Version}
}

func noKeeperMessage(address string, report vault.Report) string {
	m := address + " answers. keeperAuth is not set, so auth does its work: when this namespace is deleted, leases that are left run out by themselves."
	if len(report.Missing) > 0 {
		m += " The policy of auth lacks: " + strings.Join(report.Missing, "; ") + ". What needs these lines is not done: leases may have to be abandoned."
	}
	return m + slowly(report.Advised)
}

// slowly says what it means that leases cannot be listed.
func slowly(advised []string) string {
	if len(advised) == 0 {
		return ""
	}
	return " Leases are looked up one by one, so one that was revoked behind leasekeeper's back is noticed ten times later than it could be: the keeper's policy lacks " +
		strings.Join(advised, "; ") + "."
}

// say sets the conditions of a provider.
func say(p ProviderObject, now metav1.Time, ready metav1.ConditionStatus, reason, message string, stalled bool) {
	set := func(kind string, status metav1.ConditionStatus) {
		meta.SetStatusCondition(&p.ProviderStatus().Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message,
			ObservedGeneration: p.GetGeneration(), LastTransitionTime: now,
		})
	}
	set(v1alpha1.ReadyCondition, ready)
	// What is said already stays, with its time: saying it again is no change.
	for kind, said := range map[string]bool{
		v1alpha1.StalledCondition:     stalled,
		v1alpha1.ReconcilingCondition: !stalled && ready != metav1.ConditionTrue,
	} {
		if said {
			set(kind, metav1.ConditionTrue)
		} else {
			meta.RemoveStatusCondition(&p.ProviderStatus().Conditions, kind)
		}
	}
}

// letGo lets a provider go when no ledger names it any more.
func (r *ProviderReconciler) letGo(ctx context.Context, p ProviderObject) (reconcile.Result, error) {
	holders, err := r.holders(ctx, p)
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(holders) > 0 {
		err := r.write(ctx, p, func(now metav1.Time) {
			say(p, now, metav1.ConditionFalse, v1alpha1.ReasonInUse, inUseMessage(holders), false)
		})
		return reconcile.Result{RequeueAfter: r.RetryInterval}, err
	}
	r.Forget(p)
	before := p.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(p, v1alpha1.ProviderFinalizer) {
		return reconcile.Result{}, nil
	}
	err = r.client.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), lifecycle.FieldOwner)
	return reconcile.Result{}, lifecycle.IgnoreConflict(client.IgnoreNotFound(err))
}

func inUseMessage(holders []string) string {
	const most = 5
	shown := strings.Join(holders[:min(most, len(holders))], ", ")
	if len(holders) > most {
		shown += ", …"
	}
	return fmt.Sprintf("Leases of %d DynamicSecrets came from here and must be ended here: %s. Delete those, or point them to another provider.", len(holders), shown)
}

// holders lists the DynamicSecrets whose ledger names the provider.
func (r *ProviderReconciler) holders(ctx context.Context, p ProviderObject) ([]string, error) {
	var list v1alpha1.DynamicSecretList
	key := lifecycle.ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())
	// Not from the cache: a journal that was written a moment ago counts.
	if err := r.reader.List(ctx, &list, client.InNamespace(p.GetNamespace())); err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		d := &list.Items[i]
		holds := func(rec v1alpha1.LeaseRecord) bool {
			return lifecycle.ProviderKey(rec.Provider.Kind, rec.Provider.Name, d.Namespace) == key
		}
		if slices.ContainsFunc(lease.Records(&d.Status), holds) {
			names = append(names, d.Namespace+"/"+d.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// soon looks at a provider whose backend was found to be down when the first probe is due: one that has only dropped a
// connection is still ready then.
func soon(_ context.Context, e event.GenericEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(e.Object)}, vault.FirstProbe)
}

// SetupWithManager wires the reconciler to a manager. The indexes are the DynamicSecretReconciler's.
func (r *ProviderReconciler) SetupWithManager(mgr ctrl.Manager, changed <-chan event.GenericEvent) error {
	r.client, r.reader = mgr.GetClient(), mgr.GetAPIReader()
	kind := r.New().Kind()
	// A ledger that let go of its last lease may be what a provider waits for.
	toProvider := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		ref := o.(*v1alpha1.DynamicSecret).Spec.ProviderRef
		if ref.Kind != kind {
			return nil
		}
		req := reconcile.Request{}
		req.Name = ref.Name
		if kind == v1alpha1.ProviderKindNamespaced {
			req.Namespace = o.GetNamespace()
		}
		return []reconcile.Request{req}
	})
	onlyGone := predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(strings.ToLower(kind)).
		For(r.New(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, deletionBegan))).
		Watches(&v1alpha1.DynamicSecret{}, toProvider, builder.WithPredicates(onlyGone)).
		WatchesRawSource(ctrlsource.Channel(changed, handler.Funcs{GenericFunc: soon})).
		Complete(r)
}
