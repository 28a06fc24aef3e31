package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// maxSecrets bounds the cache of Secrets and that of unwrapped values.
const maxSecrets = 1024

// authSecrets are the Secrets that auth methods log in with. Each is read at most once a minute, so that a thousand
// issuances do not read it a thousand times, and again after a refusal, so that a new password is used at once.
type authSecrets struct {
	clock clock.PassiveClock
	kube  Kube

	mu      sync.Mutex
	entries map[string]*cached[*auth.Secret]
	// unwrapped values by the hash of their wrapping token. Vault returns each only once, so losing one costs a new
	// wrapping token.
	unwrapped map[string]*cached[string]
}

func newAuthSecrets(c clock.PassiveClock, k Kube) *authSecrets {
	return &authSecrets{clock: c, kube: k,
		entries: map[string]*cached[*auth.Secret]{}, unwrapped: map[string]*cached[string]{}}
}

// entry returns the entry of a map with the key. A full map is emptied first.
func entry[T comparable](a *authSecrets, entries map[string]*cached[T], key string) *cached[T] {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := entries[key]; found != nil {
		return found
	}
	if len(entries) >= maxSecrets {
		clear(entries)
	}
	entries[key] = newCached[T](a.clock)
	return entries[key]
}

func (a *authSecrets) of(ref v1alpha1.SecretReference) *cached[*auth.Secret] {
	return entry(a, a.entries, ref.Namespace+"/"+ref.Name)
}

// read returns the Secret, and whether it came from the cache.
func (a *authSecrets) read(
	ctx context.Context, ref v1alpha1.SecretReference,
) (secret *auth.Secret, fromCache bool, err error) {
	fromCache = true
	secret, _, err = a.of(ref).get(ctx, func(ctx context.Context) (*auth.Secret, life, error) {
		fromCache = false
		object, err := a.kube.GetSecret(ctx, ref.Namespace, ref.Name)
		if err != nil {
			return nil, life{}, readError(err, "Secret", ref.Namespace, ref.Name)
		}
		read := &auth.Secret{Namespace: ref.Namespace, Name: ref.Name, Data: object.Data}
		return read, life{until: a.clock.Now().Add(materialAge)}, nil
	})
	return secret, fromCache, err
}

// WithSecret implements auth.Requester.
func (q requester) WithSecret(
	ctx context.Context, ref v1alpha1.SecretReference, login func(auth.Secret) (auth.Token, error),
) (auth.Token, error) {
	// The cache is that of all providers, so confine does not apply to it.
	if err := within(q.b.namespace, ref.Namespace, "Secret", ref.Name); err != nil {
		return auth.Token{}, err
	}
	for {
		secret, fromCache, err := q.b.secrets.read(ctx, ref)
		if err != nil {
			return auth.Token{}, err
		}
		token, err := login(*secret)
		if err == nil || !fromCache || !mayBeOutdated(err) {
			return token, err
		}
		q.b.secrets.of(ref).drop(ctx, secret, 0)
	}
}

// mayBeOutdated says that another version of a Secret may have a value that is missing or was refused.
func mayBeOutdated(err error) bool {
	switch backend.KindOf(err) {
	case backend.LoginFailed, backend.Misconfigured, backend.TLS:
		return true
	}
	return false
}

// Unwrap implements auth.Requester.
func (q requester) Unwrap(ctx context.Context, wrappingToken, field, hint string) (string, error) {
	sum := sha256.Sum256([]byte(q.b.base.String() + "\x00" + field + "\x00" + wrappingToken))
	value, _, err := entry(q.b.secrets, q.b.secrets.unwrapped, hex.EncodeToString(sum[:])).get(ctx,
		func(ctx context.Context) (string, life, error) {
			value, err := q.b.unwrap(ctx, wrappingToken, field, hint)
			return value, life{}, err
		})
	return value, err
}

// HTTPClients implements auth.Requester.
func (q requester) HTTPClients() auth.HTTPClients { return q.b.cloud }

// unwrap requests what Vault keeps for a wrapping token. If the response is lost, so is the value.
func (b *Backend) unwrap(ctx context.Context, wrappingToken, field, hint string) (string, error) {
	const what = "unwrapping the response of a wrapping token"
	r, err := b.do(ctx, call{method: http.MethodPost, path: "sys/wrapping/unwrap", token: wrappingToken,
		namespace: b.spec.Namespace})
	if err != nil {
		return "", err
	}
	a, ok := r.parse()
	var value string
	switch {
	case ok && clientError(r.status):
		return "", backend.Errorf(backend.LoginFailed, "%s: Vault refused: %s; the token has expired, or was used "+
			"before, perhaps by leasekeeper before a restart: %s", what, a.errorText(wrappingToken), hint)
	case !succeeded(r.status):
		return "", b.fault(r, what, "", "", wrappingToken)
	case !ok || readString(object(a.Data)[field], &value) != nil || value == "":
		return "", backend.Errorf(backend.LoginFailed, "%s: the response has no %s: %s", what, field, hint)
	}
	return value, nil
}

// refusals remembers refused logins of users that may be locked out. With pauses of 1, 4 and 16 minutes, the fifth
// refusal within 15 minutes, which makes Vault lock the user, does not happen. Another password, and another spec of
// the provider, is tried at once.
type refusals struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	known map[string]refusal
}

type refusal struct {
	err   error
	until time.Time
	pause time.Duration
}

const (
	firstRefusalPause = time.Minute
	lastRefusalPause  = 16 * time.Minute
)

// keyOfLogin is the same for the same login with the same password.
func keyOfLogin(req auth.Request) string {
	body, _ := json.Marshal(req.Body)
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%s %x", req.Path, sum)
}

// check returns the error of the last refusal while the login must not be repeated.
func (f *refusals) check(key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, ok := f.known[key]; ok && f.clock.Now().Before(last.until) {
		return last.err
	}
	return nil
}

// note records the result of a login.
func (f *refusals) note(key string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.known, key)
		return
	}
	if backend.KindOf(err) != backend.LoginFailed {
		return
	}
	if f.known == nil || len(f.known) >= maxSecrets {
		f.known = map[string]refusal{}
	}
	pause := firstRefusalPause
	if last, ok := f.known[key]; ok {
		pause = min(4*last.pause, lastRefusalPause)
	}
	f.known[key] = refusal{err: err, until: f.clock.Now().Add(pause), pause: pause}
}
