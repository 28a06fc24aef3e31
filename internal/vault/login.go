package vault

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// Login implements backend.Backend.
func (b *Backend) Login(ctx context.Context, who backend.Identity) (backend.Session, error) {
	sent := b.clock.Now()
	issuer, err := auth.Issuer(b.spec, b.namespace)
	if err != nil {
		return backend.Session{}, err
	}
	token, err := issuer.Login(ctx, requester{b}, who)
	if err != nil {
		return backend.Session{}, err
	}
	if err := b.checkIssuingToken(ctx, token); err != nil {
		return backend.Session{}, err
	}
	s := backend.Session{
		Token: token.Value, Handle: token.Accessor,
		Term: lease.Term{At: sent, Duration: token.TTL, Renewable: token.Renewable},
	}
	if s.Term.Duration > 0 && s.Term.Duration < who.MinTTL && s.Term.Renewable {
		b.extendSelf(ctx, &s, who.MinTTL)
	}
	return s, nil
}

// checkIssuingToken rejects tokens that cannot own a lease safely. A batch token has no accessor, so nobody can revoke
// it. A token with limited uses expires with its last use, and its leases with it.
func (b *Backend) checkIssuingToken(ctx context.Context, token auth.Token) error {
	if token.Accessor == "" {
		return backend.Errorf(backend.LoginFailed,
			"the login returned a batch token, which cannot be revoked: set token_type=service on %s",
			token.ConfiguredAt)
	}
	if !token.LimitedUses {
		return nil
	}
	limited := backend.Errorf(backend.LoginFailed,
		"the login returned a token with limited uses, and its leases expire with its last use: "+
			"set token_num_uses=0 on %s",
		token.ConfiguredAt)
	limited.Err = b.revokeSelf(ctx, token.Value)
	return limited
}

// extendSelf extends the session to ttl, as far as Vault permits. If it cannot be extended, it stays as it is.
func (b *Backend) extendSelf(ctx context.Context, s *backend.Session, ttl time.Duration) {
	if term, ok := b.renewSelf(ctx, s.Token, ttl); ok {
		s.Term = term
	}
}

// renewSelf extends a token with itself.
func (b *Backend) renewSelf(ctx context.Context, token string, ttl time.Duration) (lease.Term, bool) {
	sent := b.clock.Now()
	r, err := b.do(ctx, call{
		method: http.MethodPost, path: "auth/token/renew-self", namespace: b.spec.Namespace, token: token,
		body: map[string]int64{"increment": wholeSeconds(ttl)},
	})
	if err != nil || !succeeded(r.status) {
		return lease.Term{}, false
	}
	a, ok := r.parse()
	if !ok || a.Auth == nil {
		return lease.Term{}, false
	}
	return lease.Term{At: sent, Duration: seconds(a.Auth.LeaseDuration), Renewable: a.Auth.Renewable}, true
}

// requester implements auth.Requester.
type requester struct{ b *Backend }

// Login implements auth.Requester.
func (q requester) Login(ctx context.Context, req auth.Request) (auth.Token, error) {
	if !req.Locks {
		return q.login(ctx, req)
	}
	key := keyOfLogin(req)
	if err := q.b.refusals.check(key); err != nil {
		return auth.Token{}, err
	}
	token, err := q.login(ctx, req)
	q.b.refusals.note(key, err)
	return token, err
}

func (q requester) login(ctx context.Context, req auth.Request) (auth.Token, error) {
	r, err := q.b.do(ctx, call{
		method: http.MethodPost, path: req.Path, namespace: q.b.spec.Namespace, token: req.Token, body: req.Body,
		role: req.Role, certificate: req.Certificate, certificateField: req.CertificateField,
	})
	if err != nil {
		return auth.Token{}, err
	}
	a, ok := r.parse()
	// Versions differ in the status of a login while a directory is down.
	failed := clientError(r.status) || r.status == http.StatusInternalServerError
	switch {
	case ok && failed && !a.outage() && a.unquoted().says(engineDown):
		down := backend.Errorf(backend.Failed, "%s: Vault cannot check the login now: %s",
			req.Action, a.errorText(req.Secrets...))
		if because := causeOf(req, a); because != "" {
			down.Message += "; " + because
		}
		return auth.Token{}, down
	case ok && clientError(r.status) && !a.outage():
		return auth.Token{}, backend.Errorf(backend.LoginFailed, "%s: Vault refused: %s; %s",
			req.Action, a.errorText(req.Secrets...), hint(req, a))
	case !succeeded(r.status):
		return auth.Token{}, q.b.fault(r, req.Action, "", "", req.Secrets...)
	case !ok:
		return auth.Token{}, unusable(r, req.Action)
	case a.Auth == nil || a.Auth.ClientToken == "":
		return auth.Token{}, backend.Errorf(backend.LoginFailed,
			"%s: Vault returned no token: leasekeeper cannot provide a second factor, so exempt the role from MFA",
			req.Action)
	}
	uses := string(a.Auth.NumUses)
	return auth.Token{
		Value: a.Auth.ClientToken, Accessor: a.Auth.Accessor,
		TTL: seconds(a.Auth.LeaseDuration), Renewable: a.Auth.Renewable,
		LimitedUses: uses != "" && uses != "0",
	}, nil
}

// hint is what the user can do about a refused login.
func hint(req auth.Request, a response) string {
	if because := causeOf(req, a); because != "" {
		return req.Hint + "; " + because
	}
	return req.Hint
}

// causeOf is the hint for the texts of the response; empty: there is none.
func causeOf(req auth.Request, a response) string {
	text := strings.Join(a.errorTexts(), "; ")
	for _, cause := range req.Causes {
		if strings.Contains(text, cause.Text) {
			return cause.Hint
		}
	}
	return ""
}

// WithServiceAccountToken implements auth.Requester.
func (q requester) WithServiceAccountToken(
	ctx context.Context, sa auth.ServiceAccount, login func(token string) (auth.Token, error),
) (auth.Token, error) {
	if err := within(q.b.namespace, sa.Namespace, "ServiceAccount", sa.Name); err != nil {
		return auth.Token{}, err
	}
	for {
		jwt, fromCache, err := q.b.serviceAccounts.token(ctx, sa)
		if err != nil {
			return auth.Token{}, err
		}
		token, err := login(jwt)
		if err == nil || !fromCache || backend.KindOf(err) != backend.LoginFailed {
			return token, err
		}
		q.b.serviceAccounts.drop(ctx, sa, jwt)
	}
}

// SecretToken implements auth.Requester.
func (q requester) SecretToken(ctx context.Context, ref v1alpha1.SecretKeyReference) (string, error) {
	secret, err := q.b.kube.GetSecret(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return "", readError(err, "Secret", ref.Namespace, ref.Name)
	}
	token := trimToken(secret.Data[ref.Key])
	if token == "" {
		return "", backend.Errorf(backend.Misconfigured,
			"Secret %q in namespace %q has no usable token at key %q: set it",
			ref.Name, ref.Namespace, ref.Key)
	}
	return token, nil
}

// trimToken removes the line end that editors and `echo` append to a token. A token with anything but printable ASCII
// cannot be sent in a header.
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
