package auth

import (
	"context"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// The metadata of the tokens that Login creates. Owns reads it.
const (
	metaNamespace = "leasekeeper_namespace"
	metaName      = "leasekeeper_name"
	metaUID       = "leasekeeper_uid"
)

// sharedToken uses a token from a Secret. A keeper uses it directly; an issuer creates a child of it for each
// issuance, so that the child can be revoked alone.
type sharedToken struct {
	secret v1alpha1.SecretKeyReference
	use
}

func newToken(spec v1alpha1.VaultAuth, u use) (Method, error) {
	if spec.Token == nil {
		return nil, nil
	}
	return sharedToken{secret: u.secretKey(spec.Token.SecretRef, "token"), use: u}, nil
}

// String implements Method.
func (t sharedToken) String() string {
	switch {
	case t.borrowed():
		return "the token of spec.vault.auth"
	case t.keeper:
		return "the keeper's token"
	}
	return "the token in the Secret"
}

// ServiceAccount implements Method.
func (sharedToken) ServiceAccount(backend.Identity) (string, error) { return "", nil }

// Login implements Method.
func (t sharedToken) Login(ctx context.Context, r Requester, who backend.Identity) (Token, error) {
	value, err := r.SecretToken(ctx, t.secret)
	if err != nil {
		return Token{}, err
	}
	if t.keeper {
		return Token{Value: value, Shared: true}, nil
	}
	child, err := r.Login(ctx, Request{
		Path:  "auth/token/create",
		Token: value,
		Body: map[string]any{
			"display_name": "leasekeeper",
			// A child of a root token would never expire: one that is lost before it is journaled would stay forever.
			// ExtendSession makes it longer.
			"ttl": "1h",
			"meta": map[string]string{
				metaNamespace: who.Owner.Namespace, metaName: who.Owner.Name, metaUID: who.Owner.UID,
			},
		},
		Action: "creating a child of the token in the Secret",
		Hint:   "the token must be valid, and its policy must have `auth/token/create: update`",
	})
	child.ConfiguredAt = t.String()
	return child, err
}

// Owns implements Method.
func (sharedToken) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/token/create" && owner.UID != "" && t.Meta[metaUID] == owner.UID
}
