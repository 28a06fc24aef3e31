package testbed

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

func TestSTSVerifiesSignatures(t *testing.T) {
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	s := StartSTS()
	t.Cleanup(s.Close)
	s.AddKey("AKIATEST", "the-secret", "arn:aws:iam::111122223333:user/orders")
	right := aws.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "the-secret"}
	with := func(change func(*aws.Credentials)) aws.Credentials {
		c := right
		change(&c)
		return c
	}
	other := func(r *http.Request) { r.Header.Set("X-Vault-AWS-IAM-Server-ID", "other") }
	for name, c := range map[string]struct {
		credentials aws.Credentials
		age         time.Duration
		change      func(*http.Request)
		want        int
	}{
		"the right key":       {right, 0, nil, 200},
		"a wrong secret":      {with(func(c *aws.Credentials) { c.SecretAccessKey = "x" }), 0, nil, 403},
		"an unknown key":      {with(func(c *aws.Credentials) { c.AccessKeyID = "AKIAOTHER" }), 0, nil, 403},
		"a session of a user": {with(func(c *aws.Credentials) { c.SessionToken = "x" }), 0, nil, 403},
		"an old request":      {right, time.Hour, nil, 403},
		"another server id":   {right, 0, other, 403},
		"another host":        {right, 0, func(r *http.Request) { r.Host = "other.test" }, 403},
		"another path":        {right, 0, func(r *http.Request) { r.URL.Path = "/other" }, 403},
		"no signature":        {right, 0, func(r *http.Request) { r.Header.Del("Authorization") }, 403},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("X-Vault-AWS-IAM-Server-ID", "vault.test")
			sum := sha256.Sum256([]byte(body))
			if err := v4.NewSigner().SignHTTP(t.Context(), c.credentials, r, hex.EncodeToString(sum[:]), "sts",
				"eu-central-1", time.Now().Add(-c.age)); err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(r)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != c.want {
				t.Errorf("the status is %d, want %d", response.StatusCode, c.want)
			}
		})
	}
}
