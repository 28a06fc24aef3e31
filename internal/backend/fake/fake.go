// Package fake is a backend.Backend in memory, on the clock of a test. It exists for faults that a real backend cannot
// be told to have: a response that is lost at a chosen instant, a credential that is minted after the client stopped
// waiting. The contract suite runs against the fake and against Vault, so the fake cannot drift.
package fake

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Fault is what happens to the next call.
type Fault string

const (
	// None: the call succeeds.
	None Fault = ""
	// Down: the request does not reach the backend.
	Down Fault = "Down"
	// Lost: the backend acts, and the response is lost.
	Lost Fault = "Lost"
	// Late: the response is lost, and the backend acts Backend.Delay later (issue only).
	Late Fault = "Late"
	// Error: the backend responds with an error of its own.
	Error Fault = "Error"
	// Refused: the backend responds that it does not do this (issue, renew and extend only).
	Refused Fault = "Refused"
)

// Backend is a backend in memory. Its fields may be changed between calls.
//
// The path of a source selects the kind of its response: kv/ is static, static/ is scheduled, pki/ expires without an
// id, and everything else is leased.
type Backend struct {
	// TTL and MaxTTL of leases. TTL is that of expiring responses too.
	TTL, MaxTTL time.Duration
	// TokenTTL of the sessions; 0: they do not expire. TokenMaxTTL bounds their extension; 0 with a TokenTTL makes them
	// periodic.
	TokenTTL, TokenMaxTTL time.Duration
	// RotationPeriod of scheduled responses.
	RotationPeriod time.Duration
	// Renewable is true if leases can be renewed.
	Renewable bool
	// Revocable is true if expiring responses can be revoked.
	Revocable bool
	// Unleased makes the responses of all paths static.
	Unleased bool
	// OneUser is the user of every lease, as with a role whose username template is constant: the end of any lease
	// drops it. Empty: each lease has a user of its own.
	OneUser string
	// Delay of a late issuance: at most what the backend permits a request to take.
	Delay time.Duration
	// Next chooses the fault of a call; nil: none.
	Next func(operation string) Fault

	clock   clock.PassiveClock
	started time.Time

	mu     sync.Mutex
	serial int
	tokens map[string]*token
	// minted has every leased and every expiring credential, by lease id or serial number.
	minted map[string]*credential
	values map[string]string
	late   []lateIssuance
	// dropped: the end of a lease has dropped OneUser.
	dropped bool
	// issued counts the credentials that were minted.
	issued int
	calls  map[string]int
}

type token struct {
	accessor, namespace string
	issuedAt, expires   time.Time
	revoked             bool
}

type credential struct {
	id, accessor      string
	leased            bool
	issuedAt, expires time.Time
	revoked           bool
	// shared: its user is OneUser.
	shared bool
}

type lateIssuance struct {
	at       time.Time
	accessor string
	path     string
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ backend.Reader  = (*Backend)(nil)
)

// New makes a backend whose leases last an hour, and a day at most.
func New(c clock.PassiveClock) *Backend {
	return &Backend{
		TTL: time.Hour, MaxTTL: 24 * time.Hour, RotationPeriod: time.Hour, Renewable: true, Revocable: true,
		clock: c, started: c.Now(),
		tokens: map[string]*token{}, minted: map[string]*credential{},
		values: map[string]string{}, calls: map[string]int{},
	}
}

// begin counts the call, completes the late issuances that are due, and chooses the fault.
func (b *Backend) begin(op string) (Fault, time.Time) {
	now := b.clock.Now()
	b.settle(now)
	b.calls[op]++
	if b.Next == nil {
		return None, now
	}
	return b.Next(op), now
}

func (b *Backend) settle(now time.Time) {
	kept := b.late[:0]
	for _, l := range b.late {
		if l.at.After(now) {
			kept = append(kept, l)
			continue
		}
		// It was accepted while its token was alive, and it mints even if the token was revoked since.
		b.mint(l.accessor, l.path, l.at)
	}
	b.late = kept
}

func (b *Backend) mint(accessor, path string, at time.Time) *credential {
	b.serial++
	b.issued++
	c := &credential{
		id: fmt.Sprintf("%s/%d", path, b.serial), accessor: accessor, issuedAt: at, expires: at.Add(b.TTL),
		leased: b.kindOf(path) == v1alpha1.ResponseLeased,
	}
	b.minted[c.id] = c
	c.shared = c.leased && b.OneUser != ""
	b.dropped = b.dropped && !c.shared
	return c
}

func (b *Backend) tokenAlive(accessor string, now time.Time) bool {
	t := b.tokens[accessor]
	return t != nil && !t.revoked && (t.expires.IsZero() || now.Before(t.expires))
}

func (b *Backend) alive(c *credential, now time.Time) bool {
	if c == nil || c.revoked || !now.Before(c.expires) {
		return false
	}
	t := b.tokens[c.accessor]
	if !c.leased || t == nil {
		return true
	}
	// Only leases depend on their token. A lease that was minted after its token was revoked has no owner, and lives
	// until it expires.
	tokenExpired := !t.expires.IsZero() && !now.Before(t.expires)
	return t.revoked || !tokenExpired || c.issuedAt.After(t.expires)
}

// lease is the lease of an id; nil if there is none, or it is not a lease.
func (b *Backend) lease(id string) *credential {
	if c := b.minted[id]; c != nil && c.leased {
		return c
	}
	return nil
}

var (
	errDown = backend.Errorf(backend.Unavailable, "the backend is down")
	errLost = backend.Errorf(backend.NoResponse, "the response was lost")
)

// Login opens a session.
func (b *Backend) Login(_ context.Context, who backend.Identity) (backend.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("login")
	switch f {
	case Down:
		return backend.Session{}, errDown
	case Error:
		return backend.Session{}, backend.Errorf(backend.LoginFailed, "login refused")
	}
	b.serial++
	t := &token{accessor: fmt.Sprintf("accessor-%d", b.serial), namespace: who.Namespace, issuedAt: now}
	ttl := b.TokenTTL
	if ttl > 0 {
		ttl = max(ttl, who.MinTTL) // the contract requires the extension
		t.expires = now.Add(ttl)
	}
	b.tokens[t.accessor] = t
	if f != None {
		return backend.Session{}, errLost
	}
	return backend.Session{
		Token: t.accessor, Handle: t.accessor, Term: lease.Term{At: now, Duration: ttl, Renewable: ttl > 0},
	}, nil
}

// Issue mints a credential, or reads a static or scheduled value.
func (b *Backend) Issue(
	_ context.Context, s backend.Session, src v1alpha1.SecretSource,
) (backend.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := src.Vault.Path
	f, now := b.begin("issue")
	switch {
	case f == Down:
		return backend.Response{}, errLost
	case !b.tokenAlive(s.Handle, now):
		return backend.Response{}, backend.Errorf(backend.Denied, "permission denied")
	case f == Error:
		return backend.Response{}, backend.Errorf(backend.Failed, "the database is down")
	case f == Refused:
		return backend.Response{}, backend.Errorf(backend.Refused, "there is no such role")
	case f == Late && mints(b.kindOf(path)):
		b.late = append(b.late, lateIssuance{at: now.Add(b.Delay), accessor: s.Handle, path: path})
		return backend.Response{}, errLost
	}
	response := b.respond(s.Handle, path, now)
	if f != None {
		return backend.Response{}, errLost
	}
	if response.Kind != v1alpha1.ResponseLeased {
		b.revokeToken(b.tokens[s.Handle])
	}
	return response, nil
}

func mints(kind v1alpha1.ResponseKind) bool {
	return kind == v1alpha1.ResponseLeased || kind == v1alpha1.ResponseExpiring
}

// Renew extends a lease, to its maximum at most.
func (b *Backend) Renew(_ context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("renew")
	c := b.lease(rec.ID)
	switch {
	case f == Down:
		return lease.Term{}, errDown
	case f == Error:
		return lease.Term{}, backend.Errorf(backend.Failed, "the database is down")
	case !b.alive(c, now):
		return lease.Term{}, backend.Errorf(backend.Gone, "lease not found")
	case !b.Renewable, f == Refused:
		return lease.Term{}, backend.Errorf(backend.Refused, "the lease is not renewable")
	}
	end, capped := capAt(now.Add(increment), c.issuedAt.Add(b.MaxTTL))
	c.expires = end
	if f != None {
		return lease.Term{}, errLost
	}
	return lease.Term{At: now, Duration: end.Sub(now), Renewable: true, Capped: capped}, nil
}

func capAt(t, limit time.Time) (time.Time, bool) {
	if t.After(limit) {
		return limit, true
	}
	return t, false
}

// ExtendSession extends a session, to its maximum or by its period.
func (b *Backend) ExtendSession(
	_ context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner,
) (lease.Term, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("extend")
	if f == Down || f == Error {
		return lease.Term{}, errDown
	}
	if !b.tokenAlive(rec.Handle(), now) {
		return lease.Term{}, backend.Errorf(backend.Gone, "invalid accessor")
	}
	t := b.tokens[rec.Handle()]
	if t.namespace != owner.Namespace {
		return lease.Term{}, notOwners(t)
	}
	if f == Refused {
		return lease.Term{}, backend.Errorf(backend.Denied, "the session may not be extended")
	}
	if b.TokenMaxTTL == 0 {
		t.expires = now.Add(b.TokenTTL)
		return lease.Term{At: now, Duration: b.TokenTTL, Renewable: true}, nil
	}
	t.expires = t.issuedAt.Add(b.TokenMaxTTL)
	return lease.Term{At: now, Duration: t.expires.Sub(now), Renewable: true, Capped: true}, nil
}

func notOwners(t *token) error {
	return backend.Errorf(backend.Mismatch, "the session belongs to namespace %s", t.namespace)
}

// Revoke revokes a session and its leases, then the lease or the certificate of the record.
func (b *Backend) Revoke(_ context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("revoke")
	if f == Down || f == Error {
		return errDown
	}
	if t := b.tokens[rec.Handle()]; t != nil && b.tokenAlive(rec.Handle(), now) {
		if t.namespace != owner.Namespace {
			return notOwners(t)
		}
		b.revokeToken(t)
	}
	if c := b.lease(rec.ID); c != nil {
		b.end(c)
	}
	if rec.Vault != nil && b.minted[rec.Vault.SerialNumber] != nil {
		b.minted[rec.Vault.SerialNumber].revoked = true
	}
	if f != None {
		return errLost
	}
	return nil
}

func (b *Backend) revokeToken(t *token) {
	t.revoked = true
	for _, c := range b.minted {
		if c.leased && c.accessor == t.accessor {
			b.end(c)
		}
	}
}

// end revokes a lease and drops its user.
func (b *Backend) end(c *credential) {
	b.dropped = b.dropped || c.shared && !c.revoked
	c.revoked = true
}

// Lookup checks whether a lease is alive.
func (b *Backend) Lookup(_ context.Context, rec v1alpha1.LeaseRecord) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("lookup")
	if f != None {
		return errDown
	}
	if !b.alive(b.lease(rec.ID), now) {
		return backend.Errorf(backend.Gone, "invalid lease")
	}
	return nil
}
