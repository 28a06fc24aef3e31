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

var keptRecord = v1alpha1.LeaseRecord{Path: "database/creds/orders", ID: "database/creds/orders/abc", TokenAccessor: "acc"}

func (f *fixture) renew(t *testing.T) error {
	_, err := f.Renew(t.Context(), keptRecord, time.Hour)
	return err
}

func TestOfManyWhoAskAServerThatIsDownOnlyOneIsSent(t *testing.T) {
	down := map[string]says{
		"503":         {status: 503, body: `{"errors":["Vault is sealed"]}`},
		"429":         {status: 429, body: `{"errors":["rate limit quota exceeded"]}`},
		"502":         {status: 502, body: `<html>bad gateway</html>`},
		"a hang-up":   {hangUp: true},
		"no redirect": {status: 473, body: `{"errors":[]}`},
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

func TestProbesBecomeRarerUpToTheLast(t *testing.T) {
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

func TestAServerThatServesAgainIsToldOfOnceAndTakesEverybody(t *testing.T) {
	var told []string
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) {
		o.Changed = func(_ v1alpha1.Provider, up, recovered bool) { told = append(told, fmt.Sprint(up, recovered)) }
	})
	f.server.always("sys/leases/renew", says{status: 503, body: `{"errors":["Vault is sealed"]}`})
	_ = f.renew(t)
	if n := len(f.server.requests("sys/leases/renew")); f.renew(t) == nil || len(f.server.requests("sys/leases/renew")) != n {
		t.Error("a request was sent before the first probe was due")
	}
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	_ = f.renew(t) // the first probe, in vain
	f.server.always("sys/leases/renew", ok(renewed))
	f.clock.SetTime(f.clock.Now().Add(lastProbe))
	for range 3 {
		if err := f.renew(t); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(told, []string{"false false", "true true"}) || f.backends.Recoveries(f.provider) != 1 {
		t.Errorf("it was told %v, and counted %d recoveries", told, f.backends.Recoveries(f.provider))
	}
}

func TestAServerThatServesSomeRequestsOnlyRecoversNowAndThenAndNotEachTime(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", says{status: 429, body: `{"errors":["rate limit quota exceeded"]}`})
	f.server.always("sys/leases/lookup", ok(aliveLease))
	for range 60 { // in a minute
		_ = f.renew(t)
		f.clock.SetTime(f.clock.Now().Add(500 * time.Millisecond))
		_ = f.renew(t)
		f.clock.SetTime(f.clock.Now().Add(lastProbe))
		_ = f.Lookup(t.Context(), keptRecord)
	}
	if n := f.backends.Recoveries(f.provider); n < 2 || n > 15 {
		t.Errorf("it recovered %d times in two and a half minutes", n)
	}
}

func TestAServerThatDropsOneConnectionHasNotBeenDown(t *testing.T) {
	f := newFixture(t)
	f.server.inTurn("sys/leases/renew", says{hangUp: true}, ok(renewed))
	_ = f.renew(t)
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	if err := f.renew(t); err != nil || f.backends.Recoveries(f.provider) != 0 {
		t.Errorf("%v, %d recoveries", err, f.backends.Recoveries(f.provider))
	}
}

func TestWhatAnIssueIsAnsweredDoesNotShutTheGate(t *testing.T) {
	for _, status := range []int{429, 473, 503} {
		f := newFixture(t)
		f.server.always(read.Path, says{status: status, body: `{"errors":["not now"]}`})
		f.server.always("sys/leases/renew", ok(renewed))
		if _, err := f.Issue(t.Context(), at, read); err == nil {
			t.Fatal("it was issued")
		}
		if err := f.renew(t); err != nil {
			t.Errorf("after %d: %v", status, err)
		}
	}
}

func TestAServerThatSaysNoIsNotDown(t *testing.T) {
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

func TestAnIssueThatTakesTooLongDoesNotShutTheGate(t *testing.T) {
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) { o.IssueTimeout = 500 * time.Millisecond })
	f.server.always(read.Path, says{hang: true})
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.NoResponse)
	f.server.always("sys/leases/renew", ok(renewed))
	if err := f.renew(t); err != nil {
		t.Error(err)
	}
}

func TestAHealthCheckThatIsAnsweredProvesNothing(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", says{status: 429, body: `{"errors":["rate limit quota exceeded"]}`})
	f.server.always("sys/health", ok(`{"initialized":true,"sealed":false,"version":"1.21.0","enterprise":false}`))
	_ = f.renew(t)
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	if _, err := f.health(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := f.health(t.Context()); err != nil { // the first was no verdict: the next may probe at once
		t.Error(err)
	}
	if f.backends.Recoveries(f.provider) != 0 {
		t.Error("a health check opened the gate")
	}
}

func TestErrorsOfTLSAreToldAsSuchWhileTheGateIsShut(t *testing.T) {
	s := newServer(t)
	over := tlsServer(t, http.HandlerFunc(s.ServeHTTP), false)
	f := newFixtureAt(t, s, over.URL)
	for range 2 {
		var fault *backend.Error
		if err := f.renew(t); !errors.As(err, &fault) || fault.Kind != backend.TLS {
			t.Errorf("want an error of TLS, got %v", err)
		}
	}
}

func TestARequestThatIsLostWhileOthersAreServedDoesNotShutTheGate(t *testing.T) {
	g := &gate{clock: clocktesting.NewFakePassiveClock(epoch)}
	fault := backend.Errorf(backend.Unavailable, "no answer in time")
	early := epoch.Add(-time.Second)
	g.leave(false, epoch, serves, nil)
	if g.leave(false, early, seemsDown, fault); g.shut {
		t.Error("another request was served while this one was lost")
	}
	if g.leave(false, early, isDown, fault); !g.shut {
		t.Error("a server that says itself that it does not serve is down")
	}
	g.leave(false, epoch, serves, nil)
	if g.leave(false, epoch.Add(time.Second), seemsDown, fault); !g.shut {
		t.Error("nothing was served since this one was sent")
	}
}
