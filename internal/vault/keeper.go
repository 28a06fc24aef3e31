package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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
	ctx context.Context, c call, shared *cached[session], login func(context.Context) (session, life, error),
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

// openSession returns the shared session, and closes the one that it replaces, unless that has expired.
func (b *Backend) openSession(
	ctx context.Context, shared *cached[session], login func(context.Context) (session, life, error),
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
func (b *Backend) keeperLogin(ctx context.Context) (session, life, error) {
	method, err := auth.Keeper(b.spec, b.namespace)
	if err != nil {
		return session{}, life{}, err
	}
	sent := b.clock.Now()
	token, err := method.Login(ctx, requester{b}, backend.Identity{})
	if err != nil {
		return session{}, life{}, err
	}
	known := token
	known.Value = ""
	b.keeperToken.Store(&known)
	if token.Shared {
		// Read again once a minute, so that a token that was replaced is not used for long.
		return session{token: token.Value}, life{until: sent.Add(time.Minute)}, nil
	}
	// A batch token has no accessor and cannot be revoked.
	return session{token: token.Value, owned: token.Accessor != ""}, lifeOf(sent, token.TTL, token.Renewable), nil
}

// keepSession extends a session that cannot be replaced because Vault grants no more logins now. A quota that stops new
// credentials must not stop the renewal of old ones.
func (b *Backend) keepSession(ctx context.Context, s session, failed error) (life, error) {
	kind := backend.KindOf(failed)
	if !s.owned || kind != backend.QuotaExceeded && kind != backend.Throttled {
		return life{}, failed
	}
	l, ok := b.renewSession(ctx, s, maxIncrement)
	if !ok {
		return life{}, failed
	}
	return l, nil
}

// renewSession extends a session. It needs neither a token of the ServiceAccount nor a login.
func (b *Backend) renewSession(ctx context.Context, s session, increment time.Duration) (l life, ok bool) {
	term, ok := b.renewSelf(ctx, s.token, increment)
	if !ok || term.Duration == 0 {
		return life{}, false
	}
	return lifeOf(term.At, term.Duration, term.Renewable), true
}

// lifeOf is the life of a session. It is replaced in the last tenth, which is left for requests in progress. Without a
// ttl it does not expire.
func lifeOf(sent time.Time, ttl time.Duration, renewable bool) life {
	if ttl <= 0 {
		return life{}
	}
	return life{
		until: sent.Add(ttl - max(ttl/10, min(ttl/2, 2*time.Second))), expires: sent.Add(ttl), granted: ttl,
		renewable: renewable,
	}
}

// checkKeeperToken checks the kind of token that the keeper got last. With limited uses it ends in the midst of work.
// The notes are about tokens that serve, but not always.
func (b *Backend) checkKeeperToken(ctx context.Context) (notes []string, err error) {
	token := b.keeperToken.Load()
	if token == nil {
		return nil, nil
	}
	t := *token
	if t.Shared {
		described, err := b.describeOwnToken(ctx, t)
		if err != nil {
			return nil, err
		}
		t = described
	}
	fix := func(setting string) string {
		if t.Shared {
			return "create one " + setting + " and store it in the Secret"
		}
		return "set " + setting + " on " + t.ConfiguredAt
	}
	switch {
	case t.LimitedUses && t.Shared:
		return nil, backend.Errorf(backend.LoginFailed, "%s has limited uses, so it ends in the midst of renewals: %s",
			b.keeperName(), fix("without -use-limit"))
	case t.LimitedUses:
		return nil, backend.Errorf(backend.LoginFailed, "the tokens of %s have limited uses, so they end in the midst "+
			"of renewals: %s", b.keeperName(), fix("token_num_uses=0"))
	case t.Accessor == "" && t.Shared:
		notes = append(notes, capitalized(b.keeperName())+" is a batch token, which cannot be renewed: "+
			fix("with -type=service")+".")
	case t.Accessor == "":
		notes = append(notes, "The tokens of "+b.keeperName()+" are batch tokens, which cannot be renewed while a "+
			"quota refuses logins, and which leasekeeper cannot revoke when it stops: "+fix("token_type=service")+".")
	case !t.Renewable && t.TTL > 0 && t.Shared:
		notes = append(notes, capitalized(b.keeperName())+" cannot be renewed. When it expires, leases expire, too: "+
			fix("with -period")+".")
	case !t.Renewable && t.TTL > 0:
		notes = append(notes, "The tokens of "+b.keeperName()+" cannot be renewed while a quota refuses logins: "+
			fix("token_type=service")+".")
	}
	return notes, nil
}

func capitalized(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// describeOwnToken completes what is known of a token from a Secret. It costs one request.
func (b *Backend) describeOwnToken(ctx context.Context, t auth.Token) (auth.Token, error) {
	const path = "auth/token/lookup-self"
	r, err := b.asKeeper(ctx, call{method: http.MethodGet, path: path, namespace: b.spec.Namespace})
	if err != nil {
		return t, err
	}
	a, _ := r.parse()
	var described struct {
		Type      string      `json:"type"`
		NumUses   json.Number `json:"num_uses"`
		TTL       json.Number `json:"ttl"`
		Renewable bool        `json:"renewable"`
		Accessor  string      `json:"accessor"`
	}
	if !succeeded(r.status) || json.Unmarshal(a.Data, &described) != nil {
		t.Accessor, t.Renewable = "unknown", true // the policy may not permit it; then nothing is reported
		return t, nil
	}
	t.LimitedUses = described.NumUses != "" && described.NumUses != "0"
	t.TTL, t.Renewable, t.Accessor = seconds(described.TTL), described.Renewable, described.Accessor
	if described.Type == "batch" {
		t.Accessor = ""
	}
	return t, nil
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
