// Package bounded gives up requests to the API server that take too long.
package bounded

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Wrap gives up requests after a time-out, unless they are watches. client-go has no such bound of its own, and an object
// whose request is never answered would be worked on for ever, while its lease runs out.
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
	answer, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	answer.Body = cancelling{answer.Body, cancel}
	return answer, nil
}

// WrappedRoundTripper lets client-go look for what it knows below.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

// cancelling is a body that lets go of the time-out when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (c cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
