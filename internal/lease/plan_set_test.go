package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// A set is issued together, published together and replaced together.
func TestPlanASet(t *testing.T) {
	set := keptSet(db(), broker(), settings())
	attempts := attempt(db(noResponse), broker(noResponse))
	one := func(in *Input) { in.Held.Records = in.Held.Records[:1] }
	checkPlan(t, []planCase{
		{
			it: "records a set when every source has responded", because: "the set is complete",
			given: []given{attempts, issued(db(), broker())},
			want:  step(RecordLeases, v1alpha1.ReasonPublishing),
		}, {
			it: "drops a set if one source failed", because: "half a set is useless",
			given: []given{attempts, held(OutcomeFailed, true, db(), broker(noResponse))},
			want:  step(DropAttempt, v1alpha1.ReasonIssuing),
		}, {
			it: "publishes a set that it holds", because: "all credentials are in memory",
			given: []given{recordedSet(db(), broker()), issued(db(), broker())},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "does not resolve the rest of a set", because: "the first record identifies the issuance",
			given: []given{recordedSet(db(), broker()), issued(db(), broker()), one},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "drops the set when one lease is lost", because: "the whole set is replaced",
			given: []given{set, lost("lease-2")},
			want:  dropLeases(v1alpha1.ReasonLeaseLost).of(1),
		}, {
			it: "drops the set when one lease expires", because: "the whole set is replaced",
			given: []given{keptSet(db(granted(2*time.Hour)), broker(notRenewable)), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired).of(1),
		}, {
			it: "drops the set when a certificate expires", because: "the whole set is replaced",
			given: []given{keptSet(db(granted(2*time.Hour)), broker(expiring)), after(time.Hour)},
			want:  dropLeases(v1alpha1.ReasonExpired).of(1),
		}, {
			it: "replaces the set when its first member is due", because: "the whole set is replaced",
			given: []given{keptSet(db(), broker(expiring, granted(10*time.Minute))), after(7 * time.Minute)},
			want:  step(Issue, CauseMaxTTL),
		}, {
			it: "replaces the set when one lease reaches maxAge", because: "the whole set is replaced",
			given: []given{set, maxAge(10 * time.Minute), after(10 * time.Minute)},
			want:  step(Issue, CauseMaxAge),
		}, {
			it: "ends a grant of several leases with the first", because: "half a grant is useless",
			given: []given{set, leaseSpec(never), lost("lease-1")},
			want:  dropLeases(v1alpha1.ReasonLeaseLost),
		},
	})
}

func TestPlanARequestOfSeveralSources(t *testing.T) {
	set := keptSet(db(), settings())
	asks := func(names ...string) given {
		return func(in *Input) {
			in.Requests = nil
			for _, name := range names {
				in.Requests = append(in.Requests, Request{Source: name, Digest: "request-1"})
			}
		}
	}
	digest := func(i int, digest string) given { return func(in *Input) { in.Requests[i].Digest = digest } }
	replaced := step(Issue, CauseRequestChanged)
	kept := waitFor(v1alpha1.NextRenew, renewDue)
	checkPlan(t, []planCase{
		{
			it: "keeps a set that is requested", because: "nothing changed",
			given: []given{set}, want: kept,
		}, {
			it: "keeps a set whose sources changed their order", because: "they are identified by name",
			given: []given{set, asks("settings", "db")}, want: kept,
		}, {
			it: "replaces the set for an additional source", because: "its data are missing",
			given: []given{set, asks("db", "settings", "broker")}, want: replaced,
		}, {
			it: "replaces the set for a removed source", because: "its data must go",
			given: []given{set, asks("db")}, want: replaced,
		}, {
			it: "replaces the set for a renamed source", because: "keys and templates contain the name",
			given: []given{set, asks("db", "flags")}, want: replaced,
		}, {
			it: "replaces the set for one changed request", because: "the set is replaced as a whole",
			given: []given{set, digest(1, "request-2")}, want: replaced,
		}, {
			it: "keeps the set if one provider is missing", because: "a missing provider changes no request",
			given: []given{set, digest(1, "")}, want: kept,
		}, {
			it: "notices a change although one provider is missing", because: "the other request changed",
			given: []given{set, digest(0, "request-2"), digest(1, "")}, want: replaced,
		},
	})
}

// When one lease of a set has ended, the others stay valid until the successors are published: consumers use them.
func TestPlanAnIncompleteSet(t *testing.T) {
	incomplete := retired(0, reasonIncomplete)
	// The broker's lease was lost, and that of the database is still in the Secret.
	broken := all(published, retiring(db(incomplete)))
	next := []*v1alpha1.LeaseRecord{db(numbered(4)), broker(numbered(5))}
	publishFailed := func(count int, at time.Duration) given {
		return tries(func(t *Tries) { t.Publish = failed(at); t.Publish.Count = count })
	}
	lostRecord := broker(retired(lostGrace, v1alpha1.ReasonLeaseLost))
	revoke := func(i int, reason string) Step { return step(RevokeRecord, reason).ofRetiring(i) }
	checkPlan(t, []planCase{
		{
			it: "issues a new set", because: "the Secret contains a dead credential",
			given: []given{broken},
			want:  step(Issue, CauseFirst),
		}, {
			it: "revokes the lost lease, not the others", because: "consumers still use the others",
			given: []given{broken, retiring(lostRecord), after(lostGrace), spec(suspended), leaseSpec(retain)},
			want:  revoke(1, v1alpha1.ReasonLeaseLost),
		}, {
			it: "renews the others meanwhile", because: "they must live until the successors are published",
			given: []given{broken, leaseSpec(retain), blocked(notReadyBlock), after(renewDue)},
			want:  renewLease.ofRetiring(0),
		}, {
			it: "publishes the new set before it revokes", because: "the Secret still contains the others",
			given: []given{succeeding(next, db(incomplete)), issued(next...)},
			want:  step(PublishSecret, v1alpha1.ReasonPublishing),
		}, {
			it: "keeps the others while publishing fails", because: "the Secret still contains them",
			given: []given{succeeding(next, db(incomplete)), issued(next...), publishFailed(1, time.Second)},
			want:  waitFor(v1alpha1.NextPublish, time.Second),
		}, {
			it: "deletes the Secret when publishing keeps failing", because: "it contains a dead credential",
			given: []given{
				succeeding(next, db(incomplete)), issued(next...), publishFailed(maxPublishTries, time.Second),
			},
			want: step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "deletes the Secret if no set can be issued", because: "it contains a dead credential",
			given: []given{broken, blocked(notReadyBlock)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "revokes the others once the Secret is deleted", because: "nothing contains them",
			given: []given{retiring(db(incomplete)), blocked(notReadyBlock)},
			want:  revoke(0, reasonIncomplete),
		}, {
			it: "revokes the others once the new set is published", because: "the Secret contains their successors",
			given: []given{keptSet(next...), retiring(db(retired(0, reasonReplaced)))},
			want:  revoke(0, reasonReplaced),
		},
	})
}

// The credentials of a replaced set stay valid, and count as one set, until their successors are published.
func TestPlanAReplacedSet(t *testing.T) {
	replacing := retired(0, v1alpha1.ReasonReplacing)
	next := []*v1alpha1.LeaseRecord{db(numbered(4), granted(9*time.Hour)), broker(numbered(5), granted(9*time.Hour))}
	long := granted(9 * time.Hour)
	succeeded := func(changes ...change) given {
		return succeeding(next, db(replacing, long), broker(append([]change{replacing, long}, changes...)...))
	}
	dead := succeeded(granted(time.Hour), notRenewable)
	publishFailed := tries(func(t *Tries) { t.Publish = failed(2 * time.Hour) })
	checkPlan(t, []planCase{
		{
			it: "keeps the Secret while the old set is valid", because: "consumers use it",
			given: []given{succeeded(), blocked(notReadyBlock)},
			want:  waitBlocked(0, notReadyBlock).withNext(v1alpha1.NextRenew, 9*time.Hour*67/100),
		}, {
			it: "checks when the first of the old set expires", because: "the Secret must not outlive it",
			given: []given{dead, blocked(notReadyBlock), after(time.Hour - time.Second)},
			want:  waitFor(v1alpha1.NextExpire, time.Hour).blockedBy(notReadyBlock),
		}, {
			it: "deletes the Secret when one of the old set expires", because: "the Secret must not outlive it",
			given: []given{dead, blocked(notReadyBlock), after(time.Hour)},
			want:  step(DeleteSecret, v1alpha1.ReasonExpired),
		}, {
			it: "revokes the expired one and keeps the other", because: "the Secret still contains the other",
			given: []given{dead, issued(next...), publishFailed, after(time.Hour)},
			want:  step(RevokeRecord, v1alpha1.ReasonReplacing).ofRetiring(1),
		},
	})
}

// RemoveRetired removes the expired record of a replaced set. The Secret is still incomplete after that.
func TestPlanRemembersThatAReplacedSetIsIncomplete(t *testing.T) {
	replacing, long := retired(0, v1alpha1.ReasonReplacing), granted(9*time.Hour)
	in := input(succeeding([]*v1alpha1.LeaseRecord{db(numbered(4), long), broker(numbered(5), long)},
		db(replacing, long), broker(replacing, notRenewable)), after(time.Hour))
	if s := Plan(in); s.Action != RevokeRecord || s.Record != 1 {
		t.Fatalf("the expired record is to be revoked: %+v", s)
	}
	RemoveRetired(in.Object, 1, in.Now)
	in.Block = &notReadyBlock
	if s := Plan(in); s.Action != DeleteSecret {
		t.Errorf("the Secret contains a dead credential: %+v", s)
	}
}

func TestMaxRetiringLeavesRoomForTwoSets(t *testing.T) {
	for n, want := range map[int]int{1: 16, 3: 16, 8: 16, 9: 18, 10: 20, 16: 32} {
		if got := maxRetiring(n); got != want {
			t.Errorf("%d sources: %d, want %d", n, got, want)
		}
		// The current set and the attempt may join the list, whose maximum is 64.
		if most := maxRetiring(n) - 1 + 2*n; most > 64 {
			t.Errorf("%d sources: up to %d records", n, most)
		}
	}
}
