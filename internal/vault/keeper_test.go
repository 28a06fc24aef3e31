package vault

import (
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	renewed = `{"request_id":"1","lease_id":"database/creds/orders/abc","lease_duration":600,"renewable":true,` +
		`"warnings":null}`
	aliveLease = `{"request_id":"1","data":{"id":"database/creds/orders/abc","expire_time":"2026-01-02T04:00:00Z",` +
		`"ttl":600}}`
	deadLease = `{"request_id":"1","data":{"id":"database/creds/orders/abc","expire_time":"2026-01-02T01:00:00Z",` +
		`"ttl":-3}}`
	shopToken = `{"request_id":"1","data":{"path":"auth/kubernetes/login",` +
		`"meta":{"service_account_namespace":"shop"}}}`
	denied = "1 error occurred:\n\t* permission denied\n\n"
)

func TestRenewing(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
		text   string
		want   lease.Term
	}{
		"the response decides": {
			ok(renewed), "", "", lease.Term{At: epoch, Duration: 10 * time.Minute, Renewable: true},
		},
		"a warning reports a maximum": {
			ok(strings.Replace(renewed, "null",
				`["TTL of \"48h\" exceeded the effective max_ttl of \"1h\"; TTL value is capped accordingly"]`, 1)), "",
			"", lease.Term{At: epoch, Duration: 10 * time.Minute, Renewable: true, Capped: true},
		},
		"a revoked lease is gone":  {errs(400, "lease not found"), backend.Gone, "lease not found", lease.Term{}},
		"an expired lease is gone": {errs(400, "lease expired"), backend.Gone, "", lease.Term{}},
		"a joined text counts too": {
			errs(400, "1 error occurred:\n\t* lease not found\n\n"), backend.Gone, "", lease.Term{},
		},
		"a database outage is no expiry": {
			errs(400, "failed to renew entry: resp: (*logical.Response)(nil) err: dial: connection refused"),
			backend.Failed, "connection refused", lease.Term{},
		},
		"an engine quotes the words": {
			errs(400, `failed to renew entry: the text "lease not found" is in a table`),
			backend.Refused, "", lease.Term{},
		},
		"a dropped user": {
			errs(400, "failed to renew entry: resp: (*logical.Response)(nil) err: rpc error: code = Internal desc = "+
				`failed to execute query: ERROR: role "v-root-orders-Eofy7Q5dBxbHcgbqHJ1W-1764200000" does not exist `+
				"(SQLSTATE 42704)"), backend.Refused, "does not exist", lease.Term{},
		},
		"a deleted role": {
			errs(400, `failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: `+
				`could not find role with name "orders"`), backend.Refused, "could not find role", lease.Term{},
		},
		"a lease that is not renewable": {errs(400, "lease is not renewable"), backend.Refused, "", lease.Term{}},
		"a database that shuts down": {
			errs(400, "failed to renew entry: FATAL: terminating connection (SQLSTATE 57P01)"),
			backend.Failed, "", lease.Term{},
		},
		"a database without a free connection": {
			errs(400, "failed to renew entry: Error 1040: Too many connections"), backend.Failed, "", lease.Term{},
		},
		"400 without a text": {says{status: 400, body: `{"errors":[]}`}, backend.Failed, "", lease.Term{}},
		"refused": {
			errs(403, denied), backend.Denied, `policy of role "keeper" lacks "update" on "sys/leases/renew"`,
			lease.Term{},
		},
		"a quota": {
			errs(429, "rate limit quota exceeded"), backend.Throttled, "", lease.Term{},
		},
		"sealed":              {errs(503, "Vault is sealed"), backend.Unavailable, "", lease.Term{}},
		"trouble":             {errs(500, "internal error"), backend.Failed, "", lease.Term{}},
		"a gateway":           {says{status: 504, body: "late"}, backend.NoResponse, "", lease.Term{}},
		"a broken connection": {says{hangUp: true}, backend.NoResponse, "", lease.Term{}},
		"a page":              {ok("<html>"), backend.InvalidResponse, "", lease.Term{}},
		"another lease": {
			ok(strings.Replace(renewed, "abc", "def", 1)), backend.InvalidResponse, "", lease.Term{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/renew", test.answer)
			got, err := f.Renew(t.Context(), record(), 1500*time.Millisecond)
			wantKind(t, err, test.kind)
			if test.kind != "" {
				wantText(t, err, test.text)
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			sent := f.server.requests("sys/leases/renew")[0]
			if sent.body["increment"] != 2.0 || sent.body["lease_id"] != record().ID {
				t.Errorf("sent %v, want the lease and an increment rounded up", sent.body)
			}
		})
	}
}

func TestExtendingTheSession(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
		want   lease.Term
	}{
		"up to the maximum": {
			ok(`{"request_id":"1","auth":{"lease_duration":7200,"renewable":true},` +
				`"warnings":["TTL of \"x\" exceeded the effective max_ttl of \"y\""]}`), "",
			lease.Term{At: epoch, Duration: 2 * time.Hour, Renewable: true, Capped: true},
		},
		"a periodic one": {
			ok(`{"request_id":"1","auth":{"lease_duration":60,"renewable":true}}`),
			"", lease.Term{At: epoch, Duration: time.Minute, Renewable: true},
		},
		"an unknown accessor is gone": {errs(400, "invalid accessor"), backend.Gone, lease.Term{}},
		"403 can mean that too":       {errs(403, "invalid accessor"), backend.Gone, lease.Term{}},
		"404 can mean that too":       {errs(404, "invalid accessor"), backend.Gone, lease.Term{}},
		"one that cannot be extended": {errs(400, "invalid request"), backend.Refused, lease.Term{}},
		"refused":                     {errs(403, denied), backend.Denied, lease.Term{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("auth/token/renew-accessor", test.answer)
			f.server.always("auth/token/lookup-accessor", ok(shopToken))
			got, err := f.ExtendSession(t.Context(), record(), owner)
			wantKind(t, err, test.kind)
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestLookingUp(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
	}{
		"it is alive": {ok(aliveLease), ""},
		"it never expires": {
			ok(strings.NewReplacer(`"2026-01-02T04:00:00Z"`, "null", "600", "0").Replace(aliveLease)), "",
		},
		"it is dead and still listed": {ok(deadLease), backend.Gone},
		"it no longer exists":         {errs(400, "invalid lease"), backend.Gone},
		"another 400 proves nothing":  {errs(400, "lease_id must be specified"), backend.Failed},
		"refused":                     {errs(403, denied), backend.Denied},
		"no response of Vault":        {ok("{}"), backend.InvalidResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/lookup", test.answer)
			wantKind(t, f.Lookup(t.Context(), record()), test.kind)
		})
	}
}

func TestARefusalLeadsToAFreshLogin(t *testing.T) {
	f := newFixture(t)
	f.server.on("sys/leases/renew", func(r request) says {
		if r.token == "hvs.keeper1" {
			return errs(403, denied)
		}
		return ok(renewed)
	})
	f.server.always("sys/leases/lookup", ok(aliveLease))
	wantKind(t, f.Lookup(t.Context(), record()), "")
	f.clock.SetTime(epoch.Add(time.Minute))
	_, err := f.Renew(t.Context(), record(), time.Minute)
	wantKind(t, err, "")
	if n := len(f.server.requests("auth/kubernetes/login")); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
	ended := f.server.requests("auth/token/revoke-self")
	if len(ended) != 1 || ended[0].token != "hvs.keeper1" {
		t.Error("the old session was not closed")
	}
}

func TestRepeatedRefusalsLeadToOneLogin(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", errs(403, denied))
	for range 10 {
		_, err := f.Renew(t.Context(), record(), time.Minute)
		wantKind(t, err, backend.Denied)
	}
	if n := len(f.server.requests("auth/kubernetes/login")); n != 1 {
		t.Errorf("%d logins within a second, want 1", n)
	}
}

func TestTheKeepersSessionIsSharedAndReplacedInTime(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", ok(renewed))
	renew := func() {
		if _, err := f.Renew(t.Context(), record(), time.Minute); err != nil {
			t.Error(err)
		}
	}
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(renew)
	}
	wait.Wait()
	if n := len(f.server.requests("auth/kubernetes/login")); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	f.clock.SetTime(epoch.Add(55 * time.Minute))
	renew()
	if n := len(f.server.requests("auth/kubernetes/login")); n != 2 {
		t.Errorf("%d logins, want 2: the session is about to expire", n)
	}
	if err := f.driver.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(f.server.requests("auth/token/revoke-self")); n != 2 {
		t.Errorf("%d sessions were closed, want both", n)
	}
}

func TestAFailedLoginIsRememberedForASecond(t *testing.T) {
	f := newFixture(t)
	f.server.always("auth/kubernetes/login", errs(403, "permission denied"))
	for range 10 {
		wantKind(t, f.Lookup(t.Context(), record()), backend.LoginFailed)
	}
	if n := len(f.server.requests("auth/kubernetes/login")); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	f.clock.SetTime(epoch.Add(time.Second))
	wantKind(t, f.Lookup(t.Context(), record()), backend.LoginFailed)
	if n := len(f.server.requests("auth/kubernetes/login")); n != 3 {
		t.Errorf("%d logins, want 3: the cached token of the ServiceAccount was refused", n)
	}
}

func TestAKeepersTokenFromASecretIsNotRevoked(t *testing.T) {
	f := newFixture(t, withTokenAuth, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.KeeperAuth = &v1alpha1.VaultAuth{Token: p.Spec.Vault.Auth.Token}
	})
	f.server.always("sys/leases/renew", errs(403, denied))
	f.clock.SetTime(epoch)
	_, err := f.Renew(t.Context(), record(), time.Minute)
	wantKind(t, err, backend.Denied)
	wantText(t, err, "the keeper's token")
	if err := f.driver.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, token := f.server.paths(), f.server.requests("sys/leases/renew")[0].token
	if strings.Contains(got, "revoke") || token != "hvs.static-secret-token" {
		t.Errorf("requests: %s", got)
	}
}

func TestWithoutKeeperAuthTheIssuerIsUsed(t *testing.T) {
	f := newFixture(t)
	p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", Namespace: "shop", UID: "other"}}
	p.Spec.Vault = f.provider.Spec.Vault.DeepCopy()
	p.Spec.Vault.KeeperAuth = nil
	b, err := f.driver.backendFor(t.Context(), p)
	wantNil(t, err)
	wantKind(t, b.Lookup(t.Context(), record()), backend.Misconfigured)
	f.clock.SetTime(epoch.Add(failureMemory))
	p.Generation, p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef.Name = 1, "all"
	b, err = f.driver.backendFor(t.Context(), p)
	wantNil(t, err)
	f.server.always("sys/leases/lookup", ok(aliveLease))
	wantKind(t, b.Lookup(t.Context(), record()), "")
	sent := f.server.requests("auth/kubernetes/login")[0]
	if sent.body["role"] != "app" || sent.body["jwt"] != "jwt-shop-all-1" {
		t.Errorf("role %v logged in", sent.body["role"])
	}
}

func TestRevoking(t *testing.T) {
	const (
		owns, end    = "auth/token/lookup-accessor", "auth/token/revoke-accessor"
		look, revoke = "sys/leases/lookup", "sys/leases/revoke"
	)
	gone, none := errs(400, "invalid lease"), errs(403, "invalid accessor")
	stuck := errs(400,
		`failed to revoke entry: resp: (*logical.Response)(nil) err: role "v-x" cannot be dropped (SQLSTATE 2BP01)`)
	for name, test := range map[string]struct {
		rec     func(*v1alpha1.LeaseRecord)
		answers map[string][]says
		kind    backend.ErrorKind
		text    string
		paths   []string
	}{
		"three requests revoke a live record": {
			nil, map[string][]says{owns: {ok(shopToken)}, end: {nothing()}, look: {gone}},
			"", "", []string{owns, end, look},
		},
		"the lease disappears a moment later": {
			nil, map[string][]says{owns: {ok(shopToken)}, end: {nothing()},
				look: {ok(aliveLease), ok(deadLease), gone}}, "", "", []string{owns, end, look, look, look},
		},
		"a lease that remains is revoked by id": {nil, map[string][]says{owns: {ok(shopToken)}, end: {nothing()},
			look: {ok(deadLease), ok(deadLease), ok(deadLease), gone}, revoke: {nothing()}}, "", "",
			[]string{owns, end, look, look, look, revoke, look}},
		"a lease that cannot be revoked": {nil, map[string][]says{owns: {none}, look: {ok(deadLease)}, revoke: {stuck}},
			backend.Failed, "2BP01",
			[]string{owns, look, revoke, look}},
		"a lease that disappeared meanwhile": {
			nil, map[string][]says{owns: {none}, look: {ok(deadLease), gone}, revoke: {stuck}},
			"", "", []string{owns, look, revoke, look},
		},
		"success, and the lease still exists": {
			nil, map[string][]says{owns: {none}, look: {ok(deadLease)}, revoke: {nothing()}},
			backend.Failed, "still has the lease", []string{owns, look, revoke, look},
		},
		"a token that is gone proves nothing": {
			nil, map[string][]says{owns: {none}, look: {gone}}, "", "", []string{owns, look},
		},
		"without an id, the token is revoked": {
			func(r *v1alpha1.LeaseRecord) { r.ID = "" }, map[string][]says{owns: {ok(shopToken)}, end: {nothing()}},
			"", "", []string{owns, end},
		},
		"without an id and without the token": {
			func(r *v1alpha1.LeaseRecord) { r.ID = "" }, map[string][]says{owns: {none}}, "", "", []string{owns},
		},
		"without an accessor": {
			func(r *v1alpha1.LeaseRecord) { r.SetHandle("") }, map[string][]says{look: {gone}}, "", "", []string{look},
		},
		"a token of another namespace": {
			nil, map[string][]says{owns: {ok(strings.Replace(shopToken, "shop", "bank", 1))}},
			backend.Mismatch, "nothing is done", []string{owns},
		},
		"a token of another mount": {
			nil, map[string][]says{owns: {ok(strings.Replace(shopToken, "kubernetes/login", "other/login", 1))}},
			backend.Mismatch, "", []string{owns},
		},
		"a token of another method": {
			nil, map[string][]says{owns: {ok(`{"request_id":"1","data":{"path":"auth/token/create",` +
				`"meta":{"leasekeeper_uid":"owner-uid"}}}`)}}, backend.Mismatch, "", []string{owns},
		},
		"the root token": {
			nil, map[string][]says{owns: {ok(`{"request_id":"1","data":{"path":"auth/token/root","meta":null}}`)}},
			backend.Mismatch, "", []string{owns},
		},
		"a lease of another path": {
			func(r *v1alpha1.LeaseRecord) { r.ID = "database/creds/admin/abc" }, nil, backend.Mismatch, "", nil,
		},
		"the accessor may not be looked up": {nil,
			map[string][]says{owns: {errs(403, denied)},
				"sys/capabilities-self": {ok(`{"request_id":"1","data":{"auth/token/lookup-accessor":["deny"]}}`)}},
			backend.Denied, `"auth/token/lookup-accessor"`,
			[]string{owns, "sys/capabilities-self"}},
		"a token that is being revoked is gone": {nil,
			map[string][]says{owns: {errs(403, denied)},
				"sys/capabilities-self": {ok(`{"request_id":"1","data":{"auth/token/lookup-accessor":["update"]}}`)},
				look:                    {gone}}, "", "",
			[]string{owns, "sys/capabilities-self", look}},
		"without an id, that is only an inference": {func(r *v1alpha1.LeaseRecord) { r.ID = "" },
			map[string][]says{owns: {errs(403, denied)},
				"sys/capabilities-self": {ok(`{"request_id":"1","data":{"auth/token/lookup-accessor":["update"]}}`)}},
			backend.Failed, "may still be revoking", []string{owns, "sys/capabilities-self"}},
		"the token may not be revoked": {
			nil, map[string][]says{owns: {ok(shopToken)}, end: {errs(403, denied)}},
			backend.Denied, `"auth/token/revoke-accessor"`, []string{owns, end},
		},
		"the lease may not be revoked": {
			nil, map[string][]says{owns: {none}, look: {ok(aliveLease)}, revoke: {errs(403, denied)}},
			backend.Denied, `"sys/leases/revoke"`, []string{owns, look, revoke},
		},
		"no response is no success": {
			nil, map[string][]says{owns: {ok(shopToken)}, end: {{hangUp: true}}},
			backend.NoResponse, "", []string{owns, end, "sys/health"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for path, answers := range test.answers {
				f.server.inTurn(path, answers...)
			}
			rec := record()
			if test.rec != nil {
				test.rec(&rec)
			}
			err := f.Revoke(t.Context(), rec, owner)
			wantKind(t, err, test.kind)
			if test.kind != "" {
				wantText(t, err, test.text)
			}
			got := strings.TrimPrefix(strings.TrimPrefix(f.server.paths(), "auth/kubernetes/login"), " ")
			if want := strings.Join(test.paths, " "); got != want {
				t.Errorf("requests:\n got %s\nwant %s", got, want)
			}
		})
	}
}

// The first session is revoked between two requests, and the next one has the policy line.
func TestARefusedSessionProvesNothingAboutAToken(t *testing.T) {
	for name, id := range map[string]string{"without an id": "", "with an id": record().ID} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.on("auth/token/lookup-accessor", func(r request) says {
				f.clock.SetTime(f.clock.Now().Add(minSessionAge / 2))
				if r.token == "hvs.keeper1" {
					return errs(403, denied)
				}
				return ok(shopToken)
			})
			f.server.on("sys/capabilities-self", func(r request) says {
				f.clock.SetTime(f.clock.Now().Add(minSessionAge))
				if r.token == "hvs.keeper1" {
					return errs(403, denied)
				}
				return ok(`{"request_id":"1","data":{"auth/token/lookup-accessor":["update"]}}`)
			})
			f.server.always("auth/token/revoke-accessor", nothing())
			f.server.always("sys/leases/lookup", errs(400, "invalid lease"))
			rec := record()
			rec.ID = id
			wantKind(t, f.Revoke(t.Context(), rec, owner), backend.Denied)
			if n := len(f.server.requests("auth/token/revoke-accessor")); n != 0 {
				t.Fatal("the token was revoked")
			}
			wantNil(t, f.Revoke(t.Context(), rec, owner)) // with a new session
			if n := len(f.server.requests("auth/token/revoke-accessor")); n != 1 {
				t.Errorf("the token was revoked %d times, want once", n)
			}
		})
	}
}

func TestTokenAuthChecksTheOwnersUID(t *testing.T) {
	for uid, kind := range map[string]backend.ErrorKind{
		"owner-uid": "", "other": backend.Mismatch, "": backend.Mismatch,
	} {
		f := newFixture(t, withTokenAuth)
		f.server.always("auth/token/lookup-accessor",
			ok(`{"request_id":"1","data":{"path":"auth/token/create","meta":{"leasekeeper_uid":"`+uid+`"}}}`))
		f.server.always("auth/token/revoke-accessor", nothing())
		f.server.always("sys/leases/lookup", errs(400, "invalid lease"))
		wantKind(t, f.Revoke(t.Context(), record(), owner), kind)
	}
}

func TestALeaseAndItsTokenHaveTheirOwnNamespaces(t *testing.T) {
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.Namespace = "team" })
	f.server.always("auth/token/lookup-accessor", ok(shopToken))
	f.server.always("auth/token/revoke-accessor", nothing())
	f.server.always("sys/leases/lookup", errs(400, "invalid lease"))
	rec := record()
	rec.Vault.Namespace = "team/b"
	wantKind(t, f.Revoke(t.Context(), rec, owner), "")
	for path, want := range map[string]string{
		"auth/kubernetes/login": "team", "auth/token/lookup-accessor": "team",
		"auth/token/revoke-accessor": "team", "sys/leases/lookup": "team/b",
	} {
		if got := f.server.requests(path)[0].namespace; got != want {
			t.Errorf("%s was requested in %q, want %q", path, got, want)
		}
	}
}

func TestTheKeepersTokensAreChecked(t *testing.T) {
	login := func(more string) says {
		return ok(`{"request_id":"1","auth":{"client_token":"hvs.keeper1",` + more + `}}`)
	}
	self := func(more string) says {
		return ok(`{"request_id":"1","data":{"id":"hvs.x","accessor":"acc","type":"service","num_uses":0,` +
			more + `}}`)
	}
	static := func(p *v1alpha1.ClusterSecretProvider, o *Options) {
		withTokenAuth(p, o)
		p.Spec.Vault.KeeperAuth = p.Spec.Vault.Auth.DeepCopy()
	}
	all := ok(`{"request_id":"1","data":{"auth/token/lookup-accessor":["root"],"auth/token/renew-accessor":["root"],` +
		`"auth/token/revoke-accessor":["root"],"sys/leases/lookup":["root"],"sys/leases/renew":["root"],` +
		`"sys/leases/revoke":["root"]}}`)
	none := func(*v1alpha1.ClusterSecretProvider, *Options) {}
	for name, test := range map[string]struct {
		change      change
		login, self says
		kind        backend.ErrorKind
		text        string // empty: nothing is reported
	}{
		"service tokens": {none, login(`"accessor":"a","lease_duration":3600,"renewable":true,"num_uses":0`), says{},
			"", ""},
		"batch tokens": {none, login(`"accessor":"","lease_duration":3600,"renewable":false,"num_uses":0`), says{}, "",
			"set token_type=service on auth/kubernetes/role/keeper"},
		"limited uses": {none, login(`"accessor":"a","lease_duration":3600,"renewable":true,"num_uses":9`), says{},
			backend.LoginFailed, "set token_num_uses=0 on auth/kubernetes/role/keeper"},
		"not renewable": {none, login(`"accessor":"a","lease_duration":3600,"renewable":false,"num_uses":0`), says{},
			"", "cannot be renewed"},
		"a root token in a Secret":      {static, says{}, self(`"ttl":0,"renewable":false`), "", ""},
		"a periodic token in a Secret":  {static, says{}, self(`"ttl":60,"renewable":true`), "", ""},
		"a Secret's token that expires": {static, says{}, self(`"ttl":60,"renewable":false`), "", "with -period"},
		"a limited token in a Secret": {static, says{}, self(`"num_uses":3,"ttl":60,"renewable":true`),
			backend.LoginFailed, "without -use-limit"},
		"a batch token in a Secret": {static, says{}, self(`"type":"batch","ttl":60,"renewable":false`), "",
			"with -type=service"},
		"a token that cannot describe itself": {static, says{}, errs(403, denied), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.change)
			f.server.always("sys/health", ok(`{"initialized":true,"enterprise":false,"version":"1.21.0"}`))
			f.server.always("auth/kubernetes/login", test.login)
			f.server.always("auth/token/lookup-self", test.self)
			f.server.always("sys/capabilities-self", all)
			report, err := f.Inspect(t.Context())
			wantKind(t, err, test.kind)
			got := strings.Join(report.Notes, " ")
			if err != nil {
				got = err.Error()
			}
			if (got != "") != (test.text != "") || !strings.Contains(got, test.text) {
				t.Errorf("reported %q, want %q", got, test.text)
			}
		})
	}
}
