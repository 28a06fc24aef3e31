package lease

import (
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const half = 500 * time.Millisecond

func TestJournal(t *testing.T) {
	where := v1alpha1.LeaseRecord{Address: "https://vault.test:8200", Path: "database/creds/orders", RequestDigest: "asked"}
	session := Term{At: t0.Add(-half), Duration: time.Hour, Renewable: true}
	var st v1alpha1.DynamicSecretStatus
	Journal(&st, where, "token-1", session, t0.Add(half))

	want := where
	want.TokenAccessor, want.StartedAt = "token-1", stamp(0) // rounded down
	want.TokenExpiresAt, want.TokenDurationSeconds, want.TokenRenewable = stampPtr(time.Hour-time.Second), 3600, true
	same(t, "the attempt", *st.Attempt, want)
	if where.TokenAccessor != "" {
		t.Error("the caller's record was changed")
	}

	session.Duration, session.Renewable = 0, false
	Journal(&st, where, "token-1", session, t0)
	if st.Attempt.TokenExpiresAt != nil || st.Attempt.TokenDurationSeconds != 0 {
		t.Errorf("a token that does not expire ends at %s", st.Attempt.TokenExpiresAt)
	}
}

func recordAnswer(d *v1alpha1.DynamicSecret, id, digest string, now time.Time) {
	_, term := answer(id)
	Record(d, id, term, digest, now)
}

func answer(id string) (string, Term) {
	return id, Term{At: t0.Add(half), Duration: time.Hour + half, Renewable: true}
}

func TestRecordMakesTheAttemptTheLease(t *testing.T) {
	d := input(attempt(), annotated(v1alpha1.RotateRequestedAtAnnotation, "now"), annotated(v1alpha1.RenewRequestedAtAnnotation, "now"),
		status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) })).Object
	recordAnswer(d, "lease-1", "digest-1", t0)

	want := record()
	want.ExpiresAt = stampPtr(time.Hour + time.Second) // half a second and half a second, rounded down
	same(t, "the lease", *d.Status.Lease, *want)
	same(t, "the Secret", *d.Status.Secret, v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"})
	if d.Status.Attempt != nil || d.Status.GrantEndedAt != nil || d.Status.Retiring != nil || Published(&d.Status) {
		t.Errorf("left of what was before: %+v", d.Status)
	}
	if d.Status.LastHandledRotateAt != "now" || d.Status.LastHandledRenewAt != "" {
		t.Errorf("handled: rotate %q, renew %q; a new lease is a rotation, not a renewal", d.Status.LastHandledRotateAt, d.Status.LastHandledRenewAt)
	}
}

func TestRecordRoundsTheEndDown(t *testing.T) {
	d := input(attempt()).Object
	id, term := answer("lease-1")
	term.Duration = time.Hour
	Record(d, id, term, "digest-1", t0)
	same(t, "the end", *d.Status.Lease.ExpiresAt, stamp(time.Hour))
	same(t, "the issue", *d.Status.Lease.IssuedAt, stamp(0))
}

func TestRecordRetiresTheLeaseBefore(t *testing.T) {
	for _, c := range []struct {
		it     string
		before given
		want   []v1alpha1.LeaseRecord
	}{
		{"one that is in the Secret waits for its successor", kept(), []v1alpha1.LeaseRecord{*record(retired(time.Second, v1alpha1.ReasonReplacing))}},
		{"one that never got there does not", recorded(), []v1alpha1.LeaseRecord{*record(retired(time.Second, CauseUnpublished))}},
		{"an answer without a lease is owed nothing", kept(unleased), nil},
	} {
		d := input(c.before, attempt(numbered(2), unanswered)).Object
		recordAnswer(d, "lease-2", "digest-2", t0.Add(half))
		same(t, c.it, d.Status.Retiring, c.want)
		if d.Status.Lease.ID != "lease-2" || d.Status.Lease.TokenAccessor != "token-2" || Published(&d.Status) {
			t.Errorf("%s: the lease is %+v, published %v", c.it, d.Status.Lease, Published(&d.Status))
		}
	}
}

func TestRecordAnAnswerWithoutALease(t *testing.T) {
	d := input(kept(unleased), attempt(numbered(2), unanswered), annotated(v1alpha1.RenewRequestedAtAnnotation, "now")).Object
	Record(d, "", Term{At: t0, Duration: 768 * time.Hour}, "digest-1", t0)

	// Nothing depends on its token, so that is ended at once; the record of the answer is no record of a lease.
	same(t, "retiring", d.Status.Retiring, []v1alpha1.LeaseRecord{*record(numbered(2), unleased, retired(0, v1alpha1.ReasonNotLeased))})
	same(t, "what may be alive", Records(&d.Status), d.Status.Retiring)
	if d.Status.Lease.ExpiresAt != nil || d.Status.Lease.DurationSeconds != 0 {
		t.Errorf("an answer without a lease ends at %s", d.Status.Lease.ExpiresAt)
	}
	if !Published(&d.Status) {
		t.Error("the same data are to be written again")
	}
	if d.Status.LastHandledRenewAt != "now" {
		t.Error("the order to renew is not handled: reading again is what it means here")
	}
	Record(withAttempt(d), "", Term{At: t0}, "digest-2", t0)
	if Published(&d.Status) {
		t.Error("other data count as written")
	}
}

func withAttempt(d *v1alpha1.DynamicSecret) *v1alpha1.DynamicSecret {
	d.Status.Attempt = record(numbered(3), unanswered)
	return d
}

func TestRetireAttempt(t *testing.T) {
	d := input(attempt()).Object
	RetireAttempt(&d.Status, "lease-1", t0.Add(half), v1alpha1.ReasonIssuing)
	same(t, "retiring", d.Status.Retiring, []v1alpha1.LeaseRecord{*record(unanswered, func(rec *v1alpha1.LeaseRecord) { rec.ID = "lease-1" },
		retired(time.Second, v1alpha1.ReasonIssuing))}) // rounded up: never before the backend has done with it
	before := d.Status.DeepCopy()
	RetireAttempt(&d.Status, "lease-1", t0, v1alpha1.ReasonIssuing)
	same(t, "with no attempt", d.Status, *before)
}

func TestRetireLease(t *testing.T) {
	for _, c := range []struct {
		it, reason string
		reissue    v1alpha1.Reissue
		ended      bool
		later      time.Duration
	}{
		{"a grant ends with its lease", v1alpha1.ReasonExpired, v1alpha1.ReissueNever, true, 0},
		{"a grant ends when its lease is lost", v1alpha1.ReasonLeaseLost, v1alpha1.ReissueNever, true, lostGrace},
		{"a grant ends when its Secret is lost", v1alpha1.ReasonGrantEnded, v1alpha1.ReissueNever, true, 0},
		{"a grant does not end by a replacement", v1alpha1.ReasonReplacing, v1alpha1.ReissueNever, false, 0},
		{"a grant does not end by a revocation: that can be taken back", v1alpha1.ReasonRevoked, v1alpha1.ReissueNever, false, 0},
		{"another lease ends no grant", v1alpha1.ReasonExpired, v1alpha1.ReissueAlways, false, 0},
		{"a lease that is lost is replaced before it is ended", v1alpha1.ReasonLeaseLost, v1alpha1.ReissueAlways, false, lostGrace},
	} {
		d := input(kept(), leaseSpec(func(s *v1alpha1.LeaseSpec) { s.Reissue = c.reissue })).Object
		RetireLease(d, c.reason, t0.Add(half))
		same(t, c.it, d.Status.Retiring, []v1alpha1.LeaseRecord{*record(retired(time.Second+c.later, c.reason))})
		if d.Status.Lease != nil || (d.Status.GrantEndedAt != nil) != c.ended {
			t.Errorf("%s: lease %+v, grant ended at %s", c.it, d.Status.Lease, d.Status.GrantEndedAt)
		}
	}
	for it, before := range map[string]given{"no lease": all(), "an answer without a lease": recorded(unleased)} {
		d := input(before, leaseSpec(never)).Object
		RetireLease(d, v1alpha1.ReasonExpired, t0)
		if d.Status.Lease != nil || d.Status.Retiring != nil || d.Status.GrantEndedAt != nil {
			t.Errorf("%s: %+v", it, d.Status)
		}
	}
}

func TestResolveCompletesTheRecord(t *testing.T) {
	d := input(retiring(record(numbered(2), retired(limit, "a")), record(unanswered, retired(limit, "b")))).Object
	Resolve(&d.Status, "token-1", "lease-9", t0.Add(half))
	same(t, "retiring", d.Status.Retiring, []v1alpha1.LeaseRecord{
		*record(numbered(2), retired(limit, "a")),
		*record(unanswered, func(rec *v1alpha1.LeaseRecord) { rec.ID = "lease-9" }, retired(0, "b")), // at once, so rounded down
	})
}

func TestEndedDropsOneAndTouchesNoOtherCopy(t *testing.T) {
	d := input(retiring(record(numbered(1)), record(numbered(2)), record(numbered(3)))).Object
	other := d.Status // as a shallow copy of an observation has it
	want := d.Status.DeepCopy().Retiring
	Ended(d, 1, t0)
	same(t, "what is left", d.Status.Retiring, []v1alpha1.LeaseRecord{want[0], want[2]})
	same(t, "the other copy", other.Retiring, want)
	Ended(d, 1, t0)
	Ended(d, 0, t0)
	if d.Status.Retiring != nil {
		t.Error("an empty list is not the same as none to who compares before writing")
	}
}

func TestRenewed(t *testing.T) {
	const asked = time.Hour
	for _, c := range []struct {
		it       string
		rec      *v1alpha1.LeaseRecord
		at       time.Duration
		granted  time.Duration
		capped   bool
		want     time.Duration // the end
		atMaxTTL bool
	}{
		{"what was asked for is granted", record(), renewDue, time.Hour, false, renewDue + time.Hour, false},
		{"the backend says that a maximum cut it short", record(), renewDue, 30 * time.Minute, true, renewDue + 30*time.Minute, true},
		{"the end stands still", record(), renewDue, time.Hour - renewDue, false, time.Hour, true},
		{"the end stands still but for a second of rounding", record(), renewDue, time.Hour - renewDue + time.Second, false, time.Hour + time.Second, true},
		{"the end moves back", record(), renewDue, time.Minute, false, renewDue + time.Minute, true},
		{"the end moves on although less than asked was granted: a periodic token", record(), renewDue, 30 * time.Minute, false, renewDue + 30*time.Minute, false},
		{"a second renewal right after the first proves nothing by its end", record(), 3 * time.Second, 57 * time.Minute, false, 57*time.Minute + 3*time.Second, false},
		{"the end stands still where as much as asked was granted: somebody renewed meanwhile", record(func(rec *v1alpha1.LeaseRecord) {
			rec.ExpiresAt = stampPtr(renewDue + time.Hour)
		}), renewDue, time.Hour, false, renewDue + time.Hour, false},
		{"the maximum stays reached", record(maxTTL), renewDue, time.Hour, false, renewDue + time.Hour, true},
	} {
		d := input(func(in *Input) { in.Object.Status.Lease = c.rec }, annotated(v1alpha1.RenewRequestedAtAnnotation, "now")).Object
		Renewed(d.Status.Lease, Term{At: t0.Add(c.at), Duration: c.granted, Renewable: true, Capped: c.capped}, asked)
		RenewalHandled(d)
		got := d.Status.Lease
		if !got.ExpiresAt.Equal(stampPtr(c.want)) || got.MaxTTLReached != c.atMaxTTL {
			t.Errorf("%s: ends at %s, max TTL reached %v", c.it, got.ExpiresAt.Sub(t0), got.MaxTTLReached)
		}
		if got.Renewals != 1 || !got.RenewedAt.Equal(stampPtr(c.at)) || got.DurationSeconds != int64(c.granted/time.Second) || d.Status.LastHandledRenewAt != "now" {
			t.Errorf("%s: the record says %+v, handled %q", c.it, got, d.Status.LastHandledRenewAt)
		}
	}
}

// A lease that is renewed to its maximum without a warning is found out by the second of two renewals that come to the
// same end.
func TestRenewedFindsTheMaximumWithoutAWarning(t *testing.T) {
	d := input(recorded()).Object
	end := 61 * time.Minute // the maximum, a minute above what was granted first
	Renewed(d.Status.Lease, Term{At: t0.Add(renewDue), Duration: end - renewDue, Renewable: true}, time.Hour)
	if d.Status.Lease.MaxTTLReached {
		t.Fatal("the end has moved by a minute, and yet it counts as standing still")
	}
	Renewed(d.Status.Lease, Term{At: t0.Add(55 * time.Minute), Duration: end - 55*time.Minute, Renewable: true}, time.Hour)
	if !d.Status.Lease.MaxTTLReached || d.Status.Lease.Renewals != 2 {
		t.Errorf("the end stood still: %+v", d.Status.Lease)
	}
}

func TestTokenExtended(t *testing.T) {
	term := Term{At: t0.Add(half), Duration: 2 * time.Hour, Renewable: true}
	for capped, want := range map[bool]bool{
		true:  false, // it went as far as it goes: once
		false: true,  // a periodic token: again and again
	} {
		d := input(recorded(token(time.Hour, true))).Object
		term.Capped = capped
		TokenExtended(d.Status.Lease, term)
		same(t, "the lease", *d.Status.Lease, *record(token(2*time.Hour, want)))
	}
	d := input(recorded(token(time.Hour, true))).Object
	TokenExtended(d.Status.Lease, Term{At: t0, Renewable: true})
	same(t, "a token that no longer expires", d.Status.Lease.TokenExpiresAt, (*metav1.Time)(nil))
	TokenNotExtendable(d.Status.Lease)
	if d.Status.Lease.TokenRenewable {
		t.Error("it can still be extended")
	}
}

func TestPublishAndSecretDeleted(t *testing.T) {
	d := input(recorded()).Object
	if Published(&d.Status) {
		t.Error("published before it was written")
	}
	Publish(d, v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "5", Digest: "digest-1"}, true, t0)
	if !Published(&d.Status) {
		t.Error("not published after it was written")
	}
	SecretDeleted(&d.Status)
	same(t, "what is still to be written", *d.Status.Secret, v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"})
	d.Status.Lease = nil
	SecretDeleted(&d.Status)
	if d.Status.Secret != nil {
		t.Error("nothing is to be written, and yet something is on record")
	}
}

// The one record that Plan spares because the Secret holds it is the one that the Secret holds: not an older one whose
// end has been failing since.
func TestOnlyTheRecordInTheSecretIsSpared(t *testing.T) {
	in := input(kept(), attempt(numbered(2), unanswered))
	d := in.Object
	recordAnswer(d, "lease-2", "digest-2", t0)
	Publish(d, v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "6", Digest: "digest-2"}, true, t0)
	d.Status.Attempt = record(numbered(3), unanswered)
	recordAnswer(d, "lease-3", "digest-3", t0)
	in.Target = TargetChanged // the Secret holds lease-2
	in.Held = Held{Accessor: "token-3", Outcome: OutcomeIssued}
	in.Tries.Publish = failed(time.Minute)

	if s := Plan(in); s.Action != EndRecord || d.Status.Retiring[s.Record].ID != "lease-1" {
		t.Fatalf("lease-1 is in no Secret any more and is owed an end, but: %+v", s)
	}
	in.Tries.End = map[string]Failure{TryKey(&d.Status.Retiring[0]): failed(time.Minute)}
	if s := Plan(in); s.Action != Wait {
		t.Fatalf("the Secret holds lease-2, its successor is not there yet, but: %+v of %s", s, d.Status.Retiring[s.Record].ID)
	}
	// When lease-2 dies, the Secret goes, although lease-1 lives on.
	in.Now, in.Held, in.Block = t0.Add(2*time.Hour), Held{}, &notReadyBlock
	d.Status.Lease.ExpiresAt = stampPtr(100 * time.Hour)
	d.Status.Lease.RenewedAt = stampPtr(2 * time.Hour)
	d.Status.Retiring[0].ExpiresAt = stampPtr(100 * time.Hour)
	in.Tries.End[TryKey(&d.Status.Retiring[0])] = failed(3 * time.Hour)
	if s := Plan(in); s.Action != DeleteSecret {
		t.Fatalf("the Secret holds a dead credential, but: %+v", s)
	}
}

func TestRecords(t *testing.T) {
	d := input(kept(numbered(2)), attempt(numbered(3), unanswered), retiring(record())).Object
	var ids []string
	for _, rec := range Records(&d.Status) {
		ids = append(ids, rec.TokenAccessor)
	}
	same(t, "what may be alive", ids, []string{"token-3", "token-2", "token-1"})
	if got := Records(&v1alpha1.DynamicSecretStatus{}); len(got) != 0 {
		t.Errorf("an empty ledger has %+v", got)
	}
}

func TestFloorAndCeil(t *testing.T) {
	for _, c := range []struct{ at, floor, ceil time.Duration }{
		{0, 0, 0},
		{1, 0, time.Second},
		{half, 0, time.Second},
		{time.Second - 1, 0, time.Second},
		{-1, -time.Second, 0},
	} {
		at := t0.Add(c.at)
		if got := floor(at); !got.Equal(stampPtr(c.floor)) {
			t.Errorf("floor of %s is %s", c.at, got.Sub(t0))
		}
		if got := ceil(at); !got.Equal(stampPtr(c.ceil)) {
			t.Errorf("ceil of %s is %s", c.at, got.Sub(t0))
		}
	}
}

// What a transition writes is what is read again: the API keeps whole seconds.
func TestTransitionsWriteWholeSeconds(t *testing.T) {
	d := input(kept()).Object
	odd := t0.Add(333 * time.Millisecond)
	Journal(&d.Status, *record(numbered(2), unanswered), "token-2", Term{Duration: time.Hour, At: odd}, odd)
	Record(d, "lease-2", Term{At: odd, Duration: 90 * time.Minute}, "digest-2", odd)
	Renewed(d.Status.Lease, Term{At: odd.Add(time.Minute), Duration: 90 * time.Minute}, time.Hour)
	TokenExtended(d.Status.Lease, Term{At: odd, Duration: time.Hour})
	RetireLease(d, v1alpha1.ReasonExpired, odd)
	whole(t, reflect.ValueOf(d.Status))
	if len(d.Status.Retiring) != 2 {
		t.Fatalf("%d records", len(d.Status.Retiring))
	}
}

// whole fails for every time that is no whole second.
func whole(t *testing.T, v reflect.Value) {
	t.Helper()
	if at, ok := v.Interface().(metav1.Time); ok {
		if at.Nanosecond() != 0 {
			t.Errorf("%s is no whole second", at.Time)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			whole(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			whole(t, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			whole(t, v.Index(i))
		}
	}
}
