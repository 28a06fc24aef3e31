package auth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// azure logs in with a token of Microsoft Entra ID: of an application that trusts a ServiceAccount, or from the
// metadata server.
type azure struct {
	mount, role, resource string
	// tenant and client are those of the application; empty: the metadata server.
	tenant, client string
	account        account
	// authority and metadata are the addresses of Microsoft's services.
	authority, metadata string
	use
}

func newAzure(spec v1alpha1.VaultAuth, u use) (Method, error) {
	a := spec.Azure
	if a == nil {
		return nil, nil
	}
	m := azure{
		mount: or(string(a.Mount), "azure"), role: a.Role, resource: or(a.Resource, "https://management.azure.com/"),
		tenant: a.TenantID, client: a.ClientID, authority: "https://login.microsoftonline.com",
		metadata: "http://169.254.169.254", use: u,
	}
	switch {
	case m.client == "" && u.namespace != "":
		return nil, u.ownIdentity("azure", "clientID and tenantID")
	case m.client != "":
		var err error
		const audience = "api://AzureADTokenExchange"
		if m.account, err = u.federatedAccountOf("azure", a.ServiceAccountRef, audience); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// String implements Method.
func (a azure) String() string { return fmt.Sprintf("role %q", a.role) }

// ServiceAccount implements Method.
func (a azure) ServiceAccount(who backend.Identity) (string, error) {
	if a.client == "" {
		return "", nil
	}
	return a.account.name(who)
}

// Login implements Method.
func (a azure) Login(ctx context.Context, r Requester, who backend.Identity) (token Token, err error) {
	if a.client == "" {
		var jwt string
		if jwt, err = a.fromMetadata(ctx, r.HTTPClients().Metadata); err == nil {
			token, err = a.login(ctx, r, jwt, "the managed identity of leasekeeper's machine")
		}
	} else {
		var account ServiceAccount
		if account, err = a.account.of(who); err != nil {
			return Token{}, err
		}
		token, err = r.WithServiceAccountToken(ctx, account, func(assertion string) (Token, error) {
			jwt, err := a.federated(ctx, r.HTTPClients().Exchange, account, assertion)
			if err != nil {
				return Token{}, err
			}
			return a.login(ctx, r, jwt,
				fmt.Sprintf("application %s of ServiceAccount %s/%s", a.client, account.Namespace, account.Name))
		})
	}
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", a.mount, a.role)
	return token, err
}

func (a azure) login(ctx context.Context, r Requester, jwt, of string) (Token, error) {
	return r.Login(ctx, Request{
		Path: "auth/" + a.mount + "/login", Role: a.role, Body: map[string]string{"role": a.role, "jwt": jwt},
		Action: fmt.Sprintf("%s to role %q of auth/%s with %s", a.action(), a.role, a.mount, of),
		Hint: "check the role's bound_service_principal_ids, and that the auth method is mounted there; bindings to " +
			"subscriptions, groups and machines do not apply to this login",
		Causes: []Cause{{"audience", fmt.Sprintf("resource in auth/%s/config must be %s.azure.resource, %q",
			a.mount, a.field, a.resource)}},
		Secrets: []string{jwt},
	})
}

// federated exchanges a ServiceAccount's token for one of the application.
func (a azure) federated(
	ctx context.Context, client *http.Client, account ServiceAccount, assertion string,
) (string, error) {
	return exchange{
		service: "Microsoft Entra ID",
		fields: fmt.Sprintf("%s.azure.tenantID and clientID, and the federated credential of the application: its "+
			"issuer must be the cluster's, its subject system:serviceaccount:%s:%s, and its audience %q",
			a.field, account.Namespace, account.Name, account.Audiences),
		url: a.authority + "/" + url.PathEscape(a.tenant) + "/oauth2/v2.0/token",
		form: url.Values{
			"grant_type": {"client_credentials"}, "client_id": {a.client},
			// Microsoft cuts "/.default" off, and the rest is the token's aud, which Vault compares with its resource.
			// So a resource with a slash at its end makes two slashes.
			"scope":                 {a.resource + "/.default"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion":      {assertion},
		},
	}.field(ctx, client, "access_token")
}

// fromMetadata requests a token of the managed identity of leasekeeper's machine.
func (a azure) fromMetadata(ctx context.Context, client *http.Client) (string, error) {
	query := url.Values{"api-version": {"2018-02-01"}, "resource": {a.resource}}
	return exchange{
		service: "the metadata server", fields: a.field + ".azure.metadataServer: it exists on Azure only, and the " +
			"machine needs a managed identity",
		url:    a.metadata + "/metadata/identity/oauth2/token?" + query.Encode(),
		header: http.Header{"Metadata": {"true"}},
	}.field(ctx, client, "access_token")
}

// Owns implements Method. Vault records nothing that tells objects apart, so the ledger's seal must prove it.
func (a azure) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+a.mount+"/login" && owner.Proven
}
