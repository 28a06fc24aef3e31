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

// What is asked of Vault, by its path.
const (
	issues   = "^/v1/" + place + "/creds/"
	logins   = "^/v1/auth/kubernetes/login$"
	renewals = "^/v1/(sys/leases/renew|auth/token/renew-accessor)$"
	ends     = "^/v1/(auth/token/revoke-accessor|sys/leases/revoke)$"
	others   = "^/v1/(sys/|auth/token/)"
)

// vaultFaults are drawn from, each as likely as the others. What mints is never held up before it reaches Vault for longer
// than its own request limit allows.
var vaultFaults = []testbed.Fault{
	{Action: testbed.DropAnswer, Path: issues},
	{Action: testbed.DropAnswer, Path: renewals},
	{Action: testbed.DropAnswer, Path: logins},
	{Action: testbed.DropAnswer, Path: ends},
	{Action: testbed.Cut, Path: issues},
	{Action: testbed.Cut},
	{Action: testbed.Answer, Status: http.StatusBadGateway, Body: gatewayPage, ContentType: "text/html"},
	{Action: testbed.AnswerAfter, Path: issues, Status: http.StatusBadGateway, Body: gatewayPage, ContentType: "text/html"},
	{Action: testbed.AnswerAfter, Path: ends, Status: http.StatusBadGateway, Body: gatewayPage, ContentType: "text/html"},
	{Action: testbed.Answer, Path: renewals, Status: http.StatusServiceUnavailable, Body: `{"errors":["Vault is sealed"]}`},
	{Action: testbed.Answer, Path: issues, Status: http.StatusInternalServerError, Body: `{"errors":["internal error"]}`},
	{Action: testbed.Refuse},
	{Action: testbed.Hang, Path: others},
	{Action: testbed.Delay, Path: others},
}

const gatewayPage = "<html><body><h1>502 Bad Gateway</h1></body></html>"

// stalledWatches holds back what the API server tells watchers.
var stalledWatches = testbed.Fault{Action: testbed.Stall, Query: "watch=true"}

// apiFaults: writes that are stored and whose answer is lost, and an API server that has a bad moment. None of its answers
// says that something is not there.
var apiFaults = []testbed.Fault{
	{Action: testbed.DropAnswer, Method: http.MethodPut, Path: "/dynamicsecrets/.*/status$"},
	{Action: testbed.DropAnswer, Method: http.MethodPut, Path: "/secrets/"},
	{Action: testbed.DropAnswer, Method: http.MethodPost, Path: "/secrets$"},
	{Action: testbed.DropAnswer, Method: http.MethodDelete, Path: "/secrets/"},
	{Action: testbed.DropAnswer, Method: http.MethodPatch},
	{Action: testbed.DropAnswer, Method: http.MethodPost},
	{Action: testbed.Answer, Method: http.MethodGet, Path: "/secrets/", Status: http.StatusInternalServerError, Body: failure(http.StatusInternalServerError, "InternalError")},
	{Action: testbed.Answer, Path: "/(secrets|dynamicsecrets)", Status: http.StatusServiceUnavailable, Body: failure(http.StatusServiceUnavailable, "ServiceUnavailable")},
	{Action: testbed.Cut},
	{Action: testbed.Refuse},
}

func failure(code int, reason string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":"a bad moment"}`, reason, code)
}

func (s *storm) breakWayToVault(raging, _ context.Context, random *rand.Rand) error {
	return s.breakWay(raging, random, s.vault, vaultFaults)
}

func (s *storm) breakWayToAPI(raging, _ context.Context, random *rand.Rand) error {
	return s.breakWay(raging, random, s.bed.API, apiFaults)
}

// breakWay breaks a request or two at a time. A fault that no request meets soon is over: else they would pile up while
// little is asked, and a manager that comes up would meet them all.
func (s *storm) breakWay(raging context.Context, random *rand.Rand, p *testbed.Proxy, faults []testbed.Fault) error {
	for s.holdBreath(raging) {
		pause := between(random, 100*time.Millisecond, 700*time.Millisecond)
		f := faults[random.IntN(len(faults))]
		f.Times, f.For, f.After = 1+random.IntN(2), pause, between(random, time.Millisecond, 1500*time.Millisecond)
		if err := p.Break(f); err != nil || !nap(raging, pause) {
			return err
		}
	}
	return nil
}

// met counts the faults that requests have met, by what they were for.
func met(p *testbed.Proxy, of []requestKind) (map[string]int, error) {
	seen, err := p.Requests("")
	counts := map[string]int{}
	for _, r := range seen {
		if r.Fault == "" {
			continue
		}
		for _, what := range of {
			if what.match.MatchString(r.Method + " " + r.Path) {
				counts[what.name+": "+faultNames[r.Fault]]++
				break
			}
		}
	}
	return counts, err
}

// requestKind tells requests apart, by "METHOD path".
type requestKind struct {
	name  string
	match *regexp.Regexp
}

var faultNames = map[testbed.Action]string{
	testbed.DropAnswer:  "answer lost after it was acted on",
	testbed.Cut:         "connection cut",
	testbed.Hang:        "no answer",
	testbed.Refuse:      "connection closed",
	testbed.Answer:      "error instead of an answer",
	testbed.AnswerAfter: "gateway's 502 after it was acted on",
	testbed.Delay:       "held up",
	testbed.Stall:       "stale",
}

var vaultRequests = []requestKind{
	{"Vault, issue", regexp.MustCompile("/creds/")},
	{"Vault, login", regexp.MustCompile("/login$")},
	{"Vault, renewal", regexp.MustCompile("/renew")},
	{"Vault, end", regexp.MustCompile("/revoke")},
	{"Vault, others", regexp.MustCompile("")},
}

var apiRequests = []requestKind{
	{"API server, write", regexp.MustCompile("^(PUT|PATCH|POST|DELETE) ")},
	{"API server, read or watch", regexp.MustCompile("")},
}
