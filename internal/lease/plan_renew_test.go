package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

var renewLease = step(RenewLease, v1alpha1.ReasonRenewing)

// lapsing: the namespace may not use the provider any more.
var lapsing = blocked(Block{Reason: v1alpha1.ReasonNamespaceNotAllowed, Message: "Not allowed.", Stalled: true,
	Lapses: true})

func TestPlanRenewals(t *testing.T) {
	waitToRenew := waitFor(v1alpha1.NextRenew, renewDue)
	early := leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RenewAtPercent = 10 })
	checkPlan(t, []planCase{
		{
			it: "waits until a renewal is due", because: "a live credential is left alone",
			given: []given{kept(), after(renewDue - time.Second)},
			want:  waitToRenew,
		}, {
			it: "renews after 67 percent of the granted time", because: "that is the default",
			given: []given{kept(), after(renewDue)},
			want:  renewLease,
		}, {
			it: "counts from the last renewal", because: "the term began then",
			given: []given{kept(renewedAt(30 * time.Minute)), after(renewDue)},
			want:  waitFor(v1alpha1.NextRenew, 30*time.Minute+renewDue),
		}, {
			it: "renews after renewAtPercent", because: "the spec sets it",
			given: []given{kept(), early, after(6 * time.Minute)},
			want:  renewLease,
		}, {
			it: "renews while suspended", because: "suspending must not let the credential expire",
			given: []given{kept(), spec(suspended), after(renewDue)},
			want:  renewLease,
		}, {
			it: "renews while issuance is blocked", because: "the lease can still be saved",
			given: []given{kept(), blocked(notReadyBlock), after(renewDue)},
			want:  renewLease,
		}, {
			it: "does not renew while the leases lapse", because: "the namespace may not use the provider any more",
			given: []given{kept(), lapsing, after(renewDue)},
			want:  waitFor(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "extends no session while the leases lapse", because: "the lease would live longer with it",
			given: []given{kept(session(30*time.Minute, true)), lapsing, after(29 * time.Minute)},
			want:  waitFor(v1alpha1.NextExpire, 30*time.Minute),
		}, {
			it: "drops a lapsed lease at its end", because: "nobody renews it",
			given: []given{kept(), lapsing, after(time.Hour)},
			want:  step(DropLeases, v1alpha1.ReasonExpired),
		}, {
			it: "ignores a requested renewal while the leases lapse", because: "the owner of the provider decides",
			given: []given{kept(), lapsing, annotated(v1alpha1.RenewRequestedAtAnnotation, "now")},
			want:  waitFor(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "renews a grant", because: "its lease lives as long as possible",
			given: []given{kept(), leaseSpec(never), after(renewDue)},
			want:  renewLease,
		}, {
			it: "waits after a failed renewal", because: "retries must not overload a backend",
			given: []given{kept(), after(renewDue), renewFailed(failed(renewDue+4*time.Second), record())},
			want:  waitFor(v1alpha1.NextRenew, renewDue+4*time.Second),
		}, {
			it: "does not renew early after an old failure", because: "a pause can only delay",
			given: []given{kept(), renewFailed(failed(-time.Second), record())},
			want:  waitToRenew,
		}, {
			it: "checks at the expiry even during a longer pause", because: "the Secret must not outlive the lease",
			given: []given{kept(), after(59 * time.Minute), renewFailed(failed(61*time.Minute), record())},
			want:  waitFor(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "does not renew a lease that is not renewable", because: "the backend said so",
			given: []given{kept(notRenewable), after(renewDue - time.Second)},
			want:  waitFor(v1alpha1.NextReplace, renewDue),
		}, {
			it: "does not renew a lease whose session ends first", because: "the lease would end with it anyway",
			given: []given{kept(session(time.Hour, false)), after(renewDue - time.Second)},
			want:  waitFor(v1alpha1.NextReplace, renewDue),
		}, {
			it: "renews each lease of a set when it is due", because: "the leases are independent",
			given: []given{keptSet(db(granted(2*time.Hour)), broker()), after(renewDue)},
			want:  renewLease.of(1),
		}, {
			it: "renews a lease while another fails to renew", because: "no lease waits for another",
			given: []given{keptSet(db(), broker()), after(renewDue), renewFailed(failed(renewDue+time.Minute), db())},
			want:  renewLease.of(1),
		},
	})
}

func TestPlanRequestedRenewals(t *testing.T) {
	requested := annotated(v1alpha1.RenewRequestedAtAnnotation, "now")
	forced := annotated(v1alpha1.ForceSyncAnnotation, "now")
	handled := status(func(st *v1alpha1.DynamicSecretStatus) {
		st.LastHandledRenewAt, st.LastHandledForceSync = "now", "now"
	})
	renewed := func(sources ...string) given {
		return func(in *Input) {
			in.Handled = map[string]string{}
			for _, s := range sources {
				in.Handled[s] = RequestedRenewal(in.Object)
			}
		}
	}
	set := keptSet(db(), broker(), settings())
	acknowledge := step(AcknowledgeRenew, v1alpha1.ReasonRenewing)
	read := step(RefreshSource, v1alpha1.ReasonRenewing)
	checkPlan(t, []planCase{
		{
			it: "renews at once if requested", because: "the annotation has a new value",
			given: []given{kept(), requested},
			want:  renewLease,
		}, {
			it: "renews for force-sync", because: "it means the same",
			given: []given{kept(), forced},
			want:  renewLease,
		}, {
			it: "waits after a failure even if requested", because: "a request does not repair the backend",
			given: []given{kept(), requested, renewFailed(failed(4*time.Second), record())},
			want:  waitFor(v1alpha1.NextRenew, 4*time.Second),
		}, {
			it: "renews once per request", because: "the value was handled",
			given: []given{kept(), requested, forced, handled},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "ignores the removal of a request", because: "nothing is requested",
			given: []given{kept(), handled},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "renews the first lease of a set first", because: "each is renewed once",
			given: []given{set, requested},
			want:  renewLease.of(0),
		}, {
			it: "renews the second lease after the first", because: "each is renewed once",
			given: []given{set, requested, renewed("db")},
			want:  renewLease.of(1),
		}, {
			it: "renews a lease while another waits after a failure", because: "no lease waits for another",
			given: []given{set, requested, renewFailed(failed(time.Minute), db())},
			want:  renewLease.of(1),
		}, {
			it: "reads a source while a lease waits after a failure", because: "no source waits for another",
			given: []given{set, requested, renewed("broker"), renewFailed(failed(time.Minute), db())},
			want:  read.of(2),
		}, {
			it: "does not acknowledge while a lease waits", because: "that lease was not renewed",
			given: []given{set, requested, renewed("broker", "settings"), renewFailed(failed(time.Minute), db())},
			want:  waitFor(v1alpha1.NextRenew, time.Minute),
		}, {
			it: "reads static sources after it renewed the leases", because: "that is their renewal",
			given: []given{set, requested, renewed("db", "broker")},
			want:  read.of(2),
		}, {
			it: "acknowledges when every source was renewed", because: "the user who requested it waits for that",
			given: []given{set, requested, renewed("db", "broker", "settings")},
			want:  acknowledge,
		}, {
			it: "renews again for another request", because: "the one before was another",
			given: []given{set, requested, renewed("db", "broker", "settings"), forced},
			want:  renewLease.of(0),
		}, {
			it: "acknowledges if nothing can be renewed", because: "the lease is at its maximum",
			given: []given{kept(maxTTL), requested},
			want:  acknowledge,
		}, {
			it: "does not replace a certificate for force-sync", because: "a requested renewal never mints",
			given: []given{kept(revocable), forced},
			want:  acknowledge,
		}, {
			it: "does not request a response of unknown expiry", because: "the request may mint another credential",
			given: []given{kept(static, unknownExpiry), requested, forced},
			want:  acknowledge,
		}, {
			it: "reads the others of a set", because: "reading them mints nothing",
			given: []given{keptSet(db(static, unknownExpiry), broker(static)), requested},
			want:  read.of(1),
		}, {
			it: "acknowledges when the others of a set were read", because: "the rest is left alone",
			given: []given{keptSet(db(static, unknownExpiry), broker(static)), requested, renewed("broker")},
			want:  acknowledge,
		}, {
			it: "still polls a response of unknown expiry", because: "its Secret would contain an expired credential",
			given: []given{kept(static, unknownExpiry), after(time.Hour)},
			want:  step(RefreshSource, v1alpha1.ReasonSynced),
		}, {
			it: "reads a scheduled source if requested", because: "reading mints nothing",
			given: []given{kept(scheduled(time.Hour)), forced},
			want:  read,
		}, {
			it: "waits after a failed read even if requested", because: "a request does not repair the backend",
			given: []given{kept(static), forced, refreshFailed(failed(4*time.Second), "")},
			want:  waitFor(v1alpha1.NextRefresh, 4*time.Second),
		}, {
			it: "keeps a requested read while suspended", because: "an acknowledgement would say that it was read",
			given: []given{kept(static), forced, spec(suspended)},
			want:  waitBlocked(0, suspendedBlock).withNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "keeps a requested read while blocked", because: "an acknowledgement would say that it was read",
			given: []given{kept(static), forced, blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock).withNext(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "keeps the request while there is no lease", because: "the new lease is handled first",
			given: []given{requested},
			want:  step(Issue, CauseFirst),
		},
	})
}

func TestPlanVerification(t *testing.T) {
	verify := step(VerifyLease, v1alpha1.ReasonLeaseLost)
	checkPlan(t, []planCase{
		{
			it: "asks about a lease that a list lacked", because: "a list is a hint",
			given: []given{kept(), suspect("lease-1")},
			want:  verify,
		}, {
			it: "asks about the suspect lease of a set", because: "the others were listed",
			given: []given{keptSet(db(), broker()), suspect("lease-2")},
			want:  verify.of(1),
		}, {
			it: "ignores a suspect lease of others", because: "the list is older than the lease",
			given: []given{kept(), suspect("lease-0")},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "does not ask about a response without a lease", because: "an empty id is no suspicion",
			given: []given{kept(static), suspect("")},
			want:  waitFor(v1alpha1.NextRefresh, time.Hour),
		},
	})
}

func TestPlanSessions(t *testing.T) {
	extend := step(ExtendSession, v1alpha1.ReasonRenewing)
	short := session(30*time.Minute, true)
	// 67 percent of 30 minutes.
	const due = 20*time.Minute + 6*time.Second
	periodic := func(rec *v1alpha1.LeaseRecord) {
		renewedAt(20 * time.Hour)(rec)
		session(20*time.Hour+30*time.Minute, true)(rec)
		rec.Session.DurationSeconds = 1800
	}
	requested := annotated(v1alpha1.RenewRequestedAtAnnotation, "now")
	checkPlan(t, []planCase{
		{
			it: "extends a session that ends before its lease", because: "the lease would end with it",
			given: []given{kept(short), after(due)},
			want:  extend,
		}, {
			it: "does not extend it earlier", because: "that would be a wasted request",
			given: []given{kept(short), after(due - time.Second)},
			want:  waitFor(v1alpha1.NextRenew, due),
		}, {
			it: "leaves a session alone that outlives the lease", because: "some can be extended only once",
			given: []given{kept(session(61*time.Minute, true)), after(renewDue - time.Second)},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "extends a session that ends with its lease", because: "a renewal would not outlive it",
			given: []given{kept(session(time.Hour, true), maxTTL), after(renewDue)},
			want:  extend,
		}, {
			it: "does not extend a session that cannot be extended", because: "it is at its maximum",
			given: []given{kept(session(30*time.Minute, false)), after(due - time.Second)},
			want:  waitFor(v1alpha1.NextReplace, due),
		}, {
			it: "extends a periodic session repeatedly", because: "each extension grants the period again",
			given: []given{kept(periodic), after(20*time.Hour + due)},
			want:  extend,
		}, {
			it: "waits after a failed extension", because: "retries must not overload a backend",
			given: []given{kept(short), after(due), extendFailed(failed(due+4*time.Second), record())},
			want:  waitFor(v1alpha1.NextRenew, due+4*time.Second),
		}, {
			it: "extends one session while another fails", because: "no lease waits for another",
			given: []given{keptSet(db(short), broker(short)), after(due), extendFailed(failed(due+time.Minute), db())},
			want:  extend.of(1),
		}, {
			it: "extends no session of a response without a lease", because: "nothing depends on it",
			given: []given{kept(static, short), after(due)},
			want:  waitFor(v1alpha1.NextRefresh, time.Hour),
		}, {
			it: "renews a lease before it extends the session", because: "one thing is done at a time",
			given: []given{kept(short), after(due), requested},
			want:  renewLease,
		},
	})
}
