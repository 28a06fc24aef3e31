package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const leased = `{"request_id":"1","lease_id":"database/creds/orders/abc","lease_duration":3600,"renewable":true,` +
	`"data":{"username":"u","password":"p"}}`

func TestAFailedIssuanceShowsWhatMayBeAlive(t *testing.T) {
	for name, test := range map[string]struct {
		answer says
		kind   backend.ErrorKind
		text   string
	}{
		"a lease is a success": {ok(leased), "", ""},
		"a policy that refuses names the line": {
			errs(403, "1 error occurred:\n\t* permission denied\n\n"), backend.Denied,
			`policy of role "app" lacks "read" on "database/creds/orders"`,
		},
		"a token that died meanwhile is no question of policy": {
			errs(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"),
			backend.LoginFailed, "no longer valid",
		},
		"nothing at the path": {errs(404), backend.NotFound, "database/creds/orders"},
		"no engine at the path": {
			errs(404, `no handler for route "database/creds/orders". route entry not found.`),
			backend.NotFound, "no handler",
		},
		"a wrong request is refused with Vault's words": {
			errs(400, "unknown role: orders"), backend.Refused, "unknown role: orders",
		},
		"a path that knows no reading": {
			errs(405, "1 error occurred:\n\t* unsupported operation\n\n"), backend.Refused, "unsupported operation",
		},
		"a database that is down": {
			errs(500, "1 error occurred:\n\t* failed to connect: connection refused\n\n"),
			backend.Failed, "connection refused",
		},
		"a database that Vault gave up on may still act": {
			errs(500, "1 error occurred:\n\t* context deadline exceeded\n\n"), backend.NoResponse, "stopped waiting",
		},
		"a cancelled request may still act": {
			errs(500, "context canceled"), backend.NoResponse, "",
		},
		"an active node that was lost while forwarding may act": {
			errs(500, "error during forwarding RPC request: rpc error: code = Unavailable"), backend.NoResponse, "",
		},
		"a name that Vault made up is the same each time": {
			errs(500, `role "v-kubernet-role-30-z4vBOtWgeOSDT1bi3OBb-1795461068" exists`),
			backend.Failed, `role "v-…" exists`,
		},
		"a quota is looked at first": {
			errs(429, `request path "database/creds/orders": rate limit quota exceeded`), backend.Throttled, "quota",
		},
		"a lease count quota": {
			errs(429, "lease count quota exceeded"), backend.QuotaExceeded, "sys/quotas/lease-count",
		},
		"a standby that lags says so first": {
			errs(412, "required index state not present"), backend.Unavailable, "",
		},
		"a sealed server turns away at the door": {
			errs(503, "Vault is sealed"), backend.Unavailable, "sealed",
		},
		"a server sealed at work may have acted": {
			errs(503, "1 error occurred:\n\t* failed to register lease: Vault is sealed\n\n"), backend.NoResponse, "",
		},
		"a standby that lost the leader may have forwarded the request": {
			errs(503, "no active Vault instance found"), backend.NoResponse, "forwarded",
		},
		"a standby without a leader forwards nothing": {
			errs(500, "local node not active but active cluster node not found"), backend.Unavailable, "does not serve",
		},
		"an engine that quotes a standby is no standby": {
			errs(500, "failed: local node not active but active cluster node not found"), backend.Failed, "",
		},
		"a leader that stepped down at work may have acted": {
			errs(500, "1 error occurred:\n\t* node is not the leader\n\n"), backend.NoResponse, "not active any more",
		},
		"a step-down that refuses the request may have acted": {
			errs(400, "leadership lost while committing log"), backend.NoResponse, "not active any more",
		},
		"overload in the middle": {
			errs(503, "Vault server temporarily overloaded"), backend.NoResponse, "",
		},
		"a gateway's 502": {
			says{status: 502, body: "<html>"}, backend.NoResponse, "gateway",
		},
		"a gateway's 504 in Vault's shape": {errs(504, "timeout"), backend.NoResponse, ""},
		"a gateway's 503": {
			says{status: 503, body: "no healthy upstream"}, backend.NoResponse, "gateway",
		},
		"a gateway's 404": {
			says{status: 404, body: "not found"}, backend.NoResponse, "gateway",
		},
		"a gateway's 403": {
			says{status: 403, body: `{"message":"forbidden"}`}, backend.NoResponse, "gateway",
		},
		"a health code is no answer to an issue": {errs(473, "?"), backend.NoResponse, "473"},
		"a permanent redirect is not followed": {
			says{status: 301, header: http.Header{"Location": {"https://elsewhere"}}}, backend.NoResponse, "301",
		},
		"a success without content": {nothing(), backend.InvalidResponse, "empty"},
		"a success that is a page": {
			ok("<html>sign in</html>"), backend.InvalidResponse, "Vault",
		},
		"a success of another shape": {
			ok(`{"hello":"world"}`), backend.InvalidResponse, "Vault",
		},
		"a success without data": {
			ok(`{"request_id":"1","data":null}`), backend.InvalidResponse, "no data",
		},
		"a success with empty data": {
			ok(`{"request_id":"1","lease_id":"database/creds/orders/a","data":{}}`), backend.InvalidResponse, "no data",
		},
		"a login is not given out": {
			ok(`{"request_id":"1","auth":{"client_token":"hvs.x"}}`), backend.InvalidResponse, "login",
		},
		"a wrapped answer is not unwrapped": {
			ok(`{"request_id":"1","wrap_info":{"token":"hvs.x"}}`), backend.InvalidResponse, "wrapped",
		},
		"a lease of another path could not be ended later": {
			ok(`{"request_id":"1","lease_id":"other/creds/a/b","data":{"a":"b"}}`),
			backend.InvalidResponse, "another path",
		},
		"more than a Secret holds": {
			ok(`{"request_id":"1","data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`),
			backend.InvalidResponse, "1 MiB",
		},
		"far more than a Secret holds": {
			ok(`{"request_id":"1","data":{"a":"` + strings.Repeat("x", 5<<20) + `"}}`),
			backend.InvalidResponse, "more than 2 MiB",
		},
		"a version 2 path without data/ gets a hint": {
			says{status: 404,
				body: `{"request_id":"1","data":null,` +
					`"warnings":["Invalid path for a versioned K/V secrets engine. See the API docs."]}`},
			backend.NotFound, "data/ after the mount",
		},
		"a deleted version says so": {
			says{status: 404,
				body: `{"request_id":"1","data":{"data":null,"metadata":{"version":3,"created_time":"x",` +
					`"deletion_time":"y","destroyed":false}}}`}, backend.NotFound, "version 3",
		},
		"a connection that breaks leaves it open": {says{hangUp: true}, backend.NoResponse, "broke"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(readPath, test.answer)
			_, err := f.Issue(t.Context(), at, read)
			wantKind(t, err, test.kind)
			if test.kind != "" {
				wantText(t, err, test.text)
				if strings.Contains(err.Error(), at.Token) {
					t.Error("the error has the token in it")
				}
			}
			if n := len(f.server.requests(readPath)); n != 1 {
				t.Errorf("the request was sent %d times, want once", n)
			}
		})
	}
}

func TestMessagesAreShort(t *testing.T) {
	long := strings.Repeat("9", 20_000)
	for name, answer := range map[string]says{
		"a version": ok(`{"request_id":"1","data":{"data":null,"metadata":{"version":` + long +
			`,"created_time":"x"}}}`),
		"a host": {
			status: http.StatusTemporaryRedirect, header: http.Header{"Location": {"https://" + long + ".test"}},
		},
		"a text": errs(http.StatusBadRequest, long),
	} {
		b := newScripted(&script{answers: []says{answer, {status: http.StatusBadGateway}}})
		b.redirects.Store(true)
		if _, err := b.Issue(t.Context(), at, read); err == nil || len(err.Error()) > maxMessage {
			t.Errorf("%s makes a message of %d bytes", name, len(fmt.Sprint(err)))
		}
	}
}

func TestARequestHasItsMethodParametersAndNamespace(t *testing.T) {
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.Namespace = "team" })
	f.server.always("pki/issue/web", ok(`{"request_id":"1","lease_id":"","data":{"serial":"1"}}`))

	_, err := f.Issue(t.Context(), at, source("pki/issue/web", parameters(map[string]string{
		"name": `"a b&c"`, "n": `12345678901234567890`, "yes": `true`, "list": `["a",1]`,
	})))
	wantKind(t, err, "")
	elsewhere := func(req *v1alpha1.VaultRequest) { req.Namespace = "team/b" }
	_, err = f.Issue(t.Context(), at, source("pki/issue/web", write, elsewhere, parameters(map[string]string{
		"deep": `{"a":[1,null]}`,
	})))
	wantKind(t, err, "")

	got := f.server.requests("pki/issue/web")
	const want = "list=a&list=1&n=12345678901234567890&name=a+b%26c&yes=true"
	asSession := got[0].namespace == "team" && got[0].token == at.Token
	if got[0].method != "GET" || got[0].query != want || !asSession {
		t.Errorf("read: got %+v, want the query %s", got[0], want)
	}
	body := fmt.Sprint(got[1].body)
	if got[1].method != "PUT" || body != "map[deep:map[a:[1 <nil>]]]" || got[1].namespace != "team/b" {
		t.Errorf("write: got %+v", got[1])
	}
	for name, raw := range map[string]string{
		"an object": `{}`, "null": `null`, "a list of lists": `[[1]]`, "no JSON": `x`,
	} {
		_, err := f.Issue(t.Context(), at, source("pki/issue/web", parameters(map[string]string{"p": raw})))
		if backend.KindOf(err) != backend.Refused {
			t.Errorf("%s as a query: got %v, want Refused", name, err)
		}
	}
	if n := len(f.server.requests("pki/issue/web")); n != 2 {
		t.Errorf("%d requests were sent, want 2: what cannot be a query is not sent", n)
	}
}

func TestAMintingRequestIsNeverRepeated(t *testing.T) {
	// Go's transport, which is used with proxies, would repeat it: the connection is kept alive, and it is a GET.
	for name, route := range map[string]struct{ http2, proxied bool }{
		"on its own connection":          {},
		"through a proxy, HTTP/1.1":      {proxied: true},
		"through a proxy, HTTP/2":        {proxied: true, http2: true},
		"to a server that speaks HTTP/2": {http2: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			over := tlsServer(t, s, route.http2)
			f := newFixtureAt(t, s, over.URL, trusting(over))
			if route.proxied {
				// The transport below does not need one; what matters is that it is used.
				f.minting.Transport.(*oneShot).proxy = func(*http.Request) (*url.URL, error) { return &url.URL{}, nil }
			}
			s.inTurn(readPath, ok(leased), says{hangUp: true}, ok(leased))
			if _, err := f.Issue(t.Context(), at, read); err != nil {
				t.Fatal(err)
			}
			_, err := f.Issue(t.Context(), at, read)
			wantKind(t, err, backend.NoResponse)
			got := s.requests(readPath)
			if len(got) != 2 {
				t.Errorf("the server got %d requests, want 2: the second was sent again", len(got))
			}
			if got[0].http2 != (route.http2 && route.proxied) || got[0].chunked {
				t.Errorf("over HTTP/2: %t, with a body: %t", got[0].http2, got[0].chunked)
			}
		})
	}
}

func TestAServerFinishesARequestThatMints(t *testing.T) {
	// gaveUp sends a request, stops waiting for its response, and reports whether the server noticed.
	gaveUp := func(t *testing.T, secured bool, c call) bool {
		s := newServer(t)
		got, left := make(chan struct{}), make(chan bool)
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(got)
			select {
			case <-r.Context().Done():
				left <- true
			case <-time.After(time.Second):
				left <- false
			}
		})
		over := httptest.NewServer(handler)
		t.Cleanup(over.Close)
		change := change(func(*v1alpha1.ClusterSecretProvider, *Options) {})
		if secured {
			over = tlsServer(t, handler, true)
			change = trusting(over)
		}
		f := newFixtureAt(t, s, over.URL, change)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-got
			cancel()
		}()
		_, err := f.do(ctx, c)
		wantKind(t, err, backend.NoResponse)
		return <-left
	}
	for name, c := range map[string]call{
		"a read": {method: http.MethodGet, path: "database/creds/orders"},
		"a write": {
			method: http.MethodPut, path: "pki/issue/web",
			body: map[string]string{"common_name": strings.Repeat("x", 10_000)},
		},
	} {
		for _, secured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", name, secured), func(t *testing.T) {
				t.Parallel()
				if !gaveUp(t, secured, c) {
					t.Fatal("an ordinary request was finished too: this test proves nothing")
				}
				minting := c
				minting.mints = true
				if gaveUp(t, secured, minting) {
					t.Error("the server noticed that the client is gone, and cancels the request")
				}
			})
		}
	}
}

func tlsServer(t *testing.T, handler http.Handler, http2 bool) *httptest.Server {
	over := httptest.NewUnstartedServer(handler)
	over.EnableHTTP2 = http2
	over.StartTLS()
	t.Cleanup(over.Close)
	return over
}

func trusting(s *httptest.Server) change {
	return func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(certificate(s))}
	}
}

func TestAHangingServerTimesOut(t *testing.T) {
	f := newFixture(t, func(_ *v1alpha1.ClusterSecretProvider, o *Options) { o.IssueTimeout = 500 * time.Millisecond })
	f.server.always(readPath, says{hang: true})
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.NoResponse)
	wantText(t, err, "no response in time")
}

func TestWithoutAConnectionNothingWasMinted(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for address, test := range map[string]struct {
		kind backend.ErrorKind
		text string
	}{
		"http://" + closed.Addr().String():  {backend.Unavailable, "connection refused"},
		"https://" + closed.Addr().String(): {backend.Unavailable, "connection refused"},
		"http://does-not-exist.invalid":     {backend.Unavailable, `"does-not-exist.invalid" cannot be resolved`},
	} {
		f := newFixtureAt(t, nil, address)
		_, err := f.Issue(t.Context(), at, read)
		wantKind(t, err, test.kind)
		wantText(t, err, test.text)
	}
}

func TestACertificateThatDoesNotVerify(t *testing.T) {
	f := newFixtureAt(t, nil, newTLSServer(t).URL)
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.TLS)
	wantText(t, err, "unknown authority", "tls.caBundle")

	plain := newFixtureAt(t, nil, strings.Replace(newServer(t).URL, "http:", "https:", 1))
	_, err = plain.Issue(t.Context(), at, read)
	wantKind(t, err, backend.TLS)
	wantText(t, err, "does not speak TLS")
}

func TestARedirectOfAStandbyMintsOnce(t *testing.T) {
	active := newServer(t)
	active.always(readPath, ok(leased))
	f := newFixture(t)
	redirect := says{status: 307, header: http.Header{"Location": {active.URL + "/v1/" + readPath}}}
	f.server.always(readPath, redirect)
	f.server.always("auth/kubernetes/login",
		says{status: 307, header: http.Header{"Location": {active.URL + "/v1/auth/kubernetes/login"}}})

	if _, err := f.Login(t.Context(), who); err != nil {
		t.Fatalf("a login follows the redirect: %v", err)
	}
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.NoResponse)
	if n := len(active.requests(readPath)); n != 0 {
		t.Fatalf("the active node got %d requests: the standby may have forwarded one already", n)
	}
	_, err = f.Issue(t.Context(), at, read)
	wantKind(t, err, "")
	got := active.requests(readPath)
	if len(got) != 1 || !got[0].direct || got[0].token != at.Token {
		t.Errorf("the active node got %+v, want one request that is not forwarded", got)
	}
	active.Close()
	_, err = f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.Unavailable)
	f.Backend.redirects.Store(true)
	f.server.always(readPath, errs(503, "no active Vault instance found"))
	_, err = f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.Unavailable) // it was told not to forward, so nothing was done
	f.Backend.redirects.Store(false)
	f.server.always(readPath, ok(leased))
	_, err = f.Issue(t.Context(), at, read)
	wantKind(t, err, "")
	if got := f.server.requests(readPath); got[len(got)-1].direct {
		t.Error("where the active node cannot be reached, standbys are to forward again")
	}
}

func TestARedirectAwayFromTLSIsNotFollowed(t *testing.T) {
	elsewhere := newServer(t)
	s := httptest.NewTLSServer(http.RedirectHandler(elsewhere.URL+"/v1/sys/health", http.StatusTemporaryRedirect))
	defer s.Close()
	f := newFixtureAt(t, nil, s.URL, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(certificate(s))}
	})
	_, err := f.Inspect(t.Context())
	wantKind(t, err, backend.NoResponse)
	wantText(t, err, "without TLS")
	if elsewhere.paths() != "" {
		t.Error("it was followed")
	}
}

func TestTheCauseOfAnErrorHasNoParameters(t *testing.T) {
	f := newFixture(t)
	f.server.always(readPath, says{hangUp: true})
	_, err := f.Issue(t.Context(), at, source(readPath, parameters(map[string]string{"p": `"value-of-p"`})))
	if cause := errors.Unwrap(err); cause == nil || strings.Contains(cause.Error(), "value-of-p") {
		t.Errorf("the cause is %v", cause)
	}
}
