package auth

import (
	"fmt"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// newUserPass logs in as a user that Vault itself stores.
func newUserPass(spec v1alpha1.VaultAuth, u use) (Method, error) {
	s := spec.UserPass
	if s == nil {
		return nil, nil
	}
	p := password{
		method: "userPass", mount: or(string(s.Mount), "userpass"), user: string(s.Username),
		secret: u.secretKey(s.SecretRef, "password"), use: u,
	}
	p.configured = fmt.Sprintf("auth/%s/users/%s", p.mount, p.user)
	p.hint = "that " + p.configured + " exists"
	return p, nil
}
