package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	lookupBelow = "sys/leases/lookup/database/creds"
	revokeBelow = "sys/leases/revoke-prefix/database/creds"
	askSelf     = "sys/capabilities-self"
)

// selects is a spec that selects leases of Vault.
func selects(v v1alpha1.VaultRevocation) *v1alpha1.LeaseRevocationSpec {
	return &v1alpha1.LeaseRevocationSpec{Vault: &v}
}

func prefixed(prefix string) *v1alpha1.LeaseRevocationSpec {
	return selects(v1alpha1.VaultRevocation{Prefix: prefix})
}

func forced(prefix string) *v1alpha1.LeaseRevocationSpec {
	return selects(v1alpha1.VaultRevocation{Prefix: prefix, Force: true})
}

func single(id string) *v1alpha1.LeaseRevocationSpec {
	return selects(v1alpha1.VaultRevocation{LeaseID: id})
}

func inNamespace(namespace string) *v1alpha1.LeaseRevocationSpec {
	return selects(v1alpha1.VaultRevocation{Prefix: "database/creds", Namespace: namespace})
}

func keys(names ...string) says {
	return ok(`{"request_id":"1","data":{"keys":["` + strings.Join(names, `","`) + `"]}}`)
}

func TestCoversWholeSegments(t *testing.T) {
	b := newFixture(t).Backend
	for _, c := range []struct {
		spec *v1alpha1.LeaseRevocationSpec
		id   string
		want bool
	}{
		{prefixed("database/creds/"), "database/creds/orders/a", true},
		{prefixed("database/creds"), "database/creds/orders/a", true},
		{prefixed("database/creds/or"), "database/creds/orders/a", false},
		{prefixed("database/creds/orders/a"), "database/creds/orders/a", true},
		{prefixed("database/creds/orders/a"), "database/creds/orders/ab", false},
		{prefixed("database"), "database2/creds/orders/a", false},
		{single("database/creds/orders/a"), "database/creds/orders/a", true},
		{single("database/creds/orders/a"), "database/creds/orders/ab", false},
		{inNamespace("team"), "database/creds/orders/a", false},
		{prefixed("auth/"), "auth/token/create/a", false},
		{&v1alpha1.LeaseRevocationSpec{}, "database/creds/orders/a", false},
	} {
		rec := v1alpha1.LeaseRecord{ID: c.id, Vault: &v1alpha1.VaultRecord{Address: b.spec.Address}}
		if got := b.Covers(c.spec, &rec); got != c.want {
			t.Errorf("%s covers %s: %t, want %t", c.spec.Selection(), c.id, got, c.want)
		}
	}
}

func TestCoversOnlyItsServerAndNamespace(t *testing.T) {
	b := newFixture(t).Backend
	for _, c := range []struct {
		of   string
		rec  *v1alpha1.VaultRecord
		spec *v1alpha1.LeaseRevocationSpec
		want bool
	}{
		{"its server", &v1alpha1.VaultRecord{Address: b.spec.Address}, prefixed("database/creds"), true},
		{"another server", &v1alpha1.VaultRecord{Address: "https://other.test"}, prefixed("database/creds"), false},
		{"another backend", nil, prefixed("database/creds"), false},
		{"another namespace",
			&v1alpha1.VaultRecord{Address: b.spec.Address, Namespace: "team"}, prefixed("database/creds"), false},
		{"the namespace", &v1alpha1.VaultRecord{Address: b.spec.Address, Namespace: "team"}, inNamespace("team"), true},
	} {
		if got := b.Covers(c.spec, &v1alpha1.LeaseRecord{ID: "database/creds/orders/a", Vault: c.rec}); got != c.want {
			t.Errorf("a record of %s: %t, want %t", c.of, got, c.want)
		}
	}
}

func TestLoginsAreNeverRevoked(t *testing.T) {
	for _, spec := range []*v1alpha1.LeaseRevocationSpec{
		{}, prefixed(""), prefixed("/"), prefixed("auth"), prefixed("auth/"), prefixed("auth/kubernetes/login/"),
		prefixed("/auth/"), prefixed("x/../auth/"), prefixed("./auth/"), prefixed("database//creds"), prefixed("sys/"),
		prefixed("database/creds//"), prefixed("a%2f"),
		single("auth/kubernetes/login/h1"), single("auth/token/create/h1"), single("database/../auth/h1"),
		selects(v1alpha1.VaultRevocation{Prefix: "database/", LeaseID: "database/creds/orders/a"}),
	} {
		t.Run(fmt.Sprintf("%+v", spec.Vault), func(t *testing.T) {
			f := newFixture(t)
			wantKind(t, f.RevokeAll(t.Context(), spec), backend.Misconfigured)
			wantKind(t, f.RevokeOne(t.Context(), spec, "database/creds/orders/a", false), backend.Misconfigured)
			_, err := f.Matching(t.Context(), spec)
			wantKind(t, err, backend.Misconfigured)
			_, err = f.Lives(t.Context(), spec, "database/creds/orders/a")
			wantKind(t, err, backend.Misconfigured)
			if paths := f.server.paths(); paths != "" {
				t.Errorf("it requested %s", paths)
			}
		})
	}
}

func TestMatchingListsAllBelowThePrefix(t *testing.T) {
	f := newFixture(t)
	f.server.always(lookupBelow, keys("orders/", "web/", "one", "", "../", "./"))
	f.server.always(lookupBelow+"/orders", keys("a", "b", "deep/"))
	f.server.always(lookupBelow+"/orders/deep", keys("c"))
	f.server.always(lookupBelow+"/web", errs(404)) // its last lease has expired meanwhile
	ids, err := f.Matching(t.Context(), inNamespace("team"))
	wantKind(t, err, "")
	slices.Sort(ids)
	const want = "database/creds/one database/creds/orders/a database/creds/orders/b database/creds/orders/deep/c"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("got %s", got)
	}
	for _, r := range f.server.requests(lookupBelow) {
		if r.namespace != "team" || r.query != "list=true" {
			t.Errorf("requested %+v", r)
		}
	}
}

// A step of a LeaseRevocation may end after any of the requests, and a request may fail.
func TestListingIsOneRequestAtATime(t *testing.T) {
	f := newFixture(t)
	f.server.always(lookupBelow, keys("orders/", "web/", "one"))
	f.server.always(lookupBelow+"/orders", errs(500, "internal error"))
	f.server.always(lookupBelow+"/web", keys("b"))
	var l backend.Listing
	next := func(kind backend.ErrorKind, want string) {
		t.Helper()
		before := strings.Count(f.server.paths(), "sys/leases/lookup")
		wantKind(t, f.ListNext(t.Context(), prefixed("database/creds/"), &l), kind)
		if n := strings.Count(f.server.paths(), "sys/leases/lookup") - before; n != 1 {
			t.Errorf("it sent %d requests", n)
		}
		if got := fmt.Sprintf("%s %t", strings.Join(l.IDs, " "), l.Complete); got != want {
			t.Errorf("the list is %s, want %s", got, want)
		}
	}
	next("", "database/creds/one false")
	next(backend.Failed, "database/creds/one false")
	f.server.always(lookupBelow+"/orders", keys("a"))
	next("", "database/creds/one database/creds/orders/a false")
	next("", "database/creds/one database/creds/orders/a database/creds/web/b true")
}

func TestPrefixThatIsAWholeIDIsThatLease(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/lookup", ok(aliveLease))
	ids, err := f.Matching(t.Context(), prefixed(record().ID))
	if wantKind(t, err, ""); !slices.Equal(ids, []string{record().ID}) {
		t.Errorf("got %v", ids)
	}
	f.server.always("sys/leases/lookup", errs(400, "invalid lease"))
	if ids, err = f.Matching(t.Context(), prefixed(record().ID)); err != nil || len(ids) != 0 {
		t.Errorf("got %v, %v", ids, err)
	}
}

func TestMatchingStopsAnEndlessList(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf("%d/", i)
	}
	b := newScripted(&script{answers: []says{keys(many...)}})
	_, err := b.Matching(t.Context(), prefixed("database/creds/"))
	wantKind(t, err, backend.InvalidResponse)
}

func TestMatchingOfOneLease(t *testing.T) {
	for name, test := range map[string]struct {
		response says
		want     int
		kind     backend.ErrorKind
	}{
		"alive":                  {ok(aliveLease), 1, ""},
		"expired but not gone":   {ok(deadLease), 1, ""},
		"unknown":                {errs(400, "invalid lease"), 0, ""},
		"error of the server":    {errs(500, "internal error"), 0, backend.Failed},
		"response about another": {ok(strings.ReplaceAll(aliveLease, "abc", "def")), 0, backend.InvalidResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/lookup", test.response)
			ids, err := f.Matching(t.Context(), single(record().ID))
			wantKind(t, err, test.kind)
			if len(ids) != test.want {
				t.Errorf("got %v", ids)
			}
		})
	}
}

func TestRevokeAllIsOneRequestWithoutSync(t *testing.T) {
	const oneLease = "map[lease_id:database/creds/orders/abc sync:false]"
	for name, test := range map[string]struct {
		spec       *v1alpha1.LeaseRevocationSpec
		path, body string
	}{
		"a prefix":                 {prefixed("database/creds/"), revokeBelow, "map[sync:false]"},
		"a prefix without a slash": {prefixed("database/creds"), revokeBelow, "map[sync:false]"},
		"with force":               {forced("database/creds"), revokeBelow, "map[sync:false]"},
		"a lease":                  {single(record().ID), "sys/leases/revoke", oneLease},
		"in a namespace":           {inNamespace("team"), revokeBelow, "map[sync:false]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(test.path, says{status: 202})
			wantKind(t, f.RevokeAll(t.Context(), test.spec), "")
			sent := f.server.requests(test.path)
			if len(sent) != 1 || sent[0].method != "PUT" || fmt.Sprint(sent[0].body) != test.body ||
				sent[0].namespace != test.spec.Vault.Namespace {
				t.Errorf("sent %+v", sent)
			}
		})
	}
}

func TestDeniedNamesEveryMissingLine(t *testing.T) {
	const (
		list   = `path "sys/leases/lookup/database/creds/*" { capabilities = ["list", "sudo"] }`
		revoke = `path "sys/leases/revoke-prefix/database/creds" { capabilities = ["update", "sudo"] }`
		force  = `path "sys/leases/revoke-force/database/creds/*" { capabilities = ["update", "sudo"] }`
		byID   = `path "sys/leases/revoke" { capabilities = ["update"] }`
		byIDF  = `path "sys/leases/revoke-force/database/creds/orders/abc" { capabilities = ["update", "sudo"] }`

		mayList = `"sys/leases/lookup/database/creds/":["list","sudo"],` +
			`"sys/leases/revoke-prefix/database/creds":["update"]`
		mayRevoke = `"sys/leases/lookup/database/creds/":["root"],"sys/leases/revoke-prefix/database/creds":["root"]`
	)
	below := prefixed("database/creds/")
	oneByForce := selects(v1alpha1.VaultRevocation{LeaseID: record().ID, Force: true})
	may := func(capabilities string) says { return ok(`{"request_id":"1","data":{` + capabilities + `}}`) }
	for name, test := range map[string]struct {
		spec      *v1alpha1.LeaseRevocationSpec
		self      says
		names     []string
		doesNot   []string
		requested string
	}{
		"nothing is permitted": {below, may(""), []string{list, revoke}, []string{force}, revokeBelow},
		"nothing is permitted, by force": {
			forced("database/creds"), may(""), []string{list, revoke, force}, nil, revokeBelow,
		},
		"sudo is missing":             {below, may(mayList), []string{revoke}, []string{list}, revokeBelow},
		"capabilities-self is denied": {below, errs(403, denied), []string{list, revoke}, nil, revokeBelow},
		"capabilities-self fails": {
			below, errs(500, "internal error"), []string{revoke}, []string{list}, revokeBelow,
		},
		"a policy of another kind": {below, may(mayRevoke), []string{revoke}, []string{list}, revokeBelow},
		"another namespace": {
			inNamespace("other"), may(""), []string{revoke}, []string{list}, revokeBelow,
		},
		"one lease": {
			single(record().ID), may(""), []string{byID}, []string{"prefix", "force"}, "sys/leases/revoke",
		},
		"one lease by force": {
			oneByForce, may(""), []string{byIDF}, []string{"prefix"}, "sys/leases/revoke",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(askSelf, test.self)
			f.server.always(test.requested, errs(403, denied))
			err := f.RevokeAll(t.Context(), test.spec)
			wantKind(t, err, backend.Denied)
			wantText(t, err, append(test.names, `role "keeper"`)...)
			for _, line := range test.doesNot {
				if strings.Contains(err.Error(), line) {
					t.Errorf("%q names %q", err, line)
				}
			}
		})
	}
}

func TestDeniedListNamesEveryMissingLine(t *testing.T) {
	f := newFixture(t)
	f.server.always(askSelf, ok(`{"request_id":"1","data":{}}`))
	f.server.always(lookupBelow, errs(403, denied))
	_, err := f.Matching(t.Context(), prefixed("database/creds/"))
	wantKind(t, err, backend.Denied)
	wantText(t, err, `"sys/leases/lookup/database/creds/*"`, `"sys/leases/revoke-prefix/database/creds"`)
}

func TestErrorsOfRevokeAll(t *testing.T) {
	for name, test := range map[string]struct {
		response says
		kind     backend.ErrorKind
	}{
		"accepted":            {says{status: 202}, ""},
		"done":                {nothing(), ""},
		"a broken storage":    {errs(500, `failed to revoke "x" (1 / 2): storage`), backend.Failed},
		"sealed":              {errs(503, "Vault is sealed"), backend.Unavailable},
		"a gateway":           {says{status: 504, body: "late"}, backend.NoResponse},
		"a broken connection": {says{hangUp: true}, backend.NoResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(revokeBelow, test.response)
			wantKind(t, f.RevokeAll(t.Context(), prefixed("database/creds/")), test.kind)
		})
	}
}

func TestRevokeOne(t *testing.T) {
	const (
		byForce = "sys/leases/revoke-force/database/creds/orders/abc"
		lookup  = "sys/leases/lookup"
		revoke  = "sys/leases/revoke"
		down    = "failed to revoke entry: the database is unavailable"
	)
	below, by := prefixed("database/creds/"), forced("database/creds")
	oneByForce := selects(v1alpha1.VaultRevocation{LeaseID: record().ID, Force: true})
	for name, test := range map[string]struct {
		spec      *v1alpha1.LeaseRevocationSpec
		id        string
		force     bool
		responses map[string]says
		kind      backend.ErrorKind
		text      string
	}{
		"it is revoked": {
			below, record().ID, false, map[string]says{revoke: nothing(), lookup: errs(400, "invalid lease")}, "", "",
		},
		"the database fails": {
			below, record().ID, false, map[string]says{revoke: errs(400, down), lookup: ok(deadLease)},
			backend.Failed, down,
		},
		"force comes later": {
			by, record().ID, false, map[string]says{revoke: nothing(), lookup: errs(400, "invalid lease")}, "", "",
		},
		"by force":           {by, record().ID, true, map[string]says{byForce: nothing()}, "", ""},
		"one lease by force": {oneByForce, record().ID, true, map[string]says{byForce: nothing()}, "", ""},
		"force is denied": {by, record().ID, true, map[string]says{byForce: errs(403, denied)}, backend.Denied,
			`"sys/leases/revoke-force/database/creds/*"`},
		"force is not set":          {below, record().ID, true, nil, backend.Misconfigured, ""},
		"another lease":             {below, "database/roles/orders/abc", false, nil, backend.Mismatch, ""},
		"another lease, by force":   {by, "auth/token/create/abc", true, nil, backend.Mismatch, ""},
		"what is no id, by force":   {by, "database/creds/a b", true, nil, backend.Mismatch, ""},
		"a path instead of a lease": {by, "database/creds/orders/", true, nil, backend.Mismatch, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(askSelf, ok(`{"request_id":"1","data":{}}`))
			for path, response := range test.responses {
				f.server.always(path, response)
			}
			err := f.RevokeOne(t.Context(), test.spec, test.id, test.force)
			wantKind(t, err, test.kind)
			if test.text != "" {
				wantText(t, err, test.text)
			}
			if test.responses == nil && f.server.paths() != "" {
				t.Errorf("it requested %s", f.server.paths())
			}
		})
	}
}

func TestLives(t *testing.T) {
	for name, test := range map[string]struct {
		id       string
		response says
		lives    bool
		kind     backend.ErrorKind
	}{
		"alive":                     {record().ID, ok(aliveLease), true, ""},
		"expired":                   {record().ID, ok(deadLease), false, ""},
		"unknown":                   {record().ID, errs(400, "invalid lease"), false, ""},
		"error of the server":       {record().ID, errs(500, "internal error"), false, backend.Failed},
		"an id that is not Vault's": {"database/creds/a b", says{}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/lookup", test.response)
			lives, err := f.Lives(t.Context(), prefixed("database/creds/"), test.id)
			wantKind(t, err, test.kind)
			if lives != test.lives {
				t.Errorf("lives: %t", lives)
			}
		})
	}
}

// For any order: each request stays within it, and never revokes a login.
func FuzzOrder(f *testing.F) {
	for _, target := range []string{"database/creds/", "database", "auth/", "/auth/", "x/../auth/", "AUTH/token",
		"auth%2f",
		"auth?", "sys/leases", "database/creds/orders/abc", "", "/", "."} {
		for _, key := range []string{"abc", "orders/", "../", "a/b", "", "..", "/"} {
			f.Add(target, false, key)
			f.Add(target, true, key)
		}
	}
	f.Fuzz(func(t *testing.T, target string, one bool, key string) {
		for _, force := range []bool{false, true} {
			spec := selects(v1alpha1.VaultRevocation{Prefix: target, Force: force})
			if one {
				spec = selects(v1alpha1.VaultRevocation{LeaseID: target, Force: force})
			}
			checkOrder(t, spec, target, key)
		}
	})
}

// checkOrder makes all requests of an order, to a server that lists the key.
func checkOrder(t *testing.T, spec *v1alpha1.LeaseRevocationSpec, target, key string) {
	t.Helper()
	listed, _ := json.Marshal(map[string]any{"request_id": "1", "data": map[string]any{"keys": []string{key}}})
	s := &script{answers: []says{{status: 200, body: string(listed)}, ok(`{"request_id":"1","data":{"keys":[]}}`)}}
	b := newScripted(s)
	ids, err := b.Matching(t.Context(), spec)
	fit(t, err)
	fit(t, b.RevokeAll(t.Context(), spec))
	for _, id := range append(ids, key, target+key) {
		fit(t, b.RevokeOne(t.Context(), spec, id, false))
		fit(t, b.RevokeOne(t.Context(), spec, id, true))
		_, err := b.Lives(t.Context(), spec, id)
		fit(t, err)
	}
	o := order{VaultRevocation: *spec.Vault}
	for _, sent := range s.asked {
		path := sent.path
		for _, call := range []string{
			"sys/leases/lookup", "sys/leases/revoke-prefix", "sys/leases/revoke-force", "sys/leases/revoke",
		} {
			path = strings.TrimPrefix(strings.TrimPrefix(path, call), "/")
		}
		if id, ok := sent.body["lease_id"].(string); ok {
			path = id
		}
		if !isPath(path) {
			t.Errorf("%+v sends %s %s about %q", o, sent.method, sent.path, path)
		}
		if strings.Contains(sent.path, "revoke") && !o.selects(path) && path != o.folder() {
			t.Errorf("%+v revokes %q", o, path)
		}
	}
}
