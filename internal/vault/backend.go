package vault

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// Backend is a Vault or OpenBao server as one provider uses it. It is safe for concurrent use.
type Backend struct {
	clock           clock.PassiveClock
	kube            Kube
	serviceAccounts *serviceAccountTokens
	secrets         *authSecrets
	unwrapped       *unwrapped
	sleep           func(context.Context, time.Duration) error
	timeout         time.Duration
	issueTimeout    time.Duration

	// namespace of a SecretProvider; empty for a ClusterSecretProvider.
	namespace  string
	generation int64
	spec       *v1alpha1.VaultProvider
	// base is the address. Its path is that of a gateway, without a slash at the end.
	base *url.URL
	// redirectHosts are the hosts that the server may redirect to, besides its own.
	redirectHosts Hosts
	// headers are added to every request.
	headers http.Header
	// dial and proxy are the way to the server, for logins with another certificate.
	dial  dialer
	proxy proxyFunc
	http  *http.Client
	// minting sends requests that mint.
	minting *http.Client
	// cloud are the clients for services that exchange tokens of ServiceAccounts for those of a cloud.
	cloud auth.HTTPClients
	// tls is the configuration of http and minting, for logins with another certificate.
	tls *tls.Config

	materialVersion string
	// materialReadAt is in nanoseconds since 1970; 0 after a TLS error.
	materialReadAt atomic.Int64

	breaker *breaker
	// scopes are the breakers of paths and roles that the server refuses while it serves others.
	scopes scopes
	// refusals are logins that must not be repeated soon.
	refusals refusals
	// keeper is the session for leasekeeper's own work.
	keeper *cached[session]
	// keeperToken is what the keeper's last login returned, without the secret; nil: none did.
	keeperToken atomic.Pointer[auth.Token]
	// readers are the sessions that read static responses again.
	readers *sessionCache
	// withoutNamespaces: the last inspection found a server that has no namespaces.
	withoutNamespaces atomic.Bool
	// standby: the node that responded to the last inspection was a standby.
	standby atomic.Bool
	// standbysRead: a standby of this server may serve reads itself, and lags behind the active node.
	standbysRead atomic.Bool
	// checkingHealth is true while a time-out is being investigated.
	checkingHealth atomic.Bool
	// redirects is true once a standby has redirected a request that mints.
	redirects atomic.Bool
}

var (
	_ backend.Backend   = (*Backend)(nil)
	_ backend.Reader    = (*Backend)(nil)
	_ backend.Lister    = (*Backend)(nil)
	_ backend.Inspector = (*Backend)(nil)

	_ backend.OutageReporter = (*Backend)(nil)
	_ backend.Preparer       = (*Backend)(nil)
)

func (b *Backend) address() string { return b.base.String() }

func (b *Backend) markMaterialRead(now time.Time) { b.materialReadAt.Store(now.UnixNano()) }

func (b *Backend) materialFresh(now time.Time) bool {
	return now.Sub(time.Unix(0, b.materialReadAt.Load())) < materialAge
}

// Close closes the sessions, as far as ctx permits. A caller that still uses this backend logs in again.
func (b *Backend) Close(ctx context.Context) error {
	defer b.http.CloseIdleConnections()
	keeper, ok, err := b.keeper.take(ctx)
	if err == nil && ok && keeper.owned {
		err = b.revokeSelf(ctx, keeper.token)
	}
	for _, reader := range b.readers.takeAll(ctx) {
		if closeErr := b.revokeSelf(ctx, reader.token); err == nil {
			err = closeErr
		}
	}
	return err
}

// cleanupTimeout bounds a best-effort cleanup that delays a caller.
const cleanupTimeout = 2 * time.Second

// retire closes the sessions on a best-effort basis: they own nothing and expire by themselves.
func (b *Backend) retire() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	_ = b.Close(ctx)
}

// closeSession revokes the token of a session on a best-effort basis: it owns nothing and expires by itself.
func (b *Backend) closeSession(ctx context.Context, s session) {
	if !s.owned {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_ = b.revokeSelf(ctx, s.token)
}

// revokeSelf revokes a token with itself, and with it whatever it owns.
func (b *Backend) revokeSelf(ctx context.Context, token string) error {
	return b.revokeSelfBy(ctx, call{}, token)
}

func (b *Backend) revokeSelfBy(ctx context.Context, c call, token string) error {
	c.method, c.path, c.token, c.namespace = http.MethodPost, "auth/token/revoke-self", token, b.spec.Namespace
	r, err := b.do(ctx, c)
	if err != nil {
		return err
	}
	// 403: the token no longer exists.
	if !succeeded(r.status) && r.status != http.StatusForbidden {
		return b.fault(r, "revoking a token with itself", "the token", "`auth/token/revoke-self: update`", token)
	}
	return nil
}
