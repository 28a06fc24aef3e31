package lease

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestLifeEnd(t *testing.T) {
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		want *metav1.Time
	}{
		{"nothing has no end", nil, nil},
		{"a lease ends when it expires", record(), stampPtr(time.Hour)},
		{"a lease ends with its token, if that is earlier", record(token(30*time.Minute, true)), stampPtr(30 * time.Minute)},
		{"a token that lives longer changes nothing", record(token(2*time.Hour, true)), stampPtr(time.Hour)},
		{"an answer without a lease has no end, whatever its token's", record(unleased, token(time.Minute, true)), nil},
		{"a lease of which no end is known has none", record(func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = nil }), nil},
	} {
		got, ok := LifeEnd(c.rec)
		if ok != (c.want != nil) || ok && !got.Equal(c.want.Time) {
			t.Errorf("%s: got %v, %v", c.it, got, ok)
		}
	}
}

func TestExhausted(t *testing.T) {
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		want bool
	}{
		{"a renewable lease can go on", record(), false},
		{"one that is not renewable cannot", record(notRenewable), true},
		{"one at its maximum cannot", record(maxTTL), true},
		{"one whose token dies first can go on with the token", record(token(time.Minute, true)), false},
		{"one whose token dies first and cannot be extended cannot", record(token(time.Minute, false)), true},
		{"one whose token dies at the same second cannot: a renewal would not outlive the token", record(token(time.Hour, false)), true},
		{"one whose token dies later can: it may be renewed up to there", record(token(time.Hour+time.Second, false)), false},
	} {
		if got := exhausted(c.rec); got != c.want {
			t.Errorf("%s: got %v", c.it, got)
		}
	}
}

func TestTimesOfWhatIsDue(t *testing.T) {
	for _, c := range []struct {
		it   string
		got  time.Time
		want time.Duration
	}{
		{"a renewal is due by the share of what was granted", renewAt(record(), 67, calm), renewDue},
		{"no percentage means the default", renewAt(record(), 0, calm), renewDue},
		{"the last renewal counts", renewAt(record(func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt = stampPtr(time.Minute) }), 50, calm), 31 * time.Minute},
		{"a lease that was never issued counts from its start", renewAt(record(func(rec *v1alpha1.LeaseRecord) { rec.IssuedAt, rec.StartedAt = nil, stamp(-time.Minute) }), 50, calm), 29 * time.Minute},
		{"a successor is due by the share of the whole life", replaceAt(record(), t0.Add(30*time.Minute), 50, calm), 15 * time.Minute},
		{"a successor of what is dead is due at once", replaceAt(record(), t0.Add(-time.Minute), 50, calm), 0},

		{"a token is due by the share of what was granted, before its end", extendTokenAt(record(func(rec *v1alpha1.LeaseRecord) {
			rec.TokenExpiresAt, rec.TokenDurationSeconds = stampPtr(time.Hour), 600
		}), 50, calm), 55 * time.Minute},
		{"an answer without a lease is due after the interval", refreshAt(record(unleased), 10*time.Minute, calm), 10 * time.Minute},
	} {
		if !c.got.Equal(t0.Add(c.want)) {
			t.Errorf("%s: got %s, want %s", c.it, c.got.Sub(t0), c.want)
		}
	}
}

// Jitter makes everything earlier, by no more than a tenth, and is the same at every look.
func TestJitterOnlyMakesEarlier(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := types.UID(rapid.String().Draw(t, "uid"))
		percent := rapid.Int32Range(10, 90).Draw(t, "percent")
		seconds := rapid.Int64Range(1, 10*365*24*3600).Draw(t, "granted")
		granted := time.Duration(seconds) * time.Second
		rec := record(token(granted, true), func(rec *v1alpha1.LeaseRecord) {
			rec.DurationSeconds, rec.ExpiresAt = seconds, stampPtr(granted)
		})
		for what, at := range map[string]func(types.UID) time.Time{
			"renewal":     func(uid types.UID) time.Time { return renewAt(rec, percent, uid) },
			"replacement": func(uid types.UID) time.Time { return replaceAt(rec, rec.ExpiresAt.Time, percent, uid) },
			"extension":   func(uid types.UID) time.Time { return extendTokenAt(rec, percent, uid) },
			"refresh":     func(uid types.UID) time.Time { return refreshAt(rec, granted, uid) },
		} {
			plain, got := at(calm), at(uid)
			if got.After(plain) || got.Before(plain.Add(-plain.Sub(t0)/10)) || !got.Equal(at(uid)) {
				t.Fatalf("the %s is due at %s, without jitter at %s", what, got.Sub(t0), plain.Sub(t0))
			}
			if !got.Before(t0.Add(granted)) && what != "refresh" {
				t.Fatalf("the %s is due at %s, after the end", what, got.Sub(t0))
			}
		}
	})
	if early := renewAt(record(), 67, hasty); !early.Before(t0.Add(renewDue * 91 / 100)) {
		t.Errorf("hasty is due at %s: there is no jitter", early.Sub(t0))
	}
}

func TestBackoff(t *testing.T) {
	for count, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute, 8: time.Minute,
		1 << 30: time.Minute,
	} {
		if got := Backoff(count, calm); got != want {
			t.Errorf("after %d failures: %s, want %s", count, got, want)
		}
		if got := Backoff(count, hasty); got >= want || got < want*9/10 {
			t.Errorf("after %d failures, with jitter: %s, want a little less than %s", count, got, want)
		}
	}
}

// A lease that can be saved is tried to its end: there is always time for another try.
func TestRenewBackoffLeavesTimeForAnotherTry(t *testing.T) {
	for _, c := range []struct {
		count int
		left  time.Duration
		want  time.Duration
	}{
		{1, time.Hour, time.Second},
		{9, time.Hour, time.Minute},
		{9, time.Minute, 15 * time.Second},
		{9, 2 * time.Second, 500 * time.Millisecond},
		{9, 500 * time.Millisecond, 250 * time.Millisecond},
		{9, -time.Minute, 250 * time.Millisecond},
	} {
		if got := RenewBackoff(c.count, calm, c.left); got != c.want {
			t.Errorf("after %d failures with %s left: %s, want %s", c.count, c.left, got, c.want)
		}
	}
}

func TestOwnEnd(t *testing.T) {
	for _, c := range []struct {
		it        string
		rec       *v1alpha1.LeaseRecord
		increment time.Duration
		want      *metav1.Time
	}{
		{"a renewal that was not recorded may have granted as much again", record(), 0, stampPtr(2 * time.Hour)},
		{"or as much as the wish", record(), 3 * time.Hour, stampPtr(4 * time.Hour)},
		{"a wish for less changes nothing: never less than what is left is asked for", record(), time.Minute, stampPtr(2 * time.Hour)},
		{"a lease at its maximum stands", record(maxTTL), 3 * time.Hour, stampPtr(time.Hour)},
		{"one that is not renewable stands", record(notRenewable), 3 * time.Hour, stampPtr(time.Hour)},
		{"where no lease is known the token's end counts", record(unanswered, token(time.Minute, true)), time.Hour, stampPtr(time.Minute)},
		{"where neither is known there is no end", record(unanswered), time.Hour, nil},
		{"a lease of which no end is known ends with its token", record(token(time.Minute, true), func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = nil }), 0, stampPtr(time.Minute)},
	} {
		got, ok := ownEnd(c.rec, c.increment)
		if ok != (c.want != nil) || ok && !got.Equal(c.want.Time) {
			t.Errorf("%s: got %v, %v", c.it, got, ok)
		}
	}
}

// The increment replaces what is left, so a renewal never asks for less.
func TestIncrementNeverShortens(t *testing.T) {
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		spec v1alpha1.LeaseSpec
		at   time.Duration
		want time.Duration
	}{
		{"without a wish it asks for what was granted last", record(), v1alpha1.LeaseSpec{}, renewDue, time.Hour},
		{"a wish is asked for", record(), v1alpha1.LeaseSpec{Increment: &metav1.Duration{Duration: 2 * time.Hour}}, renewDue, 2 * time.Hour},
		{"a wish below what is left is not", record(), v1alpha1.LeaseSpec{Increment: &metav1.Duration{Duration: time.Minute}}, 30 * time.Minute, 30*time.Minute + 2*time.Second},
		{"nor what was granted last, below what is left", record(func(rec *v1alpha1.LeaseRecord) { rec.DurationSeconds = 60 }), v1alpha1.LeaseSpec{}, 0, time.Hour + 2*time.Second},
		{"nothing is left of what is over", record(), v1alpha1.LeaseSpec{}, 5 * time.Hour, time.Hour},
		{"a lease without an end is asked for as before", record(func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = nil }), v1alpha1.LeaseSpec{}, 0, time.Hour},
	} {
		if got := Increment(c.rec, &c.spec, t0.Add(c.at)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.it, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		rec := record(func(rec *v1alpha1.LeaseRecord) {
			rec.DurationSeconds = rapid.Int64Range(0, 7200).Draw(t, "granted")
			rec.ExpiresAt = stampPtr(time.Duration(rapid.IntRange(0, 7200).Draw(t, "end")) * time.Second)
		})
		spec := v1alpha1.LeaseSpec{Increment: &metav1.Duration{Duration: time.Duration(rapid.IntRange(1, 7200).Draw(t, "wish")) * time.Second}}
		now := t0.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "now")))
		// A backend counts in whole seconds and from when it gets the request.
		if got := Increment(rec, &spec, now).Truncate(time.Second); now.Add(got).Before(rec.ExpiresAt.Time) {
			t.Fatalf("%s from %s ends before %s", got, now.Sub(t0), rec.ExpiresAt.Sub(t0))
		}
	})
}
