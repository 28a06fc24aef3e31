package auth

import (
	"context"
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// appRole logs in with a role id and a secret id.
type appRole struct {
	mount, roleID string
	secret        v1alpha1.SecretKeyReference
	// wrapped: the Secret contains a wrapping token.
	wrapped bool
	use
}

func newAppRole(spec v1alpha1.VaultAuth, u use) (Method, error) {
	a := spec.AppRole
	if a == nil {
		return nil, nil
	}
	return appRole{
		mount: or(string(a.Mount), "approle"), roleID: a.RoleID, secret: u.secretKey(a.SecretRef, "secretId"),
		wrapped: a.Wrapped, use: u,
	}, nil
}

// String implements Method.
func (a appRole) String() string { return fmt.Sprintf("the AppRole with role id %q", a.roleID) }

// ServiceAccount implements Method.
func (appRole) ServiceAccount(backend.Identity) (string, error) { return "", nil }

// Login implements Method.
func (a appRole) Login(ctx context.Context, r Requester, _ backend.Identity) (Token, error) {
	token, err := r.WithSecret(ctx, a.secret.SecretReference, func(s Secret) (Token, error) {
		secretID, err := s.Text(a.secret.Key, a.field+".appRole.secretRef")
		if err == nil && a.wrapped {
			secretID, err = r.Unwrap(ctx, secretID, "secret_id", a.renew(s))
		}
		if err != nil {
			return Token{}, err
		}
		return r.Login(ctx, Request{
			Path:    "auth/" + a.mount + "/login",
			Role:    a.roleID,
			Body:    map[string]string{"role_id": a.roleID, "secret_id": secretID},
			Action:  fmt.Sprintf("%s to the AppRole with role id %q of auth/%s", a.action(), a.roleID, a.mount),
			Hint:    "check " + a.field + ".appRole.roleID and the bound CIDRs of the role and the secret id",
			Causes:  a.causes(s),
			Secrets: []string{secretID},
			Locks:   true,
		})
	})
	token.ConfiguredAt = fmt.Sprintf("the role with role id %q of auth/%s", a.roleID, a.mount)
	return token, err
}

// causes of refusals. Vault has one text for an unknown role id and for a secret id that it does not accept (any more).
func (a appRole) causes(s Secret) []Cause {
	used := "or the secret id is used up (secret_id_num_uses), has expired (secret_id_ttl) or is destroyed: " +
		a.renew(s)
	return []Cause{{"invalid role or secret ID", used}, {"invalid secret", used}, {"invalid role", used},
		{"permission denied", "or no auth method is mounted there, or Vault has locked the role after some refusals"}}
}

// renew is how to replace the secret id.
func (a appRole) renew(s Secret) string {
	what := "a new secret id"
	if a.wrapped {
		what = "a new wrapping token (vault write -wrap-ttl=1h -f auth/" + a.mount + "/role/NAME/secret-id)"
	}
	return fmt.Sprintf("store %s in key %q of Secret %s/%s", what, a.secret.Key, s.Namespace, s.Name)
}

// Owns implements Method. Vault records only the role, which all objects share, so the ledger's seal must prove it.
func (a appRole) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+a.mount+"/login" && owner.Proven
}
