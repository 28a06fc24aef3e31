package vault

import (
	"context"
	"time"

	"k8s.io/utils/clock"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// failureMemory is how long a failed attempt stands for all who ask, so that a thousand objects do not each try.
const failureMemory = time.Second

// cached is a value that one caller at a time makes and all share until it goes stale.
type cached[T comparable] struct {
	clock clock.PassiveClock
	// gate has room for one: holding its token is holding the lock, and waiting for it can be given up.
	gate chan struct{}

	has      bool
	value    T
	madeAt   time.Time
	until    time.Time // zero: for ever
	failed   error
	failedAt time.Time
}

func newCached[T comparable](c clock.PassiveClock) *cached[T] {
	return &cached[T]{clock: c, gate: make(chan struct{}, 1)}
}

func (c *cached[T]) lock(ctx context.Context) error {
	select {
	case c.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		fault := backend.Errorf(backend.Unavailable, "gave up waiting for another login that is under way")
		fault.Err = ctx.Err()
		return fault
	}
}

func (c *cached[T]) unlock() { <-c.gate }

// get returns the value, made anew where it is missing or stale. make says until when it is good; a zero time means
// for ever. old says what was there before and was replaced.
func (c *cached[T]) get(ctx context.Context, make func(context.Context) (T, time.Time, error)) (value, old T, err error) {
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
	made, until, err := make(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.failed, c.failedAt = err, c.clock.Now()
		}
		return value, old, err
	}
	if c.has {
		old = c.value
	}
	c.has, c.value, c.madeAt, c.until, c.failed = true, made, c.clock.Now(), until, nil
	return made, old, nil
}

// drop forgets the value if it is still the one that the caller found wanting, and is at least minAge old. It says
// whether it did.
func (c *cached[T]) drop(ctx context.Context, bad T, minAge time.Duration) bool {
	if c.lock(ctx) != nil {
		return false
	}
	defer c.unlock()
	if !c.has || c.value != bad || c.clock.Since(c.madeAt) < minAge {
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
