package auth

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// assuming is the spec with an STS that gives credentials to everybody. A real Vault uses a stricter one; see
// internal/vault.
func assuming(t *testing.T, spec v1alpha1.VaultAuth) v1alpha1.VaultAuth {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = io.WriteString(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>ASIATEST</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>`+
			`<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>`+
			`</AssumeRoleWithWebIdentityResponse>`)
	}))
	t.Cleanup(s.Close)
	spec = *spec.DeepCopy()
	spec.AWS.STSEndpoint = s.URL
	return spec
}

// signedHeaders are those of the request that Vault would send to STS.
func signedHeaders(t *testing.T, r Request) http.Header {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(r.Body.(map[string]string)["iam_request_headers"])
	if err != nil {
		t.Fatal(err)
	}
	var headers http.Header
	if err := json.Unmarshal(raw, &headers); err != nil {
		t.Fatal(err)
	}
	return headers
}

func TestAWSSignsTheCallersIdentity(t *testing.T) {
	spec := specs["aws with keys"]
	spec = *spec.DeepCopy()
	spec.AWS.Region, spec.AWS.ServerID = "eu-central-1", "vault.test"
	f := &fakeRequester{data: secretData(t)}
	if _, err := issuer(t, spec).Login(t.Context(), f, who); err != nil {
		t.Fatal(err)
	}
	sent := f.logins[0].Body.(map[string]string)
	url, _ := base64.StdEncoding.DecodeString(sent["iam_request_url"])
	body, _ := base64.StdEncoding.DecodeString(sent["iam_request_body"])
	if string(url) != "https://sts.eu-central-1.amazonaws.com/" || string(body) != callerIdentity {
		t.Errorf("signed %s for %s", body, url)
	}
	headers := signedHeaders(t, f.logins[0])
	authorization := headers.Get("Authorization")
	for _, part := range []string{"AKIATEST/", "/eu-central-1/sts/aws4_request", "x-vault-aws-iam-server-id"} {
		if !strings.Contains(authorization, part) {
			t.Errorf("%q is not in the signature's description", part)
		}
	}
	if headers.Get("X-Vault-AWS-IAM-Server-ID") != "vault.test" || headers.Get("X-Amz-Security-Token") != "" {
		t.Error("the headers are not those of static keys and the server id")
	}
}

func TestAWSPodIdentityIsLeasekeepersOwn(t *testing.T) {
	spec := v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{Role: "app", PodIdentity: true}}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "agent-token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"AccessKeyId":"ASIAPOD","SecretAccessKey":"s","Token":"pod-session",`+
			`"Expiration":"2999-01-01T00:00:00Z"}`)
	}))
	t.Cleanup(agent.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("agent-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL)
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)
	f := &fakeRequester{}
	if _, err := issuer(t, spec).Login(t.Context(), f, who); err != nil {
		t.Fatal(err)
	}
	if got := signedHeaders(t, f.logins[0]).Get("X-Amz-Security-Token"); got != "pod-session" {
		t.Errorf("signed with another session")
	}
	// A tenant could send leasekeeper's own signature to a server of their choice.
	_, err := Issuer(&v1alpha1.VaultProvider{Auth: spec}, "shop")
	wantError(t, err, backend.Misconfigured, "auth.aws.podIdentity is the identity of leasekeeper itself, which only "+
		"a ClusterSecretProvider may use: set auth.aws.roleARN or auth.aws.secretRef")
}
