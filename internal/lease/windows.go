package lease

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Windows are the periods in which a planned replacement may start; none: always.
type Windows []window

// window opens at each time of the schedule and stays open for a duration.
type window struct {
	schedule cron.Schedule
	zone     *time.Location
	open     time.Duration
}

// ParseWindows parses spec.rotation.windows. The error names the field.
func ParseWindows(specs []v1alpha1.RotationWindow) (Windows, error) {
	var all Windows
	for i, s := range specs {
		zone, err := time.LoadLocation(s.TimeZone) // "" is UTC
		if err != nil {
			return nil, fmt.Errorf("spec.rotation.windows[%d].timeZone: %q is not in the IANA database", i, s.TimeZone)
		}
		schedule, err := cron.ParseStandard(s.Schedule)
		if err != nil {
			return nil, fmt.Errorf("spec.rotation.windows[%d].schedule: %q cannot be parsed: %w", i, s.Schedule, err)
		}
		if schedule.Next(time.Unix(0, 0).In(zone)).IsZero() {
			return nil, fmt.Errorf("spec.rotation.windows[%d].schedule: %q never opens", i, s.Schedule)
		}
		all = append(all, window{schedule, zone, s.Duration.Duration})
	}
	return all, nil
}

// Next is the first time from then on at which a window is open. Without windows that is then. Zero: never.
func (ws Windows) Next(then time.Time) time.Time {
	if len(ws) == 0 {
		return then
	}
	first := time.Time{}
	for _, w := range ws {
		// The first opening whose window is not over yet.
		opens := w.schedule.Next(then.Add(-w.open).In(w.zone))
		if opens.IsZero() {
			continue
		}
		if opens.Before(then) {
			opens = then
		}
		if first.IsZero() || opens.Before(first) {
			first = opens
		}
	}
	return first.In(then.Location())
}
