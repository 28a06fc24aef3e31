package revocation

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// withSlowProvider adds a provider "slow" with that backend, and LeaseRevocations slow-0 and so on that use it.
func (b *bed) withSlowProvider(slow backend.Backend, revocations int) (names []string) {
	b.t.Helper()
	p := provider()
	p.Name, p.UID = "slow", "provider-slow"
	if err := b.objects.Create(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
	b.Backend = func(_ context.Context, p v1alpha1.Provider) (backend.Backend, error) {
		if p.GetName() == "slow" {
			return slow, nil
		}
		return b.server, nil
	}
	for i := range revocations {
		r := revocation()
		r.Name = fmt.Sprint("slow-", i)
		r.UID, r.Spec.ProviderRef.Name = types.UID(r.Name), "slow"
		if err := b.objects.Create(b.t.Context(), r); err != nil {
			b.t.Fatal(err)
		}
		names = append(names, r.Name)
	}
	return names
}

func (b *bed) finished(name string) bool {
	b.t.Helper()
	r := &v1alpha1.LeaseRevocation{}
	if err := b.objects.Get(b.t.Context(), types.NamespacedName{Name: name}, r); err != nil {
		b.t.Fatal(err)
	}
	return r.Finished()
}

// One worker takes turns. Each list of the slow server takes almost its time-out, and there are a hundred to make.
func TestListsOfASlowServerDelayNoOtherRevocation(t *testing.T) {
	slow := newServer()
	for i := range 100 {
		slow.leases[fmt.Sprintf("database/creds/role-%d/a", i)] = true
	}
	b := newBed(t, newServer(threeLeases...), provider(), revocation())
	slow.onList = func() { b.clock.SetTime(b.clock.Now().Add(9900 * time.Millisecond)) }
	names := b.withSlowProvider(slow, 4)
	run := func(name string) {
		if _, err := b.Run(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 0
	for ; !b.finished("incident"); rounds++ {
		for _, name := range names {
			run(name)
		}
		run("incident")
	}
	if lists := slow.count("ListNext"); lists > rounds*len(names) {
		t.Errorf("%d steps of the others made %d lists", rounds*len(names), lists)
	}
	b.wantFinished(3, 0)
	for _, name := range names {
		for range 2000 {
			if run(name); b.finished(name) {
				break
			}
			b.clock.SetTime(b.clock.Now().Add(time.Second))
		}
		if !b.finished(name) {
			t.Fatalf("%s does not finish", name)
		}
	}
	if len(slow.leases) > 0 {
		t.Errorf("%d leases are left", len(slow.leases))
	}
}

// hangingLists is a server whose lists wait until it responds.
type hangingLists struct {
	*server
	began     chan struct{}
	responded chan struct{}
	mu        sync.Mutex
}

func (h *hangingLists) ListNext(ctx context.Context, s *v1alpha1.LeaseRevocationSpec, l *backend.Listing) error {
	h.began <- struct{}{}
	<-h.responded
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.server.ListNext(ctx, s, l)
}

func TestAHangingBackendHoldsAFewWorkers(t *testing.T) {
	slow := &hangingLists{server: newServer(), began: make(chan struct{}, 100), responded: make(chan struct{})}
	b := newBed(t, newServer(threeLeases...), provider(), revocation())
	names := b.withSlowProvider(slow, stepsOfProvider+2)
	var workers sync.WaitGroup
	for _, name := range names[:stepsOfProvider] {
		workers.Go(func() {
			if _, err := b.Run(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	for range stepsOfProvider {
		<-slow.began
	}
	for _, name := range names[stepsOfProvider:] {
		if pause, err := b.Run(t.Context(), name); pause != turnPause || err != nil {
			t.Errorf("%s: next step in %s (%v)", name, pause, err)
		}
	}
	for !b.finished("incident") { // the clock stays: those that wait are not gone
		if pause, err := b.Run(t.Context(), "incident"); err != nil || pause > time.Second {
			t.Fatalf("next step in %s (%v)", pause, err)
		}
	}
	close(slow.responded)
	workers.Wait()
	// Those that waited are next.
	for _, name := range append(names[:2:2], names[stepsOfProvider:]...) {
		if pause, err := b.Run(t.Context(), name); pause != atOnce || err != nil {
			t.Errorf("%s: next step in %s (%v)", name, pause, err)
		}
	}
}

func TestForcingTakesSeveralStepsOnASlowServer(t *testing.T) {
	s := newServer()
	for i := range 3 * forceWorkers {
		s.leases[fmt.Sprintf("database/creds/orders/%d", i)] = true
		s.stuck[fmt.Sprintf("database/creds/orders/%d", i)] = true
	}
	b := newBed(t, s, provider(), revocation(byForce))
	s.onForce = func() { b.clock.SetTime(b.clock.Now().Add(stepTime)) }
	for !b.get().Finished() {
		before := s.count("Force")
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
		if n := s.count("Force") - before; n > forceWorkers {
			t.Errorf("one step forced %d leases", n)
		}
	}
	if got := b.get().Status.ForcedLeases; got != 3*forceWorkers {
		t.Errorf("%d were forced", got)
	}
}
