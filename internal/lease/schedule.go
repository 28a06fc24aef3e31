package lease

import (
	"hash/fnv"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	defaultRenewAtPercent     = 67
	defaultRefreshInterval    = time.Hour
	defaultRevocationDeadline = time.Hour

	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// maxPublishTries is how often a publication may fail before the expired credential in the Secret is deleted.
	maxPublishTries = 3
	// blockedRecheck is the pause between checks of what blocks an issuance and is not watched.
	blockedRecheck = 15 * time.Second
	// lostGrace delays the revocation of a lease that the backend reported as gone. Only its session is left, and its
	// replacement is more urgent, above all if many leases were lost at once.
	lostGrace = 5 * time.Second
	// expiryEpsilon is how far an expiry must move for a renewal to count. Recorded times are whole seconds.
	expiryEpsilon = 2 * time.Second
	// abandonGrace is how long a record is still tried after its own expiry: a backend that is available confirms it.
	abandonGrace = time.Minute
	// scheduledDelay is the pause between a scheduled change in the backend and the read of the new value.
	scheduledDelay = time.Second
	// lateReads is how many reads of a late change follow each other after scheduledDelay; then the pause grows up to
	// maxLatePause.
	lateReads    = 10
	maxLatePause = 30 * time.Second
)

// Expired says whether a response without a lease has expired, so that there is nothing left to revoke. It may live a
// little longer than its record: the process that recorded it may have had another clock.
func Expired(rec *v1alpha1.LeaseRecord, now time.Time) bool {
	end, dies := LifeEnd(rec)
	return !Leased(rec) && dies && !now.Before(end.Add(abandonGrace))
}

// Leased says whether the record has a lease.
func Leased(rec *v1alpha1.LeaseRecord) bool { return rec != nil && rec.ID != "" }

// expires says whether the credential of the record has an expiry that leasekeeper must respect.
func expires(rec *v1alpha1.LeaseRecord) bool {
	return rec.ExpiresAt != nil && (Leased(rec) || rec.Kind == v1alpha1.ResponseExpiring)
}

// ReadAgain says whether the record is kept current by reading its source again.
func ReadAgain(rec *v1alpha1.LeaseRecord) bool {
	return rec.Kind == v1alpha1.ResponseStatic && !rec.Once || rec.Kind == v1alpha1.ResponseScheduled
}

// Revocable says whether the record names something that can be revoked: a lease, or a credential without one such as a
// certificate.
func Revocable(rec *v1alpha1.LeaseRecord) bool { return Leased(rec) || rec.Revocable }

// Irrevocable says whether the record names a response that cannot be revoked. Without a response it is unknown.
func Irrevocable(rec *v1alpha1.LeaseRecord) bool { return rec.Kind != "" && !Revocable(rec) }

// LifeEnd is when the credential of the record expires unless something is extended: the earlier of its own expiry and
// that of its session. False: it does not expire.
func LifeEnd(rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	if rec == nil || !expires(rec) {
		return time.Time{}, false
	}
	end := rec.ExpiresAt.Time
	if Leased(rec) && rec.Session != nil && rec.Session.ExpiresAt.Time.Before(end) {
		end = rec.Session.ExpiresAt.Time
	}
	return end, true
}

// SetEnd is when the first of the records expires. False: none does.
func SetEnd(records []v1alpha1.LeaseRecord) (first time.Time, ok bool) {
	for i := range records {
		if end, expires := LifeEnd(&records[i]); expires && (!ok || end.Before(first)) {
			first, ok = end, true
		}
	}
	return first, ok
}

// exhausted says that nothing can extend the life of the record any further.
func exhausted(rec *v1alpha1.LeaseRecord) bool {
	if !rec.Renewable || rec.MaxTTLReached {
		return true
	}
	return sessionExpiresFirst(rec) && !rec.Session.Renewable
}

func sessionExpiresFirst(rec *v1alpha1.LeaseRecord) bool {
	return rec.Session != nil && rec.ExpiresAt != nil && !rec.Session.ExpiresAt.After(rec.ExpiresAt.Time)
}

// duration of a record. A status can contain any number; as a duration it could overflow.
func duration(seconds int64) time.Duration {
	const most = 100 * 365 * 24 * 3600
	return time.Duration(max(0, min(seconds, most))) * time.Second
}

// lastGrant is when the current term of the lease began.
func lastGrant(rec *v1alpha1.LeaseRecord) time.Time {
	if rec.RenewedAt != nil {
		return rec.RenewedAt.Time
	}
	return issuedAt(rec)
}

func issuedAt(rec *v1alpha1.LeaseRecord) time.Time {
	if rec.IssuedAt != nil {
		return rec.IssuedAt.Time
	}
	return rec.StartedAt.Time
}

// renewAt is when the lease is due for renewal.
func renewAt(rec *v1alpha1.LeaseRecord, percent int32, uid types.UID) time.Time {
	return lastGrant(rec).Add(share(duration(rec.DurationSeconds), percent, uid))
}

// replaceAt is when to replace a credential that cannot be extended beyond the end: after percent of what is left.
func replaceAt(rec *v1alpha1.LeaseRecord, end time.Time, percent int32, uid types.UID) time.Time {
	from := lastGrant(rec)
	if !end.After(from) {
		return from
	}
	return from.Add(share(end.Sub(from), percent, uid))
}

// maxAgeAt is when the credential reaches its maximum age, or up to a tenth earlier.
func maxAgeAt(rec *v1alpha1.LeaseRecord, age time.Duration, uid types.UID) time.Time {
	return issuedAt(rec).Add(age - jitter(age, uid))
}

// extendSessionAt is when the session is due for extension.
func extendSessionAt(rec *v1alpha1.LeaseRecord, percent int32, uid types.UID) time.Time {
	granted := duration(rec.Session.DurationSeconds)
	return rec.Session.ExpiresAt.Add(share(granted, percent, uid) - granted)
}

// refreshAt is when a static or scheduled source is read again.
func refreshAt(rec *v1alpha1.LeaseRecord, read Read, interval time.Duration, uid types.UID) time.Time {
	from, next := lastGrant(rec), time.Time{}
	if rec.ExpiresAt != nil {
		next = rec.ExpiresAt.Time
	}
	if read.At.After(from) {
		from, next = read.At, read.Next
	}
	if rec.Kind == v1alpha1.ResponseScheduled {
		if next.IsZero() {
			// The change is late: Vault checks its schedule every 5 s and reports no remaining time until then. A
			// database that is down delays it for longer, so the pause grows.
			return from.Add(min(max(scheduledDelay, time.Duration(read.Late-lateReads)*time.Second), maxLatePause))
		}
		return next.Add(scheduledDelay)
	}
	at := from.Add(interval - jitter(interval, uid))
	if !next.IsZero() && next.Before(at) {
		at = next
	}
	return at
}

// share is percent of d, less a jitter.
func share(d time.Duration, percent int32, uid types.UID) time.Duration {
	if percent == 0 {
		percent = defaultRenewAtPercent
	}
	part := d / 100 * time.Duration(percent)
	return part - jitter(part, uid)
}

// jitter spreads objects that were created together over a tenth of d. It is derived from the UID, so that it is the
// same each time, and is subtracted, so that it never delays anything.
func jitter(d time.Duration, uid types.UID) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return d / 10_000 * time.Duration(h.Sum32()%1000) // in this order, or three years overflow
}

// Backoff is the pause after the count-th consecutive failure: 1 s, doubling, a minute at most, less a jitter.
func Backoff(count int, uid types.UID) time.Duration { return doubling(count, maxBackoff, uid) }

func doubling(count int, most time.Duration, uid types.UID) time.Duration {
	d := firstBackoff
	for i := 1; i < count && d < most; i++ {
		d *= 2
	}
	d = min(d, most)
	return d - jitter(d, uid)
}

// RenewBackoff is Backoff, but at most a quarter of the remaining time: a lease is tried until it expires.
func RenewBackoff(count int, uid types.UID, left time.Duration) time.Duration {
	return max(min(Backoff(count, uid), left/4), 250*time.Millisecond)
}

// finalEnd is when the record is certainly dead. False: never. A renewal that succeeded but was not recorded makes the
// recorded expiry too early by the time that it granted, so that time is added.
func finalEnd(rec *v1alpha1.LeaseRecord, increment time.Duration) (time.Time, bool) {
	if expires(rec) {
		unrecorded := time.Duration(0)
		if rec.Renewable && !rec.MaxTTLReached {
			unrecorded = max(duration(rec.DurationSeconds), increment)
		}
		return rec.ExpiresAt.Add(unrecorded), true
	}
	if rec.Session == nil {
		return time.Time{}, false
	}
	return rec.Session.ExpiresAt.Time, true
}

// Increment is the duration to request at a renewal: the configured increment, or else the last granted duration. It is
// never less than the remaining time, because the increment replaces that, nor less than what shows the maximum TTL
// while a handover still fits. Once the known maximum is so near that the handover must start, it is more than the
// maximum permits: the response shows whether that still applies.
func Increment(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, now time.Time) time.Duration {
	want := max(duration(rec.DurationSeconds), probeTime(d))
	if d.Spec.Lease.Increment != nil {
		want = max(d.Spec.Lease.Increment.Duration, probeTime(d))
	}
	if at, known := probeAt(d, rec); known && !now.Before(at) {
		want += max(0, maximumEnd(rec).Sub(now))
	}
	if rec.ExpiresAt != nil {
		left := rec.ExpiresAt.Sub(now).Truncate(time.Second) + 2*time.Second
		want = max(want, left)
	}
	return want
}

// longestRequest is the longest duration that Increment may have requested besides the last granted one.
func longestRequest(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) time.Duration {
	longest := probeTime(d)
	if d.Spec.Lease.Increment != nil {
		longest = max(longest, d.Spec.Lease.Increment.Duration)
	}
	if rec.MaxTTLSeconds > 0 {
		longest = max(longest, duration(rec.DurationSeconds)) + handoverTime(d)
	}
	return longest
}

// RefreshInterval of the object.
func RefreshInterval(d *v1alpha1.DynamicSecret) time.Duration {
	if d.Spec.RefreshInterval == nil {
		return defaultRefreshInterval
	}
	return max(d.Spec.RefreshInterval.Duration, time.Second)
}

func revocationDeadline(spec *v1alpha1.LeaseSpec) time.Duration {
	if spec.RevocationDeadline == nil {
		return defaultRevocationDeadline
	}
	return max(0, spec.RevocationDeadline.Duration)
}
