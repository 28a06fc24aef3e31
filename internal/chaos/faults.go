package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Paths of requests to Vault.
const (
	issuances   = "^/v1/" + runName + "/creds/"
	logins      = "^/v1/auth/kubernetes/login$"
	renewals    = "^/v1/(sys/leases/renew|auth/token/renew-accessor)$"
	revocations = "^/v1/(auth/token/revoke-accessor|sys/leases/revoke)$"
	others      = "^/v1/(sys/|auth/token/)"
)

// vaultFaults are equally likely. None delays an issuance on its way to Vault: Vault could then mint after
// --request-limit.
var vaultFaults = []testbed.Fault{
	{Action: testbed.DropAnswer, Path: issuances},
	{Action: testbed.DropAnswer, Path: renewals},
	{Action: testbed.DropAnswer, Path: logins},
	{Action: testbed.DropAnswer, Path: revocations},
	{Action: testbed.Cut, Path: issuances},
	{Action: testbed.Cut},
	{Action: testbed.Answer, Status: http.StatusBadGateway, Body: gatewayPage, ContentType: "text/html"},
	{Action: testbed.AnswerAfter, Path: issuances, Status: http.StatusBadGateway, Body: gatewayPage,
		ContentType: "text/html"},
	{Action: testbed.AnswerAfter, Path: revocations, Status: http.StatusBadGateway, Body: gatewayPage,
		ContentType: "text/html"},
	{Action: testbed.Answer, Path: renewals, Status: http.StatusServiceUnavailable,
		Body: `{"errors":["Vault is sealed"]}`},
	{Action: testbed.Answer, Path: issuances, Status: http.StatusInternalServerError,
		Body: `{"errors":["internal error"]}`},
	{Action: testbed.Refuse},
	{Action: testbed.Hang, Path: others},
	{Action: testbed.Delay, Path: others},
}

const gatewayPage = "<html><body><h1>502 Bad Gateway</h1></body></html>"

// stalledWatches holds back watch events.
var stalledWatches = testbed.Fault{Action: testbed.Stall, Query: "watch=true"}

// apiFaults lose responses of stored writes, or fail requests. No response reports that an object does not exist.
var apiFaults = []testbed.Fault{
	{Action: testbed.DropAnswer, Method: http.MethodPut, Path: "/dynamicsecrets/.*/status$"},
	{Action: testbed.DropAnswer, Method: http.MethodPut, Path: "/secrets/"},
	{Action: testbed.DropAnswer, Method: http.MethodPost, Path: "/secrets$"},
	{Action: testbed.DropAnswer, Method: http.MethodDelete, Path: "/secrets/"},
	{Action: testbed.DropAnswer, Method: http.MethodPatch},
	{Action: testbed.DropAnswer, Method: http.MethodPost},
	{Action: testbed.Answer, Method: http.MethodGet, Path: "/secrets/", Status: http.StatusInternalServerError,
		Body: failure(http.StatusInternalServerError, "InternalError")},
	{Action: testbed.Answer, Path: "/(secrets|dynamicsecrets)", Status: http.StatusServiceUnavailable,
		Body: failure(http.StatusServiceUnavailable, "ServiceUnavailable")},
	{Action: testbed.Cut},
	{Action: testbed.Refuse},
}

func failure(code int, reason string) string {
	const status = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":"injected"}`
	return fmt.Sprintf(status, reason, code)
}

func (s *storm) injectVaultFaults(stormCtx, _ context.Context, random *rand.Rand) error {
	return s.injectFaults(stormCtx, random, s.vault, vaultFaults)
}

func (s *storm) injectAPIFaults(stormCtx, _ context.Context, random *rand.Rand) error {
	return s.injectFaults(stormCtx, random, s.bed.API, apiFaults)
}

// injectFaults breaks one or two requests at a time. Each fault expires, so that faults do not pile up while the
// manager is down.
func (s *storm) injectFaults(
	stormCtx context.Context, random *rand.Rand, p *testbed.Proxy, faults []testbed.Fault,
) error {
	for s.awaitFaultsAllowed(stormCtx) {
		pause := randomDuration(random, 100*time.Millisecond, 700*time.Millisecond)
		f := faults[random.IntN(len(faults))]
		f.Times, f.For = 1+random.IntN(2), pause
		f.After = randomDuration(random, time.Millisecond, 1500*time.Millisecond)
		if err := p.Break(f); err != nil || !sleep(stormCtx, pause) {
			return err
		}
	}
	return nil
}

// countFaults counts the requests that met a fault, by kind.
func countFaults(p *testbed.Proxy, kinds []requestKind) (map[string]int, error) {
	seen, err := p.Requests("")
	counts := map[string]int{}
	for _, r := range seen {
		if r.Fault == "" {
			continue
		}
		for _, kind := range kinds {
			if kind.match.MatchString(r.Method + " " + r.Path) {
				counts[kind.name+": "+faultNames[r.Fault]]++
				break
			}
		}
	}
	return counts, err
}

// requestKind groups requests by "METHOD path".
type requestKind struct {
	name  string
	match *regexp.Regexp
}

var faultNames = map[testbed.Action]string{
	testbed.DropAnswer:  "response lost",
	testbed.Cut:         "connection cut",
	testbed.Hang:        "no response",
	testbed.Refuse:      "connection closed",
	testbed.Answer:      "error response",
	testbed.AnswerAfter: "502 after the request succeeded",
	testbed.Delay:       "delayed",
	testbed.Stall:       "stalled",
}

var vaultRequests = []requestKind{
	{"Vault, issuance", regexp.MustCompile("/creds/")},
	{"Vault, login", regexp.MustCompile("/login$")},
	{"Vault, renewal", regexp.MustCompile("/renew")},
	{"Vault, revocation", regexp.MustCompile("/revoke")},
	{"Vault, other", regexp.MustCompile("")},
}

var apiRequests = []requestKind{
	{"API server, write", regexp.MustCompile("^(PUT|PATCH|POST|DELETE) ")},
	{"API server, read or watch", regexp.MustCompile("")},
}
