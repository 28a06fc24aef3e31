package provider

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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

func TestFailedInspectionsBackOff(t *testing.T) {
	b := newBed(t, clusterProvider())
	pauses := func(n int) (all []time.Duration) {
		for range n {
			pause, _ := b.run()
			all = append(all, pause)
		}
		return all
	}
	b.err = backend.Errorf(backend.Unavailable, "it is unavailable")
	const m = time.Minute
	if got := pauses(5); !slices.Equal(got, []time.Duration{m, 2 * m, 4 * m, 8 * m, 8 * m}) {
		t.Errorf("the pauses are %v", got)
	}
	b.err = nil
	pauses(1)
	b.err = backend.Errorf(backend.LoginFailed, "correct the role")
	if got := pauses(2); !slices.Equal(got, []time.Duration{m, 2 * m}) {
		t.Errorf("after a success, the pauses are %v", got)
	}
	p := clusterProvider()
	if err := b.Client.Get(t.Context(), types.NamespacedName{Name: p.Name}, p); err != nil {
		t.Fatal(err)
	}
	p.Generation++
	if err := b.Client.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := pauses(1); got[0] != m {
		t.Errorf("after a change of the spec, the pause is %v", got)
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

func TestAQuotaDoesNotMakeAProviderUnready(t *testing.T) {
	for _, c := range []struct {
		kind   backend.ErrorKind
		reason string
		events int
	}{
		{backend.Throttled, v1alpha1.ReasonReachable, 0},
		{backend.QuotaExceeded, v1alpha1.ReasonQuotaExceeded, 1},
	} {
		b := newBed(t, clusterProvider())
		b.run()
		b.err = backend.Errorf(c.kind, "the quota is full")
		for _, after := range []time.Duration{time.Minute, 2 * time.Minute} {
			pause, p := b.run()
			ready := Ready(p)
			if ready.Status != metav1.ConditionTrue || ready.Reason != c.reason || pause != after {
				t.Errorf("after %s: %+v, next inspection in %s", c.kind, ready, pause)
			}
		}
		if len(b.events) != c.events {
			t.Errorf("after %s: events %v", c.kind, b.events)
		}
	}
}

func TestAQuotaKeepsANewProviderUnready(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.err = backend.Errorf(backend.QuotaExceeded, "the quota is full")
	_, p := b.run()
	got := conditionsOf(p)
	if got != "Ready=False Reconciling=True" || Ready(p).Reason != v1alpha1.ReasonQuotaExceeded {
		t.Errorf("%s, Ready is %+v", got, Ready(p))
	}
}

func TestVerificationIsReported(t *testing.T) {
	const line = "sys/leases/lookup/database/creds/orders: list, sudo"
	denied := Verification{Known: true, Leases: true, Advised: []string{line}}
	for _, c := range []struct {
		it      string
		given   Verification
		status  metav1.ConditionStatus // empty: there is no condition
		reason  string
		message string
		advised []string
	}{
		{"lists", Verification{Known: true, Leases: true}, metav1.ConditionTrue, v1alpha1.ReasonLeasesListed,
			"once a --verify-interval", nil},
		{"lists that are denied", denied, metav1.ConditionFalse, v1alpha1.ReasonListDenied, line, []string{line}},
		{"lists that fail", Verification{Known: true, Leases: true, Failed: "no response in time"},
			metav1.ConditionFalse, v1alpha1.ReasonListFailed, "no response in time", nil},
		{"lists that are slow", Verification{Known: true, Leases: true, Overdue: 5 * time.Minute},
			metav1.ConditionFalse, v1alpha1.ReasonListsSlow, "5m0s", nil},
		{"no leases", Verification{Known: true}, "", "", "", nil},
		{"nothing yet after a restart", Verification{}, metav1.ConditionFalse, v1alpha1.ReasonListDenied, line,
			[]string{line}},
	} {
		t.Run(c.it, func(t *testing.T) {
			b := newBed(t, clusterProvider())
			b.verification = denied
			b.run()
			b.verification = c.given
			_, p := b.run()
			got := conditionOf(p, v1alpha1.VerifyingCondition)
			if got.Status != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
				t.Errorf("Verifying is %+v", got)
			}
			if !slices.Equal(p.Status.AdvisedCapabilities, c.advised) || Ready(p).Status != metav1.ConditionTrue {
				t.Errorf("advised %v, Ready %+v", p.Status.AdvisedCapabilities, Ready(p))
			}
			before := p.ResourceVersion
			if _, p = b.run(); p.ResourceVersion != before {
				t.Error("each inspection is a write")
			}
		})
	}
}

func TestFailedVerificationIsAnEvent(t *testing.T) {
	b := newBed(t, clusterProvider())
	b.verification = Verification{Known: true, Leases: true}
	b.run()
	b.verification.Failed = "no response in time"
	b.run()
	b.run()
	if want := []string{"Warning " + v1alpha1.ReasonListFailed}; !slices.Equal(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
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

func TestInUseIsOneEventAndBacksOff(t *testing.T) {
	held := v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{record(v1alpha1.ProviderKindCluster, "vault")}}
	b := newBed(t, clusterProvider(terminating), dynamicSecret(held))
	for _, after := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if pause, _ := b.run(); pause != after {
			t.Errorf("the next check is in %s, want %s", pause, after)
		}
	}
	if want := []string{"Warning " + v1alpha1.ReasonInUse}; !slices.Equal(b.events, want) || b.uncached != 0 {
		t.Errorf("events %v, %d lists that were read from the API server", b.events, b.uncached)
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
