package vault

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"context"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Backend is a Vault or OpenBao server as one provider sees it. It is safe for concurrent use.
type Backend struct {
	clock        clock.PassiveClock
	kube         Kube
	accounts     *accounts
	sleep        func(context.Context, time.Duration) error
	timeout      time.Duration
	issueTimeout time.Duration

	// namespace of a SecretProvider; empty for a ClusterSecretProvider.
	namespace  string
	generation int64
	spec       *v1alpha1.VaultProvider
	base       *url.URL
	http       *http.Client
	// minting is for requests that mint.
	minting *http.Client

	materialVersion string
	// materialReadAt is in nanoseconds since 1970; 0 after an error of TLS.
	materialReadAt atomic.Int64

	gate   *gate
	keeper *cached[keeperSession]
	// redirects is true once a standby has answered a request that mints with a redirect.
	redirects atomic.Bool
}

var _ backend.Backend = (*Backend)(nil)

func (b *Backend) address() string { return b.base.Scheme + "://" + b.base.Host }

func (b *Backend) materialSeen(now time.Time) { b.materialReadAt.Store(now.UnixNano()) }

func (b *Backend) materialFresh(now time.Time) bool {
	return now.Sub(time.Unix(0, b.materialReadAt.Load())) < materialAge
}

// Close ends the keeper's session. Who still uses this backend logs in anew.
func (b *Backend) Close(ctx context.Context) error {
	defer b.http.CloseIdleConnections()
	session, ok, err := b.keeper.take(ctx)
	if err != nil || !ok || !session.ours {
		return err
	}
	return b.revokeSelf(ctx, session.token)
}

// courtesy bounds what is done for order's sake, while somebody waits.
const courtesy = 2 * time.Second

// retire is Close without insisting: the session owns nothing and runs out by itself.
func (b *Backend) retire() {
	ctx, cancel := context.WithTimeout(context.Background(), courtesy)
	defer cancel()
	_ = b.Close(ctx)
}

// revokeSelf ends a token that this package made and that owns nothing, or nothing that is wanted.
func (b *Backend) revokeSelf(ctx context.Context, token string) error {
	r, err := b.do(ctx, call{method: http.MethodPost, path: "auth/token/revoke-self", token: token, namespace: b.spec.Namespace})
	if err != nil {
		return err
	}
	// 403: the token is no more.
	if !succeeded(r.status) && r.status != http.StatusForbidden {
		return b.fault(r, "ending a token by itself", "the token", "`auth/token/revoke-self: update`", token)
	}
	return nil
}
