package vault

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// Read implements backend.Reader. It costs one request to Vault, a second one if the session of the identity must be
// extended, and a login if there is none that can be.
func (b *Backend) Read(ctx context.Context, who backend.Identity, src v1alpha1.SecretSource) (backend.Response, error) {
	req, err := requestOf(src)
	if err != nil {
		return backend.Response{}, err
	}
	in, err := b.prepare(ctx, who.Namespace, req)
	if err != nil {
		return backend.Response{}, err
	}
	c, err := b.engineCall(req, in)
	if err != nil {
		return backend.Response{}, err
	}
	issuer, err := auth.Issuer(b.spec, b.namespace)
	if err != nil {
		return backend.Response{}, err
	}
	account, err := issuer.ServiceAccount(who)
	if err != nil {
		return backend.Response{}, err
	}
	shared, evicted := b.readers.session(sessionKey{who.Namespace, account})
	if evicted != nil {
		b.closeShared(ctx, evicted)
	}
	r, err := b.asSession(ctx, c, shared, func(ctx context.Context) (session, life, error) {
		who.MinTTL = 0 // the session owns nothing, so it may expire
		s, err := b.Login(ctx, who)
		return session{token: s.Token, owned: true}, lifeOf(s.Term.At, s.Term.Duration, s.Term.Renewable), err
	})
	if err != nil {
		return backend.Response{}, err
	}
	if !succeeded(r.status) {
		return backend.Response{}, b.diagnose(ctx, r, req, b.issueFault(r, req, in.secrets...))
	}
	if a, _ := r.parse(); a.LeaseID != "" {
		return backend.Response{}, b.rejectLease(ctx, r, shared, req)
	}
	return b.issued(r, req, in)
}

// rejectLease revokes a lease that a path without leases has returned after all. The session's token owns it, so it is
// revoked with the token; other reads log in again.
func (b *Backend) rejectLease(
	ctx context.Context, r rawResponse, shared *cached[session], req *v1alpha1.VaultRequest,
) error {
	shared.drop(ctx, session{token: r.token, owned: true}, 0)
	rejected := backend.Errorf(backend.InvalidResponse,
		"reading %q again returned a lease, which the path did not have before: "+
			"set leasekeeper.io/rotate-requested-at to issue a leased credential", req.Path)
	// The caller may be shutting down. The lease must not outlive this call.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.timeout)
	defer cancel()
	for range 2 {
		if rejected.Err = b.revokeSelfBy(ctx, call{urgent: true}, r.token); rejected.Err == nil {
			break
		}
	}
	return rejected
}

// closeShared closes a session that nobody finds any more.
func (b *Backend) closeShared(ctx context.Context, shared *cached[session]) {
	if s, ok, err := shared.take(ctx); ok && err == nil {
		b.closeSession(ctx, s)
	}
}

// maxReadSessions bounds the sessions of one provider. Each is a live token in Vault.
const maxReadSessions = 256

// sessionKey is the identity of a session.
type sessionKey struct{ namespace, serviceAccount string }

// sessionCache has the sessions that read responses without a lease again. It drops the least recently used. Losing it
// costs a login for each of them; the tokens before stay valid until they expire.
type sessionCache struct {
	clock clock.PassiveClock
	max   int
	// keep extends a session that cannot be replaced; see cached.
	keep func(ctx context.Context, s session, failed error) (life, error)
	// renew extends a session; see cached.
	renew func(ctx context.Context, s session, increment time.Duration) (l life, ok bool)

	mu      sync.Mutex
	entries map[sessionKey]*sessionEntry
	// uses orders the entries by their last use.
	uses int64
}

type sessionEntry struct {
	*cached[session]
	lastUse int64
}

func newSessionCache(c clock.PassiveClock) *sessionCache {
	return &sessionCache{clock: c, max: maxReadSessions, entries: map[sessionKey]*sessionEntry{}}
}

// session returns the shared session of an identity, and the one that was evicted for it; nil: none.
func (c *sessionCache) session(key sessionKey) (shared, evicted *cached[session]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses++
	if entry := c.entries[key]; entry != nil {
		entry.lastUse = c.uses
		return entry.cached, nil
	}
	if len(c.entries) >= c.max {
		evicted = c.evict()
	}
	entry := &sessionEntry{cached: newCached[session](c.clock), lastUse: c.uses}
	entry.keep, entry.renew = c.keep, c.renew
	c.entries[key] = entry
	return entry.cached, evicted
}

func (c *sessionCache) evict() *cached[session] {
	var oldest sessionKey
	var found *sessionEntry
	for key, entry := range c.entries {
		if found == nil || entry.lastUse < found.lastUse {
			oldest, found = key, entry
		}
	}
	delete(c.entries, oldest)
	return found.cached
}

// takeAll empties the cache and returns the sessions that are open.
func (c *sessionCache) takeAll(ctx context.Context) []session {
	c.mu.Lock()
	all := c.entries
	c.entries = map[sessionKey]*sessionEntry{}
	c.mu.Unlock()
	var open []session
	for _, entry := range all {
		if s, ok, err := entry.take(ctx); ok && err == nil {
			open = append(open, s)
		}
	}
	return open
}
