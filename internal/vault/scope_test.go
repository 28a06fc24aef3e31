package vault

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	rateLimited = "request path \"x\": rate limit quota exceeded"
	quotaFull   = "1 error occurred:\n\t* lease count quota exceeded\n\n"
)

// Refusals of one path or role, which must not stop the others.
var scoped = map[string]says{
	"a rate limit":             errs(429, rateLimited),
	"a lease count quota":      errs(429, quotaFull),
	"a gateway's 403":          {status: 403, body: "<html>blocked</html>"},
	"a gateway's 404":          {status: 404, body: "<html>not here</html>"},
	"a gateway's 429":          {status: 429, body: "slow down"},
	"a gateway's 502":          {status: 502, body: "<html>bad gateway</html>"},
	"a gateway's 503":          {status: 503, body: "<html>unavailable</html>"},
	"a gateway's 504":          {status: 504, body: "<html>gateway time-out</html>"},
	"a broken connection":      {hangUp: true},
	"a sealed namespace":       errs(503, "namespace is sealed"),
	"an error of the database": errs(500, "connection refused"),
}

func TestARefusalOfOnePathStopsNoOther(t *testing.T) {
	for name, answer := range scoped {
		for _, refused := range []string{"sys/leases/lookup", "sys/leases/revoke", "auth/token/lookup-accessor"} {
			t.Run(name+" on "+refused, func(t *testing.T) {
				f := newFixture(t)
				f.server.always(refused, answer)
				f.server.always("sys/leases/renew", ok(renewed))
				f.server.always("sys/health", ok(healthy))
				for range 3 {
					_ = f.Revoke(t.Context(), record(), owner)
					_ = f.Lookup(t.Context(), record())
					if err := f.renew(t); err != nil {
						t.Fatalf("renewals are refused too: %v", err)
					}
				}
				if f.driver.Recoveries(f.provider) != 0 || !f.LastOutage().IsZero() {
					t.Error("it counts as an outage")
				}
			})
		}
	}
}

func TestARefusalOfOneRoleStopsNoOther(t *testing.T) {
	for name, answer := range scoped {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			login := f.server.answers["auth/kubernetes/login"]
			f.server.on("auth/kubernetes/login", func(r request) says {
				if r.body["role"] == "app" {
					return answer
				}
				return login(r)
			})
			f.server.always("sys/leases/renew", ok(renewed))
			f.server.always("sys/health", ok(healthy))
			for range 3 {
				if _, err := f.Login(t.Context(), who); err == nil {
					t.Fatal("the login succeeded")
				}
				if err := f.renew(t); err != nil {
					t.Fatalf("the keeper's login is refused too: %v", err)
				}
			}
			if !f.LastOutage().IsZero() {
				t.Error("it counts as an outage")
			}
		})
	}
}

// A gateway that fails for long lists serves the look-ups that replace them.
func TestListsThatAGatewayFailsLeaveTheLookUps(t *testing.T) {
	for _, status := range []int{502, 503, 504, 520} {
		f := newFixture(t)
		f.server.always("sys/health", ok(healthy))
		f.server.always("sys/leases/lookup", ok(aliveLease))
		for range 3 { // rounds
			for path := range 2 * severalPaths {
				list := fmt.Sprint("database/creds/", path)
				f.server.always("sys/leases/lookup/"+list, says{status: status, body: "<html>"})
				_, err := f.listKeys(t.Context(), "", list)
				wantKind(t, err, backend.NoResponse)
			}
			wantNil(t, f.Lookup(t.Context(), record()))
		}
		if !f.LastOutage().IsZero() {
			t.Errorf("%d counts as an outage", status)
		}
	}
}

// Something in front of the server may serve its health and nothing else.
func TestSeveralPathsThatFailAreAnOutage(t *testing.T) {
	for name, c := range map[string]struct {
		paths  int
		served bool
		outage bool
	}{
		"nothing is served":           {paths: severalPaths, outage: true},
		"another path is served":      {paths: severalPaths, served: true},
		"too few to say that of more": {paths: severalPaths - 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/health", ok(healthy))
			f.server.always("sys/leases/lookup", ok(aliveLease))
			wantNil(t, f.Lookup(t.Context(), record())) // the keeper is logged in
			for path, request := range []struct {
				path string
				send func()
			}{
				{"sys/leases/renew", func() { _ = f.renew(t) }},
				{"auth/token/lookup-accessor", func() { _ = f.Revoke(t.Context(), record(), owner) }},
				{"sys/leases/revoke", func() { _ = f.revokeOnce(t.Context(), record()) }},
			} {
				if path == c.paths {
					break
				}
				f.server.always(request.path, says{status: 502, body: "<html>"})
				request.send()
				request.send()
				if c.served {
					wantNil(t, f.Lookup(t.Context(), record()))
				}
			}
			if f.LastOutage().IsZero() == c.outage {
				t.Errorf("the last outage was at %s", f.LastOutage())
			}
		})
	}
}

func TestAnOutageOfTheServerIsReported(t *testing.T) {
	for name, c := range map[string]struct {
		answer, health says
	}{
		"it is sealed":                  {errs(503, "Vault is sealed"), ok(healthy)},
		"a gateway fails for all paths": {says{status: 502, body: "<html>"}, says{status: 502, body: "<html>"}},
		"it hangs up":                   {says{hangUp: true}, says{hangUp: true}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/health", c.health)
			f.server.always("sys/leases/renew", c.answer)
			_ = f.renew(t)
			if !f.LastOutage().Equal(epoch) {
				t.Errorf("the last outage was at %s", f.LastOutage())
			}
			f.clock.SetTime(epoch.Add(FirstProbe / 2))
			_ = f.renew(t)
			if !f.LastOutage().Equal(f.clock.Now()) {
				t.Errorf("a request was refused for the outage, which was last noticed at %s", f.LastOutage())
			}
		})
	}
}

// Nobody but the objects of the path waits for a token that the API server does not issue.
func TestATokenThatIsNotIssuedIsNoOutage(t *testing.T) {
	f := newFixture(t)
	f.kube.refuse = apierrors.NewInternalError(errors.New("failed calling webhook: context deadline exceeded"))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, backend.Unavailable)
	if !f.LastOutage().IsZero() {
		t.Error("it counts as an outage of the server")
	}
}

func TestOneProbeIsSentToAPathThatIsLimited(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", errs(429, rateLimited))
	first := f.renew(t)
	wantKind(t, first, backend.Throttled)
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() { wantKind(t, f.renew(t), backend.Throttled) })
	}
	wait.Wait()
	if n := len(f.server.requests("sys/leases/renew")); n != 2 {
		t.Errorf("%d requests were sent, want the first and one probe", n)
	}
	f.server.always("sys/leases/renew", ok(renewed))
	f.clock.SetTime(f.clock.Now().Add(lastProbe))
	for range 3 {
		wantNil(t, f.renew(t))
	}
}

func TestLimitedPathsAreForgotten(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"a", "b", "c", "d"} {
		f.server.always("sys/leases/lookup/"+path, errs(429, rateLimited))
		_, err := f.listKeys(t.Context(), "", path)
		wantKind(t, err, backend.Throttled)
		f.clock.SetTime(f.clock.Now().Add(2 * scopeMemory))
	}
	if n := len(f.scopes.breakers); n != 1 {
		t.Errorf("%d paths are remembered, want only the last", n)
	}
}

func TestASessionIsExtendedIfAQuotaRefusesLogins(t *testing.T) {
	for name, refusal := range map[string]says{"leases": errs(429, quotaFull), "a rate": errs(429, rateLimited)} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/renew", ok(renewed))
			wantNil(t, f.renew(t))
			f.server.always("auth/kubernetes/login", refusal)
			f.server.always("auth/token/renew-self", ok(`{"auth":{"client_token":"hvs.keeper1",`+
				`"accessor":"acc1","lease_duration":3600,"renewable":true}}`))
			for range 5 { // for five hours
				f.clock.SetTime(f.clock.Now().Add(59 * time.Minute))
				wantNil(t, f.renew(t))
			}
			if n := len(f.server.requests("auth/token/renew-self")); n != 5 {
				t.Errorf("the session was extended %d times, want 5", n)
			}
			if len(f.server.requests("auth/token/revoke-self")) != 0 {
				t.Error("the session was closed")
			}
		})
	}
}

func TestAQuotaNamesItsCauseWithoutThePath(t *testing.T) {
	f := newFixture(t)
	f.server.always("auth/kubernetes/login", errs(429, quotaFull))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, backend.QuotaExceeded)
	wantText(t, err, "raise the quota")
	_, again := f.Login(t.Context(), who)
	wantKind(t, again, backend.QuotaExceeded)
}

func TestLongResponses(t *testing.T) {
	page := strings.Repeat("x", 65<<10)
	f := newFixture(t)
	f.server.always("sys/leases/renew", ok(page))
	err := f.renew(t)
	wantKind(t, err, backend.InvalidResponse)
	wantText(t, err, "more than 64 KiB")

	keys := `{"data":{"keys":["` + strings.Repeat(strings.Repeat("id", 22)+"\",\"", 1<<14) + `end"]}}`
	f.server.always("sys/leases/lookup/"+readPath, ok(keys))
	ids, err := f.List(t.Context(), record())
	wantNil(t, err)
	if !ids[readPath+"/end"] {
		t.Error("a list of 768 KiB was not read")
	}
	f.server.always("sys/leases/lookup/"+readPath, ok(page+strings.Repeat(page, 65)))
	_, err = f.List(t.Context(), record())
	wantText(t, err, "more than 4 MiB")

	f.server.always("sys/leases/renew", says{status: http.StatusBadGateway, body: page})
	wantDown(t, f.renew(t))
	wantDown(t, f.Lookup(t.Context(), record())) // the breaker is open
	if len(f.server.requests("sys/leases/lookup")) != 0 {
		t.Error("a long page of a gateway that is down hides that it is down")
	}
}
