//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// The tokens of these tests live longer than the request limit at first (else the login extends them) and shorter than
// the lease.
const shortToken = requestLimit + 5*time.Second

func TestATokenThatWouldDieBeforeItsLeaseIsExtendedOnceAsFarAsItGoes(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withLogin(testbed.KubernetesRole{TTL: shortToken, MaxTTL: 24 * time.Hour}))
	before := r.ready("orders")
	d := r.until("orders", "extended", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease.TokenExpiresAt.After(before.Status.Lease.TokenExpiresAt.Time)
	})
	if d.Status.Lease.ID != before.Status.Lease.ID {
		t.Error("the lease was replaced")
	}
	if d.Status.Lease.TokenRenewable || d.Status.Lease.TokenDurationSeconds < int64((23*time.Hour)/time.Second) {
		t.Errorf("the token was not extended as far as it goes: %d s, extensible further: %v", d.Status.Lease.TokenDurationSeconds, d.Status.Lease.TokenRenewable)
	}
}

func TestAPeriodicTokenIsExtendedAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withLogin(testbed.KubernetesRole{Period: shortToken}))
	first := r.ready("orders")
	last := first.Status.Lease.TokenExpiresAt
	for range 2 {
		d := r.until("orders", "extended", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease.TokenExpiresAt.After(last.Time) })
		last = d.Status.Lease.TokenExpiresAt
		if d.Status.Lease.ID != first.Status.Lease.ID {
			t.Fatal("the lease was replaced")
		}
	}
}

func TestALeaseWhoseTokenCannotBeExtendedIsReplacedBeforeTheTokenDies(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withLogin(testbed.KubernetesRole{TTL: shortToken, MaxTTL: shortToken}))
	first := r.ready("orders")
	d := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease != nil && d.Status.Lease.ID != first.Status.Lease.ID && atRest(d)
	})
	if !d.Status.Lease.IssuedAt.Before(first.Status.Lease.TokenExpiresAt) {
		t.Error("the successor was issued after the token had died")
	}
	if n := r.countEvents(v1alpha1.ReasonExpired) + r.countEvents(v1alpha1.ReasonLeaseLost); n != 0 {
		t.Errorf("%d events say that a lease expired or was lost", n)
	}
	r.must(r.login(r.target("orders")))
}

func TestALeaseAtItsMaxTTLIsReplacedInPlaceAndTheOldOneRevoked(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withTTL(6*time.Second, 15*time.Second))
	first := r.ready("orders")
	old := r.target("orders")
	capped := r.until("orders", "at its max TTL", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Lease.MaxTTLReached })
	if capped.Status.Lease.ID != first.Status.Lease.ID || capped.Status.Lease.Renewals == 0 {
		t.Error("the lease was replaced before it had been renewed to its end")
	}
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.Lease != nil && d.Status.Lease.ID != first.Status.Lease.ID && atRest(d)
	})
	s := r.target("orders")
	if s.UID != old.UID {
		t.Error("the Secret was made anew instead of updated")
	}
	if err := r.login(old); err == nil {
		t.Error("the old credential still logs in")
	}
	r.must(r.login(s))
	if n := r.countEvents(v1alpha1.ReasonExpired); n != 0 {
		t.Errorf("%d events say that a lease expired", n)
	}
}
