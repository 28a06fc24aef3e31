package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

func loginResponse(accessor string, ttl, uses int) says {
	return ok(fmt.Sprintf(`{"request_id":"1","auth":{"client_token":"hvs.new-token","accessor":%q,`+
		`"lease_duration":%d,"renewable":true,"num_uses":%d}}`, accessor, ttl, uses))
}

func TestALoginOpensASessionForOneIssuance(t *testing.T) {
	f := newFixture(t)
	f.server.always("auth/kubernetes/login", loginResponse("acc", 3600, 0))
	got, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	want := backend.Session{
		Token: "hvs.new-token", Handle: "acc", Term: lease.Term{At: epoch, Duration: time.Hour, Renewable: true},
	}
	if got != want {
		t.Errorf("the session is not as granted: accessor %q, TTL %s, at %s",
			got.Handle, got.Term.Duration, got.Term.At)
	}
	sent := f.server.requests("auth/kubernetes/login")[0]
	if sent.body["role"] != "app" || sent.body["jwt"] != "jwt-shop-orders-1" || sent.token != "" {
		t.Errorf("sent role %v and the token of another ServiceAccount", sent.body["role"])
	}
}

func TestUnsuitableTokensAreRejected(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		text   string
		ended  int
	}{
		"a batch token has no accessor":        {loginResponse("", 3600, 0), "token_type=service", 0},
		"a token with limited uses is revoked": {loginResponse("acc", 3600, 3), "token_num_uses=0", 1},
		"a response without a token": {
			ok(`{"request_id":"1","auth":{"mfa_requirement":{}}}`), "second factor", 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("auth/kubernetes/login", test.answer)
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, backend.LoginFailed)
			wantText(t, err, test.text)
			if n := len(f.server.requests("auth/token/revoke-self")); n != test.ended {
				t.Errorf("%d tokens were revoked, want %d", n, test.ended)
			}
		})
	}
}

func TestAShortSessionIsExtendedOnce(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		want   time.Duration
	}{
		"as far as needed":                {loginResponse("acc", 120, 0), 2 * time.Minute},
		"up to the maximum":               {loginResponse("acc", 60, 0), time.Minute},
		"what cannot be extended remains": {errs(403, "permission denied"), 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("auth/kubernetes/login", loginResponse("acc", 30, 0))
			f.server.always("auth/token/renew-self", test.answer)
			w := who
			w.MinTTL = 2 * time.Minute
			got, err := f.Login(t.Context(), w)
			wantKind(t, err, "")
			if got.Term.Duration != test.want || len(f.server.requests("auth/token/renew-self")) != 1 {
				t.Errorf("TTL %s, want %s, from one request", got.Term.Duration, test.want)
			}
		})
	}
}

func TestAFailedLoginNamesTheIdentityAndCause(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
	}{
		"refused":             {errs(403, "permission denied"), backend.LoginFailed},
		"an unknown role":     {errs(400, `invalid role name "app"`), backend.LoginFailed},
		"an error of Vault's": {errs(500, "internal error"), backend.Failed},
		"sealed":              {errs(503, "Vault is sealed"), backend.Unavailable},
		"a gateway":           {says{status: 502, body: "<html>"}, backend.NoResponse},
		"another server":      {ok("<html>"), backend.InvalidResponse},
		"a broken connection": {says{hangUp: true}, backend.NoResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("auth/kubernetes/login", test.answer)
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, test.kind)
			if test.kind == backend.LoginFailed {
				wantText(t, err, `role "app"`, "auth/kubernetes", "shop/orders")
			}
			if strings.Contains(err.Error(), "jwt-") {
				t.Error("the error has the ServiceAccount's token in it")
			}
		})
	}
}

// The text is that of a real Vault, which responds 500; others respond 400. See TestADirectoryThatIsDownIsAnOutage.
func TestAnOutageBehindVaultIsNoWrongPassword(t *testing.T) {
	const down = `LDAP Result Code 200 "Network Error": dial tcp 10.0.0.7:389: connect: connection refused`
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.Auth = v1alpha1.VaultAuth{
			LDAP: &v1alpha1.VaultLDAPAuth{Username: "connect", SecretRef: loginRef},
		}
	})
	f.put("password", "right")
	const path = "auth/ldap/login/connect"
	f.server.inTurn(path, errs(400, down), errs(500, down), loginResponse("acc", 3600, 0))
	for range 2 {
		_, err := f.Login(t.Context(), who)
		wantKind(t, err, backend.Failed)
		wantText(t, err, "Vault cannot check the login now", "check that it runs, and url in auth/ldap/config")
		if strings.Contains(err.Error(), "password") {
			t.Errorf("got %q, and the password is not wrong", err)
		}
	}
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	// A name may contain anything.
	f.server.always(path, errs(400, `user "connect" has no password "reset"`))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
}

func TestACachedTokenThatIsRefusedIsReplacedOnce(t *testing.T) {
	f := newFixture(t)
	if _, err := f.Login(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	f.server.inTurn("auth/kubernetes/login", errs(403, "permission denied"), loginResponse("acc", 60, 0))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	f.server.always("auth/kubernetes/login", errs(403, "permission denied"))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
	if n := len(f.server.requests("auth/kubernetes/login")); n != 1+2+2 {
		t.Errorf("%d logins, want 5", n)
	}
	if n := f.kube.tokensRequested(); n != 3 {
		t.Errorf("%d tokens of the ServiceAccount were requested, want 3", n)
	}
}

func TestAServiceAccountTokenIsShared(t *testing.T) {
	f := newFixture(t)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if _, err := f.Login(t.Context(), who); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := f.kube.tokensRequested(); n != 1 {
		t.Errorf("%d tokens were requested, want 1", n)
	}
	f.clock.SetTime(epoch.Add(9 * time.Minute))
	if _, err := f.Login(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	if n := f.kube.tokensRequested(); n != 2 {
		t.Errorf("%d tokens were requested, want 2: the first is about to expire", n)
	}
}

func TestAServiceAccountThatCannotLogIn(t *testing.T) {
	resource := schema.GroupResource{Resource: "serviceaccounts"}
	terminating := apierrors.NewForbidden(resource, "orders", errors.New("being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for name, test := range map[string]struct {
		refuse error
		who    backend.Identity
		kind   backend.ErrorKind
		text   string
	}{
		"it does not exist": {
			apierrors.NewNotFound(resource, "orders"), who, backend.NoServiceAccount, `"orders" does not exist`,
		},
		"its namespace is being deleted": {terminating, who, backend.NoServiceAccount, "being deleted"},
		"leasekeeper lacks the permission": {
			apierrors.NewForbidden(resource, "orders", errors.New("no")),
			who, backend.Misconfigured, "serviceaccounts/token",
		},
		"the API server is unavailable": {errors.New("connection refused"), who, backend.Unavailable, "API server"},
		"a webhook hangs": {
			fmt.Errorf("Post: %w", context.DeadlineExceeded), who, backend.Unavailable,
			"webhook for serviceaccounts/token",
		},
		"none is named": {
			nil, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount, "spec.serviceAccountName",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.kube.refuse = test.refuse
			_, err := f.Login(t.Context(), test.who)
			wantKind(t, err, test.kind)
			wantText(t, err, test.text)
			if f.server.paths() != "" {
				t.Error("Vault got a request")
			}
		})
	}
}

func TestTokenAuthCreatesAChild(t *testing.T) {
	f := newFixture(t, withTokenAuth)
	f.server.always("auth/token/create", loginResponse("acc", 3600, 0))
	got, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	if got.Handle != "acc" {
		t.Error("the session is not the child's")
	}
	sent := f.server.requests("auth/token/create")[0]
	meta, _ := sent.body["meta"].(map[string]any)
	marked := meta["leasekeeper_uid"] == "owner-uid" && meta["leasekeeper_namespace"] == "shop" &&
		meta["leasekeeper_name"] == "orders-db"
	if sent.token != "hvs.static-secret-token" || !marked {
		t.Errorf("the child is not marked as the owner's: %v", meta)
	}
	f.server.always("auth/token/create", errs(403, "permission denied hvs.static-secret-token"))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
	wantText(t, err, "auth/token/create: update")
	if strings.Contains(err.Error(), "static-secret") {
		t.Error("the error has the token in it")
	}
}

func TestTokenAuthWithoutATokenNamesTheSecret(t *testing.T) {
	const of = `Secret "root" in namespace "system"`
	for name, test := range map[string]struct {
		secret *corev1.Secret
		text   string
	}{
		"no Secret": {nil, "the provider names " + of + ", which does not exist: create it"},
		"no key":    {&corev1.Secret{}, of + ` has no usable token at key "token": set it`},
		"no token": {
			&corev1.Secret{Data: map[string][]byte{"token": []byte("\n")}},
			of + ` has no usable token at key "token": set it`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withTokenAuth)
			delete(f.kube.secrets, "system/root")
			if test.secret != nil {
				f.kube.secrets["system/root"] = test.secret
			}
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, backend.Misconfigured)
			if err.Error() != test.text {
				t.Errorf("got %q, want %q", err, test.text)
			}
			if f.server.paths() != "" {
				t.Error("Vault got a request")
			}
		})
	}
}

func TestATokenInASecretIsTrimmedAndChecked(t *testing.T) {
	for in, want := range map[string]string{
		"hvs.x\r\n": "hvs.x", "hvs.x": "hvs.x", "": "", "a b": "", "a\nb": "", "ü": "",
	} {
		if got := trimToken([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTheEnvironmentIsNotUsed(t *testing.T) {
	elsewhere := newServer(t)
	for name, value := range map[string]string{
		"VAULT_ADDR": elsewhere.URL, "VAULT_AGENT_ADDR": elsewhere.URL,
		"VAULT_TOKEN": "hvs.from-the-environment", "VAULT_NAMESPACE": "other",
		"VAULT_SKIP_VERIFY": "true", "VAULT_CACERT": "/does/not/exist", "VAULT_HEADERS": "{", "VAULT_MAX_RETRIES": "9",
		"VAULT_CLIENT_TIMEOUT": "1ns", "VAULT_RATE_LIMIT": "x", "VAULT_HTTP_PROXY": elsewhere.URL,
		"VAULT_PROXY_ADDR": elsewhere.URL, "VAULT_WRAP_TTL": "1m",
	} {
		t.Setenv(name, value)
	}
	f := newFixture(t)
	f.server.always(readPath, ok(leased))
	if _, err := f.Login(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Issue(t.Context(), at, read); err != nil {
		t.Fatal(err)
	}
	if elsewhere.paths() != "" {
		t.Error("VAULT_ADDR got a request")
	}
	login, issue := f.server.requests("auth/kubernetes/login")[0], f.server.requests(readPath)[0]
	if login.token != "" || login.namespace != "" || issue.token != at.Token || issue.namespace != "" {
		t.Error("a token or namespace of the environment was sent")
	}
	tls := newFixtureAt(t, nil, newTLSServer(t).URL)
	_, err := tls.Login(t.Context(), who)
	wantKind(t, err, backend.TLS)
	var _ v1alpha1.Provider = f.provider
}
