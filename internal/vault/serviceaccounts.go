package vault

import (
	"context"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

const (
	// accountTokenSeconds is the requested lifetime: the shortest that the API server grants.
	accountTokenSeconds = 600
	// maxAccountTokens bounds the cache; beyond it, unused entries are removed.
	maxAccountTokens = 1024
)

// serviceAccountTokens requests tokens of ServiceAccounts and keeps them until shortly before they expire. Objects that
// log in as the same ServiceAccount share one; concurrent requests share one request. After a restart, each is
// requested again.
type serviceAccountTokens struct {
	clock clock.PassiveClock
	kube  Kube

	mu     sync.Mutex
	tokens map[string]*accountEntry
}

type accountEntry struct {
	*cached[string]
	usedAt time.Time
}

func newServiceAccountTokens(c clock.PassiveClock, k Kube) *serviceAccountTokens {
	return &serviceAccountTokens{clock: c, kube: k, tokens: map[string]*accountEntry{}}
}

// token returns a token of the ServiceAccount, and whether it came from the cache.
func (t *serviceAccountTokens) token(
	ctx context.Context, sa auth.ServiceAccount,
) (token string, fromCache bool, err error) {
	fromCache = true
	token, _, err = t.entry(sa).get(ctx, func(ctx context.Context) (string, life, error) {
		fromCache = false
		sent := t.clock.Now()
		token, lifetime, err := t.kube.RequestToken(ctx, sa.Namespace, sa.Name, sa.Audiences, accountTokenSeconds)
		if err != nil {
			return "", life{}, tokenError(err, sa.Namespace, sa.Name)
		}
		// Vault presents the token to the API server: leave a fifth of its life for that.
		return token, life{until: sent.Add(lifetime - lifetime/5)}, nil
	})
	return token, fromCache, err
}

// drop forgets a token that Vault refused. Its ServiceAccount may have been deleted and created again.
func (t *serviceAccountTokens) drop(ctx context.Context, sa auth.ServiceAccount, token string) {
	t.entry(sa).drop(ctx, token, 0)
}

func (t *serviceAccountTokens) entry(sa auth.ServiceAccount) *cached[string] {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, now := sa.Namespace+"/"+sa.Name+"/"+strings.Join(sa.Audiences, "\x00"), t.clock.Now()
	if entry, ok := t.tokens[key]; ok {
		entry.usedAt = now
		return entry.cached
	}
	if len(t.tokens) >= maxAccountTokens {
		t.removeUnused(now)
	}
	entry := &accountEntry{cached: newCached[string](t.clock), usedAt: now}
	t.tokens[key] = entry
	return entry.cached
}

// removeUnused removes what was not used during the life of a token.
func (t *serviceAccountTokens) removeUnused(now time.Time) {
	for key, entry := range t.tokens {
		if now.Sub(entry.usedAt) > accountTokenSeconds*time.Second {
			delete(t.tokens, key)
		}
	}
}
