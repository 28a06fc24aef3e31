package lease

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// choices turns bytes into a case: all bytes are one, and a small change of them is a small change of it. Where they run
// out, each choice is the first.
type choices struct{ rest []byte }

func (c *choices) below(n int) int {
	if len(c.rest) == 0 {
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return int(b) % n
}

func (c *choices) yes() bool    { return c.below(2) == 1 }
func (c *choices) rarely() bool { return c.below(8) == 7 }

func (c *choices) number() int64 {
	var b [8]byte
	c.rest = c.rest[copy(b[:], c.rest):]
	return int64(binary.LittleEndian.Uint64(b[:]))
}

// The times that JSON can say.
var (
	firstTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	lastTime  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
)

// time is one near t0, mostly, or any that a status can hold.
func (c *choices) time() metav1.Time {
	near := []time.Duration{0, time.Second, time.Minute, limit, renewDue, time.Hour, 2 * time.Hour, -time.Second, -time.Hour}
	switch n := c.below(16); {
	case n < len(near):
		return stamp(near[n])
	case n < 14:
		return stamp(time.Duration(int16(c.below(256)<<8|c.below(256))) * time.Second)
	case n == 14:
		return metav1.Unix(firstTime+int64(uint64(c.number())%uint64(lastTime-firstTime)), 0)
	}
	return metav1.Time{}
}

func (c *choices) timePtr() *metav1.Time {
	if c.yes() {
		return nil
	}
	at := c.time()
	return &at
}

func (c *choices) seconds() int64 {
	return []func() int64{func() int64 { return 3600 }, func() int64 { return 0 }, func() int64 { return int64(c.below(256)) }, c.number}[c.below(4)]()
}

// duration is one that the API server takes in a spec: a second or more.
func (c *choices) duration() time.Duration {
	return []func() time.Duration{
		func() time.Duration { return time.Hour }, func() time.Duration { return time.Second },
		func() time.Duration { return time.Duration(c.below(256)+1) * time.Second },
		func() time.Duration { return max(time.Second, time.Duration(c.number())) },
	}[c.below(4)]()
}

func pick[T any](c *choices, values ...T) T { return values[c.below(len(values))] }

func (c *choices) record() *v1alpha1.LeaseRecord {
	rec := record(numbered(c.below(4)))
	if c.rarely() {
		rec.ID = ""
	}
	if c.rarely() {
		rec.TokenAccessor = ""
	}
	rec.RequestDigest = pick(c, "asked", "changed")
	rec.StartedAt = c.time()
	rec.IssuedAt, rec.RenewedAt, rec.ExpiresAt, rec.TokenExpiresAt = c.timePtr(), c.timePtr(), c.timePtr(), c.timePtr()
	rec.DurationSeconds, rec.TokenDurationSeconds = c.seconds(), c.seconds()
	rec.Renewable, rec.TokenRenewable, rec.MaxTTLReached = c.yes(), c.yes(), c.rarely()
	rec.EndAfter = c.timePtr()
	rec.MaxTTLSeconds = pick(c, 0, 0, c.seconds())
	rec.Reason = pick(c, v1alpha1.ReasonReplacing, reasonReplaced, reasonReplaced, "", v1alpha1.ReasonIssuing, v1alpha1.ReasonExpired, CauseUnpublished, "\xff")
	return rec
}

func (c *choices) recordPtr() *v1alpha1.LeaseRecord {
	if c.yes() {
		return nil
	}
	return c.record()
}

func (c *choices) failure() Failure {
	count := pick(c, 0, 0, 1, 5, math.MaxInt)
	if count == 0 {
		return Failure{}
	}
	return Failure{Count: count, NotBefore: c.time().Time, Reason: v1alpha1.ReasonBackendUnavailable, Message: "failed", Stalled: c.yes(), Final: c.rarely()}
}

func (c *choices) object() *v1alpha1.DynamicSecret {
	d := input().Object
	d.UID = types.UID(pick(c, string(calm), string(hasty), "", "other"))
	d.Annotations = map[string]string{}
	for _, key := range []string{v1alpha1.RenewRequestedAtAnnotation, v1alpha1.ForceSyncAnnotation, v1alpha1.RotateRequestedAtAnnotation, v1alpha1.AbandonLeaseAnnotation} {
		if v := pick(c, "", "1", "true", "\xff"); v != "" {
			d.Annotations[key] = v
		}
	}
	if c.rarely() {
		d.Finalizers = nil
	}
	if c.rarely() {
		d.DeletionTimestamp = c.timePtr()
	}
	d.Spec.Suspend, d.Spec.Revoked = c.rarely(), c.rarely()
	d.Spec.RefreshInterval.Duration = c.duration()
	ls := &d.Spec.Lease
	ls.RenewAtPercent = pick(c, int32(67), 0, 10, 90, 100)
	ls.OnExpiry = pick(c, v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain, "")
	ls.Reissue = pick(c, v1alpha1.ReissueAlways, v1alpha1.ReissueNever, "")
	ls.OnDelete = pick(c, v1alpha1.OnDeleteRevoke, v1alpha1.OnDeleteAbandon, "")
	ls.RevocationDeadline.Duration = c.duration() - time.Second
	if c.yes() {
		ls.Increment = &metav1.Duration{Duration: c.duration()}
	}
	c.rotation(&d.Spec)
	st := &d.Status
	if c.yes() {
		st.Handover = &v1alpha1.HandoverStatus{Stamp: "stamp", PublishedAt: c.time(), StampedAt: c.timePtr(), RolledOutAt: c.timePtr(), CutShortAt: c.timePtr(),
			RolloutSeconds: c.seconds(), Reason: pick(c, "", v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutTargetNotFound)}
	}
	st.Attempt, st.Lease = c.recordPtr(), c.recordPtr()
	for range pick(c, 0, 0, 1, 2, v1alpha1.MaxRetiring-1, v1alpha1.MaxRetiring, 2*v1alpha1.MaxRetiring) {
		st.Retiring = append(st.Retiring, *c.record())
	}
	if c.yes() {
		st.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1", UID: pick(c, types.UID("secret-1"), ""), ResourceVersion: pick(c, "5", "")}
	}
	if c.rarely() {
		st.GrantEndedAt = c.timePtr()
	}
	st.LastHandledRenewAt, st.LastHandledRotateAt = pick(c, "", "1"), pick(c, "", "1")
	return d
}

func (c *choices) rotation(spec *v1alpha1.DynamicSecretSpec) {
	if c.yes() {
		spec.Rotation.MaxAge = &metav1.Duration{Duration: c.duration()}
	}
	if c.yes() {
		spec.Rotation.Overlap = &metav1.Duration{Duration: c.duration() - time.Second}
	}
	if c.yes() {
		spec.Rollout = &v1alpha1.RolloutSpec{Discover: c.yes()}
	}
}

func (c *choices) input() Input {
	in := Input{
		Now: c.time().Add(pick(c, 0, time.Nanosecond, 600*time.Millisecond)), Object: c.object(),
		RequestDigest: pick(c, "asked", "changed", ""), Target: pick(c, TargetCurrent, TargetAbsent, TargetChanged, TargetForeign, "?"),
		OutOfSync: c.yes(), LostID: pick(c, "", "", "lease-1", "lease-2"), SuspectID: pick(c, "", "", "lease-1"),
		Held:         Held{Accessor: pick(c, "", "token-1", "token-2"), Outcome: pick(c, OutcomeNone, OutcomeIssued, OutcomeRefused, OutcomeUnanswered)},
		Tries:        Tries{Issue: c.failure(), Renew: c.failure(), ExtendToken: c.failure(), Publish: c.failure(), Sync: c.failure(), Settle: c.failure(), End: map[string]Failure{}},
		RequestLimit: pick(c, limit, 0, time.Hour),
		RolloutLook:  c.time().Time, RolloutWindow: pick(c, 30*time.Second, 0), RolloutOff: c.rarely(),
	}
	in.Tries.Keep = map[string]Failure{}
	if c.rarely() {
		in.Windows, _ = ParseWindows([]v1alpha1.RotationWindow{{Schedule: "0 2 * * *", Duration: metav1.Duration{Duration: time.Hour}}})
	}
	if c.rarely() {
		in.Invalid = &Block{Reason: v1alpha1.ReasonInvalidWindow, Message: "not understood", Stalled: true}
	}
	if in.Object.Status.Secret == nil && in.Target == TargetCurrent {
		in.Target = TargetAbsent // nothing vouches for it
	}
	for i := range in.Object.Status.Retiring {
		if f := c.failure(); f.Count > 0 {
			in.Tries.End[TryKey(&in.Object.Status.Retiring[i])] = f
		}
	}
	if c.rarely() {
		in.Block = &Block{Reason: v1alpha1.ReasonProviderNotReady, Message: "not checked yet", Stalled: c.yes()}
	}
	return in
}

// Whatever a status holds, whatever the time is: there is one step, it can be taken, nothing is issued while an attempt
// is open or without a cause, no record is ended before its time or given up before its bound, and none gets lost.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	for i := range 64 {
		seed := make([]byte, 16*(i+1))
		for j := range seed {
			seed[j] = byte((i + 3) * (j + 7) * 37 >> 2)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		c := &choices{bytes}
		in := c.input()
		before := copyInput(in)
		if s, again := Plan(in), Plan(in); !reflect.DeepEqual(again, s) || !reflect.DeepEqual(in, before) {
			t.Fatalf("two answers to one question, %+v and %+v, or the input was changed:\n got %+v\nwant %+v", s, again, in, before)
		}
		for range 12 {
			s := Plan(in)
			takeable(t, in, s)
			switch s.Action {
			case IssueCredential:
				issuable(t, in)
			case AbandonRecord:
				abandonable(t, in, s)
			}
			Summarize(in, s) // only that it does not panic; TestSummarizeIsConsistent says what it says
			was, retiring := owed(&in.Object.Status), len(in.Object.Status.Retiring)
			if s.Action == EndRecord || s.Action == AbandonRecord {
				was[in.Object.Status.Retiring[s.Record].TokenAccessor]--
			}
			if !c.take(&in, s) {
				return
			}
			nothingIsLost(t, was, in, s)
			if s.Action == DropAttempt {
				if rec := in.Object.Status.Retiring[retiring]; rec.EndAfter == nil || rec.EndAfter.Time.Before(s.EndAfter) {
					t.Fatalf("the attempt may be ended at %v, before %s", rec.EndAfter, s.EndAfter)
				}
			}
		}
	})
}

// abandonable: a record is given up only when somebody said so, when its end makes no sense, or when its end was tried in
// vain and either its own life is over or the deadline has passed.
func abandonable(t *testing.T, in Input, s Step) {
	t.Helper()
	d := in.Object
	rec := d.Status.Retiring[s.Record]
	failure := in.Tries.End[TryKey(&rec)]
	going := !d.DeletionTimestamp.IsZero()
	ordered := going && (d.Spec.Lease.OnDelete == v1alpha1.OnDeleteAbandon || d.Annotations[v1alpha1.AbandonLeaseAnnotation] == "true")
	dead := rec.ExpiresAt != nil && Leased(&rec) && in.Now.After(rec.ExpiresAt.Time) ||
		rec.TokenExpiresAt != nil && in.Now.After(rec.TokenExpiresAt.Time)
	late := going && !in.Now.Before(d.DeletionTimestamp.Add(d.Spec.Lease.RevocationDeadline.Duration))
	if !failure.Final && !ordered && (failure.Count == 0 || !dead && !late) {
		t.Fatalf("given up: %+v, failures %+v, at %s", rec, failure, in.Now)
	}
}

// owed counts records by what they are known by. An answer without a lease is owed nothing.
func owed(st *v1alpha1.DynamicSecretStatus) map[string]int {
	all := map[string]int{}
	for _, rec := range Records(st) {
		all[rec.TokenAccessor]++
	}
	return all
}

// nothingIsLost: whatever was on record still is, unless this step ended it or gave it up.
func nothingIsLost(t *testing.T, was map[string]int, after Input, s Step) {
	t.Helper()
	is := owed(&after.Object.Status)
	for accessor, n := range was {
		if is[accessor] < n {
			t.Fatalf("%s loses the record of %q:\n%+v", s.Action, accessor, after.Object.Status)
		}
	}
}

// take carries the step out, with a backend and an API server that answer as they like. False: there is nothing more.
func (c *choices) take(in *Input, s Step) bool {
	d, st := in.Object, &in.Object.Status
	term := func() Term {
		return Term{At: in.Now, Duration: pick(c, time.Hour, time.Minute, 0), Renewable: c.yes(), Capped: c.rarely()}
	}
	fails := func(f *Failure) bool {
		if !c.rarely() {
			*f = Failure{}
			return false
		}
		*f = Failure{Count: f.Count/2 + 1, NotBefore: in.Now.Add(Backoff(f.Count, d.UID)), Reason: v1alpha1.ReasonBackendUnavailable, Message: "failed", Final: c.rarely()}
		return true
	}
	switch s.Action {
	case Wait:
		if s.At.IsZero() {
			return false
		}
		in.Now = s.At
	case AddFinalizer:
		d.Finalizers = append(d.Finalizers, v1alpha1.Finalizer)
	case RemoveFinalizer:
		return false
	case IssueCredential:
		if fails(&in.Tries.Issue) {
			return true
		}
		accessor := fmt.Sprintf("token-%d-%d", in.Now.UnixNano(), len(st.Retiring))
		Journal(st, *record(unanswered), accessor, Term{Duration: pick(c, time.Hour, 0), At: in.Now, Renewable: c.yes()}, in.Now)
		in.Held = Held{Accessor: accessor, Outcome: pick(c, OutcomeIssued, OutcomeRefused, OutcomeUnanswered, OutcomeNone)}
		if c.rarely() {
			in.Held = Held{} // it died
		}
	case RecordLease:
		Record(d, pick(c, "lease-9", ""), term(), pick(c, "digest-9", "digest-1"), in.Now)
	case DropAttempt:
		RetireAttempt(st, pick(c, "", "lease-8"), s.EndAfter, s.Reason)
		in.Held = Held{}
	case ResolveHeld:
		if !fails(&in.Tries.Settle) {
			Resolve(st, in.Held.Accessor, "lease-7", in.Now)
			in.Held = Held{}
		}
	case DropLease:
		RetireLease(d, s.Reason, in.Now)
	case PublishSecret:
		if !fails(&in.Tries.Publish) {
			Publish(d, v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "6", Digest: "digest-9"}, c.yes(), in.Now)
			in.Target, in.Held = TargetCurrent, Held{}
		}
	case SyncSecret:
		if !fails(&in.Tries.Sync) {
			in.OutOfSync = false
		}
	case DeleteSecret:
		SecretDeleted(st)
		in.Target = TargetAbsent
	case RenewLease:
		if !fails(&in.Tries.Renew) {
			Renewed(d.Status.Lease, term(), Increment(st.Lease, &d.Spec.Lease, in.Now))
			RenewalHandled(d)
		}
	case VerifyLease:
		in.SuspectID = ""
		if c.yes() {
			in.LostID = st.Lease.ID
		}
	case AcknowledgeRenew:
		RenewalHandled(d)
	case ExtendToken:
		if !fails(&in.Tries.ExtendToken) {
			TokenExtended(st.Lease, term())
		}
	case RenewRetiring, ExtendRetiring:
		rec := &st.Retiring[s.Record]
		f := in.Tries.Keep[TryKey(rec)]
		switch {
		case fails(&f):
		case c.rarely():
			RetiringLost(d, s.Record, in.Now)
		case s.Action == RenewRetiring:
			Renewed(rec, term(), Increment(rec, &d.Spec.Lease, in.Now))
		default:
			TokenExtended(rec, term())
		}
		in.Tries.Keep[TryKey(rec)] = f
	case FollowRollout:
		if c.yes() {
			RolledOut(st, in.Now)
		} else {
			in.RolloutLook = in.Now.Add(time.Second)
			Rolling(st, v1alpha1.ReasonRollingOut, nil, c.yes(), in.Now)
		}
	case EndRecord:
		key := TryKey(&st.Retiring[s.Record])
		f := in.Tries.End[key]
		if fails(&f) {
			in.Tries.End[key] = f
			return true
		}
		delete(in.Tries.End, key)
		Ended(d, s.Record, in.Now)
	case AbandonRecord:
		Ended(d, s.Record, in.Now)
	}
	return true
}
