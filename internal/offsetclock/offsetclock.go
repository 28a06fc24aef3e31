// Package offsetclock is the manager's clock. Tests have the linker set it ahead of the machine's, or behind.
package offsetclock

import (
	"fmt"
	"time"

	"k8s.io/utils/clock"
)

// offset is set by the linker, for tests only: by how much the manager's clock is ahead of the machine's.
var offset string

// New is the machine's clock, but for the offset.
func New() (clock.WithTicker, error) {
	if offset == "" {
		return clock.RealClock{}, nil
	}
	by, err := time.ParseDuration(offset)
	if err != nil {
		return nil, fmt.Errorf("offsetclock.offset: %w", err)
	}
	return offsetClock{clock.RealClock{}, by}, nil
}

type offsetClock struct {
	clock.WithTicker
	by time.Duration
}

// Now implements clock.PassiveClock.
func (c offsetClock) Now() time.Time { return c.WithTicker.Now().Add(c.by) }

// Since implements clock.PassiveClock.
func (c offsetClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
