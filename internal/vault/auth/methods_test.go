package auth

import (
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// ref names a Secret of namespace system; the key has its default.
var ref = v1alpha1.SecretKeyReference{
	SecretReference: v1alpha1.SecretReference{Namespace: "system", Name: "login"},
}

// specs choose one method each, with as few fields as possible.
var specs = map[string]v1alpha1.VaultAuth{
	"kubernetes": kubernetesAuth(
		&v1alpha1.ServiceAccountReference{Name: "app", Namespace: "system", Audiences: audiences}),
	"token": tokenAuth("system", "login", ""),
	"jwt": {JWT: &v1alpha1.VaultJWTAuth{Role: "app", ServiceAccountRef: &v1alpha1.ServiceAccountReference{
		Name: "app", Namespace: "system", Audiences: audiences}}},
	"jwt of a Secret":  {JWT: &v1alpha1.VaultJWTAuth{Role: "app", SecretRef: &ref}},
	"appRole":          {AppRole: &v1alpha1.VaultAppRoleAuth{RoleID: "role-id", SecretRef: ref}},
	"wrapped appRole":  {AppRole: &v1alpha1.VaultAppRoleAuth{RoleID: "role-id", SecretRef: ref, Wrapped: true}},
	"cert":             {Cert: &v1alpha1.VaultCertAuth{Role: "app", SecretRef: ref.SecretReference}},
	"cert of any role": {Cert: &v1alpha1.VaultCertAuth{Mount: "tls", SecretRef: ref.SecretReference}},
	"aws": {AWS: &v1alpha1.VaultAWSAuth{Role: "app", RoleARN: "arn:aws:iam::111122223333:role/orders",
		ServiceAccountRef: cloudAccount}},
	"aws with keys":         {AWS: &v1alpha1.VaultAWSAuth{Role: "app", SecretRef: &ref.SecretReference}},
	"aws with Pod Identity": awsPod, "gcp": googleAccount, "gcp of a machine": googleMachine,
	"azure": entraApp, "azure of a machine": azureMachine,
	"userPass": {UserPass: &v1alpha1.VaultUserPassAuth{Username: "orders", SecretRef: ref}},
	"ldap":     {LDAP: &v1alpha1.VaultLDAPAuth{Mount: "directory", Username: "Orders App", SecretRef: ref}},
}

// methodCase is what a method sends, and what it reports as its identity.
type methodCase struct {
	method, because string
	path            string
	body            map[string]string
	// signed are the parts of the body that are signed, and differ each time.
	signed       []string
	action       string
	configuredAt string
	identity     string
	// certificate is true if the login presents one.
	certificate bool
}

// signedRequest are the parts of a request that Vault sends to STS.
var signedRequest = []string{
	"iam_http_request_method", "iam_request_url", "iam_request_body", "iam_request_headers",
}

var methodCases = []methodCase{{
	method: "kubernetes", because: "the workload's ServiceAccount logs in",
	path: "auth/kubernetes/login", body: map[string]string{"role": "app", "jwt": "jwt-shop-orders"},
	action:       `login to role "app" of auth/kubernetes as ServiceAccount shop/orders`,
	configuredAt: "auth/kubernetes/role/app", identity: `role "app"`,
}, {
	method: "jwt", because: "the workload's ServiceAccount logs in",
	path: "auth/jwt/login", body: map[string]string{"role": "app", "jwt": "jwt-shop-orders"},
	action:       `login to role "app" of auth/jwt as ServiceAccount shop/orders`,
	configuredAt: "auth/jwt/role/app", identity: `role "app"`,
}, {
	method: "jwt of a Secret", because: "its default key is jwt",
	path: "auth/jwt/login", body: map[string]string{"role": "app", "jwt": "a-jwt"},
	action:       `login to role "app" of auth/jwt with the JWT in Secret system/login`,
	configuredAt: "auth/jwt/role/app", identity: `role "app"`,
}, {
	method: "appRole", because: "its default key is secretId",
	path: "auth/approle/login", body: map[string]string{"role_id": "role-id", "secret_id": "a-secret-id"},
	action:       `login to the AppRole with role id "role-id" of auth/approle`,
	configuredAt: `the role with role id "role-id" of auth/approle`, identity: `the AppRole with role id "role-id"`,
}, {
	method: "wrapped appRole", because: "the Secret has a wrapping token",
	path: "auth/approle/login", body: map[string]string{"role_id": "role-id", "secret_id": "unwrapped-secret_id"},
	action:       `login to the AppRole with role id "role-id" of auth/approle`,
	configuredAt: `the role with role id "role-id" of auth/approle`, identity: `the AppRole with role id "role-id"`,
}, {
	method: "cert", because: "the role is tried alone",
	path: "auth/cert/login", body: map[string]string{"name": "app"},
	action:       `login to role "app" of auth/cert with Secret system/login`,
	configuredAt: "auth/cert/certs/app", identity: `role "app"`, certificate: true,
}, {
	method: "cert of any role", because: "Vault finds the role that matches",
	path: "auth/tls/login", body: map[string]string{},
	action:       "login to any role of auth/tls with Secret system/login",
	configuredAt: "auth/tls/certs/NAME", identity: "the certificate's role of auth/tls", certificate: true,
}, {
	method: "userPass", because: "its default key is password",
	path: "auth/userpass/login/orders", body: map[string]string{"password": "a-password"},
	action:       `login as user "orders" of auth/userpass`,
	configuredAt: "auth/userpass/users/orders", identity: `user "orders" of auth/userpass`,
}, {
	method: "ldap", because: "the client encodes the path",
	path: "auth/directory/login/Orders App", body: map[string]string{"password": "a-password"},
	action:       `login as user "Orders App" of auth/directory`,
	configuredAt: "auth/directory/config", identity: `user "Orders App" of auth/directory`,
}, {
	method: "aws", because: "the workload's ServiceAccount assumes a role",
	path: "auth/aws/login", body: map[string]string{"role": "app"}, signed: signedRequest,
	action: `login to role "app" of auth/aws with arn:aws:iam::111122223333:role/orders of ServiceAccount ` +
		"shop/orders",
	configuredAt: "auth/aws/role/app", identity: `role "app"`,
}, {
	method: "aws with keys", because: "the keys are in a Secret",
	path: "auth/aws/login", body: map[string]string{"role": "app"}, signed: signedRequest,
	action:       `login to role "app" of auth/aws with the keys in Secret system/login`,
	configuredAt: "auth/aws/role/app", identity: `role "app"`,
}, {
	method: "aws with Pod Identity", because: "the agent has leasekeeper's own keys",
	path: "auth/aws/login", body: map[string]string{"role": "app"}, signed: signedRequest,
	action:       `login to role "app" of auth/aws with leasekeeper's Pod Identity`,
	configuredAt: "auth/aws/role/app", identity: `role "app"`,
}, {
	method: "gcp", because: "the workload's ServiceAccount may use it",
	path: "auth/gcp/login", body: map[string]string{"role": "app", "jwt": "a-google-jwt"},
	action: `login to role "app" of auth/gcp with orders@p.iam.gserviceaccount.com of ServiceAccount ` +
		"shop/orders",
	configuredAt: "auth/gcp/role/app", identity: `role "app"`,
}, {
	method: "gcp of a machine", because: "Vault's role has type gce",
	path: "auth/gcp/login", body: map[string]string{"role": "app", "jwt": "a-metadata-jwt"},
	action:       `login to role "app" of auth/gcp with the metadata server's identity`,
	configuredAt: "auth/gcp/role/app", identity: `role "app"`,
}, {
	method: "azure", because: "the application trusts the workload's ServiceAccount",
	path:         "auth/azure/login",
	body:         map[string]string{"role": "app", "jwt": "a jwt for https://management.azure.com/"},
	action:       `login to role "app" of auth/azure with application client of ServiceAccount shop/orders`,
	configuredAt: "auth/azure/role/app", identity: `role "app"`,
}, {
	method: "azure of a machine", because: "it has a managed identity",
	path: "auth/azure/login", body: map[string]string{"role": "app", "jwt": "a-machine-jwt"},
	action:       `login to role "app" of auth/azure with the managed identity of leasekeeper's machine`,
	configuredAt: "auth/azure/role/app", identity: `role "app"`,
}}

// TestEveryMethodIsInTheTables keeps a new method from being forgotten. The request of token is in
// TestTokenIssuerCreatesAChildForEachIssuance, because only this method has a token.
func TestEveryMethodIsInTheTables(t *testing.T) {
	sent := map[string]bool{"token": true}
	for _, c := range methodCases {
		sent[c.method] = true
	}
	for name := range specs {
		if !sent[name] {
			t.Errorf("%s has no row in methodCases", name)
		}
	}
	for _, construct := range constructors {
		if !slices.ContainsFunc(slices.Collect(maps.Values(specs)), constructs(construct)) {
			t.Errorf("%s has no row in specs", constructorName(construct))
		}
	}
}

// constructs returns whether a spec makes the constructor return a method, or the reason why not.
func constructs(construct constructor) func(v1alpha1.VaultAuth) bool {
	return func(spec v1alpha1.VaultAuth) bool {
		m, err := construct(spec, use{field: "auth"})
		return m != nil || err != nil
	}
}

func constructorName(construct constructor) string {
	return runtime.FuncForPC(reflect.ValueOf(construct).Pointer()).Name()
}

type constructor = func(v1alpha1.VaultAuth, use) (Method, error)

// secretData has a value at the default key of each method.
func secretData(t *testing.T) map[string]string {
	cert, key := testCertificate(t)
	return map[string]string{
		"jwt": "a-jwt\n", "secretId": "a-secret-id\n", "password": "a-password\r\n", "tls.crt": cert, "tls.key": key,
		"access_key_id": "AKIATEST", "secret_access_key": "a-secret-key\n",
	}
}

func TestLoginRequestOfEachMethod(t *testing.T) {
	data := secretData(t)
	for _, c := range methodCases {
		t.Run(c.method, func(t *testing.T) {
			f := &fakeRequester{data: data}
			m := newCloud(t).at(issuer(t, specs[c.method]))
			token, err := m.Login(t.Context(), f, who)
			if err != nil || len(f.logins) != 1 {
				t.Fatalf("because %s: %d logins, %v", c.because, len(f.logins), err)
			}
			sent := f.logins[0]
			body := maps.Clone(sent.Body.(map[string]string))
			for _, part := range c.signed {
				if body[part] == "" {
					t.Errorf("because %s: no %s was sent", c.because, part)
				}
				delete(body, part)
			}
			if sent.Path != c.path || !maps.Equal(body, c.body) {
				t.Errorf("because %s: sent %v to %s, want %v to %s", c.because, body, sent.Path, c.body, c.path)
			}
			if sent.Action != c.action || sent.Hint == "" {
				t.Errorf("the action is %q, want %q, and a hint: %q", sent.Action, c.action, sent.Hint)
			}
			if token.ConfiguredAt != c.configuredAt || m.String() != c.identity || token.Value != "hvs.new" {
				t.Errorf("configured at %q by %q, want %q by %q", token.ConfiguredAt, m, c.configuredAt, c.identity)
			}
			if (sent.Certificate != nil) != c.certificate || sent.Token != "" {
				t.Errorf("a certificate: %t, want %t; a token: %q",
					sent.Certificate != nil, c.certificate, sent.Token)
			}
			for name, value := range c.body {
				secret := name == "jwt" || name == "secret_id" || name == "password"
				if secret && !strings.Contains(strings.Join(sent.Secrets, " "), value) {
					t.Errorf("a message may repeat the %s", name)
				}
			}
		})
	}
}

func TestEveryMethodLogsAKeeperIn(t *testing.T) {
	data := secretData(t)
	for name, spec := range specs {
		f := &fakeRequester{data: data}
		token, err := newCloud(t).at(keeper(t, spec, "")).Login(t.Context(), f, backend.Identity{})
		if err != nil || token.Value == "" {
			t.Errorf("%s: a token: %t, %v", name, token.Value != "", err)
		}
		if name != "token" && !strings.HasPrefix(f.logins[0].Action, "keeper login ") {
			t.Errorf("%s: the action is %q", name, f.logins[0].Action)
		}
		for _, account := range f.accounts {
			if account.Namespace != "system" || account.Name != "app" {
				t.Errorf("%s: the keeper logs in as %s/%s", name, account.Namespace, account.Name)
			}
		}
	}
}

func TestSecretsOfASecretProviderAreBesideIt(t *testing.T) {
	data := secretData(t)
	for _, name := range []string{"jwt of a Secret", "appRole", "aws with keys", "cert", "userPass", "ldap"} {
		spec := specs[name]
		spec = *spec.DeepCopy()
		secretOf(&spec).Namespace = ""
		f := &fakeRequester{data: data}
		if _, err := issuerIn(t, spec, "shop").Login(t.Context(), f, who); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := (v1alpha1.SecretReference{Namespace: "shop", Name: "login"}); f.read[0] != want {
			t.Errorf("%s: read %v, want %v", name, f.read[0], want)
		}
	}
}

// secretOf is the reference of a method to its Secret.
func secretOf(spec *v1alpha1.VaultAuth) *v1alpha1.SecretReference {
	switch {
	case spec.JWT != nil:
		return &spec.JWT.SecretRef.SecretReference
	case spec.AppRole != nil:
		return &spec.AppRole.SecretRef.SecretReference
	case spec.AWS != nil:
		return spec.AWS.SecretRef
	case spec.Cert != nil:
		return &spec.Cert.SecretRef
	case spec.UserPass != nil:
		return &spec.UserPass.SecretRef.SecretReference
	}
	return &spec.LDAP.SecretRef.SecretReference
}

func TestServiceAccountOfEachMethod(t *testing.T) {
	for name, spec := range specs {
		want := ""
		if slices.Contains([]string{"kubernetes", "jwt", "aws", "gcp", "azure"}, name) {
			want = "orders"
		}
		got, err := issuer(t, spec).ServiceAccount(who)
		if got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q: another ServiceAccount is another request only if it logs in",
				name, got, err, want)
		}
	}
}

func TestWhatProvesThatATokenIsOurs(t *testing.T) {
	proven := owner
	proven.Proven = true
	of := func(namespace string) map[string]string {
		return map[string]string{"service_account_namespace": namespace}
	}
	for _, c := range []struct {
		method, it, because string
		token               Description
		owner               backend.Owner
		owns                bool
	}{
		{"jwt", "the owner's namespace", "claim_mappings recorded it",
			Description{"auth/jwt/login", of("shop")}, owner, true},
		{"jwt", "another namespace", "it is another workload's",
			Description{"auth/jwt/login", of("bank")}, owner, false},
		{"jwt", "another namespace, with a seal", "Vault's metadata is the better proof",
			Description{"auth/jwt/login", of("bank")}, proven, false},
		{"jwt", "no metadata", "nothing proves it", Description{"auth/jwt/login", nil}, owner, false},
		{"jwt", "no metadata, with a seal", "the role has no claim_mappings",
			Description{"auth/jwt/login", nil}, proven, true},
		{"jwt", "another mount", "it is another cluster's", Description{"auth/other/login", of("shop")}, proven, false},
		{"jwt of a Secret", "metadata without a seal", "the JWT is of any issuer, which chooses its claims",
			Description{"auth/jwt/login", of("shop")}, owner, false},
		{"jwt of a Secret", "a seal", "all objects share the JWT", Description{"auth/jwt/login", nil}, proven, true},
		{"appRole", "no seal", "all objects share the role", Description{"auth/approle/login", nil}, owner, false},
		{"appRole", "a seal", "leasekeeper wrote the record", Description{"auth/approle/login", nil}, proven, true},
		{"appRole", "another mount", "it is another method's",
			Description{"auth/userpass/login/x", nil}, proven, false},
		{"aws", "no seal", "objects may share the role", Description{"auth/aws/login", nil}, owner, false},
		{"aws", "a seal", "leasekeeper wrote the record", Description{"auth/aws/login", nil}, proven, true},
		{"aws", "another mount", "it is another method's", Description{"auth/cert/login", nil}, proven, false},
		{"cert", "no seal", "all objects share the certificate", Description{"auth/cert/login", nil}, owner, false},
		{"cert", "a seal", "leasekeeper wrote the record", Description{"auth/cert/login", nil}, proven, true},
		{"cert", "another mount", "it is another method's", Description{"auth/certs/login", nil}, proven, false},
		{"userPass", "no seal", "all objects share the user",
			Description{"auth/userpass/login/orders", nil}, owner, false},
		{"userPass", "a seal", "leasekeeper wrote the record",
			Description{"auth/userpass/login/orders", nil}, proven, true},
		{"userPass", "a former user", "the user name may change",
			Description{"auth/userpass/login/old", nil}, proven, true},
		{"userPass", "another mount", "it is another method's",
			Description{"auth/ldap/login/orders", nil}, proven, false},
		{"ldap", "no seal", "all objects share the user",
			Description{"auth/directory/login/orders app", nil}, owner, false},
		{"ldap", "a seal", "leasekeeper wrote the record",
			Description{"auth/directory/login/orders app", nil}, proven, true},
	} {
		t.Run(c.method+" "+c.it, func(t *testing.T) {
			if got := issuer(t, specs[c.method]).Owns(c.token, c.owner); got != c.owns {
				t.Errorf("because %s: owns %t, want %t", c.because, got, c.owns)
			}
		})
	}
}
