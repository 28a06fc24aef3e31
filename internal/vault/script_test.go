package vault

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// The base of the fuzz targets: a Vault without a network, with arbitrary responses.

// script sends its responses in turn and repeats the last one. It records the requests.
type script struct {
	answers []says
	// by path, before answers.
	by    map[string]says
	asked []asked
}

// asked is a request and its response.
type asked struct {
	request
	host   string
	query  url.Values
	answer says
}

// RoundTrip implements http.RoundTripper.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	// Read it the way a server does.
	seen, err := url.ParseRequestURI(r.URL.RequestURI())
	if err != nil {
		return nil, err
	}
	got := asked{host: r.URL.Scheme + "://" + r.URL.Host, query: seen.Query(), request: request{
		method: r.Method, path: strings.TrimPrefix(seen.Path, "/v1/"), token: r.Header.Get("X-Vault-Token"),
		namespace: r.Header.Get("X-Vault-Namespace"), direct: r.Header.Get("X-Vault-No-Request-Forwarding") != "",
	}}
	if r.Body != nil {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = json.Unmarshal(raw, &got.body)
	}
	answer, ok := s.by[got.path]
	if !ok && len(s.answers) > 0 {
		answer = s.answers[0]
		if len(s.answers) > 1 {
			s.answers = s.answers[1:]
		}
	}
	got.answer = answer
	s.asked = append(s.asked, got)
	header := answer.header
	if header == nil {
		header = http.Header{}
	}
	body := io.NopCloser(strings.NewReader(answer.body))
	return &http.Response{StatusCode: answer.status, Header: header, Body: body, Request: r}, nil
}

func (s *script) of(path string) []asked {
	var found []asked
	for _, a := range s.asked {
		if a.path == path {
			found = append(found, a)
		}
	}
	return found
}

// These do not look like a token or a password, so no pattern matches them: to remove them from texts, the code must
// know them.
const (
	plainToken    = "PlainSession/Token+of.the-test"
	plainKeeper   = "PlainKeeper/Token+of.the-test"
	plainPassword = "PlainCredential/of.the-test"
)

// newScripted is a backend over a script, with auth/kubernetes and a keeper that is logged in.
func newScripted(s *script) *Backend {
	clock := clocktesting.NewFakePassiveClock(epoch)
	kube := &fakeKube{}
	client := &http.Client{Transport: s, CheckRedirect: noRedirect}
	keeper := newCached[session](clock)
	keeper.has, keeper.value, keeper.createdAt = true, session{token: plainKeeper}, epoch
	spec := newProviderSpec()
	spec.KeeperAuth = &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
		Role: "keeper", ServiceAccountRef: serviceAccount("leasekeeper", "system"),
	}}
	return &Backend{
		clock: clock, kube: kube, serviceAccounts: newServiceAccountTokens(clock, kube),
		sleep:   func(context.Context, time.Duration) error { return nil },
		timeout: time.Minute, issueTimeout: time.Minute, spec: spec, base: mustURL("https://vault.test:8200"),
		redirectHosts: must(ParseHosts([]string{"other.test"})),
		http:          client, minting: client, keeper: keeper, readers: newSessionCache(clock),
		breaker: &breaker{clock: clock},
	}
}

// status makes any number one that an HTTP client hands out: 200 to 999.
func status(n uint16) int {
	if n >= 200 && n <= 999 {
		return int(n)
	}
	return 200 + int(n)%800
}

// planted puts secrets into a response that has a place for them.
func planted(body []byte) string {
	plain := strings.NewReplacer("TOKEN", plainToken, "KEEPER", plainKeeper, "PASSWORD", plainPassword)
	return plain.Replace(string(body))
}

// turns reads responses, one per line: a status, a space and a body.
func turns(text string) []says {
	var all []says
	for line := range strings.SplitSeq(text, "\n") {
		code, body, _ := strings.Cut(line, " ")
		n, _ := strconv.ParseUint(code, 10, 16)
		all = append(all, says{status: status(uint16(n)), body: planted([]byte(body))})
	}
	return all
}

// maxMessage fits into a condition with room for more.
const maxMessage = 8 << 10

// kinds are all kinds of errors.
var kinds = map[backend.ErrorKind]bool{
	backend.NoResponse: true, backend.Unavailable: true, backend.Failed: true,
	backend.Throttled: true, backend.QuotaExceeded: true,
	backend.Denied: true, backend.LoginFailed: true, backend.NotFound: true,
	backend.Refused: true, backend.InvalidResponse: true, backend.Gone: true,
	backend.Mismatch: true, backend.Disputed: true, backend.TLS: true,
	backend.NoServiceAccount: true, backend.Misconfigured: true,
}

// fit fails unless err is nil or an error of the Backend that can be shown: of a known kind, in one bounded line, and
// without the secrets that were sent.
func fit(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		return
	}
	var ours *backend.Error
	if !errors.As(err, &ours) {
		t.Fatalf("an error of type %T: %v", err, err)
	}
	text := err.Error()
	if !kinds[ours.Kind] {
		t.Errorf("the kind %q of %q", ours.Kind, text)
	}
	readable := text != "" && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
	if !readable || len(text) > maxMessage {
		t.Errorf("this does not fit into a condition, with %d bytes: %q", len(text), text)
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%q is shown in %q", secret, text)
		}
	}
}

// fields reads the top level of a response in another way than the code; nil if it is not an object.
func fields(body string) map[string]any {
	var all map[string]any
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&all) != nil || decoder.More() {
		return nil
	}
	return all
}

// once reports that the object has none of the keys in a second spelling. encoding/json accepts both as one key, in any
// order. Vault writes each once.
func once(all map[string]any, keys ...string) bool {
	for _, key := range keys {
		for other := range all {
			if other != key && strings.EqualFold(other, key) {
				return false
			}
		}
	}
	return true
}
