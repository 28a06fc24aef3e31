package lease

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// What the tests of this package are made from: an object that was never issued for, and modifiers that say what is
// different about it.

const (
	// calm is a UID whose jitter is nothing, so that times in tests are the plain ones.
	calm = types.UID("uid-422")
	// hasty is a UID with nearly the whole jitter.
	hasty = types.UID("uid-1341")
	// limit is the request limit.
	limit = 150 * time.Second
	// renewDue is when a lease of an hour is due: 67 percent.
	renewDue = 40*time.Minute + 12*time.Second
)

// t0 is when everything was issued, by default.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func stamp(d time.Duration) metav1.Time { return metav1.NewTime(t0.Add(d)) }

func stampPtr(d time.Duration) *metav1.Time { at := stamp(d); return &at }

// given is one thing that is different.
type given func(*Input)

func input(mods ...given) Input {
	in := Input{
		Now:           t0,
		RequestDigest: "asked",
		Target:        TargetAbsent,
		RequestLimit:  limit,
		Object: &v1alpha1.DynamicSecret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: calm, Generation: 7,
				Finalizers: []string{v1alpha1.Finalizer}},
			Spec: v1alpha1.DynamicSecretSpec{
				RefreshInterval: metav1.Duration{Duration: time.Hour},
				Lease: v1alpha1.LeaseSpec{RenewAtPercent: 67, OnExpiry: v1alpha1.OnExpiryDelete, Reissue: v1alpha1.ReissueAlways,
					OnDelete: v1alpha1.OnDeleteRevoke, RevocationDeadline: metav1.Duration{Duration: time.Hour}},
			},
		},
	}
	for _, mod := range mods {
		mod(&in)
	}
	return in
}

// all of the modifiers as one.
func all(mods ...given) given {
	return func(in *Input) {
		for _, mod := range mods {
			mod(in)
		}
	}
}

func after(d time.Duration) given { return func(in *Input) { in.Now = t0.Add(d) } }

func object(change func(*v1alpha1.DynamicSecret)) given {
	return func(in *Input) { change(in.Object) }
}

func spec(change func(*v1alpha1.DynamicSecretSpec)) given {
	return object(func(d *v1alpha1.DynamicSecret) { change(&d.Spec) })
}

func leaseSpec(change func(*v1alpha1.LeaseSpec)) given {
	return object(func(d *v1alpha1.DynamicSecret) { change(&d.Spec.Lease) })
}

func status(change func(*v1alpha1.DynamicSecretStatus)) given {
	return object(func(d *v1alpha1.DynamicSecret) { change(&d.Status) })
}

func annotated(key, value string) given {
	return object(func(d *v1alpha1.DynamicSecret) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, key, value) })
}

// change is one thing that is different about a record.
type change func(*v1alpha1.LeaseRecord)

// record of a renewable lease of an hour, issued at t0 by a token that does not expire.
func record(changes ...change) *v1alpha1.LeaseRecord {
	rec := &v1alpha1.LeaseRecord{
		Provider:        v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"},
		Address:         "https://vault.test:8200",
		Path:            "database/creds/orders",
		RequestDigest:   "asked",
		ID:              "lease-1",
		TokenAccessor:   "token-1",
		StartedAt:       stamp(0),
		IssuedAt:        stampPtr(0),
		ExpiresAt:       stampPtr(time.Hour),
		DurationSeconds: 3600,
		Renewable:       true,
	}
	for _, c := range changes {
		c(rec)
	}
	return rec
}

func numbered(n int) change {
	return func(rec *v1alpha1.LeaseRecord) {
		rec.ID, rec.TokenAccessor = fmt.Sprintf("lease-%d", n), fmt.Sprintf("token-%d", n)
	}
}

func unleased(rec *v1alpha1.LeaseRecord) {
	rec.ID, rec.ExpiresAt, rec.DurationSeconds, rec.Renewable = "", nil, 0, false
}

// unanswered is a record of which only the token is known.
func unanswered(rec *v1alpha1.LeaseRecord) { unleased(rec); rec.IssuedAt = nil }

func maxTTL(rec *v1alpha1.LeaseRecord) { rec.MaxTTLReached = true }

func notRenewable(rec *v1alpha1.LeaseRecord) { rec.Renewable = false }

// token that was granted for d at t0.
func token(d time.Duration, renewable bool) change {
	return func(rec *v1alpha1.LeaseRecord) {
		rec.TokenExpiresAt, rec.TokenDurationSeconds, rec.TokenRenewable = stampPtr(d), int64(d/time.Second), renewable
	}
}

func retired(at time.Duration, reason string) change {
	return func(rec *v1alpha1.LeaseRecord) { rec.EndAfter, rec.Reason = stampPtr(at), reason }
}

func attempt(changes ...change) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Attempt = record(append([]change{unanswered}, changes...)...)
	})
}

func retiring(recs ...*v1alpha1.LeaseRecord) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		for _, rec := range recs {
			st.Retiring = append(st.Retiring, *rec)
		}
	})
}

// recorded is a lease whose Secret is not written yet.
func recorded(changes ...change) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Lease = record(changes...)
		st.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"}
	})
}

// published is a Secret that holds what the status says.
func published(in *Input) {
	in.Object.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "5", Digest: "digest-1"}
	in.Target = TargetCurrent
}

// kept is a lease whose credential is in the Secret.
func kept(changes ...change) given { return all(recorded(changes...), published) }

// succeeded is a lease that follows another, which the Secret holds still.
func succeeded(changes ...change) given {
	return all(kept(numbered(2)), func(in *Input) {
		in.Object.Status.Secret.Digest, in.Object.Status.Secret.ResourceVersion = "digest-2", ""
		in.Target = TargetChanged
	}, retiring(record(append([]change{retired(0, v1alpha1.ReasonReplacing)}, changes...)...)))
}

func target(s TargetState) given { return func(in *Input) { in.Target = s } }

func held(accessor string, o Outcome) given {
	return func(in *Input) { in.Held = Held{Accessor: accessor, Outcome: o} }
}

func blocked(b Block) given { return func(in *Input) { in.Block = &b } }

func tries(change func(*Tries)) given {
	return func(in *Input) {
		if in.Tries.End == nil {
			in.Tries.End = map[string]Failure{}
		}
		change(&in.Tries)
	}
}

// failed is a failure that may be tried again at t0 + at.
func failed(at time.Duration) Failure {
	return Failure{Count: 1, NotBefore: t0.Add(at), Reason: v1alpha1.ReasonBackendUnavailable, Message: "vault does not answer"}
}

func endFailed(rec *v1alpha1.LeaseRecord, f Failure) given {
	return tries(func(t *Tries) { t.End[TryKey(rec)] = f })
}

func deleted(at time.Duration) given {
	return object(func(d *v1alpha1.DynamicSecret) { d.DeletionTimestamp = stampPtr(at) })
}

func never(s *v1alpha1.LeaseSpec) { s.Reissue = v1alpha1.ReissueNever }

func retain(s *v1alpha1.LeaseSpec) { s.OnExpiry = v1alpha1.OnExpiryRetain }

func suspended(s *v1alpha1.DynamicSecretSpec) { s.Suspend = true }

func revoking(s *v1alpha1.DynamicSecretSpec) { s.Revoked = true }

// full is as many retiring records as there may be, of which none can be ended yet.
func full(in *Input) {
	for i := range v1alpha1.MaxRetiring {
		retiring(record(numbered(100+i), retired(24*time.Hour, v1alpha1.ReasonIssuing)))(in)
	}
}

// upNext is a Step that waits for one thing, and looks when that is due.
func upNext(what string, at time.Duration) Step {
	return Step{Action: Wait, At: t0.Add(at), Next: what, NextAt: t0.Add(at)}
}

// same compares with the words of both.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}
