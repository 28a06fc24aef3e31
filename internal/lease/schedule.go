package lease

import (
	"hash/fnv"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	defaultRenewAtPercent = 67
	firstBackoff          = time.Second
	// patientTries is how often a publication may fail before the dead credential that it would replace is deleted.
	patientTries = 3
	// lookAgain is the pause between looks at what keeps an issue from being made.
	lookAgain  = 15 * time.Second
	maxBackoff = time.Minute
	// lostGrace is how long the end of a lease waits that the backend says is gone: of it only the token is left to be ended,
	// and its successor is wanted more, above all where many leases went at once.
	lostGrace = 5 * time.Second
	// expiryEpsilon is how far an expiry must move for a renewal to count as one. Recorded times have a resolution
	// of a second.
	expiryEpsilon = 2 * time.Second
	// abandonGrace is how long after its own end a record is still tried: a backend that is up then says so itself.
	abandonGrace = time.Minute
)

// Leased says whether the record has a lease. An answer without one has an empty id, whatever its duration says.
func Leased(rec *v1alpha1.LeaseRecord) bool { return rec != nil && rec.ID != "" }

// LifeEnd is when the credential of the record dies unless something is extended: the earlier of the lease's and the
// issuing token's end. False: it does not.
func LifeEnd(rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	if !Leased(rec) || rec.ExpiresAt == nil {
		return time.Time{}, false
	}
	end := rec.ExpiresAt.Time
	if rec.TokenExpiresAt != nil && rec.TokenExpiresAt.Time.Before(end) {
		end = rec.TokenExpiresAt.Time
	}
	return end, true
}

// exhausted says that nothing can move the end of the record any further.
func exhausted(rec *v1alpha1.LeaseRecord) bool {
	if !rec.Renewable || rec.MaxTTLReached {
		return true
	}
	return tokenDiesFirst(rec) && !rec.TokenRenewable
}

func tokenDiesFirst(rec *v1alpha1.LeaseRecord) bool {
	return rec.TokenExpiresAt != nil && rec.ExpiresAt != nil && !rec.TokenExpiresAt.Time.After(rec.ExpiresAt.Time)
}

// duration of a record. A status can hold any number, which as a duration could turn round into another.
func duration(seconds int64) time.Duration {
	const most = 100 * 365 * 24 * 3600
	return time.Duration(max(0, min(seconds, most))) * time.Second
}

// lastGrant is when the present term of the lease began.
func lastGrant(rec *v1alpha1.LeaseRecord) time.Time {
	if rec.RenewedAt != nil {
		return rec.RenewedAt.Time
	}
	if rec.IssuedAt != nil {
		return rec.IssuedAt.Time
	}
	return rec.StartedAt.Time
}

// renewAt is when the lease is due for renewal.
func renewAt(rec *v1alpha1.LeaseRecord, percent int32, uid types.UID) time.Time {
	granted := duration(rec.DurationSeconds)
	return lastGrant(rec).Add(share(granted, percent, uid))
}

// replaceAt is when a lease that nothing can extend beyond that end is due for its successor: the same share of what is
// left.
func replaceAt(rec *v1alpha1.LeaseRecord, end time.Time, percent int32, uid types.UID) time.Time {
	from := lastGrant(rec)
	if !end.After(from) {
		return from
	}
	return from.Add(share(end.Sub(from), percent, uid))
}

// maxAgeAt is when the credential is as old as it may become, or up to a tenth younger.
func maxAgeAt(rec *v1alpha1.LeaseRecord, age time.Duration, uid types.UID) time.Time {
	return issuedAt(rec).Add(age - jitter(age, uid))
}

// extendTokenAt is when the issuing token is due for extension, where it would die before its lease.
func extendTokenAt(rec *v1alpha1.LeaseRecord, percent int32, uid types.UID) time.Time {
	granted := duration(rec.TokenDurationSeconds)
	return rec.TokenExpiresAt.Time.Add(share(granted, percent, uid) - granted)
}

// refreshAt is when an answer without a lease is read again.
func refreshAt(rec *v1alpha1.LeaseRecord, every time.Duration, uid types.UID) time.Time {
	return lastGrant(rec).Add(every - jitter(every, uid))
}

// share is percent of d, jittered.
func share(d time.Duration, percent int32, uid types.UID) time.Duration {
	if percent == 0 {
		percent = defaultRenewAtPercent
	}
	part := d / 100 * time.Duration(percent)
	return part - jitter(part, uid)
}

// jitter spreads objects that were made together over a tenth of d. It is a hash of the UID, so that it is the same at
// every look, and is subtracted, so that it never makes anything late.
func jitter(d time.Duration, uid types.UID) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return d / 10_000 * time.Duration(h.Sum32()%1000) // in this order, or three years overflow
}

// Backoff is the pause after the count-th failure in a row: 1 s, doubling, a minute at most, jittered.
func Backoff(count int, uid types.UID) time.Duration {
	d := firstBackoff
	for i := 1; i < count && d < maxBackoff; i++ {
		d *= 2
	}
	d = min(d, maxBackoff)
	return d - jitter(d, uid)
}

// RenewBackoff is Backoff, but never more than a quarter of the time that is left: a lease that can be saved is tried
// to its end.
func RenewBackoff(count int, uid types.UID, left time.Duration) time.Duration {
	return max(min(Backoff(count, uid), left/4), 250*time.Millisecond)
}

// ownEnd is when the record is dead whatever happens. False: never. A renewal that succeeded and was not recorded makes
// the recorded end too early by what it granted, so that is added.
func ownEnd(rec *v1alpha1.LeaseRecord, increment time.Duration) (time.Time, bool) {
	if Leased(rec) && rec.ExpiresAt != nil {
		unrecorded := time.Duration(0)
		if rec.Renewable && !rec.MaxTTLReached {
			unrecorded = max(duration(rec.DurationSeconds), increment)
		}
		return rec.ExpiresAt.Add(unrecorded), true
	}
	if rec.TokenExpiresAt == nil {
		return time.Time{}, false
	}
	return rec.TokenExpiresAt.Time, true
}

// Increment is what to ask for at a renewal: the wish, or else what was granted last, but never less than what is
// left, because the increment replaces it.
func Increment(rec *v1alpha1.LeaseRecord, spec *v1alpha1.LeaseSpec, now time.Time) time.Duration {
	want := duration(rec.DurationSeconds)
	if spec.Increment != nil {
		want = spec.Increment.Duration
	}
	if rec.ExpiresAt != nil {
		left := rec.ExpiresAt.Sub(now).Truncate(time.Second) + 2*time.Second
		want = max(want, left)
	}
	return want
}
