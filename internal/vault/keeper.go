package vault

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// minSessionAge is how old a shared session must be before a refusal leads to a new login: a policy that lacks a line
// refuses each request, and each refusal must not cause a login.
const minSessionAge = time.Second

// policyMemory is how long the policies of a session are assumed to be those of its role: a token keeps the policies
// that it was created with.
const policyMemory = 10 * time.Second

// session is a token that owns nothing. Losing it costs a login.
type session struct {
	token string
	// owned: the token came from a login and is revoked when it is replaced. A token from a Secret is not.
	owned bool
}

// asKeeper sends the request with the keeper's token. A refusal leads to a new login before it is believed: the token
// may have been revoked or have expired, or its role may have got another policy.
func (b *Backend) asKeeper(ctx context.Context, c call) (rawResponse, error) {
	return b.asSession(ctx, c, b.keeper, b.keeperLogin)
}

// asSession sends the request with the token of a shared session. A refusal leads to one new login.
func (b *Backend) asSession(
	ctx context.Context, c call, shared *cached[session], login func(context.Context) (session, time.Time, error),
) (rawResponse, error) {
	used, err := b.openSession(ctx, shared, login)
	if err != nil {
		return rawResponse{}, err
	}
	c.token = used.token
	r, err := b.do(ctx, c)
	if err != nil || r.status != http.StatusForbidden {
		return r, err
	}
	if shared.drop(ctx, used, minSessionAge) {
		b.closeSession(ctx, used)
	}
	fresh, err := b.openSession(ctx, shared, login)
	if err != nil {
		return rawResponse{}, err
	}
	if fresh == used {
		return r, nil
	}
	c.token = fresh.token
	return b.do(ctx, c)
}

// openSession returns the shared session, and closes the one that it replaces.
func (b *Backend) openSession(
	ctx context.Context, shared *cached[session], login func(context.Context) (session, time.Time, error),
) (session, error) {
	current, old, err := shared.get(ctx, login)
	if err == nil && old.token != "" && old.token != current.token {
		b.closeSession(ctx, old)
	}
	return current, err
}

// keeperLoginAgain drops a session that may be older than its role's policies, and reports whether it did.
func (b *Backend) keeperLoginAgain(ctx context.Context) bool {
	current, err := b.openSession(ctx, b.keeper, b.keeperLogin)
	if err != nil || !current.owned || !b.keeper.drop(ctx, current, policyMemory) {
		return false
	}
	b.closeSession(ctx, current)
	return true
}

// keeperLogin logs in with keeperAuth, or with auth if a SecretProvider has no keeperAuth.
func (b *Backend) keeperLogin(ctx context.Context) (session, time.Time, error) {
	method, err := auth.Keeper(b.spec, b.namespace)
	if err != nil {
		return session{}, time.Time{}, err
	}
	sent := b.clock.Now()
	token, err := method.Login(ctx, requester{b}, backend.Identity{})
	if err != nil {
		return session{}, time.Time{}, err
	}
	if token.Shared {
		// Read again once a minute, so that a token that was replaced is not used for long.
		return session{token: token.Value}, sent.Add(time.Minute), nil
	}
	// A batch token has no accessor and cannot be revoked.
	return session{token: token.Value, owned: token.Accessor != ""}, usableUntil(sent, token.TTL), nil
}

// usableUntil is when a session must be replaced; zero: never. The last tenth is left for requests in progress.
func usableUntil(sent time.Time, ttl time.Duration) time.Time {
	if ttl <= 0 {
		return time.Time{}
	}
	return sent.Add(ttl - max(ttl/10, min(ttl/2, 2*time.Second)))
}

// keeperName is the keeper in messages.
func (b *Backend) keeperName() string {
	method, err := auth.Keeper(b.spec, b.namespace)
	if err != nil {
		return "the keeper's token"
	}
	return method.String()
}

// keeperLine names a policy line that the keeper needs.
func keeperLine(path string) string { return fmt.Sprintf("\"update\" on %q", path) }

// keeperFault is the error of a refused or failed request of the keeper.
func (b *Backend) keeperFault(r rawResponse, what, path string) *backend.Error {
	return b.fault(r, what, b.keeperName(), keeperLine(path))
}
