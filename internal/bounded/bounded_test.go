package bounded

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A server that begins an answer and does not end it while the client is there.
func TestARequestThatIsNotAnsweredIsGivenUpAndAWatchIsNot(t *testing.T) {
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
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		_, err = answer.Body.Read(make([]byte, 1))
		return err
	}
	if err := read(t.Context(), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read ended with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel) // long after the bound
	if err := read(ctx, "?watch=true"); !errors.Is(err, context.Canceled) {
		t.Errorf("a watch ended with %v", err)
	}
}
