package auth

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const refusedHint = "check the role's bound names, namespaces and audience, and that the auth method is mounted there"

func TestKubernetesLoginRequest(t *testing.T) {
	shared := &v1alpha1.ServiceAccountReference{Name: "shared", Audiences: audiences}
	system := &v1alpha1.ServiceAccountReference{Name: "leasekeeper", Namespace: "system", Audiences: audiences}
	local := &v1alpha1.ServiceAccountReference{Name: "keeper", Audiences: audiences}
	mounted := kubernetesAuth(nil)
	mounted.Kubernetes.Mount, mounted.Kubernetes.Role = "clusters/blue", "orders"
	unmounted := kubernetesAuth(nil)
	unmounted.Kubernetes.Mount = ""
	unnamed := backend.Identity{Namespace: "shop"}
	orders := ServiceAccount{Namespace: "shop", Name: "orders", Audiences: audiences}
	for _, c := range []struct {
		it, because  string
		method       Method
		who          backend.Identity
		account      ServiceAccount
		path, role   string
		action       string
		configuredAt string
	}{{
		it: "uses the object's ServiceAccount", because: "the workload requests its own credential",
		method: issuer(t, kubernetesAuth(nil)), who: who, account: orders,
		path: "auth/kubernetes/login", role: "app",
		action:       `login to role "app" of auth/kubernetes as ServiceAccount shop/orders`,
		configuredAt: "auth/kubernetes/role/app",
	}, {
		it: "prefers it to the provider's", because: "the provider's is the default",
		method: issuer(t, kubernetesAuth(shared)), who: who,
		account: orders,
		path:    "auth/kubernetes/login", role: "app",
		action:       `login to role "app" of auth/kubernetes as ServiceAccount shop/orders`,
		configuredAt: "auth/kubernetes/role/app",
	}, {
		it: "falls back to the provider's ServiceAccount", because: "the object names none",
		method: issuer(t, kubernetesAuth(shared)), who: unnamed,
		account: ServiceAccount{Namespace: "shop", Name: "shared", Audiences: audiences},
		path:    "auth/kubernetes/login", role: "app",
		action:       `login to role "app" of auth/kubernetes as ServiceAccount shop/shared`,
		configuredAt: "auth/kubernetes/role/app",
	}, {
		it: "uses the mount and the role of the spec", because: "each cluster may have its own mount",
		method: issuer(t, mounted), who: who, account: orders,
		path: "auth/clusters/blue/login", role: "orders",
		action:       `login to role "orders" of auth/clusters/blue as ServiceAccount shop/orders`,
		configuredAt: "auth/clusters/blue/role/orders",
	}, {
		it: "uses Vault's default mount", because: "the spec names none",
		method: issuer(t, unmounted), who: who, account: orders,
		path: "auth/kubernetes/login", role: "app",
		action:       `login to role "app" of auth/kubernetes as ServiceAccount shop/orders`,
		configuredAt: "auth/kubernetes/role/app",
	}, {
		it: "uses the keeper's own ServiceAccount", because: "a keeper ignores the identity of an object",
		method: keeper(t, kubernetesAuth(system), ""), who: who,
		account: ServiceAccount{Namespace: "system", Name: "leasekeeper", Audiences: audiences},
		path:    "auth/kubernetes/login", role: "app",
		action:       `keeper login to role "app" of auth/kubernetes as ServiceAccount system/leasekeeper`,
		configuredAt: "auth/kubernetes/role/app",
	}, {
		it: "takes a keeper of the provider's namespace", because: "a SecretProvider's ServiceAccount is beside it",
		method:  keeper(t, kubernetesAuth(local), "shop"),
		account: ServiceAccount{Namespace: "shop", Name: "keeper", Audiences: audiences},
		path:    "auth/kubernetes/login", role: "app",
		action:       `keeper login to role "app" of auth/kubernetes as ServiceAccount shop/keeper`,
		configuredAt: "auth/kubernetes/role/app",
	}} {
		t.Run(c.it, func(t *testing.T) {
			f := &fakeRequester{}
			token, err := c.method.Login(t.Context(), f, c.who)
			if err != nil {
				t.Fatal(err)
			}
			jwt := "jwt-" + c.account.Namespace + "-" + c.account.Name
			want := Request{
				Path: c.path, Role: c.role, Body: map[string]string{"role": c.role, "jwt": jwt},
				Action: c.action, Hint: refusedHint, Secrets: []string{jwt},
			}
			for i := range f.logins {
				f.logins[i].Causes = nil // see TestCausesNameTheField
			}
			if !reflect.DeepEqual(f.logins, []Request{want}) {
				t.Errorf("because %s:\n got %+v\nwant %+v", c.because, f.logins, want)
			}
			if !reflect.DeepEqual(f.accounts, []ServiceAccount{c.account}) || len(f.secrets) > 0 {
				t.Errorf("because %s: used the tokens of %+v and the Secrets %v, want the token of %+v",
					c.because, f.accounts, f.secrets, c.account)
			}
			wantToken := Token{Value: "hvs.new", Accessor: "acc", ConfiguredAt: c.configuredAt}
			if token != wantToken {
				t.Errorf("because %s: token %+v, want %+v", c.because, token, wantToken)
			}
		})
	}
}

func TestCausesNameTheField(t *testing.T) {
	with := kubernetesAuth(&v1alpha1.ServiceAccountReference{Name: "a", Namespace: "b", Audiences: audiences})
	for _, c := range []struct {
		it     string
		method Method
		text   string
		want   []string
	}{
		{"a wrong audience", issuer(t, with), "audience",
			[]string{`["vault"]`, "auth.kubernetes.serviceAccountRef.audiences"}},
		{"a keeper's wrong audience", keeper(t, with, ""), "audience",
			[]string{`["vault"]`, "keeperAuth.kubernetes.serviceAccountRef.audiences"}},
		{"a review that failed", issuer(t, with), "permission denied",
			[]string{"token_reviewer_jwt", `rejects for its audiences ["vault"]`, "auth/kubernetes/config"}},
	} {
		t.Run(c.it, func(t *testing.T) {
			f := &fakeRequester{}
			if _, err := c.method.Login(t.Context(), f, who); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(f.logins[0].Causes, func(cause Cause) bool { return cause.Text == c.text })
			for _, part := range c.want {
				if i < 0 || !strings.Contains(f.logins[0].Causes[i].Hint, part) {
					t.Errorf("%q is not in %+v", part, f.logins[0].Causes)
				}
			}
		})
	}
}

func TestALoginOfTheProvidersAuthIsNamedSo(t *testing.T) {
	f := &fakeRequester{}
	account := &v1alpha1.ServiceAccountReference{Name: "a", Audiences: audiences}
	m, err := Keeper(&v1alpha1.VaultProvider{Auth: kubernetesAuth(account)}, "shop")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = m.Login(t.Context(), f, who)
	if got := f.logins[0].Action; !strings.HasPrefix(got, `login of spec.vault.auth to role "app"`) {
		t.Errorf("the action is %q", got)
	}
	m, err = Keeper(&v1alpha1.VaultProvider{Auth: tokenAuth("", "root", "")}, "shop")
	if err != nil || m.String() != "the token of spec.vault.auth" {
		t.Errorf("the name is %v, %v", m, err)
	}
}

const noAccount = "no ServiceAccount to log in as: " +
	"set spec.serviceAccountName, or auth.kubernetes.serviceAccountRef.name on the provider"

func TestKubernetesLoginErrors(t *testing.T) {
	missing := backend.Errorf(backend.NoServiceAccount, `ServiceAccount "orders" does not exist`)
	refused := backend.Errorf(backend.LoginFailed, "Vault refused")
	unnamed := backend.Identity{Namespace: "shop"}
	for _, c := range []struct {
		it, because      string
		who              backend.Identity
		requester        fakeRequester
		kind             backend.ErrorKind
		message          string
		accounts, logins int
	}{
		{"no ServiceAccount is named", "there is nothing to request", unnamed, fakeRequester{},
			backend.NoServiceAccount, noAccount, 0, 0},
		{"the ServiceAccount does not exist", "Vault gets no request without a token", who,
			fakeRequester{accountErr: missing}, backend.NoServiceAccount, missing.Message, 1, 0},
		{"Vault refuses the login", "the requester decides on a second attempt", who,
			fakeRequester{loginErr: refused}, backend.LoginFailed, refused.Message, 1, 1},
	} {
		t.Run(c.it, func(t *testing.T) {
			token, err := issuer(t, kubernetesAuth(nil)).Login(t.Context(), &c.requester, c.who)
			wantError(t, err, c.kind, c.message)
			if token.Value != "" {
				t.Errorf("because %s: there is a token", c.because)
			}
			if a, l := len(c.requester.accounts), len(c.requester.logins); a != c.accounts || l != c.logins {
				t.Errorf("because %s: %d ServiceAccounts and %d logins, want %d and %d",
					c.because, a, l, c.accounts, c.logins)
			}
		})
	}
}

// Vault could use a token for the API server to act as the ServiceAccount in the cluster.
func TestALoginWithoutAudiencesIsNotSent(t *testing.T) {
	ref := &v1alpha1.ServiceAccountReference{Name: "a", Namespace: "system"}
	byKubernetes := kubernetesAuth(ref)
	byJWT := v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{Role: "app", ServiceAccountRef: ref}}
	for field, m := range map[string]Method{
		"auth.kubernetes": issuer(t, byKubernetes), "keeperAuth.kubernetes": keeper(t, byKubernetes, ""),
		"auth.jwt": issuer(t, byJWT), "keeperAuth.jwt": keeper(t, byJWT, ""),
	} {
		f := &fakeRequester{}
		_, err := m.Login(t.Context(), f, who)
		field += ".serviceAccountRef.audiences"
		wantError(t, err, backend.Misconfigured, "set "+field+", such as [vault]: "+
			"without audiences the token is valid at the API server, so Vault could act as the ServiceAccount")
		if len(f.accounts)+len(f.logins) > 0 {
			t.Errorf("%s: tokens of %v were requested, %d logins sent", field, f.accounts, len(f.logins))
		}
	}
}

func TestKubernetesServiceAccount(t *testing.T) {
	shared := &v1alpha1.ServiceAccountReference{Name: "shared", Audiences: audiences}
	for _, c := range []struct {
		it      string
		ref     *v1alpha1.ServiceAccountReference
		account string
		want    string // empty: an error
	}{
		{"the object's", nil, "orders", "orders"},
		{"the object's before the provider's", shared, "orders", "orders"},
		{"the provider's", shared, "", "shared"},
		{"none", nil, "", ""},
	} {
		t.Run(c.it, func(t *testing.T) {
			got, err := issuer(t, kubernetesAuth(c.ref)).ServiceAccount(backend.Identity{ServiceAccount: c.account})
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.want == "" {
				wantError(t, err, backend.NoServiceAccount, noAccount)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKubernetesOwns(t *testing.T) {
	of := func(namespace string) map[string]string {
		return map[string]string{"service_account_namespace": namespace, "service_account_name": "orders"}
	}
	for _, c := range []struct {
		it, because string
		token       Description
		owner       backend.Owner
		owns        bool
	}{
		{"a login of the owner's namespace", "every ServiceAccount of a namespace is the namespace's",
			Description{Path: "auth/kubernetes/login", Meta: of("shop")}, owner, true},
		{"a login of another namespace", "an object must not revoke another tenant's token",
			Description{Path: "auth/kubernetes/login", Meta: of("bank")}, owner, false},
		{"a login at another mount", "another cluster may have a namespace of the same name",
			Description{Path: "auth/clusters/blue/login", Meta: of("shop")}, owner, false},
		{"a path that only starts alike", "the path must match entirely",
			Description{Path: "auth/kubernetes/login/x", Meta: of("shop")}, owner, false},
		{"a token that was not logged in", "anyone with a token can choose its metadata",
			Description{Path: "auth/token/create", Meta: of("shop")}, owner, false},
		{"no metadata", "nothing shows whose it is", Description{Path: "auth/kubernetes/login"}, owner, false},
		{"an owner without a namespace", "an empty namespace must not match absent metadata",
			Description{Path: "auth/kubernetes/login"}, backend.Owner{UID: "owner-uid"}, false},
	} {
		t.Run(c.it, func(t *testing.T) {
			if got := issuer(t, kubernetesAuth(nil)).Owns(c.token, c.owner); got != c.owns {
				t.Errorf("because %s: owns %t, want %t", c.because, got, c.owns)
			}
		})
	}
}
