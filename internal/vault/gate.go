package vault

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	// FirstProbe is the pause before the first probe of a server that was found to be down. It doubles up to lastProbe.
	FirstProbe = 500 * time.Millisecond
	lastProbe  = 2 * time.Second
	// betweenRecoveries is the least time between two of them: see gate.recoveries.
	betweenRecoveries = 10 * time.Second
)

// verdict is what one request says about whether the server serves.
type verdict int

const (
	// noVerdict: it says nothing, such as an issue that takes long or a request that was given up.
	noVerdict verdict = iota
	// serves: the server answered, if only to say no.
	serves
	// seemsDown: it cannot be reached or does not answer, which may be this one connection's trouble.
	seemsDown
	// isDown: it says so itself, or a gateway before it does: it is sealed, or to be asked later.
	isDown
)

// gate stands before a server. While the server serves, the gate is open. From the first request that finds it down the
// gate is shut, and lets one request at a time through, as a probe; all others are told at once what the last one met,
// without being sent. So a server that comes back is not met by all who waited for it, and nobody who waits holds a
// worker. The first probe that is served opens the gate.
type gate struct {
	clock clock.PassiveClock
	// changed is told when the gate has been shut or opened, and whether that was a recovery; never under the lock.
	changed func(up, recovered bool)

	mu      sync.Mutex
	shut    bool
	probing bool
	probeAt time.Time
	pause   time.Duration
	fault   *backend.Error
	served  time.Time
	// recoveries counts how often the gate was opened after a probe had failed too. At each everybody tries again at
	// once; so where a server serves some requests and turns others away (a rate limit of one path), which opens and
	// shuts the gate in turn, there are none in between, and those who fail go on to wait longer each time.
	recoveries  int64
	recoveredAt time.Time
}

// enter asks for leave to send a request. probe says that the request is one; it must be given back to leave.
func (g *gate) enter() (probe bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		return false, nil
	}
	if g.probing || g.clock.Now().Before(g.probeAt) {
		return false, g.fault
	}
	g.probing = true
	return true, nil
}

// leave says what came of a request that was let through. With a fault comes what those are told who are not.
func (g *gate) leave(probe bool, sent time.Time, v verdict, fault *backend.Error) {
	if turned, recovered := g.note(probe, sent, v, fault); turned && g.changed != nil {
		g.changed(v == serves, recovered)
	}
}

func (g *gate) note(probe bool, sent time.Time, v verdict, fault *backend.Error) (turned, recovered bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if probe {
		g.probing = false
	}
	if v == serves {
		g.served = now
	}
	if v == seemsDown {
		// A server that is slow under load serves others meanwhile; to shut them out would make it slower.
		if v = isDown; g.served.After(sent) {
			v = noVerdict
		}
	}
	switch {
	case v == isDown && !g.shut:
		g.shut, g.pause, turned = true, FirstProbe, true
	case v == isDown && probe:
		g.pause = min(2*g.pause, lastProbe)
	case v == serves && g.shut:
		g.shut = false
		if g.pause > FirstProbe && now.Sub(g.recoveredAt) >= betweenRecoveries {
			recovered, g.recoveredAt = true, now
			g.recoveries++
		}
		return true, recovered
	}
	if v == isDown {
		g.fault = fault
		g.probeAt = now.Add(g.pause)
	}
	return turned, false
}

func (g *gate) recovered() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.recoveries
}
