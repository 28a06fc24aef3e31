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
	records := values([]*v1alpha1.LeaseRecord{db(noResponse), broker(noResponse)})
	SetSession(&records[0], "token-7", Term{At: t0.Add(-half), Duration: time.Hour, Renewable: true})
	before := values([]*v1alpha1.LeaseRecord{&records[0], &records[1]})
	var st v1alpha1.DynamicSecretStatus
	Journal(&st, records, t0.Add(time.Minute+half))

	if st.LedgerVersion != Version || len(st.Attempt.Records) != 2 {
		t.Fatalf("the journal is %+v", st)
	}
	for i := range records {
		want := before[i]
		want.StartedAt = stamp(time.Minute) // rounded down
		same(t, "the attempt", st.Attempt.Records[i], want)
	}
	same(t, "the caller's records", records, before)
	st.Attempt.Records[0].SetHandle("token-8")
	same(t, "the caller's records after a change of the journal", records, before)
}

func TestSetSession(t *testing.T) {
	rec := record(noResponse)
	block := *rec.Vault
	SetSession(rec, "token-7", Term{At: t0.Add(-half), Duration: time.Hour, Renewable: true})
	want := &v1alpha1.SessionTerm{ExpiresAt: stamp(time.Hour - time.Second), DurationSeconds: 3600, Renewable: true}
	same(t, "the session", rec.Session, want)
	if rec.Handle() != "token-7" || block.TokenAccessor != "token-1" {
		t.Errorf("the handle is %q", rec.Handle())
	}
	SetSession(rec, "token-7", Term{At: t0})
	same(t, "a session that does not expire", rec.Session, (*v1alpha1.SessionTerm)(nil))

	other := &v1alpha1.LeaseRecord{}
	SetSession(other, "token-7", Term{At: t0})
	if other.Handle() != "" {
		t.Error("a record without a backend block has a handle")
	}
}

func TestRespond(t *testing.T) {
	term := Term{At: t0.Add(half), Duration: time.Hour + half, Renewable: true}
	end := expiresAt(time.Hour + time.Second) // the sum, rounded down
	with := func(changes ...change) *v1alpha1.LeaseRecord { return record(changes...) }
	anHour := session(time.Hour, true)
	for _, c := range []struct {
		it   string
		kind v1alpha1.ResponseKind
		id   string
		term Term
		want *v1alpha1.LeaseRecord
	}{
		{"a lease keeps its session", v1alpha1.ResponseLeased, "lease-1", term, with(end, anHour)},
		{"a certificate expires and has no session", v1alpha1.ResponseExpiring, "", term, with(expiring, end)},
		{"a scheduled response changes", v1alpha1.ResponseScheduled, "", term, with(scheduled(time.Hour), end)},
		{"a late scheduled response has no time",
			v1alpha1.ResponseScheduled, "", Term{At: t0}, with(scheduled(0), endless)},
		{"a static response has no expiry", v1alpha1.ResponseStatic, "", Term{At: t0}, with(static)},
		{"a static response may have a duration",
			v1alpha1.ResponseStatic, "", term, with(static, granted(time.Hour), end)},
	} {
		rec := record(noResponse, anHour)
		Respond(rec, c.kind, c.id, c.term)
		same(t, c.it, *rec, *c.want)
	}
}

// recordSet records the set, as the lifecycle does.
func recordSet(d *v1alpha1.DynamicSecret, digest string, now time.Time, recs ...*v1alpha1.LeaseRecord) {
	Record(d, values(recs), CauseRequested, digest, now)
}

func TestRecordTurnsTheAttemptIntoLeases(t *testing.T) {
	grantEnded := status(func(st *v1alpha1.DynamicSecretStatus) { st.GrantEndedAt = stampPtr(0) })
	d := input(attempt(db(noResponse), broker(noResponse)), grantEnded,
		annotated(v1alpha1.RotateRequestedAtAnnotation, "now"),
		annotated(v1alpha1.RenewRequestedAtAnnotation, "now")).Object
	recordSet(d, "digest-1", t0, db(), broker())

	st := &d.Status
	same(t, "the leases", st.Leases, values([]*v1alpha1.LeaseRecord{db(), broker()}))
	same(t, "the Secret", *st.Secret, v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"})
	if st.Attempt != nil || st.GrantEndedAt != nil || st.Retiring != nil || Published(st) {
		t.Errorf("remains of the state before: %+v", st)
	}
	if st.LastHandledRotateAt != "now" || st.LastHandledRenewAt != "" {
		t.Errorf("a new set handles a requested rotation, not a renewal: %q, %q",
			st.LastHandledRotateAt, st.LastHandledRenewAt)
	}
}

func TestRecordRetiresTheLeasesBefore(t *testing.T) {
	set := []*v1alpha1.LeaseRecord{db(), broker(revocable), settings()}
	reason := func(reason string) []v1alpha1.LeaseRecord {
		at := retired(time.Second, reason)
		return values([]*v1alpha1.LeaseRecord{db(at), broker(revocable, at)})
	}
	replacing := retired(time.Second, v1alpha1.ReasonReplacing)
	whole := append(reason(v1alpha1.ReasonReplacing), *settings(replacing))
	refreshing := status(func(st *v1alpha1.DynamicSecretStatus) { BeginRefresh(st, "digest-3") })
	for _, c := range []struct {
		it     string
		before given
		want   []v1alpha1.LeaseRecord
	}{
		{"a published set waits for its successor", keptSet(set...), whole},
		{"a set during a refresh waits as well", all(keptSet(set...), refreshing), whole},
		{"a set that was never published does not wait", recordedSet(set...), reason(CauseUnpublished)},
		{"so do responses that cannot be revoked", keptSet(settings(), db(expiring)),
			values([]*v1alpha1.LeaseRecord{settings(replacing), db(expiring, replacing)})},
		{"those that were never published are dropped", recordedSet(settings(), db(expiring),
			broker(scheduled(time.Hour))), nil},
	} {
		d := input(c.before).Object
		recordSet(d, "digest-2", t0.Add(half), db(numbered(4)))
		same(t, c.it, d.Status.Retiring, c.want)
		if len(d.Status.Leases) != 1 || d.Status.Leases[0].ID != "lease-4" || Published(&d.Status) {
			t.Errorf("%s: the leases are %+v, published %v", c.it, d.Status.Leases, Published(&d.Status))
		}
		if d.Status.Secret.PreviousDigest != "" {
			t.Errorf("%s: the refresh is over: %+v", c.it, d.Status.Secret)
		}
	}
}

func TestRecordOfTheSameDataKeepsTheSecret(t *testing.T) {
	d := input(kept(static)).Object
	recordSet(d, "digest-1", t0, record(static))
	if !Published(&d.Status) {
		t.Error("the same data need no write")
	}
	recordSet(d, "digest-2", t0, record(static))
	if Published(&d.Status) {
		t.Error("other data count as written")
	}
}

func TestRecordKeepsTheMaximumTTLOfEachSource(t *testing.T) {
	known := func(seconds int64) change { return func(rec *v1alpha1.LeaseRecord) { rec.MaxTTLSeconds = seconds } }
	changed := func(rec *v1alpha1.LeaseRecord) { rec.RequestDigest = "request-2" }
	d := input(keptSet(db(known(5000)), broker(known(7000)), settings(source("web"), expiring, known(9000)))).Object
	recordSet(d, "digest-2", t0, broker(numbered(5)), db(numbered(4), changed), settings(source("web"), expiring))
	for i, want := range []int64{7000, 0, 0} {
		if got := d.Status.Leases[i]; got.MaxTTLSeconds != want {
			t.Errorf("%s: %d, want %d", got.Source, got.MaxTTLSeconds, want)
		}
	}
}

func TestPublishedAndDeletedSecrets(t *testing.T) {
	d := input(recorded()).Object
	st := &d.Status
	if Published(st) {
		t.Error("published before it was written")
	}
	RecordPublished(d, *writtenSecret("digest-1"), true, t0)
	if !Published(st) {
		t.Error("not published after it was written")
	}
	SecretDeleted(st)
	same(t, "what is still to be written", *st.Secret, v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"})
	st.Leases = nil
	if SecretDeleted(st); st.Secret != nil {
		t.Errorf("nothing is to be written: %+v", st.Secret)
	}
}

// RecordPublished replaces what the Secret contained before; other records are not affected.
func TestPublishReplacesTheSetBefore(t *testing.T) {
	reasons := []string{v1alpha1.ReasonReplacing, reasonIncomplete, CauseUnpublished, v1alpha1.ReasonLeaseLost,
		reasonReplaced}
	want := []string{reasonReplaced, reasonReplaced, CauseUnpublished, v1alpha1.ReasonLeaseLost, reasonReplaced}
	in := input(recorded(numbered(9)))
	for i, reason := range reasons {
		retiring(record(numbered(i), retired(0, reason)))(&in)
	}
	RecordPublished(in.Object, *writtenSecret("digest-1"), true, t0)
	for i := range want {
		if got := in.Object.Status.Retiring[i].Reason; got != want[i] {
			t.Errorf("%s became %s, want %s", reasons[i], got, want[i])
		}
	}
}

// A refresh of a static source changes the Secret in two writes, like a publication.
func TestARefreshIsJournaled(t *testing.T) {
	d := input(keptSet(db(), settings(granted(time.Minute)))).Object
	st := &d.Status
	BeginRefresh(st, "digest-2")
	want := writtenSecret("digest-2")
	want.ResourceVersion, want.PreviousDigest = "", "digest-1"
	same(t, "during the refresh", *st.Secret, *want)
	if Published(st) || !contained(st) {
		t.Error("the Secret still contains the leases, but not the new value")
	}
	BeginRefresh(st, "digest-3")
	want.Digest, want.PreviousDigest = "digest-3", "digest-2"
	same(t, "during another refresh", *st.Secret, *want)

	Refreshed(&st.Leases[1], v1alpha1.ResponseStatic, "part-2", Term{At: t0.Add(time.Hour + half)})
	RecordPublished(d, *writtenSecret("digest-3"), true, t0.Add(time.Hour))
	value := settings(func(rec *v1alpha1.LeaseRecord) { rec.IssuedAt, rec.Digest = stampPtr(time.Hour), "part-2" })
	same(t, "the source", st.Leases[1], *value)
	same(t, "the other source", st.Leases[0], *db())
	same(t, "the Secret", *st.Secret, *writtenSecret("digest-3"))

	Refreshed(&st.Leases[1], v1alpha1.ResponseScheduled, "part-3", Term{At: t0, Duration: time.Minute, Renewable: true})
	want2 := settings(scheduled(time.Minute), func(rec *v1alpha1.LeaseRecord) { rec.Digest = "part-3" })
	same(t, "a source that became scheduled", st.Leases[1], *want2)
}

func TestRecords(t *testing.T) {
	d := input(keptSet(db(), broker(revocable), settings(), settings(source("web"), expiring)),
		attempt(record(numbered(5), noResponse)), retiring(record(numbered(6)))).Object
	var handles []string
	for _, rec := range Records(&d.Status) {
		handles = append(handles, rec.Handle())
	}
	same(t, "what may be alive", handles, []string{"token-5", "token-1", "token-2", "token-6"})
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

// The API stores whole seconds. What a transition writes must be what is read again.
func TestTransitionsWriteWholeSeconds(t *testing.T) {
	odd := t0.Add(333 * time.Millisecond)
	d := input(keptSet(db(), settings()), spec(rollingOut)).Object
	st := &d.Status
	rec := db(numbered(4), noResponse)
	SetSession(rec, "token-4", Term{Duration: time.Hour, At: odd})
	Journal(st, values([]*v1alpha1.LeaseRecord{rec}), odd)
	Respond(rec, v1alpha1.ResponseLeased, "lease-4", Term{At: odd, Duration: 90 * time.Minute})
	recordSet(d, "digest-2", odd, rec, settings())
	Renewed(&st.Leases[0], Term{At: odd.Add(time.Minute), Duration: 90 * time.Minute}, time.Hour)
	SessionExtended(&st.Leases[0], Term{At: odd, Duration: time.Hour})
	Refreshed(&st.Leases[1], v1alpha1.ResponseScheduled, "part-2", Term{At: odd, Duration: time.Minute + half})
	RecordPublished(d, *writtenSecret("digest-2"), true, odd)
	RecordRollout(st, "", nil, true, odd)
	RolledOut(st, odd)
	RetiringLost(d, 0, odd)
	Journal(st, values([]*v1alpha1.LeaseRecord{broker(noResponse)}), odd)
	RetireAttempt(st, Held{}, v1alpha1.ReasonIssuing, limit, odd)
	RetireLeases(d, v1alpha1.ReasonExpired, 0, odd)
	Resolve(st, broker(), odd)
	whole(t, reflect.ValueOf(d.Status))
	if len(st.Retiring) != 3 {
		t.Fatalf("%d records", len(st.Retiring))
	}
}

// whole fails for a time with a fraction of a second.
func whole(t *testing.T, v reflect.Value) {
	t.Helper()
	if at, ok := v.Interface().(metav1.Time); ok {
		if at.Nanosecond() != 0 {
			t.Errorf("%s has a fraction", at.Time)
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
