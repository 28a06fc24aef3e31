package main

import (
	"fmt"
	"time"

	"k8s.io/utils/clock"
)

// clockOffset is set by the linker, for tests only: by how much the manager's clock is ahead of the machine's.
var clockOffset string

// managerClock is the machine's clock, but for clockOffset.
func managerClock() (clock.WithTicker, error) {
	if clockOffset == "" {
		return clock.RealClock{}, nil
	}
	by, err := time.ParseDuration(clockOffset)
	if err != nil {
		return nil, fmt.Errorf("main.clockOffset: %w", err)
	}
	return offsetClock{clock.RealClock{}, by}, nil
}

type offsetClock struct {
	clock.WithTicker
	by time.Duration
}

func (c offsetClock) Now() time.Time { return c.WithTicker.Now().Add(c.by) }

func (c offsetClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
