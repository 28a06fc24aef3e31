package auth

import (
	"context"
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// kubernetes logs in with a token of a ServiceAccount, by Vault's Kubernetes auth method.
type kubernetes struct {
	mount, role string
	account     account
	use
}

func newKubernetes(spec v1alpha1.VaultAuth, u use) (Method, error) {
	k := spec.Kubernetes
	if k == nil {
		return nil, nil
	}
	account, err := u.accountOf("kubernetes", k.ServiceAccountRef)
	if err != nil {
		return nil, err
	}
	return kubernetes{mount: or(string(k.Mount), "kubernetes"), role: k.Role, account: account, use: u}, nil
}

// String implements Method.
func (k kubernetes) String() string { return fmt.Sprintf("role %q", k.role) }

// ServiceAccount implements Method.
func (k kubernetes) ServiceAccount(who backend.Identity) (string, error) { return k.account.name(who) }

// Login implements Method.
func (k kubernetes) Login(ctx context.Context, r Requester, who backend.Identity) (Token, error) {
	account, err := k.account.of(who)
	if err != nil {
		return Token{}, err
	}
	token, err := r.WithServiceAccountToken(ctx, account, func(jwt string) (Token, error) {
		return r.Login(ctx, Request{
			Path: "auth/" + k.mount + "/login",
			Role: k.role,
			Body: map[string]string{"role": k.role, "jwt": jwt},
			Action: fmt.Sprintf("%s to role %q of auth/%s as ServiceAccount %s/%s",
				k.action(), k.role, k.mount, account.Namespace, account.Name),
			Hint:    "check the role's bound names, namespaces and audience, and that the auth method is mounted there",
			Causes:  k.causes(account.Audiences),
			Secrets: []string{jwt},
		})
	})
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", k.mount, k.role)
	return token, err
}

// causes of refusals that Vault's text does not explain (path_login.go of vault-plugin-auth-kubernetes). A review of
// the token that fails is a plain "permission denied".
func (k kubernetes) causes(audiences []string) []Cause {
	field := k.field + ".kubernetes.serviceAccountRef.audiences"
	review := fmt.Sprintf("if they are correct, the API server did not review the token for Vault: "+
		"check kubernetes_host in auth/%s/config, and that its token_reviewer_jwt is valid; without one, Vault "+
		"presents the token itself, which the API server rejects for its audiences %q", k.mount, audiences)
	return []Cause{
		{"audience", fmt.Sprintf("the token has the audiences %q of %s: set it to the audience of the role",
			audiences, field)},
		{"permission denied", review},
	}
}

// Owns implements Method. Vault records the namespace of the ServiceAccount that logged in.
func (k kubernetes) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+k.mount+"/login" &&
		owner.Namespace != "" && t.Meta[metaAccountNamespace] == owner.Namespace
}
