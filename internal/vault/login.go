package vault

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// kubernetesMethod is a login by Vault's Kubernetes auth method.
type kubernetesMethod struct {
	mount, role string
	account     account
}

func (m kubernetesMethod) String() string {
	return fmt.Sprintf("role %q of auth/%s as ServiceAccount %s/%s", m.role, m.mount, m.account.namespace, m.account.name)
}

// secretKey is where a token is kept.
type secretKey struct{ namespace, name, key string }

func (b *Backend) keyOf(ref v1alpha1.SecretKeyReference) *secretKey {
	return &secretKey{namespace: or(ref.Namespace, b.namespace), name: ref.Name, key: or(ref.Key, "token")}
}

// workload is the login of a ServiceAccount by auth.kubernetes, which must be set.
func (b *Backend) workload(namespace, serviceAccount string) *kubernetesMethod {
	k := b.spec.Auth.Kubernetes
	m := &kubernetesMethod{mount: or(k.Mount, "kubernetes"), role: k.Role, account: account{namespace: namespace, name: serviceAccount}}
	if k.ServiceAccountRef != nil {
		m.account.audiences = k.ServiceAccountRef.Audiences
	}
	return m
}

// Login implements backend.Backend.
func (b *Backend) Login(ctx context.Context, who backend.Identity) (backend.Session, error) {
	sent := b.clock.Now()
	auth, hint, err := b.issuer(ctx, who)
	if err != nil {
		return backend.Session{}, err
	}
	if err := b.checkIssuer(ctx, auth, hint); err != nil {
		return backend.Session{}, err
	}
	session := backend.Session{
		Token: auth.ClientToken, Handle: auth.Accessor,
		Term: lease.Term{At: sent, Duration: seconds(auth.LeaseDuration), Renewable: auth.Renewable},
	}
	if session.Term.Duration > 0 && session.Term.Duration < who.MinTTL && session.Term.Renewable {
		b.extendSelf(ctx, &session, who.MinTTL)
	}
	return session, nil
}

// issuer gets a token for one issue. hint says where its role is set up.
func (b *Backend) issuer(ctx context.Context, who backend.Identity) (auth *authAnswer, hint string, err error) {
	switch {
	case b.spec.Auth.Token != nil:
		auth, err = b.childToken(ctx, who.Owner)
		return auth, "the token in the Secret", err
	case b.spec.Auth.Kubernetes == nil:
		return nil, "", backend.Errorf(backend.Misconfigured, "auth names no method")
	}
	k := b.spec.Auth.Kubernetes
	name := who.ServiceAccount
	if name == "" && k.ServiceAccountRef != nil {
		name = k.ServiceAccountRef.Name
	}
	if name == "" {
		return nil, "", backend.Errorf(backend.NoServiceAccount,
			"no ServiceAccount to log in as: set spec.serviceAccountName, or auth.kubernetes.serviceAccountRef on the provider")
	}
	m := b.workload(who.Namespace, name)
	auth, err = b.kubernetesLogin(ctx, *m, "login")
	return auth, fmt.Sprintf("auth/%s/role/%s", m.mount, m.role), err
}

// checkIssuer refuses tokens that cannot do: a batch token has no accessor, so nobody could end it, and a token with
// limited uses ends with its last use, and its leases with it.
func (b *Backend) checkIssuer(ctx context.Context, auth *authAnswer, hint string) error {
	if auth.Accessor == "" {
		// There is nothing to end: a batch token cannot be revoked.
		return backend.Errorf(backend.LoginFailed, "the login gave a batch token, which nobody can end: set token_type=service on %s", hint)
	}
	if uses := string(auth.NumUses); uses != "" && uses != "0" {
		fault := backend.Errorf(backend.LoginFailed, "the login gave a token with limited uses, whose leases end with its last use: set token_num_uses=0 on %s", hint)
		fault.Err = b.revokeSelf(ctx, auth.ClientToken)
		return fault
	}
	return nil
}

// kubernetesLogin logs in. A refused token of the ServiceAccount that came from the cache is asked for anew, once: its
// ServiceAccount may have been made again, and a login that was refused has made nothing.
func (b *Backend) kubernetesLogin(ctx context.Context, m kubernetesMethod, what string) (*authAnswer, error) {
	for {
		jwt, fromCache, err := b.accounts.token(ctx, m.account)
		if err != nil {
			return nil, err
		}
		r, err := b.do(ctx, call{
			method: http.MethodPost, path: "auth/" + m.mount + "/login", namespace: b.spec.Namespace,
			body: map[string]string{"role": m.role, "jwt": jwt},
		})
		if err != nil {
			return nil, err
		}
		refused := r.status == http.StatusBadRequest || r.status == http.StatusForbidden
		if refused && fromCache {
			b.accounts.drop(ctx, m.account, jwt)
			continue
		}
		return b.loginAnswer(r, what+" to "+m.String(),
			"look at the role's bound names, namespaces and audience, and that the mount exists", jwt)
	}
}

// loginAnswer reads the answer to a login.
func (b *Backend) loginAnswer(r reply, what, hint string, secrets ...string) (*authAnswer, error) {
	a, ok := r.parse()
	switch {
	case ok && (r.status == http.StatusBadRequest || r.status == http.StatusForbidden || r.status == http.StatusNotFound):
		return nil, backend.Errorf(backend.LoginFailed, "%s: Vault refuses it: %s; %s", what, a.quote(secrets...), hint)
	case !succeeded(r.status):
		return nil, b.fault(r, what, "", "", secrets...)
	case !ok:
		return nil, backend.Errorf(backend.InvalidResponse, "%s: %s answered what is no answer of Vault: is the address right?", what, r.address)
	case a.Auth == nil || a.Auth.ClientToken == "":
		return nil, backend.Errorf(backend.LoginFailed, "%s: Vault gave no token (does it ask for a second factor?)", what)
	}
	return a.Auth, nil
}

// childToken makes a token below the one in the Secret, so that ending it leaves that one alone.
func (b *Backend) childToken(ctx context.Context, owner backend.Owner) (*authAnswer, error) {
	token, err := b.secretToken(ctx, *b.keyOf(b.spec.Auth.Token.SecretRef))
	if err != nil {
		return nil, err
	}
	r, err := b.do(ctx, call{
		method: http.MethodPost, path: "auth/token/create", namespace: b.spec.Namespace, token: token,
		body: map[string]any{
			"display_name": "leasekeeper",
			// A child of a root token would never end, and one that is lost before it is journaled would stay for
			// ever. ExtendToken makes it longer.
			"ttl": "1h",
			"meta": map[string]string{
				metaNamespace: owner.Namespace, metaName: owner.Name, metaUID: owner.UID,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return b.loginAnswer(r, "making a child of the token in the Secret",
		"the token must be alive and its policy must have `auth/token/create: update`")
}

// What childToken writes into a token's metadata, and End reads.
const (
	metaNamespace = "leasekeeper_namespace"
	metaName      = "leasekeeper_name"
	metaUID       = "leasekeeper_uid"
)

func (b *Backend) secretToken(ctx context.Context, at secretKey) (string, error) {
	secret, err := b.kube.GetSecret(ctx, at.namespace, at.name)
	if err != nil {
		return "", readFault(err, "Secret", at.namespace, at.name)
	}
	token := trimToken(secret.Data[at.key])
	if token == "" {
		return "", backend.Errorf(backend.Misconfigured, "Secret %q in namespace %q has no usable token at key %q", at.name, at.namespace, at.key)
	}
	return token, nil
}

// extendSelf lengthens the session to ttl, as far as it goes; a session that cannot be stays as it is.
func (b *Backend) extendSelf(ctx context.Context, session *backend.Session, ttl time.Duration) {
	sent := b.clock.Now()
	r, err := b.do(ctx, call{
		method: http.MethodPost, path: "auth/token/renew-self", namespace: b.spec.Namespace, token: session.Token,
		body: map[string]int64{"increment": wholeSeconds(ttl)},
	})
	if err != nil || !succeeded(r.status) {
		return
	}
	a, ok := r.parse()
	if !ok || a.Auth == nil {
		return
	}
	session.Term = lease.Term{At: sent, Duration: seconds(a.Auth.LeaseDuration), Renewable: a.Auth.Renewable}
}

// trimToken takes off the line end that editors and `echo` put behind a token. A token with anything but printable
// ASCII in it would not make a header.
func trimToken(raw []byte) string {
	token := string(raw)
	for len(token) > 0 && (token[len(token)-1] == '\n' || token[len(token)-1] == '\r' || token[len(token)-1] == ' ') {
		token = token[:len(token)-1]
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return token
}
