package contract

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

var usual = Shape{TTL: time.Hour, MaxTTL: 2 * time.Hour}

func lifeOfALease(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, response := issue(t, s, v1alpha1.ResponseLeased)
	if !response.Term.Renewable || !near(response.Term.Duration, usual.TTL) {
		t.Fatalf("lease %q, renewable %t, for %s", rec.ID, response.Term.Renewable, response.Term.Duration)
	}
	noError(t, "lookup", s.Backend.Lookup(t.Context(), rec))
	term, err := s.Backend.Renew(t.Context(), rec, usual.TTL)
	noError(t, "renewal", err)
	if !term.Renewable || term.Capped || !near(term.Duration, usual.TTL) || term.At.IsZero() {
		t.Errorf("the renewal returned %+v", term)
	}
	live(t, s, 1)
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	live(t, s, 0)
	wantGone(t, s, rec)
}

func revokeTwice(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	for range 2 {
		noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	}
}

func revokedElsewhere(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	s.Revoke(t, rec.ID)
	wantGone(t, s, rec)
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func expired(t *testing.T, harness Harness) {
	s := harness(t, Shape{TTL: 2 * time.Second, MaxTTL: time.Minute})
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	s.Wait(t, 3*time.Second)
	eventually(t, s, "the lease is gone", func() bool { return isGone(s.Backend.Lookup(t.Context(), rec)) })
	wantGone(t, s, rec)
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func capped(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	term, err := s.Backend.Renew(t.Context(), rec, 2*usual.MaxTTL)
	noError(t, "renewal", err)
	if !term.Capped || term.Duration > usual.MaxTTL || !near(term.Duration, usual.MaxTTL) {
		t.Errorf("the renewal returned %+v, want about %s, capped", term, usual.MaxTTL)
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func increment(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	for _, want := range []time.Duration{time.Minute, 90 * time.Minute} {
		term, err := s.Backend.Renew(t.Context(), rec, want)
		noError(t, "renewal", err)
		if term.Capped || !near(term.Duration, want) {
			t.Errorf("the renewal returned %+v, want about %s, not capped", term, want)
		}
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func extend(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	first, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
	noError(t, "extension", err)
	if first.Duration < time.Hour-slack {
		t.Errorf("the extension returned %+v, want an hour or more", first)
	}
	again, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
	noError(t, "extension", err)
	if again.Duration < first.Duration-slack {
		t.Errorf("the second extension returned %s after %s: it shortened the session", again.Duration, first.Duration)
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	sessionGone(t, s, rec)
}

// sessionGone waits until the session of the record no longer exists.
func sessionGone(t *testing.T, s Subject, rec v1alpha1.LeaseRecord) {
	t.Helper()
	eventually(t, s, "the session is gone", func() bool {
		_, err := s.Backend.ExtendSession(t.Context(), rec, s.Who.Owner)
		return isGone(err)
	})
}

func mismatch(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	_, err := s.Backend.ExtendSession(t.Context(), rec, s.Stranger)
	if err == nil || backend.KindOf(err) != backend.Mismatch {
		t.Errorf("a stranger's extension returned %v, want Mismatch", err)
	}
	err = s.Backend.Revoke(t.Context(), rec, s.Stranger)
	if err == nil || backend.KindOf(err) != backend.Mismatch {
		t.Errorf("a stranger's revocation returned %v, want Mismatch", err)
	}
	noError(t, "lookup", s.Backend.Lookup(t.Context(), rec))
	live(t, s, 1)
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func withoutID(t *testing.T, harness Harness) {
	s := harness(t, usual)
	rec, _ := issue(t, s, v1alpha1.ResponseLeased)
	attempt := rec
	attempt.ID = ""
	noError(t, "revocation", s.Backend.Revoke(t.Context(), attempt, s.Who.Owner))
	eventually(t, s, "the lease is gone", func() bool { return s.Live(t) == 0 })
	noError(t, "revocation", s.Backend.Revoke(t.Context(), attempt, s.Who.Owner))
}

func twoLeases(t *testing.T, harness Harness) {
	s := harness(t, usual)
	one, _ := issue(t, s, v1alpha1.ResponseLeased)
	two, _ := issue(t, s, v1alpha1.ResponseLeased)
	if one.ID == two.ID || one.Handle() == two.Handle() {
		t.Fatal("two issuances share a lease or a session")
	}
	live(t, s, 2)
	noError(t, "revocation", s.Backend.Revoke(t.Context(), one, s.Who.Owner))
	wantGone(t, s, one)
	noError(t, "lookup", s.Backend.Lookup(t.Context(), two))
	noError(t, "revocation", s.Backend.Revoke(t.Context(), two, s.Who.Owner))
	live(t, s, 0)
}

func notRenewable(t *testing.T, harness Harness) {
	s := harness(t, Shape{TTL: time.Hour, MaxTTL: time.Hour, NotRenewable: true})
	rec, response := issue(t, s, v1alpha1.ResponseLeased)
	if response.Term.Renewable || !near(response.Term.Duration, time.Hour) {
		t.Errorf("renewable %t, for %s", response.Term.Renewable, response.Term.Duration)
	}
	if _, err := s.Backend.Renew(t.Context(), rec, time.Minute); err == nil || isGone(err) {
		t.Errorf("the renewal returned %v, want an error other than Gone", err)
	}
	noError(t, "lookup", s.Backend.Lookup(t.Context(), rec))
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
	eventually(t, s, "the lease is gone", func() bool { return isGone(s.Backend.Lookup(t.Context(), rec)) })
}
