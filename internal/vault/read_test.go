package vault

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const kvValue = `{"request_id":"1","lease_id":"","lease_duration":60,"data":{"a":"b"}}`

func (f *fixture) read(t *testing.T, who backend.Identity) error {
	t.Helper()
	got, err := f.Read(t.Context(), who, source("kv/orders"))
	if err == nil && (got.Kind != v1alpha1.ResponseStatic || string(got.Data["a"]) != "b") {
		t.Errorf("read %s, %q", got.Kind, got.Data)
	}
	return err
}

func (f *fixture) logins() int { return len(f.server.requests("auth/kubernetes/login")) }

func TestAReadCostsOneRequest(t *testing.T) {
	f := newFixture(t)
	f.server.always("kv/orders", ok(kvValue))
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if err := f.read(t, who); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if f.logins() != 1 || f.kube.tokensRequested() != 1 || len(f.server.requests("kv/orders")) != 20 {
		t.Errorf("%d logins, %d tokens of the ServiceAccount", f.logins(), f.kube.tokensRequested())
	}
	if sent := f.server.requests("kv/orders")[0]; sent.token != "hvs.app1" {
		t.Errorf("read with the token %s", sent.token)
	}
	other := who
	other.Namespace = "bank"
	wantKind(t, f.read(t, other), "")
	if f.logins() != 2 {
		t.Error("another namespace shares the session")
	}
	f.clock.SetTime(epoch.Add(59 * time.Minute))
	wantKind(t, f.read(t, who), "")
	if f.logins() != 3 {
		t.Errorf("%d logins, want 3: the session is about to expire", f.logins())
	}
	wantNil(t, f.Close(t.Context()))
	if n := len(f.server.requests("auth/token/revoke-self")); n != 3 {
		t.Errorf("%d sessions were closed, want 3", n)
	}
}

func TestARefusedReadLogsInAgainOnce(t *testing.T) {
	f := newFixture(t)
	f.server.on("kv/orders", func(r request) says {
		if r.token == "hvs.app1" && len(f.server.got) > 4 {
			return errs(403, denied)
		}
		return ok(kvValue)
	})
	for range 3 {
		wantKind(t, f.read(t, who), "")
	}
	f.clock.SetTime(epoch.Add(time.Minute))
	wantKind(t, f.read(t, who), "")
	if f.logins() != 2 {
		t.Errorf("%d logins, want 2", f.logins())
	}
	f.server.always("kv/orders", errs(403, denied))
	for range 5 {
		err := f.read(t, who)
		wantKind(t, err, backend.Denied)
		wantText(t, err, `policy of role "app" lacks "read" on "kv/orders"`)
	}
	if n := f.logins(); n > 3 {
		t.Errorf("%d logins for repeated refusals", n)
	}
}

func TestALeaseThatAReadReturnsIsRevoked(t *testing.T) {
	for name, closes := range map[string][]says{
		"at once": {nothing()}, "after a lost response": {{hangUp: true}, nothing()},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(readPath, ok(leased))
			f.server.inTurn("auth/token/revoke-self", closes...)
			_, err := f.Read(t.Context(), who, read)
			wantKind(t, err, backend.InvalidResponse)
			wantText(t, err, readPath, "lease")
			closed := f.server.requests("auth/token/revoke-self")
			if len(closed) != len(closes) || closed[0].token != "hvs.app1" {
				t.Errorf("closed %+v", closed)
			}
			f.clock.SetTime(epoch.Add(time.Minute))
			f.server.always("kv/orders", ok(kvValue))
			if wantKind(t, f.read(t, who), ""); f.logins() != 2 {
				t.Error("the revoked session was used again")
			}
		})
	}
}

func TestReadSessionsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.readers.max = 2
	f.server.always("kv/orders", ok(kvValue))
	as := func(namespace string) {
		w := who
		w.Namespace = namespace
		wantKind(t, f.read(t, w), "")
	}
	for _, namespace := range []string{"a", "b", "a", "c"} { // b is the least recently used
		as(namespace)
	}
	closed := f.server.requests("auth/token/revoke-self")
	if len(closed) != 1 || closed[0].token != "hvs.app2" || f.logins() != 3 {
		t.Errorf("%d logins, closed %+v", f.logins(), closed)
	}
	if as("a"); f.logins() != 3 {
		t.Error("a session in use was dropped")
	}
}

func TestReadErrorsAreThoseOfAnIssuance(t *testing.T) {
	f := newFixture(t)
	f.server.always("kv/orders", errs(404))
	wantKind(t, f.read(t, who), backend.NotFound)
	f.server.always("kv/orders", errs(503, "Vault is sealed"))
	wantKind(t, f.read(t, who), backend.Unavailable)
	f.server.always("kv/orders", says{hangUp: true})
	wantKind(t, f.read(t, who), backend.NoResponse)
	_, err := f.Read(t.Context(), backend.Identity{Namespace: "shop"}, source("kv/orders"))
	wantKind(t, err, backend.NoServiceAccount)
	_, err = f.Read(t.Context(), who, v1alpha1.SecretSource{Name: "db"})
	wantKind(t, err, backend.Misconfigured)
	wantText(t, err, `source "db"`, "set vault")
}

func TestARecordWithoutAVaultBlockIsAnError(t *testing.T) {
	f := newFixture(t)
	rec := v1alpha1.LeaseRecord{ID: readPath + "/abc"}
	_, renewErr := f.Renew(t.Context(), rec, time.Hour)
	_, extendErr := f.ExtendSession(t.Context(), rec, owner)
	_, listErr := f.List(t.Context(), rec)
	for i, err := range []error{
		renewErr, extendErr, listErr, f.Lookup(t.Context(), rec),
		f.Revoke(t.Context(), rec, owner), f.driver.Holds(f.provider, &rec),
	} {
		if backend.KindOf(err) != backend.Mismatch || !strings.Contains(fmt.Sprint(err), "vault block") {
			t.Errorf("%d: got %v", i, err)
		}
	}
	if f.Folder(&rec) != "" || f.server.paths() != "" {
		t.Errorf("folder %q, requests %s", f.Folder(&rec), f.server.paths())
	}
}

// tokenRole is the role of a Vault whose tokens expire.
type tokenRole struct {
	ttl, max time.Duration
	// period of its tokens; 0: they are not periodic.
	period time.Duration
	// fixed tokens cannot be renewed. denied: the policy does not permit it.
	fixed, denied bool
}

// serve makes the server issue, renew and check the tokens of the role.
func (r tokenRole) serve(f *fixture) {
	type token struct{ issued, expires time.Time }
	tokens := map[string]token{}
	f.server.on("auth/kubernetes/login", func(request) says {
		f.server.logins++
		name, now := fmt.Sprintf("hvs.app%d", f.server.logins), f.clock.Now()
		tokens[name] = token{now, now.Add(r.ttl)}
		return ok(fmt.Sprintf(`{"request_id":"1","auth":{"client_token":"%s","accessor":"acc%d","lease_duration":%d,`+
			`"renewable":%t,"num_uses":0}}`, name, f.server.logins, int(r.ttl.Seconds()), !r.fixed))
	})
	f.server.on("auth/token/renew-self", func(req request) says {
		held, now := tokens[req.token], f.clock.Now()
		if r.denied || !now.Before(held.expires) {
			return errs(403, denied)
		}
		increment, _ := req.body["increment"].(float64)
		granted := min(time.Duration(increment)*time.Second, held.issued.Add(r.max).Sub(now))
		if r.period > 0 {
			granted = r.period
		}
		tokens[req.token] = token{held.issued, now.Add(granted)}
		return ok(fmt.Sprintf(`{"request_id":"1","auth":{"client_token":"%s","accessor":"acc1","lease_duration":%d,`+
			`"renewable":true}}`, req.token, int(granted.Seconds())))
	})
	f.server.on("kv/orders", func(req request) says {
		if !f.clock.Now().Before(tokens[req.token].expires) {
			return errs(403, denied)
		}
		return ok(kvValue)
	})
}

func TestReadingAgainExtendsTheSession(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		role  tokenRole
		every time.Duration
		// after so many reads, each costs at most two requests and no login.
		after int
		// logins and closed sessions of 20 reads.
		logins, closed int
	}{
		"the defaults": {tokenRole{ttl: time.Hour, max: 30 * day}, 57 * time.Minute, 1, 1, 0},
		"the longest pause between two reads": {
			tokenRole{ttl: time.Hour, max: 30 * day}, time.Hour, 2, 2, 0,
		},
		"a TTL below the interval": {tokenRole{ttl: 20 * time.Minute, max: 30 * day}, 57 * time.Minute, 2, 2, 0},
		"a periodic token":         {tokenRole{ttl: time.Hour, period: time.Hour}, 57 * time.Minute, 1, 1, 0},
		"a maximum":                {tokenRole{ttl: time.Hour, max: 8 * time.Hour}, 57 * time.Minute, 20, 3, 0},
		"frequent reads":           {tokenRole{ttl: time.Hour, max: 30 * day}, time.Minute, 1, 1, 0},
		"tokens that cannot be renewed, read while they live": {
			tokenRole{ttl: time.Hour, fixed: true}, 57 * time.Minute, 20, 20, 19,
		},
		"tokens that cannot be renewed, read later": {
			tokenRole{ttl: 20 * time.Minute, fixed: true}, 57 * time.Minute, 20, 20, 0,
		},
		"a policy without renew-self":   {tokenRole{ttl: time.Hour, denied: true}, 57 * time.Minute, 20, 20, 19},
		"a login once a day":            {tokenRole{ttl: time.Hour, max: 30 * day}, 5 * time.Hour, 20, 5, 0},
		"an interval longer than a day": {tokenRole{ttl: time.Hour, max: 30 * day}, 25 * time.Hour, 20, 20, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test.role.serve(f)
			all := func() int { return len(strings.Fields(f.server.paths())) }
			for i := range 20 {
				before, logins, tokens := all(), f.logins(), f.kube.tokensRequested()
				wantKind(t, f.read(t, who), "")
				cost, login := all()-before, f.logins() > logins || f.kube.tokensRequested() > tokens
				if i >= test.after && (cost > 2 || login) {
					t.Errorf("read %d cost %d requests to Vault, with a login: %t", i, cost, login)
				}
				if cost > 4 {
					t.Errorf("read %d cost %d requests to Vault", i, cost)
				}
				f.clock.SetTime(f.clock.Now().Add(test.every))
			}
			closed := len(f.server.requests("auth/token/revoke-self"))
			if f.logins() != test.logins || closed != test.closed {
				t.Errorf("%d logins, want %d; %d sessions were closed, want %d",
					f.logins(), test.logins, closed, test.closed)
			}
			if refused := len(f.server.requests("auth/token/renew-self")); test.role.denied && refused != 1 {
				t.Errorf("an extension that the policy does not permit was tried %d times", refused)
			}
		})
	}
}
