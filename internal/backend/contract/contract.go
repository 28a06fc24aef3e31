// Package contract is what every backend.Backend must do. It runs against the real backends and against the fake, so that
// the fake cannot drift from what it stands for.
package contract

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Shape is what a test wants to lease.
type Shape struct {
	// TTL and MaxTTL of the lease. At least two seconds for a TTL, which real backends count in whole seconds.
	TTL, MaxTTL time.Duration
	// Unleased: an answer without a lease, as of a key-value store.
	Unleased bool
}

// Subject is a backend that leases such a thing. Nothing else uses its path.
type Subject struct {
	Backend backend.Backend
	// Who may issue it, Owner included. Tokens live for an hour or more.
	Who backend.Identity
	// Stranger owns objects in a namespace of its own.
	Stranger backend.Owner
	Request  backend.Request
	// Revoke ends a lease behind the Backend's back.
	Revoke func(t *testing.T, id string)
	// Live counts the leases below the request's path.
	Live func(t *testing.T) int
	// Wait lets time pass for the backend.
	Wait func(t *testing.T, d time.Duration)
}

// Harness makes a subject of the shape, for one test.
type Harness func(t *testing.T, shape Shape) Subject

var usual = Shape{TTL: time.Hour, MaxTTL: 2 * time.Hour}

// slack is what rounding and the way may take off a duration.
const slack = 30 * time.Second

// Run tests the Backend.
func Run(t *testing.T, harness Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"a lease is issued, renewed, looked up and ended":            lifeOfALease,
		"ending twice is no error":                                   endTwice,
		"a lease that was revoked behind our back is gone":           revoked,
		"a lease that ran out is gone":                               expired,
		"a renewal beyond the maximum is capped and says so":         capped,
		"an increment replaces the time that is left":                increment,
		"the token is extended as far as it goes, and then is gone":  extend,
		"a token of another namespace is left alone with its lease":  mismatch,
		"a record without an id ends with its token":                 withoutID,
		"an answer without a lease has no lease id, and its end too": unleased,
		"two issues are two leases, and one end ends one":            twoLeases,
	} {
		t.Run(name, func(t *testing.T) { test(t, harness) })
	}
}

// issue logs in, issues and makes the record of it.
func issue(t *testing.T, s Subject) (v1alpha1.LeaseRecord, backend.Response) {
	t.Helper()
	session, err := s.Backend.Login(t.Context(), s.Who)
	noError(t, "login", err)
	if session.Handle == "" || session.Token == "" {
		t.Fatal("the session has no token or no accessor")
	}
	answer, err := s.Backend.Issue(t.Context(), session, s.Request)
	noError(t, "issue", err)
	if len(answer.Data) == 0 {
		t.Fatal("the answer has no data")
	}
	return v1alpha1.LeaseRecord{
		VaultNamespace: s.Request.Namespace, Path: s.Request.Path, ID: answer.LeaseID, TokenAccessor: session.Handle,
		StartedAt: metav1.NewTime(session.Term.At), Renewable: answer.Term.Renewable,
	}, answer
}

func lifeOfALease(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, answer := issue(t, s)
	if rec.ID == "" || !answer.Term.Renewable || !near(answer.Term.Duration, usual.TTL) {
		t.Fatalf("lease %q, renewable %t, for %s", rec.ID, answer.Term.Renewable, answer.Term.Duration)
	}
	noError(t, "look-up", s.Backend.Lookup(t.Context(), rec))
	term, err := s.Backend.Renew(t.Context(), rec, usual.TTL)
	noError(t, "renewal", err)
	if !term.Renewable || term.Capped || !near(term.Duration, usual.TTL) || term.At.IsZero() {
		t.Errorf("the renewal gave %+v", term)
	}
	live(t, s, 1)
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	live(t, s, 0)
	wantGone(t, s, rec)
}

func endTwice(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	for range 2 {
		noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	}
}

func revoked(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	s.Revoke(t, rec.ID)
	wantGone(t, s, rec)
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func expired(t *testing.T, harness Harness) {
	s := harness(t, Shape{TTL: 2 * time.Second, MaxTTL: time.Minute})
	rec, _ := issue(t, s)
	s.Wait(t, 3*time.Second)
	eventually(t, s, "the lease is gone", func() bool { return isGone(s.Backend.Lookup(t.Context(), rec)) })
	wantGone(t, s, rec)
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func capped(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	term, err := s.Backend.Renew(t.Context(), rec, 2*usual.MaxTTL)
	noError(t, "renewal", err)
	if !term.Capped || term.Duration > usual.MaxTTL || !near(term.Duration, usual.MaxTTL) {
		t.Errorf("the renewal gave %+v, want about %s, capped", term, usual.MaxTTL)
	}
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func increment(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	for _, want := range []time.Duration{time.Minute, 90 * time.Minute} {
		term, err := s.Backend.Renew(t.Context(), rec, want)
		noError(t, "renewal", err)
		if term.Capped || !near(term.Duration, want) {
			t.Errorf("the renewal gave %+v, want about %s, not capped", term, want)
		}
	}
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func extend(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	first, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
	noError(t, "extension", err)
	if first.Duration < time.Hour-slack {
		t.Errorf("the extension gave %+v, want an hour or more", first)
	}
	again, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
	noError(t, "extension", err)
	if again.Duration < first.Duration-slack {
		t.Errorf("the second extension gave %s after %s: it shortened the token", again.Duration, first.Duration)
	}
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	eventually(t, s, "the token is gone", func() bool {
		_, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
		return isGone(err)
	})
}

func mismatch(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	if _, err := s.Backend.ExtendSession(t.Context(), rec, s.Stranger); err == nil || backend.KindOf(err) != backend.Mismatch {
		t.Errorf("a stranger's extension gave %v, want Mismatch", err)
	}
	err := s.Backend.Revoke(t.Context(), rec, s.Stranger)
	if err == nil || backend.KindOf(err) != backend.Mismatch {
		t.Errorf("a stranger's end gave %v, want Mismatch", err)
	}
	noError(t, "look-up", s.Backend.Lookup(t.Context(), rec))
	live(t, s, 1)
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func withoutID(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s)
	attempt := rec
	attempt.ID = ""
	noError(t, "end", s.Backend.Revoke(t.Context(), attempt, s.Who.Owner))
	eventually(t, s, "the lease is gone", func() bool { return s.Live(t) == 0 })
	noError(t, "end", s.Backend.Revoke(t.Context(), attempt, s.Who.Owner))
}

func unleased(t *testing.T, harness Harness) {
	s := harness(t, Shape{Unleased: true})
	rec, answer := issue(t, s)
	if answer.LeaseID != "" {
		t.Errorf("it has the lease %q", answer.LeaseID)
	}
	noError(t, "end", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func twoLeases(t *testing.T, harness Harness) {
	s := harness(t, usual)
	one, _ := issue(t, s)
	two, _ := issue(t, s)
	if one.ID == two.ID || one.TokenAccessor == two.TokenAccessor {
		t.Fatal("two issues share a lease or a token")
	}
	live(t, s, 2)
	noError(t, "end", s.Backend.Revoke(t.Context(), one, s.Who.Owner))
	wantGone(t, s, one)
	noError(t, "look-up", s.Backend.Lookup(t.Context(), two))
	noError(t, "end", s.Backend.Revoke(t.Context(), two, s.Who.Owner))
	live(t, s, 0)
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v (%s)", what, err, backend.KindOf(err))
	}
}

func isGone(err error) bool { return err != nil && backend.KindOf(err) == backend.Gone }

// wantGone fails unless both ways of asking say that the lease is gone.
func wantGone(t *testing.T, s Subject, rec v1alpha1.LeaseRecord) {
	t.Helper()
	if err := s.Backend.Lookup(t.Context(), rec); !isGone(err) {
		t.Errorf("a look-up gave %v, want Gone", err)
	}
	if _, err := s.Backend.Renew(t.Context(), rec, time.Minute); !isGone(err) {
		t.Errorf("a renewal gave %v, want Gone", err)
	}
}

func live(t *testing.T, s Subject, want int) {
	t.Helper()
	if got := s.Live(t); got != want {
		t.Errorf("%d leases are alive, want %d", got, want)
	}
}

// eventually waits for what a backend does in the background.
func eventually(t *testing.T, s Subject, what string, holds func() bool) {
	t.Helper()
	for range 120 {
		if holds() {
			return
		}
		s.Wait(t, 250*time.Millisecond)
	}
	t.Fatalf("it never came true that %s", what)
}

func near(got, want time.Duration) bool { return got <= want+time.Second && got >= want-slack }
