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
	// account that the provider names. A keeper's is complete; an issuer's has no namespace, and perhaps no name.
	account ServiceAccount
	keeper  bool
}

func newKubernetes(spec v1alpha1.VaultAuth, u use) (Method, error) {
	k := spec.Kubernetes
	if k == nil {
		return nil, nil
	}
	m := kubernetes{mount: or(k.Mount, "kubernetes"), role: k.Role, keeper: u.keeper}
	if ref := k.ServiceAccountRef; ref != nil {
		m.account = ServiceAccount{Name: ref.Name, Audiences: ref.Audiences}
	}
	if !u.keeper {
		return m, nil
	}
	if k.ServiceAccountRef == nil {
		return nil, backend.Errorf(backend.Misconfigured,
			"set %s.kubernetes.serviceAccountRef: leasekeeper logs in with it to renew and revoke leases", u.field)
	}
	m.account.Namespace = or(k.ServiceAccountRef.Namespace, u.namespace)
	return m, nil
}

// String implements Method.
func (k kubernetes) String() string { return fmt.Sprintf("role %q", k.role) }

// ServiceAccount implements Method.
func (k kubernetes) ServiceAccount(who backend.Identity) (string, error) {
	name := or(who.ServiceAccount, k.account.Name)
	if name == "" {
		return "", backend.Errorf(backend.NoServiceAccount, "no ServiceAccount to log in as: "+
			"set spec.serviceAccountName, or auth.kubernetes.serviceAccountRef on the provider")
	}
	return name, nil
}

// Login implements Method.
func (k kubernetes) Login(ctx context.Context, r Requester, who backend.Identity) (Token, error) {
	account, action := k.account, "keeper login"
	if !k.keeper {
		name, err := k.ServiceAccount(who)
		if err != nil {
			return Token{}, err
		}
		account.Namespace, account.Name, action = who.Namespace, name, "login"
	}
	token, err := r.WithServiceAccountToken(ctx, account, func(jwt string) (Token, error) {
		return r.Login(ctx, Request{
			Path: "auth/" + k.mount + "/login",
			Body: map[string]string{"role": k.role, "jwt": jwt},
			Action: fmt.Sprintf("%s to role %q of auth/%s as ServiceAccount %s/%s",
				action, k.role, k.mount, account.Namespace, account.Name),
			Hint:    "check the role's bound names, namespaces and audience, and that the auth method is mounted there",
			Secrets: []string{jwt},
		})
	})
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", k.mount, k.role)
	return token, err
}

// Owns implements Method. Vault records the namespace of the ServiceAccount that logged in.
func (k kubernetes) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+k.mount+"/login" &&
		owner.Namespace != "" && t.Meta["service_account_namespace"] == owner.Namespace
}
