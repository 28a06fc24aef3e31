package testbed

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// startLimit bounds the start of a lazy server. RabbitMQ takes its time on a busy machine.
const startLimit = 3 * time.Minute

// Lazy starts servers when a test needs them, each once, and stops them together.
type Lazy struct {
	mu      sync.Mutex
	started []io.Closer
}

// Close stops all servers that were started.
func (l *Lazy) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, server := range l.started {
		errs = append(errs, server.Close())
	}
	l.started = nil
	return errors.Join(errs...)
}

// Once returns a function that starts a server at its first call, and returns the same server at every call.
func Once[T io.Closer](l *Lazy, start func(context.Context) (T, error)) func() (T, error) {
	return sync.OnceValues(func() (T, error) {
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		server, err := start(ctx)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.started = append(l.started, server)
		}
		return server, err
	})
}
