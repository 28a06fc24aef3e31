package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func dropLeases(reason string) Step { return step(DropLeases, reason) }

func TestPlanTheEndOfALease(t *testing.T) {
	over := all(published, after(time.Hour))
	deleteSecret := step(DeleteSecret, v1alpha1.ReasonExpired)
	intended := all(recorded(), status(noLeases))
	issueFailed := tries(func(t *Tries) { t.Issue = failed(0) })
	checkPlan(t, []planCase{
		{
			it: "renews a lease again when it expires", because: "the backend's clock may be behind",
			given: []given{kept(), after(time.Hour), renewFailed(failedAt(59*time.Minute), record())},
			want:  renewLease,
		}, {
			it: "drops the lease if that fails", because: "the Secret must not outlive it",
			given: []given{kept(), after(time.Hour), renewFailed(failedAt(time.Hour), record())},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "drops the lease if the backend confirms it", because: "that is no loss",
			given: []given{kept(), after(time.Hour), lost("lease-1")},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "drops a lease at its maximum when it expires", because: "nothing can extend it",
			given: []given{kept(maxTTL), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "drops a certificate when it expires", because: "nothing can extend it",
			given: []given{kept(revocable), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "keeps it until then", because: "it can still be renewed",
			given: []given{kept(), after(time.Hour - time.Second)},
			want:  renewLease,
		}, {
			it: "drops it when its session ends", because: "the lease ends with its session",
			given: []given{kept(session(30*time.Minute, false)), after(30 * time.Minute)},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "extends a session again when it ends", because: "the backend's clock may be behind",
			given: []given{kept(session(30*time.Minute, true), maxTTL), after(30 * time.Minute)},
			want:  step(ExtendSession, v1alpha1.ReasonRenewing),
		}, {
			it: "drops the lease if that fails", because: "the lease ends with its session",
			given: []given{kept(session(30*time.Minute, true)), after(31 * time.Minute),
				extendFailed(failedAt(30*time.Minute), record())},
			want: dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "drops it while suspended", because: "the credential is dead",
			given: []given{kept(), spec(suspended), after(time.Hour), renewFailed(failedAt(time.Hour), record())},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "drops a lease that the backend lost", because: "somebody revoked it there",
			given: []given{kept(), lost("lease-1")},
			want:  dropLeases(v1alpha1.ReasonLeaseLost),
		}, {
			it: "drops a lease that a LeaseRevocation revoked", because: "the backend reported it",
			given: []given{kept(), lost("lease-1"), func(in *Input) { in.Revoked = in.Lost }},
			want:  dropLeases(v1alpha1.ReasonLeaseRevoked),
		}, {
			it: "keeps a lease when another was lost", because: "the report is about an earlier lease",
			given: []given{kept(), lost("lease-0", "")},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "issues after the lease has ended", because: "nothing blocks it",
			given: []given{over},
			want:  step(Issue, CauseFirst),
		}, {
			it: "issues although onExpiry is Retain", because: "Retain applies if nothing can be issued",
			given: []given{over, leaseSpec(retain)},
			want:  step(Issue, CauseFirst),
		}, {
			it: "deletes the Secret if nothing can be issued", because: "nothing should use a dead credential",
			given: []given{over, blocked(notReadyBlock)},
			want:  deleteSecret,
		}, {
			it: "deletes the Secret of a suspended object", because: "nothing will replace it",
			given: []given{over, spec(suspended)},
			want:  deleteSecret,
		}, {
			it: "deletes the Secret after a failed issuance", because: "a retry may fail as well",
			given: []given{over, issueFailed},
			want:  deleteSecret,
		}, {
			it: "deletes the Secret after a failed renewal", because: "the same backend would have to issue",
			given: []given{over, renewFailed(failed(0), record())},
			want:  deleteSecret,
		}, {
			it: "retains the dead credential if onExpiry is Retain", because: "the user chose that",
			given: []given{over, leaseSpec(retain), blocked(notReadyBlock)},
			want:  waitBlocked(time.Hour, notReadyBlock),
		}, {
			it: "deletes a changed Secret too", because: "it may contain a part of the dead credential",
			given: []given{published, target(TargetChanged), blocked(notReadyBlock)},
			want:  deleteSecret,
		}, {
			it: "deletes nothing that was never written", because: "status.secret without a UID is an intent",
			given: []given{intended, blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock),
		}, {
			it: "deletes a Secret whose write was not recorded", because: "it is ours and its lease has ended",
			given: []given{intended, target(TargetChanged), blocked(notReadyBlock)},
			want:  deleteSecret,
		}, {
			it: "waits after the Secret could not be deleted", because: "retries must not overload the API server",
			given: []given{
				over, blocked(notReadyBlock), tries(func(t *Tries) { t.DeleteSecret = failed(61 * time.Minute) }),
			},
			want: waitBlocked(time.Hour, notReadyBlock).withNext(v1alpha1.NextRevoke, 61*time.Minute),
		},
	})
}

func TestPlanReplacements(t *testing.T) {
	requested := annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	handled := status(func(st *v1alpha1.DynamicSecretStatus) { st.LastHandledRotateAt = "now" })
	changed := requesting(Request{Digest: "request-2"})
	retiringLost := retiring(record(retired(0, v1alpha1.ReasonLeaseLost)))
	publishFailed := func(count int) given {
		return tries(func(t *Tries) { t.Publish = failed(time.Second); t.Publish.Count = count })
	}
	const sessionDue = 20*time.Minute + 6*time.Second
	renewedLate := func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt = stampPtr(50 * time.Minute) }
	checkPlan(t, []planCase{
		{
			it: "replaces a lease at its maximum in time", because: "the successor must be there before it ends",
			given: []given{kept(maxTTL), after(renewDue)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "does not replace it earlier", because: "a live credential is left alone",
			given: []given{kept(maxTTL), after(renewDue - time.Second)},
			want:  waitFor(v1alpha1.NextReplace, renewDue),
		}, {
			it: "replaces a lease that was never renewable", because: "its end is known from the start",
			given: []given{kept(notRenewable), after(renewDue)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "replaces a lease before its session ends", because: "the session decides",
			given: []given{kept(session(30*time.Minute, false)), after(sessionDue)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "counts the share of the last term", because: "the last renewal started it",
			given: []given{kept(maxTTL, renewedLate), after(56*time.Minute + 41*time.Second)},
			want:  waitFor(v1alpha1.NextReplace, 56*time.Minute+42*time.Second),
		}, {
			it: "replaces a lease whose request changed", because: "the spec requests another credential",
			given: []given{kept(), changed},
			want:  step(Issue, CauseRequestChanged),
		}, {
			it: "keeps the lease if the request is unknown", because: "a missing provider changes no request",
			given: []given{kept(), requesting(Request{})},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "keeps the lease if no requests are known", because: "nothing shows a change",
			given: []given{kept(), requesting()},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "replaces if requested", because: "the annotation has a new value",
			given: []given{kept(), requested},
			want:  step(Issue, CauseRequested),
		}, {
			it: "replaces once per request", because: "the value was handled",
			given: []given{kept(), requested, handled},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "publishes what it holds before it replaces", because: "the request may be older than the credential",
			given: []given{recorded(), target(TargetAbsent), issued(record()), requested, publishFailed(1)},
			want:  waitFor(v1alpha1.NextPublish, time.Second),
		}, {
			it: "replaces what cannot be published", because: "another credential may be accepted",
			given: []given{recorded(), target(TargetAbsent), issued(record()), requested,
				publishFailed(maxPublishTries)},
			want: step(Issue, CauseRequested),
		}, {
			it: "ignores the removal of a request to replace", because: "nothing is requested",
			given: []given{kept(), handled},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		}, {
			it: "replaces nothing while suspended", because: "spec.suspend is true",
			given: []given{kept(), requested, changed, spec(suspended)},
			want:  waitBlocked(0, suspendedBlock).withNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "replaces although the spec has an error", because: "only the first issuance waits for its correction",
			given: []given{kept(), changed, func(in *Input) { in.Invalid = &windowBlock }},
			want:  step(Issue, CauseRequestChanged),
		}, {
			it: "renews before it replaces", because: "the replacement may fail",
			given: []given{kept(), changed, after(renewDue)},
			want:  renewLease,
		}, {
			it: "extends the session before it replaces", because: "the replacement may fail",
			given: []given{kept(session(30*time.Minute, true)), changed, after(29 * time.Minute)},
			want:  step(ExtendSession, v1alpha1.ReasonRenewing),
		}, {
			it: "revokes before it replaces", because: "the number of retiring records is limited",
			given: []given{kept(numbered(2)), changed, retiringLost},
			want:  step(RevokeRecord, v1alpha1.ReasonLeaseLost).ofRetiring(0),
		}, {
			it: "replaces while a revocation fails", because: "users do not wait for a clean-up",
			given: []given{kept(numbered(2)), changed, retiringLost, revokeFailed(failed(time.Second), record())},
			want:  step(Issue, CauseRequestChanged),
		}, {
			it: "checks a block again without a status write", because: "each check would cause one",
			given: []given{kept(), changed, blocked(notReadyBlock), after(time.Minute)},
			want:  waitBlocked(time.Minute, notReadyBlock).withNext(v1alpha1.NextRenew, renewDue),
		},
	})
}

// A grant is issued once, unless a person requests another, or nobody ever received it.
func TestPlanAGrant(t *testing.T) {
	ended := all(leaseSpec(never), status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) }))
	grant := func(changes ...change) given { return all(kept(changes...), leaseSpec(never)) }
	requested := annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	always := leaseSpec(func(s *v1alpha1.LeaseSpec) { s.Reissue = v1alpha1.ReissueAlways })
	checkPlan(t, []planCase{
		{
			it: "does not replace a grant at its maximum", because: "it lasts as long as its lease",
			given: []given{grant(maxTTL), after(59 * time.Minute)},
			want:  waitFor(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "does not replace a certificate of a grant", because: "it lasts as long as the certificate",
			given: []given{grant(revocable), after(59 * time.Minute)},
			want:  waitFor(v1alpha1.NextExpire, time.Hour),
		}, {
			it: "ends a grant with its lease", because: "that is its life",
			given: []given{grant(maxTTL), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired),
		}, {
			it: "ends a grant whose lease is lost", because: "somebody revoked it",
			given: []given{grant(), lost("lease-1")},
			want:  dropLeases(v1alpha1.ReasonLeaseLost),
		}, {
			it: "ends a grant whose Secret was deleted", because: "somebody does not want it",
			given: []given{grant(), target(TargetAbsent)},
			want:  dropLeases(v1alpha1.ReasonGrantEnded).of(-1),
		}, {
			it: "ends a grant whose Secret was edited", because: "the data are lost, and there is no second",
			given: []given{grant(), target(TargetChanged)},
			want:  dropLeases(v1alpha1.ReasonGrantEnded).of(-1),
		}, {
			it: "does not end a grant of static data", because: "it has no life to end",
			given: []given{grant(static), target(TargetAbsent)},
			want:  step(Issue, CauseSecretLost),
		}, {
			it: "writes a grant again from memory", because: "it is the same credential",
			given: []given{grant(), target(TargetAbsent), issued(record())},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "issues a grant again that was never published", because: "nobody received it",
			given: []given{recorded(), leaseSpec(never)},
			want:  step(Issue, CauseUnpublished),
		}, {
			it: "deletes the Secret of an ended grant", because: "it stays deleted until requested",
			given: []given{ended, published},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "deletes it although onExpiry is Retain", because: "Retain is for credentials that are replaced",
			given: []given{ended, leaseSpec(retain), published},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "does nothing after a grant", because: "reissue is Never",
			given: []given{ended},
			want:  Step{Action: Wait},
		}, {
			it: "issues another grant if requested", because: "the message describes that",
			given: []given{ended, requested},
			want:  step(Issue, CauseFirst),
		}, {
			it: "issues once reissue is Always", because: "it is no grant any more",
			given: []given{ended, always},
			want:  step(Issue, CauseFirst),
		}, {
			it: "replaces a grant whose request changed", because: "another request is another grant",
			given: []given{grant(), requesting(Request{Digest: "request-2"})},
			want:  step(Issue, CauseRequestChanged),
		},
	})
}
