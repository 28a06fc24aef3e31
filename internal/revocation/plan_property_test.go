package revocation

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

var actions = []Action{WaitUntil, CountLeases, RevokeLeases, RecordAcceptance, NotifyHolders, CheckLeases, RetryLeases,
	ForceLeases, Complete, DeleteObject}

// moment is a time near t0.
func moment(t *rapid.T, label string) time.Time {
	return t0.Add(time.Duration(rapid.Int64Range(-120, 120).Draw(t, label)) * time.Second)
}

func maybeTime(t *rapid.T, label string) *metav1.Time {
	if !rapid.Bool().Draw(t, label+" is set") {
		return nil
	}
	return &metav1.Time{Time: moment(t, label)}
}

// anyInput is an input that may contradict itself: everyone who can write a status can make one.
func anyInput(t *rapid.T) Input {
	r := revocation()
	r.ResourceVersion = rapid.SampledFrom([]string{"7", "8"}).Draw(t, "version")
	r.DeletionTimestamp = maybeTime(t, "deleted")
	st := &r.Status
	st.StartedAt, st.AcceptedAt = maybeTime(t, "started"), maybeTime(t, "accepted")
	st.CompletedAt = maybeTime(t, "completed")
	if r.Spec.Vault.Force = rapid.Bool().Draw(t, "force"); rapid.Bool().Draw(t, "confirmed") {
		r.Spec.Confirm = r.Spec.Target()
	}
	if rapid.Bool().Draw(t, "has a TTL") {
		r.Spec.TTLSecondsAfterFinished = new(rapid.Int32().Draw(t, "TTL"))
	}
	if rapid.Bool().Draw(t, "no backend block") {
		r.Spec.Vault = nil
	}
	in := Input{Now: moment(t, "now"), Object: r}
	in.Provider, in.Holders = "p", rapid.IntRange(0, 3).Draw(t, "holders")
	if rapid.IntRange(0, 4).Draw(t, "obstacle") == 0 {
		in.Obstacle = &lease.Block{Reason: "X", Stalled: rapid.Bool().Draw(t, "stalled")}
	}
	if rapid.IntRange(0, 4).Draw(t, "remembers") == 0 {
		return in
	}
	in.Facts = &Facts{
		Own: map[string]bool{"a": true}, Newer: map[string]bool{},
		Counted: Counted{
			At: moment(t, "counted"), Version: rapid.SampledFrom([]string{"", "7"}).Draw(t, "counted at"),
		},
		Notified: rapid.Bool().Draw(t, "notified"),
		Failure: Failure{
			NotBefore: moment(t, "not before"), Provider: rapid.SampledFrom([]string{"", "p"}).Draw(t, "failed with"),
		},
		Check: Checked{
			Remaining: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(t, "remaining"),
			Idle:      rapid.IntRange(-1, 100).Draw(t, "idle"), Helped: rapid.Bool().Draw(t, "helped"),
		},
	}
	if at := maybeTime(t, "accepted in memory"); at != nil {
		in.Facts.AcceptedAt = at.Time
	}
	if at := maybeTime(t, "checked"); at != nil {
		in.Facts.Check.At = at.Time
	}
	return in
}

// copyOf copies all that Plan could modify.
func copyOf(in Input) Input {
	in.Object = in.Object.DeepCopy()
	if in.Obstacle != nil {
		b := *in.Obstacle
		in.Obstacle = &b
	}
	if in.Facts != nil {
		f := *in.Facts
		f.Own, f.Newer, f.Check.Remaining = maps.Clone(f.Own), maps.Clone(f.Newer), slices.Clone(f.Check.Remaining)
		in.Facts = &f
	}
	return in
}

func TestPlanOfAnyInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		before := copyOf(in)
		step := Plan(in)
		if !reflect.DeepEqual(in, before) {
			t.Fatalf("Plan modified its input:\n%+v\n%+v", before, in)
		}
		if !slices.Contains(actions, step.Action) {
			t.Fatalf("%q is no action", step.Action)
		}
		st, facts := &in.Object.Status, in.Facts
		if facts == nil {
			facts = &Facts{}
		}
		accepted := st.AcceptedAt != nil
		ok := true
		switch step.Action {
		case WaitUntil:
			kept := in.Object.Finished() && in.Object.Spec.TTLSecondsAfterFinished == nil
			forever := in.Object.DeletionTimestamp != nil || kept
			ok = step.At.IsZero() == forever && (forever || step.At.After(in.Now))
		case RevokeLeases:
			ok = st.StartedAt != nil && !accepted && facts.Counted.Version == in.Object.ResourceVersion
		case RetryLeases:
			ok = accepted && len(facts.Check.Remaining) > 0 && !facts.Check.Helped
		case ForceLeases:
			confirmed := in.Object.Spec.Vault.Force && in.Object.Spec.Confirm == in.Object.Spec.Target()
			ok = accepted && len(facts.Check.Remaining) > 0 && confirmed &&
				in.Now.Sub(st.AcceptedAt.Time) > gracePeriod
		case Complete:
			ok = accepted && !facts.Check.At.IsZero() && len(facts.Check.Remaining) == 0
		case DeleteObject:
			ok = in.Object.Finished()
		}
		if idle := in.Object.Finished() || in.Object.DeletionTimestamp != nil || in.Obstacle != nil; idle {
			ok = ok && (step.Action == WaitUntil || step.Action == DeleteObject)
		}
		if !ok {
			t.Fatalf("%+v follows from %+v, status %+v, facts %+v", step, in.Observation, st, facts)
		}
	})
}

// A revocation survives crashes, failures of the backend and of the API server, and leases that are issued meanwhile.
// A slow request ends the step, so all of that also happens between any two requests of a list.
func TestAnyRunRevokesExactlyTheLeasesThatExisted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { newRun(t, rt).check() })
}

// run is a revocation with faults.
type run struct {
	*bed
	rt *rapid.T
	// revoked are the leases that existed at any of the revocations; each must be gone in the end.
	revoked map[string]bool
	issued  int
}

func newRun(t *testing.T, rt *rapid.T) *run {
	s := newServer(threeLeases[:rapid.IntRange(0, 3).Draw(rt, "leases")]...)
	s.slow, s.acts = rapid.Bool().Draw(rt, "slow"), rapid.Bool().Draw(rt, "acts before it fails")
	for id := range s.leases {
		s.stuck[id] = rapid.Bool().Draw(rt, id+" is stuck")
	}
	object := revocation()
	if rapid.Bool().Draw(rt, "force") {
		byForce(object)
	}
	r := &run{rt: rt, revoked: map[string]bool{}}
	r.bed = newBed(t, s, provider(), object, holding("orders", threeLeases[0], threeLeases[2]))
	s.onRevoke = func() {
		if st := r.get().Status; st.StartedAt == nil || st.MatchedLeases == nil {
			rt.Fatal("leases were revoked before their count was stored")
		}
	}
	s.onList, s.onOne = r.respond, r.respond
	return r
}

// respond is a request of a list, or about one lease, that may take long. Leases are issued meanwhile.
func (r *run) respond() {
	if rapid.Bool().Draw(r.rt, "slow response") {
		r.clock.SetTime(r.clock.Now().Add(stepTime))
	}
	if rapid.IntRange(0, 9).Draw(r.rt, "issued meanwhile") == 0 {
		r.issue()
	}
}

// issue a lease in a folder that may be new.
func (r *run) issue() {
	r.issued++
	folder := rapid.SampledFrom([]string{"orders", "web", "new"}).Draw(r.rt, "folder")
	r.server.leases[fmt.Sprintf("database/creds/%s/new-%d", folder, r.issued)] = true
}

func (r *run) check() {
	for range rapid.IntRange(5, 40).Draw(r.rt, "steps") {
		r.disturb()
		for id := range r.server.leases {
			if r.server.count("RevokeAll") == 0 {
				r.revoked[id] = true
			}
		}
		r.advance()
	}
	// The faults end, and so the revocation must.
	r.server.slow, r.server.onList, r.server.onOne = false, nil, nil
	r.server.fails, r.refuseWrites = map[string][]error{}, 0
	clear(r.server.stuck)
	for range 400 {
		r.server.tidy()
		r.dropLeases()
		if r.advance(); r.get().Finished() {
			r.verify()
			return
		}
	}
	r.rt.Fatalf("it does not finish: %+v", r.get().Status)
}

// disturb causes a fault, or issues a lease.
func (r *run) disturb() {
	kinds := []backend.ErrorKind{backend.NoResponse, backend.Unavailable, backend.Failed, backend.Denied}
	fault := backend.Errorf(rapid.SampledFrom(kinds).Draw(r.rt, "kind"), "a fault")
	events := []string{"", "", "crash", "issue", "tidy", "drop", "write",
		"ListNext", "RevokeAll", "RevokeOne", "Lives", "Force"}
	switch what := rapid.SampledFrom(events).Draw(r.rt, "event"); what {
	case "":
	case "crash":
		r.restart()
	case "issue":
		r.issue()
	case "tidy":
		r.server.tidy()
	case "drop":
		r.dropLeases()
	case "write":
		r.refuseWrites = 1
	default:
		r.server.fails[what] = []error{fault}
	}
}

func (r *run) advance() {
	forcedBefore, st := r.server.count("Force"), r.get().Status
	finished := r.get().Finished()
	_, _ = r.step()
	if r.server.count("Force") > forcedBefore {
		if !r.get().Spec.Forced() || st.AcceptedAt == nil || r.clock.Now().Sub(st.AcceptedAt.Time) <= gracePeriod {
			r.rt.Fatalf("a lease was forced too early: %+v", st)
		}
	}
	if !finished && r.get().Finished() {
		r.verify()
	}
}

// verify checks the end: what was revoked is gone, and what was issued after the last revocation lives.
func (r *run) verify() {
	st := r.get().Status
	if st.AcceptedAt == nil || st.StartedAt == nil || *st.RemainingLeases != 0 {
		r.rt.Fatalf("finished with status %+v", st)
	}
	if len(r.server.harmed) > 0 {
		r.rt.Fatalf("leases that were issued after the revocation were revoked: %v", r.server.harmed)
	}
	for id, lives := range r.server.leases {
		if r.revoked[id] || !lives {
			r.rt.Fatalf("finished although %s remains (it lives: %t)", id, lives)
		}
	}
	if kind := v1alpha1.ReadyCondition; len(st.Conditions) != 1 || st.Conditions[0].Type != kind {
		r.rt.Fatalf("conditions %+v", st.Conditions)
	}
}
