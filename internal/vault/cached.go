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

// maxRenewedAge is how long a value is extended before it is created again. A session keeps the rights that it was
// created with: after this time, a role that has changed and a ServiceAccount that is gone count.
const maxRenewedAge = 24 * time.Hour

// life says how long a value is valid.
type life struct {
	// until is when the value is replaced; zero: never.
	until time.Time
	// expires is when it becomes invalid; zero: never, or nobody needs to know.
	expires time.Time
	// granted is the time from its creation or its last extension until then.
	granted time.Duration
	// renewable is true if it can be extended until it expires.
	renewable bool
}

// cached is a value that one caller at a time creates and all share until it expires. Losing it costs a login or a
// TokenRequest; the token of a lost session expires by itself, and owns no lease.
type cached[T comparable] struct {
	clock clock.PassiveClock
	// keep is called if the value expired and creating another failed. It may extend the value. nil: nothing can.
	keep func(ctx context.Context, value T, failed error) (life, error)
	// renew is called for a renewable value that will have expired when it is used again. nil: it is replaced instead.
	renew func(ctx context.Context, value T, increment time.Duration) (l life, ok bool)
	// held has room for one: to send is to lock. Unlike a mutex, a caller can stop waiting for it.
	held chan struct{}

	has       bool
	value     T
	createdAt time.Time
	life      life
	usedAt    time.Time
	failed    error
	failedAt  time.Time
	// notRenewed is when an extension failed. It is not tried again soon: a policy may not permit it.
	notRenewed time.Time
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

// get returns the value; create makes a new one if it is missing, or old and not extended. old is the value that was
// replaced, if it has not expired.
func (c *cached[T]) get(
	ctx context.Context, create func(context.Context) (T, life, error),
) (value, old T, err error) {
	if err := c.lock(ctx); err != nil {
		return value, old, err
	}
	defer c.unlock()
	now := c.clock.Now()
	idle := time.Duration(0)
	if !c.usedAt.IsZero() {
		idle = now.Sub(c.usedAt)
	}
	c.usedAt = now
	c.extend(ctx, now, idle)
	if c.has && (c.life.until.IsZero() || now.Before(c.life.until)) {
		return c.value, old, nil
	}
	if c.failed != nil && now.Sub(c.failedAt) < failureMemory {
		return value, old, c.failed
	}
	created, l, err := create(ctx)
	if err != nil && c.has && c.keep != nil {
		created = c.value
		l, err = c.keep(ctx, c.value, err)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.failed, c.failedAt = err, c.clock.Now()
		}
		return value, old, err
	}
	if c.has && !c.expired(now) {
		old = c.value
	}
	c.has, c.value, c.createdAt, c.life, c.failed = true, created, c.clock.Now(), l, nil
	c.extend(ctx, now, idle)
	return created, old, nil
}

func (c *cached[T]) expired(now time.Time) bool {
	return !c.life.expires.IsZero() && !now.Before(c.life.expires)
}

// extend extends a value that would expire before its next use, assuming that it is used as often as before: idle is
// the time since its last use. It asks for twice that time, because uses are not exactly regular.
func (c *cached[T]) extend(ctx context.Context, now time.Time, idle time.Duration) {
	possible := c.has && c.renew != nil && c.life.renewable && !c.expired(now)
	needed := !c.life.until.IsZero() && !now.Add(idle+idle/4).Before(c.life.until)
	tooOld := now.Add(idle).Sub(c.createdAt) > maxRenewedAge
	refused := !c.notRenewed.IsZero() && now.Sub(c.notRenewed) < maxRenewedAge
	if !possible || !needed || tooOld || refused {
		return
	}
	if l, ok := c.renew(ctx, c.value, max(2*idle, c.life.granted)); ok {
		c.life = l
	} else if ctx.Err() == nil {
		c.notRenewed = now
	}
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

// take forgets the value and returns it. ok is false if there is none, or it has expired.
func (c *cached[T]) take(ctx context.Context) (value T, ok bool, err error) {
	if err := c.lock(ctx); err != nil {
		return value, false, err
	}
	defer c.unlock()
	value, ok, c.has = c.value, c.has && !c.expired(c.clock.Now()), false
	return value, ok, nil
}
