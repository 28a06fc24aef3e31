package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// holding is a DynamicSecret with a lease.
func holding(name, id string, modifiers ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := wanting(func(d *v1alpha1.DynamicSecret) {
		d.Name, d.UID = name, types.UID("uid-"+name)
		d.Status.Lease = &v1alpha1.LeaseRecord{Address: "https://vault.test:8200", VaultNamespace: "team", ID: id}
	})
	for _, m := range modifiers {
		m(d)
	}
	return d
}

// backendLeases plays a backend's leases: true ones live, false ones are dead and not ended yet.
type backendLeases struct {
	leases map[string]bool
	// lasting are those whose end fails.
	lasting map[string]bool
	// slow: the backend ends nothing by itself.
	slow bool
	// fails are what the next calls fail with, by the call's name; after says that Revoke acts before it fails.
	fails map[string][]error
	after bool
	calls []string
	// onRevoke is done right after an order was taken, such as by others.
	onRevoke func()
}

func newBackendLeases(ids ...string) *backendLeases {
	b := &backendLeases{leases: map[string]bool{}, lasting: map[string]bool{}, fails: map[string][]error{}}
	for _, id := range ids {
		b.leases[id] = true
	}
	return b
}

func (b *backendLeases) call(name string) error {
	b.calls = append(b.calls, name)
	if errs := b.fails[name]; len(errs) > 0 {
		b.fails[name] = errs[1:]
		return errs[0]
	}
	return nil
}

func (b *backendLeases) count(name string) int {
	n := 0
	for _, call := range b.calls {
		if call == name {
			n++
		}
	}
	return n
}

func (b *backendLeases) Matching(_ context.Context, o vault.Order) ([]string, error) {
	if err := b.call("Matching"); err != nil {
		return nil, err
	}
	var ids []string
	for id := range b.leases {
		if o.Covers(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func (b *backendLeases) RevokeAll(_ context.Context, o vault.Order) error {
	err := b.call("Revoke")
	if err != nil && !b.after {
		return err
	}
	for id := range b.leases {
		if !o.Covers(id) {
			continue
		}
		if b.leases[id] = false; !b.lasting[id] && !b.slow {
			delete(b.leases, id)
		}
	}
	if b.onRevoke != nil {
		b.onRevoke()
	}
	return err
}

func (b *backendLeases) RevokeOne(_ context.Context, o vault.Order, id string) error {
	if err := b.call("RevokeOne"); err != nil {
		return err
	}
	if b.lasting[id] && !o.Force {
		return backend.Errorf(backend.Failed, "revoking a lease: the database is away")
	}
	delete(b.leases, id)
	return nil
}

func (b *backendLeases) Lives(_ context.Context, _ vault.Order, id string) (bool, error) {
	return b.leases[id], b.call("Lives")
}

// court is where a LeaseRevocation is carried out.
type court struct {
	*LeaseRevocationReconciler
	t        *testing.T
	clock    *testclock.FakePassiveClock
	backend  *backendLeases
	objects  client.WithWatch
	suspects []string
	events   []string
	counted  map[string]int
	// refuseWrites is how many status writes from now on are refused.
	refuseWrites int
}

func ordered(modifiers ...func(*v1alpha1.LeaseRevocation)) *v1alpha1.LeaseRevocation {
	r := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{Name: "order", UID: "order-1", Generation: 1}}
	r.Spec.ProviderRef = v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}
	r.Spec.Prefix = "database/creds/"
	for _, m := range modifiers {
		m(r)
	}
	return r
}

func newCourt(t *testing.T, b *backendLeases, stored ...client.Object) *court {
	t.Helper()
	c := &court{t: t, clock: testclock.NewFakePassiveClock(judged.Time), backend: b, counted: map[string]int{}}
	c.objects = apiServer(t, stored...).WithInterceptorFuncs(interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, inner client.Client, what string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			if c.refuseWrites > 0 {
				c.refuseWrites--
				return errors.New("the API server is away")
			}
			return inner.SubResource(what).Update(ctx, o, opts...)
		},
	}).Build()
	c.restart()
	return c
}

// restart is what a crash does: what only the process knew is gone.
func (c *court) restart() {
	c.LeaseRevocationReconciler = &LeaseRevocationReconciler{
		Clock:   c.clock,
		Revoker: func(context.Context, v1alpha1.Provider) (revoker, error) { return c.backend, nil },
		Suspect: func(_ context.Context, d *v1alpha1.DynamicSecret) {
			c.suspects = append(c.suspects, d.Name)
		},
		Lost: func(_ context.Context, d *v1alpha1.DynamicSecret) {
			c.suspects = append(c.suspects, d.Name)
		},
		Announce: func(_ *v1alpha1.LeaseRevocation, kind, reason, _ string) {
			c.events = append(c.events, kind+" "+reason)
		},
		Count:  func(result string) { c.counted[result]++ },
		client: c.objects, reader: c.objects,
	}
}

// turn reconciles once, and steps the clock to when it is to be done again.
func (c *court) turn() (time.Duration, error) {
	c.t.Helper()
	result, err := c.Reconcile(c.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "order"}})
	c.clock.SetTime(c.clock.Now().Add(result.RequeueAfter))
	return result.RequeueAfter, err
}

// settle reconciles until nothing is left to do.
func (c *court) settle() *v1alpha1.LeaseRevocation {
	c.t.Helper()
	for range 100 {
		if pause, err := c.turn(); err == nil && pause == 0 {
			return c.get()
		}
		c.letGo()
	}
	c.t.Fatalf("it does not settle: %+v", c.get().Status)
	return nil
}

// letGo is what the DynamicSecrets that were made to look do: they drop a lease that is dead.
func (c *court) letGo() {
	c.t.Helper()
	for _, name := range c.suspects {
		d := &v1alpha1.DynamicSecret{}
		if err := c.objects.Get(c.t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, d); err != nil {
			c.t.Fatal(err)
		}
		if d.Status.Lease == nil || c.backend.leases[d.Status.Lease.ID] {
			continue
		}
		d.Status.Lease = nil
		if err := c.objects.Status().Update(c.t.Context(), d); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *court) get() *v1alpha1.LeaseRevocation {
	c.t.Helper()
	r := &v1alpha1.LeaseRevocation{}
	if err := c.objects.Get(c.t.Context(), types.NamespacedName{Name: "order"}, r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c *court) wantCondition(kind string, status metav1.ConditionStatus, reason string, pieces ...string) {
	c.t.Helper()
	got := meta.FindStatusCondition(c.get().Status.Conditions, kind)
	if got == nil || got.Status != status || got.Reason != reason {
		c.t.Fatalf("%s is %+v, want %s for %s", kind, got, status, reason)
	}
	for _, piece := range pieces {
		if !strings.Contains(got.Message, piece) {
			c.t.Errorf("%q does not say %q", got.Message, piece)
		}
	}
}

func (c *court) wantFinished(matched, secrets int64) {
	c.t.Helper()
	c.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked, plural(matched, "lease"), plural(secrets, "DynamicSecret"))
	st := c.get().Status
	if *st.MatchedLeases != matched || *st.DynamicSecrets != secrets || *st.RemainingLeases != 0 ||
		st.StartedAt == nil || st.AcceptedAt == nil || st.CompletedAt == nil || len(st.Conditions) != 1 || st.ObservedGeneration != 1 {
		c.t.Errorf("status: %+v", st)
	}
}

var threeLeases = []string{"database/creds/orders/a", "database/creds/orders/b", "database/creds/web/c"}

func TestAnOrderIsCarriedOutOnceAndTellsThoseConcerned(t *testing.T) {
	b := newBackendLeases(append(threeLeases, "database/static/x")...)
	c := newCourt(t, b, usableProvider(), ordered(),
		holding("concerned", threeLeases[0]), holding("elsewhere", "database/static/x"),
		holding("another-vault", threeLeases[0], func(d *v1alpha1.DynamicSecret) { d.Status.Lease.Address = "https://other.test:8200" }),
		holding("another-namespace", threeLeases[0], func(d *v1alpha1.DynamicSecret) { d.Status.Lease.VaultNamespace = "" }),
		holding("without", ""))
	c.settle()
	c.wantFinished(3, 1)
	if slices.Sort(c.suspects); !slices.Equal(slices.Compact(c.suspects), []string{"concerned"}) {
		t.Errorf("asked to look: %v", c.suspects)
	}
	if !b.leases["database/static/x"] || b.count("Revoke") != 1 || c.counted["success"] != 1 {
		t.Errorf("leases %v, calls %v, counted %v", b.leases, b.calls, c.counted)
	}
	if want := []string{"Normal " + v1alpha1.ReasonRevokingLeases, "Normal " + v1alpha1.ReasonLeasesRevoked}; !slices.Equal(c.events, want) {
		t.Errorf("events %v", c.events)
	}
	calls := len(b.calls)
	b.leases[threeLeases[0]] = true
	c.restart()
	c.settle()
	if len(b.calls) != calls {
		t.Error("an order that is finished asks again")
	}
}

func TestAnOrderThatMatchesNothingIsFinishedWithNothing(t *testing.T) {
	c := newCourt(t, newBackendLeases("kv/x"), usableProvider(), ordered())
	c.settle()
	c.wantFinished(0, 0)
}

func TestWhatIsToBeRevokedIsCountedInTheStatusBefore(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	c := newCourt(t, b, usableProvider(), ordered(), holding("orders", threeLeases[0]))
	c.refuseWrites = 1
	if _, err := c.turn(); err == nil || b.count("Revoke") != 0 {
		t.Fatalf("it went on although the count could not be written: %v, %v", err, b.calls)
	}
	var then v1alpha1.LeaseRevocationStatus
	b.onRevoke = func() { then = c.get().Status }
	c.settle()
	if then.StartedAt == nil || *then.MatchedLeases != 3 || *then.DynamicSecrets != 1 || then.AcceptedAt != nil {
		t.Errorf("the status was %+v", then)
	}
}

func TestNobodyIsToldBeforeItIsWrittenThatTheOrderWasTaken(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	c := newCourt(t, b, usableProvider(), ordered(), holding("orders", threeLeases[0]))
	b.onRevoke = func() { c.refuseWrites = 1 }
	if _, err := c.turn(); err == nil || len(c.suspects) != 0 {
		t.Fatalf("error %v, told %v", err, c.suspects)
	}
	c.settle()
	c.wantFinished(3, 1)
	if b.count("Revoke") != 1 {
		t.Errorf("the order was given %d times", b.count("Revoke"))
	}
}

// Replacements turn up under the same prefix while the order is carried out.
func TestWhatIsIssuedSinceIsNotTakenForWhatIsLeft(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a crash: %t", crash), func(t *testing.T) {
			b := newBackendLeases(threeLeases...)
			b.slow = true
			c := newCourt(t, b, usableProvider(), ordered(), holding("orders", threeLeases[0]), holding("new", "database/creds/orders/since"))
			if _, err := c.turn(); err != nil {
				t.Fatal(err)
			}
			b.leases["database/creds/orders/since"] = true
			if crash {
				c.restart()
			}
			if _, err := c.turn(); err != nil {
				t.Fatal(err)
			}
			if got := *c.get().Status.RemainingLeases; got != 3 {
				t.Errorf("%d are left, want 3", got)
			}
			c.letGo()
			for _, id := range threeLeases {
				delete(b.leases, id)
			}
			c.settle()
			if !b.leases["database/creds/orders/since"] || b.count("Revoke") != 1 {
				t.Errorf("leases %v, calls %v", b.leases, b.calls)
			}
			looks := b.count("Lives")
			if looks > 4 {
				t.Errorf("%d look-ups for 1 lease that is new and, after a crash, 3 that may be", looks)
			}
		})
	}
}

func TestALeaseThatCannotBeEndedIsToldWithWhatTheBackendSays(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	b.lasting[threeLeases[1]] = true
	c := newCourt(t, b, usableProvider(), ordered())
	var pauses []time.Duration
	for range 14 {
		pause, err := c.turn()
		if err != nil {
			t.Fatal(err)
		}
		pauses = append(pauses, pause)
	}
	c.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonBackendError, "1 of 3 are left", "the database is away")
	c.wantCondition(v1alpha1.ReconcilingCondition, metav1.ConditionTrue, v1alpha1.ReasonBackendError)
	if last := pauses[len(pauses)-1]; !slices.IsSorted(pauses[1:]) || last < lastLook || last > 2*lastLook || b.count("Revoke") != 1 {
		t.Errorf("pauses %v, calls %v", pauses, b.calls)
	}
	delete(b.lasting, threeLeases[1])
	c.settle()
	c.wantFinished(3, 0)
	if got := c.get().Status.ForcedLeases; got != 0 {
		t.Errorf("%d were forced", got)
	}
}

func TestForceForgetsOnlyWhatCannotBeEnded(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	b.lasting[threeLeases[1]] = true
	c := newCourt(t, b, usableProvider(), ordered(func(r *v1alpha1.LeaseRevocation) { r.Spec.Force, r.Spec.Confirm = true, r.Spec.Prefix }))
	c.settle()
	c.wantFinished(3, 0)
	c.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked, "1 lease by force")
	if got := c.get().Status.ForcedLeases; got != 1 || c.counted["Failed"] == 0 { // it was asked for without force before
		t.Errorf("%d were forced, with calls %v", got, b.calls)
	}
}

func TestARefusalIsToldOnceAndTriedAgainSeldom(t *testing.T) {
	denied := backend.Errorf(backend.Denied, `policy of role "keeper" lacks path "sys/leases/revoke-prefix/database/creds"`)
	b := newBackendLeases(threeLeases...)
	b.fails["Revoke"] = []error{denied, denied, denied}
	c := newCourt(t, b, usableProvider(), ordered())
	for range 3 {
		if pause, err := c.turn(); err != nil || pause != stalledPause {
			t.Fatalf("again in %s (%v)", pause, err)
		}
		c.wantCondition(v1alpha1.StalledCondition, metav1.ConditionTrue, v1alpha1.ReasonAccessDenied, "sys/leases/revoke-prefix/database/creds")
		c.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAccessDenied)
	}
	if want := []string{"Normal " + v1alpha1.ReasonRevokingLeases, "Warning " + v1alpha1.ReasonAccessDenied}; !slices.Equal(c.events, want) {
		t.Errorf("events %v", c.events)
	}
	// The count is that of the try that was taken.
	delete(b.leases, threeLeases[0])
	c.settle()
	c.wantFinished(2, 0)
	if c.counted["Denied"] != 3 || c.counted["success"] != 1 {
		t.Errorf("counted %v", c.counted)
	}
}

func TestAnAnswerThatWasLostLosesNoCount(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	b.fails["Revoke"], b.after = []error{backend.Errorf(backend.NoResponse, "no answer in time")}, true
	c := newCourt(t, b, usableProvider(), ordered())
	if pause, err := c.turn(); err != nil || pause == 0 || pause > 2*time.Second {
		t.Fatalf("again in %s (%v)", pause, err)
	}
	c.wantCondition(v1alpha1.ReconcilingCondition, metav1.ConditionTrue, v1alpha1.ReasonBackendUnavailable)
	c.settle()
	c.wantFinished(3, 0)
}

func TestAnOrderWaitsForItsProvider(t *testing.T) {
	c := newCourt(t, newBackendLeases(), ordered(func(r *v1alpha1.LeaseRevocation) {
		r.Spec.ProviderRef = v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindNamespaced, Namespace: "shop", Name: "own"}
	}))
	if pause, err := c.turn(); err != nil || pause != stalledPause {
		t.Fatalf("again in %s (%v)", pause, err)
	}
	c.wantCondition(v1alpha1.StalledCondition, metav1.ConditionTrue, v1alpha1.ReasonProviderNotFound, "SecretProvider shop/own")
	p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own"}}
	p.Spec.Vault = usableProvider().Spec.Vault
	if err := c.objects.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := c.waitingFor(t.Context(), p); len(got) != 1 || got[0].Name != "order" {
		t.Errorf("a new provider wakes %v", got)
	}
	if got := c.waitingFor(t.Context(), usableProvider()); len(got) != 0 {
		t.Errorf("another provider wakes %v", got)
	}
	c.settle()
	c.wantFinished(0, 0)
	if got := c.waitingFor(t.Context(), p); len(got) != 0 {
		t.Errorf("it wakes one that is finished: %v", got)
	}
}

// Whoever may write a status can have it name any lease.
func TestAnObjectThatDoesNotLetGoIsNotWaitedForForEver(t *testing.T) {
	b := newBackendLeases(threeLeases...)
	c := newCourt(t, b, usableProvider(), ordered(), holding("forged", "database/creds/orders/never-was"))
	begun := c.clock.Now()
	for !c.get().Finished() {
		if _, err := c.turn(); err != nil {
			t.Fatal(err)
		}
	}
	c.wantCondition(v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonLeasesRevoked, "shop/forged")
	if took := c.clock.Now().Sub(begun); took < holdersPatience || took > 2*holdersPatience {
		t.Errorf("it took %s", took)
	}
	if n := len(c.suspects); n > 12 {
		t.Errorf("it was asked to look %d times", n)
	}
}

func TestAFinishedOrderGoesWhenItsTimeHasCome(t *testing.T) {
	c := newCourt(t, newBackendLeases(), usableProvider(), ordered(func(r *v1alpha1.LeaseRevocation) { r.Spec.TTLSecondsAfterFinished = new(int32(30)) }))
	begun := c.clock.Now()
	for {
		pause, err := c.turn()
		if err != nil {
			t.Fatal(err)
		}
		if pause == 0 {
			break
		}
	}
	if err := c.objects.Get(t.Context(), types.NamespacedName{Name: "order"}, &v1alpha1.LeaseRevocation{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("it is still there: %v", err)
	}
	if took := c.clock.Now().Sub(begun); took < 30*time.Second || took > 32*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Vault and the API server each may fail at any call, and the process may end there.
func TestACrashAnywhereIsGoneOnFrom(t *testing.T) {
	for at := range 12 {
		for _, what := range []string{"Matching", "Revoke", "Lives", "write"} {
			t.Run(fmt.Sprintf("%s number %d", what, at), func(t *testing.T) {
				b := newBackendLeases(threeLeases...)
				b.slow, b.after = true, at%2 == 0
				c := newCourt(t, b, usableProvider(), ordered(), holding("orders", threeLeases[0]))
				for turn := range 20 {
					if turn == at {
						b.fails[what] = []error{backend.Errorf(backend.NoResponse, "no answer in time")}
						if what == "write" {
							c.refuseWrites = 1
						}
					}
					_, _ = c.turn()
					if turn == at {
						c.restart()
					}
					c.letGo()
					if turn == 4 {
						b.slow = false
						for id, lives := range b.leases {
							if !lives {
								delete(b.leases, id)
							}
						}
					}
				}
				c.settle()
				c.wantFinished(3, 1)
				if b.count("Revoke") > 2 {
					t.Errorf("the order was given %d times", b.count("Revoke"))
				}
			})
		}
	}
}
