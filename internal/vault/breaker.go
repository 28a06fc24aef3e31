package vault

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	// FirstProbe is the pause before the first probe of a server that became unavailable. It doubles up to lastProbe.
	FirstProbe = 500 * time.Millisecond
	lastProbe  = 2 * time.Second
	// betweenRecoveries is the minimum time between two recoveries: see breaker.recoveries.
	betweenRecoveries = 10 * time.Second
	// severalPaths without a response show that the server is down although it reports that it is healthy.
	severalPaths = 3
)

// finding is what the result of one request shows about the server.
type finding int

const (
	// inconclusive: nothing, such as an issuance or a renewal that takes long, or a request that was cancelled.
	inconclusive finding = iota
	// serving: the server responded, if only with a refusal.
	serving
	// limited: it refuses requests like this one, such as those of a path or a role, and may serve others.
	limited
	// unclear: it accepted the request and did not respond, or a gateway responded that it does not. That concerns the
	// server or the path only; see clarify.
	unclear
	// maybeDown: it cannot be reached or does not respond, which may concern this connection only.
	maybeDown
	// down: the server, or a gateway in front of it, reports that it does not serve: it is sealed, or overloaded.
	down
)

// breaker is a circuit breaker in front of a server. It trips with the first request that finds the server down. Then
// it lets through one request at a time, as a probe; all others fail at once with the error of the last probe and are
// not sent. So a server that comes back does not get the requests of all waiting objects at once, and no waiting object
// holds a worker. The first probe that the server serves resets it.
type breaker struct {
	clock clock.PassiveClock
	// changed is called, without the lock, when the breaker has tripped or was reset, and whether that was a recovery.
	changed func(up, recovered bool)

	mu       sync.Mutex
	tripped  bool
	probing  bool
	probeAt  time.Time
	pause    time.Duration
	fault    *backend.Error
	servedAt time.Time
	// downAt is when the server was last found down, or a request was refused for that.
	downAt time.Time
	// failing are the paths whose requests were not served since another request was.
	failing map[string]bool
	// recoveries counts the resets after which all objects try again at once. A reset counts if a probe had failed, and
	// if the last recovery is not recent: a server that serves some requests and refuses others trips and resets the
	// breaker in turn, and the objects that fail must keep their back-off.
	recoveries  int64
	recoveredAt time.Time
}

// allow permits a request, or returns the error that it would get. Pass probe on to observe.
func (b *breaker) allow() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.tripped {
		return false, nil
	}
	if b.probing || b.clock.Now().Before(b.probeAt) {
		b.downAt = b.clock.Now()
		return false, b.fault
	}
	b.probing = true
	return true, nil
}

// observe records the result of a request that was permitted. Requests that are refused from now on get the fault.
func (b *breaker) observe(probe bool, sent time.Time, f finding, fault *backend.Error) {
	if turned, recovered := b.record(probe, sent, f, fault); turned && b.changed != nil {
		b.changed(f == serving, recovered)
	}
}

func (b *breaker) record(probe bool, sent time.Time, f finding, fault *backend.Error) (turned, recovered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	if probe {
		b.probing = false
	}
	if f == serving {
		b.servedAt = now
		clear(b.failing)
	}
	if f == maybeDown {
		// A server that is slow under load serves other requests meanwhile. Stopping those would not help it.
		if f = down; b.servedAt.After(sent) {
			f = inconclusive
		}
	}
	switch {
	case f == down && !b.tripped:
		b.tripped, b.pause, turned = true, FirstProbe, true
	case f == down && probe:
		b.pause = min(2*b.pause, lastProbe)
	case f == serving && b.tripped:
		b.tripped = false
		if b.pause > FirstProbe && now.Sub(b.recoveredAt) >= betweenRecoveries {
			recovered, b.recoveredAt = true, now
			b.recoveries++
		}
		return true, recovered
	}
	if f == down {
		b.fault, b.downAt = fault, now
		b.probeAt = now.Add(b.pause)
	}
	return turned, false
}

// servedSince says that a request was served after that time.
func (b *breaker) servedSince(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.servedAt.After(t)
}

// fails notes a path whose request was not served. It returns the number of such paths since a request was served.
func (b *breaker) fails(path string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing == nil {
		b.failing = map[string]bool{}
	}
	if len(b.failing) < severalPaths {
		b.failing[path] = true
	}
	return len(b.failing)
}

// lastDown is when the server was last found down; zero: never.
func (b *breaker) lastDown() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.downAt
}

func (b *breaker) recovered() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recoveries
}

// idle is true if nothing was sent for so long since the last probe was due.
func (b *breaker) idle(d time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.probing && b.clock.Now().Sub(b.probeAt) > d
}
