package testbed

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
)

// ForwardProxy is an HTTP proxy, as HTTPS_PROXY names one. It sends everything to one server, whatever name the client
// requests, so that a name which resolves nowhere shows that the proxy was used.
type ForwardProxy struct {
	// URL of the proxy.
	URL    string
	server *httptest.Server
	target *url.URL
	used   atomic.Int64
}

// StartForwardProxy starts a proxy to the server at the address.
func StartForwardProxy(address string) (*ForwardProxy, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	p := &ForwardProxy{target: target}
	p.server = httptest.NewServer(p)
	p.URL = p.server.URL
	return p, nil
}

// Used counts the plain requests and the tunnels.
func (p *ForwardProxy) Used() int64 { return p.used.Load() }

// Close stops the proxy.
func (p *ForwardProxy) Close() { p.server.Close() }

// ServeHTTP implements http.Handler.
func (p *ForwardProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.used.Add(1)
	if r.Method == http.MethodConnect {
		p.tunnel(w)
		return
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(p.target) }}
	forward.ServeHTTP(w, r)
}

// tunnel connects the client to the server until one side closes.
func (p *ForwardProxy) tunnel(w http.ResponseWriter) {
	there, err := net.Dial("tcp", p.target.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		// The server may have read the first bytes of the client already.
		_, _ = io.Copy(there, buffered)
		_ = there.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(here, there)
}
