package vault

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// scopeMemory is how long a refusal of a scope is remembered if nobody sends another request.
const scopeMemory = time.Minute

// scope names the requests that a quota or a gateway refuses together: those of a path, and of a role if it is a login.
func (c call) scope() string {
	scope := c.path
	if c.role != "" {
		scope += " of role " + c.role
	}
	if c.namespace != "" {
		scope = c.namespace + "/" + scope
	}
	return scope
}

// scopeKey is the scope in the sense of scopes. Another certificate is tried at once.
func (c call) scopeKey() string {
	if c.certificate == nil || len(c.certificate.Certificate) == 0 {
		return c.scope()
	}
	return fmt.Sprintf("%s %x", c.scope(), sha256.Sum256(c.certificate.Certificate[0]))
}

// scopes are circuit breakers like that of the server, one for each scope that it refuses while it may serve others.
type scopes struct {
	mu       sync.Mutex
	breakers map[string]*breaker
}

// find returns the breaker of a scope; nil: its requests are not refused.
func (s *scopes) find(scope string) *breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.breakers[scope]
}

// add returns the breaker of a scope, and forgets those that were not used for long.
func (s *scopes) add(c clock.PassiveClock, scope string) *breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.breakers[scope]; found != nil {
		return found
	}
	for other, b := range s.breakers {
		if b.idle(scopeMemory) {
			delete(s.breakers, other)
		}
	}
	if s.breakers == nil {
		s.breakers = map[string]*breaker{}
	}
	s.breakers[scope] = &breaker{clock: c}
	return s.breakers[scope]
}

func (s *scopes) forget(scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.breakers, scope)
}

// probes are the breakers that let a request through as a probe.
type probes struct{ server, scope bool }

// allow permits a request, or returns the error that it would get.
func (b *Backend) allow(c call) (p probes, err error) {
	narrow := b.scopes.find(c.scopeKey())
	if narrow != nil {
		if p.scope, err = narrow.allow(); err != nil {
			return p, err
		}
	}
	if p.server, err = b.breaker.allow(); err != nil && p.scope {
		narrow.observe(true, b.clock.Now(), inconclusive, nil)
	}
	return p, err
}

// observe records the result of a request that was permitted. A refusal of its scope shows that the server serves.
func (b *Backend) observe(c call, p probes, sent time.Time, f finding, fault *backend.Error) {
	scope := c.scopeKey()
	narrow := b.scopes.find(scope)
	server := f
	if f == limited {
		server = inconclusive
		if fault.Kind == backend.Throttled || fault.Kind == backend.QuotaExceeded {
			server = serving
		}
		if narrow == nil {
			narrow = b.scopes.add(b.clock, scope)
		}
		f = down
	} else if f == maybeDown || f == down {
		f = inconclusive
	}
	if narrow != nil {
		narrow.observe(p.scope, sent, f, fault)
		if f == serving {
			b.scopes.forget(scope)
		}
	}
	b.breaker.observe(p.server, sent, server, fault)
}
