package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// What is read of a response, because many are in memory at the same time. A Secret holds 1 MiB; base64 and JSON make
// more of it. A list has about 30 bytes for each lease. All other responses are small.
const (
	maxResponseBytes = 64 << 10
	maxIssuedBytes   = 2 << 20
	maxListBytes     = 4 << 20
)

// call is one request.
type call struct {
	method string
	// path below /v1/.
	path  string
	query url.Values
	// body is sent as JSON unless it is nil.
	body      any
	token     string
	namespace string
	timeout   time.Duration
	// limit of the response in bytes. 0: maxResponseBytes.
	limit int
	// role that the request logs in to. Refusals of one role concern no other.
	role string
	// certificate for the TLS handshake, and where it is set; nil: that of the provider, if it has one.
	certificate      *tls.Certificate
	certificateField string
	// mints: the request must reach the server at most once, and Vault must finish it once it has begun; see oneShot.
	mints bool
	// engine: the request is served by a secrets engine, whose failures show nothing about the server.
	engine bool
	// urgent: the request is sent even if the server seems to be down.
	urgent bool
	// exempt: the server responds even if it serves nothing else, so a response shows nothing about the server.
	exempt bool
}

// rawResponse is the response of whatever is at the address: Vault itself or a gateway in front of it.
type rawResponse struct {
	// at is when the request was sent, receivedAt when its response was complete.
	at, receivedAt time.Time
	status         int
	// body; nil if it is long and was decoded.
	body []byte
	// decoded is the body; nil: it was not read.
	decoded *decoded
	// limit of the body in bytes. tooLong: it is longer and was not read.
	limit   int
	tooLong bool
	// token that was sent. No message repeats it.
	token string
	// redirect is the target of a redirect that was not followed.
	redirect string
	// direct: the request forbade a standby to forward it.
	direct  bool
	address string
}

// do sends the request and returns the response with any status. An error comes from the network; its kind depends on
// whether any byte may have been sent.
//
// A standby's redirect is followed once, to hosts that redirectTarget permits. For a call that mints, that is safe only
// if the standby was told not to forward: a standby also redirects after its own forwarding broke halfway, when the
// active node may be minting already (forwardRequest in http/handler.go of Vault and of OpenBao). So the first such
// redirect is an error without a response, and from then on this backend tells standbys not to forward. If the
// redirect's target cannot be reached, or is not permitted, it lets them forward again.
func (b *Backend) do(ctx context.Context, c call) (rawResponse, error) {
	var probes probes
	// The login of a request that mints was just served, and the journaled attempt waits for its response.
	if !c.mints && !c.urgent {
		var err error
		if probes, err = b.allow(c); err != nil {
			return rawResponse{}, err
		}
	}
	sent := b.clock.Now()
	r, err := b.send(ctx, c)
	f, fault := conclude(ctx, c, r, err)
	if f == unclear {
		f = b.clarify(ctx, c, sent, timedOut(r, err))
	}
	b.observe(c, probes, sent, f, fault)
	return r, err
}

// clarify decides whether the server is down or only the path of a request that got no response of the server's own. A
// gateway may fail for one path only, such as a long list. The server is down if it is not healthy either, or if
// several paths fail and none is served meanwhile: something in front of it may let only requests for its health pass.
func (b *Backend) clarify(ctx context.Context, c call, sent time.Time, late bool) finding {
	waits := late && c.aboutLeases()
	served := b.breaker.servedSince(sent)
	switch {
	case !served && !b.healthy(ctx, c.token):
		if ctx.Err() != nil {
			return inconclusive
		}
		return maybeDown
	case !served && !waits && b.breaker.fails(c.endpoint()) >= severalPaths:
		return maybeDown
	case c.aboutLeases():
		return inconclusive // renewals, for example, share one path, and the next lease may be served
	}
	return limited
}

// aboutLeases says that Vault may wait for what is behind an engine, such as a database, before it responds: a renewal
// and a revocation that waits for the result call the engine, and a list of very many leases takes long.
func (c call) aboutLeases() bool { return strings.HasPrefix(c.path, "sys/leases/") }

// endpoint is the path, without that of the leases that it may be about: long lists have the same fault.
func (c call) endpoint() string {
	if c.aboutLeases() {
		return strings.Join(strings.SplitN(c.path, "/", 4)[:3], "/")
	}
	return c.path
}

// timedOut says that the server, or a gateway in front of it, accepted the request and did not respond in time.
func timedOut(r rawResponse, err error) bool {
	if err == nil {
		return r.status == http.StatusGatewayTimeout
	}
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err)
	return late && backend.KindOf(err) == backend.NoResponse
}

// healthy requests the server's health, which needs no engine, after a request that does not show whether the server or
// only its path hangs. One request at a time is enough, and a probe ends after it.
func (b *Backend) healthy(ctx context.Context, token string) bool {
	if !b.checkingHealth.CompareAndSwap(false, true) {
		return true // the other one decides
	}
	defer b.checkingHealth.Store(false)
	if _, err := b.health(ctx); err != nil || !b.standby.Load() {
		return err == nil
	}
	// A standby is healthy whether or not its active node responds. It forwards this request, whatever the token is,
	// unless it serves reads itself; then nothing is learnt of the active node.
	r, err := b.do(ctx, call{method: http.MethodGet, path: "auth/token/lookup-self", token: token, exempt: true,
		namespace: b.spec.Namespace, timeout: min(b.timeout, healthTimeout)})
	a, ok := r.parse()
	return err == nil && ok && !a.outage()
}

// conclude derives what a result shows about the server. The error has the same text for each request.
func conclude(ctx context.Context, c call, r rawResponse, err error) (finding, *backend.Error) {
	switch {
	case err != nil && ctx.Err() != nil, err != nil && c.engine && backend.KindOf(err) == backend.NoResponse:
		return inconclusive, nil
	case err != nil && backend.KindOf(err) == backend.Misconfigured:
		return inconclusive, nil // nothing was sent, or the response is a redirect that is not followed
	case err != nil && backend.KindOf(err) == backend.TLS && c.certificate != nil:
		// The certificate of one login may be refused while the server serves others.
		return limited, backend.Errorf(backend.TLS, "%s", err)
	case err != nil && backend.KindOf(err) == backend.TLS:
		return maybeDown, backend.Errorf(backend.TLS, "%s", err)
	case err != nil && backend.KindOf(err) == backend.NoResponse && !c.exempt:
		return unclear, backend.Errorf(backend.Unavailable, "%s", err)
	case err != nil:
		return maybeDown, backend.Errorf(backend.Unavailable, "%s", err)
	case c.exempt, r.redirect != "", r.status == http.StatusPreconditionFailed:
		return inconclusive, nil
	}
	a, fromVault := r.parse()
	gateway := r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout
	switch {
	case fromVault && r.status == http.StatusTooManyRequests:
		return limited, quotaFault(a, r.address+": requests of "+c.scope())
	case c.engine && !succeeded(r.status), c.aboutLeases() && a.says(lostActive):
		return inconclusive, nil
	case fromVault && a.says(namespaceSealed):
		return limited, backend.Errorf(backend.Unavailable, "%s: requests of %s: %s",
			r.address, c.scope(), a.errorText())
	case a.outage() && (r.status != http.StatusServiceUnavailable || a.says(noActiveNode)):
		// Another node at the same address may serve.
		return maybeDown, backend.Errorf(backend.Unavailable, "%s: it does not serve now (%s): %s",
			r.address, statusText(r.status), a.errorText())
	case notServing(r.status) || gateway:
		f := down
		if gateway || !fromVault {
			f = unclear
		}
		return f, backend.Errorf(backend.Unavailable, "%s: it does not serve now (%s): %s",
			r.address, statusText(r.status), a.errorText())
	case r.tooLong && succeeded(r.status):
		return inconclusive, nil
	case !fromVault && !succeeded(r.status):
		f := unclear
		if clientError(r.status) || r.status == http.StatusTooManyRequests {
			f = limited // a gateway that rejects this path may pass others
		}
		return f, backend.Errorf(backend.Unavailable, "%s: it responded %s in a form that is not Vault's: %s",
			r.address, statusText(r.status), notVault)
	}
	return serving, nil
}

// send is do without the breaker.
func (b *Backend) send(ctx context.Context, c call) (rawResponse, error) {
	timeout := c.timeout
	if timeout == 0 {
		timeout = b.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	direct := c.mints && b.redirects.Load()
	base := b.base
	for followed := false; ; followed = true {
		r, err := b.roundTrip(ctx, c, base, direct)
		if err != nil {
			if followed && c.mints {
				b.redirects.Store(false)
			}
			return r, err
		}
		if r.redirect == "" || followed {
			return r, nil
		}
		next, refused := b.redirectTarget(base, r, c.path)
		switch {
		case refused != nil && c.mints:
			b.redirects.Store(false)
			if !direct {
				refused.Kind = backend.NoResponse // the standby may have forwarded the request before
			}
			return r, refused
		case refused != nil:
			return r, refused
		case c.mints && !direct:
			b.redirects.Store(true)
			return r, backend.Errorf(backend.NoResponse,
				"the standby at %s redirected the request and may have forwarded it before; "+
					"the next request forbids forwarding",
				b.address())
		}
		base = next
	}
}

// redirectTarget returns where a redirect leads to, if that may be followed: to the same host, or to one that the
// provider lists. Anything else would let a server make leasekeeper send requests to hosts that trust leasekeeper's
// network, with a token and a body of the server's choice. A gateway may have put a path before that of the request.
func (b *Backend) redirectTarget(base *url.URL, r rawResponse, path string) (*url.URL, *backend.Error) {
	next, err := url.Parse(r.redirect)
	if err != nil || !isHost(next.Host) {
		return nil, backend.Errorf(backend.NoResponse, "%s sent a redirect without a usable target", r.address)
	}
	if base.Scheme == "https" && next.Scheme != "https" {
		return nil, backend.Errorf(backend.NoResponse,
			"%s redirected to an address without TLS, which is not followed: configure an https api_addr in Vault",
			r.address)
	}
	if host := next.Hostname(); !strings.EqualFold(host, base.Hostname()) && !b.redirectHosts.has(host) {
		return nil, backend.Errorf(backend.Misconfigured,
			"%s redirected to host %q, which is not followed: if it is a node of the same Vault, "+
				"add it to spec.vault.redirectHosts",
			r.address, host)
	}
	prefix, same := strings.CutSuffix(next.Path, "/v1/"+path)
	if !same || prefix != "" && !isHost(prefix) {
		prefix = ""
	}
	return &url.URL{Scheme: next.Scheme, Host: next.Host, Path: prefix}, nil
}

// isHost reports whether it looks like a name or an address with a port. Messages contain it, so it must be short.
func isHost(host string) bool {
	notGraphic := func(r rune) bool { return r <= ' ' || r > '~' }
	return host != "" && len(host) <= 300 && !strings.ContainsFunc(host, notGraphic)
}

func (b *Backend) roundTrip(ctx context.Context, c call, base *url.URL, direct bool) (rawResponse, error) {
	r := rawResponse{at: b.clock.Now(), address: base.String(), token: c.token, direct: direct}
	// Once there is a connection, bytes may be sent at any time; before that, none were.
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	request, err := newRequest(httptrace.WithClientTrace(ctx, trace), c, base, direct, b.headers)
	if err != nil {
		return r, err
	}
	client := b.http
	switch {
	case c.mints:
		client = b.minting
	case c.certificate != nil:
		client = newLoginClient(b.tls, b.dial, b.proxy, *c.certificate)
		defer client.CloseIdleConnections()
	}
	response, err := client.Do(request)
	if err != nil {
		return r, b.networkError(ctx, err, r.address, sent.Load(), c.certificateField)
	}
	defer response.Body.Close()
	r.status = response.StatusCode
	if r.status == http.StatusTemporaryRedirect || r.status == http.StatusPermanentRedirect {
		r.redirect = response.Header.Get("Location")
		return r, nil
	}
	if err := r.read(response.Body, c); err != nil {
		return r, b.networkError(ctx, err, r.address, true, c.certificateField)
	}
	r.receivedAt = b.clock.Now()
	return r, nil
}

// read reads and decodes the body.
func (r *rawResponse) read(from io.Reader, c call) error {
	r.limit = maxResponseBytes
	if c.limit > 0 && succeeded(r.status) {
		r.limit = c.limit
	}
	body, err := io.ReadAll(io.LimitReader(from, int64(r.limit)+1))
	switch {
	case err != nil:
		return err
	case len(body) > r.limit:
		r.tooLong = true
		return nil
	}
	r.body = body
	a, ok := r.parse()
	r.decoded = &decoded{a, ok}
	if ok && len(body) > maxResponseBytes {
		r.body = nil // it is in memory twice
	}
	return nil
}

func newRequest(
	ctx context.Context, c call, base *url.URL, direct bool, more http.Header,
) (*http.Request, error) {
	target := url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path + "/v1/" + c.path,
		RawQuery: c.query.Encode()}
	var body io.Reader
	if c.body != nil {
		encoded, err := json.Marshal(c.body)
		if err != nil {
			return nil, backend.Errorf(backend.Refused, "the request for %q cannot be written as JSON", c.path)
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, c.method, target.String(), body)
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "no request can be made for %q at %s", c.path, base.Host)
	}
	header := request.Header
	maps.Copy(header, more)
	header.Set("User-Agent", "leasekeeper")
	header.Set("X-Vault-Request", "true")
	if c.body != nil {
		header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		header.Set("X-Vault-Token", c.token)
	}
	if c.namespace != "" {
		header.Set("X-Vault-Namespace", c.namespace)
	}
	if direct {
		header.Set("X-Vault-No-Request-Forwarding", "true")
	}
	return request, nil
}

// networkError translates an error of the network. The URL is removed: it may contain parameters. certificateField is
// where the client's certificate is set; empty: in the provider's TLS settings.
func (b *Backend) networkError(
	ctx context.Context, err error, address string, sent bool, certificateField string,
) *backend.Error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	kind, text := classifyNetworkError(ctx, err, sent, or(certificateField, "tls.clientCertRef"))
	if kind == backend.TLS {
		// The material that the provider refers to may have changed.
		b.materialReadAt.Store(0)
	}
	fault := backend.Errorf(kind, "%s: %s", address, text)
	fault.Err = err
	return fault
}
