package vault

import (
	"context"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// failureMemory is how long the error of a failed attempt is returned to all callers, so that a thousand objects do not
// each try.
const failureMemory = time.Second

// cached is a value that one caller at a time creates and all share until it expires. Losing it costs a login or a
// TokenRequest; the token of a lost session expires by itself, and owns no lease.
type cached[T comparable] struct {
	clock clock.PassiveClock
	// keep is called if the value expired and creating another failed. It may extend the value. nil: nothing can.
	keep func(ctx context.Context, value T, failed error) (until time.Time, err error)
	// held has room for one: to send is to lock. Unlike a mutex, a caller can stop waiting for it.
	held chan struct{}

	has       bool
	value     T
	createdAt time.Time
	until     time.Time // zero: forever
	failed    error
	failedAt  time.Time
}

func newCached[T comparable](c clock.PassiveClock) *cached[T] {
	return &cached[T]{clock: c, held: make(chan struct{}, 1)}
}

func (c *cached[T]) lock(ctx context.Context) error {
	select {
	case c.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		timedOut := backend.Errorf(backend.Unavailable, "timed out waiting for another login in progress")
		timedOut.Err = ctx.Err()
		return timedOut
	}
}

func (c *cached[T]) unlock() { <-c.held }

// get returns the value; create makes a new one if it is missing or expired, and returns until when it is valid (zero:
// forever). old is the value that was replaced.
func (c *cached[T]) get(
	ctx context.Context, create func(context.Context) (T, time.Time, error),
) (value, old T, err error) {
	if err := c.lock(ctx); err != nil {
		return value, old, err
	}
	defer c.unlock()
	now := c.clock.Now()
	if c.has && (c.until.IsZero() || now.Before(c.until)) {
		return c.value, old, nil
	}
	if c.failed != nil && now.Sub(c.failedAt) < failureMemory {
		return value, old, c.failed
	}
	created, until, err := create(ctx)
	if err != nil && c.has && c.keep != nil {
		created = c.value
		until, err = c.keep(ctx, c.value, err)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.failed, c.failedAt = err, c.clock.Now()
		}
		return value, old, err
	}
	if c.has {
		old = c.value
	}
	c.has, c.value, c.createdAt, c.until, c.failed = true, created, c.clock.Now(), until, nil
	return created, old, nil
}

// drop forgets the value if it is still the one that failed the caller, and is at least minAge old. It reports whether
// it did.
func (c *cached[T]) drop(ctx context.Context, failed T, minAge time.Duration) bool {
	if c.lock(ctx) != nil {
		return false
	}
	defer c.unlock()
	if !c.has || c.value != failed || c.clock.Since(c.createdAt) < minAge {
		return false
	}
	c.has = false
	return true
}

// take forgets the value and returns it.
func (c *cached[T]) take(ctx context.Context) (value T, ok bool, err error) {
	if err := c.lock(ctx); err != nil {
		return value, false, err
	}
	defer c.unlock()
	value, ok, c.has = c.value, c.has, false
	return value, ok, nil
}
