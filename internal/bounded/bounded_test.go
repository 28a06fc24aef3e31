package bounded

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// The server starts a response but does not finish it.
func TestCancelsRequestsButNotWatches(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	client := http.Client{Transport: bounded{http.DefaultTransport, 50 * time.Millisecond}}
	read := func(ctx context.Context, query string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		_, err = response.Body.Read(make([]byte, 1))
		return err
	}
	if err := read(t.Context(), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel) // long after the timeout
	if err := read(ctx, "?watch=true"); !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}
