package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Issue implements backend.Backend. The request reaches Vault at most once; see doc.go for what that takes.
func (b *Backend) Issue(ctx context.Context, s backend.Session, req backend.Request) (backend.Response, error) {
	c := call{
		path: req.Path, namespace: or(req.Namespace, b.spec.Namespace), token: s.Token, timeout: b.issueTimeout, mints: true,
	}
	if req.Write {
		body, err := writeBody(req.Parameters)
		if err != nil {
			return backend.Response{}, err
		}
		c.method, c.body = http.MethodPut, body
	} else {
		query, err := readQuery(req.Parameters)
		if err != nil {
			return backend.Response{}, err
		}
		c.method, c.query = http.MethodGet, query
	}
	r, err := b.do(ctx, c)
	if err != nil {
		return backend.Response{}, err
	}
	if !succeeded(r.status) {
		return backend.Response{}, b.issueFault(r, req)
	}
	return b.issued(r, req)
}

func writeBody(parameters map[string][]byte) (map[string]json.RawMessage, error) {
	body := make(map[string]json.RawMessage, len(parameters))
	for name, raw := range parameters {
		if !json.Valid(raw) {
			return nil, backend.Errorf(backend.Refused, "parameter %q is not JSON", name)
		}
		body[name] = raw
	}
	return body, nil
}

// readQuery makes a query of plain values; a list of plain values is repeated, which is how Vault reads lists.
func readQuery(parameters map[string][]byte) (url.Values, error) {
	query := url.Values{}
	for name, raw := range parameters {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil || list == nil {
			list = []json.RawMessage{raw}
		}
		for _, item := range list {
			text, ok := plain(item)
			if !ok {
				return nil, backend.Errorf(backend.Refused, "parameter %q is no plain value, which a Read needs; use method: Write where the path takes it", name)
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

// stillActing are pieces of error texts with which Vault says that it gave up waiting, not that nothing happens: what
// it waited for (a database, a plugin, the active node) may still act.
var stillActing = []string{
	"context deadline exceeded", "context canceled", "i/o timeout", "client.timeout exceeded", "request forwarding", "rpc error",
	"connection reset", "broken pipe", "unexpected eof", "transport is closing", "timed out", "driver: bad connection",
}

// sealedBefore are the texts of a server that turns a request away before it looks at it (Core.switchedLockHandleRequest
// and respondStandby; OpenBao uses the same words). The same words inside a longer text come from a server that was sealed while it worked.
var sealedBefore = []string{"Vault is sealed", "node is not active", "no active Vault instance found"}

// issueFault maps an answer to an issue. The question is always whether something may still come to life.
func (b *Backend) issueFault(r reply, req backend.Request) *backend.Error {
	what := fmt.Sprintf("asking for %q", req.Path)
	a, ok := r.parse()
	if r.redirect != "" {
		// A standby that was told not to forward led to another one: a change of leaders is under way.
		return backend.Errorf(backend.Unavailable, "%s: no active node behind %s", what, b.address())
	}
	if !ok || r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout {
		return b.gatewayFault(r, what)
	}
	// A name that Vault made up for this try would make another message of the same fault each time.
	said := generatedName.ReplaceAllString(a.quote(), "v-…")
	if actsStill(a) {
		return backend.Errorf(backend.NoResponse, "%s: Vault gave up waiting for it: %s", what, said)
	}
	switch r.status {
	case http.StatusNotFound:
		return notFound(a, req)
	case http.StatusForbidden:
		return b.issueDenied(a, req, what)
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return backend.Errorf(backend.Refused, "%s: Vault refuses it: %s", what, said)
	case http.StatusTooManyRequests, http.StatusPreconditionFailed:
		// Quotas and replication state are looked at before the request is routed (handleRequest in
		// vault/request_handling.go).
		return backend.Errorf(backend.Unavailable, "%s: Vault says to come back later: %s", what, said)
	case http.StatusServiceUnavailable:
		if a.says(sealedBefore...) {
			return backend.Errorf(backend.Unavailable, "%s: Vault does not serve now: %s", what, said)
		}
		return backend.Errorf(backend.NoResponse, "%s: Vault stopped serving, maybe half way: %s", what, said)
	}
	if r.status >= 400 && !notServing(r.status) {
		return backend.Errorf(backend.Failed, "%s: Vault answered %s: %s", what, statusText(r.status), said)
	}
	return backend.Errorf(backend.NoResponse, "%s: Vault answered %s: %s", what, statusText(r.status), said)
}

// generatedName is a user name as Vault's database engines make them: v-<who>-<role>-<20 characters>-<time>.
var generatedName = regexp.MustCompile(`\bv-[A-Za-z0-9_.-]*-[A-Za-z0-9]{20}-[0-9]{10}\b`)

func actsStill(a answer) bool {
	all := strings.ToLower(strings.Join(a.texts(), "\n"))
	return slices.ContainsFunc(stillActing, func(piece string) bool { return strings.Contains(all, piece) })
}

func notFound(a answer, req backend.Request) *backend.Error {
	if v, ok := kv2(a); ok {
		return v.gone(req.Path)
	}
	if said := strings.Join(a.Warnings, " "); strings.Contains(said, "versioned K/V") {
		mount, rest, _ := strings.Cut(req.Path, "/")
		return backend.Errorf(backend.NotFound, "%q is in a KV engine of version 2, whose paths have data/ after the mount: try %q", req.Path, mount+"/data/"+rest)
	}
	if len(a.texts()) > 0 || len(a.Warnings) > 0 {
		return backend.Errorf(backend.NotFound, "nothing is at %q: %s", req.Path, a.quote())
	}
	return backend.Errorf(backend.NotFound, "nothing is at %q", req.Path)
}

func (b *Backend) issueDenied(a answer, req backend.Request, what string) *backend.Error {
	if a.says("invalid token", "bad token", "token is expired") {
		return backend.Errorf(backend.LoginFailed, "%s: the token of this login is no longer valid", what)
	}
	capability := "read"
	if req.Write {
		capability = "update"
	}
	who := "the token in the Secret"
	if b.spec.Auth.Kubernetes != nil {
		who = fmt.Sprintf("role %q", b.spec.Auth.Kubernetes.Role)
	}
	return backend.Errorf(backend.Denied, "%s: policy of %s lacks %q on %q", what, who, capability, req.Path)
}

// issued reads a success. Whatever is wrong with it, Vault has answered: a lease may be alive, and the caller ends the
// session's token.
func (b *Backend) issued(r reply, req backend.Request) (backend.Response, error) {
	a, ok := r.parse()
	bad := func(why string) (backend.Response, error) {
		return backend.Response{}, backend.Errorf(backend.InvalidResponse, "the answer for %q %s", req.Path, why)
	}
	switch {
	case r.tooLong:
		return bad(fmt.Sprintf("has more than %d MiB", maxAnswerBytes>>20))
	case len(r.body) == 0:
		return bad("is empty: does the path give out anything, and is the method right?")
	case !ok:
		return bad("is not in Vault's words: is the address that of Vault?")
	case !isNull(a.WrapInfo):
		return bad("is wrapped, which is not supported: take the wrapping off the policy")
	case a.LeaseID != "" && !ofPath(req.Path, a.LeaseID):
		// End trusts no lease id that is not one of the record's path.
		return bad("has a lease of another path: give the path as Vault knows it, and a namespace in vault.namespace")
	}
	data, err := secretData(a, req)
	if err != nil {
		return backend.Response{}, err
	}
	return backend.Response{
		LeaseID: a.LeaseID, Data: data,
		Term: lease.Term{At: r.at, Duration: seconds(a.LeaseDuration), Renewable: a.Renewable, Capped: a.capped()},
	}, nil
}
