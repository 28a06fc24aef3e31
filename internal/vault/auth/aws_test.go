package auth

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

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
	f := &fakeRequester{}
	if _, err := newCloud(t).at(issuer(t, awsPod)).Login(t.Context(), f, who); err != nil {
		t.Fatal(err)
	}
	if got := signedHeaders(t, f.logins[0]).Get("X-Amz-Security-Token"); got != "pod-session" {
		t.Errorf("signed with another session")
	}
	// A tenant could send leasekeeper's own signature to a server of their choice.
	_, err := Issuer(&v1alpha1.VaultProvider{Auth: awsPod}, "shop")
	wantError(t, err, backend.Misconfigured, "auth.aws.podIdentity is the identity of leasekeeper itself, which only "+
		"a ClusterSecretProvider may use: set auth.aws.roleARN or auth.aws.secretRef")
}
