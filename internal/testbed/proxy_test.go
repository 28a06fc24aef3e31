package testbed_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// upstream counts the requests that it finished; /slow finishes when released.
type upstream struct {
	finished  atomic.Int32
	cancelled atomic.Int32
	entered   chan struct{}
	release   chan struct{}
}

func proxied(t *testing.T) (*upstream, *testbed.Proxy) {
	t.Helper()
	u := &upstream{entered: make(chan struct{}, 8), release: make(chan struct{})}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	proxy, err := testbed.StartProxy(server.URL, testbed.ProxyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	return u, proxy
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/slow" {
		u.entered <- struct{}{}
		select {
		case <-u.release:
		case <-r.Context().Done():
			u.cancelled.Add(1)
			return
		}
	}
	u.finished.Add(1)
	w.Header().Set("X-Upstream", "real")
	_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+string(body))
}

// ask makes one request on a connection of its own.
func ask(ctx context.Context, method, url, body string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

func wantAnswer(t *testing.T, proxy *testbed.Proxy, method, path string) {
	t.Helper()
	status, body, err := ask(t.Context(), method, proxy.Address+path, "text")
	if err != nil || status != 200 || body != method+" "+path+" text" {
		t.Fatalf("%s %s: %d %q %v", method, path, status, body, err)
	}
}

func TestAProxyWithoutFaultsForwardsAndCounts(t *testing.T) {
	_, proxy := proxied(t)
	wantAnswer(t, proxy, "PUT", "/v1/auth?list=true")
	wantAnswer(t, proxy, "GET", "/v1/creds")
	if seen, err := proxy.Requests(`^PUT /v1/auth$`); err != nil || len(seen) != 1 {
		t.Fatalf("one request was made, the proxy counts %v (%v)", seen, err)
	}
}

func TestADroppedAnswerWasActedOnUpstream(t *testing.T) {
	u, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.DropAnswer, Method: "PUT", Path: "^/issue$", Times: 1})
	wantAnswer(t, proxy, "GET", "/issue")
	if _, _, err := ask(t.Context(), "PUT", proxy.Address+"/issue", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the answer was to be lost, the client saw %v", err)
	}
	if n := u.finished.Load(); n != 2 {
		t.Fatalf("upstream was to act on both requests, it did on %d", n)
	}
	wantAnswer(t, proxy, "PUT", "/issue")
}

func TestACutRequestGoesOnUpstream(t *testing.T) {
	u, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Cut, After: 20 * time.Millisecond, Times: 1})
	if _, _, err := ask(t.Context(), "PUT", proxy.Address+"/slow", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the connection was to be cut, the client saw %v", err)
	}
	<-u.entered
	close(u.release)
	proxy.Wait()
	if u.finished.Load() != 1 || u.cancelled.Load() != 0 {
		t.Fatalf("finished %d, cancelled %d: the upstream was to finish", u.finished.Load(), u.cancelled.Load())
	}
}

func TestAClientThatLeavesEndsAForwardedRequest(t *testing.T) {
	u, proxy := proxied(t)
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-u.entered; leave() }()
	_, _, _ = ask(ctx, "PUT", proxy.Address+"/slow", "")
	proxy.Wait()
	if u.finished.Load() != 0 {
		t.Fatal("the upstream finished what nobody waited for")
	}
}

func TestAHangingRequestNeverReachesUpstream(t *testing.T) {
	u, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := ask(ctx, "GET", proxy.Address+"/", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nothing was to come back, the client saw %v", err)
	}
	proxy.Clear()
	wantAnswer(t, proxy, "GET", "/cleared")
	if n := u.finished.Load(); n != 1 {
		t.Fatalf("only the second request was to reach the upstream, %d did", n)
	}
}

func TestAnAnswerOfTheProxysOwn(t *testing.T) {
	u, proxy := proxied(t)
	const page = "<html>Bad Gateway</html>"
	breakWith(t, proxy, testbed.Fault{Action: testbed.Answer, Status: 502, Body: page, ContentType: "text/html", Times: 1})
	breakWith(t, proxy, testbed.Fault{Action: testbed.AnswerAfter, Status: 504, Times: 1})
	if status, body, err := ask(t.Context(), "GET", proxy.Address+"/", ""); status != 502 || body != page || err != nil {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if n := u.finished.Load(); n != 0 {
		t.Fatalf("the upstream was not to be asked, it was %d times", n)
	}
	if status, _, err := ask(t.Context(), "GET", proxy.Address+"/", ""); status != 504 || err != nil {
		t.Fatalf("%d %v", status, err)
	}
	if n := u.finished.Load(); n != 1 {
		t.Fatalf("the upstream was to act once, it did %d times", n)
	}
}

func TestAResetConnectionNeverReachesUpstream(t *testing.T) {
	u, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Reset, Times: 1})
	if _, _, err := ask(t.Context(), "GET", proxy.Address+"/issue", ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection was to be reset, the client saw %v", err)
	}
	if n := u.finished.Load(); n != 0 {
		t.Fatalf("upstream has seen %d requests", n)
	}
	wantAnswer(t, proxy, "GET", "/issue")
}

func TestRefusedConnections(t *testing.T) {
	_, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Refuse, Times: 1})
	if _, _, err := ask(t.Context(), "GET", proxy.Address+"/", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the connection was to be closed, the client saw %v", err)
	}
	if err := proxy.RefuseConnections(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(t.Context(), "GET", proxy.Address+"/", ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dialling was to fail, the client saw %v", err)
	}
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, proxy, "GET", "/back")
}

func TestADelayedRequestArrives(t *testing.T) {
	_, proxy := proxied(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Delay, After: 10 * time.Millisecond})
	wantAnswer(t, proxy, "GET", "/late")
}

func breakWith(t *testing.T, proxy *testbed.Proxy, f testbed.Fault) {
	t.Helper()
	if err := proxy.Break(f); err != nil {
		t.Fatal(err)
	}
}

func TestAStalledStreamGoesOnWhenFaultsAreCleared(t *testing.T) {
	lines := make(chan string)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for line := range lines {
			_, _ = io.WriteString(w, line+"\n")
			_ = http.NewResponseController(w).Flush()
		}
	}))
	t.Cleanup(server.Close)
	pemOf := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	proxy, err := testbed.StartProxy(server.URL, testbed.ProxyOptions{CA: pemOf(server.Certificate()), TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(proxy.CA)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	go func() { lines <- "fresh" }()
	answer, err := client.Get(proxy.Address + "/things?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	got := bufio.NewScanner(answer.Body)
	if !got.Scan() || got.Text() != "fresh" {
		t.Fatalf("before the stall came %q, %v", got.Text(), got.Err())
	}
	breakWith(t, proxy, testbed.Fault{Action: testbed.Stall, Query: "watch=true"})
	lines <- "stale"
	var cleared atomic.Bool
	go func() { time.Sleep(200 * time.Millisecond); cleared.Store(true); proxy.Clear(); close(lines) }()
	if !got.Scan() || got.Text() != "stale" || !cleared.Load() {
		t.Fatalf("%q came, %v; after the faults were cleared: %t", got.Text(), got.Err(), cleared.Load())
	}
}
