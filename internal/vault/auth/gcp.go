package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// gcp logs in with a JWT of Google: signed for a service account that a ServiceAccount may use (Vault's role type iam),
// or from the metadata server (role type gce).
type gcp struct {
	mount, role string
	// provider and email are those of workload identity federation; empty: the metadata server.
	provider, email string
	account         account
	// sts, iam and metadata are the addresses of Google's services.
	sts, iam, metadata string
	use
}

func newGCP(spec v1alpha1.VaultAuth, u use) (Method, error) {
	g := spec.GCP
	if g == nil {
		return nil, nil
	}
	m := gcp{
		mount: or(string(g.Mount), "gcp"), role: g.Role,
		provider: g.WorkloadIdentityProvider, email: g.ServiceAccountEmail,
		sts: "https://sts.googleapis.com", iam: "https://iamcredentials.googleapis.com",
		// The variable is Google's own, for every client of the metadata server.
		metadata: "http://" + or(os.Getenv("GCE_METADATA_HOST"), "metadata.google.internal"), use: u,
	}
	switch {
	case m.provider == "" && u.namespace != "":
		return nil, u.ownIdentity("gcp", "workloadIdentityProvider")
	case m.provider != "":
		var err error
		audience := "https://iam.googleapis.com/" + m.provider
		if m.account, err = u.federatedAccountOf("gcp", g.ServiceAccountRef, audience); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// String implements Method.
func (g gcp) String() string { return fmt.Sprintf("role %q", g.role) }

// ServiceAccount implements Method.
func (g gcp) ServiceAccount(who backend.Identity) (string, error) {
	if g.provider == "" {
		return "", nil
	}
	return g.account.name(who)
}

// Login implements Method.
func (g gcp) Login(ctx context.Context, r Requester, who backend.Identity) (token Token, err error) {
	if g.provider == "" {
		var jwt string
		if jwt, err = g.fromMetadata(ctx, r.HTTPClients().Metadata); err == nil {
			token, err = g.login(ctx, r, jwt, "the metadata server's identity")
		}
	} else {
		var account ServiceAccount
		if account, err = g.account.of(who); err != nil {
			return Token{}, err
		}
		token, err = r.WithServiceAccountToken(ctx, account, func(subject string) (Token, error) {
			jwt, err := g.signed(ctx, r.HTTPClients().Exchange, subject)
			if err != nil {
				return Token{}, err
			}
			return g.login(ctx, r, jwt,
				fmt.Sprintf("%s of ServiceAccount %s/%s", g.email, account.Namespace, account.Name))
		})
	}
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", g.mount, g.role)
	return token, err
}

func (g gcp) login(ctx context.Context, r Requester, jwt, of string) (Token, error) {
	return r.Login(ctx, Request{
		Path: "auth/" + g.mount + "/login", Role: g.role, Body: map[string]string{"role": g.role, "jwt": jwt},
		Action: fmt.Sprintf("%s to role %q of auth/%s with %s", g.action(), g.role, g.mount, of),
		Hint: "check the role's bound_service_accounts, and its type: iam for workloadIdentityProvider, gce for " +
			"metadataServer; and that the auth method is mounted there",
		Secrets: []string{jwt},
	})
}

// signed exchanges a ServiceAccount's token for an access token, and lets Google sign a JWT for Vault with it.
func (g gcp) signed(ctx context.Context, client *http.Client, subject string) (string, error) {
	access, err := exchange{
		service: "Google STS",
		fields:  g.field + ".gcp.workloadIdentityProvider and the provider's attribute conditions",
		url:     g.sts + "/v1/token",
		form: url.Values{
			"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"audience":             {"//iam.googleapis.com/" + g.provider},
			"scope":                {"https://www.googleapis.com/auth/iam"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
			"subject_token":        {subject},
		},
	}.field(ctx, client, "access_token")
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"sub": g.email, "aud": "vault/" + g.role, "exp": time.Now().Add(10 * time.Minute).Unix(),
	})
	if err != nil {
		return "", err
	}
	return exchange{
		service: "Google IAM", fields: g.field + ".gcp.serviceAccountEmail; the ServiceAccount's principal needs " +
			"roles/iam.serviceAccountTokenCreator on it",
		url:    g.iam + "/v1/projects/-/serviceAccounts/" + url.PathEscape(g.email) + ":signJwt",
		header: http.Header{"Authorization": {"Bearer " + access}},
		json:   map[string]string{"payload": string(claims)},
	}.field(ctx, client, "signedJwt")
}

// fromMetadata requests the identity of leasekeeper's own pod or machine.
func (g gcp) fromMetadata(ctx context.Context, client *http.Client) (string, error) {
	query := url.Values{"audience": {"vault/" + g.role}, "format": {"full"}}
	body, err := exchange{
		service: "the metadata server", fields: g.field + ".gcp.metadataServer: it exists on Google Cloud only",
		url:    g.metadata + "/computeMetadata/v1/instance/service-accounts/default/identity?" + query.Encode(),
		header: http.Header{"Metadata-Flavor": {"Google"}},
	}.send(ctx, client)
	return strings.TrimSpace(string(body)), err
}

// Owns implements Method. Vault records Google's service account, which objects share, so the ledger's seal must prove
// it.
func (g gcp) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+g.mount+"/login" && owner.Proven
}
