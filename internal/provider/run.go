package provider

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/turns"
)

// Config is what a Runner needs.
type Config struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Client reads from the cache and writes. Reader reads from the API server.
	Client client.Client
	Reader client.Reader
	// Namespaces that may be read; empty: all.
	Namespaces []string
	// Backends finds the backend of a provider.
	Backends Backends
	// Verification reports how the provider's leases are verified.
	Verification func(p v1alpha1.Provider) Verification
	// Announce emits an event about a provider.
	Announce func(p v1alpha1.Provider, kind, reason, message string)
	// Users is the index of DynamicSecrets by the keys of the providers in their spec and their ledger. Key returns the
	// key of a provider.
	Users string
	Key   func(kind, name, namespace string) string
	// Interval between inspections of a provider that is ready. RetryInterval is the first pause for one that is not;
	// it doubles up to maxRetries times that, or maxHangingRetries times if inspections hang.
	Interval, RetryInterval time.Duration
	// Workers is how many inspections run at the same time. Those that are known to hang use a quarter of them.
	Workers int
	// Patience is how long an inspection may take that is not known to hang. One that takes longer is cancelled, and
	// repeated without this limit when one of the places for inspections that hang is free.
	Patience time.Duration
}

// Backends finds the backend of a provider; *backend.Registry does.
type Backends interface {
	// Backend returns the backend. It does not contact the server.
	Backend(ctx context.Context, p v1alpha1.Provider) (backend.Backend, error)
	// Recoveries counts how often the provider's server became available again after an outage.
	Recoveries(p v1alpha1.Provider) int64
	// Forget drops what is kept in memory for a provider that is gone.
	Forget(p v1alpha1.Provider)
}

// Object is a provider as the API machinery sees it.
type Object interface {
	v1alpha1.Provider
	client.Object
}

const (
	// maxRetries is the longest pause between inspections of a provider that is not ready, in RetryIntervals. A change
	// of its spec, and a change of its server's availability, are noticed at once.
	maxRetries = 8
	// maxHangingRetries is the same for a provider whose inspections hang: each holds a worker for long.
	maxHangingRetries = 64
	// atOnce is the pause before a cancelled inspection is repeated.
	atOnce = time.Millisecond
)

// Runner keeps the status of providers.
type Runner struct {
	Config
	mu sync.Mutex
	// failures are the consecutive inspections without success. Losing them costs a few inspections after short pauses.
	failures map[types.UID]failures
	// hanging inspections.
	hanging *turns.Turns[types.UID]
}

// failures of one spec since the last recovery of the server.
type failures struct {
	generation, recoveries int64
	// pause after the last one.
	pause time.Duration
	// hangs is the error of an inspection that was cancelled because it took longer than Patience; nil: none did.
	hangs error
}

// New makes a Runner.
func New(c Config) *Runner {
	return &Runner{Config: c, failures: map[types.UID]failures{}, hanging: turns.New[types.UID](max(1, c.Workers/4))}
}

// Run inspects the provider and stores the result, or lets go of a provider that is being deleted. It returns when to
// run again; 0: never.
func (r *Runner) Run(ctx context.Context, p Object) (time.Duration, error) {
	pause, err := r.inspectOrRelease(ctx, p)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return r.RetryInterval, nil // the write that came first starts another run
	}
	return pause, err
}

func (r *Runner) inspectOrRelease(ctx context.Context, p Object) (time.Duration, error) {
	if !p.GetDeletionTimestamp().IsZero() {
		return r.release(ctx, p)
	}
	if err := r.addFinalizer(ctx, p); err != nil {
		return 0, err
	}
	report, later, inspectErr := r.inspectInTurn(ctx, p)
	if judged := Ready(p).ObservedGeneration == p.GetGeneration(); later > 0 && (judged || inspectErr == nil) {
		return later, nil
	}
	verification := r.Verification(p)
	report.Advised = p.ProviderStatus().AdvisedCapabilities
	if verification.Known {
		report.Advised = verification.Advised
	}
	before, verified := Ready(p), conditionOf(p, v1alpha1.VerifyingCondition)
	err := r.write(ctx, p, func(now time.Time) {
		judge(p, report, inspectErr, now)
		if inspectErr == nil {
			judgeVerification(p, report.Identity, verification, now)
		}
	})
	if err != nil {
		return 0, err
	}
	r.announceChange(p, before)
	if now := conditionOf(p, v1alpha1.VerifyingCondition); now.Status == metav1.ConditionFalse &&
		now.Reason != verified.Reason {
		r.Announce(p, corev1.EventTypeWarning, now.Reason, now.Message)
	}
	if later > 0 {
		return later, nil
	}
	if Ready(p).Status == metav1.ConditionTrue && inspectErr == nil {
		r.forget(p)
		return r.Interval, nil
	}
	return r.retryPause(p), nil
}

// inspectInTurn inspects the provider, unless it is known to hang and all places for such inspections are taken.
// Without a result it returns when to try again. The error is then that of the inspection that hung, if the provider
// has to wait for a place.
func (r *Runner) inspectInTurn(ctx context.Context, p Object) (backend.Report, time.Duration, error) {
	if hangs := r.known(p).hangs; hangs != nil {
		leave, ok := r.hanging.Enter(p.GetUID(), r.Clock.Now(), r.RetryInterval)
		if !ok {
			return backend.Report{}, r.RetryInterval, hangs
		}
		defer leave()
		report, err := r.inspect(ctx, p)
		return report, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	report, err := r.inspect(limited, p)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return report, 0, err
	}
	r.change(p, func(f *failures) { f.hangs = err })
	return backend.Report{}, atOnce, nil
}

// known failures of the provider's spec.
func (r *Runner) known(p Object) failures { return r.change(p, func(*failures) {}) }

// change changes what is known of the failures of the provider's spec, and returns it.
func (r *Runner) change(p Object, change func(*failures)) failures {
	current := failures{generation: p.GetGeneration(), recoveries: r.Backends.Recoveries(p)}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.failures[p.GetUID()]
	if f.generation != current.generation || f.recoveries != current.recoveries {
		f = current
	}
	change(&f)
	r.failures[p.GetUID()] = f
	return f
}

// retryPause is the pause after one more inspection without success.
func (r *Runner) retryPause(p Object) time.Duration {
	return r.change(p, func(f *failures) {
		most := time.Duration(maxRetries)
		if f.hangs != nil {
			most = maxHangingRetries
		}
		f.pause = max(r.RetryInterval, min(2*f.pause, most*r.RetryInterval))
	}).pause
}

// forget drops the failures of a provider.
func (r *Runner) forget(p Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.failures, p.GetUID())
}

// addFinalizer adds the finalizer before anything can be leased from the provider.
func (r *Runner) addFinalizer(ctx context.Context, p Object) error {
	before := p.DeepCopyObject().(client.Object)
	if !controllerutil.AddFinalizer(p, v1alpha1.ProviderFinalizer) {
		return nil
	}
	return r.Client.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// inspect contacts the server. A backend that cannot be inspected has an empty report.
func (r *Runner) inspect(ctx context.Context, p v1alpha1.Provider) (backend.Report, error) {
	b, err := r.Backends.Backend(ctx, p)
	if err != nil {
		return backend.Report{}, err
	}
	inspector, ok := backend.As[backend.Inspector](b)
	if !ok {
		return backend.Report{}, nil
	}
	return inspector.Inspect(ctx)
}

// write stores the status if the change makes a difference.
func (r *Runner) write(ctx context.Context, p Object, change func(now time.Time)) error {
	st := p.ProviderStatus()
	before := st.DeepCopy()
	st.ObservedGeneration = p.GetGeneration()
	change(r.Clock.Now())
	if equality.Semantic.DeepEqual(before, st) {
		return nil
	}
	return r.Client.Status().Update(ctx, p)
}

// announceChange emits an event if the provider became ready again, is no longer ready, or is not for another reason;
// and if a provider that is ready met a quota, or is found to have a faulty version.
func (r *Runner) announceChange(p v1alpha1.Provider, before metav1.Condition) {
	now := Ready(p)
	usable := now.Reason == v1alpha1.ReasonQuotaExceeded || now.Reason == v1alpha1.ReasonFaultyVersion
	switch {
	case usable && before.Reason != now.Reason:
		r.Announce(p, corev1.EventTypeWarning, now.Reason, now.Message)
	case now.Status == metav1.ConditionTrue && before.Status == metav1.ConditionFalse:
		r.Announce(p, corev1.EventTypeNormal, now.Reason, now.Message)
	case now.Status == metav1.ConditionFalse && (before.Status != now.Status || before.Reason != now.Reason):
		r.Announce(p, corev1.EventTypeWarning, now.Reason, now.Message)
	}
}
