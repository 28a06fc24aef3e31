package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// Issue implements backend.Backend. The request reaches Vault at most once; see doc.go for what that takes.
//
// The session of a response without a lease is closed here. It is not kept for Read: the ledger names it, so it is
// revoked with its record, and that must not close a session that other objects use.
func (b *Backend) Issue(
	ctx context.Context, s backend.Session, src v1alpha1.SecretSource,
) (backend.Response, error) {
	req, err := requestOf(src)
	if err != nil {
		return backend.Response{}, err
	}
	in := inputsOf(s)
	c, err := b.engineCall(req, in)
	if err != nil {
		return backend.Response{}, err
	}
	c.token, c.timeout, c.mints = s.Token, b.issueTimeout, true
	r, err := b.do(ctx, c)
	if err != nil {
		return backend.Response{}, err
	}
	if !succeeded(r.status) {
		return backend.Response{}, b.diagnose(ctx, r, req, b.issueFault(r, req, in.secrets...))
	}
	issued, err := b.issued(r, req, in)
	if err == nil && issued.Kind != v1alpha1.ResponseLeased {
		b.closeSession(ctx, session{token: s.Token, owned: true})
	}
	return issued, err
}

// engineCall is the request of a source, without a token.
func (b *Backend) engineCall(req *v1alpha1.VaultRequest, in *inputs) (call, error) {
	c := call{path: req.Path, namespace: or(req.Namespace, b.spec.Namespace), engine: true,
		limit: maxIssuedBytes}
	if req.Method == v1alpha1.MethodWrite {
		body, err := writeBody(req.Parameters)
		if err == nil {
			err = in.generate(req.PrivateKey)
		}
		maps.Copy(body, in.parameters)
		c.method, c.body = http.MethodPut, body
		return c, err
	}
	query, err := readQuery(req.Parameters)
	c.method, c.query = http.MethodGet, query
	return c, err
}

func writeBody(parameters map[string]apiextensionsv1.JSON) (map[string]json.RawMessage, error) {
	body := make(map[string]json.RawMessage, len(parameters))
	for name, value := range parameters {
		if !json.Valid(value.Raw) {
			return body, backend.Errorf(backend.Refused, "parameter %q is not JSON", name)
		}
		body[name] = value.Raw
	}
	return body, nil
}

// readQuery makes a query of plain values. A list of plain values is repeated: that is how Vault reads lists.
func readQuery(parameters map[string]apiextensionsv1.JSON) (url.Values, error) {
	query := url.Values{}
	for name, value := range parameters {
		var list []json.RawMessage
		if json.Unmarshal(value.Raw, &list) != nil || list == nil {
			list = []json.RawMessage{value.Raw}
		}
		for _, item := range list {
			text, ok := plain(item)
			if !ok {
				return nil, backend.Errorf(backend.Refused,
					"parameter %q is not a plain value, which a Read needs: use method: Write if the path accepts it",
					name)
			}
			query.Add(name, text)
		}
	}
	return query, nil
}

// plain is the text of a string, a number or a boolean.
func plain(raw json.RawMessage) (string, bool) {
	raw = bytes.TrimSpace(raw)
	var text string
	switch {
	case !json.Valid(raw) || isNull(raw) || raw[0] == '{' || raw[0] == '[':
		return "", false
	case raw[0] == '"':
		return text, json.Unmarshal(raw, &text) == nil
	}
	return string(raw), true
}

// generatedName is a user name of Vault's database engines: v-<who>-<role>-<20 characters>-<time>.
var generatedName = regexp.MustCompile(`\bv-[A-Za-z0-9_.-]*-[A-Za-z0-9]{20}-[0-9]{10}\b`)

// issueFault maps a failed response to a request for a credential. What matters is whether Vault may still mint.
func (b *Backend) issueFault(r rawResponse, req *v1alpha1.VaultRequest, secrets ...string) *backend.Error {
	what := fmt.Sprintf("requesting %q", req.Path)
	a, ok := r.parse()
	if r.redirect != "" {
		// A standby that was told not to forward redirected to another standby: the leader is changing.
		return backend.Errorf(backend.Unavailable, "%s: no active node behind %s", what, b.address())
	}
	if !ok || r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout {
		return b.gatewayFault(r, what)
	}
	// A name that Vault generates for each attempt would change the message of the same fault.
	text := generatedName.ReplaceAllString(a.errorText(secrets...), "v-…")
	if fault := b.outageFault(r, a, what, text); fault != nil {
		return fault
	}
	if a.says(stillActing) {
		return backend.Errorf(backend.NoResponse, "%s: Vault stopped waiting: %s", what, text)
	}
	switch r.status {
	case http.StatusNotFound:
		return notFound(a, req, secrets...)
	case http.StatusForbidden:
		return b.issueDenied(a, req, what)
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge,
		http.StatusUnprocessableEntity:
		if a.says(noneAvailable) {
			return backend.Errorf(backend.QuotaExceeded, "%s: all accounts of the set are checked out: "+
				"wait until one is checked in, or add accounts to the set", what)
		}
		return backend.Errorf(backend.Refused, "%s: Vault refused: %s", what, text)
	case http.StatusTooManyRequests:
		return quotaFault(a, what, secrets...)
	case http.StatusPreconditionFailed:
		// Vault checks the replication state before it routes the request (handleRequest in
		// vault/request_handling.go).
		return backend.Errorf(backend.Unavailable, "%s: Vault asks to retry later: %s", what, text)
	case http.StatusServiceUnavailable:
		return backend.Errorf(backend.NoResponse, "%s: Vault stopped serving, perhaps after it had begun: %s",
			what, text)
	}
	kind := backend.NoResponse
	if r.status >= 400 && !notServing(r.status) {
		kind = backend.Failed
	}
	return backend.Errorf(kind, "%s: Vault responded %s: %s", what, statusText(r.status), text)
}

// outageFault is the error for a response of a node that is not active, or lost its active node; nil: it is none. A
// node that rejected the request before it handled it has done nothing. Otherwise the request may have reached an
// active node.
func (b *Backend) outageFault(r rawResponse, a response, what, text string) *backend.Error {
	serverError := r.status == http.StatusInternalServerError || r.status == http.StatusServiceUnavailable
	switch {
	case serverError && a.says(notHandled), a.says(noActiveNode) && r.direct:
		return backend.Errorf(backend.Unavailable, "%s: Vault does not serve now: %s", what, text)
	case a.says(noActiveNode):
		return backend.Errorf(backend.NoResponse,
			"%s: the standby found no active node, and may have forwarded the request to one before: %s", what, text)
	case a.says(lostActive):
		return backend.Errorf(backend.NoResponse, "%s: the node is not active any more: %s", what, text)
	}
	return nil
}

func notFound(a response, req *v1alpha1.VaultRequest, secrets ...string) *backend.Error {
	if v, ok := kv2(a); ok {
		return v.unreadable(req)
	}
	if a.says(versionedKV) {
		return versionedPath(req.Path, "")
	}
	if len(a.errorTexts()) > 0 || len(a.Warnings) > 0 {
		return backend.Errorf(backend.NotFound, "nothing exists at %q: %s", req.Path, a.errorText(secrets...))
	}
	if pinned(req) {
		return backend.Errorf(backend.NotFound, "nothing exists at %q in the version of the parameter version: "+
			"check the path and the version", req.Path)
	}
	return backend.Errorf(backend.NotFound, "nothing exists at %q: check the path", req.Path)
}

func (b *Backend) issueDenied(a response, req *v1alpha1.VaultRequest, what string) *backend.Error {
	if a.says(tokenInvalid) {
		return backend.Errorf(backend.LoginFailed, "%s: the token of this login is no longer valid", what)
	}
	capability := "read"
	if req.Method == v1alpha1.MethodWrite {
		capability = "update"
	}
	who := "the issuing token"
	if issuer, err := auth.Issuer(b.spec, b.namespace); err == nil {
		who = issuer.String()
	}
	return backend.Errorf(backend.Denied, "%s: policy of %s lacks %q on %q", what, who, capability, req.Path)
}

// issued reads a success. An error means that the response cannot be used. Its lease may be alive; the caller revokes
// it with the session.
func (b *Backend) issued(r rawResponse, req *v1alpha1.VaultRequest, in *inputs) (backend.Response, error) {
	a, ok := r.parse()
	problem := ""
	switch {
	case r.tooLong:
		problem = fmt.Sprintf("has more than %s, and a Secret holds 1 MiB: store less at the path", size(r.limit))
	case !ok && len(r.body) == 0:
		problem = "is empty: check that the path returns something, and the method"
	case !ok:
		problem = "is not in Vault's format: check the provider's address"
	case !isNull(a.WrapInfo):
		problem = "is wrapped, which is not supported: remove the wrapping from the policy"
	case a.LeaseID != "" && !ofPath(req.Path, a.LeaseID):
		// Revoke accepts only a lease id of the record's path.
		problem = "has a lease of another path: set the path as Vault knows it, and its namespace in vault.namespace"
	}
	if problem != "" {
		return backend.Response{}, backend.Errorf(backend.InvalidResponse, "the response for %q %s", req.Path, problem)
	}
	fields, err := secretFields(a, req)
	if err != nil {
		return backend.Response{}, err
	}
	if in.key != nil {
		if err := in.key.addTo(fields, req.Path); err != nil {
			return backend.Response{}, err
		}
	}
	response := backend.Response{Forms: forms(fields), Term: lease.Term{At: r.at, Capped: a.says(ttlCapped)}}
	if response.Data, err = secretData(fields, req); err != nil {
		return backend.Response{}, err
	}
	return response, classify(&response, r, a, req, fields)
}
