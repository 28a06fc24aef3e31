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
	"time"
)

// Fault is what a proxy does to the requests that match it.
type Fault struct {
	// Method of the request; empty matches all.
	Method string
	// Path is a regular expression over the URL's path; empty matches all.
	Path string
	// Query is one over the URL's query, such as "watch=true"; empty matches all.
	Query string
	// Times is how many requests it happens to; 0 means until Clear.
	Times int
	// For is how long it waits for such requests; 0 means until Clear.
	For time.Duration
	// Action that is taken; see its constants.
	Action Action
	// After is how long Cut waits before it cuts, and Delay before it forwards.
	After time.Duration
	// Status, Body and ContentType are what Answer says.
	Status      int
	Body        string
	ContentType string

	path, query *regexp.Regexp
	left        int
	until       time.Time
}

func (f *Fault) matches(r *http.Request) bool {
	return (f.For == 0 || time.Now().Before(f.until)) && (f.Method == "" || f.Method == r.Method) && f.path.MatchString(r.URL.Path) && f.query.MatchString(r.URL.RawQuery)
}

// Action is a kind of fault.
type Action string

const (
	// DropAnswer lets the upstream act and answer, then closes the client's
	// connection without a byte.
	DropAnswer Action = "DropAnswer"
	// Cut closes the client's connection after a while; the upstream's request
	// goes on to its end.
	Cut Action = "Cut"
	// Hang never answers and never asks the upstream, until the client gives up
	// or the proxy is closed.
	Hang Action = "Hang"
	// Refuse closes the connection without asking the upstream.
	Refuse Action = "Refuse"
	// Reset does so with a TCP reset, as a host that has crashed and come back
	// or a firewall would.
	Reset Action = "Reset"
	// Answer says Status and Body without asking the upstream, as a gateway or
	// a standby would.
	Answer Action = "Answer"
	// AnswerAfter says Status and Body after the upstream has acted, as a
	// gateway that lost the real answer would.
	AnswerAfter Action = "AnswerAfter"
	// Delay forwards after a while.
	Delay Action = "Delay"
	// Stall forwards and holds back what the upstream says, of streams that are
	// open already too, until Clear. Watches go stale by it.
	Stall Action = "Stall"
)

// ProxyOptions are all optional.
type ProxyOptions struct {
	// CA verifies an upstream that speaks https, PEM.
	CA []byte
	// TLS serves https, with a certificate of a CA made for this proxy.
	TLS bool
}

// ProxyRequest is one request that a proxy saw.
type ProxyRequest struct {
	Method, Path string
	At           time.Time
	// Fault that it met, if any.
	Fault Action
}

// Proxy stands between a client and an HTTP server and breaks what it is told
// to break, while it runs. Without faults it only forwards, streams included.
type Proxy struct {
	// Address is the URL that clients use instead of the upstream's.
	Address string
	// CA signed the certificate that it serves with, PEM; empty without TLS.
	CA []byte

	upstream  *url.URL
	transport *http.Transport
	forward   *httputil.ReverseProxy
	listen    string
	serving   *tls.Config

	closing context.Context
	close   context.CancelFunc

	mu     sync.Mutex
	server *http.Server
	faults []*Fault
	// cleared is closed when faults end.
	cleared chan struct{}
	seen    []ProxyRequest
	// waiting counts the requests whose clients wait, and peak is the most of them at once.
	waiting, peak int
	// inFlight counts what was sent upstream and has not ended; idle is told
	// when it is 0.
	inFlight int
	idle     *sync.Cond
}

// silent: connections that break are what a proxy is for.
var silent = log.New(io.Discard, "", 0)

// StartProxy listens on a free port and forwards to the target, a URL.
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
		Address: "http://" + loopback(port), listen: loopback(port), upstream: upstream, transport: transport,
		cleared: make(chan struct{}),
	}
	if opts.TLS {
		if err := p.secure(); err != nil {
			return nil, err
		}
	}
	p.closing, p.close = context.WithCancel(context.Background())
	p.idle = sync.NewCond(&p.mu)
	p.forward = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      silent,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { hangUp(w) },
	}
	return p, p.Accept()
}

// secure makes a certificate to serve with.
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
	// HTTP/1.1 only: a connection can be broken without breaking others.
	p.serving = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	p.Address, p.CA = "https://"+p.listen, ca.PEM
	return err
}

// Break adds a fault. Of several that match a request the first added counts.
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

// Clear ends all faults; requests that already met one go on as they are.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
	close(p.cleared)
	p.cleared = make(chan struct{})
}

// Requests lists the requests seen whose "METHOD path" matches the regular
// expression, those that a fault swallowed included.
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

// RefuseConnections closes the port and all connections: dialling fails, as on
// a host where nothing listens. Accept undoes it. What is under way upstream
// goes on, but for requests that a departing client ends; see Wait.
func (p *Proxy) RefuseConnections() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Close()
	p.server = nil
	return err
}

// Accept listens again on the same port.
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
	go func(s *http.Server) { _ = s.Serve(listener) }(p.server)
	return nil
}

// Wait returns when every request that was sent upstream has come to its end,
// also those whose client has long gone.
func (p *Proxy) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.inFlight > 0 {
		p.idle.Wait()
	}
}

// begin says whether a request may be sent upstream. While connections are refused none may, not even one that was
// taken just before: so nothing is under way once Wait has returned.
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

// Close ends the proxy and whatever it still had in flight.
func (p *Proxy) Close() error {
	p.close()
	err := p.RefuseConnections()
	p.Wait()
	p.transport.CloseIdleConnections()
	return err
}

// Peak is the most requests that have waited for an answer at once since it was asked last.
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
		p.ask(r)
		hangUp(w)
	case Cut:
		p.cut(w, r, fault.After)
	case Hang:
		// Only a server that has read all of a request sees its client leave.
		_, _ = io.Copy(io.Discard, r.Body)
		p.wait(r, 0)
		hangUp(w)
	case Refuse:
		hangUp(w)
	case Reset:
		reset(w)
	case Answer:
		fault.answer(w)
	case AnswerAfter:
		p.ask(r)
		fault.answer(w)
	case Delay:
		p.wait(r, fault.After)
		p.pass(w, r)
	default:
		p.pass(w, r)
	}
}

// note records the request and finds the fault that it meets, if any.
func (p *Proxy) note(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var met Fault
	for i, f := range p.faults {
		if !f.matches(r) {
			continue
		}
		met = *f
		if f.Times > 0 {
			if f.left--; f.left == 0 {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			}
		}
		break
	}
	p.seen = append(p.seen, ProxyRequest{Method: r.Method, Path: r.URL.Path, At: time.Now(), Fault: met.Action})
	return met
}

// pass forwards and lets the client's departure end the upstream's request.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request) {
	if !p.begin() {
		hangUp(w)
		return
	}
	defer p.end()
	p.forward.ServeHTTP(&stallable{ResponseWriter: w, p: p, r: r}, r)
}

// stallable is an answer that goes out when no Stall is on its request.
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

// Unwrap lets the flushes and hijacks of http.ResponseController through.
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

// ask sends the request upstream and waits for the whole answer. The client's
// departure does not end it; only Close does.
func (p *Proxy) ask(r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil && p.begin() {
		defer p.end()
		p.send(r, body)
	}
}

// send follows begin.
func (p *Proxy) send(r *http.Request, body []byte) {
	out := r.Clone(p.closing)
	out.RequestURI, out.Host = "", ""
	out.URL.Scheme, out.URL.Host = p.upstream.Scheme, p.upstream.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if answer, err := p.transport.RoundTrip(out); err == nil {
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
	}
}

// cut hangs up on the client after a while, whether the upstream has answered
// by then or not, and leaves the upstream's request alone.
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

// wait ends after a while (never, when 0), with the client or with the proxy.
func (p *Proxy) wait(r *http.Request, after time.Duration) {
	var over <-chan time.Time
	if after > 0 {
		over = time.After(after)
	}
	select {
	case <-over:
	case <-r.Context().Done():
	case <-p.closing.Done():
	}
}

func (f Fault) answer(w http.ResponseWriter) {
	kind := f.ContentType
	if kind == "" {
		kind = "application/json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(f.Status)
	_, _ = fmt.Fprint(w, f.Body)
}

// hangUp closes the client's connection without answering.
func hangUp(w http.ResponseWriter) { _ = hijack(w).Close() }

// reset closes it with a TCP reset.
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
