package vault

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// minSessionAge is how old a keeper's session must be before a refusal leads to a new login: a policy that lacks a
// line refuses each request, and must not make each a login too.
const minSessionAge = time.Second

// policyMemory is how long a session stands for what its role's policies lack: a token keeps those that it was made with.
const policyMemory = 10 * time.Second

// keeperSession is the token that renews, looks up and ends. It owns nothing: its death costs nothing, and it is
// re-made at will.
type keeperSession struct {
	token string
	// ours: it came from a login and is ended when it is replaced. A token from a Secret is not.
	ours bool
}

// asKeeper sends the request with the keeper's token. A refusal leads to a fresh login before it is believed: the
// token may have been revoked or run out, or its role may have got another policy.
func (b *Backend) asKeeper(ctx context.Context, c call) (reply, error) {
	session, err := b.keeperSession(ctx)
	if err != nil {
		return reply{}, err
	}
	c.token = session.token
	r, err := b.do(ctx, c)
	if err != nil || r.status != http.StatusForbidden {
		return r, err
	}
	if b.keeper.drop(ctx, session, minSessionAge) {
		b.discard(ctx, session)
	}
	fresh, err := b.keeperSession(ctx)
	if err != nil {
		return reply{}, err
	}
	if fresh == session {
		return r, nil
	}
	c.token = fresh.token
	return b.do(ctx, c)
}

func (b *Backend) keeperSession(ctx context.Context) (keeperSession, error) {
	session, old, err := b.keeper.get(ctx, b.keeperLogin)
	if err == nil && old.token != "" && old.token != session.token {
		b.discard(ctx, old)
	}
	return session, err
}

// loginAnew drops a session that may be older than its role's policies, and says whether it did.
func (b *Backend) loginAnew(ctx context.Context) bool {
	session, err := b.keeperSession(ctx)
	if err != nil || !session.ours || !b.keeper.drop(ctx, session, policyMemory) {
		return false
	}
	b.discard(ctx, session)
	return true
}

// discard ends a session that nobody is to use any more, without insisting: it owns nothing and runs out by itself.
func (b *Backend) discard(ctx context.Context, session keeperSession) {
	if !session.ours {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, courtesy)
	defer cancel()
	_ = b.revokeSelf(ctx, session.token)
}

// keeperLogin logs in as keeperAuth says, or, where a SecretProvider has none, as auth does.
func (b *Backend) keeperLogin(ctx context.Context) (keeperSession, time.Time, error) {
	method, err := b.keeperMethod()
	if err != nil {
		return keeperSession{}, time.Time{}, err
	}
	if method.secret != nil {
		token, err := b.secretToken(ctx, *method.secret)
		// Read again once a minute, so that a token that was replaced is not used for long.
		return keeperSession{token: token}, b.clock.Now().Add(time.Minute), err
	}
	sent := b.clock.Now()
	auth, err := b.kubernetesLogin(ctx, *method.kubernetes, "the keeper's login")
	if err != nil {
		return keeperSession{}, time.Time{}, err
	}
	// A batch token has no accessor and cannot be ended.
	session := keeperSession{token: auth.ClientToken, ours: auth.Accessor != ""}
	var until time.Time
	if ttl := seconds(auth.LeaseDuration); ttl > 0 {
		// The last tenth is left for requests that are under way.
		until = sent.Add(ttl - max(ttl/10, min(ttl/2, 2*time.Second)))
	}
	return session, until, nil
}

// method is one way to log in; exactly one of the two is set.
type method struct {
	kubernetes *kubernetesMethod
	secret     *secretKey
}

func (b *Backend) keeperMethod() (method, error) {
	if keeper := b.spec.KeeperAuth; keeper != nil {
		switch {
		case keeper.Kubernetes != nil:
			k := keeper.Kubernetes
			return method{kubernetes: &kubernetesMethod{mount: or(k.Mount, "kubernetes"), role: k.Role, account: account{
				namespace: or(k.ServiceAccountRef.Namespace, b.namespace), name: k.ServiceAccountRef.Name, audiences: k.ServiceAccountRef.Audiences,
			}}}, nil
		case keeper.Token != nil:
			return method{secret: b.keyOf(keeper.Token.SecretRef)}, nil
		}
		return method{}, backend.Errorf(backend.Misconfigured, "keeperAuth names no method")
	}
	switch {
	case b.namespace == "":
		return method{}, backend.Errorf(backend.Misconfigured, "a ClusterSecretProvider needs keeperAuth")
	case b.spec.Auth.Token != nil:
		return method{secret: b.keyOf(b.spec.Auth.Token.SecretRef)}, nil
	case b.spec.Auth.Kubernetes == nil || b.spec.Auth.Kubernetes.ServiceAccountRef == nil:
		return method{}, backend.Errorf(backend.Misconfigured, "without keeperAuth, auth.kubernetes.serviceAccountRef is needed: it does the keeper's work")
	}
	return method{kubernetes: b.workload(b.namespace, b.spec.Auth.Kubernetes.ServiceAccountRef.Name)}, nil
}

// keeperName is how messages call the keeper.
func (b *Backend) keeperName() string {
	m, err := b.keeperMethod()
	if err != nil || m.kubernetes == nil {
		return "the keeper's token"
	}
	return fmt.Sprintf("role %q", m.kubernetes.role)
}

// keeperLine names a policy line that the keeper needs.
func keeperLine(path string) string { return fmt.Sprintf("\"update\" on %q", path) }
