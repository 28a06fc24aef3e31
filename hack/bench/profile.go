package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// saveHeap saves the manager's heap profile, if the option asks for it. `go tool pprof FILE` reads it.
func (s *site) saveHeap(ctx context.Context, objects int) (err error) {
	if s.opts.profiles == "" {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.pprof+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the heap profile: %s", response.Status)
	}
	profile, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.opts.profiles, fmt.Sprintf("heap-%d.pb.gz", objects)), profile, 0o600)
}
