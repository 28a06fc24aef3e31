package lease

import (
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func windows(specs ...v1alpha1.RotationWindow) given {
	return func(in *Input) {
		in.Object.Spec.Rotation.Windows = specs
		var err error
		if in.Windows, err = ParseWindows(specs); err != nil {
			panic(err)
		}
	}
}

func opening(schedule, zone string, open time.Duration) v1alpha1.RotationWindow {
	return v1alpha1.RotationWindow{Schedule: schedule, TimeZone: zone, Duration: *lasting(open)}
}

var night = opening("0 2 * * *", "", 2*time.Hour)

// t0 is a Sunday at noon.
func TestAPlannedReplacementWaitsForAWindow(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	aged := func(age time.Duration, ws ...v1alpha1.RotationWindow) []given {
		return []given{kept(), maxAge(age), windows(ws...)}
	}
	ending := func(w v1alpha1.RotationWindow, changes ...change) []given {
		return []given{kept(append([]change{granted(day)}, changes...)...), overlapping(2 * hour), windows(w)}
	}
	late := 22*hour - issueTime
	early, daily := opening("0 5 * * *", "", hour), opening("@daily", "", hour)
	newYork, weekdays := opening("0 2 * * *", "America/New_York", hour), opening("0 10 * * TUE-FRI", "", hour)
	for _, c := range []struct {
		it    string
		given []given
		cause string
		at    time.Duration
	}{
		{"for its age", aged(hour, night), CauseMaxAge, 14 * hour},
		{"for its age, in an open window", aged(15*hour, night), CauseMaxAge, 15 * hour},
		{"for its age, when a window has just closed", aged(16*hour, night), CauseMaxAge, 38 * hour},
		{"for its age, in the first of two windows", aged(20*hour, night, daily), CauseMaxAge, 36 * hour},
		{"for its age, in the time zone of the window", aged(hour, newYork), CauseMaxAge, 19 * hour},
		{"for its age, on some weekdays", aged(hour, weekdays), CauseMaxAge, 2*day - 2*hour},
		{"for its maximum TTL, if a window opens in time", ending(early, maxTTL), CauseMaxTTL, 17 * hour},
		{"for its maximum TTL, before it would expire", ending(night, maxTTL), CauseMaxTTLOutsideWindow, late},
		{"for a certificate, if a window opens in time", ending(early, expiring), CauseMaxTTL, 17 * hour},
		{"for a certificate, before it would expire", ending(night, expiring), CauseMaxTTLOutsideWindow, late},
	} {
		t.Run(c.it, func(t *testing.T) {
			if cause, at := newView(input(c.given...)).cause(); cause != c.cause || !at.Equal(t0.Add(c.at)) {
				t.Errorf("%s at %s, want %s at %s", cause, at.Sub(t0), c.cause, c.at)
			}
		})
	}
}

func TestARequestedReplacementNeedsNoWindow(t *testing.T) {
	in := input(kept(), windows(night), annotated(v1alpha1.RotateRequestedAtAnnotation, "now"))
	same(t, "the step", Plan(in), step(Issue, CauseRequested))
}

func TestInvalidWindowsAreReported(t *testing.T) {
	for _, c := range []struct{ schedule, zone, want string }{
		{"0 25 * * *", "", "spec.rotation.windows[1].schedule"},
		{"0 2 30 2 *", "", "never opens"},
		{"0 2 * * *", "Europe/Wien", `spec.rotation.windows[1].timeZone: "Europe/Wien"`},
	} {
		second := v1alpha1.RotationWindow{Schedule: c.schedule, TimeZone: c.zone}
		_, err := ParseWindows([]v1alpha1.RotationWindow{{Schedule: "@hourly"}, second})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: %v", c.schedule, c.zone, err)
		}
	}
}
