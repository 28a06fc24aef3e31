package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A deletion removes the Secret, then the records where they are, then the finalizer. It writes nothing to the ledger:
// the deletion timestamp is the recorded intent.
func TestPlanADeletion(t *testing.T) {
	gone := deleted(0)
	revoke := step(RevokeRecord, v1alpha1.ReasonDeleting)
	release := step(RemoveFinalizer, v1alpha1.ReasonDeleting)
	unpublished := all(recorded(), target(TargetAbsent))
	pending := retiring(record(numbered(3), retired(0, v1alpha1.ReasonReplacing)))
	secretFailed := func(at time.Duration) given {
		return tries(func(t *Tries) { t.DeleteSecret = failed(at) })
	}
	noSecret := target(TargetAbsent)
	checkPlan(t, []planCase{
		{
			it: "drops the attempt first", because: "it can become a lease",
			given: []given{gone, kept(), attempt(record(numbered(2), noResponse)), pending},
			want:  step(DropAttempt, v1alpha1.ReasonDeleting),
		}, {
			it: "deletes the Secret before it revokes", because: "nothing should read a dead credential",
			given: []given{gone, kept(), pending},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "deletes a Secret with other content", because: "it is ours",
			given: []given{gone, kept(), target(TargetChanged)},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "revokes a lease where it is recorded", because: "no ledger write is needed",
			given: []given{gone, kept(), noSecret},
			want:  revoke,
		}, {
			it: "revokes a lease that was never published", because: "it exists",
			given: []given{gone, unpublished, issued(record())},
			want:  revoke,
		}, {
			it: "skips a lease that it revoked", because: "this process has done that",
			given: []given{gone, keptSet(db(), broker()), noSecret, done(db())},
			want:  revoke.of(1),
		}, {
			it: "skips what cannot be revoked", because: "it has no id",
			given: []given{gone, keptSet(settings(), broker(expiring), db(revocable)), noSecret},
			want:  revoke.of(2),
		}, {
			it: "revokes retiring records after the leases", because: "every record must be revoked",
			given: []given{gone, kept(), noSecret, done(record()), pending},
			want:  step(RevokeRecord, v1alpha1.ReasonReplacing).ofRetiring(0),
		}, {
			it: "revokes one record while another fails", because: "no record waits for another",
			given: []given{gone, keptSet(db(), broker()), noSecret, revokeFailed(failed(time.Minute), db())},
			want:  revoke.of(1),
		}, {
			it: "does not wait for the handover", because: "nothing uses the credential any more",
			given: []given{gone, overlapping(time.Hour), handover(), retiring(record(retired(0, reasonReplaced)))},
			want:  step(RevokeRecord, reasonReplaced).ofRetiring(0),
		}, {
			it: "waits for the request limit of an attempt", because: "the backend may still be minting",
			given: []given{gone, retiring(record(noResponse, retired(limit, v1alpha1.ReasonDeleting)))},
			want:  waitFor(v1alpha1.NextRevoke, limit),
		}, {
			it: "does not wait longer than the request limit", because: "a status can contain any time",
			given: []given{gone, retiring(record(noResponse, retired(999*time.Hour, v1alpha1.ReasonDeleting))),
				func(in *Input) { in.RevokeBy = map[string]time.Time{"token-1|": t0.Add(limit)} }},
			want: waitFor(v1alpha1.NextRevoke, limit),
		}, {
			it: "removes the finalizer when every record is done", because: "nothing is left",
			given: []given{gone, kept(), noSecret, pending, done(record(), record(numbered(3)))},
			want:  release,
		}, {
			it: "removes the finalizer of an empty object", because: "nothing is left",
			given: []given{gone},
			want:  release,
		}, {
			it: "ends while suspended, blocked and without a target", because: "a deletion always ends",
			given: []given{gone, spec(suspended), blocked(notReadyBlock), target(TargetForeign)},
			want:  release,
		}, {
			it: "leaves a foreign Secret alone", because: "it is not ours",
			given: []given{gone, kept(), target(TargetForeign)},
			want:  revoke,
		}, {
			it: "does nothing without its finalizer", because: "other finalizers keep the object",
			given: []given{gone, kept(), finalizers("example.com/other"), after(2 * time.Hour)},
			want:  Step{Action: Wait},
		}, {
			it: "does not renew or publish", because: "the object is being removed",
			given: []given{gone, unpublished, issued(record()), after(renewDue)},
			want:  revoke,
		}, {
			it: "revokes although the Secret cannot be deleted", because: "the leases must end",
			given: []given{gone, kept(), secretFailed(time.Minute)},
			want:  revoke,
		}, {
			it: "retries to delete the Secret after a pause", because: "the API server may accept it now",
			given: []given{gone, kept(), secretFailed(time.Minute), after(time.Minute)},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "waits until the Secret is deleted", because: "the deadline has not passed",
			given: []given{gone, kept(), done(record()), secretFailed(time.Minute)},
			want:  waitFor(v1alpha1.NextRevoke, time.Minute),
		}, {
			it: "waits for the Secret no longer than the deadline", because: "a deletion always ends",
			given: []given{gone, kept(), done(record()), secretFailed(100 * time.Minute)},
			want:  waitFor(v1alpha1.NextRevoke, time.Hour),
		}, {
			it: "gives the Secret up at the deadline", because: "a deletion always ends",
			given: []given{gone, kept(), done(record()), secretFailed(100 * time.Minute), after(time.Hour)},
			want:  release,
		}, {
			it: "abandons leases if onDelete is Abandon", because: "they are to expire by themselves",
			given: []given{gone, kept(), noSecret, leaseSpec(abandoning)},
			want:  step(AbandonRecord, v1alpha1.ReasonAbandoned),
		}, {
			it: "deletes the Secret although it abandons", because: "only the leases are abandoned",
			given: []given{gone, kept(), leaseSpec(abandoning)},
			want:  step(DeleteSecret, v1alpha1.ReasonDeleting),
		}, {
			it: "abandons a lease at the deadline", because: "the backend does not revoke it",
			given: []given{gone, kept(granted(9 * time.Hour)), noSecret, after(time.Hour),
				revokeFailed(failed(2*time.Hour), record())},
			want: step(AbandonRecord, v1alpha1.ReasonAbandoned),
		},
	})
}

func TestPlanARevocation(t *testing.T) {
	pending := record(numbered(3), retired(0, v1alpha1.ReasonRevoked))
	revoke := step(RevokeRecord, v1alpha1.ReasonRevoked).ofRetiring(0)
	drop := dropLeases(v1alpha1.ReasonRevoked).of(-1)
	secretFailed := all(published, tries(func(t *Tries) { t.DeleteSecret = failed(time.Minute) }))
	rotate := annotated(v1alpha1.RotateRequestedAtAnnotation, "now")
	revoked := spec(revoking)
	checkPlan(t, []planCase{
		{
			it: "drops the leases", because: "spec.revoked is true",
			given: []given{kept(), revoked},
			want:  drop,
		}, {
			it: "drops static data too", because: "the Secret is deleted",
			given: []given{kept(static), revoked},
			want:  drop,
		}, {
			it: "deletes the Secret before it revokes", because: "nothing should read a dead credential",
			given: []given{published, retiring(pending), revoked},
			want:  step(DeleteSecret, v1alpha1.ReasonRevoked),
		}, {
			it: "deletes the Secret although onExpiry is Retain", because: "Retain is about expiry",
			given: []given{published, retiring(pending), revoked, leaseSpec(retain)},
			want:  step(DeleteSecret, v1alpha1.ReasonRevoked),
		}, {
			it: "revokes the records", because: "spec.revoked is true",
			given: []given{retiring(pending), revoked},
			want:  revoke,
		}, {
			it: "revokes although the Secret cannot be deleted", because: "the leases must end",
			given: []given{secretFailed, retiring(pending), revoked},
			want:  revoke,
		}, {
			it: "revokes what the undeleted Secret contains", because: "no successor will be published",
			given: []given{secretFailed, retiring(db(retired(0, reasonIncomplete))), revoked},
			want:  step(RevokeRecord, reasonIncomplete).ofRetiring(0),
		}, {
			it: "revokes what an undeleted Secret still contained", because: "no successor will be published",
			given: []given{secretFailed, retiring(record(retired(0, v1alpha1.ReasonReplacing))), revoked},
			want:  step(RevokeRecord, v1alpha1.ReasonReplacing).ofRetiring(0),
		}, {
			it: "does not wait for the handover", because: "nothing should use the credential",
			given: []given{overlapping(time.Hour), handover(), retiring(record(retired(0, reasonReplaced))), revoked},
			want:  step(RevokeRecord, reasonReplaced).ofRetiring(0),
		}, {
			it: "continues while suspended", because: "suspending stops issuance, not revocation",
			given: []given{kept(), revoked, spec(suspended)},
			want:  drop,
		}, {
			it: "issues nothing after that", because: "spec.revoked is still true",
			given: []given{revoked, rotate},
			want:  Step{Action: Wait},
		}, {
			it: "retries a failed revocation", because: "the lease is still alive",
			given: []given{retiring(pending), revoked, revokeFailed(failed(4*time.Second), pending)},
			want:  waitFor(v1alpha1.NextRevoke, 4*time.Second),
		}, {
			it: "abandons nothing", because: "onDelete and the annotation are for deletions",
			given: []given{retiring(pending), revoked, leaseSpec(abandoning),
				annotated(v1alpha1.AbandonLeaseAnnotation, "true")},
			want: revoke,
		},
	})
}

func TestPlanTheRetiring(t *testing.T) {
	quiet := kept(numbered(2), granted(10000*time.Hour))
	rec := record(retired(0, v1alpha1.ReasonLeaseLost))
	revoke := step(RevokeRecord, v1alpha1.ReasonLeaseLost).ofRetiring(0)
	unknown := record(func(r *v1alpha1.LeaseRecord) { r.Reason = "Unknown" })
	unanswered := record(noResponse, retired(limit, v1alpha1.ReasonIssuing))
	checkPlan(t, []planCase{
		{
			it: "revokes a record when it is due", because: "it must end",
			given: []given{quiet, retiring(rec)},
			want:  revoke,
		}, {
			it: "revokes a record without a time", because: "nothing delays it",
			given: []given{quiet, retiring(unknown)},
			want:  step(RevokeRecord, "Unknown").ofRetiring(0),
		}, {
			it: "does not revoke earlier", because: "the backend may still be minting",
			given: []given{quiet, retiring(unanswered), after(limit - time.Second)},
			want:  waitFor(v1alpha1.NextRevoke, limit),
		}, {
			it: "revokes one record while another fails", because: "no record waits for another",
			given: []given{quiet, retiring(rec, record(numbered(3), retired(0, v1alpha1.ReasonExpired))),
				revokeFailed(failed(time.Minute), rec)},
			want: step(RevokeRecord, v1alpha1.ReasonExpired).ofRetiring(1),
		}, {
			it: "revokes while suspended and blocked", because: "that issues nothing",
			given: []given{quiet, retiring(rec), spec(suspended), blocked(notReadyBlock)},
			want:  revoke,
		}, {
			it: "abandons a record of somebody else", because: "another try is useless",
			given: []given{quiet, retiring(unanswered, rec), revokeFailed(Failure{Count: 1, Final: true}, rec)},
			want:  step(AbandonRecord, v1alpha1.ReasonAbandoned).ofRetiring(1),
		}, {
			it: "abandons nothing of an object that stays", because: "onDelete is for deletions",
			given: []given{quiet, retiring(rec), leaseSpec(abandoning)},
			want:  revoke,
		},
	})
}

// A record is abandoned only if its revocation fails, and it must be dead or the deadline of the deletion has passed.
func TestPlanAbandons(t *testing.T) {
	rec := record(retired(0, v1alpha1.ReasonLeaseLost))
	certificate := record(revocable, retired(0, v1alpha1.ReasonLeaseLost))
	bounded := record(noResponse, session(30*time.Minute, true), retired(0, v1alpha1.ReasonIssuing))
	outlived := record(session(10*time.Hour, true), retired(0, v1alpha1.ReasonLeaseLost))
	unbounded := record(noResponse, retired(0, v1alpha1.ReasonIssuing))
	neighbour := record(numbered(3), maxTTL, granted(time.Minute), retired(0, v1alpha1.ReasonDeleting))
	abandon := step(AbandonRecord, v1alpha1.ReasonAbandoned).ofRetiring(0)
	revoke := step(RevokeRecord, v1alpha1.ReasonLeaseLost).ofRetiring(0)
	revokeSession := step(RevokeRecord, v1alpha1.ReasonIssuing).ofRetiring(0)
	// An unrecorded renewal may have granted another hour. Then an available backend gets a minute to confirm.
	const bound = 2*time.Hour + time.Minute
	idle := spec(revoking) // nothing else to do
	short := all(deleted(0), deadline(10*time.Minute))
	increment := leaseSpec(func(s *v1alpha1.LeaseSpec) { s.Increment = lasting(2 * time.Hour) })
	annotation := func(value string) given { return annotated(v1alpha1.AbandonLeaseAnnotation, value) }
	checkPlan(t, []planCase{
		{
			it: "retries before the record is dead", because: "the lease may live",
			given: []given{
				idle, retiring(rec), revokeFailed(failed(bound-time.Second), rec), after(bound - time.Second),
			},
			want: revoke,
		}, {
			it: "waits no longer than until the record is dead", because: "then it is abandoned",
			given: []given{idle, retiring(rec), revokeFailed(failed(bound+time.Hour), rec), after(bound - time.Second)},
			want:  waitFor(v1alpha1.NextRevoke, bound),
		}, {
			it: "abandons a dead record", because: "it is dead whatever the backend says",
			given: []given{idle, retiring(rec), revokeFailed(failed(0), rec), after(bound)},
			want:  abandon,
		}, {
			it: "tries at least once", because: "an available backend confirms it",
			given: []given{idle, retiring(rec), after(bound)},
			want:  revoke,
		}, {
			it: "counts the increment of a renewal", because: "it may have been granted unrecorded",
			given: []given{idle, retiring(rec), revokeFailed(failed(0), rec), after(bound), increment},
			want:  revoke,
		}, {
			it: "counts no renewal at the maximum", because: "none can have succeeded",
			given: []given{idle, retiring(record(maxTTL, retired(0, v1alpha1.ReasonLeaseLost))),
				revokeFailed(failed(0), rec), after(time.Hour + time.Minute)},
			want: abandon,
		}, {
			it: "waits for a session that outlives its lease", because: "it can still issue",
			given: []given{idle, retiring(outlived), revokeFailed(failed(0), outlived), after(3 * time.Hour)},
			want:  revoke,
		}, {
			it: "abandons both at the end of the session", because: "nothing is alive then",
			given: []given{
				idle, retiring(outlived), revokeFailed(failed(0), outlived), after(10*time.Hour + time.Minute),
			},
			want: abandon,
		}, {
			it: "does not wait for it in a deletion", because: "it owns nothing that is alive",
			given: []given{deleted(0), deadline(100 * time.Hour), retiring(outlived),
				revokeFailed(failed(0), outlived), after(3 * time.Hour)},
			want: abandon,
		}, {
			it: "does not abandon an expired certificate", because: "it is revoked by its expiry",
			given: []given{
				idle, retiring(certificate), revokeFailed(failed(0), certificate), after(time.Hour + time.Minute),
			},
			want: step(RevokeRecord, v1alpha1.ReasonLeaseLost).ofRetiring(0),
		}, {
			it: "abandons a session that has ended", because: "a record without a lease is its session",
			given: []given{idle, retiring(bounded), revokeFailed(failed(0), bounded), after(31 * time.Minute)},
			want:  abandon,
		}, {
			it: "never abandons an endless session of a live object", because: "it may live for ever",
			given: []given{idle, retiring(unbounded), revokeFailed(failed(0), unbounded), after(10000 * time.Hour)},
			want:  revokeSession,
		}, {
			it: "abandons it at the deadline of a deletion", because: "a deletion always ends",
			given: []given{
				short, retiring(unbounded), revokeFailed(failed(time.Hour), unbounded), after(10 * time.Minute),
			},
			want: abandon,
		}, {
			it: "does not abandon it earlier", because: "the backend may recover",
			given: []given{short, retiring(unbounded), revokeFailed(failed(time.Hour), unbounded),
				after(10*time.Minute - time.Second)},
			want: waitFor(v1alpha1.NextRevoke, 10*time.Minute),
		}, {
			it: "abandons a dead record before the deadline", because: "waiting is useless",
			given: []given{deleted(0), deadline(100 * time.Hour), retiring(rec),
				revokeFailed(failed(bound+time.Hour), rec), after(bound)},
			want: abandon,
		}, {
			it: "tries once after the deadline", because: "the backend may be available",
			given: []given{short, retiring(unbounded), after(time.Hour)},
			want:  revokeSession,
		}, {
			it: "abandons at once if onDelete is Abandon", because: "the lease is to expire by itself",
			given: []given{deleted(0), retiring(rec), leaseSpec(abandoning)},
			want:  abandon,
		}, {
			it: "abandons at once with the annotation", because: "a person wants the object removed",
			given: []given{deleted(0), retiring(rec), annotation("true")},
			want:  abandon,
		}, {
			it: "ignores other values of the annotation", because: "\"false\" means no",
			given: []given{deleted(0), retiring(rec), annotation("false")},
			want:  revoke,
		}, {
			it: "abandons the dead record, not its neighbour", because: "the other still has time",
			given: []given{short, after(2 * time.Minute), retiring(unbounded, neighbour),
				revokeFailed(failed(time.Hour), unbounded, neighbour)},
			want: step(AbandonRecord, v1alpha1.ReasonAbandoned).ofRetiring(1),
		},
	})
}
