package auth

import (
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// account is the ServiceAccount that a provider names. A keeper's is complete; an issuer's has no namespace, and
// perhaps no name.
type account struct {
	ServiceAccount
	// field of the provider's spec that names it, such as auth.jwt.serviceAccountRef.
	field  string
	keeper bool
}

// accountOf reads the ServiceAccount of a method.
func (u use) accountOf(method string, ref *v1alpha1.ServiceAccountReference) (account, error) {
	a := account{field: fmt.Sprintf("%s.%s.serviceAccountRef", u.field, method), keeper: u.keeper}
	if ref != nil {
		a.ServiceAccount = ServiceAccount{Name: ref.Name, Audiences: ref.Audiences}
	}
	switch {
	case u.keeper && a.Name == "":
		return a, backend.Errorf(backend.Misconfigured,
			"set %s.name: leasekeeper logs in with it to renew and revoke leases", a.field)
	case u.keeper:
		a.Namespace = or(ref.Namespace, u.namespace)
	}
	return a, nil
}

// federatedAccountOf is accountOf for a cloud that exchanges the token, and that expects the audience.
func (u use) federatedAccountOf(
	method string, ref *v1alpha1.FederatedAccountReference, audience string,
) (account, error) {
	a, err := u.accountOf(method, (*v1alpha1.ServiceAccountReference)(ref))
	if len(a.Audiences) == 0 {
		a.Audiences = []string{audience}
	}
	return a, err
}

// name of the ServiceAccount that logs in as the identity.
func (a account) name(who backend.Identity) (string, error) {
	name := or(who.ServiceAccount, a.Name)
	if name == "" {
		return "", backend.Errorf(backend.NoServiceAccount, "no ServiceAccount to log in as: "+
			"set spec.serviceAccountName, or %s.name on the provider", a.field)
	}
	return name, nil
}

// of is the ServiceAccount that logs in as the identity; a keeper's is always its own. The CRD requires audiences, too:
// a token without any is for the API server.
func (a account) of(who backend.Identity) (ServiceAccount, error) {
	if len(a.Audiences) == 0 {
		return ServiceAccount{}, backend.Errorf(backend.Misconfigured,
			"set %s.audiences, such as [vault]: without audiences the token is valid at the API server, "+
				"so Vault could act as the ServiceAccount", a.field)
	}
	if a.keeper {
		return a.ServiceAccount, nil
	}
	name, err := a.name(who)
	return ServiceAccount{Namespace: who.Namespace, Name: name, Audiences: a.Audiences}, err
}
