package backend

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// lineTest drives one line of Limits for 16 workers: at most 4 issuances of a path, and 8 of all paths.
type lineTest struct {
	*testing.T
	clock *testclock.FakeClock
	*Limits
	woken int
}

func newLineTest(t *testing.T) *lineTest {
	clock := testclock.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	return &lineTest{T: t, clock: clock, Limits: NewLimits(clock, 16)}
}

func (l *lineTest) admitTo(operation, path string) (func(error), error) {
	who := Waiter{}
	if operation == opIssue {
		who = Waiter{Key: "orders", Wake: func() { l.woken++ }}
	}
	return l.admit(lineKey{keyOf(vaultProvider()), operation, path}, operation == opIssue, who)
}

// fill takes so many places.
func (l *lineTest) fill(operation, path string, n int) (done []func(error)) {
	l.Helper()
	for range n {
		d, err := l.admitTo(operation, path)
		if err != nil {
			l.Fatal(err)
		}
		done = append(done, d)
	}
	return done
}

// refused expects that there is no place.
func (l *lineTest) refused(operation, path string, want ErrorKind) {
	l.Helper()
	if _, err := l.admitTo(operation, path); err == nil || KindOf(err) != want {
		l.Errorf("%s of %s: %v, want %s", operation, path, err, want)
	}
}

var noResponse = Errorf(NoResponse, "no response in time")

func TestOnePathUsesAQuarterOfTheWorkers(t *testing.T) {
	l := newLineTest(t)
	done := l.fill(opIssue, "database/creds/a", 4)
	l.refused(opIssue, "database/creds/a", Busy)
	l.fill(opIssue, "database/creds/b", 1)
	if l.woken != 0 {
		t.Error("a waiting object was woken before there was a place")
	}
	l.refused(opIssue, "database/creds/a", Busy)
	done[0](nil)
	done[1](nil)
	if l.woken != 1 {
		t.Errorf("one waiting object was woken %d times", l.woken)
	}
	l.fill(opIssue, "database/creds/a", 2)
	l.refused(opIssue, "database/creds/a", Busy)
}

func TestIssuancesUseHalfOfTheWorkers(t *testing.T) {
	l := newLineTest(t)
	done := l.fill(opIssue, "a", 4)
	l.fill(opIssue, "b", 4)
	l.refused(opIssue, "c", Busy)
	l.fill("renew", "a", 8)
	done[0](nil)
	if l.woken != 1 {
		t.Errorf("%d waiting objects were woken, want 1", l.woken)
	}
	l.fill(opIssue, "c", 1)
}

func TestOtherOperationsAreLimitedWhileSlow(t *testing.T) {
	l := newLineTest(t)
	done := l.fill("renew", "a", 6)
	l.clock.Step(2 * time.Second)
	l.refused("renew", "a", Busy)
	l.fill("revoke", "a", 1)
	l.fill("renew", "b", 1)
	for _, d := range done {
		d(nil)
	}
	l.fill("renew", "a", 6)
}

func TestUnansweredRequestIsFollowedByOneProbe(t *testing.T) {
	l := newLineTest(t)
	done := l.fill(opIssue, "a", 2)
	done[0](noResponse)
	l.clock.Step(2 * probePause)
	l.refused(opIssue, "a", Unavailable) // the second request is still in flight
	done[1](noResponse)
	l.refused(opIssue, "a", Unavailable) // too early
	l.clock.Step(2 * probePause)
	probe := l.fill(opIssue, "a", 1)
	l.refused(opIssue, "a", Unavailable)
	probe[0](ErrNotSent)
	probe = l.fill(opIssue, "a", 1)
	l.refused(opIssue, "a", Unavailable)
	probe[0](errors.New("refused")) // not an *Error: counts as no response
	l.clock.Step(2 * probePause)
	l.fill(opIssue, "a", 1)[0](Errorf(Failed, "the database is down"))
	l.fill(opIssue, "a", 2)
	l.refused(opIssue, "a", Busy)
}

func TestRefusedByAQuotaIsFollowedByOneProbe(t *testing.T) {
	l := newLineTest(t)
	l.fill(opIssue, "a", 1)[0](Errorf(QuotaExceeded, "no more leases"))
	_, err := l.admitTo(opIssue, "a")
	if KindOf(err) != QuotaExceeded || err.Error() != "no more leases" || BlockFor(err).RetryAfter != quotaPause {
		t.Errorf("the next issuance gets %v", err)
	}
	l.fill(opIssue, "b", 4)
	l.fill("renew", "a", 8)
	l.clock.Step(quotaPause)
	l.fill(opIssue, "a", 1)
	l.refused(opIssue, "a", QuotaExceeded)
}

func TestErrorAfterALongTimeIsFollowedByOneProbe(t *testing.T) {
	l := newLineTest(t)
	done := l.fill(opIssue, "a", 1)
	l.clock.Step(2 * hanging)
	done[0](Errorf(Failed, "context deadline exceeded"))
	l.refused(opIssue, "a", Unavailable)
	l.clock.Step(2 * probePause)
	l.fill(opIssue, "a", 1)[0](Errorf(Failed, "the database is down"))
	l.fill(opIssue, "a", 2)
	l.refused(opIssue, "a", Busy)
}

func TestFinishedRequestGivesOnePlaceBack(t *testing.T) {
	l := newLineTest(t)
	done := l.fill(opIssue, "a", 4)
	done[0](nil)
	done[0](nil)
	l.fill(opIssue, "a", 1)
	l.refused(opIssue, "a", Busy)
	for _, d := range done {
		d(nil)
	}
	if l.issuing != 1 {
		t.Errorf("%d issuances are counted, want 1", l.issuing)
	}
}

// A path of static responses that hangs must not hold all workers.
func TestReadsAreLimited(t *testing.T) {
	l := newLineTest(t)
	reader, ok := As[Reader](l.Wrap(readingBackend{stubBackend{noResponse}}, vaultProvider()))
	if !ok {
		t.Fatal("the ability is lost")
	}
	kv := v1alpha1.SecretSource{Vault: &v1alpha1.VaultRequest{Path: "kv/data/a"}}
	if _, err := reader.Read(t.Context(), Identity{}, kv); KindOf(err) != NoResponse {
		t.Errorf("the first read returned %v", err)
	}
	if _, err := reader.Read(t.Context(), Identity{}, kv); KindOf(err) != Unavailable {
		t.Errorf("the read after one without a response returned %v, want Unavailable", err)
	}
	l.refused("read", "kv/data/a", Unavailable)
	l.fill("read", "kv/data/b", 1)
}

func TestALineReopensGradually(t *testing.T) {
	responses := map[string]error{
		"a success": nil, "an error of the backend": Errorf(Failed, "the database is down"),
		"a refusal": Errorf(Denied, "the policy lacks update"),
	}
	for name, response := range responses {
		for _, operation := range []string{opIssue, "renew"} {
			t.Run(operation+", "+name, func(t *testing.T) {
				l := newLineTest(t)
				l.fill(operation, "a", 1)[0](noResponse)
				for limit := 1; limit <= 3; limit++ {
					l.clock.Step(2 * probePause)
					done := l.fill(operation, "a", limit)
					l.refused(operation, "a", map[bool]ErrorKind{true: Unavailable, false: Busy}[limit == 1])
					done[0](response)
					for _, d := range done[1:] {
						d(ErrNotSent)
					}
				}
				done := l.fill(operation, "a", 4) // the usual limit
				done[0](noResponse)
				for _, d := range done[1:] {
					d(ErrNotSent)
				}
				l.clock.Step(2 * probePause)
				l.fill(operation, "a", 1)
				l.refused(operation, "a", Unavailable)
			})
		}
	}
}

func TestALineIsLimitedUntilItResponds(t *testing.T) {
	l := newLineTest(t)
	done := l.fill("renew", "a", 8)
	l.refused("renew", "a", Busy)
	l.fill("renew", "b", 8)
	done[0](nil)
	l.fill("renew", "a", 100)
	l.clock.Step(slow)
	l.fill("renew", "a", 1)
	l.clock.Step(slow / 2)
	l.refused("renew", "a", Busy)
}

// Thousands of objects that try again often would cost more than the requests.
func TestWhenABusyLineIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		fails        bool
		passes, want time.Duration
	}{
		"one that has not responded yet": {want: retrySoon},
		"one with a slow request":        {passes: 2 * slow, want: retryWaiting},
		"one that reopens":               {fails: true, want: retryWaiting},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLineTest(t)
			if c.fails {
				l.fill("renew", "a", 1)[0](noResponse)
				l.clock.Step(2 * probePause)
				l.fill("renew", "a", 1)[0](nil)
				l.fill("renew", "a", 2)
			} else {
				l.fill("renew", "a", 8)
			}
			l.clock.Step(c.passes)
			if _, err := l.admitTo("renew", "a"); KindOf(err) != Busy || BlockFor(err).RetryAfter != c.want {
				t.Errorf("%v is tried again after %s, want %s", err, BlockFor(err).RetryAfter, c.want)
			}
		})
	}
}

// hang makes the last request of each of so many lines one without a response, and lets the pause after it pass. A
// chronic line got none to the probe either.
func (l *lineTest) hang(operation string, n int, chronic bool) {
	l.Helper()
	for i := range n {
		path := fmt.Sprint("hanging/", i)
		l.fill(operation, path, 1)[0](noResponse)
	}
	l.clock.Step(2 * probePause)
	for i := 0; chronic && i < n; i++ {
		l.fill(operation, fmt.Sprint("hanging/", i), 1)[0](noResponse)
	}
	l.clock.Step(2 * probePause)
}

// probe sends probes to so many lines, as far as there are places, and returns those that were sent.
func (l *lineTest) probe(operation string, n int) (done []func(error)) {
	for i := range n {
		if d, err := l.admitTo(operation, fmt.Sprint("hanging/", i)); err == nil {
			done = append(done, d)
		}
	}
	return done
}

func TestHangingLinesUseAQuarterOfTheWorkersTogether(t *testing.T) {
	for _, operation := range []string{"renew", "revoke", "read", "lookup", "extend_session", opIssue} {
		t.Run(operation, func(t *testing.T) {
			l := newLineTest(t)
			l.hang(operation, 100, false)
			probes := l.probe(operation, 100)
			if len(probes) != 4 {
				t.Errorf("%d probes are in flight, want a quarter of 16 workers", len(probes))
			}
			want := Busy
			if operation == opIssue {
				want = Unavailable // the condition says why
			}
			l.refused(operation, "hanging/99", want)
			healthy := l.fill(operation, "healthy", 4)
			healthy[0](nil)
			l.fill(operation, "healthy", 1)
			for _, d := range probes {
				d(noResponse)
			}
			if n := len(l.probe(operation, 100)); n != 4 {
				t.Errorf("%d of the other lines got a probe, want 4", n)
			}
		})
	}
}

// Requests that are slow at first sight count like probes. Their lines were never found hanging.
func TestSlowLinesUseAQuarterOfTheWorkersTogether(t *testing.T) {
	l := newLineTest(t)
	for i := range 4 {
		l.fill("renew", fmt.Sprint("slow/", i), 1)
	}
	l.clock.Step(2 * slow)
	l.refused("renew", "slow/0", Busy)
	l.fill("renew", "healthy", 1)
	l.fill(opIssue, "slow/0", 1)
}

// A hundred lines that hang for long leave a place to one that has just lost a request.
func TestALineThatHasJustFailedIsProbedFirst(t *testing.T) {
	l := newLineTest(t)
	l.hang("renew", 100, true)
	l.fill("renew", "a", 1)[0](noResponse)
	l.clock.Step(2 * probePause)
	if n := len(l.probe("renew", 100)); n != 3 {
		t.Errorf("%d probes are in flight, want 3", n)
	}
	l.fill("renew", "a", 1)[0](nil)
	l.fill("renew", "a", 2)
}

// A line with many slow requests leaves the next place to a line without any.
func TestASlowLineLeavesAPlaceToAProbe(t *testing.T) {
	l := newLineTest(t)
	l.hang("revoke", 1, true)
	done := l.fill("revoke", "a", 4)
	l.clock.Step(2 * slow)
	if len(l.probe("revoke", 1)) != 0 {
		t.Fatal("there was a place although the slow line used all")
	}
	done[0](nil)
	done[1](nil)
	l.refused("revoke", "a", Busy)
	if len(l.probe("revoke", 1)) != 1 {
		t.Error("the probe got no place")
	}
	l.clock.Step(retryCrowded)
	l.fill("revoke", "a", 1)
}

// A server that is unavailable responds for all paths, so its errors do not open one.
func TestAnOutageOfTheServerOpensNoLine(t *testing.T) {
	l := newLineTest(t)
	l.fill("renew", "a", 1)[0](noResponse)
	l.clock.Step(2 * probePause)
	done := l.fill("renew", "a", 1)
	l.noteOutage(keyOf(vaultProvider()), l.clock.Now())
	done[0](Errorf(Unavailable, "the server is sealed"))
	l.fill("renew", "a", 1)
	l.refused("renew", "a", Unavailable)
}

func TestAResponseWakesAsManyAsThereArePlaces(t *testing.T) {
	l := newLineTest(t)
	l.noteOutage(keyOf(vaultProvider()), l.clock.Now())
	woken := map[string]bool{}
	admit := func(key string) (func(error), error) {
		who := Waiter{Key: key, Wake: func() { woken[key] = true }}
		return l.admit(lineKey{keyOf(vaultProvider()), opIssue, "a"}, true, who)
	}
	done, err := admit("first")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"second", "third", "fourth"} {
		if _, err := admit(key); KindOf(err) != Busy {
			t.Errorf("%s: %v, want Busy", key, err)
		}
	}
	if done(nil); len(woken) != 2 || woken["fourth"] {
		t.Errorf("%v were woken for two places", woken)
	}
}

// outageBackend fails every request, and reports an outage of its server since then, if it is one.
type outageBackend struct {
	ableBackend
	clock  *testclock.FakeClock
	outage bool
}

func (o outageBackend) LastOutage() time.Time {
	if o.outage {
		return o.clock.Now()
	}
	return time.Time{}
}

// failing is a backend whose requests fail as if its server, or only something about them, were unavailable.
func (l *lineTest) failing(outage bool) Backend {
	down := ableBackend{readingBackend{stubBackend{Errorf(Unavailable, "it is unavailable")}}}
	return l.Wrap(outageBackend{down, l.clock, outage}, vaultProvider())
}

// requests to a backend, each by an object of its own.
var requests = map[string]func(ctx context.Context, b Backend){
	"a login": func(ctx context.Context, b Backend) {
		done, _ := Admit(b, "hanging", true, Waiter{})
		_, err := b.Login(ctx, Identity{})
		done(err)
	},
	"an issuance": func(ctx context.Context, b Backend) {
		done, _ := Admit(b, "hanging", true, Waiter{})
		_, err := b.Issue(ctx, Session{}, v1alpha1.SecretSource{})
		done(err)
	},
	"a renewal": func(ctx context.Context, b Backend) { _, _ = b.Renew(ctx, v1alpha1.LeaseRecord{}, time.Hour) },
	"a read": func(ctx context.Context, b Backend) {
		reader, _ := As[Reader](b)
		_, _ = reader.Read(ctx, Identity{}, v1alpha1.SecretSource{})
	},
}

// afterEachRequest runs a check a second after each kind of request has failed.
func afterEachRequest(t *testing.T, outage bool, check func(*testing.T, *lineTest)) {
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			l := newLineTest(t)
			request(t.Context(), l.failing(outage))
			l.clock.Step(time.Second)
			check(t, l)
		})
	}
}

func TestIssuancesBeginSlowlyAfterAnOutage(t *testing.T) {
	afterEachRequest(t, true, func(t *testing.T, l *lineTest) {
		done := l.fill(opIssue, "a", 1)
		l.refused(opIssue, "a", Busy)
		l.fill("renew", "a", 4)
		other := lineKey{providerKey{"SecretProvider", "shop/vault"}, opIssue, "a"}
		for range 2 {
			if _, err := l.admit(other, false, Waiter{}); err != nil {
				t.Errorf("another provider: %v", err)
			}
		}
		done[0](nil)
		l.fill(opIssue, "a", 2)
		l.clock.Step(outageMemory)
		l.fill(opIssue, "b", 4)
	})
}

// What one path or role needs may be unavailable: a gateway rejects its logins, or an admission webhook its tokens.
func TestAFailureOfOneRequestIsNoOutage(t *testing.T) {
	afterEachRequest(t, false, func(_ *testing.T, l *lineTest) {
		l.fill(opIssue, "a", 4)
		l.fill(opIssue, "b", 4)
	})
}

// A login that hangs holds a place as long as an issuance does.
func TestAPathWhoseLoginsFailGetsOneProbe(t *testing.T) {
	l := newLineTest(t)
	requests["a login"](t.Context(), l.failing(false))
	l.refused(opIssue, "hanging", Unavailable)
	l.clock.Step(2 * probePause)
	l.fill(opIssue, "hanging", 1)
	l.refused(opIssue, "hanging", Unavailable)
	l.fill(opIssue, "a", 4)
}

// A path whose issuances always take long is not limited for that.
func TestALineWithLongResponsesReopens(t *testing.T) {
	l := newLineTest(t)
	l.fill(opIssue, "a", 1)[0](noResponse)
	l.clock.Step(2 * probePause)
	done := l.fill(opIssue, "a", 1)
	for range 3 {
		l.clock.Step(3 * slow)
		done[0](nil)
		done = append(done[1:], l.fill(opIssue, "a", 2)...)
		l.refused(opIssue, "a", Busy)
	}
	if len(done) != 4 {
		t.Errorf("%d requests are in flight, want the usual four", len(done))
	}
}

// database creates one user at a time.
type database struct {
	*lineTest
	takes, timeout time.Duration
	queue          []*creation
	// requested and lost count requests.
	requested, lost int
}

type creation struct {
	at   time.Time
	left time.Duration
	done func(error)
}

// create lets so many objects issue until each has a credential, and returns how long that took.
func (d *database) create(objects int) time.Duration {
	const tick = 100 * time.Millisecond
	began := d.clock.Now()
	for completed := 0; completed < objects && d.clock.Now().Sub(began) < 10*time.Minute; d.clock.Step(tick) {
		for len(d.queue) < objects-completed {
			done, err := d.admitTo(opIssue, "a")
			if err != nil {
				break
			}
			d.requested++
			d.queue = append(d.queue, &creation{at: d.clock.Now(), left: d.takes, done: done})
		}
		if len(d.queue) > 0 {
			if d.queue[0].left -= tick; d.queue[0].left <= 0 {
				d.queue[0].done(nil)
				d.queue = d.queue[1:]
				completed++
			}
		}
		for len(d.queue) > 0 && d.clock.Now().Sub(d.queue[0].at) >= d.timeout {
			d.queue[0].done(noResponse)
			d.queue = d.queue[1:]
			d.lost++
		}
	}
	return d.clock.Now().Sub(began)
}

// Eight requests at once would all be lost, again and again.
func TestASlowDatabaseIsNotOverrun(t *testing.T) {
	d := &database{lineTest: newLineTest(t), takes: time.Second, timeout: 3 * time.Second}
	d.Limits = NewLimits(d.clock, 32)
	d.fill(opIssue, "a", 1)[0](noResponse)
	if took := d.create(100); took > 2*time.Minute || d.lost > 0 {
		t.Errorf("100 credentials took %s, and %d requests were lost", took, d.lost)
	}
}

func TestNothingIsRequestedTwiceAfterAnOutage(t *testing.T) {
	d := &database{lineTest: newLineTest(t), takes: time.Second, timeout: 4 * time.Second}
	d.Limits = NewLimits(d.clock, 32)
	d.noteOutage(keyOf(vaultProvider()), d.clock.Now())
	d.clock.Step(time.Second)
	if d.create(12); d.requested != 12 {
		t.Errorf("%d credentials were requested for 12 objects", d.requested)
	}
}
