package vault

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func (f *fixture) renew(t *testing.T) error {
	_, err := f.Renew(t.Context(), record(), time.Hour)
	return err
}

func TestOneProbeIsSentToAServerThatIsDown(t *testing.T) {
	down := map[string]says{
		"503":       {status: 503, body: `{"errors":["Vault is sealed"]}`},
		"502":       {status: 502, body: `<html>bad gateway</html>`},
		"a hang-up": {hangUp: true},
		"a standby": {status: 473, body: `{"errors":[]}`},
	}
	for name, answer := range down {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/renew", answer)
			wantDown(t, f.renew(t))
			sent := len(f.server.requests("sys/leases/renew"))
			f.clock.SetTime(f.clock.Now().Add(FirstProbe))
			var wait sync.WaitGroup
			for range 50 {
				wait.Go(func() { wantDown(t, f.renew(t)) })
			}
			wait.Wait()
			if n := len(f.server.requests("sys/leases/renew")) - sent; n != 1 {
				t.Errorf("%d requests were sent, want one probe", n)
			}
		})
	}
}

func wantDown(t *testing.T, err error) {
	t.Helper()
	if kind := backend.KindOf(err); err == nil || (kind != backend.Unavailable && kind != backend.NoResponse) {
		t.Errorf("a server that is down gave %v", err)
	}
}

func TestProbesBackOff(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", says{status: 503, body: `{"errors":["Vault is sealed"]}`})
	_ = f.renew(t)
	var pauses []time.Duration
	for since := time.Duration(0); len(pauses) < 4; since += 100 * time.Millisecond {
		before := len(f.server.requests("sys/leases/renew"))
		_ = f.renew(t)
		if len(f.server.requests("sys/leases/renew")) > before {
			pauses, since = append(pauses, since), 0
		}
		f.clock.SetTime(f.clock.Now().Add(100 * time.Millisecond))
	}
	if pauses[0] != FirstProbe || pauses[1] != 2*FirstProbe || pauses[2] != lastProbe || pauses[3] != lastProbe {
		t.Errorf("the pauses were %v", pauses)
	}
}

func TestARecoveryIsReportedOnce(t *testing.T) {
	var reported []string
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) {
		o.Changed = func(_ v1alpha1.Provider, up, recovered bool) {
			reported = append(reported, fmt.Sprint(up, recovered))
		}
	})
	f.server.always("sys/leases/renew", says{status: 503, body: `{"errors":["Vault is sealed"]}`})
	_ = f.renew(t)
	n := len(f.server.requests("sys/leases/renew"))
	if f.renew(t) == nil || len(f.server.requests("sys/leases/renew")) != n {
		t.Error("a request was sent before the first probe was due")
	}
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	_ = f.renew(t) // the first probe fails
	f.server.always("sys/leases/renew", ok(renewed))
	f.clock.SetTime(f.clock.Now().Add(lastProbe))
	for range 3 {
		if err := f.renew(t); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(reported, []string{"false false", "true true"}) || f.driver.Recoveries(f.provider) != 1 {
		t.Errorf("it reported %v and counted %d recoveries", reported, f.driver.Recoveries(f.provider))
	}
}

func TestAPartialOutageRecoversOnlyNowAndThen(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", says{status: 503, body: `{"errors":["overloaded, try again later"]}`})
	f.server.always("sys/leases/lookup", ok(aliveLease))
	for range 60 { // in a minute
		_ = f.renew(t)
		f.clock.SetTime(f.clock.Now().Add(500 * time.Millisecond))
		_ = f.renew(t)
		f.clock.SetTime(f.clock.Now().Add(lastProbe))
		_ = f.Lookup(t.Context(), record())
	}
	if n := f.driver.Recoveries(f.provider); n < 2 || n > 15 {
		t.Errorf("it recovered %d times in two and a half minutes", n)
	}
}

func TestOneDroppedConnectionIsNoOutage(t *testing.T) {
	f := newFixture(t)
	f.server.inTurn("sys/leases/renew", says{hangUp: true}, ok(renewed))
	_ = f.renew(t)
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	if err := f.renew(t); err != nil || f.driver.Recoveries(f.provider) != 0 {
		t.Errorf("%v, %d recoveries", err, f.driver.Recoveries(f.provider))
	}
}

func TestAnIssuanceErrorDoesNotTripTheBreaker(t *testing.T) {
	for _, status := range []int{429, 473, 503} {
		f := newFixture(t)
		f.server.always(readPath, says{status: status, body: `{"errors":["not now"]}`})
		f.server.always("sys/leases/renew", ok(renewed))
		if _, err := f.Issue(t.Context(), at, read); err == nil {
			t.Fatal("it was issued")
		}
		if err := f.renew(t); err != nil {
			t.Errorf("after %d: %v", status, err)
		}
	}
}

func TestARefusalDoesNotTripTheBreaker(t *testing.T) {
	for name, answer := range map[string]says{
		"the database is down":   {status: 500, body: `{"errors":["1 error occurred:\n\t* connection refused\n\n"]}`},
		"the lease is gone":      {status: 400, body: `{"errors":["lease not found"]}`},
		"the policy refuses":     {status: 403, body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`},
		"it lags behind":         {status: 412, body: `{"errors":["required index state not present"]}`},
		"a success without data": {status: 204},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/renew", answer)
			for range 3 {
				_ = f.renew(t)
			}
			if n := len(f.server.requests("sys/leases/renew")); n < 3 {
				t.Errorf("%d of 3 requests were sent", n)
			}
		})
	}
}

func TestASlowIssuanceDoesNotTripTheBreaker(t *testing.T) {
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) { o.IssueTimeout = 500 * time.Millisecond })
	f.server.always(readPath, says{hang: true})
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.NoResponse)
	f.server.always("sys/leases/renew", ok(renewed))
	if err := f.renew(t); err != nil {
		t.Error(err)
	}
}

const healthy = `{"initialized":true,"sealed":false,"version":"1.21.0","enterprise":false}`

// Vault waits for the database behind an engine before it responds to a renewal. Only the server's health, which needs
// no engine, tells whether the server hangs.
func TestAHangingDatabaseDoesNotTripTheBreaker(t *testing.T) {
	list := "sys/leases/lookup/" + readPath
	gateway := says{status: 504, body: "<html>gateway time-out</html>"}
	for name, c := range map[string]struct {
		path    string
		answer  says
		request func(*testing.T, *fixture) error
	}{
		"a renewal": {"sys/leases/renew", says{hang: true},
			func(t *testing.T, f *fixture) error { return f.renew(t) }},
		"a revocation that waits for the result": {"sys/leases/revoke", says{hang: true},
			func(t *testing.T, f *fixture) error { return f.revokeOnce(t.Context(), record()) }},
		"a list": {list, says{hang: true},
			func(t *testing.T, f *fixture) error { _, err := f.List(t.Context(), record()); return err }},
		"a gateway that gives up": {"sys/leases/renew", gateway,
			func(t *testing.T, f *fixture) error { return f.renew(t) }},
	} {
		for _, healthHangs := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", health hangs: ", healthHangs), func(t *testing.T) {
				f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) {
					o.Timeout = 200 * time.Millisecond
				})
				f.server.always(c.path, c.answer)
				health := ok(healthy)
				health.hang = healthHangs
				f.server.always("sys/health", health)
				wantDown(t, c.request(t, f))
				if f.breaker.tripped != healthHangs {
					t.Errorf("the breaker is open: %t", f.breaker.tripped)
				}
				if n := len(f.server.requests("sys/health")); n != 1 {
					t.Errorf("the server's health was requested %d times", n)
				}
				wantDown(t, c.request(t, f))
				if sentAgain := len(f.server.requests(c.path)) == 2; sentAgain == healthHangs {
					t.Errorf("the next request was sent: %t", sentAgain)
				}
			})
		}
	}
}

// A standby is healthy, whether or not the active node responds to what it forwards.
func TestAStandbyIsHealthyOnlyWithItsActiveNode(t *testing.T) {
	for name, c := range map[string]struct {
		forwarded says
		trips     bool
	}{
		"the database hangs":               {ok(`{"request_id":"1","data":{}}`), false},
		"the token expired meanwhile":      {errs(403, "permission denied"), false},
		"the active node hangs":            {says{hang: true}, true},
		"the active node is lost":          {errs(500, textsOf(notHandled)[4]), true},
		"a gateway loses the active node":  {says{status: 502, body: "<html>"}, true},
		"the active node is being elected": {errs(503, "no active Vault instance found"), true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) {
				o.Timeout = 200 * time.Millisecond
			})
			f.server.always("sys/leases/renew", says{hang: true})
			f.server.always("sys/health",
				says{status: 429, body: `{"initialized":true,"standby":true,"enterprise":false,"version":"1.21.0"}`})
			f.server.always("auth/token/lookup-self", c.forwarded)
			wantDown(t, f.renew(t))
			if f.breaker.tripped != c.trips {
				t.Errorf("the breaker is open: %t", f.breaker.tripped)
			}
		})
	}
}

func TestHealthIsNotRequestedIfOtherRequestsAreServed(t *testing.T) {
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) { o.Timeout = 200 * time.Millisecond })
	f.server.on("sys/leases/renew", func(request) says {
		f.clock.SetTime(f.clock.Now().Add(time.Second))
		f.breaker.observe(false, f.clock.Now(), serving, nil)
		return says{hang: true}
	})
	if wantDown(t, f.renew(t)); len(f.server.requests("sys/health")) != 0 || f.breaker.tripped {
		t.Errorf("health was requested, or the breaker is open: %t", f.breaker.tripped)
	}
}

func TestAHealthCheckDoesNotResetTheBreaker(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", says{status: 503, body: `{"errors":["Vault is sealed"]}`})
	f.server.always("sys/health", ok(healthy))
	_ = f.renew(t)
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	if _, err := f.health(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := f.health(t.Context()); err != nil { // the first was inconclusive: the next may probe at once
		t.Error(err)
	}
	if f.driver.Recoveries(f.provider) != 0 {
		t.Error("a health check reset the breaker")
	}
}

func TestATrippedBreakerKeepsTLSErrors(t *testing.T) {
	s := newServer(t)
	over := tlsServer(t, http.HandlerFunc(s.ServeHTTP), false)
	f := newFixtureAt(t, s, over.URL)
	for range 2 {
		var fault *backend.Error
		if err := f.renew(t); !errors.As(err, &fault) || fault.Kind != backend.TLS {
			t.Errorf("want a TLS error, got %v", err)
		}
	}
}

func TestALostRequestAmongServedOnesDoesNotTrip(t *testing.T) {
	g := &breaker{clock: clocktesting.NewFakePassiveClock(epoch)}
	fault := backend.Errorf(backend.Unavailable, "no response in time")
	early := epoch.Add(-time.Second)
	g.observe(false, epoch, serving, nil)
	if g.observe(false, early, maybeDown, fault); g.tripped {
		t.Error("another request was served while this one was lost")
	}
	if g.observe(false, early, down, fault); !g.tripped {
		t.Error("a server that reports that it does not serve is down")
	}
	g.observe(false, epoch, serving, nil)
	if g.observe(false, epoch.Add(time.Second), maybeDown, fault); !g.tripped {
		t.Error("nothing was served since this one was sent")
	}
}
