// Package lifecycle carries out what package lease decides for a DynamicSecret: observe, plan, execute one step, write
// the status once, repeat.
//
// observe.go builds the observation, execute.go runs one step, and there is one file for each group of actions.
// ports.go has the interfaces to the API server and the backends.
package lifecycle

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
)

// busyError: a path of the backend, or the namespace, is at its limit. Nothing was done.
type busyError struct {
	// after is when to try again.
	after time.Duration
}

func (busyError) Error() string { return "waiting for requests in progress" }

// recheckBusy is when an object that waits for a place tries again if it was not woken.
const recheckBusy = 10 * time.Second

// finishWithin is how long a shutdown waits for the publication of a credential that was issued.
const finishWithin = 10 * time.Second

// maxSteps bounds what one reconciliation does before it returns the worker.
const maxSteps = 64

// Lifecycle works on DynamicSecrets: on different objects concurrently, on one object by one worker at a time.
type Lifecycle struct {
	clock    clock.PassiveClock
	cache    client.Reader
	objects  objects
	secrets  secrets
	sources  sources
	announce Announcer
	memory   *memory
	// limits keep a hanging admission webhook from using all workers.
	limits *backend.Limits
	woken  chan event.GenericEvent
	// requestLimit is how long a backend may continue with a request that nobody waits for.
	requestLimit time.Duration
	// sendWithin is how soon after the journal a request must be sent. A process that was paused for longer does not
	// send it: other processes rely on the request being over by the request limit.
	sendWithin time.Duration
	// rollouts moves the consumers; nil: leasekeeper was installed without the permission to.
	rollouts rollouts
	// rolloutWindow is how long a rollout may wait for the other Secrets of its workloads.
	rolloutWindow time.Duration
	// sealKey seals records; empty: none is sealed.
	sealKey []byte
}

// Config is what a Lifecycle needs.
type Config struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Cache and Writer are the manager's client; Reader reads from the API server.
	Cache, Writer client.Client
	Reader        client.Reader
	// Backends finds the backend of a provider.
	Backends *backend.Registry
	// Limits of the workers.
	Limits *backend.Limits
	// RequestLimit is how long a backend may continue with a request that nobody waits for: at least one and a half
	// times Vault's max_request_duration.
	RequestLimit time.Duration
	// SealKey seals ledger records; empty: none is sealed.
	SealKey []byte
	// Rollout lets workloads be rolled out; RolloutWindow is how long that may wait for their other Secrets.
	Rollout       bool
	RolloutWindow time.Duration
	// NamespacedOnly: ClusterSecretProviders are not served.
	NamespacedOnly bool
	// Announce reports what happened.
	Announce Announcer
}

// New makes a Lifecycle for the manager.
func New(c Config) *Lifecycle {
	l := &Lifecycle{
		clock:   c.Clock,
		cache:   c.Cache,
		objects: apiObjects{reader: c.Reader, writer: c.Writer},
		secrets: apiSecrets{cache: c.Cache, reader: c.Reader, writer: c.Writer},
		sources: &providerSources{clock: c.Clock, cache: c.Cache, backends: c.Backends, requestLimit: c.RequestLimit,
			sealKey: c.SealKey, namespacedOnly: c.NamespacedOnly},
		announce:      c.Announce,
		memory:        newMemory(),
		limits:        c.Limits,
		woken:         make(chan event.GenericEvent, 1024),
		requestLimit:  c.RequestLimit,
		sendWithin:    c.RequestLimit / 8,
		sealKey:       c.SealKey,
		rolloutWindow: c.RolloutWindow,
	}
	if c.Rollout {
		l.rollouts = apiRollouts{&rollout.Rollouts{Reader: c.Reader, Writer: c.Writer}, c.Cache, c.Reader}
	}
	return l
}

// Woken are objects that waited for a place among the requests to a backend.
func (l *Lifecycle) Woken() <-chan event.GenericEvent { return l.woken }

// Run takes steps until there is nothing to do but wait, and returns when to continue (zero: when something changes). d
// is the object from the cache; it is updated.
func (l *Lifecycle) Run(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	if d.Status.LedgerVersion > lease.Version {
		return l.reportNewer(ctx, d)
	}
	if !d.DeletionTimestamp.IsZero() && l.memory.isReleased(client.ObjectKeyFromObject(d), d.UID) {
		return time.Time{}, nil // the cache still shows it
	}
	if err := ctx.Err(); err != nil {
		return time.Time{}, err // a shutdown begins nothing new
	}
	o, err := l.observe(ctx, d)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { o.d.DeepCopyInto(d) }()
	if at := l.paused(o); !at.IsZero() {
		return at, nil
	}
	former, err := l.settleRemains(ctx, o.key())
	if err != nil {
		return time.Time{}, err
	}
	for range maxSteps {
		if at, done, err := l.advance(ctx, o); done || err != nil {
			return earlier(at, former), err
		}
	}
	return l.clock.Now().Add(time.Second), nil
}

// earlier of two times; a zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// advance takes one step. done: there is nothing more to do until at.
func (l *Lifecycle) advance(ctx context.Context, o *observation) (at time.Time, done bool, err error) {
	if o.mem.held != nil {
		var cancel context.CancelFunc
		ctx, cancel = outlast(ctx, finishWithin)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return time.Time{}, true, err
	}
	var busy busyError
	step := o.step
	if step.Action == lease.Wait {
		err := l.rest(ctx, o, step)
		if errors.As(err, &busy) {
			return earlier(o.recheckAt(step.At), l.clock.Now().Add(busy.after)), true, nil
		}
		return o.recheckAt(step.At), true, err
	}
	if !l.mayAct(o, step) {
		return time.Time{}, false, l.orRemove(ctx, o, l.read)
	}
	log.FromContext(ctx).Info("step", "action", step.Action, "reason", step.Reason)
	err = l.execute(ctx, o, step)
	if errors.As(err, &busy) {
		return l.clock.Now().Add(busy.after), true, nil
	}
	if step.Action == lease.RemoveFinalizer && err == nil {
		return time.Time{}, true, nil
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		err = l.orRemove(ctx, o, l.read) // something else wrote; decide again from what is stored
	}
	if err != nil {
		return time.Time{}, true, err
	}
	l.refreshInput(ctx, o)
	return time.Time{}, false, nil
}

// outlast returns a context that is canceled by that much later than ctx. A shutdown cancels ctx, and a credential that
// only this process holds must be published before the process ends: the next one would issue another.
func outlast(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return longer, func() { stop(); cancel() }
}

// IgnoreConflict: something else has written; the next observation shows what.
func IgnoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}
