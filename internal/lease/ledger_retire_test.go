package lease

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestRetireAttempt(t *testing.T) {
	const reason = v1alpha1.ReasonIssuing
	started := func(rec *v1alpha1.LeaseRecord) { rec.StartedAt = stamp(time.Minute) }
	minted := db(session(time.Hour, true))
	at := func(d time.Duration) change { return retired(d, reason) }
	now := time.Hour + time.Second // the time of the call, rounded up
	const own = time.Minute + limit + time.Second
	unsettled := func(in *Input) { in.Held.Records[1].Settled = false }
	for _, c := range []struct {
		it   string
		held given
		want []*v1alpha1.LeaseRecord
	}{
		{"of another process: the limit counts from now", all(),
			[]*v1alpha1.LeaseRecord{db(noResponse, started, at(now+limit)),
				broker(noResponse, started, at(now+limit))}},
		{"of other sessions: the limit counts from now", issued(db(numbered(8)), broker(numbered(9))),
			[]*v1alpha1.LeaseRecord{db(noResponse, started, at(now+limit)),
				broker(noResponse, started, at(now+limit))}},
		{"without a response: the limit counts from the start", held(OutcomeFailed, false, db(noResponse),
			broker(noResponse)),
			[]*v1alpha1.LeaseRecord{db(noResponse, started, at(own)), broker(noResponse, started, at(own))}},
		{"with a response and an error: at once", held(OutcomeFailed, true, minted, broker(noResponse)),
			[]*v1alpha1.LeaseRecord{db(session(time.Hour, true), at(now)), broker(noResponse, at(now))}},
		{"with one response: each record by itself",
			all(held(OutcomeFailed, true, minted, broker(noResponse)), unsettled),
			[]*v1alpha1.LeaseRecord{db(session(time.Hour, true), at(now)), broker(noResponse, started, at(own))}},
		{"with responses that cannot be revoked: their sessions",
			held(OutcomeFailed, true, db(static), broker(expiring)),
			[]*v1alpha1.LeaseRecord{db(noResponse, started, at(now)), broker(noResponse, started, at(now))}},
		{"with a certificate: it can be revoked", held(OutcomeFailed, true, db(static), broker(revocable)),
			[]*v1alpha1.LeaseRecord{db(noResponse, started, at(now)), broker(revocable, at(now))}},
	} {
		t.Run(c.it, func(t *testing.T) {
			in := input(attempt(db(noResponse, started), broker(noResponse, started)), c.held)
			st := &in.Object.Status
			RetireAttempt(st, in.Held, reason, limit, t0.Add(time.Hour+half))
			same(t, "retiring", st.Retiring, values(c.want))
			if st.Attempt != nil {
				t.Error("the attempt is still there")
			}
		})
	}
	st := &input(kept()).Object.Status
	before := st.DeepCopy()
	RetireAttempt(st, Held{}, reason, limit, t0)
	same(t, "without an attempt", *st, *before)
}

func TestRetireLeases(t *testing.T) {
	const now = time.Second // half a second, rounded up
	set := keptSet(db(), broker(), settings())
	recs := func(first, second change) []*v1alpha1.LeaseRecord {
		return []*v1alpha1.LeaseRecord{db(first), broker(second)}
	}
	at := func(reason string) change { return retired(now, reason) }
	lostRecord := retired(now+lostGrace, v1alpha1.ReasonLeaseLost)
	for _, c := range []struct {
		it, reason string
		given      []given
		ended      int
		want       []*v1alpha1.LeaseRecord
		over       bool
	}{
		{"the others of a set with a lost lease wait", v1alpha1.ReasonLeaseLost, []given{set}, 1,
			recs(at(reasonIncomplete), lostRecord), false},
		{"the others of a set with an expired lease wait", v1alpha1.ReasonExpired, []given{set}, 0,
			recs(at(v1alpha1.ReasonExpired), at(reasonIncomplete)), false},
		{"they wait during a refresh as well", v1alpha1.ReasonExpired, []given{set,
			status(func(st *v1alpha1.DynamicSecretStatus) { BeginRefresh(st, "digest-2") })}, 0,
			recs(at(v1alpha1.ReasonExpired), at(reasonIncomplete)), false},
		{"they do not wait if they were never published", v1alpha1.ReasonExpired, []given{recordedSet(db(), broker())},
			0, recs(at(v1alpha1.ReasonExpired), at(CauseUnpublished)), false},
		{"an expired certificate that cannot be revoked is dropped", v1alpha1.ReasonExpired,
			[]given{keptSet(db(expiring), broker())}, 0, []*v1alpha1.LeaseRecord{broker(at(reasonIncomplete))}, false},
		{"a revocation applies to all", v1alpha1.ReasonRevoked, []given{set}, -1,
			recs(at(v1alpha1.ReasonRevoked), at(v1alpha1.ReasonRevoked)), false},
		{"a revocation does not end a grant", v1alpha1.ReasonRevoked, []given{set, leaseSpec(never)}, -1,
			recs(at(v1alpha1.ReasonRevoked), at(v1alpha1.ReasonRevoked)), false},
		{"a grant ends with its first lease", v1alpha1.ReasonExpired, []given{set, leaseSpec(never)}, 1,
			recs(at(v1alpha1.ReasonGrantEnded), at(v1alpha1.ReasonExpired)), true},
		{"a grant ends if a lease is lost", v1alpha1.ReasonLeaseLost, []given{set, leaseSpec(never)}, 0,
			recs(lostRecord, at(v1alpha1.ReasonGrantEnded)), true},
		{"a grant ends with its Secret", v1alpha1.ReasonGrantEnded, []given{set, leaseSpec(never)}, -1,
			recs(at(v1alpha1.ReasonGrantEnded), at(v1alpha1.ReasonGrantEnded)), true},
	} {
		t.Run(c.it, func(t *testing.T) {
			d := input(c.given...).Object
			RetireLeases(d, c.reason, c.ended, t0.Add(half))
			same(t, "retiring", d.Status.Retiring, values(c.want))
			if d.Status.Leases != nil || (d.Status.GrantEndedAt != nil) != c.over {
				t.Errorf("leases %+v, grant ended at %v", d.Status.Leases, d.Status.GrantEndedAt)
			}
		})
	}
}

func TestResolveCompletesARecord(t *testing.T) {
	known, unknown := record(numbered(2), retired(limit, "a")), record(noResponse, retired(limit, "b"))
	st := &input(retiring(known, unknown)).Object.Status
	response := record(session(time.Hour, true), func(rec *v1alpha1.LeaseRecord) { rec.ID = "lease-9" })
	Resolve(st, response, t0.Add(half))
	want := response.DeepCopy()
	retired(0, "b")(want) // at once, so rounded down
	same(t, "retiring", st.Retiring, values([]*v1alpha1.LeaseRecord{record(numbered(2), retired(limit, "a")), want}))

	before := st.DeepCopy()
	Resolve(st, record(numbered(8)), t0)
	same(t, "for an unknown handle", *st, *before)
	Resolve(st, record(numbered(2), granted(time.Minute)), t0)
	same(t, "for a lease that was recorded, and may have been renewed", *st, *before)
}

func TestResolveKeepsTheSessionOfAnIrrevocableResponse(t *testing.T) {
	st := &input(retiring(record(noResponse, retired(limit, "a")))).Object.Status
	Resolve(st, record(expiring), t0)
	same(t, "retiring", st.Retiring, values([]*v1alpha1.LeaseRecord{record(noResponse, retired(0, "a"))}))
}

func TestRevokedRemovesARecord(t *testing.T) {
	d := input(retiring(record(numbered(1)), record(numbered(2)), record(numbered(3)))).Object
	copied := d.Status // a shallow copy
	want := d.Status.DeepCopy().Retiring
	RemoveRetired(d, 1, t0)
	same(t, "what is left", d.Status.Retiring, []v1alpha1.LeaseRecord{want[0], want[2]})
	same(t, "the shallow copy", copied.Retiring, want)
	RemoveRetired(d, 1, t0)
	RemoveRetired(d, 0, t0)
	if d.Status.Retiring != nil {
		t.Error("an empty list differs from none, and would cause a write")
	}
}

// Whether a record of a replaced set is lost or revoked: the Secret no longer contains a complete set.
func TestAReplacedSetBecomesIncomplete(t *testing.T) {
	replacing := retired(0, v1alpha1.ReasonReplacing)
	others := []*v1alpha1.LeaseRecord{record(numbered(8), retired(0, CauseUnpublished)), broker(replacing)}
	want := others[0].DeepCopy()
	incompleteSet := *broker(retired(0, reasonIncomplete))

	d := input(retiring(append(others, db(replacing))...)).Object
	RetiringLost(d, 2, t0)
	same(t, "after a loss", d.Status.Retiring,
		[]v1alpha1.LeaseRecord{*want, incompleteSet, *db(retired(0, v1alpha1.ReasonLeaseLost))})

	d = input(retiring(append(others, db(replacing))...)).Object
	RemoveRetired(d, 2, t0)
	same(t, "after a revocation", d.Status.Retiring, []v1alpha1.LeaseRecord{*want, incompleteSet})

	d = input(retiring(append(others, db(replacing))...)).Object
	RetiringLost(d, 0, t0)
	if d.Status.Retiring[1].Reason != v1alpha1.ReasonReplacing {
		t.Errorf("an unpublished lease is not in the Secret: %+v", d.Status.Retiring)
	}
}

func TestRenewed(t *testing.T) {
	const requested = time.Hour
	renewedMeanwhile := expiresAt(renewDue + time.Hour)
	for _, c := range []struct {
		it       string
		rec      *v1alpha1.LeaseRecord
		at       time.Duration
		granted  time.Duration
		capped   bool
		end      time.Duration
		atMaxTTL bool
	}{
		{"the request is granted", record(), renewDue, time.Hour, false, renewDue + time.Hour, false},
		{"the backend reports a maximum", record(), renewDue, 30 * time.Minute, true, renewDue + 30*time.Minute, true},
		{"the expiry does not move", record(), renewDue, time.Hour - renewDue, false, time.Hour, true},
		{"the expiry moves only by rounding", record(), renewDue, time.Hour - renewDue + time.Second, false,
			time.Hour + time.Second, true},
		{"the expiry moves back", record(), renewDue, time.Minute, false, renewDue + time.Minute, true},
		{"a periodic token grants less, but moves on", record(), renewDue, 30 * time.Minute, false,
			renewDue + 30*time.Minute, false},
		{"a second renewal right away proves nothing", record(), 3 * time.Second, 57 * time.Minute, false,
			57*time.Minute + 3*time.Second, false},
		{"somebody else renewed the lease before", record(renewedMeanwhile), renewDue, time.Hour, false,
			renewDue + time.Hour, false},
		{"the maximum stays reached", record(maxTTL), renewDue, time.Hour, false, renewDue + time.Hour, true},
		{"the expiry was unknown", record(endless), renewDue, time.Hour, false, renewDue + time.Hour, false},
	} {
		rec := c.rec
		Renewed(rec, Term{At: t0.Add(c.at), Duration: c.granted, Renewable: true, Capped: c.capped}, requested)
		if !rec.ExpiresAt.Equal(stampPtr(c.end)) || rec.MaxTTLReached != c.atMaxTTL {
			t.Errorf("%s: expires at %s, max TTL reached %v", c.it, rec.ExpiresAt.Sub(t0), rec.MaxTTLReached)
		}
		granted := int64(c.granted / time.Second)
		if rec.Renewals != 1 || !rec.RenewedAt.Equal(stampPtr(c.at)) || rec.DurationSeconds != granted {
			t.Errorf("%s: %+v", c.it, rec)
		}
	}
}

// Without a warning, two renewals that lead to the same expiry show the maximum.
func TestRenewedFindsTheMaximumWithoutAWarning(t *testing.T) {
	rec := record()
	end := 61 * time.Minute // a minute more than the first grant
	renew := func(at time.Duration) {
		Renewed(rec, Term{At: t0.Add(at), Duration: end - at, Renewable: true}, time.Hour)
	}
	if renew(renewDue); rec.MaxTTLReached {
		t.Fatal("the expiry moved by a minute")
	}
	if renew(55 * time.Minute); !rec.MaxTTLReached || rec.MaxTTLSeconds != 3660 || rec.Renewals != 2 {
		t.Errorf("the expiry did not move: %+v", rec)
	}
}

func TestRenewalHandled(t *testing.T) {
	d := input(annotated(v1alpha1.RenewRequestedAtAnnotation, "a"), annotated(v1alpha1.ForceSyncAnnotation, "b")).Object
	RenewalHandled(d)
	same(t, "handled", []string{d.Status.LastHandledRenewAt, d.Status.LastHandledForceSync}, []string{"a", "b"})
	if v := newView(Input{Object: d}); v.renewalRequested() {
		t.Error("the request is still pending")
	}
}

func TestSessionExtended(t *testing.T) {
	for capped, again := range map[bool]bool{
		true:  false, // it is at its maximum
		false: true,  // a periodic token
	} {
		rec := record(session(time.Hour, true))
		SessionExtended(rec, Term{At: t0.Add(half), Duration: 2 * time.Hour, Renewable: true, Capped: capped})
		same(t, "the record", *rec, *record(session(2*time.Hour, again)))
	}
	rec := record(session(time.Hour, true))
	SessionExtended(rec, Term{At: t0, Renewable: true})
	same(t, "a session that no longer expires", *rec, *record())
}
