package auth

import (
	"context"
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// metaAccountNamespace is the metadata key with the namespace of the ServiceAccount that logged in. Vault's Kubernetes
// method always sets it; a role of the JWT method does so with claim_mappings.
const metaAccountNamespace = "service_account_namespace"

// jwt logs in with a JWT that Vault verifies itself: a token of a ServiceAccount, or one from a Secret.
type jwt struct {
	mount, role string
	account     account
	// secret contains the JWT; nil: it is a token of the account.
	secret *v1alpha1.SecretKeyReference
	use
}

func newJWT(spec v1alpha1.VaultAuth, u use) (Method, error) {
	j := spec.JWT
	if j == nil {
		return nil, nil
	}
	m := jwt{mount: or(string(j.Mount), "jwt"), role: j.Role, use: u}
	if j.SecretRef != nil {
		m.secret = new(u.secretKey(*j.SecretRef, "jwt"))
		return m, nil
	}
	var err error
	if m.account, err = u.accountOf("jwt", j.ServiceAccountRef); err != nil {
		return nil, err
	}
	return m, nil
}

// String implements Method.
func (j jwt) String() string { return fmt.Sprintf("role %q", j.role) }

// ServiceAccount implements Method.
func (j jwt) ServiceAccount(who backend.Identity) (string, error) {
	if j.secret != nil {
		return "", nil
	}
	return j.account.name(who)
}

// Login implements Method.
func (j jwt) Login(ctx context.Context, r Requester, who backend.Identity) (token Token, err error) {
	if j.secret != nil {
		at := fmt.Sprintf("%s to role %q of auth/%s with the JWT in Secret %s/%s",
			j.action(), j.role, j.mount, j.secret.Namespace, j.secret.Name)
		token, err = r.WithSecret(ctx, j.secret.SecretReference, func(s Secret) (Token, error) {
			value, err := s.Text(j.secret.Key, j.field+".jwt.secretRef")
			if err != nil {
				return Token{}, err
			}
			return j.login(ctx, r, value, at, "Secret "+j.secret.Namespace+"/"+j.secret.Name)
		})
	} else {
		var account ServiceAccount
		if account, err = j.account.of(who); err != nil {
			return Token{}, err
		}
		at := fmt.Sprintf("%s to role %q of auth/%s as ServiceAccount %s/%s",
			j.action(), j.role, j.mount, account.Namespace, account.Name)
		token, err = r.WithServiceAccountToken(ctx, account, func(value string) (Token, error) {
			return j.login(ctx, r, value, at, j.field+".jwt.serviceAccountRef.audiences")
		})
	}
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", j.mount, j.role)
	return token, err
}

// login sends the JWT. audiences is where those of the JWT are set, for messages.
func (j jwt) login(ctx context.Context, r Requester, value, action, audiences string) (Token, error) {
	config := fmt.Sprintf("auth/%s/config", j.mount)
	replace := "replace the JWT in " + audiences
	return r.Login(ctx, Request{
		Path:   "auth/" + j.mount + "/login",
		Role:   j.role,
		Body:   map[string]string{"role": j.role, "jwt": value},
		Action: action,
		Hint: "check the role's bound_subject, bound_claims and bound_audiences, and that the auth method is mounted " +
			"there",
		Causes: []Cause{
			{"malformed", "it is not a JWT: " + replace},
			{"audience", "one of the role's bound_audiences must be in " + audiences},
			{"signature", "Vault does not know the key that signed the JWT: check jwks_url, oidc_discovery_url or " +
				"jwt_validation_pubkeys in " + config},
			{"fetching", "Vault cannot fetch the keys: check jwks_url or oidc_discovery_url in " + config +
				", and their CA; or set jwt_validation_pubkeys"},
			{"issuer", "bound_issuer in " + config + " must be the issuer of the JWT"},
			{"expired", replace},
			{"role_type", "set role_type=jwt on the role"},
		},
		Secrets: []string{value},
	})
}

// Owns implements Method. With claim_mappings on the role, Vault records the namespace of the ServiceAccount.
func (j jwt) Owns(t Description, owner backend.Owner) bool {
	if t.Path != "auth/"+j.mount+"/login" {
		return false
	}
	if namespace := t.Meta[metaAccountNamespace]; j.secret == nil && namespace != "" {
		return namespace == owner.Namespace
	}
	return owner.Proven
}
