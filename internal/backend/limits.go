package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	// slow is how long a request may take before others of its kind on the same path are limited.
	slow = time.Second
	// hanging is how long a backend may take to report an error of its own. A longer request counts as not answered:
	// the backend itself gave up waiting, for a database for example.
	hanging = 5 * time.Second
	// probePause is the pause before the next probe of a path. It is short, because a lease may be about to expire.
	probePause = time.Second
	// retryWaiting is when to try again behind a probe.
	retryWaiting = 2 * time.Second
	// quotaPause is both for a path that issues no more leases: each attempt costs a login and writes to the ledger.
	quotaPause = 10 * time.Second
)

// Limits keep one hanging path (a database, a tenant) from using all workers. They apply to the requests of one
// operation on one path of one provider:
//
//   - Issuances: a quarter of the workers; all paths together: half of them. Renewals never wait behind issuances.
//   - Other operations: a quarter of the workers as soon as one of them takes longer than a second.
//   - After a request without a response, with an error after a long time, or refused by a quota: one at a time, as a
//     probe, until one gets another response.
//
// A request above a limit is not sent. The caller returns its worker and tries again.
//
// All of it is in memory. Losing it costs one more request without a response on each path that hangs, and each of them
// keeps a worker until its time-out.
type Limits struct {
	clock   clock.PassiveClock
	workers int

	mu      sync.Mutex
	issuing int
	lines   map[lineKey]*line
	// waiting for an issuance of any path to end.
	waiting waiters
}

// lineKey identifies requests that are limited together.
type lineKey struct{ providerKind, provider, operation, path string }

// line is what is known of them.
type line struct {
	// inFlight has the start of each request.
	inFlight map[int]time.Time
	serial   int
	// probeAt is when the next probe may be sent; zero: the last request got a response.
	probeAt time.Time
	// fault is what the others get meanwhile.
	fault *Error
	// waiting for a request to end.
	waiting waiters
}

// Waiter is an object that waits for a place.
type Waiter struct {
	// Key identifies the object.
	Key string
	// Wake is called when there may be a place. It must not block.
	Wake func()
}

// waiters are woken in the order in which they came.
type waiters struct {
	order []string
	wake  map[string]func()
}

func (w *waiters) add(who Waiter) {
	if w.wake == nil {
		w.wake = map[string]func(){}
	}
	if w.wake[who.Key] == nil {
		w.wake[who.Key] = who.Wake
		w.order = append(w.order, who.Key)
	}
}

// remove forgets an object that got a place. Its key leaves the order when it is the first.
func (w *waiters) remove(key string) { delete(w.wake, key) }

// next takes the first; nil: nobody waits.
func (w *waiters) next() func() {
	for len(w.order) > 0 {
		key := w.order[0]
		w.order = w.order[1:]
		if wake := w.wake[key]; wake != nil {
			delete(w.wake, key)
			return wake
		}
	}
	return nil
}

// NewLimits makes limits for so many workers.
func NewLimits(c clock.PassiveClock, workers int) *Limits {
	return &Limits{clock: c, workers: workers, lines: map[lineKey]*line{}}
}

// Limiter is the ability of a backend whose requests are limited.
type Limiter interface {
	// Admit reserves a place for an issuance from a path, before its login. first is false for the other paths of an
	// object: it uses one worker. Call done once with the result of the request. Busy: there is no place; who is
	// woken when there may be one. Unavailable: the path does not respond.
	Admit(path string, first bool, who Waiter) (done func(error), err error)
}

// ErrNotSent is the result of a request that was not sent after all. It says nothing about the path.
var ErrNotSent = errors.New("the request was not sent")

// Admit reserves a place for an issuance, if the backend has limits.
func Admit(b Backend, path string, first bool, who Waiter) (done func(error), err error) {
	if l, ok := As[Limiter](b); ok {
		return l.Admit(path, first, who)
	}
	return func(error) {}, nil
}

// Wrap limits the requests to the backend of a provider.
func (l *Limits) Wrap(b Backend, p v1alpha1.Provider) Backend {
	return limited{next: b, limits: l, kind: p.Kind(), provider: MetricName(p)}
}

// Forget drops what is known of the paths of a provider that is gone.
func (l *Limits) Forget(p v1alpha1.Provider) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, line := range l.lines {
		if key.providerKind == p.Kind() && key.provider == MetricName(p) && len(line.inFlight) == 0 {
			delete(l.lines, key)
		}
	}
}

// opIssue is the operation whose requests are limited before they become slow.
const opIssue = "issue"

// admit reserves a place in a line. issues says that a worker will be busy with an issuance.
func (l *Limits) admit(key lineKey, issues bool, who Waiter) (done func(error), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	in := l.lines[key]
	if in == nil {
		in = &line{inFlight: map[int]time.Time{}}
		l.lines[key] = in
	}
	quarter := max(1, l.workers/4)
	switch {
	case !in.probeAt.IsZero() && (len(in.inFlight) > 0 || now.Before(in.probeAt)):
		return nil, in.fault
	case len(in.inFlight) >= quarter && key.operation == opIssue:
		in.waiting.add(who)
		return nil, busy(key)
	case len(in.inFlight) >= quarter && in.slowest(now) > slow:
		return nil, busy(key)
	case issues && l.issuing >= max(1, l.workers/2):
		l.waiting.add(who)
		return nil, busy(key)
	}
	in.waiting.remove(who.Key)
	l.waiting.remove(who.Key)
	in.serial++
	id := in.serial
	in.inFlight[id] = now
	if issues {
		l.issuing++
	}
	return func(result error) { l.finish(key, id, issues, result) }, nil
}

func busy(key lineKey) error {
	e := Errorf(Busy, "%s: waiting for requests in progress", key.path)
	e.RetryAfter = retryWaiting
	return e
}

// finish gives a place back and wakes who waits for it.
func (l *Limits) finish(key lineKey, id int, issues bool, result error) {
	for _, wake := range l.release(key, id, issues, result) {
		wake()
	}
}

func (l *Limits) release(key lineKey, id int, issued bool, result error) (wake []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.lines[key]
	if in == nil || in.inFlight[id].IsZero() {
		return nil
	}
	took := l.clock.Now().Sub(in.inFlight[id])
	delete(in.inFlight, id)
	if issued {
		l.issuing--
	}
	switch {
	case errors.Is(result, ErrNotSent):
	case result != nil && (KindOf(result) == NoResponse || KindOf(result) == Failed && took > hanging):
		in.probeAt = l.clock.Now().Add(probePause)
		in.fault = Errorf(Unavailable, "%s: waiting, because the last request got no response: one request at a time "+
			"is sent until the backend responds", key.path)
		in.fault.RetryAfter = retryWaiting
	case result != nil && KindOf(result) == QuotaExceeded:
		in.probeAt = l.clock.Now().Add(quotaPause)
		in.fault = Errorf(QuotaExceeded, "%s", result)
		in.fault.RetryAfter = quotaPause
	default:
		in.probeAt = time.Time{}
	}
	for _, waiting := range []*waiters{&in.waiting, &l.waiting} {
		if next := waiting.next(); next != nil {
			wake = append(wake, next)
		}
	}
	if len(in.inFlight)+len(in.waiting.wake) == 0 && in.probeAt.IsZero() {
		delete(l.lines, key)
	}
	return wake
}

// slowest is for how long the oldest request is in flight.
func (in *line) slowest(now time.Time) (longest time.Duration) {
	for _, started := range in.inFlight {
		longest = max(longest, now.Sub(started))
	}
	return longest
}

type limited struct {
	next           Backend
	limits         *Limits
	kind, provider string
}

// Unwrap returns the backend that is limited.
func (l limited) Unwrap() Backend { return l.next }

// Admit implements Limiter.
func (l limited) Admit(path string, first bool, who Waiter) (done func(error), err error) {
	return l.limits.admit(lineKey{l.kind, l.provider, opIssue, path}, first, who)
}

// limit sends a request about a record unless its path is at a limit.
func limit[T any](l limited, operation string, rec v1alpha1.LeaseRecord, do func() (T, error)) (result T, err error) {
	done, err := l.limits.admit(lineKey{l.kind, l.provider, operation, rec.Location()}, false, Waiter{})
	if err != nil {
		return result, err
	}
	defer func() { done(err) }()
	return do()
}

// Login is limited by Admit.
func (l limited) Login(ctx context.Context, who Identity) (Session, error) {
	return l.next.Login(ctx, who)
}

// Issue is limited by Admit.
func (l limited) Issue(ctx context.Context, s Session, src v1alpha1.SecretSource) (Response, error) {
	return l.next.Issue(ctx, s, src)
}

func (l limited) Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	return limit(l, "renew", rec, func() (lease.Term, error) { return l.next.Renew(ctx, rec, increment) })
}

func (l limited) ExtendSession(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) (lease.Term, error) {
	return limit(l, "extend_session", rec, func() (lease.Term, error) { return l.next.ExtendSession(ctx, rec, owner) })
}

func (l limited) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner Owner) error {
	_, err := limit(l, "revoke", rec, func() (struct{}, error) { return struct{}{}, l.next.Revoke(ctx, rec, owner) })
	return err
}

func (l limited) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	_, err := limit(l, "lookup", rec, func() (struct{}, error) { return struct{}{}, l.next.Lookup(ctx, rec) })
	return err
}
