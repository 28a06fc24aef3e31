package revocation

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// given modifies an input.
type given func(*Input)

func counted(age time.Duration) given {
	return func(in *Input) {
		in.Object.Status.StartedAt = &metav1.Time{Time: t0}
		in.Object.ResourceVersion = "7"
		in.Facts.Counted = Counted{At: in.Now.Add(-age), Version: "7"}
	}
}

func acceptedFor(age time.Duration) given {
	return func(in *Input) {
		counted(age)(in)
		in.Object.Status.AcceptedAt = &metav1.Time{Time: in.Now.Add(-age)}
		in.Facts.Notified = true
	}
}

func checkedBefore(age time.Duration, idle int, remaining ...string) given {
	return func(in *Input) {
		in.Facts.Check = Checked{At: in.Now.Add(-age), Remaining: remaining, Found: len(remaining), Idle: idle}
	}
}

func helped(in *Input) { in.Facts.Check.Helped = true }

func holders(n int) given { return func(in *Input) { in.Holders = n } }

func forced(in *Input) { byForce(in.Object) }

func failed(until time.Duration) given {
	return func(in *Input) {
		in.Facts.Failure = Failure{Count: 1, NotBefore: in.Now.Add(until), Provider: in.Provider}
	}
}

func finishedFor(age time.Duration, ttl *int32) given {
	return func(in *Input) {
		in.Object.Status.CompletedAt = &metav1.Time{Time: in.Now.Add(-age)}
		in.Object.Spec.TTLSecondsAfterFinished = ttl
	}
}

func planInput(givens ...given) Input {
	in := Input{Now: t0.Add(time.Hour), Object: revocation(), Facts: &Facts{}}
	in.Provider = "p/1"
	for _, g := range givens {
		g(&in)
	}
	return in
}

func TestPlan(t *testing.T) {
	obstacle := func(stalled bool) given {
		return func(in *Input) { in.Obstacle = &lease.Block{Reason: "X", Stalled: stalled} }
	}
	deleted := func(in *Input) { in.Object.DeletionTimestamp = &metav1.Time{Time: t0} }
	forgotten := func(in *Input) { in.Facts = nil }
	written := func(in *Input) { in.Object.ResourceVersion = "8" }
	unstored := func(in *Input) { in.Facts.AcceptedAt = in.Now }
	unnotified := func(in *Input) { in.Facts.Notified = false }
	unconfirmed := func(in *Input) { in.Object.Spec.Vault.Force = true }
	newProvider := func(in *Input) { in.Provider = "p/2" }

	for _, c := range []struct {
		it, because string
		given       []given
		want        Action
		after       time.Duration
	}{
		{"counts first", "nothing is revoked before the count is stored", nil, CountLeases, 0},
		{"revokes what it has counted", "the count is stored", []given{counted(0)}, RevokeLeases, 0},
		{"counts again when the count is old", "another process may have continued",
			[]given{counted(countLife)}, CountLeases, 0},
		{"counts again after another write", "another process may have continued",
			[]given{counted(0), written}, CountLeases, 0},
		{"counts again after a restart", "the ids are not known", []given{counted(0), forgotten}, CountLeases, 0},
		{"stores an acceptance", "the write failed", []given{counted(0), unstored}, RecordAcceptance, 0},
		{"notifies after the acceptance", "the leases have expired",
			[]given{acceptedFor(0), unnotified}, NotifyHolders, 0},
		{"notifies again after a restart", "it may not have happened",
			[]given{acceptedFor(time.Hour), forgotten}, NotifyHolders, 0},
		{"then checks", "the backend may be done", []given{acceptedFor(0)}, CheckLeases, 0},
		{"completes when nothing remains", "the backend is done",
			[]given{acceptedFor(0), checkedBefore(0, 0)}, Complete, 0},
		{"waits for holders", "they still have a dead lease",
			[]given{acceptedFor(0), checkedBefore(0, 0), holders(1)}, WaitUntil, firstPause},
		{"but not forever", "a status can contain any id",
			[]given{acceptedFor(holdersPatience + 1), checkedBefore(0, 0), holders(1)}, Complete, 0},
		{"waits for leases however long", "they are not revoked",
			[]given{acceptedFor(100 * time.Hour), checkedBefore(0, 0, "a")}, WaitUntil,
			firstPause + 10*time.Millisecond},
		{"checks again after the pause", "it may have changed",
			[]given{acceptedFor(0), checkedBefore(time.Second, 0, "a")}, CheckLeases, 0},
		{"retries after checks without progress", "the error is worth reporting",
			[]given{acceptedFor(0), checkedBefore(0, idleChecks, "a")}, RetryLeases, 0},
		{"retries once a check", "the backend must not be flooded",
			[]given{acceptedFor(0), checkedBefore(0, idleChecks, "a"), helped}, WaitUntil,
			8*firstPause + 10*time.Millisecond},
		{"forces after the grace period", "the user confirmed it",
			[]given{acceptedFor(gracePeriod + 1), checkedBefore(0, idleChecks, "a"), forced}, ForceLeases, 0},
		{"retries within the grace period", "the backend may succeed",
			[]given{acceptedFor(gracePeriod), checkedBefore(0, idleChecks, "a"), forced}, RetryLeases, 0},
		{"never forces without confirmation", "accounts would be forgotten",
			[]given{acceptedFor(time.Hour), checkedBefore(0, idleChecks, "a"), unconfirmed}, RetryLeases, 0},
		{"waits after a failure", "it would only fail again",
			[]given{counted(0), failed(time.Second)}, WaitUntil, time.Second},
		{"tries again after that", "it may succeed", []given{counted(0), failed(0)}, RevokeLeases, 0},
		{"tries again with another provider", "somebody changed it",
			[]given{counted(0), failed(time.Hour), newProvider}, RevokeLeases, 0},
		{"waits for a person", "only a person can help", []given{counted(0), obstacle(true)}, WaitUntil, stalledPause},
		{"waits for the backend", "it may come back", []given{counted(0), obstacle(false)}, WaitUntil, obstaclePause},
		{"stays finished", "it runs once", []given{finishedFor(time.Hour, nil)}, WaitUntil, 0},
		{"stays for its TTL", "somebody may read it",
			[]given{finishedFor(time.Second, new(int32(3)))}, WaitUntil, 2 * time.Second},
		{"is deleted after that", "its TTL is over",
			[]given{finishedFor(3*time.Second, new(int32(3)))}, DeleteObject, 0},
		{"does nothing once deleted", "the user no longer wants it", []given{counted(0), deleted}, WaitUntil, 0},
	} {
		t.Run(c.it, func(t *testing.T) {
			in := planInput(c.given...)
			want := time.Time{}
			if c.after > 0 {
				want = in.Now.Add(c.after)
			}
			if got := Plan(in); got.Action != c.want || !got.At.Equal(want) {
				t.Errorf("because %s: got %s at %s, want %s at %s", c.because, got.Action, got.At, c.want, want)
			}
		})
	}
}

func TestForced(t *testing.T) {
	for _, c := range []struct {
		spec v1alpha1.LeaseRevocationSpec
		want bool
	}{
		{v1alpha1.LeaseRevocationSpec{}, false},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Force: true}}, false},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Force: true, Prefix: "a/b"}}, false},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Force: true, Prefix: "a/b"}, Confirm: "a/b/"},
			false},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Prefix: "a/b"}, Confirm: "a/b"}, false},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Force: true, Prefix: "a/b"}, Confirm: "a/b"},
			true},
		{v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Force: true, LeaseID: "a/b"}, Confirm: "a/b"},
			true},
	} {
		if got := c.spec.Forced(); got != c.want {
			t.Errorf("%+v: %t", c.spec, got)
		}
	}
}
