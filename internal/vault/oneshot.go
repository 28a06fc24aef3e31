package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// oneShot sends requests that mint: each at most once, and in a way that Vault finishes it even if this process dies.
//
// Vault runs on Go's HTTP server, which cancels a request when its connection breaks. The database engine passes that
// on to the transaction that creates the user, and a COMMIT that is cancelled halfway may still happen: a user without
// a lease, which nobody can revoke. The server detects the break by reading ahead on the connection; a byte of a next
// request stops the detection (connReader.backgroundRead in net/http/server.go). So a second request is sent with the
// first, in one write, because this process could die between two. It is the no-op of HTTP, which Go's server handles
// itself, so it does not reach Vault. Its response is not read.
type oneShot struct {
	dial dialer
	// tls is the configuration for https.
	tls *tls.Config
	// proxied is used if proxy returns a proxy for the address. That proxy decides what Vault learns about a broken
	// connection.
	proxy   proxyFunc
	proxied http.RoundTripper
}

// noOp is longer than the server's buffer of 4 KiB, so that a byte is left to read ahead.
const noOp = "OPTIONS * HTTP/1.1\r\n" +
	"Host: %s\r\nUser-Agent: leasekeeper\r\nX-Padding: %05000d\r\nConnection: close\r\n\r\n"

func newOneShot(config *tls.Config, dial dialer, proxy proxyFunc, proxied http.RoundTripper) *http.Client {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	// One record, one write.
	config.DynamicRecordSizingDisabled = true
	return &http.Client{
		Transport: &oneShot{
			dial: dial, tls: config, proxy: dial.proxy(proxy), proxied: proxied,
		},
		CheckRedirect: noRedirect,
	}
}

// RoundTrip implements http.RoundTripper.
func (o *oneShot) RoundTrip(request *http.Request) (*http.Response, error) {
	proxy, err := o.proxy(request)
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		return o.proxied.RoundTrip(unrepeatable(request))
	}
	var all bytes.Buffer
	if err := request.Write(&all); err != nil {
		return nil, err
	}
	fmt.Fprintf(&all, noOp, request.URL.Host, 0)
	conn, err := o.connect(request)
	if err != nil {
		return nil, err
	}
	// A deadline leaves the connection's own error; a close would hide it.
	stop := context.AfterFunc(request.Context(), func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	response, err := exchange(conn, request, all.Bytes())
	if err != nil {
		stop()
		_ = conn.Close()
		return nil, err
	}
	response.Body = &lastBody{ReadCloser: response.Body, conn: conn, stop: stop}
	return response, nil
}

func (o *oneShot) connect(request *http.Request) (net.Conn, error) {
	host, port := request.URL.Hostname(), request.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[request.URL.Scheme]
	}
	conn, err := o.dial.DialContext(request.Context(), "tcp", net.JoinHostPort(host, port))
	if err != nil || request.URL.Scheme != "https" {
		return conn, err
	}
	config := o.tls
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = host
	}
	secured := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(request.Context(), connectTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// exchange writes everything at once and reads the response, after any informational ones.
func exchange(conn net.Conn, request *http.Request, all []byte) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(request.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: conn})
	}
	if _, err := conn.Write(all); err != nil {
		return nil, err
	}
	// The caller bounds the body; this bounds the headers as well.
	reader := bufio.NewReader(io.LimitReader(conn, 2*maxIssuedBytes))
	for {
		response, err := http.ReadResponse(reader, request)
		if err != nil || response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
}

// lastBody closes the connection with the body.
type lastBody struct {
	io.ReadCloser
	conn net.Conn
	stop func() bool
}

// Close implements io.Closer. The rest of the body is not read.
func (l *lastBody) Close() error {
	l.stop()
	return l.conn.Close()
}

// unrepeatable prepares the request for Go's transport. If a kept-alive connection breaks before the response, that
// transport repeats a GET without a body, and a request whose body can be rewound. This body exists, is empty, and
// cannot be rewound.
func unrepeatable(request *http.Request) *http.Request {
	request = request.Clone(request.Context())
	if request.Body == nil || request.Body == http.NoBody {
		request.Body = io.NopCloser(strings.NewReader(""))
	}
	request.GetBody = nil
	return request
}
