package revocation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestRevokesOnceAndNotifiesHolders(t *testing.T) {
	s := newServer(append(threeLeases, "database/static/x")...)
	elsewhere := holding("another-namespace", threeLeases[0])
	elsewhere.Status.Leases[0].Vault.Namespace = ""
	b := newBed(t, s, provider(), revocation(), elsewhere,
		holding("orders", threeLeases[0], "database/static/x"), holding("static", "database/static/x"),
		holding("without"))
	b.settle()
	b.wantFinished(3, 1)
	if slices.Sort(b.notified); !slices.Equal(slices.Compact(b.notified), []string{"orders lost " + threeLeases[0]}) {
		t.Errorf("notified: %v", b.notified)
	}
	if !s.leases["database/static/x"] || s.count("RevokeAll") != 1 || b.counted["success"] != 1 {
		t.Errorf("leases %v, calls %v, counted %v", s.leases, s.calls, b.counted)
	}
	b.wantEvents("Normal "+v1alpha1.ReasonRevokingLeases, "Normal "+v1alpha1.ReasonLeasesRevoked)
	calls := len(s.calls)
	s.leases[threeLeases[0]] = true
	b.restart()
	b.settle()
	if len(s.calls) != calls {
		t.Error("a finished revocation contacts the server again")
	}
}

func TestOneSecretWithSeveralRevokedLeases(t *testing.T) {
	b := newBed(t, newServer(threeLeases...), provider(), revocation(),
		holding("orders", threeLeases[0], threeLeases[2]))
	b.settle()
	b.wantFinished(3, 1)
	if b.notified[0] != "orders lost "+threeLeases[0]+" "+threeLeases[2] {
		t.Errorf("notified: %v", b.notified)
	}
}

func TestFinishesIfNothingMatches(t *testing.T) {
	b := newBed(t, newServer("kv/x"), provider(), revocation())
	b.settle()
	b.wantFinished(0, 0)
}

func TestStoresTheCountBeforeItRevokes(t *testing.T) {
	s := newServer(threeLeases...)
	b := newBed(t, s, provider(), revocation(), holding("orders", threeLeases[0]))
	b.refuseWrites = 1
	if _, err := b.step(); err == nil || s.count("RevokeAll") != 0 {
		t.Fatalf("it continued although the count was not stored: %v, %v", err, s.calls)
	}
	var then v1alpha1.LeaseRevocationStatus
	s.onRevoke = func() { then = b.get().Status }
	b.settle()
	if then.StartedAt == nil || *then.MatchedLeases != 3 || *then.DynamicSecrets != 1 || then.AcceptedAt != nil {
		t.Errorf("the status was %+v", then)
	}
}

func TestCountsAgainIfTheObjectWasWritten(t *testing.T) {
	s := newServer(threeLeases...)
	b := newBed(t, s, provider(), revocation())
	if _, err := b.step(); err != nil {
		t.Fatal(err)
	}
	r := b.get()
	r.Labels = map[string]string{"incident": "4711"}
	if err := b.objects.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := b.step(); err != nil || s.count("RevokeAll") != 0 || s.lists != 2 {
		t.Errorf("error %v, calls %v", err, s.calls)
	}
	b.settle()
	b.wantFinished(3, 0)
}

// A paused process wakes up after another one has carried out the revocation.
func TestStaleProcessRevokesNothing(t *testing.T) {
	s := newServer(threeLeases...)
	b := newBed(t, s, provider(), revocation())
	if _, err := b.step(); err != nil {
		t.Fatal(err)
	}
	paused := b.Runner
	b.restart()
	b.settle()
	s.leases["database/creds/orders/newer"] = true
	if _, err := paused.Run(t.Context(), "incident"); err != nil || s.count("RevokeAll") != 1 {
		t.Errorf("error %v, calls %v", err, s.calls)
	}
}

func TestNotifiesOnlyAfterAcceptanceIsStored(t *testing.T) {
	s := newServer(threeLeases...)
	b := newBed(t, s, provider(), revocation(), holding("orders", threeLeases[0]))
	s.onRevoke = func() { b.refuseWrites = 1 }
	_, _ = b.step()
	if _, err := b.step(); err == nil || len(b.notified) != 0 {
		t.Fatalf("error %v, notified %v", err, b.notified)
	}
	b.settle()
	b.wantFinished(3, 1)
	if s.count("RevokeAll") != 1 {
		t.Errorf("revoked %d times", s.count("RevokeAll"))
	}
}

func TestNewerLeasesAreLeftAlone(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%t", crash), func(t *testing.T) {
			const newer = "database/creds/orders/newer"
			s := newServer(threeLeases...)
			s.slow = true
			b := newBed(t, s, provider(), revocation(), holding("orders", threeLeases[0]), holding("new", newer))
			b.stepUntil("accepted", func() bool { return b.get().Status.AcceptedAt != nil })
			s.leases[newer] = true
			if crash {
				b.restart()
			}
			b.stepUntil("checked", func() bool { return s.lists == 2 })
			if got := *b.get().Status.RemainingLeases; got != 3 {
				t.Errorf("%d remain, want 3", got)
			}
			b.dropLeases()
			for _, id := range threeLeases {
				delete(s.leases, id)
			}
			b.settle()
			if !s.leases[newer] || s.count("RevokeAll") != 1 {
				t.Errorf("leases %v, calls %v", s.leases, s.calls)
			}
			if lookups := s.count("Lives"); lookups > 4 {
				t.Errorf("%d lookups of 1 newer lease and, after a crash, 3 that may be", lookups)
			}
		})
	}
}

func TestReportsWhyALeaseRemains(t *testing.T) {
	s := newServer(threeLeases...)
	s.stuck[threeLeases[1]] = true
	b := newBed(t, s, provider(), revocation())
	var pauses []time.Duration
	for range 40 {
		pause, err := b.step()
		if err != nil {
			t.Fatal(err)
		}
		if pause > atOnce {
			pauses = append(pauses, pause)
		}
	}
	b.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonBackendError,
		"1 of 3 remaining", "the database is unavailable")
	b.wantCondition(v1alpha1.ReconcilingCondition, metav1.ConditionTrue, v1alpha1.ReasonBackendError)
	last := pauses[len(pauses)-1]
	if !slices.IsSorted(pauses) || last < lastPause-time.Second || s.count("RevokeAll") != 1 {
		t.Errorf("pauses %v, calls %v", pauses, s.calls)
	}
	if len(b.events) != 2 {
		t.Errorf("events %v", b.events)
	}
	delete(s.stuck, threeLeases[1])
	b.settle()
	b.wantFinished(3, 0)
	if got := b.get().Status.ForcedLeases; got != 0 {
		t.Errorf("%d were forced", got)
	}
}

func TestForcesOnlyWhatCannotBeRevoked(t *testing.T) {
	s := newServer(threeLeases...)
	s.stuck[threeLeases[1]] = true
	b := newBed(t, s, provider(), revocation(byForce))
	b.settle()
	b.wantFinished(3, 0)
	b.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked, "1 lease by force")
	// The lease was tried without force first.
	if got := b.get().Status.ForcedLeases; got != 1 || s.count("Force") != 1 || b.counted["Failed"] == 0 {
		t.Errorf("%d were forced, calls %v", got, s.calls)
	}
}

func TestForcedLeasesAreCountedOnceTheWriteSucceeds(t *testing.T) {
	s := newServer(threeLeases...)
	s.stuck[threeLeases[1]] = true
	b := newBed(t, s, provider(), revocation(byForce))
	for s.count("Force") == 0 {
		if s.count("RevokeOne") > 0 {
			b.refuseWrites = 1
		}
		_, _ = b.step()
		b.refuseWrites = 0
	}
	b.settle()
	if got := b.get().Status.ForcedLeases; got != 1 {
		t.Errorf("%d were forced, want 1", got)
	}
}

func TestRefusalIsReportedOnceAndRetriedSlowly(t *testing.T) {
	denied := backend.Errorf(backend.Denied, `policy of role "keeper" lacks "sys/leases/revoke-prefix/database/creds"`)
	s := newServer(threeLeases...)
	s.fails["RevokeAll"] = []error{denied, denied, denied}
	b := newBed(t, s, provider(), revocation())
	for n := range 3 {
		b.stepUntil("refused", func() bool { return b.counted["Denied"] > n })
		b.wantCondition(v1alpha1.StalledCondition, metav1.ConditionTrue, v1alpha1.ReasonAccessDenied, "revoke-prefix")
		b.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAccessDenied)
	}
	if took := b.clock.Now().Sub(t0); took < 3*stalledPause || took > 4*stalledPause {
		t.Errorf("three attempts took %s", took)
	}
	b.wantEvents("Normal "+v1alpha1.ReasonRevokingLeases, "Warning "+v1alpha1.ReasonAccessDenied)
	// The count is that of the attempt that succeeded.
	delete(s.leases, threeLeases[0])
	b.settle()
	b.wantFinished(2, 0)
	if b.counted["Denied"] != 3 || b.counted["success"] != 1 {
		t.Errorf("counted %v", b.counted)
	}
}

// Nobody watches policies at the backend. The promise is 5 s, at each step and however long it has lasted.
func TestFixedPolicyIsDetectedWithinFiveSeconds(t *testing.T) {
	denied := backend.Errorf(backend.Denied, "policy lacks a line")
	for _, what := range []string{"ListNext", "RevokeAll", "Lives"} {
		for _, times := range []int{1, 2, 50} {
			t.Run(fmt.Sprintf("%s is denied %d times", what, times), func(t *testing.T) {
				s := newServer(threeLeases...)
				b := newBed(t, s, provider(), revocation())
				if what == "Lives" { // a process that does not know which leases are newer looks them up
					s.slow = true
					b.stepUntil("accepted", func() bool { return b.get().Status.AcceptedAt != nil })
					b.restart()
				}
				s.fails[what] = slices.Repeat([]error{denied}, times)
				var last time.Time // when it was denied last; the policy is fixed right after
				for n := range times {
					b.stepUntil("denied", func() bool {
						if b.counted["Denied"] == n {
							last = b.clock.Now()
						}
						return b.counted["Denied"] > n
					})
				}
				tried := s.count(what)
				b.stepUntil("tried again", func() bool { return s.count(what) > tried })
				if took := b.clock.Now().Sub(last); took > 5*time.Second {
					t.Errorf("the next try was after %s", took)
				}
			})
		}
	}
}

func TestChangedProviderEndsThePause(t *testing.T) {
	s := newServer(threeLeases...)
	s.fails["ListNext"] = []error{backend.Errorf(backend.Denied, "policy lacks a line")}
	b := newBed(t, s, provider(), revocation())
	_, _ = b.Run(t.Context(), "incident")
	if pause, err := b.Run(t.Context(), "incident"); err != nil || pause != stalledPause || s.count("ListNext") != 1 {
		t.Fatalf("next step in %s (%v), calls %v", pause, err, s.calls)
	}
	p := provider()
	if err := b.objects.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
		t.Fatal(err)
	}
	p.Generation++
	if err := b.objects.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Run(t.Context(), "incident"); err != nil || s.lists != 1 {
		t.Errorf("error %v, calls %v", err, s.calls)
	}
}

func TestLostResponseKeepsTheCount(t *testing.T) {
	s := newServer(threeLeases...)
	s.fails["RevokeAll"], s.acts = []error{backend.Errorf(backend.NoResponse, "no response in time")}, true
	b := newBed(t, s, provider(), revocation())
	b.stepUntil("failed", func() bool { return b.counted["NoResponse"] > 0 })
	b.wantCondition(v1alpha1.ReconcilingCondition, metav1.ConditionTrue, v1alpha1.ReasonBackendUnavailable)
	if took := b.clock.Now().Sub(t0); took > 2*time.Second {
		t.Errorf("the next attempt is after %s", took)
	}
	b.settle()
	b.wantFinished(3, 0)
}

func TestWaitsForItsProvider(t *testing.T) {
	own := v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindNamespaced, Namespace: "shop", Name: "own"}
	b := newBed(t, newServer(), revocation(func(r *v1alpha1.LeaseRevocation) { r.Spec.ProviderRef = own }))
	if pause, err := b.step(); err != nil || pause != stalledPause {
		t.Fatalf("next step in %s (%v)", pause, err)
	}
	b.wantCondition(v1alpha1.StalledCondition, metav1.ConditionTrue, v1alpha1.ReasonProviderNotFound,
		"SecretProvider shop/own does not exist: create it, or create a LeaseRevocation that names another.")
	other := provider()
	other.Name, other.UID = "own", "provider-2"
	if err := b.objects.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err := b.step(); err != nil {
		t.Fatal(err)
	}
	b.wantCondition(v1alpha1.StalledCondition, metav1.ConditionTrue, v1alpha1.ReasonProviderNotFound,
		"names ClusterSecretProvider own, which does")
	p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own"}}
	p.Spec.ProviderSpec = provider().Spec.ProviderSpec
	if err := b.objects.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.wantFinished(0, 0)
}

// Everyone who can write a status can put any id there.
func TestDoesNotWaitForeverForAHolder(t *testing.T) {
	s := newServer(threeLeases...)
	b := newBed(t, s, provider(), revocation(), holding("forged", "database/creds/orders/never-was"))
	b.stepUntil("finished", func() bool { return b.get().Finished() })
	b.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked, "shop/forged")
	if took := b.clock.Now().Sub(t0); took < holdersPatience || took > 2*holdersPatience {
		t.Errorf("it took %s", took)
	}
	if n := len(b.notified); n > 12 || !strings.HasPrefix(b.notified[0], "forged suspects") {
		t.Errorf("notified %d times: %v", n, b.notified)
	}
}

func TestFinishedObjectIsDeletedAfterItsTTL(t *testing.T) {
	b := newBed(t, newServer(), provider(), revocation(func(r *v1alpha1.LeaseRevocation) {
		r.Spec.TTLSecondsAfterFinished = new(int32(30))
	}))
	for {
		pause, err := b.step()
		if err != nil {
			t.Fatal(err)
		}
		if pause == 0 {
			break
		}
	}
	err := b.objects.Get(t.Context(), types.NamespacedName{Name: "incident"}, &v1alpha1.LeaseRevocation{})
	if err == nil || client.IgnoreNotFound(err) != nil {
		t.Errorf("it still exists: %v", err)
	}
	if took := b.clock.Now().Sub(t0); took < 30*time.Second || took > 32*time.Second {
		t.Errorf("it took %s", took)
	}
}
