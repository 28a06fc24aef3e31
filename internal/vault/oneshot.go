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
	"net/url"
	"strings"
	"time"
)

// oneShot sends requests that mint: each at most once, and so that Vault finishes it even when this process dies.
//
// Vault runs on Go's HTTP server, which cancels a request when its connection breaks. The database engine hands that on to
// the transaction that makes the user, and a COMMIT that is given up half way may still happen: a user without a lease,
// which nobody can end. The server sees the break by reading ahead on the connection, and a byte that it finds there, as
// the next request's, ends its watch (connReader.backgroundRead in net/http/server.go). So a next request goes out with
// the first, in one write, since between two this process could die. It is HTTP's no-op, which the server answers by
// itself, so that it does not reach Vault; its answer is not waited for.
type oneShot struct {
	dial net.Dialer
	// tls is the configuration for https.
	tls *tls.Config
	// proxied is used where proxy names one for the address. What a proxy tells Vault of a broken connection is the
	// proxy's matter.
	proxy   func(*http.Request) (*url.URL, error)
	proxied http.RoundTripper
}

// noOp is longer than the server's buffer of 4 KiB, so that there is a byte to be read ahead.
const noOp = "OPTIONS * HTTP/1.1\r\nHost: %s\r\nUser-Agent: leasekeeper\r\nX-Padding: %05000d\r\nConnection: close\r\n\r\n"

func newOneShot(config *tls.Config, proxied http.RoundTripper) *http.Client {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	// One record, one write.
	config.DynamicRecordSizingDisabled = true
	return &http.Client{
		Transport: &oneShot{
			dial: net.Dialer{Timeout: connectTimeout}, tls: config, proxy: http.ProxyFromEnvironment, proxied: proxied,
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
	// A deadline, unlike closing, leaves the error that the caller's context has ended.
	stop := context.AfterFunc(request.Context(), func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	answer, err := exchange(conn, request, all.Bytes())
	if err != nil {
		stop()
		_ = conn.Close()
		return nil, err
	}
	answer.Body = &lastBody{ReadCloser: answer.Body, conn: conn, stop: stop}
	return answer, nil
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

// exchange writes everything at once and reads the answer, past those that only announce one.
func exchange(conn net.Conn, request *http.Request, all []byte) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(request.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: conn})
	}
	if _, err := conn.Write(all); err != nil {
		return nil, err
	}
	// The caller bounds what it reads of the body; this bounds the rest.
	reader := bufio.NewReader(io.LimitReader(conn, 2*maxAnswerBytes))
	for {
		answer, err := http.ReadResponse(reader, request)
		if err != nil || answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, err
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

// unrepeatable is the request for Go's transport, which sends one again when a kept-alive connection breaks before the
// answer, if it is a GET without a body or has a body that can be rewound. This body is there, empty, and cannot be
// rewound.
func unrepeatable(request *http.Request) *http.Request {
	request = request.Clone(request.Context())
	if request.Body == nil || request.Body == http.NoBody {
		request.Body = io.NopCloser(strings.NewReader(""))
	}
	request.GetBody = nil
	return request
}
