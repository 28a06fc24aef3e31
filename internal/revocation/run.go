package revocation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/turns"
)

const (
	// atOnce is the pause before the next step.
	atOnce = time.Millisecond
	// conflictPause is the pause after a write that lost against another one.
	conflictPause = 100 * time.Millisecond
	// stepTime is how long a step sends requests. The request in progress then is its last one.
	stepTime = 3 * time.Second
	// stepsOfProvider is how many LeaseRevocations of a provider contact its backend at the same time. A backend that
	// is slow must not hold the workers that those of another one need.
	stepsOfProvider = 4
	// turnPause is the pause before a LeaseRevocation tries again to be one of these.
	turnPause = 500 * time.Millisecond
)

// Config is what a Runner needs.
type Config struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Client reads from the cache and writes. Reader reads from the API server.
	Client client.Client
	Reader client.Reader
	// Provider reads a provider; NotFound if it does not exist.
	Provider func(ctx context.Context, kind, name, namespace string) (v1alpha1.Provider, error)
	// Backend returns the backend of a provider.
	Backend func(ctx context.Context, p v1alpha1.Provider) (backend.Backend, error)
	// Verifier makes DynamicSecrets check their leases.
	Verifier Notifier
	// Recorder reports what happened.
	Recorder Announcer
}

// Notifier notifies a DynamicSecret about some of its leases.
type Notifier interface {
	// Raise makes it look the leases up at once.
	Raise(ctx context.Context, d *v1alpha1.DynamicSecret, ids ...string)
	// RaiseLost reports that the leases are gone.
	RaiseLost(ctx context.Context, d *v1alpha1.DynamicSecret, ids ...string)
}

// Announcer reports by events and metrics.
type Announcer interface {
	// RevocationEvent emits an event about the object.
	RevocationEvent(r *v1alpha1.LeaseRevocation, kind, reason, message string)
	// CountRevocation counts a LeaseRevocation that finished ("success") or a step that failed (the kind of error).
	CountRevocation(result string)
}

// Runner carries out LeaseRevocations.
type Runner struct {
	Config
	memory memory

	mu sync.Mutex
	// turns of the LeaseRevocations of a provider, by its key.
	turns map[v1alpha1.RevocationProviderReference]*turns.Turns[types.UID]
}

// New makes a Runner.
func New(c Config) *Runner {
	return &Runner{Config: c, turns: map[v1alpha1.RevocationProviderReference]*turns.Turns[types.UID]{}}
}

// turnsOf are the turns of a provider.
func (r *Runner) turnsOf(ref v1alpha1.RevocationProviderReference) *turns.Turns[types.UID] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turns[ref] == nil {
		r.turns[ref] = turns.New[types.UID](stepsOfProvider)
	}
	return r.turns[ref]
}

// work is one step of one LeaseRevocation.
type work struct {
	*v1alpha1.LeaseRevocation
	*Runner
	facts *Facts
	// begun is when the step began.
	begun time.Time
	// stored is the status that the API server has.
	stored *v1alpha1.LeaseRevocationStatus
	// bulk is the backend, holders are the DynamicSecrets that have one of the leases.
	bulk    backend.BulkRevoker
	holders []holder
}

// Run executes the next step of the named LeaseRevocation. It returns when to run again; 0: never.
func (r *Runner) Run(ctx context.Context, name string) (time.Duration, error) {
	object, err := r.read(ctx, name)
	if apierrors.IsNotFound(err) {
		r.memory.forget(name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	w := &work{
		LeaseRevocation: object, Runner: r, facts: r.memory.of(object), begun: r.Clock.Now(),
		stored: object.Status.DeepCopy(),
	}
	if object.Finished() {
		r.memory.forget(name)
	}
	seen, err := w.observe(ctx)
	if err != nil {
		return 0, err
	}
	step := Plan(Input{Now: r.Clock.Now(), Object: object, Observation: seen, Facts: w.facts})
	if step.Action.contactsBackend() {
		leave, ok := r.turnsOf(object.Spec.ProviderRef).Enter(object.UID, r.Clock.Now(), turnPause)
		if !ok {
			return turnPause, nil
		}
		defer leave()
	}
	pause, err := w.execute(ctx, step)
	var fault *backend.Error
	if errors.As(err, &fault) {
		pause, err = w.fail(ctx, seen, fault)
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return conflictPause, nil
	}
	return pause, err
}

// read returns the object from the cache if it is finished. Otherwise it reads it from the API server: a step that the
// cache does not know of yet must not be repeated.
func (r *Runner) read(ctx context.Context, name string) (*v1alpha1.LeaseRevocation, error) {
	key := types.NamespacedName{Name: name}
	cached := &v1alpha1.LeaseRevocation{}
	if err := r.Client.Get(ctx, key, cached); err != nil || cached.Finished() {
		return cached, err
	}
	fresh := &v1alpha1.LeaseRevocation{}
	return fresh, r.Reader.Get(ctx, key, fresh)
}

// observe finds the backend and the DynamicSecrets that have one of the leases.
func (w *work) observe(ctx context.Context) (Observation, error) {
	if w.Finished() || !w.DeletionTimestamp.IsZero() {
		return Observation{}, nil
	}
	ref := w.Spec.ProviderRef
	p, err := w.Provider(ctx, ref.Kind, ref.Name, ref.Namespace)
	if apierrors.IsNotFound(err) {
		return w.obstructed("", v1alpha1.ReasonProviderNotFound, backend.Errorf(backend.Misconfigured,
			"%s does not exist: create it, or create a LeaseRevocation that names %s.", ref, w.another(ctx))), nil
	}
	if err != nil {
		return Observation{}, err
	}
	version := versionOf(p)
	b, err := w.Backend(ctx, p)
	if err != nil {
		return w.obstructed(version, "", err), nil
	}
	if w.bulk, _ = backend.As[backend.BulkRevoker](b); w.bulk == nil {
		return w.obstructed(version, "", backend.Errorf(backend.Misconfigured,
			"The backend of %s cannot revoke leases by id or prefix.", ref)), nil
	}
	if w.holders, err = w.findHolders(ctx); err != nil {
		return Observation{}, err
	}
	return Observation{Provider: version, Holders: len(w.facts.concerned(w.holders))}, nil
}

// another names the ClusterSecretProvider if the kind in providerRef is wrong.
func (w *work) another(ctx context.Context) string {
	ref := w.Spec.ProviderRef
	if ref.Kind != v1alpha1.ProviderKindNamespaced {
		return "another"
	}
	if _, err := w.Provider(ctx, v1alpha1.ProviderKindCluster, ref.Name, ""); err != nil {
		return "another"
	}
	return v1alpha1.ProviderKindCluster + " " + ref.Name + ", which does"
}

// obstructed is the observation of a backend that cannot be used. An empty reason is that of the error.
func (w *work) obstructed(version, reason string, err error) Observation {
	w.Recorder.CountRevocation(string(backend.KindOf(err)))
	b := backend.BlockFor(err)
	if reason != "" {
		b.Reason = reason
	}
	return Observation{Provider: version, Obstacle: &b}
}

// versionOf changes with the provider's spec and with its readiness.
func versionOf(p v1alpha1.Provider) string {
	ready := meta.IsStatusConditionTrue(p.ProviderStatus().Conditions, v1alpha1.ReadyCondition)
	return fmt.Sprintf("%s/%d/%t", p.GetUID(), p.GetGeneration(), ready)
}

// hasTime is true if the step may send another request.
func (w *work) hasTime() bool { return w.Clock.Since(w.begun) < stepTime }

// execute the step.
func (w *work) execute(ctx context.Context, s Step) (time.Duration, error) {
	switch s.Action {
	case CountLeases:
		return atOnce, w.count(ctx)
	case RevokeLeases:
		return atOnce, w.revoke(ctx)
	case RecordAcceptance:
		return atOnce, w.record(ctx)
	case NotifyHolders:
		w.notify(ctx)
		w.facts.Notified = true
		return atOnce, nil
	case CheckLeases:
		return atOnce, w.check(ctx)
	case RetryLeases:
		return atOnce, w.retry(ctx)
	case ForceLeases:
		return atOnce, w.force(ctx)
	case Complete:
		return atOnce, w.finish(ctx)
	case DeleteObject:
		return 0, w.remove(ctx)
	}
	return w.wait(ctx, s)
}

// wait reports the obstacle, if any.
func (w *work) wait(ctx context.Context, s Step) (time.Duration, error) {
	pause := time.Duration(0)
	if !s.At.IsZero() {
		pause = max(s.At.Sub(w.Clock.Now()), atOnce)
	}
	if s.Obstacle == nil {
		return pause, nil
	}
	return pause, w.write(ctx, notReady(*s.Obstacle))
}

// fail records that a step failed because of the backend. The step is repeated after a pause: a short
// one if a person must change something first.
func (w *work) fail(ctx context.Context, seen Observation, err *backend.Error) (time.Duration, error) {
	b := backend.BlockFor(err)
	count := w.facts.Failure.Count + 1
	pause := stalledPause
	if !b.Stalled {
		pause = lease.Backoff(count, w.UID)
	}
	w.facts.Failure = Failure{Count: count, NotBefore: w.Clock.Now().Add(pause), Provider: seen.Provider}
	w.Recorder.CountRevocation(string(err.Kind))
	log.FromContext(ctx).Info("revoking leases failed", w.logged("error", b.Message)...)
	return pause, w.write(ctx, notReady(b))
}

// write stores the status if it differs from what is stored. A nil summary leaves the conditions as they are.
func (w *work) write(ctx context.Context, s *lease.Summary) error { return w.store(ctx, s, false) }

// store stores the status, with always even if it does not differ: a write is accepted only if the object that was read
// is still current.
func (w *work) store(ctx context.Context, s *lease.Summary, always bool) error {
	before := w.Status.DeepCopy()
	w.Status.ObservedGeneration = w.Generation
	w.Status.ForcedLeases += w.facts.Forced
	if s != nil {
		lease.SetSummary(&w.Status.Conditions, w.Generation, w.Clock.Now(), *s)
	}
	if !always && equality.Semantic.DeepEqual(w.stored, &w.Status) {
		return nil
	}
	if err := w.Client.Status().Update(ctx, w.LeaseRevocation); err != nil {
		w.Status = *before
		return err
	}
	w.stored, w.facts.Forced = w.Status.DeepCopy(), 0
	if s != nil {
		w.announce(meta.FindStatusCondition(before.Conditions, v1alpha1.ReadyCondition), s)
	}
	return nil
}

// announce emits an event if the reason of Ready has changed.
func (w *work) announce(before *metav1.Condition, s *lease.Summary) {
	if before != nil && before.Reason == s.Reason {
		return
	}
	kind := corev1.EventTypeWarning
	if s.Reason == v1alpha1.ReasonRevokingLeases || s.Reason == v1alpha1.ReasonLeasesRevoked {
		kind = corev1.EventTypeNormal
	}
	w.Recorder.RevocationEvent(w.LeaseRevocation, kind, s.Reason, s.Message)
}

// logged are the fields of a log line about the revocation.
func (w *work) logged(more ...any) []any {
	return append([]any{
		"provider", w.Spec.ProviderRef.String(), "target", w.Spec.Target(), "force", w.Spec.Forced(),
		"reason", w.Spec.Reason,
	}, more...)
}
