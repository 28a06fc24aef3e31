// Package bounded limits the duration of requests to the API server.
package bounded

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Wrap cancels requests after a timeout, except watches. client-go has no such limit: a request without a response
// would block the reconciliation of an object while its lease expires.
func Wrap(timeout time.Duration) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper { return bounded{next, timeout} }
}

type bounded struct {
	next    http.RoundTripper
	timeout time.Duration
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Has("watch") {
		return b.next.RoundTrip(r)
	}
	ctx, cancel := context.WithTimeout(r.Context(), b.timeout)
	response, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = cancelling{response.Body, cancel}
	return response, nil
}

// WrappedRoundTripper lets client-go find the wrapped transport.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

// cancelling is a response body that releases the timeout when closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (c cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
