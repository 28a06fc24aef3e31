package provider

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestInspectsSoonerWhileNotReady(t *testing.T) {
	unavailable := backend.Errorf(backend.Unavailable, "it is unavailable")
	for _, c := range []struct {
		it    string
		given func(*bed)
		after time.Duration
	}{
		{"a ready provider", func(*bed) {}, time.Hour},
		{"an unavailable server", func(b *bed) { b.err = unavailable }, time.Minute},
		{"no backend", func(b *bed) { b.notFound = unavailable }, time.Minute},
		{"a backend that cannot be inspected", func(b *bed) { b.plain = true }, time.Hour},
	} {
		t.Run(c.it, func(t *testing.T) {
			b := newBed(t, clusterProvider())
			c.given(b)
			pause, p := b.run()
			if pause != c.after {
				t.Errorf("the next inspection is after %s, want %s", pause, c.after)
			}
			held := slices.Contains(p.Finalizers, v1alpha1.ProviderFinalizer)
			if !held || p.Status.ObservedGeneration != p.Generation {
				t.Errorf("it has no finalizer, or no status of its generation: %+v", p)
			}
		})
	}
}

func TestUnchangedResultIsNotWritten(t *testing.T) {
	b := newBed(t, clusterProvider())
	_, before := b.run()
	b.clock.Step(time.Hour)
	if _, p := b.run(); p.ResourceVersion != before.ResourceVersion {
		t.Errorf("version %s became %s", before.ResourceVersion, p.ResourceVersion)
	}
}

func TestChangesOfReadinessAreEvents(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.run() // ready from the start: no event
	b.err = backend.Errorf(backend.Unavailable, "it is unavailable")
	b.run()
	b.err = backend.Errorf(backend.NoResponse, "it does not respond")
	b.run()
	b.err = nil
	b.run()
	want := []string{"Warning " + v1alpha1.ReasonBackendUnavailable, "Normal " + v1alpha1.ReasonReachable}
	if !slices.Equal(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
	}
}

func TestAdviceIsReportedWhileItApplies(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.advice = []string{"sys/leases/lookup/database/creds/orders: list, sudo"}
	_, p := b.run()
	ready := Ready(p)
	reported := strings.Contains(ready.Message, b.advice[0]) && slices.Equal(p.Status.AdvisedCapabilities, b.advice)
	if ready.Status != metav1.ConditionTrue || !reported {
		t.Errorf("Ready is %+v, advised %v", ready, p.Status.AdvisedCapabilities)
	}
	b.advice = nil
	if _, p = b.run(); len(p.Status.AdvisedCapabilities) > 0 {
		t.Errorf("it still advises %v", p.Status.AdvisedCapabilities)
	}
}

// record of a lease from the provider.
func record(kind, name string) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{ID: "l", Provider: v1alpha1.ProviderIdentity{Kind: kind, Name: name}}
}

func TestTerminatingProviderWaitsForItsLeases(t *testing.T) {
	ours := record(v1alpha1.ProviderKindCluster, "vault")
	unleased := ours
	unleased.ID = ""
	leases := func(rec v1alpha1.LeaseRecord) v1alpha1.DynamicSecretStatus {
		other := record(v1alpha1.ProviderKindCluster, "other")
		return v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{other, rec}}
	}
	for _, c := range []struct {
		it, because string
		st          v1alpha1.DynamicSecretStatus
		waits       bool
	}{
		{"for an attempt", "it may still mint",
			v1alpha1.DynamicSecretStatus{Attempt: &v1alpha1.IssuanceAttempt{Records: []v1alpha1.LeaseRecord{ours}}},
			true},
		{"for a lease", "it must be revoked there", leases(ours), true},
		{"for a retiring record", "it must be revoked there",
			v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{ours}}, true},
		{"not for a response without a lease", "there is nothing to revoke", leases(unleased), false},
		{"not for another provider's lease", "that one revokes it",
			leases(record(v1alpha1.ProviderKindCluster, "other")), false},
		{"not for a SecretProvider's lease", "it only has the same name",
			leases(record(v1alpha1.ProviderKindNamespaced, "vault")), false},
	} {
		for _, stale := range []bool{false, true} {
			t.Run(c.it, func(t *testing.T) {
				b := newBed(t, clusterProvider(terminating), dynamicSecret(c.st))
				b.stale = stale
				pause, p := b.run()
				if wantReads := !c.waits || stale; (b.uncached > 0) != wantReads {
					t.Errorf("it read the API server %d times, with a stale cache: %t", b.uncached, stale)
				}
				if !c.waits {
					if p != nil || !slices.Equal(b.forgotten, []string{"vault"}) {
						t.Errorf("because %s: it exists: %t, forgotten: %v", c.because, p != nil, b.forgotten)
					}
					return
				}
				if p == nil || len(b.forgotten) > 0 {
					t.Fatalf("because %s: it exists: %t, forgotten: %v", c.because, p != nil, b.forgotten)
				}
				ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ReadyCondition)
				if ready == nil || ready.Reason != v1alpha1.ReasonInUse || pause != time.Minute ||
					!strings.Contains(ready.Message, "shop/orders") {
					t.Errorf("because %s: Ready is %+v, next run in %s", c.because, ready, pause)
				}
			})
		}
	}
}

func TestInUseNamesAFew(t *testing.T) {
	names := []string{"a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"}
	for _, c := range []struct {
		holders int
		want    string
	}{
		{1, "1 DynamicSecret has leases from this provider, which must be revoked here: a/1."},
		{5, "5 DynamicSecrets have leases from this provider, which must be revoked here: a/1, a/2, a/3, a/4, a/5."},
		{6, "6 DynamicSecrets have leases from this provider, which must be revoked here: a/1, a/2, a/3, a/4, a/5, …."},
		{7, "7 DynamicSecrets have leases from this provider, which must be revoked here: a/1, a/2, a/3, a/4, a/5, …."},
	} {
		if got := inUse(names[:c.holders]); !strings.HasPrefix(got, c.want) {
			t.Errorf("with %d holders:\n %s\nwant\n %s", c.holders, got, c.want)
		}
	}
}
