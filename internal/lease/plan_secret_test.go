package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestPlanTheSecret(t *testing.T) {
	mine := issued(record())
	publishFailed := tries(func(t *Tries) { t.Publish = failed(4 * time.Second) })
	changed := requesting(Request{Digest: "request-2"})
	refreshing := status(func(st *v1alpha1.DynamicSecretStatus) { BeginRefresh(st, "digest-2") })
	checkPlan(t, []planCase{
		{
			it: "publishes the credential that it holds", because: "it is recorded, and nothing contains it",
			given: []given{recorded(), mine},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "publishes it while suspended", because: "it was issued before",
			given: []given{recorded(), mine, spec(suspended)},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "waits after a failed write", because: "the same credential is written again",
			given: []given{recorded(), mine, publishFailed},
			want:  waitFor(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "issues again if the credential was lost", because: "its process ended, and an id returns no password",
			given: []given{recorded()},
			want:  step(Issue, CauseUnpublished),
		}, {
			it: "does not publish another issuance", because: "it is not the recorded one",
			given: []given{recorded(), held(OutcomeFailed, false, record(numbered(9)))},
			want:  step(Issue, CauseUnpublished),
		}, {
			it: "records a write that was not recorded", because: "the digest proves the content",
			given: []given{recorded(), target(TargetCurrent), outOfSync},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "replaces the credential of a deleted Secret", because: "the data exist nowhere else",
			given: []given{kept(), target(TargetAbsent)},
			want:  step(Issue, CauseSecretLost),
		}, {
			it: "replaces the credential of an edited Secret", because: "the data may be lost",
			given: []given{kept(), target(TargetChanged)},
			want:  step(Issue, CauseSecretChanged),
		}, {
			it: "writes an edited Secret again from memory", because: "no other credential is needed",
			given: []given{kept(), target(TargetChanged), mine},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "leaves a Secret alone that is foreign now", because: "it does not belong to us",
			given: []given{kept(), target(TargetForeign), mine},
			want:  waitBlocked(0, foreignBlock).withNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "corrects labels and keeps the data", because: "a label needs no new credential",
			given: []given{kept(), outOfSync},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "corrects labels while suspended", because: "that issues nothing",
			given: []given{kept(), outOfSync, spec(suspended)},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "waits after labels were rejected", because: "retries must not overload the API server",
			given: []given{kept(), outOfSync, tries(func(t *Tries) { t.Sync = failed(4 * time.Second) })},
			want:  waitFor(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "records a write before it replaces", because: "an unrecorded credential would be revoked at once",
			given: []given{kept(), outOfSync, changed},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "completes an interrupted refresh", because: "the Secret contains the data before, or after",
			given: []given{keptSet(db(), settings()), refreshing, outOfSync},
			want:  step(SyncSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "keeps the Secret of an interrupted refresh", because: "the leases in it are alive",
			given: []given{keptSet(db(), settings()), refreshing, blocked(notReadyBlock)},
			want:  waitFor(v1alpha1.NextRenew, renewDue),
		},
	})
}

// Promise 4: the credential in the Secret lives until its successor is published.
func TestPlanAReplacedRecord(t *testing.T) {
	next := issued(record(numbered(2)))
	waiting := tries(func(t *Tries) { t.Publish = failed(4 * time.Second) })
	lostRecord := retiring(record(numbered(3), retired(-time.Hour, v1alpha1.ReasonLeaseLost)))
	short := succeeded(expiresAt(time.Minute))
	revoke := step(RevokeRecord, v1alpha1.ReasonReplacing).ofRetiring(0)
	checkPlan(t, []planCase{
		{
			it: "publishes the successor before it revokes", because: "the Secret contains the old credential",
			given: []given{succeeded(), next},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "does not revoke while publishing fails", because: "consumers would be cut off",
			given: []given{succeeded(), next, waiting},
			want:  waitFor(v1alpha1.NextPublish, 4*time.Second),
		}, {
			it: "issues another if the successor was lost", because: "its process ended before it was published",
			given: []given{succeeded()},
			want:  step(Issue, CauseUnpublished),
		}, {
			it: "does not revoke if nothing can be issued", because: "consumers would be cut off",
			given: []given{succeeded(), blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock).withNext(v1alpha1.NextRenew, renewDue),
		}, {
			it: "renews it meanwhile", because: "consumers use it",
			given: []given{succeeded(), blocked(notReadyBlock), after(renewDue), func(in *Input) {
				granted(9 * time.Hour)(&in.Object.Status.Leases[0])
			}},
			want: renewLease.ofRetiring(0),
		}, {
			it: "revokes other records meanwhile", because: "they are not in the Secret",
			given: []given{succeeded(), lostRecord, next, waiting},
			want:  step(RevokeRecord, v1alpha1.ReasonLeaseLost).ofRetiring(1),
		}, {
			it: "revokes it once the successor is published", because: "it was handed over",
			given: []given{kept(numbered(2)), retiring(record(retired(0, v1alpha1.ReasonReplacing)))},
			want:  revoke,
		}, {
			it: "deletes the Secret when it expires first", because: "the Secret must not outlive it",
			given: []given{short, blocked(notReadyBlock), after(time.Minute)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "checks at its expiry", because: "the Secret must be deleted then",
			given: []given{short, blocked(notReadyBlock), after(50 * time.Second)},
			want:  waitFor(v1alpha1.NextExpire, time.Minute).blockedBy(notReadyBlock),
		}, {
			it: "revokes it when it has expired", because: "nobody can be cut off",
			given: []given{
				short, next, after(time.Minute), tries(func(t *Tries) { t.Publish = failed(64 * time.Second) }),
			},
			want: revoke,
		},
	})
}

// The record that Plan protects is the one that the Secret contains, not an older one that cannot be revoked.
func TestPlanProtectsOnlyWhatTheSecretContains(t *testing.T) {
	long := granted(100 * time.Hour)
	in := input(kept())
	d := in.Object
	Record(d, values([]*v1alpha1.LeaseRecord{record(numbered(2))}), CauseRequested, "digest-2", t0)
	RecordPublished(d, *writtenSecret("digest-2"), true, t0)
	Record(d, values([]*v1alpha1.LeaseRecord{record(numbered(3), long)}), CauseRequested, "digest-3", t0)
	issued(record(numbered(3)))(&in)
	in.Target = TargetChanged // the Secret contains lease-2
	in.Tries.Publish = failed(time.Minute)

	if s := Plan(in); s.Action != RevokeRecord || d.Status.Retiring[s.Record].ID != "lease-1" {
		t.Fatalf("no Secret contains lease-1: %+v", s)
	}
	revokeFailed(failed(time.Minute), &d.Status.Retiring[0])(&in)
	if s := Plan(in); s.Action != Wait {
		t.Fatalf("the Secret contains lease-2 and its successor is not published: %+v", s)
	}
	// When lease-2 expires, the Secret is deleted although lease-1 lives on.
	in.Now, in.Held, in.Block = t0.Add(2*time.Hour), Held{}, &notReadyBlock
	long(&d.Status.Retiring[0])
	revokeFailed(failed(3*time.Hour), &d.Status.Retiring[0])(&in)
	if s := Plan(in); s.Action != DeleteSecret {
		t.Fatalf("the Secret contains a dead credential: %+v", s)
	}
}

// A set that was never published is not in the Secret. If one of its leases is lost, the Secret still contains the
// whole set before.
func TestPlanKeepsTheSecretWhenAnUnpublishedSetIsLost(t *testing.T) {
	next := []*v1alpha1.LeaseRecord{db(numbered(4)), broker(numbered(5))}
	replacing := retired(0, v1alpha1.ReasonReplacing)
	in := input(succeeding(next, db(replacing), broker(replacing)), lost("lease-4"), blocked(notReadyBlock))
	s := Plan(in)
	same(t, "the step", s, dropLeases(v1alpha1.ReasonLeaseLost))
	RetireLeases(in.Object, s.Reason, s.Record, in.Now)
	s = Plan(in)
	if s.Action != RevokeRecord || in.Object.Status.Retiring[s.Record].ID != "lease-5" {
		t.Errorf("the rest of the lost set is to be revoked, and the Secret stays: %+v", s)
	}
}
