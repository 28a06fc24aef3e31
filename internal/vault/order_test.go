package vault

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	lookupBelow = "sys/leases/lookup/database/creds"
	revokeBelow = "sys/leases/revoke-prefix/database/creds"
	askSelf     = "sys/capabilities-self"
)

var below = Order{Prefix: "database/creds/"}

func keys(names ...string) says {
	return ok(`{"request_id":"1","data":{"keys":["` + strings.Join(names, `","`) + `"]}}`)
}

func TestAnOrderGoesByWholeSegments(t *testing.T) {
	for _, c := range []struct {
		order Order
		id    string
		want  bool
	}{
		{Order{Prefix: "database/creds/"}, "database/creds/orders/a", true},
		{Order{Prefix: "database/creds"}, "database/creds/orders/a", true},
		{Order{Prefix: "database/creds/or"}, "database/creds/orders/a", false},
		{Order{Prefix: "database/creds/orders/a"}, "database/creds/orders/a", true},
		{Order{Prefix: "database/creds/orders/a"}, "database/creds/orders/ab", false},
		{Order{Prefix: "database"}, "database2/creds/orders/a", false},
		{Order{LeaseID: "database/creds/orders/a"}, "database/creds/orders/a", true},
		{Order{LeaseID: "database/creds/orders/a"}, "database/creds/orders/ab", false},
	} {
		if got := c.order.Covers(c.id); got != c.want {
			t.Errorf("%s covers %s: %t, want %t", c.order, c.id, got, c.want)
		}
	}
}

func TestWhatWouldEndLoginsIsNotSent(t *testing.T) {
	for _, o := range []Order{
		{}, {Prefix: "/"}, {Prefix: "auth"}, {Prefix: "auth/"}, {Prefix: "auth/kubernetes/login/"}, {Prefix: "/auth/"}, {Prefix: "x/../auth/"},
		{Prefix: "./auth/"}, {Prefix: "database//creds"}, {Prefix: "sys/"}, {Prefix: "database/creds//"}, {Prefix: "a%2f"},
		{LeaseID: "auth/kubernetes/login/h1"}, {LeaseID: "auth/token/create/h1"}, {LeaseID: "database/../auth/h1"},
		{Prefix: "database/", LeaseID: "database/creds/orders/a"},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			f := newFixture(t)
			wantKind(t, f.RevokeAll(t.Context(), o), backend.Misconfigured)
			_, err := f.Matching(t.Context(), o)
			wantKind(t, err, backend.Misconfigured)
			if paths := f.server.paths(); paths != "" {
				t.Errorf("asked %s", paths)
			}
		})
	}
}

func TestMatchingListsWhatIsBelow(t *testing.T) {
	f := newFixture(t)
	f.server.always(lookupBelow, keys("orders/", "web/", "one", "", "../", "./"))
	f.server.always(lookupBelow+"/orders", keys("a", "b", "deep/"))
	f.server.always(lookupBelow+"/orders/deep", keys("c"))
	f.server.always(lookupBelow+"/web", errs(404)) // the last of them ran out meanwhile
	ids, err := f.Matching(t.Context(), Order{Prefix: "database/creds", Namespace: "team"})
	wantKind(t, err, "")
	slices.Sort(ids)
	if got := strings.Join(ids, " "); got != "database/creds/one database/creds/orders/a database/creds/orders/b database/creds/orders/deep/c" {
		t.Errorf("got %s", got)
	}
	for _, r := range f.server.requests(lookupBelow) {
		if r.namespace != "team" || r.query != "list=true" {
			t.Errorf("asked %+v", r)
		}
	}
}

func TestAPrefixThatIsAWholeIDIsThatLease(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/lookup", ok(aliveLease))
	ids, err := f.Matching(t.Context(), Order{Prefix: record().ID})
	if wantKind(t, err, ""); !slices.Equal(ids, []string{record().ID}) {
		t.Errorf("got %v", ids)
	}
	f.server.always("sys/leases/lookup", errs(400, "invalid lease"))
	if ids, err = f.Matching(t.Context(), Order{Prefix: record().ID}); err != nil || len(ids) != 0 {
		t.Errorf("got %v, %v", ids, err)
	}
}

func TestMatchingGivesUpAListWithoutEnd(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf("%d/", i)
	}
	b := newScripted(&script{answers: []says{keys(many...)}})
	_, err := b.Matching(t.Context(), below)
	wantKind(t, err, backend.InvalidResponse)
}

func TestMatchingOfOneLease(t *testing.T) {
	one := Order{LeaseID: record().ID}
	for name, test := range map[string]struct {
		answer says
		want   int
		kind   backend.ErrorKind
	}{
		"alive":                        {ok(aliveLease), 1, ""},
		"dead, and Vault still has it": {ok(deadLease), 1, ""},
		"unknown":                      {errs(400, "invalid lease"), 0, ""},
		"trouble":                      {errs(500, "internal error"), 0, backend.Failed},
		"another's":                    {ok(strings.ReplaceAll(aliveLease, "abc", "def")), 0, backend.InvalidResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/lookup", test.answer)
			ids, err := f.Matching(t.Context(), one)
			wantKind(t, err, test.kind)
			if len(ids) != test.want {
				t.Errorf("got %v", ids)
			}
		})
	}
}

func TestAnOrderIsOneRequestThatIsNotWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		order Order
		path  string
		body  string
	}{
		"a prefix":                  {below, revokeBelow, "map[sync:false]"},
		"a prefix without a slash":  {Order{Prefix: "database/creds"}, revokeBelow, "map[sync:false]"},
		"force comes later":         {Order{Prefix: "database/creds", Force: true}, revokeBelow, "map[sync:false]"},
		"a lease":                   {Order{LeaseID: record().ID}, "sys/leases/revoke", "map[lease_id:database/creds/orders/abc sync:false]"},
		"in a namespace of Vault's": {Order{Prefix: "database/creds", Namespace: "team"}, revokeBelow, "map[sync:false]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(test.path, says{status: 202})
			wantKind(t, f.RevokeAll(t.Context(), test.order), "")
			sent := f.server.requests(test.path)
			if len(sent) != 1 || sent[0].method != "PUT" || fmt.Sprint(sent[0].body) != test.body || sent[0].namespace != test.order.Namespace {
				t.Errorf("sent %+v", sent)
			}
		})
	}
}

func TestARefusalNamesEveryLineThatTheOrderNeeds(t *testing.T) {
	const (
		list  = `path "sys/leases/lookup/database/creds/*" { capabilities = ["list", "sudo"] }`
		act   = `path "sys/leases/revoke-prefix/database/creds" { capabilities = ["update", "sudo"] }`
		force = `path "sys/leases/revoke-force/database/creds/*" { capabilities = ["update", "sudo"] }`
	)
	capabilities := func(has string) says { return ok(`{"request_id":"1","data":{` + has + `}}`) }
	for name, test := range map[string]struct {
		order Order
		self  says
		lacks []string
		has   []string
	}{
		"all":                 {below, capabilities(""), []string{list, act}, []string{force}},
		"all, with force":     {Order{Prefix: "database/creds", Force: true}, capabilities(""), []string{list, act, force}, nil},
		"sudo":                {below, capabilities(`"sys/leases/lookup/database/creds/":["list","sudo"],"sys/leases/revoke-prefix/database/creds":["update"]`), []string{act}, []string{list}},
		"nobody can be asked": {below, errs(403, denied), []string{list, act}, nil},
		"Vault is in trouble": {below, errs(500, "internal error"), []string{act}, []string{list}},
		"a policy of another kind": {below, capabilities(`"sys/leases/lookup/database/creds/":["root"],"sys/leases/revoke-prefix/database/creds":["root"]`),
			[]string{act}, []string{list}},
		"in another namespace": {Order{Prefix: "database/creds", Namespace: "other"}, capabilities(""), []string{act}, []string{list}},
		"of one lease":         {Order{LeaseID: record().ID}, capabilities(""), []string{`path "sys/leases/revoke" { capabilities = ["update"] }`}, []string{"prefix", "force"}},
		"of one lease by force": {Order{LeaseID: record().ID, Force: true}, capabilities(""),
			[]string{`path "sys/leases/revoke-force/database/creds/orders/abc" { capabilities = ["update", "sudo"] }`}, []string{"prefix"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(askSelf, test.self)
			f.server.always(test.order.path(), errs(403, denied))
			err := f.RevokeAll(t.Context(), test.order)
			wantKind(t, err, backend.Denied)
			wantText(t, err, append(test.lacks, `role "keeper"`)...)
			for _, line := range test.has {
				if strings.Contains(err.Error(), line) {
					t.Errorf("%q names %q", err, line)
				}
			}
		})
	}
}

func TestAListThatIsRefusedNamesTheLinesOfTheOrder(t *testing.T) {
	f := newFixture(t)
	f.server.always(askSelf, ok(`{"request_id":"1","data":{}}`))
	f.server.always(lookupBelow, errs(403, denied))
	_, err := f.Matching(t.Context(), below)
	wantKind(t, err, backend.Denied)
	wantText(t, err, `"sys/leases/lookup/database/creds/*"`, `"sys/leases/revoke-prefix/database/creds"`)
}

func TestWhatBecomesOfAnOrder(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
	}{
		"taken":               {says{status: 202}, ""},
		"done":                {nothing(), ""},
		"a broken storage":    {errs(500, `failed to revoke "x" (1 / 2): storage`), backend.Failed},
		"sealed":              {errs(503, "Vault is sealed"), backend.Unavailable},
		"a gateway":           {says{status: 504, body: "late"}, backend.NoResponse},
		"a broken connection": {says{hangUp: true}, backend.NoResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(revokeBelow, test.answer)
			wantKind(t, f.RevokeAll(t.Context(), below), test.kind)
		})
	}
}

func TestOneLeaseOfAnOrder(t *testing.T) {
	const forced = "sys/leases/revoke-force/database/creds/orders/abc"
	for name, test := range map[string]struct {
		order   Order
		id      string
		answers map[string]says
		kind    backend.ErrorKind
		text    string
	}{
		"it is revoked":            {below, record().ID, map[string]says{"sys/leases/revoke": nothing(), "sys/leases/lookup": errs(400, "invalid lease")}, "", ""},
		"Vault says why not":       {below, record().ID, map[string]says{"sys/leases/revoke": errs(400, "failed to revoke entry: the database is away"), "sys/leases/lookup": ok(deadLease)}, backend.Failed, "the database is away"},
		"by force":                 {Order{Prefix: "database/creds", Force: true}, record().ID, map[string]says{forced: nothing()}, "", ""},
		"one lease by force":       {Order{LeaseID: record().ID, Force: true}, record().ID, map[string]says{forced: nothing()}, "", ""},
		"force is refused":         {Order{Prefix: "database/creds", Force: true}, record().ID, map[string]says{forced: errs(403, denied)}, backend.Denied, `"sys/leases/revoke-force/database/creds/*"`},
		"another's":                {below, "database/roles/orders/abc", nil, backend.Mismatch, ""},
		"another's, by force":      {Order{Prefix: "database/creds", Force: true}, "auth/token/create/abc", nil, backend.Mismatch, ""},
		"what is no id of Vault's": {Order{Prefix: "database/creds", Force: true}, "database/creds/a b", nil, backend.Mismatch, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(askSelf, ok(`{"request_id":"1","data":{}}`))
			for path, answer := range test.answers {
				f.server.always(path, answer)
			}
			err := f.RevokeOne(t.Context(), test.order, test.id)
			wantKind(t, err, test.kind)
			if test.text != "" {
				wantText(t, err, test.text)
			}
			if test.kind == backend.Mismatch && f.server.paths() != "" {
				t.Errorf("asked %s", f.server.paths())
			}
		})
	}
}

func TestALeaseThatExpiredDoesNotLive(t *testing.T) {
	for name, test := range map[string]struct {
		id     string
		answer says
		lives  bool
		kind   backend.ErrorKind
	}{
		"alive":                    {record().ID, ok(aliveLease), true, ""},
		"expired":                  {record().ID, ok(deadLease), false, ""},
		"unknown":                  {record().ID, errs(400, "invalid lease"), false, ""},
		"trouble":                  {record().ID, errs(500, "internal error"), false, backend.Failed},
		"what is no id of Vault's": {"database/creds/a b", says{}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/leases/lookup", test.answer)
			lives, err := f.Lives(t.Context(), below, test.id)
			wantKind(t, err, test.kind)
			if lives != test.lives {
				t.Errorf("lives: %t", lives)
			}
		})
	}
}
