package vault

import (
	"context"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// accountTokenSeconds is what is asked for: the least that the API server gives.
	accountTokenSeconds = 600
	// maxAccountTokens bounds the cache; beyond it stale entries are swept out.
	maxAccountTokens = 1024
)

// accounts asks for tokens of ServiceAccounts and keeps them until shortly before they expire. Objects that log in as
// the same ServiceAccount share one, and those that ask at the same time share one request.
type accounts struct {
	clock clock.PassiveClock
	kube  Kube

	mu     sync.Mutex
	tokens map[string]*accountEntry
}

type accountEntry struct {
	*cached[string]
	usedAt time.Time
}

// account names a ServiceAccount and for whom its token is meant.
type account struct {
	namespace, name string
	audiences       []string
}

func (a account) key() string {
	return a.namespace + "/" + a.name + "/" + strings.Join(a.audiences, "\x00")
}

func newAccounts(c clock.PassiveClock, k Kube) *accounts {
	return &accounts{clock: c, kube: k, tokens: map[string]*accountEntry{}}
}

// token returns a token of the ServiceAccount, and whether it came from the cache.
func (a *accounts) token(ctx context.Context, who account) (jwt string, fromCache bool, err error) {
	fromCache = true
	jwt, _, err = a.entry(who).get(ctx, func(ctx context.Context) (string, time.Time, error) {
		fromCache = false
		sent := a.clock.Now()
		jwt, lifetime, err := a.kube.RequestToken(ctx, who.namespace, who.name, who.audiences, accountTokenSeconds)
		if err != nil {
			return "", time.Time{}, tokenFault(err, who.namespace, who.name)
		}
		// Vault still has to present it to the API server: leave a fifth of its life for that.
		return jwt, sent.Add(lifetime - lifetime/5), nil
	})
	return jwt, fromCache, err
}

// drop forgets a token that was refused. Its ServiceAccount may have been deleted and made again.
func (a *accounts) drop(ctx context.Context, who account, jwt string) { a.entry(who).drop(ctx, jwt, 0) }

func (a *accounts) entry(who account) *cached[string] {
	a.mu.Lock()
	defer a.mu.Unlock()
	key, now := who.key(), a.clock.Now()
	if entry, ok := a.tokens[key]; ok {
		entry.usedAt = now
		return entry.cached
	}
	if len(a.tokens) >= maxAccountTokens {
		a.sweep(now)
	}
	entry := &accountEntry{cached: newCached[string](a.clock), usedAt: now}
	a.tokens[key] = entry
	return entry.cached
}

// sweep drops what nobody asked for during a token's life.
func (a *accounts) sweep(now time.Time) {
	for key, entry := range a.tokens {
		if now.Sub(entry.usedAt) > accountTokenSeconds*time.Second {
			delete(a.tokens, key)
		}
	}
}
