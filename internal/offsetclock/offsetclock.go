// Package offsetclock is the manager's clock. Tests shift it with a linker flag.
package offsetclock

import (
	"fmt"
	"time"

	"k8s.io/utils/clock"
)

// offset of the manager's clock, such as "-5m". Only tests set it, with the linker.
var offset string

// New returns the system clock, shifted by the offset.
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
