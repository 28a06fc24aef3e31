package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A credential whose lease or session is not extended any more is replaced while it is alive, but no sooner than
// necessary: the person who can end the refusals has time until then.
func TestPlanReplacesWhatIsRefused(t *testing.T) {
	const (
		minute = time.Minute
		half   = renewDue + (time.Hour-renewDue)/2
		// Of a session of 30 minutes that is due after 67 percent.
		sessionHalf = 20*minute + 6*time.Second + (9*minute+54*time.Second)/2
	)
	short := session(30*minute, true)
	renewal := func(at time.Duration, n int) given { return renewFailed(refusedAt(at, n), record()) }
	extension := func(at time.Duration, n int) given { return extendFailed(refusedAt(at, n), record()) }
	replace, extend := step(Issue, CauseRenewalRefused), step(ExtendSession, v1alpha1.ReasonRenewing)
	retry := func(at time.Duration) Step { return waitFor(v1alpha1.NextRenew, at+time.Second) }
	issuePause := tries(func(t *Tries) { t.Issue = failed(half + 9*time.Second) })
	checkPlan(t, []planCase{
		{
			it: "replaces after half of the time that is left", because: "the renewal was refused a moment ago",
			given: []given{kept(), renewal(half, 9), after(half)},
			want:  replace,
		}, {
			it: "retries until then", because: "the refusals may end",
			given: []given{kept(), renewal(half-2*time.Second, 9), after(half - 2*time.Second)},
			want:  retry(half - 2*time.Second),
		}, {
			it: "tries again before it replaces", because: "the last refusal may be obsolete",
			given: []given{kept(), renewal(half-2*time.Second, 9), after(half)},
			want:  renewLease,
		}, {
			it: "does not hurry that try while issuances pause", because: "nothing would follow from it",
			given: []given{kept(), renewFailed(Failure{Count: 9, Refusals: 9, At: t0.Add(half - time.Minute),
				NotBefore: t0.Add(half + 5*time.Second)}, record()), issuePause, after(half)},
			want: Step{Action: Wait, At: t0.Add(half + 5*time.Second), Next: v1alpha1.NextRenew,
				NextAt: t0.Add(half + 5*time.Second), Blocked: &Block{Reason: v1alpha1.ReasonBackendUnavailable,
					Message: "Vault is unavailable"}},
		}, {
			it: "believes no single refusal", because: "the next try may succeed",
			given: []given{kept(), renewal(half, refusalsBelieved-1), after(half)},
			want:  retry(half),
		}, {
			it: "does not replace because of an outage", because: "it may end in time",
			given: []given{kept(), renewFailed(failedAt(half), record()), after(half)},
			want:  retry(half),
		}, {
			it: "replaces earlier for a long overlap", because: "the old credential must live for it",
			given: []given{kept(), renewal(renewDue, 9), overlapping(18 * minute), after(renewDue + 2*minute)},
			want:  renewLease,
		}, {
			it: "does not replace a grant", because: "it lasts as long as its lease",
			given: []given{kept(), renewal(half, 9), leaseSpec(never), after(half)},
			want:  retry(half),
		}, {
			it: "does not replace while suspended", because: "spec.suspend is true",
			given: []given{kept(), renewal(half, 9), spec(suspended), after(half)},
			want: Step{Action: Wait, At: t0.Add(half + time.Second), Blocked: &suspendedBlock}.
				withNext(v1alpha1.NextRenew, half+time.Second),
		}, {
			it: "replaces before a session ends that is not extended", because: "the lease ends with it",
			given: []given{kept(short), extension(sessionHalf, 3), after(sessionHalf)},
			want:  replace,
		}, {
			it: "extends a session after one refusal", because: "a refusal is not final",
			given: []given{kept(short), extension(sessionHalf-2*time.Second, 1), after(sessionHalf)},
			want:  extend,
		}, {
			it: "replaces although the lease is at its maximum", because: "its session ends first",
			given: []given{kept(short, maxTTL), extension(sessionHalf, 3), after(sessionHalf)},
			want:  replace,
		}, {
			it: "tries the session again before it replaces", because: "the last refusal may be obsolete",
			given: []given{kept(short), extension(sessionHalf-2*time.Second, 3), after(sessionHalf)},
			want:  extend,
		}, {
			it: "replaces the set for one refused lease", because: "a set is replaced together",
			given: []given{keptSet(db(granted(9*time.Hour)), broker()),
				renewFailed(refusedAt(half, 3), broker()), after(half)},
			want: replace,
		},
	})
}
