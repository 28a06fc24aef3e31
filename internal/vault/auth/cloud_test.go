package auth

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// cloud is a small token service with the requests of Google's, Microsoft's and AWS's, as their documentation describes
// them. These methods cannot be tested against the real ones here; internal/vault has a stricter STS.
type cloud struct {
	*httptest.Server
	t *testing.T
	// refuse every request with this status and body; 0: none.
	status int
	body   string
	// padded is the path whose responses begin with 1 MiB of spaces, which neither JSON nor XML forbids.
	padded string
	// last is the form or the query of the last request to each path.
	last map[string]url.Values
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, last: map[string]url.Values{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

const (
	signJWT       = "/v1/projects/-/serviceAccounts/orders@p.iam.gserviceaccount.com:signJwt"
	googleJWT     = "/computeMetadata/v1/instance/service-accounts/default/identity"
	entraToken    = "/tenant/oauth2/v2.0/token"
	azureMetadata = "/metadata/identity/oauth2/token"
	awsSTS        = "/"
	awsAgent      = "/v1/credentials"
)

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	c.last[r.URL.Path] = r.URL.Query()
	form, err := url.ParseQuery(string(raw))
	if err == nil && r.Method == http.MethodPost {
		c.last[r.URL.Path] = form
	}
	if c.status != 0 {
		w.WriteHeader(c.status)
		_, _ = io.WriteString(w, c.body)
		return
	}
	if c.padded == r.URL.Path {
		_, _ = io.WriteString(w, strings.Repeat(" ", 1<<20))
	}
	switch {
	case r.URL.Path == "/v1/token":
		_, _ = io.WriteString(w, `{"access_token":"access","token_type":"Bearer"}`)
	case r.URL.Path == signJWT && r.Header.Get("Authorization") == "Bearer access":
		var request struct{ Payload string }
		_ = json.Unmarshal(raw, &request)
		c.last[signJWT] = url.Values{"payload": {request.Payload}}
		_, _ = io.WriteString(w, `{"keyId":"1","signedJwt":"a-google-jwt"}`)
	case r.URL.Path == googleJWT && r.Header.Get("Metadata-Flavor") == "Google":
		_, _ = io.WriteString(w, "a-metadata-jwt")
	case r.URL.Path == entraToken:
		aud, isDefault := strings.CutSuffix(form.Get("scope"), "/.default")
		if !isDefault {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"access_token":"a jwt for %s","token_type":"Bearer"}`, aud)
	case r.URL.Path == azureMetadata && r.Header.Get("Metadata") == "true":
		_, _ = io.WriteString(w, `{"access_token":"a-machine-jwt"}`)
	case r.URL.Path == awsSTS && form.Get("Action") == "AssumeRoleWithWebIdentity":
		_, _ = io.WriteString(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>ASIATEST</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>`+
			`<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>`+
			`</AssumeRoleWithWebIdentityResponse>`)
	case r.URL.Path == awsAgent && r.Header.Get("Authorization") == "agent-token":
		_, _ = io.WriteString(w, `{"AccessKeyId":"ASIAPOD","SecretAccessKey":"s","Token":"pod-session",`+
			`"Expiration":"2999-01-01T00:00:00Z"}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// at lets a method use the cloud.
func (c *cloud) at(m Method) Method {
	switch m := m.(type) {
	case gcp:
		m.sts, m.iam, m.metadata = c.URL, c.URL, c.URL
		return m
	case azure:
		m.authority, m.metadata = c.URL, c.URL
		return m
	case iam:
		if m.roleARN != "" {
			m.endpoint = c.URL
		}
		file := filepath.Join(c.t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("agent-token\n"), 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", c.URL+awsAgent)
		c.t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)
		return m
	}
	return m
}

var (
	cloudAccount  = &v1alpha1.FederatedAccountReference{Name: "app", Namespace: "system"}
	googleAccount = v1alpha1.VaultAuth{GCP: &v1alpha1.VaultGCPAuth{
		Role: "app", ServiceAccountEmail: "orders@p.iam.gserviceaccount.com", ServiceAccountRef: cloudAccount,
		WorkloadIdentityProvider: "projects/1/locations/global/workloadIdentityPools/c/providers/c",
	}}
	googleMachine = v1alpha1.VaultAuth{GCP: &v1alpha1.VaultGCPAuth{Role: "app", MetadataServer: true}}
	entraApp      = v1alpha1.VaultAuth{Azure: &v1alpha1.VaultAzureAuth{
		Role: "app", TenantID: "tenant", ClientID: "client", ServiceAccountRef: cloudAccount,
	}}
	azureMachine = v1alpha1.VaultAuth{Azure: &v1alpha1.VaultAzureAuth{Role: "app", MetadataServer: true}}
	awsPod       = v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{Role: "app", PodIdentity: true}}
)

// entraAppFor is entraApp with another resource.
func entraAppFor(resource string) v1alpha1.VaultAuth {
	spec := entraApp.DeepCopy()
	spec.Azure.Resource = resource
	return *spec
}

func TestCloudLogin(t *testing.T) {
	const subject = "jwt-shop-orders"
	for _, c := range []struct {
		it, because string
		spec        v1alpha1.VaultAuth
		jwt, action string
		audience    string
		// path and what was sent to it.
		path string
		sent map[string]string
	}{{
		it: "a service account of Google", because: "the ServiceAccount may use it",
		spec: googleAccount, jwt: "a-google-jwt", audience: "https://iam.googleapis.com/projects/1/",
		action: `login to role "app" of auth/gcp with orders@p.iam.gserviceaccount.com of ServiceAccount shop/orders`,
		path:   "/v1/token",
		sent: map[string]string{"subject_token": subject,
			"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/c/providers/c"},
	}, {
		it: "Google's metadata server", because: "the role has type gce",
		spec: googleMachine, jwt: "a-metadata-jwt",
		action: `login to role "app" of auth/gcp with the metadata server's identity`,
		path:   googleJWT, sent: map[string]string{"audience": "vault/app", "format": "full"},
	}, {
		it: "an application of Entra ID", because: "it has a federated credential",
		spec: entraApp, jwt: "a jwt for https://management.azure.com/", audience: "api://AzureADTokenExchange",
		action: `login to role "app" of auth/azure with application client of ServiceAccount shop/orders`,
		path:   entraToken,
		sent:   map[string]string{"client_assertion": subject, "client_id": "client"},
	}, {
		it: "a resource without a slash at its end", because: "Vault compares it with aud as it is",
		spec: entraAppFor("api://vault"), jwt: "a jwt for api://vault", audience: "api://AzureADTokenExchange",
		action: `login to role "app" of auth/azure with application client of ServiceAccount shop/orders`,
		path:   entraToken, sent: map[string]string{"client_assertion": subject},
	}, {
		it: "Azure's metadata server", because: "the machine has a managed identity",
		spec: azureMachine, jwt: "a-machine-jwt",
		action: `login to role "app" of auth/azure with the managed identity of leasekeeper's machine`,
		path:   azureMetadata, sent: map[string]string{"resource": "https://management.azure.com/"},
	}} {
		t.Run(c.it, func(t *testing.T) {
			s, f := newCloud(t), &fakeRequester{}
			if _, err := s.at(issuer(t, c.spec)).Login(t.Context(), f, who); err != nil {
				t.Fatalf("because %s: %v", c.because, err)
			}
			sent := f.logins[0]
			if jwt := sent.Body.(map[string]string)["jwt"]; jwt != c.jwt || sent.Action != c.action {
				t.Errorf("because %s: sent %s as %q, want %s as %q", c.because, jwt, sent.Action, c.jwt, c.action)
			}
			if len(sent.Secrets) != 1 || sent.Secrets[0] != c.jwt {
				t.Error("a message may repeat the JWT")
			}
			for name, want := range c.sent {
				if got := s.last[c.path].Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if c.audience != "" && !strings.HasPrefix(f.accounts[0].Audiences[0], c.audience) {
				t.Errorf("the token has the audiences %v, want %s", f.accounts[0].Audiences, c.audience)
			}
		})
	}
}

// The author of a provider may choose the address of STS, and any service may be compromised.
func TestEndlessResponsesOfACloudAreNotRead(t *testing.T) {
	paths := map[string]bool{}
	for name, spec := range specs {
		normal, f := newCloud(t), &fakeRequester{data: secretData(t)}
		if _, err := normal.at(issuer(t, spec)).Login(t.Context(), f, who); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for path := range normal.last {
			paths[path] = true
			s, f := newCloud(t), &fakeRequester{data: secretData(t)}
			s.padded = path
			_, err := s.at(issuer(t, spec)).Login(t.Context(), f, who)
			if backend.KindOf(err) != backend.Unavailable || len(f.logins) > 0 {
				t.Errorf("%s, 1 MiB from %s: got %v (%s) and %d logins, want %s",
					name, path, err, backend.KindOf(err), len(f.logins), backend.Unavailable)
			}
		}
	}
	for _, path := range []string{
		"/v1/token", signJWT, googleJWT, entraToken, azureMetadata, awsSTS, awsAgent,
	} {
		if !paths[path] {
			t.Errorf("no method requested %s", path)
		}
	}
}

func TestGoogleSignsALoginForVaultsRole(t *testing.T) {
	s := newCloud(t)
	if _, err := s.at(issuer(t, googleAccount)).Login(t.Context(), &fakeRequester{}, who); err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Sub, Aud string
		Exp      int64
	}
	err := json.Unmarshal([]byte(s.last[signJWT].Get("payload")), &claims)
	if err != nil || claims.Sub != "orders@p.iam.gserviceaccount.com" || claims.Aud != "vault/app" || claims.Exp == 0 {
		t.Errorf("signed %+v, %v", claims, err)
	}
}

func TestCloudRefusals(t *testing.T) {
	for _, c := range []struct {
		it     string
		spec   v1alpha1.VaultAuth
		status int
		body   string
		kind   backend.ErrorKind
		parts  []string
	}{
		{"Google does not trust the cluster", googleAccount, 400, `{"error":"invalid_grant","secret":"x"}`,
			backend.LoginFailed,
			[]string{"Google STS refused (400, invalid_grant)", "auth.gcp.workloadIdentityProvider"}},
		{"there is no metadata server of Google", googleMachine, 404, "", backend.LoginFailed,
			[]string{"auth.gcp.metadataServer: it exists on Google Cloud only"}},
		{"Entra ID does not trust the cluster", entraApp, 401, `{"error":"invalid_client"}`, backend.LoginFailed,
			[]string{"Microsoft Entra ID refused (401, invalid_client)", "auth.azure.tenantID and clientID",
				"system:serviceaccount:shop:orders"}},
		{"the machine has no managed identity", azureMachine, 400, "{}", backend.LoginFailed,
			[]string{"auth.azure.metadataServer", "needs a managed identity"}},
		{"a service is down", entraApp, 503, "", backend.Unavailable, []string{"Microsoft Entra ID cannot be reached"}},
		{"a response is strange", entraApp, 200, `{"token":1}`, backend.Unavailable, []string{"cannot be used"}},
	} {
		t.Run(c.it, func(t *testing.T) {
			s, f := newCloud(t), &fakeRequester{}
			s.status, s.body = c.status, c.body
			_, err := s.at(issuer(t, c.spec)).Login(t.Context(), f, who)
			if backend.KindOf(err) != c.kind || len(f.logins) > 0 {
				t.Fatalf("got %v (%s), want %s, and %d logins", err, backend.KindOf(err), c.kind, len(f.logins))
			}
			for _, part := range c.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %q", part, err)
				}
			}
			if c.body != "" && strings.Contains(fmt.Sprint(err), c.body) {
				t.Error("the message repeats the response")
			}
		})
	}
}

func TestATenantCannotUseLeasekeepersOwnIdentity(t *testing.T) {
	for field, spec := range map[string]v1alpha1.VaultAuth{
		"workloadIdentityProvider": googleMachine, "clientID and tenantID": azureMachine,
	} {
		_, err := Issuer(&v1alpha1.VaultProvider{Auth: spec}, "shop")
		if backend.KindOf(err) != backend.Misconfigured || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an error that names %s", err, field)
		}
		if _, err := Issuer(&v1alpha1.VaultProvider{Auth: spec}, ""); err != nil {
			t.Errorf("a ClusterSecretProvider: %v", err)
		}
	}
}

func TestCloudTokensAreProvenByTheSeal(t *testing.T) {
	proven := owner
	proven.Proven = true
	for path, spec := range map[string]v1alpha1.VaultAuth{
		"auth/gcp/login": googleAccount, "auth/azure/login": entraApp,
	} {
		m := issuer(t, spec)
		if m.Owns(Description{Path: path}, owner) || !m.Owns(Description{Path: path}, proven) {
			t.Errorf("%s: the seal does not decide", path)
		}
		if m.Owns(Description{Path: "auth/other/login"}, proven) {
			t.Errorf("%s: a token of another mount is ours", path)
		}
	}
}
