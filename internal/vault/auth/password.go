package auth

import (
	"context"
	"fmt"
	"strings"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// password logs in as a user with a password from a Secret. The methods userPass and ldap differ in who knows the user.
type password struct {
	// method is the name of the field of the spec.
	method, mount, user string
	secret              v1alpha1.SecretKeyReference
	// configured is where the type and the TTL of its tokens are set.
	configured string
	hint       string
	causes     []Cause
	use
}

// String implements Method.
func (p password) String() string { return fmt.Sprintf("user %q of auth/%s", p.user, p.mount) }

// ServiceAccount implements Method.
func (password) ServiceAccount(backend.Identity) (string, error) { return "", nil }

// Login implements Method.
func (p password) Login(ctx context.Context, r Requester, _ backend.Identity) (Token, error) {
	token, err := r.WithSecret(ctx, p.secret.SecretReference, func(s Secret) (Token, error) {
		value, err := s.Text(p.secret.Key, fmt.Sprintf("%s.%s.secretRef", p.field, p.method))
		if err != nil {
			return Token{}, err
		}
		return r.Login(ctx, Request{
			Path:   "auth/" + p.mount + "/login/" + p.user,
			Body:   map[string]string{"password": value},
			Action: fmt.Sprintf("%s as user %q of auth/%s", p.action(), p.user, p.mount),
			Hint:   fmt.Sprintf("check the password in Secret %s/%s, and %s", s.Namespace, s.Name, p.hint),
			Causes: append([]Cause{{"permission denied", "or Vault has locked the user after some wrong passwords, " +
				"for 15 minutes; or no auth method is mounted there"}}, p.causes...),
			Secrets: []string{value},
			Locks:   true,
		})
	})
	token.ConfiguredAt = p.configured
	return token, err
}

// Owns implements Method. Vault records only the user, which all objects share, so the ledger's seal must prove it.
func (p password) Owns(t Description, owner backend.Owner) bool {
	return strings.HasPrefix(t.Path, "auth/"+p.mount+"/login/") && owner.Proven
}
