package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is an action on matching requests.
type Fault struct {
	// Method to match; empty matches all.
	Method string
	// Path is a regular expression for the URL's path; empty matches all.
	Path string
	// Query is a regular expression for the URL's query, such as "watch=true"; empty matches all.
	Query string
	// Times limits how many requests it affects; 0 means until Clear.
	Times int
	// For limits how long it is active; 0 means until Clear.
	For time.Duration
	// Action to take.
	Action Action
	// After is the delay of Cut and Delay.
	After time.Duration
	// Status, Body and ContentType of the response of Answer and AnswerAfter.
	Status      int
	Body        string
	ContentType string

	path, query *regexp.Regexp
	left        int
	until       time.Time
}

func (f *Fault) matches(r *http.Request) bool {
	active := f.For == 0 || time.Now().Before(f.until)
	methodMatches := f.Method == "" || f.Method == r.Method
	return active && methodMatches && f.path.MatchString(r.URL.Path) && f.query.MatchString(r.URL.RawQuery)
}

// Action is a kind of fault.
type Action string

const (
	// DropAnswer discards the upstream's response and closes the client's connection.
	DropAnswer Action = "DropAnswer"
	// Cut closes the client's connection after a delay. The upstream request continues.
	Cut Action = "Cut"
	// Hang sends no response and forwards nothing. It ends when the client gives up or the proxy closes.
	Hang Action = "Hang"
	// Refuse closes the connection and forwards nothing.
	Refuse Action = "Refuse"
	// Reset is Refuse with a TCP reset, as by a firewall or a restarted host.
	Reset Action = "Reset"
	// Answer responds with Status and Body and forwards nothing, as a gateway or a standby would.
	Answer Action = "Answer"
	// AnswerAfter responds with Status and Body after the upstream handled the request, as a gateway that lost the
	// response would.
	AnswerAfter Action = "AnswerAfter"
	// Delay forwards after a delay.
	Delay Action = "Delay"
	// Stall forwards the request and holds back the response until Clear. It also stalls open streams, so watches
	// become stale.
	Stall Action = "Stall"
)

// ProxyOptions are all optional.
type ProxyOptions struct {
	// CA verifies an https upstream, in PEM.
	CA []byte
	// TLS serves https with a certificate of a new CA.
	TLS bool
}

// ProxyRequest is a request received by a proxy.
type ProxyRequest struct {
	Method, Path string
	At           time.Time
	// Fault that affected the request, if any.
	Fault Action
}

// Proxy forwards requests and streams to an HTTP server and injects faults.
type Proxy struct {
	// Address is the URL for clients.
	Address string
	// CA of the serving certificate, in PEM; empty without TLS.
	CA []byte

	upstream  atomic.Pointer[url.URL]
	transport *http.Transport
	forward   *httputil.ReverseProxy
	listen    string
	serving   *tls.Config

	closing context.Context
	close   context.CancelFunc

	mu     sync.Mutex
	server *http.Server
	// served is closed when the server has released its port.
	served chan struct{}
	faults []*Fault
	// cleared is closed by Clear.
	cleared chan struct{}
	seen    []ProxyRequest
	// waiting counts requests without a response. peak is its maximum.
	waiting, peak int
	// inFlight counts upstream requests in progress. idle is signaled when it reaches 0.
	inFlight int
	idle     *sync.Cond
}

// silent discards logs, because the proxy breaks connections on purpose.
var silent = log.New(io.Discard, "", 0)

// StartProxy listens on a free port and forwards to the target URL.
func StartProxy(target string, opts ProxyOptions) (*Proxy, error) {
	upstream, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	if len(opts.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(opts.CA) {
			return nil, errors.New("the proxy's CA holds no certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	p := &Proxy{
		Address: "http://" + loopback(port), listen: loopback(port), transport: transport,
		cleared: make(chan struct{}),
	}
	p.upstream.Store(upstream)
	if opts.TLS {
		if err := p.secure(); err != nil {
			return nil, err
		}
	}
	p.closing, p.close = context.WithCancel(context.Background())
	p.idle = sync.NewCond(&p.mu)
	p.forward = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(p.upstream.Load()) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      silent,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { hangUp(w) },
	}
	return p, p.Accept()
}

// secure creates the serving certificate.
func (p *Proxy) secure() error {
	ca, err := newAuthority("leasekeeper-testbed-proxy")
	if err != nil {
		return err
	}
	pair, err := ca.issue("proxy")
	if err != nil {
		return err
	}
	certificate, err := tls.X509KeyPair(pair.cert, pair.key)
	// HTTP/1.1 only, so that breaking a connection affects one request.
	p.serving = &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}
	p.Address, p.CA = "https://"+p.listen, ca.PEM
	return err
}

// Break adds a fault. The first matching fault applies.
func (p *Proxy) Break(f Fault) error {
	var err error
	if f.path, err = regexp.Compile(f.Path); err != nil {
		return err
	}
	if f.query, err = regexp.Compile(f.Query); err != nil {
		return err
	}
	f.left, f.until = f.Times, time.Now().Add(f.For)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
	return nil
}

// Clear removes all faults. Requests that a fault already affects are not changed.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
	close(p.cleared)
	p.cleared = make(chan struct{})
}

// Requests returns the received requests whose "METHOD path" matches the regular expression. It includes requests that
// were not forwarded.
func (p *Proxy) Requests(pattern string) ([]ProxyRequest, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []ProxyRequest
	for _, r := range p.seen {
		if match.MatchString(r.Method + " " + r.Path) {
			found = append(found, r)
		}
	}
	return found, nil
}

// Retarget forwards new requests to another server, as a Service does whose endpoints change.
func (p *Proxy) Retarget(target string) error {
	upstream, err := url.Parse(target)
	if err == nil {
		p.upstream.Store(upstream)
	}
	return err
}

// RefuseConnections closes the port and all connections, until Accept. Dialing then fails as if nothing listened.
// Requests that a fault sent upstream continue; other requests end with their connection. See Wait.
func (p *Proxy) RefuseConnections() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Close()
	<-p.served // or the port may still be in use when Accept wants it
	p.server = nil
	return err
}

// Accept listens on the same port again.
func (p *Proxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", p.listen)
	if err != nil {
		return err
	}
	if p.serving != nil {
		listener = tls.NewListener(listener, p.serving)
	}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: time.Minute, ErrorLog: silent}
	p.served = make(chan struct{})
	go func(s *http.Server, served chan struct{}) {
		defer close(served)
		_ = s.Serve(listener)
	}(p.server, p.served)
	return nil
}

// Wait waits until all upstream requests have finished, even those whose client disconnected.
func (p *Proxy) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.inFlight > 0 {
		p.idle.Wait()
	}
}

// begin reports whether a request may be sent upstream. It returns false while connections are refused, so that none
// is in progress after Wait.
func (p *Proxy) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return false
	}
	p.inFlight++
	return true
}

func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inFlight--; p.inFlight == 0 {
		p.idle.Broadcast()
	}
}

// Close closes the proxy and cancels requests in progress.
func (p *Proxy) Close() error {
	p.close()
	err := p.RefuseConnections()
	p.Wait()
	p.transport.CloseIdleConnections()
	return err
}

// Peak returns the maximum number of concurrent requests since the last call.
func (p *Proxy) Peak() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	peak := p.peak
	p.peak = p.waiting
	return peak
}

func (p *Proxy) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting += n
	p.peak = max(p.peak, p.waiting)
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.count(1)
	defer p.count(-1)
	fault := p.note(r)
	switch fault.Action {
	case DropAnswer:
		p.forwardAndDiscard(r)
		hangUp(w)
	case Cut:
		p.cut(w, r, fault.After)
	case Hang:
		// A server notices a disconnected client only after reading the request body.
		_, _ = io.Copy(io.Discard, r.Body)
		p.wait(r, 0)
		hangUp(w)
	case Refuse:
		hangUp(w)
	case Reset:
		reset(w)
	case Answer:
		fault.respond(w)
	case AnswerAfter:
		p.forwardAndDiscard(r)
		fault.respond(w)
	case Delay:
		p.wait(r, fault.After)
		p.pass(w, r)
	default:
		p.pass(w, r)
	}
}

// note records the request and returns the fault that affects it, if any.
func (p *Proxy) note(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var matched Fault
	for i, f := range p.faults {
		if !f.matches(r) {
			continue
		}
		matched = *f
		if f.Times > 0 {
			if f.left--; f.left == 0 {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			}
		}
		break
	}
	p.seen = append(p.seen, ProxyRequest{Method: r.Method, Path: r.URL.Path, At: time.Now(), Fault: matched.Action})
	return matched
}

// pass forwards the request and cancels it when the client disconnects.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request) {
	if !p.begin() {
		hangUp(w)
		return
	}
	defer p.end()
	p.forward.ServeHTTP(&stallable{ResponseWriter: w, p: p, r: r}, r)
}

// stallable is a response that waits while a Stall matches its request.
type stallable struct {
	http.ResponseWriter
	p *Proxy
	r *http.Request
}

func (s *stallable) Write(b []byte) (int, error) {
	for {
		stalled, cleared := s.p.stalls(s.r)
		if !stalled {
			return s.ResponseWriter.Write(b)
		}
		select {
		case <-cleared:
		case <-s.r.Context().Done():
			return 0, s.r.Context().Err()
		case <-s.p.closing.Done():
			return 0, s.p.closing.Err()
		}
	}
}

// Unwrap supports http.ResponseController.
func (s *stallable) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (p *Proxy) stalls(r *http.Request) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.Action == Stall && f.matches(r) {
			return true, p.cleared
		}
	}
	return false, nil
}

// forwardAndDiscard sends the request upstream and waits for the whole response. Only Close cancels it; a disconnected
// client does not.
func (p *Proxy) forwardAndDiscard(r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil && p.begin() {
		defer p.end()
		p.send(r, body)
	}
}

// send requires begin.
func (p *Proxy) send(r *http.Request, body []byte) {
	out := r.Clone(p.closing)
	out.RequestURI, out.Host = "", ""
	upstream := p.upstream.Load()
	out.URL.Scheme, out.URL.Host = upstream.Scheme, upstream.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if response, err := p.transport.RoundTrip(out); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// cut disconnects the client after a delay. The upstream request continues.
func (p *Proxy) cut(w http.ResponseWriter, r *http.Request, after time.Duration) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !p.begin() {
		hangUp(w)
		return
	}
	clone := r.Clone(p.closing)
	go func() {
		defer p.end()
		p.send(clone, body)
	}()
	p.wait(r, after)
	hangUp(w)
}

// wait returns after a delay (never if 0), or when the client disconnects or the proxy closes.
func (p *Proxy) wait(r *http.Request, after time.Duration) {
	var elapsed <-chan time.Time
	if after > 0 {
		elapsed = time.After(after)
	}
	select {
	case <-elapsed:
	case <-r.Context().Done():
	case <-p.closing.Done():
	}
}

func (f Fault) respond(w http.ResponseWriter) {
	kind := f.ContentType
	if kind == "" {
		kind = "application/json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(f.Status)
	_, _ = fmt.Fprint(w, f.Body)
}

// hangUp closes the client's connection without a response.
func hangUp(w http.ResponseWriter) { _ = hijack(w).Close() }

// reset closes the client's connection with a TCP reset.
func reset(w http.ResponseWriter) {
	conn := hijack(w)
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if plain, ok := conn.(*net.TCPConn); ok {
		_ = plain.SetLinger(0)
	}
	_ = conn.Close()
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return conn
}
