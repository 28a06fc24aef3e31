package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// responseSeeds are responses of Vault and of gateways in front of it, as observed.
var responseSeeds = []struct {
	status uint16
	body   string
}{
	{200, leased},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/a","lease_duration":60,"data":{"username":"u",` +
		`"password":"PASSWORD"}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/a","data":{}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/../admin/a","data":{"a":"b"}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders-admin/a","data":{"a":"b"}}`},
	{200, `{"request_id":"1","lease_id":"","lease_duration":2764800,"data":{"a/b":"PASSWORD","":"c"}}`},
	{200, `{"request_id":"1","data":{"data":null,"metadata":{"version":1,"created_time":"x","destroyed":true}}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/a","data":null,"auth":{"client_token":"TOKEN"}}`},
	{200, `{"request_id":"1","wrap_info":{"token":"TOKEN"}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/a","wrap_info":{},"data":{"a":"b"}}`},
	{200, `{"request_id":"1","lease_id":"database/creds/orders/a","lease_duration":"x",` +
		`"data":{"a":{"b":[1,2.0,{"c":null}]}}}`},
	{200, `{"data":[]}`}, {200, `null`}, {200, ``}, {204, ``},
	{200, `<html>sign in</html>`}, {200, `{"hello":"world"}`},
	{307, ``}, {308, ``}, {301, ``}, {399, `{"errors":["TOKEN"]}`},
	{400, `{"errors":["unknown role: orders TOKEN"]}`},
	{403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`},
	{403, `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`},
	{404, `{"errors":[]}`},
	{404, `{"errors":["no handler for route \"TOKEN\""]}`},
	{404, `{"request_id":"1","data":null,"warnings":["Invalid path for a versioned K/V secrets engine. TOKEN"]}`},
	{404, `{"request_id":"1","data":{"data":null,"metadata":{"version":3,"created_time":"x","deletion_time":"y",` +
		`"destroyed":false}}}`},
	{405, `{"errors":["unsupported operation"]}`}, {412, `{"errors":["required index state not present"]}`},
	{429, `{"errors":["rate limit quota exceeded"]}`}, {473, `{"errors":["?"]}`},
	{500, `{"errors":["1 error occurred:\n\t* context deadline exceeded\n\n"]}`},
	{500, `{"errors":["role \"v-kubernet-role-30-z4vBOtWgeOSDT1bi3OBb-1795461068\" exists TOKEN"]}`},
	{500, `{"errors":["dial postgresql://admin:PASSWORD@db:5432/x failed"]}`},
	{502, `<html>`}, {503, `{"errors":["Vault is sealed"]}`}, {503, `no healthy upstream`},
	{504, `{"errors":["timeout"]}`}, {400, "Client sent an HTTP request to an HTTPS server.\n"},
}

// For any response to an issuance: the request is sent once, a response with a lease is a success with that lease or an
// error (after which the caller revokes the session, and the lease with it), and no text contains a token or the
// credential.
func FuzzIssue(f *testing.F) {
	for i, seed := range responseSeeds {
		f.Add(seed.status, []byte(seed.body),
			[]string{"", "https://other.test:8200/v1/x", "http://other.test", "/v1/x", "://"}[i%5], i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, code uint16, body []byte, location string, direct bool) {
		answer := says{status: status(code), body: planted(body), header: http.Header{"Location": {location}}}
		s := &script{answers: []says{answer, {status: 502, body: "<html>"}}}
		b := newScripted(s)
		b.redirects.Store(direct)
		got, err := b.Issue(t.Context(), backend.Session{Token: plainToken, Handle: "acc"}, read)
		redirected := answer.status == http.StatusTemporaryRedirect || answer.status == http.StatusPermanentRedirect
		sent := s.of(readPath)
		followed := len(sent) == 2 && redirected && direct && strings.HasPrefix(sent[1].host, "https://")
		if len(sent) != 1 && !followed {
			t.Errorf("it was requested %d times: %+v", len(sent), sent)
		}
		closed := s.of("auth/token/revoke-self")
		unleased := err == nil && got.LeaseID == ""
		// Why it was refused.
		asked := len(s.of("sys/internal/ui/mounts/"+readPath)) + len(s.of("sys/capabilities-self"))
		health := len(s.of("sys/health")) // after a gateway's error
		if unleased != (len(closed) == 1) || len(sent)+len(closed)+asked+health != len(s.asked) || asked > 2 {
			t.Errorf("lease %q, %v, after the requests %+v", got.LeaseID, err, s.asked)
		}
		if redirected {
			fit(t, err, plainToken)
			return
		}
		if fit(t, err, plainToken); succeeded(answer.status) {
			fit(t, err, plainPassword)
		}
		all := fields(answer.body)
		if err == nil && !wholeLease(all, got) {
			t.Errorf("lease %q of %q", got.LeaseID, answer.body)
		}
		if err == nil {
			checkIssued(t, answer, got)
			return
		}
		kind := backend.KindOf(err)
		if all == nil && !succeeded(answer.status) && kind != backend.NoResponse && kind != backend.TLS {
			t.Errorf("a response that is not Vault's is accepted as one: %s, %v", kind, err)
		}
	})
}

// wholeLease reports whether a lease of the response is in the result.
func wholeLease(all map[string]any, got backend.Response) bool {
	id, _ := all["lease_id"].(string)
	return id == "" || id == got.LeaseID || !once(all, "lease_id")
}

func checkIssued(t *testing.T, answer says, got backend.Response) {
	t.Helper()
	bounded := got.Term.Duration >= 0 && got.Term.Duration <= maxSeconds*time.Second
	if !succeeded(answer.status) || len(got.Data) == 0 || !bounded {
		t.Errorf("a success with status %d, %d keys and a lease of %s", answer.status, len(got.Data), got.Term.Duration)
	}
	if (got.Kind == v1alpha1.ResponseLeased) != (got.LeaseID != "") {
		t.Errorf("kind %q with the lease %q", got.Kind, got.LeaseID)
	}
	if got.Kind == "" || got.Kind == v1alpha1.ResponseExpiring && got.Term.Duration == 0 {
		t.Errorf("kind %q for %s", got.Kind, got.Term.Duration)
	}
	if got.LeaseID != "" && !belongs(readPath, got.LeaseID) {
		t.Errorf("a lease of another path: %q", got.LeaseID)
	}
	if err := secret.Check(corev1.SecretTypeOpaque, got.Data); err != nil {
		// The caller rejects it with this text, which is shown.
		text := err.Error()
		leaked := strings.Contains(text, plainPassword) && !keyHas(got.Data, plainPassword)
		if leaked || len(text) > maxMessage {
			t.Errorf("not safe to show: %q", text)
		}
	}
}

func keyHas(data map[string][]byte, piece string) bool {
	for key := range data {
		if strings.Contains(key, piece) {
			return true
		}
	}
	return false
}

// belongs reports whether Vault built the id for a lease of the path: the path, a slash, one word. It checks that in
// another way than the code.
func belongs(of, id string) bool {
	clean := func(p string) bool {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@:~+=,/-"
		return path.Clean("/"+p) == "/"+p && p != "" && strings.Trim(p, letters) == "" && len(path.Base(p)) <= 512
	}
	engine := !strings.HasPrefix(of+"/", "sys/") && !strings.HasPrefix(of+"/", "auth/")
	isPath := clean(of) && len(of) <= 512 && engine
	return isPath && clean(id) && path.Dir(id) == of
}

const (
	opRenew = iota
	opExtend
	opLookup
	opList
	opHealth
	opCapabilities
	ops
)

// For any response to the keeper: only Vault's own texts prove that a lease is gone, only a response about this lease
// counts, the listed ids belong to the path, and a policy line counts as present only if Vault reports it.
func FuzzKeeper(f *testing.F) {
	for op := range uint8(ops) {
		for _, seed := range responseSeeds {
			f.Add(op, seed.status, []byte(strings.ReplaceAll(seed.body, "TOKEN", "KEEPER")))
		}
	}
	for _, text := range []string{"lease not found", "lease expired", "invalid lease", "invalid accessor",
		"token not found", "invalid request KEEPER",
		`failed to renew entry: the text \"lease not found\" is in a table`,
		`1 error occurred:\n\t* lease not found\n\n`} {
		for op := range uint8(opList) {
			f.Add(op, uint16(400), []byte(`{"errors":["`+text+`"]}`))
		}
	}
	for _, body := range []string{renewed, strings.Replace(renewed, "abc", "def", 1),
		`{"request_id":"1","lease_id":"database/creds/orders/abc","lease_duration":0}`,
		`{"request_id":"1","lease_id":"database/creds/orders/abc","lease_duration":1e400,` +
			`"warnings":["TTL of \"48h\" exceeded the effective max_ttl of \"1h\""]}`} {
		f.Add(uint8(opRenew), uint16(200), []byte(body))
	}
	for _, body := range []string{
		`{"request_id":"1","auth":{"lease_duration":7200,"renewable":true}}`,
		`{"auth":{}}`, `{"auth":{"lease_duration":-1}}`,
	} {
		f.Add(uint8(opExtend), uint16(200), []byte(body))
	}
	for _, body := range []string{aliveLease, deadLease, strings.Replace(aliveLease, "abc", "def", 1),
		strings.Replace(aliveLease, `"ttl"`, `"TTL"`, 1),
		`{"request_id":"1","data":{"id":"database/creds/orders/abc","expire_time":"x","ttl":"600"}}`,
		`{"request_id":"1","data":{"id":"database/creds/orders/abc","expire_time":"x"}}`} {
		f.Add(uint8(opLookup), uint16(200), []byte(body))
	}
	for _, body := range []string{
		`{"request_id":"1","data":{"keys":["a","b/","../c","","d/e"]}}`,
		`{"request_id":"1","data":{"keys":null}}`, `{"request_id":"1","data":{}}`,
	} {
		f.Add(uint8(opList), uint16(200), []byte(body))
	}
	for _, body := range []string{`{"initialized":true,"sealed":false,"version":"1.21.0","enterprise":false}`,
		`{"initialized":true,"version":"KEEPER\n"}`, `{"initialized":false}`,
		`{"initialized":true,"sealed":true,"version":"2.4.0"}`} {
		for _, code := range []uint16{200, 429, 472, 473, 474, 501, 503, 530} {
			f.Add(uint8(opHealth), code, []byte(body))
		}
	}
	for _, body := range []string{`{"request_id":"1","data":{"sys/leases/renew":["update"],` +
		`"sys/leases/revoke":["root"],"sys/leases/lookup":["read"]}}`,
		`{"request_id":"1","data":{"sys/leases/renew":"update","capabilities":["update"]}}`,
		`{"request_id":"1","data":null}`} {
		f.Add(uint8(opCapabilities), uint16(200), []byte(body))
	}
	f.Fuzz(func(t *testing.T, op uint8, code uint16, body []byte) {
		answer := says{status: status(code), body: planted(body)}
		s := &script{answers: []says{answer}, by: map[string]says{"auth/token/lookup-accessor": ok(ourToken)}}
		b, all := newScripted(s), fields(answer.body)
		switch op % ops {
		case opRenew:
			term, err := b.Renew(t.Context(), record(), time.Hour)
			checkRenewed(t, answer, all, term, err)
		case opExtend:
			term, err := b.ExtendSession(t.Context(), record(), owner)
			fit(t, err, plainKeeper)
			if err == nil && (!succeeded(answer.status) || term.Duration < 0) {
				t.Errorf("%d %q extends the token for %s", answer.status, answer.body, term.Duration)
			}
			wantSaid(t, answer, err, textsOf(tokenGone))
		case opLookup:
			checkLookedUp(t, answer, all, b.Lookup(t.Context(), record()))
		case opList:
			checkListed(t, b, answer, all)
		case opHealth:
			checkHealth(t, b, answer, all)
		case opCapabilities:
			checkMissing(t, b, answer, all)
		}
	})
}

const ourToken = `{"request_id":"1","data":{"path":"auth/kubernetes/login",` +
	`"meta":{"service_account_namespace":"shop"}}}`

// wantSaid: something is gone only if one of these texts is in a response that is no success.
func wantSaid(t *testing.T, answer says, err error, texts []string) {
	t.Helper()
	if backend.KindOf(err) != backend.Gone || err == nil {
		return
	}
	body := answer.body
	if !clientError(answer.status) || !slices.ContainsFunc(texts, func(text string) bool {
		encoded, _ := json.Marshal(fields(body)["errors"])
		return strings.Contains(string(encoded), text)
	}) {
		t.Errorf("%d %q is accepted as gone: %v", answer.status, body, err)
	}
}

func checkRenewed(t *testing.T, answer says, all map[string]any, term lease.Term, err error) {
	t.Helper()
	fit(t, err, plainKeeper)
	wantSaid(t, answer, err, textsOf(leaseGone))
	if err != nil {
		return
	}
	if !succeeded(answer.status) || all["lease_id"] != record().ID && once(all, "lease_id") || term.Duration < 0 {
		t.Errorf("%d %q renews the lease for %s", answer.status, answer.body, term.Duration)
	}
	if term.Duration == 0 {
		t.Errorf("%q renews the lease for no time", answer.body)
	}
}

func checkLookedUp(t *testing.T, answer says, all map[string]any, err error) {
	t.Helper()
	fit(t, err, plainKeeper)
	data, _ := all["data"].(map[string]any)
	about := succeeded(answer.status) && (data["id"] == record().ID || !once(all, "data"))
	if err == nil && !about {
		t.Errorf("%d %q is accepted as a live lease", answer.status, answer.body)
	}
	if backend.KindOf(err) != backend.Gone || err == nil {
		return
	}
	if !succeeded(answer.status) {
		wantSaid(t, answer, err, textsOf(leaseGone))
		return
	}
	ttl, isNumber := data["ttl"].(json.Number)
	n, bad := ttl.Float64()
	if !about || !isNumber || bad != nil || n > 0 {
		t.Errorf("%q is accepted as a dead lease", answer.body)
	}
}

func checkListed(t *testing.T, b *Backend, answer says, all map[string]any) {
	t.Helper()
	ids, err := b.List(t.Context(), record())
	fit(t, err, plainKeeper)
	for id := range ids {
		if word, below := strings.CutPrefix(id, readPath+"/"); !below || word == "" || strings.HasSuffix(word, "/") {
			t.Errorf("%q is listed as a lease of the path", id)
		}
	}
	plain404 := answer.status == http.StatusNotFound && all["errors"] != nil && fmt.Sprint(all["errors"]) == "[]"
	if err == nil && !succeeded(answer.status) && !plain404 && once(all, "errors") {
		t.Errorf("%d %q is a list", answer.status, answer.body)
	}
}

func checkHealth(t *testing.T, b *Backend, answer says, all map[string]any) {
	t.Helper()
	report, err := b.health(t.Context())
	fit(t, err, plainKeeper)
	for _, text := range []string{report.ServerKind, report.Version} {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\r\x00") || len(text) > maxMessage {
			t.Errorf("not safe for a status: %q", text)
		}
	}
	if err == nil && once(all, "initialized", "sealed") && (all["initialized"] != true || all["sealed"] == true) {
		t.Errorf("%d %q is accepted as a server that serves", answer.status, answer.body)
	}
}

func checkMissing(t *testing.T, b *Backend, answer says, all map[string]any) {
	t.Helper()
	missing, err := b.missing(t.Context(), keeperPaths)
	fit(t, err, plainKeeper)
	if err != nil || !once(all, "data") {
		return
	}
	data, _ := all["data"].(map[string]any)
	for _, path := range keeperPaths {
		capabilities, _ := data[path].([]any)
		has := slices.Contains(capabilities, any("update")) || slices.Contains(capabilities, any("root"))
		named := slices.Contains(missing, path+": update") ||
			slices.Contains(missing, "sys/capabilities-self: update")
		if !has && !named {
			t.Errorf("%d %q lets the keeper use %s", answer.status, answer.body, path)
		}
	}
}

// For any response to a login: a session has a token that can be revoked, no text contains it, and a token that is
// rejected is revoked first.
func FuzzLogin(f *testing.F) {
	const good = `{"request_id":"1","auth":{"client_token":"TOKEN","accessor":"acc","lease_duration":3600,` +
		`"renewable":true,"num_uses":0}}`
	for _, tokenAuth := range []bool{false, true} {
		f.Add(tokenAuth, uint16(200), []byte(good), uint16(200), []byte(good))
		for _, change := range []struct{ from, to string }{
			{`"acc"`, `""`}, {`3600`, `60`}, {`3600`, `-1`},
			{`"num_uses":0`, `"num_uses":1`}, {`0}}`, `0},"errors":["x"]}`},
		} {
			changed := strings.Replace(good, change.from, change.to, 1)
			f.Add(tokenAuth, uint16(200), []byte(changed), uint16(403), []byte(`{"errors":["TOKEN"]}`))
		}
		for _, seed := range responseSeeds {
			f.Add(tokenAuth, seed.status, []byte(strings.ReplaceAll(seed.body, "TOKEN", "jwt-shop-orders-1")),
				uint16(200), []byte(good))
		}
		f.Add(tokenAuth, uint16(400), []byte(`{"errors":["jwt-shop-orders-1 PARENT"]}`), uint16(200), []byte(good))
	}
	const parent = "PlainParent/Token+of.the-test"
	f.Fuzz(func(t *testing.T, tokenAuth bool, code uint16, body []byte, code2 uint16, body2 []byte) {
		first := says{status: status(code), body: strings.ReplaceAll(planted(body), "PARENT", parent)}
		s := &script{
			answers: []says{first},
			by: map[string]says{
				"auth/token/revoke-self": nothing(),
				"auth/token/renew-self":  {status: status(code2), body: planted(body2)},
			},
		}
		b := newScripted(s)
		b.kube.(*fakeKube).secrets = map[string]*corev1.Secret{
			"system/root": {Data: map[string][]byte{"token": []byte(parent)}},
		}
		if tokenAuth {
			b.spec.Auth = v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{SecretRef: v1alpha1.SecretKeyReference{
				SecretReference: v1alpha1.SecretReference{Name: "root", Namespace: "system"},
			}}}
		}
		asked := who
		asked.MinTTL = 2 * time.Hour
		got, err := b.Login(t.Context(), asked)
		if tokenAuth {
			fit(t, err, parent)
		} else {
			fit(t, err, "jwt-shop-orders-1")
		}
		a, parsed := rawResponse{body: []byte(first.body)}.parse()
		made := parsed && succeeded(first.status) && a.Auth != nil && a.Auth.ClientToken != ""
		complete := got.Token != "" && got.Handle != "" && got.Term.Duration >= 0
		limited := made && a.Auth.NumUses != "" && a.Auth.NumUses != "0"
		switch {
		case err == nil && (!made || !complete || limited):
			t.Errorf("%d %q gives %q with accessor %q for %s",
				first.status, first.body, got.Token, got.Handle, got.Term.Duration)
		case err == nil:
			return
		case made && a.Auth.Accessor != "":
			ended := s.of("auth/token/revoke-self")
			if len(ended) != 1 || ended[0].token != a.Auth.ClientToken {
				t.Errorf("%q is rejected, and its token is not revoked: %+v", first.body, ended)
			}
		}
	})
}

// For any response to a revocation or an extension: a token is revoked or extended only after Vault has confirmed that
// it is the owner's; a revocation succeeds only once Vault has confirmed it; and each request names the record's token
// or lease.
func FuzzRevoke(f *testing.F) {
	const (
		ours    = "200 " + ourToken
		foreign = `200 {"request_id":"1","data":{"path":"auth/kubernetes/login",` +
			`"meta":{"service_account_namespace":"other"}}}`
		done = "204"
		gone = `400 {"errors":["invalid lease"]}`
	)
	alive, dead := "200 "+aliveLease, "200 "+deadLease
	for _, turns := range [][]string{
		{ours, done, gone}, {ours, done, alive, gone}, {ours, done, alive, alive, alive, done, gone},
		{ours, done, dead, dead, dead, `400 {"errors":["failed to revoke entry KEEPER"]}`, dead},
		{foreign}, {`200 {"request_id":"1","data":{}}`},
		{`200 {"request_id":"1","data":{"path":"auth/other/login","meta":{"service_account_namespace":"shop"}}}`},
		{`200 {"request_id":"1","data":{"path":"auth/token/create","meta":{"leasekeeper_uid":"owner-uid"}}}`},
		{`403 {"errors":["invalid accessor"]}`, gone},
		{`400 {"errors":["invalid accessor KEEPER"]}`, alive, done, alive},
		{`403 {"errors":["permission denied"]}`,
			`200 {"request_id":"1","data":{"auth/token/lookup-accessor":["update"]}}`, gone},
		{`403 {"errors":["permission denied"]}`, `200 {"request_id":"1","data":{}}`},
		{ours, `403 {"errors":["permission denied"]}`},
		{ours, `500 {"errors":["KEEPER"]}`}, {"502 <html>"}, {ours, done, "503 x"},
		{ours, done, `200 {"data":{"id":"other"}}`},
	} {
		for op := range uint8(3) {
			f.Add(strings.Join(turns, "\n"), op)
		}
	}
	f.Fuzz(func(t *testing.T, text string, op uint8) {
		s := &script{answers: turns(text)}
		b, rec := newScripted(s), record()
		var err error
		switch op % 3 {
		case 0:
			err = b.Revoke(t.Context(), rec, owner)
		case 1:
			rec.ID = ""
			err = b.Revoke(t.Context(), rec, owner)
		case 2:
			_, err = b.ExtendSession(t.Context(), rec, owner)
		}
		fit(t, err, plainKeeper)
		if len(s.asked) > 9 {
			t.Errorf("%d requests for one revocation", len(s.asked))
		}
		var said, last asked
		for _, a := range s.asked {
			switch a.path {
			case "sys/health": // after a gateway's error
				continue
			case "auth/token/lookup-accessor":
				said = a
			case "auth/token/revoke-accessor", "auth/token/renew-accessor":
				if !isOwners(said.answer) {
					t.Errorf("%s was sent after %d %q", a.path, said.answer.status, said.answer.body)
				}
			case "sys/leases/lookup":
				last = a
			case "sys/leases/revoke", "sys/capabilities-self":
			default:
				t.Errorf("%s was sent", a.path)
			}
			wantAbout(t, a, rec)
		}
		if err == nil && op%3 == 0 {
			if last.path == "" {
				t.Fatal("nothing checked that the lease is gone")
			}
			wantSaid(t, last.answer, backend.Errorf(backend.Gone, "it was accepted as gone"), textsOf(leaseGone))
		}
		if backend.KindOf(err) == backend.Mismatch && err != nil && len(s.asked) > 1 {
			t.Errorf("a request was sent about another's token: %+v", s.asked)
		}
	})
}

// isOwners reads the response of lookup-accessor in another way than the code.
func isOwners(answer says) bool {
	data, _ := fields(answer.body)["data"].(map[string]any)
	if !once(fields(answer.body), "data") || !once(data, "path", "meta") {
		return true // either spelling may count
	}
	meta, _ := data["meta"].(map[string]any)
	return succeeded(answer.status) && data["path"] == "auth/kubernetes/login" &&
		meta["service_account_namespace"] == owner.Namespace
}

// wantAbout: the request names exactly the record's lease or token.
func wantAbout(t *testing.T, a asked, rec v1alpha1.LeaseRecord) {
	t.Helper()
	if a.path == "sys/capabilities-self" {
		return
	}
	want := map[string]any{"lease_id": rec.ID}
	if strings.HasPrefix(a.path, "auth/token/") {
		want = map[string]any{"accessor": rec.Handle()}
	}
	body := map[string]any{}
	for key, value := range a.body {
		if key != "increment" && key != "sync" {
			body[key] = value
		}
	}
	if !reflect.DeepEqual(body, want) || len(a.query) > 0 || a.token != plainKeeper {
		t.Errorf("%s was sent with %q and %v, want %q", a.path, body, a.query, want)
	}
}

// For any id and path in a ledger: Vault gets no request about an id that does not belong to the path, and each request
// is about exactly this id, this accessor and this path, in this namespace.
func FuzzLeaseID(f *testing.F) {
	const orders = "database/creds/orders"
	for _, seed := range [][2]string{
		{orders, orders + "/abc"}, {orders, orders}, {orders, orders + "/"},
		{orders, orders + "//abc"}, {orders, orders + "/../admin/abc"},
		{orders, orders + "/.."}, {orders, orders + "/."}, {orders, orders + "-admin/abc"},
		{orders, orders + "/eu/abc"}, {orders, "/" + orders + "/abc"},
		{orders, "database/creds/order/abc"}, {orders, "kv/creds/orders/abc"},
		{orders, ""}, {"", "/abc"}, {"", "abc"}, {"/", "//abc"},
		{orders + "/", orders + "//abc"}, {"database/../sys", "database/../sys/abc"},
		{"../../sys/seal", "../../sys/seal/x"}, {"sys/leases", "sys/leases/x"},
		{"auth/token/create", "auth/token/create/hxyz"}, {"auth", "auth/x"},
		{orders + "?list=true", orders + "?list=true/a"}, {orders + "#x", orders + "#x/a"},
		{orders, orders + "/a?b#c%2f..%2f"}, {"a%2f..%2fb", "a%2f..%2fb/c"}, {orders, orders + "/\xff"},
		{orders, orders + "/a\x00b"}, {orders, orders + "/a\r\nX-Vault-Token: b"},
		{orders, orders + "/<&>\u2028"}, {orders, orders + "/abc.ns1"},
		{"v1/database", "v1/database/a"}, {"a//b", "a//b/c"}, {"a/./b", "a/./b/c"},
	} {
		f.Add(seed[0], seed[1], "acc", "")
		f.Add(seed[0], seed[1], seed[1], "team/a")
	}
	f.Add(orders, orders+"/abc", "\xff", "")
	f.Add(orders, orders+"/abc", `","accessor":"other`, "\r\nX: y")
	f.Add(orders, orders+"/abc", "", "..")
	f.Fuzz(func(t *testing.T, path, id, accessor, namespace string) {
		rec := recordOf(path, id, accessor)
		rec.Vault.Namespace = namespace
		encoded, _ := json.Marshal(id)
		s := &script{by: map[string]says{
			"auth/token/lookup-accessor": ok(ourToken),
			"auth/token/revoke-accessor": nothing(),
			"sys/leases/lookup": ok(`{"request_id":"1","data":{"id":` + string(encoded) +
				`,"expire_time":"2026-01-02T04:00:00Z","ttl":5}}`),
			"sys/leases/renew": ok(`{"request_id":"1","lease_id":` + string(encoded) +
				`,"lease_duration":60}`),
			"sys/leases/revoke":         nothing(),
			"auth/token/renew-accessor": ok(`{"request_id":"1","auth":{"lease_duration":60}}`),
		}, answers: []says{errs(404)}}
		b := newScripted(s)
		inside := belongs(path, id)
		for _, what := range []string{"Renew", "Lookup", "Revoke"} {
			s.asked = nil
			var err error
			switch what {
			case "Renew":
				_, err = b.Renew(t.Context(), rec, time.Hour)
			case "Lookup":
				err = b.Lookup(t.Context(), rec)
			case "Revoke":
				err = b.Revoke(t.Context(), rec, owner)
			}
			fit(t, err, plainKeeper)
			sent := len(s.of("sys/leases/lookup")) + len(s.of("sys/leases/renew")) + len(s.of("sys/leases/revoke"))
			if !inside && sent > 0 {
				t.Errorf("%s requests %q of the path %q: %+v", what, id, path, s.asked)
			}
			if !inside && id != "" && (backend.KindOf(err) != backend.Mismatch || len(s.asked) > 0) {
				t.Errorf("%s of %q, which is not of the path %q, returns %v after %+v", what, id, path, err, s.asked)
			}
			for _, a := range s.asked {
				wantAbout(t, a, rec)
				if strings.HasPrefix(a.path, "sys/leases/") && a.namespace != namespace {
					t.Errorf("%s uses namespace %q", what, a.namespace)
				}
			}
			if inside && utf8.ValidString(accessor) && len(s.asked) == 0 {
				t.Errorf("%s of %q does nothing: %v", what, id, err)
			}
		}
		s.asked = nil
		_, err := b.ExtendSession(t.Context(), rec, owner)
		fit(t, err)
		for _, a := range s.asked {
			wantAbout(t, a, rec)
		}
		checkAskedList(t, b, s, namespace, path)
	})
}

func checkAskedList(t *testing.T, b *Backend, s *script, namespace, of string) {
	t.Helper()
	s.asked = nil
	_, err := b.List(t.Context(), v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{Namespace: namespace, Path: of}})
	fit(t, err, plainKeeper)
	inside := belongs(of, of+"/x")
	if !inside && len(s.asked) > 0 || inside && len(s.asked) != 1 {
		t.Errorf("the list of %q requests %+v", of, s.asked)
	}
	for _, a := range s.asked {
		lists := a.method == http.MethodGet && a.path == "sys/leases/lookup/"+of && a.query.Encode() == "list=true"
		if !lists || a.namespace != namespace {
			t.Errorf("the list of %q in %q requests %+v", of, namespace, a)
		}
	}
}

// For any content of a KV engine: version 1 and 2 return the same bytes: strings unchanged, numbers with their digits,
// the rest as the same JSON, null fields omitted. A deleted or destroyed version is not found.
func FuzzKV(f *testing.F) {
	for i, seed := range []string{
		`{"username":"u","password":"x\u0000\n\"é\\ <&>"}`,
		`{"big":12345678901234567890,"exact":1.10,"exp":1e400,"neg":-0.0,"small":1E-7}`,
		`{"t":true,"o":{ "b": 1, "a": [1, 2.0] },"l":[ "x" ],"n":null}`, `null`, `{}`,
		`[]`, `5`, `"text"`, `{"data":{"a":"b"},"metadata":{"version":2,"created_time":"x"}}`,
		`{"data":{"a":"b"},"metadata":{"owner":"me"}}`, `{"data":null,"metadata":{"version":1,"created_time":"x"}}`,
		`{"a":"1","a":2}`, `{"":"","a/b":1}`,
		`{"keys":["a","b/"]}`,
		`{"current_version":3,"versions":{"1":{"destroyed":true},"2":{"deletion_time":"y"}},` +
			`"custom_metadata":null}`,
		`{"deep":[[[[[[[[1.000]]]]]]]]}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"a":"b"`,
	} {
		f.Add([]byte(seed), []string{"1", "2", "0", "12345678901234567890", "1.5", `"2"`, "x", "-1"}[i%8], i%3 == 0,
			i%4 == 0)
	}
	f.Fuzz(func(t *testing.T, inner []byte, number string, destroyed, leased bool) {
		flat := issuedWith(t, fmt.Sprintf(`"data":%s`, inner))
		if !json.Valid(inner) {
			return // it must only be recognised, without a panic
		}
		want := map[string]any{}
		decoder := json.NewDecoder(bytes.NewReader(inner))
		decoder.UseNumber()
		isObject := decoder.Decode(&want) == nil && want != nil
		ambiguous := isV2(want)
		maps.DeleteFunc(want, func(_ string, value any) bool { return value == nil })
		if flat.err == nil && !ambiguous {
			checkValues(t, want, flat.data)
		}
		var n json.Number
		if json.Unmarshal([]byte(number), &n) != nil || !json.Valid([]byte(number)) || number[0] == '"' || n == "" {
			return
		}
		meta := fmt.Sprintf(`"metadata":{"created_time":"2026-01-02T03:04:05Z","custom_metadata":null,`+
			`"deletion_time":"","destroyed":%t,"version":%s}`, destroyed, number)
		id := ""
		if leased {
			id = `"lease_id":"database/creds/orders/abc",`
		}
		nested := issuedWith(t, fmt.Sprintf(`%s"data":{"data":%s,%s}`, id, inner, meta))
		switch {
		case leased && nested.err == nil:
			// A leased response is not KV: both keys remain.
			if len(nested.data) != 2 {
				t.Errorf("a leased response lost its shape: %q", nested.data)
			}
		case strings.TrimSpace(string(inner)) == "null":
			if backend.KindOf(nested.err) != backend.NotFound ||
				strings.Contains(nested.err.Error(), "destroyed") != destroyed {
				t.Errorf("a version that is deleted (destroyed %t) gives %v", destroyed, nested.err)
			}
		case isObject && len(want) > 0 && nested.err == nil:
			checkValues(t, want, nested.data)
			if flat.err == nil && !ambiguous && !reflect.DeepEqual(flat.data, nested.data) {
				t.Errorf("version 1 gives %q, version 2 %q", flat.data, nested.data)
			}
		case isObject && len(want) > 0 && flat.err == nil:
			t.Errorf("version 1 gives %q, version 2 %v", flat.data, nested.err)
		}
	})
}

type outcome struct {
	data map[string][]byte
	err  error
}

// issuedWith issues with a response of these fields.
func issuedWith(t *testing.T, rest string) outcome {
	t.Helper()
	s := &script{answers: []says{ok(`{"request_id":"1",` + rest + `}`)}}
	got, err := newScripted(s).Issue(t.Context(), backend.Session{Token: plainToken}, read)
	fit(t, err, plainToken)
	if err == nil && len(got.Data) == 0 {
		t.Errorf("a success without data: %s", rest)
	}
	return outcome{got.Data, err}
}

// isV2 reports whether data may be those of version 2: a version 1 secret of that shape cannot be distinguished.
func isV2(all map[string]any) bool {
	_, has1 := all["data"]
	_, has2 := all["metadata"]
	return has1 && has2 && len(all) == 2
}

// checkValues compares the bytes with the result of another decoder.
func checkValues(t *testing.T, want map[string]any, got map[string][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d keys became %d", len(want), len(got))
	}
	for key, value := range want {
		bytes, ok := got[key]
		switch value := value.(type) {
		case string:
			ok = ok && string(bytes) == value
		case json.Number:
			ok = ok && string(bytes) == string(value)
		default:
			var back any
			decoder := json.NewDecoder(strings.NewReader(string(bytes)))
			decoder.UseNumber()
			ok = ok && decoder.Decode(&back) == nil && reflect.DeepEqual(back, value)
		}
		if !ok {
			t.Errorf("the value %#v of %q became %q", value, key, bytes)
		}
	}
}
