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

// What the fuzz targets stand on: a Vault without a network, that answers whatever it is told to.

// script answers in turn, the last answer again and again, and keeps what it was asked.
type script struct {
	answers []says
	// by path, before answers.
	by    map[string]says
	asked []asked
}

// asked is a request and what was answered to it.
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
	// Read as a server reads it.
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
	return &http.Response{StatusCode: answer.status, Header: header, Body: io.NopCloser(strings.NewReader(answer.body)), Request: r}, nil
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

// These look like no token and no password, so that no pattern finds them: what keeps them out of texts must know them.
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
	keeper := newCached[keeperSession](clock)
	keeper.has, keeper.value, keeper.madeAt = true, keeperSession{token: plainKeeper}, epoch
	spec := newProviderSpec()
	spec.KeeperAuth = &v1alpha1.VaultKeeperAuth{Kubernetes: &v1alpha1.VaultKeeperKubernetesAuth{Role: "keeper"}}
	return &Backend{
		clock: clock, kube: kube, accounts: newAccounts(clock, kube), sleep: func(context.Context, time.Duration) error { return nil },
		timeout: time.Minute, issueTimeout: time.Minute, spec: spec, base: mustURL("https://vault.test:8200"), http: client, minting: client, keeper: keeper, gate: &gate{clock: clock},
	}
}

// status makes any number one that an HTTP client hands out: 200 to 999.
func status(n uint16) int {
	if n >= 200 && n <= 999 {
		return int(n)
	}
	return 200 + int(n)%800
}

// planted puts secrets into an answer where it has a place for them.
func planted(body []byte) string {
	return strings.NewReplacer("TOKEN", plainToken, "KEEPER", plainKeeper, "PASSWORD", plainPassword).Replace(string(body))
}

// turns reads answers, one a line: a status, and a body behind a blank.
func turns(text string) []says {
	var all []says
	for line := range strings.SplitSeq(text, "\n") {
		code, body, _ := strings.Cut(line, " ")
		n, _ := strconv.ParseUint(code, 10, 16)
		all = append(all, says{status: status(uint16(n)), body: planted([]byte(body))})
	}
	return all
}

// maxMessage is what fits into a condition with room for more.
const maxMessage = 8 << 10

// kinds are all there are.
var kinds = map[backend.ErrorKind]bool{
	backend.NoResponse: true, backend.Unavailable: true, backend.Failed: true, backend.Denied: true, backend.LoginFailed: true, backend.NotFound: true,
	backend.Refused: true, backend.InvalidResponse: true, backend.Gone: true, backend.Mismatch: true, backend.Disputed: true, backend.TLS: true,
	backend.NoServiceAccount: true, backend.Misconfigured: true,
}

// fit fails unless err is nil or an error of the Lessor's that may be shown to people: of a kind, in one bounded line,
// and without the secrets that were sent.
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
	if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || len(text) > maxMessage {
		t.Errorf("this is not fit for a condition, with %d bytes: %q", len(text), text)
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%q is told in %q", secret, text)
		}
	}
}

// says of an answer, read by another way than the code's: the fields at the top; nil for what is no object.
func fields(body string) map[string]any {
	var all map[string]any
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&all) != nil || decoder.More() {
		return nil
	}
	return all
}

// once says that the object has no key twice in another spelling: encoding/json takes them for one, in whatever order
// they come. Vault writes each once.
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
