package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

const (
	// maxSecrets bounds the cache of Secrets, and the refused logins that a provider remembers.
	maxSecrets = 1024
	// maxUnwrapped bounds the unwrapped values of a provider. It needs those of auth and of keeperAuth.
	maxUnwrapped = 16
)

// recent are the values that were used last. It drops the least recently used.
type recent[T any] struct {
	mu    sync.Mutex
	cache *lru.Cache
}

func newRecent[T any](size int) *recent[T] { return &recent[T]{cache: lru.New(size)} }

// get returns the value of a key; create makes one if there is none.
func (r *recent[T]) get(key string, create func() T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found, ok := r.cache.Get(key); ok {
		return found.(T)
	}
	created := create()
	r.cache.Add(key, created)
	return created
}

// unwrapped are the values that a provider has unwrapped, by the hash of their wrapping token. Vault returns each only
// once, so losing one costs a new wrapping token. No other provider may use them: a used wrapping token is no secret.
type unwrapped = recent[*cached[string]]

// authSecrets are the Secrets that auth methods log in with. Each is read at most once a minute, so that a thousand
// issuances do not read it a thousand times, and again after a refusal, so that a new password is used at once.
type authSecrets struct {
	clock   clock.PassiveClock
	kube    Kube
	entries *recent[*cached[*auth.Secret]]
}

func newAuthSecrets(c clock.PassiveClock, k Kube) *authSecrets {
	return &authSecrets{clock: c, kube: k, entries: newRecent[*cached[*auth.Secret]](maxSecrets)}
}

func (a *authSecrets) of(ref v1alpha1.SecretReference) *cached[*auth.Secret] {
	return a.entries.get(ref.Namespace+"/"+ref.Name, func() *cached[*auth.Secret] {
		return newCached[*auth.Secret](a.clock)
	})
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
	sum := sha256.Sum256([]byte(strings.Join(
		[]string{q.b.base.String(), q.b.spec.Namespace, field, wrappingToken}, "\x00")))
	known := q.b.unwrapped.get(hex.EncodeToString(sum[:]), func() *cached[string] {
		return newCached[string](q.b.clock)
	})
	value, _, err := known.get(ctx, func(ctx context.Context) (string, life, error) {
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
	case ok && clientError(r.status) && !a.unavailable():
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
	known *lru.Cache
}

func newRefusals(c clock.PassiveClock) refusals {
	return refusals{clock: c, known: lru.New(maxSecrets)}
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

// last is the last refusal of a login; nil: it was not refused.
func (f refusals) last(key string) *refusal {
	found, _ := f.known.Get(key)
	last, _ := found.(*refusal)
	return last
}

// check returns the error of the last refusal while the login must not be repeated.
func (f refusals) check(key string) error {
	if last := f.last(key); last != nil && f.clock.Now().Before(last.until) {
		return last.err
	}
	return nil
}

// note records the result of a login.
func (f refusals) note(key string, err error) {
	if err == nil {
		f.known.Remove(key)
		return
	}
	if backend.KindOf(err) != backend.LoginFailed {
		return
	}
	pause := firstRefusalPause
	if last := f.last(key); last != nil {
		pause = min(4*last.pause, lastRefusalPause)
	}
	f.known.Add(key, &refusal{err: err, until: f.clock.Now().Add(pause), pause: pause})
}
