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

// The tests of this package start from an object that has no credential yet. Modifiers change it.

const (
	// noJitter is a UID without jitter, so that times in tests are the plain ones.
	noJitter = types.UID("uid-422")
	// muchJitter is a UID with nearly all of it.
	muchJitter = types.UID("uid-1341")
	// limit is the request limit.
	limit = 150 * time.Second
	// renewDue is when a lease of an hour must be renewed: after 67 percent.
	renewDue = 40*time.Minute + 12*time.Second
)

// t0 is when everything was issued, by default.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func stamp(d time.Duration) metav1.Time { return metav1.NewTime(t0.Add(d)) }

func stampPtr(d time.Duration) *metav1.Time { at := stamp(d); return &at }

func lasting(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// given modifies an input.
type given func(*Input)

func input(mods ...given) Input {
	in := Input{
		Now:          t0,
		Requests:     []Request{{Digest: "request-1"}},
		Target:       TargetAbsent,
		RequestLimit: limit,
		Object: &v1alpha1.DynamicSecret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: noJitter, Generation: 7,
				Finalizers: []string{v1alpha1.Finalizer}},
			Spec: v1alpha1.DynamicSecretSpec{
				RefreshInterval: lasting(time.Hour),
				Lease: v1alpha1.LeaseSpec{RenewAtPercent: 67, OnExpiry: v1alpha1.OnExpiryDelete,
					Reissue: v1alpha1.ReissueAlways, OnDelete: v1alpha1.OnDeleteRevoke,
					RevocationDeadline: lasting(time.Hour)},
			},
		},
	}
	for _, mod := range mods {
		mod(&in)
	}
	return in
}

// all combines modifiers.
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

func deleted(at time.Duration) given {
	return object(func(d *v1alpha1.DynamicSecret) { d.DeletionTimestamp = stampPtr(at) })
}

func finalizers(names ...string) given {
	return object(func(d *v1alpha1.DynamicSecret) { d.Finalizers = names })
}

func never(s *v1alpha1.LeaseSpec) { s.Reissue = v1alpha1.ReissueNever }

func retain(s *v1alpha1.LeaseSpec) { s.OnExpiry = v1alpha1.OnExpiryRetain }

func abandoning(s *v1alpha1.LeaseSpec) { s.OnDelete = v1alpha1.OnDeleteAbandon }

func suspended(s *v1alpha1.DynamicSecretSpec) { s.Suspend = true }

func revoking(s *v1alpha1.DynamicSecretSpec) { s.Revoked = true }

func overlapping(d time.Duration) given {
	return spec(func(s *v1alpha1.DynamicSecretSpec) { s.Rotation.Overlap = lasting(d) })
}

func maxAge(d time.Duration) given {
	return spec(func(s *v1alpha1.DynamicSecretSpec) { s.Rotation.MaxAge = lasting(d) })
}

func rollingOut(s *v1alpha1.DynamicSecretSpec) { s.Rollout = &v1alpha1.RolloutSpec{Discover: true} }

func deadline(d time.Duration) given {
	return leaseSpec(func(s *v1alpha1.LeaseSpec) { s.RevocationDeadline = lasting(d) })
}

// attempt is an issuance in progress: of the records, or of one without a response.
func attempt(recs ...*v1alpha1.LeaseRecord) given {
	if len(recs) == 0 {
		recs = append(recs, record(noResponse))
	}
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Attempt = &v1alpha1.IssuanceAttempt{Records: values(recs)}
	})
}

func retiring(recs ...*v1alpha1.LeaseRecord) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) { st.Retiring = append(st.Retiring, values(recs)...) })
}

func values(recs []*v1alpha1.LeaseRecord) []v1alpha1.LeaseRecord {
	var all []v1alpha1.LeaseRecord
	for _, rec := range recs {
		all = append(all, *rec.DeepCopy())
	}
	return all
}

// recordedSet is a set of leases whose Secret is not written yet. The spec requests the same.
func recordedSet(recs ...*v1alpha1.LeaseRecord) given {
	return func(in *Input) {
		in.Requests, in.Object.Spec.Sources = nil, nil
		for _, rec := range recs {
			in.Requests = append(in.Requests, Request{Source: rec.Source, Digest: rec.RequestDigest})
			if rec.Source != "" {
				in.Object.Spec.Sources = append(in.Object.Spec.Sources, v1alpha1.SecretSource{Name: rec.Source})
			}
		}
		in.Object.Status.Leases = values(recs)
		in.Object.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", Digest: "digest-1"}
	}
}

// keptSet is a set of leases whose credentials are in the Secret.
func keptSet(recs ...*v1alpha1.LeaseRecord) given { return all(recordedSet(recs...), published) }

// recorded and kept are sets of one.
func recorded(changes ...change) given { return recordedSet(record(changes...)) }

func kept(changes ...change) given { return keptSet(record(changes...)) }

// published is a Secret that contains what the status says.
func published(in *Input) {
	in.Object.Status.Secret = writtenSecret("digest-1")
	in.Target = TargetCurrent
}

func writtenSecret(digest string) *v1alpha1.SecretStatus {
	return &v1alpha1.SecretStatus{Name: "orders", UID: "secret-1", ResourceVersion: "5", Digest: digest}
}

// succeeding is a set that is recorded while the Secret still contains other records, which retire.
func succeeding(set []*v1alpha1.LeaseRecord, before ...*v1alpha1.LeaseRecord) given {
	return all(keptSet(set...), func(in *Input) {
		in.Object.Status.Secret.Digest, in.Object.Status.Secret.ResourceVersion = "digest-2", ""
		in.Target = TargetChanged
	}, retiring(before...))
}

// succeeded is that with one record each: lease-2 follows lease-1.
func succeeded(changes ...change) given {
	before := record(append([]change{retired(0, v1alpha1.ReasonReplacing)}, changes...)...)
	return succeeding([]*v1alpha1.LeaseRecord{record(numbered(2))}, before)
}

func noLeases(st *v1alpha1.DynamicSecretStatus) { st.Leases = nil }

func target(s TargetState) given { return func(in *Input) { in.Target = s } }

func outOfSync(in *Input) { in.OutOfSync = true }

// held are the records of an issuance of this process.
func held(o Outcome, settled bool, recs ...*v1alpha1.LeaseRecord) given {
	return func(in *Input) {
		in.Held = Held{Outcome: o}
		for _, rec := range recs {
			in.Held.Records = append(in.Held.Records, HeldRecord{Record: *rec.DeepCopy(), Settled: settled})
		}
	}
}

// issued are responses of this process.
func issued(recs ...*v1alpha1.LeaseRecord) given { return held(OutcomeIssued, true, recs...) }

func lost(ids ...string) given { return func(in *Input) { in.Lost = setOf(ids) } }

func suspect(ids ...string) given { return func(in *Input) { in.Suspects = setOf(ids) } }

func setOf(ids []string) map[string]bool {
	set := map[string]bool{}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

func done(recs ...*v1alpha1.LeaseRecord) given {
	return func(in *Input) {
		in.Done = map[string]bool{}
		for _, rec := range recs {
			in.Done[Key(rec)] = true
		}
	}
}

func requesting(requests ...Request) given { return func(in *Input) { in.Requests = requests } }

func readAt(source string, at time.Duration) given {
	return func(in *Input) { in.Reads = map[string]Read{source: {At: t0.Add(at)}} }
}

func blocked(b Block) given { return func(in *Input) { in.Block = &b } }

// full adds the maximum number of retiring records. None can be revoked yet.
func full(in *Input) {
	for i := range v1alpha1.MaxRetiring {
		retiring(record(numbered(100+i), retired(24*time.Hour, v1alpha1.ReasonIssuing)))(in)
	}
}

// same compares, and prints both.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func tokenOf(n int) string { return fmt.Sprintf("token-%d", n) }

func leaseOf(n int) string { return fmt.Sprintf("lease-%d", n) }
