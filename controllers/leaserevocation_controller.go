package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// +kubebuilder:rbac:groups=leasekeeper.io,resources=leaserevocations,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=leasekeeper.io,resources=leaserevocations/status,verbs=update

// revoker is the backend as a LeaseRevocation needs it; *vault.Backend is one. Errors are *backend.Error. All but Revoke is
// safe to repeat; Revoke takes what was leased since as well.
type revoker interface {
	// Matching lists the ids of the leases that the order is about, dead ones too.
	Matching(ctx context.Context, o vault.Order) ([]string, error)
	// Revoke gives the order. Without an error every lease of it is dead, and the backend ends it.
	RevokeAll(ctx context.Context, o vault.Order) error
	// RevokeOne revokes one lease and waits for it.
	RevokeOne(ctx context.Context, o vault.Order, id string) error
	// Lives says whether a lease is there and not dead.
	Lives(ctx context.Context, o vault.Order, id string) (bool, error)
}

// LeaseRevocationReconciler carries out each LeaseRevocation, once.
type LeaseRevocationReconciler struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Revoker finds the backend of a provider.
	Revoker func(ctx context.Context, p v1alpha1.Provider) (revoker, error)
	// Suspect makes a DynamicSecret ask the backend about its lease, at once.
	Suspect func(ctx context.Context, d *v1alpha1.DynamicSecret)
	// Lost tells a DynamicSecret that its lease is gone.
	Lost func(ctx context.Context, d *v1alpha1.DynamicSecret)
	// Announce an event on a LeaseRevocation.
	Announce func(r *v1alpha1.LeaseRevocation, kind, reason, message string)
	// Count a LeaseRevocation that finished, or a try of one that failed.
	Count func(result string)

	client client.Client
	reader client.Reader
	memory orders
}

// Reconcile takes the order as far as it can be taken now.
func (r *LeaseRevocationReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	known := &v1alpha1.LeaseRevocation{}
	if err := r.client.Get(ctx, req.NamespacedName, known); err != nil {
		r.memory.forget(req.Name)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !known.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	if known.Finished() {
		r.memory.forget(req.Name)
		return r.expire(ctx, known)
	}
	// Not from the cache: what it says was not done may be done.
	fresh := &v1alpha1.LeaseRevocation{}
	if err := r.reader.Get(ctx, req.NamespacedName, fresh); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if fresh.Finished() || !fresh.DeletionTimestamp.IsZero() {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	o := &revocation{LeaseRevocation: fresh, known: r.memory.of(fresh), stored: fresh.Status.DeepCopy()}
	pause, err := r.carryOut(ctx, o)
	if err != nil {
		pause, err = r.failed(ctx, o, err)
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	return reconcile.Result{RequeueAfter: pause}, err
}

// expire deletes a finished order when its time has come.
func (r *LeaseRevocationReconciler) expire(ctx context.Context, o *v1alpha1.LeaseRevocation) (reconcile.Result, error) {
	if o.Spec.TTLSecondsAfterFinished == nil {
		return reconcile.Result{}, nil
	}
	at := o.Status.CompletedAt.Add(time.Duration(*o.Spec.TTLSecondsAfterFinished) * time.Second)
	if left := at.Sub(r.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err := r.client.Delete(ctx, o, client.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion})
	return reconcile.Result{}, lifecycle.IgnoreConflict(client.IgnoreNotFound(err))
}

// failed says what stands in the way, and how long to wait. What only a person can mend is tried again once a minute, or
// when the provider changes. Errors of the API server are the work queue's.
func (r *LeaseRevocationReconciler) failed(ctx context.Context, o *revocation, err error) (time.Duration, error) {
	b, ours := blockOf(err)
	if !ours {
		return 0, err
	}
	o.known.failures++
	pause := lease.Backoff(o.known.failures, o.UID)
	if b.Stalled {
		pause = stalledPause
	}
	result := string(backend.KindOf(err))
	if b.Reason == v1alpha1.ReasonProviderNotFound {
		result = string(backend.Misconfigured)
	}
	r.Count(result)
	log.FromContext(ctx).Info("revoking leases failed", o.logged("error", b.Message)...)
	return pause, r.write(ctx, o, metav1.ConditionFalse, b)
}

// write the status, with what the conditions are to say, if it says something new. It is locked to what was read. An empty
// Block leaves the conditions as they are.
func (r *LeaseRevocationReconciler) write(ctx context.Context, o *revocation, ready metav1.ConditionStatus, b lease.Block) error {
	before := o.Status.DeepCopy()
	o.Status.ObservedGeneration = o.Generation
	o.Status.ForcedLeases += o.known.forced
	if b.Reason != "" {
		o.say(metav1.NewTime(r.Clock.Now()), ready, b)
	}
	if equality.Semantic.DeepEqual(o.stored, &o.Status) {
		return nil
	}
	if err := r.client.Status().Update(ctx, o.LeaseRevocation, lifecycle.FieldOwner); err != nil {
		o.Status = *before
		return err
	}
	o.stored, o.known.forced = o.Status.DeepCopy(), 0
	if said := meta.FindStatusCondition(before.Conditions, v1alpha1.ReadyCondition); b.Reason != "" && (said == nil || said.Reason != b.Reason) {
		kind := corev1.EventTypeNormal
		if b.Reason != v1alpha1.ReasonRevokingLeases && b.Reason != v1alpha1.ReasonLeasesRevoked {
			kind = corev1.EventTypeWarning
		}
		r.Announce(o.LeaseRevocation, kind, b.Reason, b.Message)
	}
	return nil
}

// SetupWithManager wires the reconciler to a manager.
func (r *LeaseRevocationReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.client, r.reader = mgr.GetClient(), mgr.GetAPIReader()
	ofProvider := handler.EnqueueRequestsFromMapFunc(r.waitingFor)
	return ctrl.NewControllerManagedBy(mgr).
		Named("leaserevocation").
		For(&v1alpha1.LeaseRevocation{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.SecretProvider{}, ofProvider, builder.WithPredicates(readinessChanged)).
		Watches(&v1alpha1.ClusterSecretProvider{}, ofProvider, builder.WithPredicates(readinessChanged)).
		// One that waits for an answer must not keep the next order waiting.
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
}

// waitingFor lists the orders that a change of a provider may help.
func (r *LeaseRevocationReconciler) waitingFor(ctx context.Context, p client.Object) []reconcile.Request {
	provider, ok := p.(v1alpha1.Provider)
	if !ok {
		return nil
	}
	var list v1alpha1.LeaseRevocationList
	if err := r.client.List(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "listing LeaseRevocations in the cache")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		o := &list.Items[i]
		ref := o.Spec.ProviderRef
		if !o.Finished() && lifecycle.ProviderKey(ref.Kind, ref.Name, ref.Namespace) == lifecycle.ProviderKey(provider.Kind(), p.GetName(), p.GetNamespace()) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)})
		}
	}
	return requests
}

// say sets the conditions.
func (o *revocation) say(now metav1.Time, ready metav1.ConditionStatus, b lease.Block) {
	for kind, status := range map[string]metav1.ConditionStatus{
		v1alpha1.ReadyCondition:       ready,
		v1alpha1.StalledCondition:     conditionIf(b.Stalled),
		v1alpha1.ReconcilingCondition: conditionIf(!b.Stalled && ready != metav1.ConditionTrue),
	} {
		if status == "" {
			meta.RemoveStatusCondition(&o.Status.Conditions, kind)
			continue
		}
		meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: b.Reason, Message: b.Message, ObservedGeneration: o.Generation, LastTransitionTime: now,
		})
	}
}

// conditionIf is True, or no condition at all.
func conditionIf(said bool) metav1.ConditionStatus {
	if said {
		return metav1.ConditionTrue
	}
	return ""
}

// logged are the fields of a log line about the order.
func (o *revocation) logged(more ...any) []any {
	return append([]any{
		"provider", lifecycle.ProviderKey(o.Spec.ProviderRef.Kind, o.Spec.ProviderRef.Name, o.Spec.ProviderRef.Namespace),
		"prefix", o.Spec.Prefix, "lease", o.Spec.LeaseID, "force", o.Spec.Force, "reason", o.Spec.Reason,
	}, more...)
}

func count(n int) *int64 { return new(int64(n)) }

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
