package lease

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// endCase is a record and when it ends; nil: never.
type endCase struct {
	it   string
	rec  *v1alpha1.LeaseRecord
	want *metav1.Time
}

func checkEnds(t *testing.T, cases []endCase, end func(*v1alpha1.LeaseRecord) (time.Time, bool)) {
	t.Helper()
	for _, c := range cases {
		got, ok := end(c.rec)
		if ok != (c.want != nil) || ok && !got.Equal(c.want.Time) {
			t.Errorf("%s: got %v, %v", c.it, got, ok)
		}
	}
}

func TestExpired(t *testing.T) {
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		at   time.Duration
		want bool
	}{
		{"a certificate lives until its expiry", record(revocable), time.Hour - time.Second, false},
		{"another replica's clock may have been half a minute behind", record(revocable),
			time.Hour + 30*time.Second, false},
		{"a minute later nothing is left to revoke", record(revocable), time.Hour + time.Minute, true},
		{"a lease is left to the backend, which may fail to revoke it", record(), 2 * time.Hour, false},
		{"a value without an expiry never expires", record(static), 1000 * time.Hour, false},
	} {
		if got := Expired(c.rec, t0.Add(c.at)); got != c.want {
			t.Errorf("%s: got %v", c.it, got)
		}
	}
}

func TestLifeEnd(t *testing.T) {
	checkEnds(t, []endCase{
		{"no record has no end", nil, nil},
		{"a lease ends when it expires", record(), stampPtr(time.Hour)},
		{"a lease ends with its session, if that is earlier", record(session(30*time.Minute, true)),
			stampPtr(30 * time.Minute)},
		{"a session that lives longer changes nothing", record(session(2*time.Hour, true)), stampPtr(time.Hour)},
		{"a lease without an expiry has no end", record(endless), nil},
		{"a certificate ends when it expires", record(expiring), stampPtr(time.Hour)},
		{"a certificate does not end with its session",
			record(expiring, session(time.Minute, true)), stampPtr(time.Hour)},
		{"a static response has no end", record(static, granted(time.Minute), session(time.Minute, true)), nil},
		{"a scheduled response has no end", record(scheduled(time.Minute)), nil},
		{"a record without a response has no end", record(noResponse), nil},
	}, LifeEnd)
}

func TestSetEndIsTheFirst(t *testing.T) {
	set := values([]*v1alpha1.LeaseRecord{settings(granted(time.Second)), db(granted(2 * time.Hour)), broker(expiring)})
	if end, ok := SetEnd(set); !ok || !end.Equal(t0.Add(time.Hour)) {
		t.Errorf("%s, %v", end, ok)
	}
	if _, ok := SetEnd(set[:1]); ok {
		t.Error("static data do not expire")
	}
}

func TestFinalEnd(t *testing.T) {
	with := func(increment time.Duration) func(*v1alpha1.LeaseRecord) (time.Time, bool) {
		return func(rec *v1alpha1.LeaseRecord) (time.Time, bool) { return finalEnd(rec, increment) }
	}
	checkEnds(t, []endCase{
		{"an unrecorded renewal may have granted as much again", record(), stampPtr(2 * time.Hour)},
		{"a lease without an expiry ends with its session", record(session(time.Minute, true), endless),
			stampPtr(time.Minute)},
		{"a certificate ends when it expires", record(revocable), stampPtr(time.Hour)},
	}, with(0))
	checkEnds(t, []endCase{
		{"a shorter increment changes nothing", record(), stampPtr(2 * time.Hour)},
	}, with(time.Minute))
	checkEnds(t, []endCase{
		{"an unrecorded renewal may have granted the increment", record(), stampPtr(4 * time.Hour)},
		{"a lease at its maximum was not renewed", record(maxTTL), stampPtr(time.Hour)},
		{"a lease that is not renewable was not renewed", record(notRenewable), stampPtr(time.Hour)},
		{"without a lease the session decides", record(noResponse, session(time.Minute, true)), stampPtr(time.Minute)},
		{"an endless session has no end", record(noResponse), nil},
	}, with(3*time.Hour))
}

func TestExhausted(t *testing.T) {
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		want bool
	}{
		{"a renewable lease", record(), false},
		{"a lease that is not renewable", record(notRenewable), true},
		{"a lease at its maximum", record(maxTTL), true},
		{"a lease whose session ends first but can be extended", record(session(time.Minute, true)), false},
		{"a lease whose session ends first", record(session(time.Minute, false)), true},
		{"a lease whose session ends at the same time", record(session(time.Hour, false)), true},
		{"a lease whose session ends later", record(session(time.Hour+time.Second, false)), false},
		{"a certificate", record(expiring), true},
	} {
		if got := exhausted(c.rec); got != c.want {
			t.Errorf("%s: got %v", c.it, got)
		}
	}
}

func TestDueTimes(t *testing.T) {
	renewed := record(func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt = stampPtr(time.Minute) })
	started := record(func(rec *v1alpha1.LeaseRecord) { rec.IssuedAt, rec.StartedAt = nil, stamp(-time.Minute) })
	extended := record(session(time.Hour, true), func(rec *v1alpha1.LeaseRecord) { rec.Session.DurationSeconds = 600 })
	read := func(at, next time.Duration) Read { return Read{At: t0.Add(at), Next: t0.Add(next)} }
	refresh := func(rec *v1alpha1.LeaseRecord, r Read) time.Time { return refreshAt(rec, r, 10*time.Minute, noJitter) }
	day := record(scheduled(24 * time.Hour))
	for _, c := range []struct {
		it   string
		got  time.Time
		want time.Duration
	}{
		{"a renewal after the share of the granted time", renewAt(record(), 67, noJitter), renewDue},
		{"a renewal after the default share", renewAt(record(), 0, noJitter), renewDue},
		{"a renewal after the last one", renewAt(renewed, 50, noJitter), 31 * time.Minute},
		{"a renewal after the start, if nothing else is known", renewAt(started, 50, noJitter), 29 * time.Minute},
		{"a successor after the share of the life", replaceAt(record(), t0.Add(30*time.Minute), 50, noJitter),
			15 * time.Minute},
		{"a successor of a dead credential at once", replaceAt(record(), t0.Add(-time.Minute), 50, noJitter), 0},
		{"a maximum age after the issuance", maxAgeAt(renewed, time.Hour, noJitter), time.Hour},
		{"an extension after the share of the last grant", extendSessionAt(extended, 50, noJitter), 55 * time.Minute},

		{"a static source after the interval", refresh(record(static), Read{}), 10 * time.Minute},
		{"a static source after its own duration", refresh(record(static, granted(time.Minute)), Read{}), time.Minute},
		{"a static source not after a longer duration", refresh(record(static, granted(time.Hour)), Read{}),
			10 * time.Minute},
		{"a static source after the last read",
			refresh(record(static), Read{At: t0.Add(time.Minute)}), 11 * time.Minute},
		{"a static source when the last read says so", refresh(record(static), read(time.Minute, 2*time.Minute)),
			2 * time.Minute},
		{"a static source whatever an earlier read said", refresh(record(static), read(-time.Hour, -time.Minute)),
			10 * time.Minute},
		{"a scheduled source a second after the change", refresh(day, Read{}), 24*time.Hour + time.Second},
		{"a scheduled source after the change that the read names", refresh(day, read(time.Hour, 2*time.Hour)),
			2*time.Hour + time.Second},
		{"a scheduled source a second after it was late", refresh(day, Read{At: t0.Add(25 * time.Hour)}),
			25*time.Hour + time.Second},
	} {
		if !c.got.Equal(t0.Add(c.want)) {
			t.Errorf("%s: got %s, want %s", c.it, c.got.Sub(t0), c.want)
		}
	}
}

// Jitter makes everything earlier, by at most a tenth, and is the same each time.
func TestJitterNeverDelays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := types.UID(rapid.String().Draw(t, "uid"))
		percent := rapid.Int32Range(10, 90).Draw(t, "percent")
		life := time.Duration(rapid.Int64Range(1, 10*365*24*3600).Draw(t, "seconds")) * time.Second
		rec := record(session(life, true), granted(life))
		for what, at := range map[string]func(types.UID) time.Time{
			"renewal":     func(uid types.UID) time.Time { return renewAt(rec, percent, uid) },
			"replacement": func(uid types.UID) time.Time { return replaceAt(rec, rec.ExpiresAt.Time, percent, uid) },
			"extension":   func(uid types.UID) time.Time { return extendSessionAt(rec, percent, uid) },
			"maximum age": func(uid types.UID) time.Time { return maxAgeAt(rec, life, uid) },
			"read":        func(uid types.UID) time.Time { return refreshAt(record(static), Read{}, life, uid) },
		} {
			plain, got := at(noJitter), at(uid)
			if got.After(plain) || got.Before(plain.Add(-plain.Sub(t0)/10)) || !got.Equal(at(uid)) {
				t.Fatalf("the %s is due at %s, without jitter at %s", what, got.Sub(t0), plain.Sub(t0))
			}
			if !got.Before(t0.Add(life)) && what != "maximum age" && what != "read" {
				t.Fatalf("the %s is due at %s, after the end", what, got.Sub(t0))
			}
		}
	})
	if early := renewAt(record(), 67, muchJitter); !early.Before(t0.Add(renewDue * 91 / 100)) {
		t.Errorf("there is no jitter: %s", early.Sub(t0))
	}
}

func TestBackoff(t *testing.T) {
	for count, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute,
		8: time.Minute, 1 << 30: time.Minute,
	} {
		if got := Backoff(count, noJitter); got != want {
			t.Errorf("after %d failures: %s, want %s", count, got, want)
		}
		if got := Backoff(count, muchJitter); got >= want || got < want*9/10 {
			t.Errorf("after %d failures, with jitter: %s, want a little less than %s", count, got, want)
		}
	}
}

// A lease that can be saved is tried until it expires: there is always time for another try.
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
		if got := RenewBackoff(c.count, noJitter, c.left); got != c.want {
			t.Errorf("after %d failures with %s left: %s, want %s", c.count, c.left, got, c.want)
		}
	}
}

// The increment replaces what is left, so a renewal never requests less.
func TestIncrementNeverShortens(t *testing.T) {
	plain := &v1alpha1.DynamicSecret{}
	spec := func(d time.Duration) *v1alpha1.DynamicSecret {
		o := plain.DeepCopy()
		o.Spec.Lease.Increment = lasting(d)
		return o
	}
	held := input(overlapping(3 * time.Hour)).Object
	known := record(func(rec *v1alpha1.LeaseRecord) { rec.MaxTTLSeconds = 24 * 3600 })
	probing := 24*time.Hour - 3*time.Hour - issueTime
	aMinute := record(func(rec *v1alpha1.LeaseRecord) { rec.DurationSeconds = 60 })
	for _, c := range []struct {
		it   string
		rec  *v1alpha1.LeaseRecord
		of   *v1alpha1.DynamicSecret
		at   time.Duration
		want time.Duration
	}{
		{"by default, the last grant", record(), plain, renewDue, time.Hour},
		{"the increment", record(), spec(2 * time.Hour), renewDue, 2 * time.Hour},
		{"not an increment below what is left", record(), spec(time.Minute), 30 * time.Minute,
			30*time.Minute + 2*time.Second},
		{"not a last grant below what is left", aMinute, plain, 0, time.Hour + 2*time.Second},
		{"the last grant of a dead lease", record(), plain, 5 * time.Hour, time.Hour},
		{"the last grant of a lease without an expiry", record(endless), plain, 0, time.Hour},
		{"twice the time of a handover", record(), held, renewDue, 6*time.Hour + 2*issueTime},
		{"not more, while the known maximum is far", known, held, probing - time.Second, 6*time.Hour + 2*issueTime},
		{"more than the known maximum when it is near", known, held, probing, 9*time.Hour + 3*issueTime},
	} {
		if got := Increment(c.of, c.rec, t0.Add(c.at)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.it, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		seconds := func(what string, from int) time.Duration {
			return time.Duration(rapid.IntRange(from, 7200).Draw(t, what)) * time.Second
		}
		rec := record(granted(seconds("granted", 0)), expiresAt(seconds("end", 0)))
		spec := spec(seconds("increment", 1))
		now := t0.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "now")))
		// A backend counts whole seconds from the time of the request.
		if got := Increment(spec, rec, now).Truncate(time.Second); now.Add(got).Before(rec.ExpiresAt.Time) {
			t.Fatalf("%s from %s ends before %s", got, now.Sub(t0), rec.ExpiresAt.Sub(t0))
		}
	})
}

func TestDefaultsOfOmittedDurations(t *testing.T) {
	d := &v1alpha1.DynamicSecret{}
	same(t, "refreshInterval", RefreshInterval(d), time.Hour)
	same(t, "revocationDeadline", revocationDeadline(&d.Spec.Lease), time.Hour)
	same(t, "overlap", overlap(d), time.Duration(0))
	d.Spec.RefreshInterval, d.Spec.Lease.RevocationDeadline = lasting(-1), lasting(-1)
	d.Spec.Rotation.Overlap = lasting(-1)
	same(t, "a negative refreshInterval", RefreshInterval(d), time.Second)
	same(t, "a negative revocationDeadline", revocationDeadline(&d.Spec.Lease), time.Duration(0))
	same(t, "a negative overlap", overlap(d), time.Duration(0))
}
