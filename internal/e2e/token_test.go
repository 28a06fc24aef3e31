//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// shortToken is longer than the request limit (otherwise the login extends the token) and shorter than the lease.
const shortToken = requestLimit + 5*time.Second

func TestTokenIsExtendedOnceToItsMaximum(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withLogin(testbed.KubernetesRole{TTL: shortToken, MaxTTL: 24 * time.Hour}))
	before := r.ready("orders")
	d := r.until("orders", "extended", func(d *v1alpha1.DynamicSecret) bool {
		return session(d).ExpiresAt.After(session(before).ExpiresAt.Time)
	})
	if leaseID(d) != leaseID(before) {
		t.Error("the lease was replaced")
	}
	if session(d).Renewable || session(d).DurationSeconds < int64((23*time.Hour)/time.Second) {
		t.Errorf("the token was not extended to its maximum: %d s, renewable: %v",
			session(d).DurationSeconds, session(d).Renewable)
	}
}

func TestPeriodicTokenIsExtendedRepeatedly(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withLogin(testbed.KubernetesRole{Period: shortToken}))
	first := r.ready("orders")
	last := session(first).ExpiresAt
	for range 2 {
		d := r.until("orders", "extended", func(d *v1alpha1.DynamicSecret) bool {
			return session(d).ExpiresAt.After(last.Time)
		})
		last = session(d).ExpiresAt
		if leaseID(d) != leaseID(first) {
			t.Fatal("the lease was replaced")
		}
	}
}

func TestLeaseIsReplacedBeforeItsTokenExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withLogin(testbed.KubernetesRole{TTL: shortToken, MaxTTL: shortToken}))
	first := r.ready("orders")
	d := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(first, d) && atRest(d)
	})
	if !record(d).IssuedAt.Time.Before(session(first).ExpiresAt.Time) {
		t.Error("the successor was issued after the token had expired")
	}
	if n := r.countEvents(v1alpha1.ReasonExpired) + r.countEvents(v1alpha1.ReasonLeaseLost); n != 0 {
		t.Errorf("%d events report that a lease expired or was lost", n)
	}
	r.must(r.login(r.target("orders")))
}

func TestLeaseIsReplacedAtMaxTTL(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withTTL(20*time.Second, 45*time.Second))
	first := r.ready("orders")
	old := r.target("orders")
	capped := r.until("orders", "at its max TTL", func(d *v1alpha1.DynamicSecret) bool {
		return record(d).MaxTTLReached
	})
	if leaseID(capped) != leaseID(first) || record(capped).Renewals == 0 {
		t.Error("the lease was replaced before it was renewed to its maximum")
	}
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return hasNewLease(first, d) && atRest(d)
	})
	s := r.target("orders")
	if s.UID != old.UID {
		t.Error("the Secret was created again instead of updated")
	}
	if err := r.login(old); err == nil {
		t.Error("the old credential is still valid")
	}
	r.must(r.login(s))
	if n := r.countEvents(v1alpha1.ReasonExpired); n != 0 {
		t.Errorf("%d events report that a lease expired", n)
	}
}
