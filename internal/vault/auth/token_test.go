package auth

import (
	"reflect"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestTokenSecret(t *testing.T) {
	ref := func(namespace, name, key string) v1alpha1.SecretKeyReference {
		return tokenAuth(namespace, name, key).Token.SecretRef
	}
	for _, c := range []struct {
		it        string
		spec      v1alpha1.VaultAuth
		namespace string // of a SecretProvider
		want      v1alpha1.SecretKeyReference
	}{
		{"as named", tokenAuth("system", "root", "key"), "", ref("system", "root", "key")},
		{"the default key", tokenAuth("system", "root", ""), "", ref("system", "root", "token")},
		{"the provider's namespace", tokenAuth("", "root", "token"), "shop", ref("shop", "root", "token")},
	} {
		t.Run(c.it, func(t *testing.T) {
			for use, m := range map[string]Method{
				"an issuer": issuerIn(t, c.spec, c.namespace), "a keeper": keeper(t, c.spec, c.namespace),
			} {
				f := &fakeRequester{}
				if _, err := m.Login(t.Context(), f, who); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(f.secrets, []v1alpha1.SecretKeyReference{c.want}) || len(f.accounts) > 0 {
					t.Errorf("%s read the Secrets %+v, want %+v", use, f.secrets, c.want)
				}
			}
		})
	}
}

func TestTokenIssuerCreatesAChildForEachIssuance(t *testing.T) {
	f := &fakeRequester{}
	got, err := issuer(t, tokenAuth("system", "root", "token")).Login(t.Context(), f, who)
	if err != nil {
		t.Fatal(err)
	}
	want := Request{
		Path: "auth/token/create", Token: "hvs.from-secret",
		Body: map[string]any{
			"display_name": "leasekeeper", "ttl": "1h",
			"meta": map[string]string{
				"leasekeeper_namespace": "shop", "leasekeeper_name": "orders-db", "leasekeeper_uid": "owner-uid",
			},
		},
		Action: "creating a child of the token in the Secret",
		Hint:   "the token must be valid, and its policy must have `auth/token/create: update`",
	}
	if !reflect.DeepEqual(f.logins, []Request{want}) {
		t.Errorf("sent %+v\nwant %+v", f.logins, want)
	}
	// It is revoked after the issuance, so it must not be the shared one.
	wantToken := Token{Value: "hvs.new", Accessor: "acc", ConfiguredAt: "the token in the Secret"}
	if got != wantToken {
		t.Errorf("token %+v, want the child %+v", got, wantToken)
	}
}

func TestTokenKeeperUsesTheTokenItself(t *testing.T) {
	f := &fakeRequester{}
	got, err := keeper(t, tokenAuth("system", "root", "token"), "").Login(t.Context(), f, backend.Identity{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Token{Value: "hvs.from-secret", Shared: true}); got != want {
		t.Errorf("token %+v, want %+v, which is not revoked", got, want)
	}
	if len(f.logins) > 0 {
		t.Errorf("sent %+v: a keeper needs no child", f.logins)
	}
}

func TestTokenLoginErrors(t *testing.T) {
	missing := backend.Errorf(backend.Misconfigured, `the provider names Secret "root", which does not exist`)
	unusable := backend.Errorf(backend.Misconfigured, `Secret "root" has no usable token at key "token"`)
	refused := backend.Errorf(backend.LoginFailed, "Vault refused")
	for _, c := range []struct {
		it, because string
		requester   fakeRequester
		kind        backend.ErrorKind
		message     string
		logins      int
	}{
		{"the Secret does not exist", "Vault gets no request without a token", fakeRequester{secretErr: missing},
			backend.Misconfigured, missing.Message, 0},
		{"the Secret has no usable token", "Vault gets no request without a token", fakeRequester{secretErr: unusable},
			backend.Misconfigured, unusable.Message, 0},
		{"Vault refuses the child", "only a person can change the policy", fakeRequester{loginErr: refused},
			backend.LoginFailed, refused.Message, 1},
	} {
		t.Run(c.it, func(t *testing.T) {
			token, err := issuer(t, tokenAuth("system", "root", "token")).Login(t.Context(), &c.requester, who)
			wantError(t, err, c.kind, c.message)
			if token.Value != "" || len(c.requester.logins) != c.logins {
				t.Errorf("because %s: a token: %t, %d logins, want %d",
					c.because, token.Value != "", len(c.requester.logins), c.logins)
			}
		})
	}
}

func TestTokenServiceAccount(t *testing.T) {
	got, err := issuer(t, tokenAuth("system", "root", "token")).ServiceAccount(who)
	if got != "" || err != nil {
		t.Errorf("got %q, %v: the ServiceAccount does not matter, so another one is no other request", got, err)
	}
}

func TestTokenOwns(t *testing.T) {
	of := func(uid string) map[string]string {
		return map[string]string{
			"leasekeeper_uid": uid, "leasekeeper_namespace": "shop", "leasekeeper_name": "orders-db",
		}
	}
	for _, c := range []struct {
		it, because string
		token       Description
		owner       backend.Owner
		owns        bool
	}{
		{"a child for the owner", "Login recorded the UID",
			Description{Path: "auth/token/create", Meta: of("owner-uid")}, owner, true},
		{"a child for a former object of the same name", "that one's records are not the owner's",
			Description{Path: "auth/token/create", Meta: of("former")}, owner, false},
		{"a token of another auth method", "Login creates children only",
			Description{Path: "auth/kubernetes/login", Meta: of("owner-uid")}, owner, false},
		{"an orphan token", "Login creates children only",
			Description{Path: "auth/token/create-orphan", Meta: of("owner-uid")}, owner, false},
		{"no metadata", "the token in the Secret itself has none",
			Description{Path: "auth/token/create"}, owner, false},
		{"an owner without a UID", "an empty UID must not match absent metadata",
			Description{Path: "auth/token/create"}, backend.Owner{Namespace: "shop", Name: "orders-db"}, false},
	} {
		t.Run(c.it, func(t *testing.T) {
			if got := issuer(t, tokenAuth("system", "root", "token")).Owns(c.token, c.owner); got != c.owns {
				t.Errorf("because %s: owns %t, want %t", c.because, got, c.owns)
			}
		})
	}
}
