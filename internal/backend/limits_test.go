package backend

import (
	"errors"
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
	return l.admit(lineKey{"ClusterSecretProvider", "vault", operation, path}, operation == opIssue, who)
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
	l.fill("renew", "a", 10)
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
	l.fill(opIssue, "a", 4)
}

func TestRefusedByAQuotaIsFollowedByOneProbe(t *testing.T) {
	l := newLineTest(t)
	l.fill(opIssue, "a", 1)[0](Errorf(QuotaExceeded, "no more leases"))
	_, err := l.admitTo(opIssue, "a")
	if KindOf(err) != QuotaExceeded || err.Error() != "no more leases" || BlockFor(err).RetryAfter != quotaPause {
		t.Errorf("the next issuance gets %v", err)
	}
	l.fill(opIssue, "b", 4)
	l.fill("renew", "a", 10)
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
	l.fill(opIssue, "a", 4)
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
