package auth

import (
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// newLDAP logs in as a user of a directory. Vault binds to the directory as that user, and binds again with the same
// password whenever a token is extended.
func newLDAP(spec v1alpha1.VaultAuth, u use) (Method, error) {
	s := spec.LDAP
	if s == nil {
		return nil, nil
	}
	p := password{
		method: "ldap", mount: or(string(s.Mount), "ldap"), user: string(s.Username),
		secret: u.secretKey(s.SecretRef, "password"), use: u,
	}
	p.configured = fmt.Sprintf("auth/%s/config", p.mount)
	p.hint = fmt.Sprintf("url, userdn and userattr in %s", p.configured)
	p.causes = []Cause{{"LDAP Result Code 200", "Vault cannot reach the directory: check that it runs, and url in " +
		p.configured}}
	return p, nil
}
