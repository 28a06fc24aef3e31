package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// maxAnswerBytes bounds what is read of an answer. A Secret holds 1 MiB; base64 and JSON make more of it.
const maxAnswerBytes = 4 << 20

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
	// mints: the request must reach the server at most once, and Vault must finish it once it has begun; see oneShot.
	mints bool
	// exempt: the server answers it even where it serves nothing else, so an answer proves nothing.
	exempt bool
}

// reply is an answer of whatever stands at the address: Vault itself or a gateway before it.
type reply struct {
	// at is when the request was sent.
	at     time.Time
	status int
	body   []byte
	// tooLong: the body is longer than maxAnswerBytes and was not read.
	tooLong bool
	// token that was sent, which no text may repeat.
	token string
	// redirect is where to, for a redirect that was not followed.
	redirect string
	address  string
}

// do sends the request and returns the answer, of whatever status. Errors are those of the way there and back, and
// are told apart by whether a single byte can have been sent.
//
// A standby's redirect is followed once. For a call that mints that is safe only when the standby was told not to
// forward: a standby also redirects after its own forwarding broke half way, when the active node may be minting
// already (forwardRequest in http/handler.go of Vault and of OpenBao). So the first such redirect is an error without
// an answer, and from then on this backend tells standbys not to forward. Where the redirect's target cannot be
// reached it goes back to forwarding.
func (b *Backend) do(ctx context.Context, c call) (reply, error) {
	probe := false
	if !c.mints { // the login of one that mints has just been served, and there is a journal that waits for an answer
		var err error
		if probe, err = b.gate.enter(); err != nil {
			return reply{}, err
		}
	}
	sent := b.clock.Now()
	r, err := b.send(ctx, c)
	v, fault := judge(ctx, c, r, err)
	b.gate.leave(probe, sent, v, fault)
	return r, err
}

// judge says what a request tells of the server, in words that do not change from one request to the next.
func judge(ctx context.Context, c call, r reply, err error) (verdict, *backend.Error) {
	down := func(text string) (verdict, *backend.Error) {
		return isDown, backend.Errorf(backend.Unavailable, "%s: %s", r.address, text)
	}
	switch a, spoke := r.parse(); {
	// What one path's engine says, or does not say, of an issue tells nothing of the server.
	case err != nil && (ctx.Err() != nil || (c.mints && backend.KindOf(err) == backend.NoResponse)):
		return noVerdict, nil
	case err != nil && backend.KindOf(err) == backend.TLS:
		return seemsDown, backend.Errorf(backend.TLS, "%s", err)
	case err != nil:
		return seemsDown, backend.Errorf(backend.Unavailable, "%s", err)
	case c.exempt || c.mints && !succeeded(r.status) || r.status == http.StatusPreconditionFailed || r.redirect != "" || r.tooLong:
		return noVerdict, nil
	case notServing(r.status) || r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout:
		return down("it does not serve now (" + statusText(r.status) + "): " + a.quote())
	case !spoke && !succeeded(r.status):
		return down("it answered " + statusText(r.status) + ", not in Vault's words: a gateway, or another server")
	}
	return serves, nil
}

// send is do without the gate.
func (b *Backend) send(ctx context.Context, c call) (reply, error) {
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
		next, err := redirectTarget(base, r)
		if err != nil {
			return r, err
		}
		if c.mints && !direct {
			b.redirects.Store(true)
			return r, backend.Errorf(backend.NoResponse, "a standby at %s redirected and may have forwarded before; the next try tells it not to", b.address())
		}
		base = next
	}
}

func redirectTarget(base *url.URL, r reply) (*url.URL, error) {
	next, err := url.Parse(r.redirect)
	if err != nil || !isHost(next.Host) {
		return nil, backend.Errorf(backend.NoResponse, "%s answered with a redirect that cannot be read", r.address)
	}
	if base.Scheme == "https" && next.Scheme != "https" {
		return nil, backend.Errorf(backend.NoResponse, "%s redirected to an address without TLS, which is not followed", r.address)
	}
	return &url.URL{Scheme: next.Scheme, Host: next.Host}, nil
}

// isHost says whether it looks like a name or an address with a port. It is told in messages, which must be short text.
func isHost(host string) bool {
	return host != "" && len(host) <= 300 && !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (b *Backend) roundTrip(ctx context.Context, c call, base *url.URL, direct bool) (reply, error) {
	r := reply{at: b.clock.Now(), address: base.Scheme + "://" + base.Host, token: c.token}
	// Once a connection is at hand, bytes may go out at any time; before that, none have.
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	request, err := newRequest(httptrace.WithClientTrace(ctx, trace), c, base, direct)
	if err != nil {
		return r, err
	}
	client := b.http
	if c.mints {
		client = b.minting
	}
	answer, err := client.Do(request)
	if err != nil {
		return r, b.wayFault(ctx, err, r.address, sent.Load())
	}
	defer answer.Body.Close()
	r.status = answer.StatusCode
	if r.status == http.StatusTemporaryRedirect || r.status == http.StatusPermanentRedirect {
		r.redirect = answer.Header.Get("Location")
		return r, nil
	}
	r.body, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	if err != nil {
		return r, b.wayFault(ctx, err, r.address, true)
	}
	if len(r.body) > maxAnswerBytes {
		r.body, r.tooLong = nil, true
	}
	return r, nil
}

func newRequest(ctx context.Context, c call, base *url.URL, direct bool) (*http.Request, error) {
	target := url.URL{Scheme: base.Scheme, Host: base.Host, Path: "/v1/" + c.path, RawQuery: c.query.Encode()}
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

// wayFault says what an error on the way there or back means. The URL is taken off it: it may hold parameters.
func (b *Backend) wayFault(ctx context.Context, err error, address string, sent bool) *backend.Error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	kind, text := wayKind(ctx, err, sent)
	if kind == backend.TLS {
		// What the provider refers to may have been renewed meanwhile.
		b.materialReadAt.Store(0)
	}
	fault := backend.Errorf(kind, "%s: %s", address, text)
	fault.Err = err
	return fault
}
