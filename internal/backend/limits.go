package backend

import (
	"errors"
	"math"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
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
	// retrySoon is when to try again on a path that seems to be well.
	retrySoon = 500 * time.Millisecond
	// retryCrowded is for how long a line that has requests in flight waits for those that have none.
	retryCrowded = retryWaiting + retryWaiting/4
	// quotaPause is both for a path that issues no more leases: each attempt costs a login and writes to the ledger.
	quotaPause = 10 * time.Second
	// outageMemory is for how long after an outage of the server issuances begin with one at a time.
	outageMemory = time.Minute
)

// Limits keep one hanging path (a database, a tenant) from using all workers. They apply to the requests of one
// operation on one path of one provider:
//
//   - Issuances: a quarter of the workers; all paths together: half of them. Renewals never wait behind issuances.
//   - Other operations: half of the workers until one has got a response, and a quarter as soon as one of them takes
//     longer than a second.
//   - After a request without a response, with an error after a long time, or refused by a quota: one at a time, as a
//     probe, until one gets another response. The same applies if a step before the request fails, such as its login,
//     while the server serves others.
//   - Then each response permits one request more, unless the responses take longer because of that: a database that is
//     only slow would let a quarter of the workers time out together. Issuances begin like that after an outage of the
//     server.
//   - All paths that seem to hang use a quarter of the workers together. Each path with a request in flight, or whose
//     last probe failed, leaves places to those for which this is not so.
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
	// outages has when a server was last found unavailable.
	outages map[providerKey]time.Time
	// crowdedAt is when a path without a request in flight last got no place among the paths that seem to hang.
	crowdedAt time.Time
	// waiting for an issuance of any path to end.
	waiting waiters
}

type providerKey struct{ kind, name string }

// lineKey identifies requests that are limited together.
type lineKey struct {
	providerKey
	operation, path string
}

// line is what is known of them.
type line struct {
	// inFlight has the start of each request.
	inFlight map[int]time.Time
	serial   int
	// limit of the requests in flight since a failure; 0: the usual limit.
	limit int
	// alone is how long the first success since then took.
	alone time.Duration
	// restartedAt is when the limit was last set because of an outage of the server.
	restartedAt time.Time
	// respondedAt is when a request last got a response.
	respondedAt time.Time
	// probeAt is when the next probe may be sent; zero: the last request got a response.
	probeAt time.Time
	// probeFailed: the last probe got no response either.
	probeFailed bool
	// fault is what the others get meanwhile.
	fault *Error
	// waiting for a request to end.
	waiting waiters
}

// NewLimits makes limits for so many workers.
func NewLimits(c clock.PassiveClock, workers int) *Limits {
	return &Limits{
		clock: c, workers: workers, lines: map[lineKey]*line{}, outages: map[providerKey]time.Time{},
	}
}

// Forget drops what is known of the paths of a provider that is gone.
func (l *Limits) Forget(p v1alpha1.Provider) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := keyOf(p)
	delete(l.outages, gone)
	for key, line := range l.lines {
		if key.providerKey == gone && len(line.inFlight) == 0 {
			delete(l.lines, key)
		}
	}
}

func keyOf(p v1alpha1.Provider) providerKey { return providerKey{p.Kind(), MetricName(p)} }

// opIssue is the operation whose requests are limited before they become slow.
const opIssue = "issue"

// part of the workers.
func (l *Limits) part(of int) int { return max(1, l.workers/of) }

// admit reserves a place in a line. issues says that a worker will be busy with an issuance.
func (l *Limits) admit(key lineKey, issues bool, who Waiter) (done func(error), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	in := l.lines[key]
	if in == nil {
		in = &line{inFlight: map[int]time.Time{}}
	}
	l.restart(key, in, now)
	// Another path of an object that has a place: the object uses one worker, and would never get all of its places.
	another := key.operation == opIssue && !issues
	switch {
	case !in.probeAt.IsZero() && (len(in.inFlight) > 0 || now.Before(in.probeAt)):
		return nil, in.fault
	case len(in.inFlight) >= l.most(key, in, now):
		if key.operation == opIssue {
			in.waiting.add(who) // some are in flight, so the line is known
		}
		return nil, in.busy(key, now)
	case issues && l.issuing >= l.part(2):
		l.waiting.add(who)
		return nil, in.busy(key, now)
	case !another && in.suspect(key, now) && l.crowded(key, in, now):
		if key.operation == opIssue {
			return nil, in.fault
		}
		return nil, in.busy(key, now)
	}
	in.waiting.remove(who.Key)
	l.waiting.remove(who.Key)
	l.lines[key] = in
	in.serial++
	id := in.serial
	in.inFlight[id] = now
	if issues {
		l.issuing++
	}
	return func(result error) { l.finish(key, id, issues, result) }, nil
}

// restart lets the issuances of a path begin with one at a time after an outage of the server: what the server depends
// on, such as the database, may not be ready for all of them.
func (l *Limits) restart(key lineKey, in *line, now time.Time) {
	down, known := l.outages[key.providerKey]
	if known && key.operation == opIssue && down.After(in.restartedAt) && now.Sub(down) < outageMemory {
		in.limit, in.alone, in.restartedAt = 1, 0, now
	}
}

// most is how many requests of the line may be in flight.
func (l *Limits) most(key lineKey, in *line, now time.Time) int {
	switch {
	case in.limit > 0:
		return in.limit
	case key.operation == opIssue, in.slowest(now) > slow:
		return l.part(4)
	case now.Sub(in.respondedAt) > slow:
		return l.part(2)
	}
	return math.MaxInt
}

// suspect says that the line seems to hang: it got no response to its last request, or waits for one for long. Many
// issuances take long, and all of them together have a limit of their own.
func (in *line) suspect(key lineKey, now time.Time) bool {
	return !in.probeAt.IsZero() || key.operation != opIssue && in.slowest(now) > slow
}

// crowded says that the lines that seem to hang leave no place to this one of them. Issuances are counted separately.
func (l *Limits) crowded(key lineKey, in *line, now time.Time) bool {
	issues, places := key.operation == opIssue, l.part(4)
	for other, line := range l.lines {
		if (other.operation == opIssue) == issues && line.suspect(other, now) {
			places -= len(line.inFlight)
		}
	}
	if in.probeFailed {
		places -= l.part(4) / 4
	}
	if len(in.inFlight) > 0 {
		return places <= 0 || now.Sub(l.crowdedAt) < retryCrowded
	}
	if places <= 0 && !issues {
		l.crowdedAt = now
	}
	return places <= 0
}

func (in *line) busy(key lineKey, now time.Time) error {
	e := Errorf(Busy, "%s: waiting for requests in progress", key.path)
	e.RetryAfter = retryWaiting
	if in.limit == 0 && !in.suspect(key, now) {
		e.RetryAfter = retrySoon
	}
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
	now := l.clock.Now()
	started := in.inFlight[id]
	took := now.Sub(started)
	delete(in.inFlight, id)
	places := 1
	switch {
	case errors.Is(result, ErrNotSent), KindOf(result) == Unavailable && l.outageSince(key, started):
		// It shows nothing about the path.
	case unanswered(result, took):
		in.probeFailed = !in.probeAt.IsZero() && !started.Before(in.probeAt)
		in.limit, in.alone, in.probeAt = 1, 0, now.Add(probePause)
		in.fault = Errorf(Unavailable, "%s: waiting, because the last request got no response: one request at a time "+
			"is sent until the backend responds", key.path)
		in.fault.RetryAfter = retryWaiting
	case KindOf(result) == QuotaExceeded:
		in.probeAt = now.Add(quotaPause)
		in.fault = Errorf(QuotaExceeded, "%s", result)
		in.fault.RetryAfter = quotaPause
	default:
		in.respondedAt, in.probeAt, in.probeFailed = now, time.Time{}, false
		places += in.grow(took, result, l.part(4))
	}
	wake = in.waiting.take(places)
	if issued {
		l.issuing--
		wake = append(wake, l.waiting.take(1)...)
	}
	if len(in.inFlight)+len(in.waiting.wake)+in.limit == 0 && in.probeAt.IsZero() {
		delete(l.lines, key)
	}
	return wake
}

// unanswered says that a result is none of the path's own: nothing responded, or only after it had given up waiting.
func unanswered(result error, took time.Duration) bool {
	if result == nil {
		return false
	}
	switch KindOf(result) {
	case NoResponse, Unavailable:
		return true
	case Failed:
		return took > hanging
	}
	return false
}

// grow permits one request more after a response, until the usual limit applies again. It returns how many more. A
// backend that does one after the other takes longer for each if there are more of them.
func (in *line) grow(took time.Duration, result error, usual int) int {
	if in.limit == 0 {
		return 0
	}
	if in.alone == 0 && result == nil {
		in.alone = took
	}
	if took > max(slow, 2*in.alone) {
		return 0
	}
	if in.limit++; in.limit >= usual {
		in.limit = 0
	}
	return 1
}

// noteOutage notes when a server was found unavailable; zero: never.
func (l *Limits) noteOutage(of providerKey, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.After(l.outages[of]) {
		l.outages[of] = at
	}
}

// outageSince says that the server of a line was found unavailable since then.
func (l *Limits) outageSince(key lineKey, t time.Time) bool {
	down, known := l.outages[key.providerKey]
	return known && !down.Before(t)
}

// slowest is for how long the oldest request is in flight.
func (in *line) slowest(now time.Time) (longest time.Duration) {
	for _, started := range in.inFlight {
		longest = max(longest, now.Sub(started))
	}
	return longest
}
