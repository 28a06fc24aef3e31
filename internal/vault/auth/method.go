// Package auth implements the ways to log in to Vault and OpenBao, one file each.
//
// To add a method, add a field to v1alpha1.VaultAuth, a file with a constructor, and the constructor to the list below.
// The same methods log in for an issuance (auth) and for leasekeeper's own work (keeperAuth).
package auth

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Method is one way to log in.
type Method interface {
	// Login logs in. An issuer logs in as the identity for one issuance; a keeper ignores the identity.
	Login(ctx context.Context, r Requester, who backend.Identity) (Token, error)

	// Owns reports whether this method created the token for an object of the owner.
	Owns(t Description, owner backend.Owner) bool

	// ServiceAccount returns the name of the ServiceAccount that logs in as the identity; empty: the method uses none.
	// NoServiceAccount: it needs one, and nobody names one.
	ServiceAccount(who backend.Identity) (string, error)

	// String names the identity whose policies count, such as `role "app"`.
	String() string
}

// Requester does for a method what it needs from Vault and from the cluster. Its errors are *backend.Error.
type Requester interface {
	// Login sends a login request, at most once. LoginFailed: Vault refused it.
	Login(ctx context.Context, r Request) (Token, error)

	// SecretToken reads a token from a Secret.
	SecretToken(ctx context.Context, ref v1alpha1.SecretKeyReference) (string, error)

	// WithServiceAccountToken calls login with a token of the ServiceAccount. If login fails with LoginFailed and the
	// token came from the cache, it is called again with a new one: the ServiceAccount may have been created again.
	WithServiceAccountToken(
		ctx context.Context, sa ServiceAccount, login func(token string) (Token, error),
	) (Token, error)

	// WithSecret calls login with a Secret, which is kept for a minute. If login fails with LoginFailed and the Secret
	// has changed meanwhile, it is called again.
	WithSecret(
		ctx context.Context, ref v1alpha1.SecretReference, login func(Secret) (Token, error),
	) (Token, error)

	// Unwrap returns the field of the response that Vault keeps for a wrapping token. Vault returns it only once, so
	// it is kept in memory. LoginFailed: somebody has unwrapped it before, or it has expired.
	Unwrap(ctx context.Context, wrappingToken, field, hint string) (string, error)

	// HTTPClients are for requests to the services of a cloud.
	HTTPClients() HTTPClients
}

// Secret is what a method reads of a Secret.
type Secret struct {
	Namespace, Name string
	Data            map[string][]byte
}

// Text is the value of a key without the line end that editors and `echo` append. The field of the provider's spec is
// for messages.
func (s Secret) Text(key, field string) (string, error) {
	text := strings.TrimRight(string(s.Data[key]), "\r\n")
	if text == "" {
		return "", backend.Errorf(backend.Misconfigured,
			"%s: Secret %q in namespace %q has no value at key %q: add it, or set %s.key",
			field, s.Name, s.Namespace, key, field)
	}
	return text, nil
}

// Request is a login request.
type Request struct {
	// Path below /v1/.
	Path string
	// Role that the request logs in to; empty: none.
	Role string
	// Token that authenticates the request; empty: none.
	Token string
	// Body is sent as JSON.
	Body any
	// Action is what the request does, for messages.
	Action string
	// Hint is what the user can do if Vault refuses. Causes add hints for certain responses.
	Hint   string
	Causes []Cause
	// Secrets in the body. No message repeats them.
	Secrets []string
	// Certificate is presented in the TLS handshake; nil: that of the provider, if it has one. CertificateField is
	// where it is set, for messages.
	Certificate      *tls.Certificate
	CertificateField string
	// Locks: a user may be locked out after several refusals, so the same request is not repeated soon after one.
	Locks bool
}

// Cause is a hint for a refusal whose text contains Text.
type Cause struct{ Text, Hint string }

// ServiceAccount is a ServiceAccount and the audiences of its token.
type ServiceAccount struct {
	Namespace, Name string
	Audiences       []string
}

// Token is the result of a login.
type Token struct {
	// Value is the secret.
	Value string
	// Accessor names the token; empty for a batch token.
	Accessor string
	// TTL of the token; 0: it does not expire.
	TTL time.Duration
	// Renewable as Vault reports it.
	Renewable bool
	// LimitedUses is true for a token that serves only some requests.
	LimitedUses bool
	// Shared is true for a token that others use as well: it must not be revoked.
	Shared bool
	// ConfiguredAt is where the token's type and TTL are configured, for messages.
	ConfiguredAt string
}

// Description is what lookup-accessor returns about a token.
type Description struct {
	Path string            `json:"path"`
	Meta map[string]string `json:"meta"`
}

// use is what a method logs in for.
type use struct {
	// keeper is true for leasekeeper's own work.
	keeper bool
	// field of the provider's spec, for messages.
	field string
	// namespace of a SecretProvider; empty for a ClusterSecretProvider.
	namespace string
}

// borrowed: leasekeeper works with the identity of spec.vault.auth.
func (u use) borrowed() bool { return u.keeper && u.field == "auth" }

// action is what a login is for, for messages.
func (u use) action() string {
	switch {
	case u.borrowed():
		return "login of spec.vault.auth"
	case u.keeper:
		return "keeper login"
	}
	return "login"
}

// secretKey completes a reference to a key of a Secret.
func (u use) secretKey(ref v1alpha1.SecretKeyReference, key string) v1alpha1.SecretKeyReference {
	ref.SecretReference, ref.Key = u.secret(ref.SecretReference), or(ref.Key, key)
	return ref
}

// secret completes a reference to a Secret.
func (u use) secret(ref v1alpha1.SecretReference) v1alpha1.SecretReference {
	ref.Namespace = or(ref.Namespace, u.namespace)
	return ref
}

// constructors of the methods. Each returns nil if spec does not choose its method.
var constructors = []func(spec v1alpha1.VaultAuth, u use) (Method, error){
	newAppRole, newAWS, newAzure, newCert, newGCP, newJWT, newKubernetes, newLDAP, newToken, newUserPass,
}

// Issuer returns the method of spec.vault.auth. namespace is that of a SecretProvider.
func Issuer(spec *v1alpha1.VaultProvider, namespace string) (Method, error) {
	return choose(spec.Auth, use{field: "auth", namespace: namespace})
}

// Keeper returns the method of spec.vault.keeperAuth, or of auth if a SecretProvider has no keeperAuth.
func Keeper(spec *v1alpha1.VaultProvider, namespace string) (Method, error) {
	if spec.KeeperAuth != nil {
		return choose(*spec.KeeperAuth, use{keeper: true, field: "keeperAuth", namespace: namespace})
	}
	if namespace == "" {
		return nil, backend.Errorf(backend.Misconfigured, "a ClusterSecretProvider needs keeperAuth: set it")
	}
	return choose(spec.Auth, use{keeper: true, field: "auth", namespace: namespace})
}

func choose(spec v1alpha1.VaultAuth, u use) (Method, error) {
	for _, construct := range constructors {
		if m, err := construct(spec, u); m != nil || err != nil {
			return m, err
		}
	}
	return nil, backend.Errorf(backend.Misconfigured, "%[1]s names no method: set one, such as %[1]s.kubernetes",
		u.field)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
