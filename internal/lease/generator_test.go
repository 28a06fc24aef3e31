package lease

import (
	"fmt"
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// The generators produce whatever the types permit, not only what leasekeeper writes: somebody can edit a status, and
// it can be older than the program. There are few values, so that they meet.

func oneOf[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

func maybe(t *rapid.T, label string) bool { return rapid.Bool().Draw(t, label) }

// rarely is true once in eight times.
func rarely(t *rapid.T, label string) bool { return rapid.IntRange(0, 7).Draw(t, label+" if 7") == 7 }

// drawTime is near t0, or rarely any time that JSON can contain.
func drawTime(t *rapid.T, label string) metav1.Time {
	if rarely(t, label+" is odd") {
		first, last := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		return metav1.Unix(rapid.Int64Range(first.Unix(), last.Unix()).Draw(t, label), 0)
	}
	seconds := oneOf(t, label, -7200, -150, -60, -1, 0, 1, 60, 150, 1206, 2412, 3600, 3661, 7200, 7260)
	return stamp(time.Duration(seconds) * time.Second)
}

func drawTimePtr(t *rapid.T, label string) *metav1.Time {
	if maybe(t, "no "+label) {
		return nil
	}
	at := drawTime(t, label)
	return &at
}

func drawSeconds(t *rapid.T, label string) int64 {
	return oneOf(t, label, int64(3600), 0, 60, 7200, -5, math.MaxInt64, math.MinInt64)
}

func drawRecord(t *rapid.T, label string) v1alpha1.LeaseRecord {
	rec := *record(numbered(rapid.IntRange(0, 3).Draw(t, label)), source(oneOf(t, "source", "", "db", "broker")))
	rec.Kind = oneOf(t, "kind", v1alpha1.ResponseLeased, v1alpha1.ResponseLeased, v1alpha1.ResponseExpiring,
		v1alpha1.ResponseScheduled, v1alpha1.ResponseStatic, "", "Unknown")
	if maybe(t, "without an id") {
		rec.ID = ""
	}
	switch {
	case rarely(t, "without a backend"):
		rec.Vault = nil
	case rarely(t, "without a handle"):
		rec.Vault.TokenAccessor = ""
	}
	rec.RequestDigest = oneOf(t, "digest", "request-1", "request-2")
	rec.StartedAt = drawTime(t, "startedAt")
	rec.IssuedAt, rec.RenewedAt = drawTimePtr(t, "issuedAt"), drawTimePtr(t, "renewedAt")
	rec.ExpiresAt, rec.RevokeAfter = drawTimePtr(t, "expiresAt"), drawTimePtr(t, "revokeAfter")
	rec.DurationSeconds, rec.MaxTTLSeconds = drawSeconds(t, "duration"), drawSeconds(t, "max TTL")
	rec.Renewable, rec.Revocable = maybe(t, "renewable"), rarely(t, "revocable")
	rec.MaxTTLReached, rec.Once = rarely(t, "max TTL reached"), rarely(t, "once")
	if maybe(t, "has a session") {
		rec.Session = &v1alpha1.SessionTerm{
			ExpiresAt: drawTime(t, "session"), DurationSeconds: drawSeconds(t, "session"),
			Renewable: maybe(t, "session renewable"),
		}
	}
	rec.Reason = oneOf(t, "reason", reasonReplaced, reasonReplaced, v1alpha1.ReasonReplacing, v1alpha1.ReasonReplacing,
		reasonIncomplete, v1alpha1.ReasonIssuing, v1alpha1.ReasonExpired, CauseUnpublished, "", "\xff")
	return rec
}

// drawRecords draws up to three records and repeats them up to n.
func drawRecords(t *rapid.T, label string, n int) []v1alpha1.LeaseRecord {
	var some, all []v1alpha1.LeaseRecord
	for range min(n, 3) {
		some = append(some, drawRecord(t, label))
	}
	for i := range n {
		all = append(all, *some[i%len(some)].DeepCopy())
	}
	return all
}

func drawFailure(t *rapid.T, label string) Failure {
	count := oneOf(t, label+" failures", 0, 0, 0, 1, 5, math.MaxInt)
	if count == 0 {
		return Failure{}
	}
	return Failure{Count: count, At: drawTime(t, label+" at").Time, NotBefore: drawTime(t, label+" not before").Time,
		Reason: v1alpha1.ReasonBackendUnavailable, Message: label + " failed",
		Stalled: maybe(t, "stalled"), Final: rarely(t, "final")}
}

func drawObject(t *rapid.T) *v1alpha1.DynamicSecret {
	d := input().Object
	d.UID = types.UID(oneOf(t, "uid", string(noJitter), string(muchJitter), "", "other"))
	d.Annotations = map[string]string{}
	for _, key := range []string{v1alpha1.RenewRequestedAtAnnotation, v1alpha1.ForceSyncAnnotation,
		v1alpha1.RotateRequestedAtAnnotation, v1alpha1.AbandonLeaseAnnotation} {
		if v := oneOf(t, key, "", "", "1", "true", "\xff"); v != "" {
			d.Annotations[key] = v
		}
	}
	if rarely(t, "without a finalizer") {
		d.Finalizers = nil
	}
	if rarely(t, "deleted") {
		at := drawTime(t, "deletionTimestamp")
		d.DeletionTimestamp = &at
	}
	drawSpec(t, &d.Spec)
	drawStatus(t, &d.Status)
	return d
}

func drawSpec(t *rapid.T, s *v1alpha1.DynamicSecretSpec) {
	s.Suspend, s.Revoked = rarely(t, "suspended"), rarely(t, "revoked")
	s.RefreshInterval = oneOf(t, "refreshInterval", nil, lasting(time.Second), lasting(time.Hour))
	if maybe(t, "has sources") {
		s.Sources = []v1alpha1.SecretSource{{Name: "db"}, {Name: "broker"}}
	}
	ls := &s.Lease
	ls.RenewAtPercent = oneOf(t, "renewAtPercent", int32(67), 0, 10, 90)
	ls.OnExpiry = oneOf(t, "onExpiry", v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain, "")
	ls.Reissue = oneOf(t, "reissue", v1alpha1.ReissueAlways, v1alpha1.ReissueAlways, v1alpha1.ReissueNever, "")
	ls.OnDelete = oneOf(t, "onDelete", v1alpha1.OnDeleteRevoke, v1alpha1.OnDeleteRevoke, v1alpha1.OnDeleteAbandon)
	ls.RevocationDeadline = oneOf(t, "revocationDeadline", nil, lasting(0), lasting(time.Minute))
	ls.Increment = oneOf(t, "increment", nil, lasting(time.Second), lasting(2*time.Hour))
	s.Rotation.MaxAge = oneOf(t, "maxAge", nil, nil, lasting(time.Minute), lasting(time.Hour))
	s.Rotation.Overlap = oneOf(t, "overlap", nil, lasting(0), lasting(time.Minute), lasting(5*time.Hour))
	s.Rollout = oneOf(t, "rollout", nil, nil, &v1alpha1.RolloutSpec{Discover: true})
}

func drawStatus(t *rapid.T, st *v1alpha1.DynamicSecretStatus) {
	if maybe(t, "has a handover") {
		st.Handover = &v1alpha1.HandoverStatus{Stamp: "stamp", PublishedAt: drawTime(t, "publishedAt"),
			StampedAt: drawTimePtr(t, "stampedAt"), RolledOutAt: drawTimePtr(t, "rolledOutAt"),
			CutShortAt: drawTimePtr(t, "cutShortAt"), RolloutSeconds: drawSeconds(t, "rollout"),
			Reason: oneOf(t, "rollout", "", v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutTargetNotFound)}
	}
	if rarely(t, "attempt") {
		st.Attempt = &v1alpha1.IssuanceAttempt{Records: drawRecords(t, "attempt", oneOf(t, "attempts", 1, 2, 0, 20))}
		for i := range st.Attempt.Records {
			rec := &st.Attempt.Records[i] // of new sessions
			noResponse(rec)
			rec.SetHandle(tokenOf(30 + i))
		}
	}
	st.Leases = drawRecords(t, "lease", oneOf(t, "leases", 1, 1, 2, 3, 0, 0, 20))
	retiring := oneOf(t, "retiring", 0, 0, 1, 2, 3, v1alpha1.MaxRetiring-1, v1alpha1.MaxRetiring, 70)
	st.Retiring = drawRecords(t, "retiring record", retiring)
	if maybe(t, "has a Secret") {
		st.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1",
			UID: types.UID(oneOf(t, "Secret", "secret-1", "")), ResourceVersion: oneOf(t, "version", "5", ""),
			PreviousDigest: oneOf(t, "previous", "", "", "digest-0")}
	}
	if rarely(t, "grant ended") {
		st.GrantEndedAt = drawTimePtr(t, "grantEndedAt")
	}
	st.LastHandledRenewAt = oneOf(t, "handled renew", "", "1")
	st.LastHandledRotateAt = oneOf(t, "handled rotate", "", "1")
}

var nightly, _ = ParseWindows([]v1alpha1.RotationWindow{{Schedule: "0 2 * * *", Duration: *lasting(time.Hour)}})

func drawInput(t *rapid.T) Input {
	d := drawObject(t)
	in := Input{
		Now:            drawTime(t, "now").Add(oneOf(t, "fraction", 0, time.Nanosecond, 600*time.Millisecond)),
		Object:         d,
		Requests:       drawRequests(t, d),
		Target:         oneOf(t, "target", TargetCurrent, TargetAbsent, TargetChanged, TargetForeign, "Unknown"),
		OutOfSync:      maybe(t, "out of sync"),
		Lost:           setOf(oneOf(t, "lost", nil, nil, []string{"lease-1"}, []string{"lease-2", ""})),
		Suspects:       setOf(oneOf(t, "suspects", nil, nil, []string{"lease-1", ""})),
		Held:           drawHeld(t, d),
		Windows:        oneOf(t, "windows", nil, nil, nightly),
		RolloutCheckAt: drawTime(t, "check").Time,
		RolloutWindow:  oneOf(t, "rollout window", 0, 30*time.Second),
		RolloutOff:     rarely(t, "rollouts off"),
		RequestLimit:   oneOf(t, "request limit", limit, 0),
		Done:           map[string]bool{}, Reads: map[string]Read{}, Handled: map[string]string{},
	}
	if d.Status.Secret == nil && in.Target == TargetCurrent {
		in.Target = TargetAbsent // the status describes no Secret that could be current
	}
	if rarely(t, "blocked") {
		b := notReadyBlock
		b.Stalled, b.Lapses = maybe(t, "stalled block"), maybe(t, "leases lapse")
		in.Block = &b
	}
	if rarely(t, "invalid") {
		in.Invalid = &windowBlock
	}
	drawMemory(t, &in)
	return in
}

func drawRequests(t *rapid.T, d *v1alpha1.DynamicSecret) (requests []Request) {
	if rarely(t, "requests differ") {
		return []Request{{Source: "db", Digest: oneOf(t, "request", "request-1", "request-2", "")}}
	}
	for i := range d.Status.Leases {
		rec := &d.Status.Leases[i]
		digest := oneOf(t, "request", rec.RequestDigest, rec.RequestDigest, "")
		requests = append(requests, Request{Source: rec.Source, Digest: digest})
	}
	return requests
}

// drawHeld draws an issuance of this process: the attempt, the leases, or one whose attempt is gone.
func drawHeld(t *rapid.T, d *v1alpha1.DynamicSecret) (h Held) {
	var records []v1alpha1.LeaseRecord
	switch oneOf(t, "held", "", "", "attempt", "leases", "other") {
	case "attempt":
		if d.Status.Attempt != nil {
			records = d.Status.Attempt.Records
		}
	case "leases":
		records = d.Status.Leases
	case "other":
		records = values([]*v1alpha1.LeaseRecord{record(numbered(50), noResponse), record(numbered(51), noResponse)})
	}
	if len(records) == 0 {
		return Held{}
	}
	h.Outcome = oneOf(t, "outcome", OutcomePending, OutcomeIssued, OutcomeFailed)
	for i := range records {
		rec := HeldRecord{Record: *records[i].DeepCopy(), Settled: maybe(t, "settled")}
		if h.Outcome == OutcomeIssued {
			rec.Settled = true
			Respond(&rec.Record, v1alpha1.ResponseLeased, fmt.Sprintf("lease-%d", 10+i),
				Term{At: t0, Duration: time.Hour})
		}
		h.Records = append(h.Records, rec)
	}
	return h
}

// drawMemory draws what this process remembers of its failures, reads and revocations.
func drawMemory(t *rapid.T, in *Input) {
	in.Tries = Tries{Issue: drawFailure(t, "issue"), Publish: drawFailure(t, "publish"), Sync: drawFailure(t, "sync"),
		Settle: drawFailure(t, "settle"), DeleteSecret: drawFailure(t, "delete"), Renew: map[string]Failure{},
		ExtendSession: map[string]Failure{}, Revoke: map[string]Failure{}, Refresh: map[string]Failure{}}
	st := &in.Object.Status
	for _, records := range [][]v1alpha1.LeaseRecord{st.Leases, st.Retiring} {
		for i := range records[:min(len(records), 3)] { // the others repeat these
			key := Key(&records[i])
			for what, failures := range map[string]map[string]Failure{"renew": in.Tries.Renew,
				"extend": in.Tries.ExtendSession, "revoke": in.Tries.Revoke} {
				if rarely(t, what+" "+key+" fails") {
					failures[key] = drawFailure(t, what)
				}
			}
			if rarely(t, key+" done") {
				in.Done[key] = true
			}
		}
	}
	for _, name := range []string{"", "db"} {
		if rarely(t, "read of "+name) {
			in.Reads[name] = Read{At: drawTime(t, "read").Time, Next: drawTime(t, "next").Time}
		}
		if rarely(t, "refresh of "+name) {
			in.Tries.Refresh[name] = drawFailure(t, "refresh")
		}
		if rarely(t, "handled for "+name) {
			in.Handled[name] = RequestedRenewal(in.Object)
		}
	}
}
