// Package fake is a backend.Backend in memory, on a clock of the test's. It exists for faults that a real backend cannot be
// told to have: an answer that is lost at a chosen instant, a credential that is minted long after everybody stopped
// waiting. The contract suite that runs against Vault runs against it too, so that it cannot drift.
package fake

import (
	"context"
	"fmt"
	"sort"
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
	// None: the call goes well.
	None Fault = ""
	// Down: the backend is not reached.
	Down Fault = "Down"
	// Lost: the backend acts, the answer is lost.
	Lost Fault = "Lost"
	// Late: the answer is lost, and the backend acts Backend.Delay later (issue only).
	Late Fault = "Late"
	// Error: the backend answers with an error of its own.
	Error Fault = "Error"
)

// Backend is a backend in memory. Its fields may be changed between calls.
type Backend struct {
	// TTL and MaxTTL of leases.
	TTL, MaxTTL time.Duration
	// TokenTTL of the tokens that log in; 0: they do not expire. TokenMaxTTL bounds their extension; 0 with a
	// TokenTTL makes them periodic.
	TokenTTL, TokenMaxTTL time.Duration
	// Renewable says whether leases can be renewed.
	Renewable bool
	// Unleased makes it answer like a key-value store.
	Unleased bool
	// Delay of a late issue: at most what the backend allows a request to take.
	Delay time.Duration
	// Next chooses the fault of a call; nil: none.
	Next func(operation string) Fault

	clock  clock.PassiveClock
	mu     sync.Mutex
	serial int
	tokens map[string]*token
	leases map[string]*leased
	late   []lateIssue
	// Issued counts credentials that were minted.
	issued int
	calls  map[string]int
}

type token struct {
	accessor, namespace string
	issuedAt, expires   time.Time
	revoked             bool
}

type leased struct {
	id, accessor      string
	issuedAt, expires time.Time
	revoked           bool
}

type lateIssue struct {
	at       time.Time
	accessor string
	path     string
}

// New makes a backend with leases of one hour, a day at most.
func New(c clock.PassiveClock) *Backend {
	return &Backend{
		TTL: time.Hour, MaxTTL: 24 * time.Hour, Renewable: true, clock: c,
		tokens: map[string]*token{}, leases: map[string]*leased{}, calls: map[string]int{},
	}
}

func (b *Backend) fault(op string) Fault {
	b.calls[op]++
	if b.Next == nil {
		return None
	}
	return b.Next(op)
}

// begin counts the call and lets late issues happen that are due.
func (b *Backend) begin(op string) (Fault, time.Time) {
	now := b.clock.Now()
	b.settle(now)
	return b.fault(op), now
}

func (b *Backend) settle(now time.Time) {
	kept := b.late[:0]
	for _, l := range b.late {
		if l.at.After(now) {
			kept = append(kept, l)
			continue
		}
		// It was let in while its token lived, and mints whatever became of the token since.
		b.mint(l.accessor, l.path, l.at)
	}
	b.late = kept
}

func (b *Backend) mint(accessor, path string, at time.Time) *leased {
	b.serial++
	b.issued++
	l := &leased{id: fmt.Sprintf("%s/%d", path, b.serial), accessor: accessor, issuedAt: at, expires: at.Add(b.TTL)}
	b.leases[l.id] = l
	return l
}

func (b *Backend) tokenAlive(accessor string, now time.Time) bool {
	t := b.tokens[accessor]
	return t != nil && !t.revoked && (t.expires.IsZero() || now.Before(t.expires))
}

func (b *Backend) alive(l *leased, now time.Time) bool {
	if l == nil || l.revoked || !now.Before(l.expires) {
		return false
	}
	t := b.tokens[l.accessor]
	// A lease that was minted after its token had ended is owned by nothing and lives to its end.
	return t == nil || t.revoked || t.expires.IsZero() || now.Before(t.expires) || l.issuedAt.After(t.expires)
}

var errDown = backend.Errorf(backend.Unavailable, "the backend is down")

// Login makes a token.
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
		ttl = max(ttl, who.MinTTL) // extended, as the contract has it
		t.expires = now.Add(ttl)
	}
	b.tokens[t.accessor] = t
	if f != None {
		return backend.Session{}, backend.Errorf(backend.NoResponse, "the answer was lost")
	}
	return backend.Session{Token: t.accessor, Handle: t.accessor, Term: lease.Term{At: now, Duration: ttl, Renewable: ttl > 0}}, nil
}

// Issue mints a credential.
func (b *Backend) Issue(_ context.Context, s backend.Session, req backend.Request) (backend.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("issue")
	unanswered := backend.Errorf(backend.NoResponse, "the answer was lost")
	switch {
	case f == Down:
		return backend.Response{}, unanswered
	case !b.tokenAlive(s.Handle, now):
		return backend.Response{}, backend.Errorf(backend.Denied, "permission denied")
	case f == Error:
		return backend.Response{}, backend.Errorf(backend.Failed, "the database is down")
	case b.Unleased:
		return backend.Response{Term: lease.Term{At: now, Duration: 768 * time.Hour}, Data: map[string][]byte{"value": []byte("same")}}, nil
	case f == Late:
		b.late = append(b.late, lateIssue{at: now.Add(b.Delay), accessor: s.Handle, path: req.Path})
		return backend.Response{}, unanswered
	}
	l := b.mint(s.Handle, req.Path, now)
	if f == Lost {
		return backend.Response{}, unanswered
	}
	return backend.Response{
		LeaseID: l.id,
		Term:    lease.Term{At: now, Duration: b.TTL, Renewable: b.Renewable},
		Data:    map[string][]byte{"username": []byte(l.id)},
	}, nil
}

// Renew extends a lease, to its maximum at most.
func (b *Backend) Renew(_ context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("renew")
	if f == Down {
		return lease.Term{}, errDown
	}
	if f == Error {
		return lease.Term{}, backend.Errorf(backend.Failed, "the database is down")
	}
	l := b.leases[rec.ID]
	if !b.alive(l, now) {
		return lease.Term{}, backend.Errorf(backend.Gone, "lease not found")
	}
	end, capped := capAt(now.Add(increment), l.issuedAt.Add(b.MaxTTL))
	l.expires = end
	if f != None {
		return lease.Term{}, backend.Errorf(backend.NoResponse, "the answer was lost")
	}
	return lease.Term{At: now, Duration: end.Sub(now), Renewable: b.Renewable, Capped: capped}, nil
}

func capAt(t, limit time.Time) (time.Time, bool) {
	if t.After(limit) {
		return limit, true
	}
	return t, false
}

// ExtendToken extends a token, to its maximum or by its period.
func (b *Backend) ExtendSession(_ context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (lease.Term, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("extend")
	if f == Down || f == Error {
		return lease.Term{}, errDown
	}
	if !b.tokenAlive(rec.TokenAccessor, now) {
		return lease.Term{}, backend.Errorf(backend.Gone, "invalid accessor")
	}
	t := b.tokens[rec.TokenAccessor]
	if t.namespace != owner.Namespace {
		return lease.Term{}, strangers(t)
	}
	if b.TokenMaxTTL == 0 {
		t.expires = now.Add(b.TokenTTL)
		return lease.Term{At: now, Duration: b.TokenTTL, Renewable: true}, nil
	}
	t.expires = t.issuedAt.Add(b.TokenMaxTTL)
	return lease.Term{At: now, Duration: t.expires.Sub(now), Renewable: true, Capped: true}, nil
}

func strangers(t *token) error {
	return backend.Errorf(backend.Mismatch, "the token came from namespace %s", t.namespace)
}

// End ends a token and its leases, then the lease of the id.
func (b *Backend) Revoke(_ context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("end")
	if f == Down || f == Error {
		return errDown
	}
	if t := b.tokens[rec.TokenAccessor]; t != nil && b.tokenAlive(rec.TokenAccessor, now) {
		if t.namespace != owner.Namespace {
			return strangers(t)
		}
		b.revokeToken(t)
	}
	if l := b.leases[rec.ID]; l != nil {
		l.revoked = true
	}
	if f != None {
		return backend.Errorf(backend.NoResponse, "the answer was lost")
	}
	return nil
}

func (b *Backend) revokeToken(t *token) {
	t.revoked = true
	for _, l := range b.leases {
		if l.accessor == t.accessor {
			l.revoked = true
		}
	}
}

// Lookup asks whether a lease lives.
func (b *Backend) Lookup(_ context.Context, rec v1alpha1.LeaseRecord) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, now := b.begin("lookup")
	if f != None {
		return errDown
	}
	if !b.alive(b.leases[rec.ID], now) {
		return backend.Errorf(backend.Gone, "invalid lease")
	}
	return nil
}

// Live maps the ids of the leases that live to the accessors that own them.
func (b *Backend) Live() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	b.settle(now)
	live := map[string]string{}
	for id, l := range b.leases {
		if b.alive(l, now) {
			live[id] = l.accessor
		}
	}
	return live
}

// RevokeBehind revokes a lease as an administrator would, without leasekeeper.
func (b *Backend) RevokeBehind(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.leases[id]; l != nil {
		l.revoked = true
	}
}

// Issued counts the credentials that were minted.
func (b *Backend) Issued() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.issued
}

// Calls counts the calls of each operation, in order of its name.
func (b *Backend) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for op, n := range b.calls {
		out = append(out, fmt.Sprintf("%s=%d", op, n))
	}
	sort.Strings(out)
	return out
}

var _ backend.Backend = (*Backend)(nil)

// Expiry of a lease as the backend has it; false: no such lease.
func (b *Backend) Expiry(id string) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil {
		return time.Time{}, false
	}
	return l.expires, true
}
