package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A credential that expires without a lease is replaced in time; nothing renews it.
func TestPlanExpiringResponses(t *testing.T) {
	percent := leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RenewAtPercent = 50 })
	replacing := retired(0, v1alpha1.ReasonReplacing)
	checkPlan(t, []planCase{
		{
			it: "replaces a certificate after 67 percent of its life", because: "renewAtPercent applies",
			given: []given{kept(expiring), after(renewDue)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "leaves it alone before", because: "a live credential is left alone",
			given: []given{kept(expiring), after(renewDue - time.Second)},
			want:  waitFor(v1alpha1.NextReplace, renewDue),
		}, {
			it: "replaces it after renewAtPercent", because: "the spec sets it",
			given: []given{kept(expiring), percent, after(30 * time.Minute)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "replaces it earlier for a longer overlap", because: "consumers need that time",
			given: []given{kept(expiring), overlapping(40 * time.Minute), after(20 * time.Minute)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "drops it when it expires", because: "the Secret must not outlive it",
			given: []given{kept(expiring), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "ignores the session of a certificate", because: "it does not depend on it",
			given: []given{kept(expiring, session(time.Minute, true)), after(30 * time.Minute)},
			want:  waitFor(v1alpha1.NextReplace, renewDue),
		}, {
			it: "does not read it at refreshInterval", because: "a read would mint another",
			given: []given{kept(expiring, granted(100*time.Hour)), after(2 * time.Hour)},
			want:  waitFor(v1alpha1.NextReplace, 67*time.Hour),
		}, {
			it: "revokes a certificate that was replaced", because: "the backend supports it",
			given: []given{kept(numbered(2)), retiring(record(revocable, replacing))},
			want:  step(RevokeRecord, v1alpha1.ReasonReplacing).ofRetiring(0),
		}, {
			it: "holds the old certificate for the overlap", because: "consumers may still use it",
			given: []given{kept(numbered(2)), handover(), overlapping(5 * time.Minute),
				retiring(record(revocable, retired(0, reasonReplaced)))},
			want: waitFor(v1alpha1.NextRevoke, 5*time.Minute),
		}, {
			it: "does not try to renew a held certificate", because: "nothing can extend it",
			given: []given{kept(numbered(2), granted(10*time.Hour)), handover(),
				overlapping(50 * time.Minute), after(49 * time.Minute),
				retiring(record(revocable, retired(0, reasonReplaced)))},
			want: waitFor(v1alpha1.NextRevoke, 50*time.Minute),
		}, {
			it: "keeps the Secret of a valid certificate", because: "its successor is not published",
			given: []given{succeeded(revocable), blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock).withNext(v1alpha1.NextRenew, renewDue),
		},
	})
}

// The backend changes a scheduled response by itself. It is read again after each change.
func TestPlanScheduledResponses(t *testing.T) {
	day := kept(scheduled(24 * time.Hour))
	next := func(at, next time.Duration) given {
		return func(in *Input) { in.Reads = map[string]Read{"": {At: t0.Add(at), Next: t0.Add(next)}} }
	}
	read := step(RefreshSource, v1alpha1.ReasonSynced)
	checkPlan(t, []planCase{
		{
			it: "reads it a second after the scheduled change", because: "the new value is there then",
			given: []given{day, after(24*time.Hour + time.Second)},
			want:  read,
		}, {
			it: "does not read it earlier", because: "the value is the old one",
			given: []given{day, after(24 * time.Hour)},
			want:  waitFor(v1alpha1.NextRefresh, 24*time.Hour+time.Second),
		}, {
			it: "does not read it at refreshInterval", because: "the schedule is known",
			given: []given{day, after(time.Hour)},
			want:  waitFor(v1alpha1.NextRefresh, 24*time.Hour+time.Second),
		}, {
			it: "follows the schedule of the last read", because: "that is newer than the record",
			given: []given{day, next(24*time.Hour+time.Second, 48*time.Hour), after(25 * time.Hour)},
			want:  waitFor(v1alpha1.NextRefresh, 48*time.Hour+time.Second),
		}, {
			it: "reads it again in a second if the change is late", because: "Vault rotates up to 5 s late",
			given: []given{day, readAt("", 24*time.Hour+time.Second), after(24*time.Hour + 2*time.Second)},
			want:  read,
		}, {
			it: "reads it in a second if it came with a late change", because: "its time to live was zero",
			given: []given{kept(scheduled(0), endless), after(time.Second)},
			want:  read,
		}, {
			it: "does not end when the backend changes the value", because: "that is no expiry",
			given: []given{day, after(24*time.Hour + time.Second), refreshFailed(failed(25*time.Hour), "")},
			want:  waitFor(v1alpha1.NextRefresh, 25*time.Hour),
		}, {
			it: "does not replace it at maxAge", because: "the backend rotates it",
			given: []given{day, maxAge(time.Hour), after(2 * time.Hour)},
			want:  waitFor(v1alpha1.NextRefresh, 24*time.Hour+time.Second),
		},
	})
}

// A static response has no expiry. It is read again every refreshInterval, or sooner if the backend says so.
func TestPlanStaticResponses(t *testing.T) {
	read := step(RefreshSource, v1alpha1.ReasonSynced)
	waits := waitFor(v1alpha1.NextRefresh, time.Hour)
	removed := status(func(st *v1alpha1.DynamicSecretStatus) { st.LastHandledRenewAt = "now" })
	checkPlan(t, []planCase{
		{
			it: "reads it after refreshInterval", because: "nothing reports a change",
			given: []given{kept(static), after(time.Hour)},
			want:  read,
		}, {
			it: "does not read it earlier", because: "the user chose the interval",
			given: []given{kept(static), after(time.Hour - time.Second)},
			want:  waits,
		}, {
			it: "reads it sooner if the backend says so", because: "KV v1 has a ttl",
			given: []given{kept(static, granted(30*time.Second)), after(30 * time.Second)},
			want:  read,
		}, {
			it: "does not read it later than refreshInterval", because: "the backend's duration is longer",
			given: []given{kept(static, granted(768*time.Hour)), after(time.Hour)},
			want:  read,
		}, {
			it: "counts from the last read", because: "it found nothing new",
			given: []given{kept(static), readAt("", 50*time.Minute), after(time.Hour)},
			want:  waitFor(v1alpha1.NextRefresh, 110*time.Minute),
		}, {
			it: "ignores a read before the last change", because: "the change is newer",
			given: []given{kept(static), readAt("", -time.Minute), after(time.Hour)},
			want:  read,
		}, {
			it: "does not end when its duration is over", because: "that is no expiry",
			given: []given{kept(static, granted(30*time.Second), session(time.Minute, false)), readAt("", time.Hour),
				after(90 * time.Minute)},
			want: waitFor(v1alpha1.NextRefresh, 2*time.Hour),
		}, {
			it: "waits after a failed read", because: "retries must not overload a backend",
			given: []given{kept(static), after(time.Hour), refreshFailed(failed(61*time.Minute), "")},
			want:  waitFor(v1alpha1.NextRefresh, 61*time.Minute),
		}, {
			it: "does not read while suspended", because: "spec.suspend stops changes of the Secret",
			given: []given{kept(static), spec(suspended), after(time.Hour)},
			want:  waitBlocked(time.Hour, suspendedBlock),
		}, {
			it: "does not read while the provider is not ready", because: "the read would fail",
			given: []given{kept(static), blocked(notReadyBlock), after(time.Hour)},
			want:  waitBlocked(time.Hour, notReadyBlock),
		}, {
			it: "does not read for a removed annotation", because: "nothing is requested",
			given: []given{kept(static), removed},
			want:  waits,
		}, {
			it: "reads it although reissue is Never", because: "static data have no life to end",
			given: []given{kept(static), leaseSpec(never), after(time.Hour)},
			want:  read,
		}, {
			it: "does not read into a Secret that is not current", because: "the Secret is replaced first",
			given: []given{kept(static), target(TargetChanged), after(time.Hour)},
			want:  step(Issue, CauseSecretChanged),
		}, {
			it: "does not replace it at maxAge", because: "a new read would return the same",
			given: []given{kept(static), maxAge(time.Minute), after(2 * time.Minute)},
			want:  waits,
		}, {
			it: "reads the due source of a set", because: "each source has its own interval",
			given: []given{keptSet(db(granted(10*time.Hour)), settings()), after(time.Hour)},
			want:  read.of(1),
		}, {
			it: "reads a source while another fails", because: "no source waits for another",
			given: []given{keptSet(settings(), settings(source("flags"))), after(time.Hour),
				refreshFailed(failed(2*time.Hour), "settings")},
			want: read.of(1),
		},
	})
}
