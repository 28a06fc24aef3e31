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

// upstream counts finished requests. Requests to /slow wait for release.
type upstream struct {
	finished  atomic.Int32
	cancelled atomic.Int32
	entered   chan struct{}
	release   chan struct{}
}

func startProxy(t *testing.T) (*upstream, *testbed.Proxy) {
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

// request sends a request on its own connection.
func request(ctx context.Context, method, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func expectResponse(t *testing.T, proxy *testbed.Proxy, method, path string) {
	t.Helper()
	status, body, err := request(t.Context(), method, proxy.Address+path, "text")
	if err != nil || status != 200 || body != method+" "+path+" text" {
		t.Fatalf("%s %s: %d %q %v", method, path, status, body, err)
	}
}

func TestProxyForwardsAndRecordsRequests(t *testing.T) {
	_, proxy := startProxy(t)
	expectResponse(t, proxy, "PUT", "/v1/auth?list=true")
	expectResponse(t, proxy, "GET", "/v1/creds")
	if seen, err := proxy.Requests(`^PUT /v1/auth$`); err != nil || len(seen) != 1 {
		t.Fatalf("got %v (%v), want one request", seen, err)
	}
}

func TestDropAnswerReachesUpstream(t *testing.T) {
	u, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.DropAnswer, Method: "PUT", Path: "^/issue$", Times: 1})
	expectResponse(t, proxy, "GET", "/issue")
	if _, _, err := request(t.Context(), "PUT", proxy.Address+"/issue", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the client got %v, want EOF", err)
	}
	if n := u.finished.Load(); n != 2 {
		t.Fatalf("upstream finished %d requests, want 2", n)
	}
	expectResponse(t, proxy, "PUT", "/issue")
}

func TestCutRequestFinishesUpstream(t *testing.T) {
	u, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Cut, After: 20 * time.Millisecond, Times: 1})
	if _, _, err := request(t.Context(), "PUT", proxy.Address+"/slow", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the client got %v, want EOF", err)
	}
	<-u.entered
	close(u.release)
	proxy.Wait()
	if u.finished.Load() != 1 || u.cancelled.Load() != 0 {
		t.Fatalf("upstream finished %d and cancelled %d, want 1 and 0", u.finished.Load(), u.cancelled.Load())
	}
}

func TestDisconnectedClientCancelsForwarding(t *testing.T) {
	u, proxy := startProxy(t)
	ctx, disconnect := context.WithCancel(t.Context())
	go func() { <-u.entered; disconnect() }()
	_, _, _ = request(ctx, "PUT", proxy.Address+"/slow", "")
	proxy.Wait()
	if u.finished.Load() != 0 {
		t.Fatal("upstream finished a canceled request")
	}
}

func TestHangDoesNotReachUpstream(t *testing.T) {
	u, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := request(ctx, "GET", proxy.Address+"/", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the client got %v, want a timeout", err)
	}
	proxy.Clear()
	expectResponse(t, proxy, "GET", "/cleared")
	if n := u.finished.Load(); n != 1 {
		t.Fatalf("upstream finished %d requests, want 1", n)
	}
}

func TestAnswerAndAnswerAfter(t *testing.T) {
	u, proxy := startProxy(t)
	const page = "<html>Bad Gateway</html>"
	breakWith(t, proxy,
		testbed.Fault{Action: testbed.Answer, Status: 502, Body: page, ContentType: "text/html", Times: 1})
	breakWith(t, proxy, testbed.Fault{Action: testbed.AnswerAfter, Status: 504, Times: 1})
	status, body, err := request(t.Context(), "GET", proxy.Address+"/", "")
	if status != 502 || body != page || err != nil {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if n := u.finished.Load(); n != 0 {
		t.Fatalf("upstream finished %d requests, want 0", n)
	}
	if status, _, err := request(t.Context(), "GET", proxy.Address+"/", ""); status != 504 || err != nil {
		t.Fatalf("%d %v", status, err)
	}
	if n := u.finished.Load(); n != 1 {
		t.Fatalf("upstream finished %d requests, want 1", n)
	}
}

func TestResetDoesNotReachUpstream(t *testing.T) {
	u, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Reset, Times: 1})
	if _, _, err := request(t.Context(), "GET", proxy.Address+"/issue", ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the client got %v, want a reset", err)
	}
	if n := u.finished.Load(); n != 0 {
		t.Fatalf("upstream finished %d requests, want 0", n)
	}
	expectResponse(t, proxy, "GET", "/issue")
}

func TestRefuseAndRefuseConnections(t *testing.T) {
	_, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Refuse, Times: 1})
	if _, _, err := request(t.Context(), "GET", proxy.Address+"/", ""); !errors.Is(err, io.EOF) {
		t.Fatalf("the client got %v, want EOF", err)
	}
	if err := proxy.RefuseConnections(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := request(t.Context(), "GET", proxy.Address+"/", ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("the client got %v, want connection refused", err)
	}
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	expectResponse(t, proxy, "GET", "/back")
}

func TestDelayedRequestReachesUpstream(t *testing.T) {
	_, proxy := startProxy(t)
	breakWith(t, proxy, testbed.Fault{Action: testbed.Delay, After: 10 * time.Millisecond})
	expectResponse(t, proxy, "GET", "/late")
}

func breakWith(t *testing.T, proxy *testbed.Proxy, f testbed.Fault) {
	t.Helper()
	if err := proxy.Break(f); err != nil {
		t.Fatal(err)
	}
}

func TestStalledStreamContinuesAfterClear(t *testing.T) {
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
	response, err := client.Get(proxy.Address + "/things?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	got := bufio.NewScanner(response.Body)
	if !got.Scan() || got.Text() != "fresh" {
		t.Fatalf("before the stall: %q, %v", got.Text(), got.Err())
	}
	breakWith(t, proxy, testbed.Fault{Action: testbed.Stall, Query: "watch=true"})
	lines <- "stale"
	var cleared atomic.Bool
	go func() { time.Sleep(200 * time.Millisecond); cleared.Store(true); proxy.Clear(); close(lines) }()
	if !got.Scan() || got.Text() != "stale" || !cleared.Load() {
		t.Fatalf("got %q, %v; cleared: %t", got.Text(), got.Err(), cleared.Load())
	}
}
