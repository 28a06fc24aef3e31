package lease

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// FuzzPlan: whatever a status contains and whatever the time is, there is one step, it can be executed, and no record
// is lost.
func FuzzPlan(f *testing.F) {
	for seed := range uint64(32) {
		random := rand.New(rand.NewPCG(seed, 1))
		bytes := make([]byte, 4096<<(seed%4))
		for i := range bytes {
			bytes[i] = byte(random.Uint32() >> (seed % 7)) // small numbers draw simple values
		}
		f.Add(bytes)
	}
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { runHostile(t, 12) }))
}

func TestPlanLosesNoRecordOfAHostileStatus(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { runHostile(t, 12) })
}

func runHostile(t *rapid.T, steps int) {
	in := drawInput(t)
	w := &world{T: t, in: &in}
	for range steps {
		s := planned(t, in)
		checkStep(t, in, s)
		checkStatus(t, in, s)
		if !w.checked(s) {
			return
		}
	}
}

// checked executes the step, and fails if it loses a record or replaces a part of a set.
func (w *world) checked(s Step) bool {
	st := &w.in.Object.Status
	held := w.in.Held
	if s.Action != RecordLeases && s.Action != DropAttempt {
		held = Held{} // the step does not use it
	}
	before, handles := names(st, held), handlesOf(st.Leases)
	if s.Action == RevokeRecord || s.Action == AbandonRecord {
		for _, name := range namesOf(&recordsOf(w.in.Object, s)[s.Record]) {
			delete(before, name)
		}
	}
	if !w.take(s) {
		return false
	}
	after := names(st, Held{})
	for name := range before {
		if !after[name] {
			w.Fatalf("%s loses %s:\n%+v", s.Action, name, st)
		}
	}
	replaced := s.Action == RecordLeases && len(st.Leases) == len(held.Records)
	if !replaced && len(st.Leases) > 0 && !slices.Equal(handlesOf(st.Leases), handles) {
		w.Fatalf("%s replaces a part of the set %v: %v", s.Action, handles, handlesOf(st.Leases))
	}
	return true
}

func handlesOf(records []v1alpha1.LeaseRecord) (handles []string) {
	for i := range records {
		handles = append(handles, records[i].Handle())
	}
	return handles
}

// names are the handles, ids and serial numbers of what may be alive. A held response says more about the attempt than
// its journal: what cannot be revoked needs no record.
func names(st *v1alpha1.DynamicSecretStatus, held Held) map[string]bool {
	all := map[string]bool{}
	open := 0
	if st.Attempt != nil {
		open = len(st.Attempt.Records)
	}
	for i, rec := range Records(st) {
		if h := held.find(rec.Handle()); i < open && h != nil && h.Settled {
			rec = h.Record
		}
		if i < open && rec.Kind != "" && !Revocable(&rec) {
			continue
		}
		for _, name := range namesOf(&rec) {
			all[name] = true
		}
	}
	return all
}

func namesOf(rec *v1alpha1.LeaseRecord) (names []string) {
	if h := rec.Handle(); h != "" {
		names = append(names, "handle "+h)
	}
	if rec.ID != "" {
		names = append(names, "id "+rec.ID)
	}
	if rec.Vault != nil && rec.Vault.SerialNumber != "" {
		names = append(names, "serial "+rec.Vault.SerialNumber)
	}
	return names
}

// A history that leasekeeper itself writes, with faults, restarts and edits. Promise 4: while the Secret exists,
// nothing revokes a live credential that it contains.
func TestPlanNeverCutsConsumersOff(t *testing.T) {
	published := 0
	rapid.Check(t, func(t *rapid.T) {
		in := input(annotated("some", "annotation"))
		in.Lost, in.Suspects, in.Done = map[string]bool{}, map[string]bool{}, map[string]bool{}
		in.Handled, in.Reads = map[string]string{}, map[string]Read{}
		drawSpec(t, &in.Object.Spec)
		in.Object.Spec.Revoked, in.Object.Spec.Suspend = false, false
		in.Requests = []Request{{Source: "db", Digest: "request-1"}, {Source: "broker", Digest: "request-1"}}
		w := &world{T: t, in: &in}
		for range 40 {
			if rarely(t, "something happens") {
				w.disturb()
			}
			s := planned(t, in)
			checkStep(t, in, s)
			w.mustNotCutOff(s)
			if !w.checked(s) && in.Block == nil {
				in.Now = in.Now.Add(time.Minute)
			}
			if len(w.content) > 0 {
				published++
			}
			if n := len(in.Object.Status.Retiring); n > 64 {
				t.Fatalf("status.retiring has %d records, the API permits 64", n)
			}
		}
	})
	if published == 0 {
		t.Error("no run published a Secret: nothing was tested")
	}
}

func (w *world) mustNotCutOff(s Step) {
	if s.Action != RevokeRecord || !s.Retiring {
		return
	}
	rec := &w.in.Object.Status.Retiring[s.Record]
	end, dies := LifeEnd(rec)
	dead := dies && !w.in.Now.Before(end) || w.in.Lost[rec.ID]
	reasons := []string{v1alpha1.ReasonLeaseLost, v1alpha1.ReasonExpired, v1alpha1.ReasonGrantEnded}
	ended := slices.Contains(reasons, rec.Reason)
	if w.content[rec.Handle()] && !dead && !ended {
		w.Fatalf("the Secret contains the credential of %+v", rec)
	}
}

// disturb changes what Plan observes.
func (w *world) disturb() {
	in, st := w.in, &w.in.Object.Status
	event := oneOf(w.T, "event",
		"restart", "time", "lost", "block", "unblock", "request", "rotate", "deleted", "edited")
	switch event {
	case "restart":
		in.Held, in.Tries = Held{}, Tries{}
		in.Handled, in.Reads, in.Done = map[string]string{}, map[string]Read{}, map[string]bool{}
	case "time":
		in.Now = in.Now.Add(oneOf(w.T, "passes", time.Second, time.Minute, 30*time.Minute))
	case "lost":
		for i := range st.Leases {
			if Leased(&st.Leases[i]) && maybe(w.T, "lost") {
				in.Lost[st.Leases[i].ID] = true
			}
		}
	case "block":
		in.Block = &notReadyBlock
	case "unblock":
		in.Block = nil
	case "request":
		i := rapid.IntRange(0, len(in.Requests)-1).Draw(w.T, "source")
		in.Requests[i].Digest = oneOf(w.T, "request", "request-1", "request-2")
	case "rotate":
		w.minted++
		in.Object.Annotations[v1alpha1.RotateRequestedAtAnnotation] = tokenOf(w.minted)
	case "deleted":
		in.Target, w.content = TargetAbsent, nil
	case "edited":
		if in.Target == TargetCurrent {
			in.Target = TargetChanged
		}
	}
}

// Promise 5: a deletion ends, although the backend and the API server refuse everything.
func TestPlanADeletionAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		d := in.Object
		d.Finalizers, d.DeletionTimestamp = []string{v1alpha1.Finalizer}, stampPtr(0)
		d.Spec.Lease.RevocationDeadline = lasting(time.Minute)
		d.Status.Retiring = d.Status.Retiring[:min(len(d.Status.Retiring), 3)]
		d.Status.Leases = d.Status.Leases[:min(len(d.Status.Leases), 3)]
		in.Now, in.Held, in.Tries = t0, Held{}, Tries{}
		for i := range d.Status.Retiring { // leasekeeper puts a revocation off by minutes
			if at := d.Status.Retiring[i].RevokeAfter; at != nil && at.After(t0.Add(limit)) {
				d.Status.Retiring[i].RevokeAfter = stampPtr(limit)
			}
		}
		for i := range d.Status.Leases {
			d.Status.Leases[i].RevokeAfter = nil
		}
		latest := t0.Add(time.Minute + limit + in.RequestLimit + 2*maxBackoff)
		fail := func(f Failure) Failure {
			return Failure{Count: f.Count + 1, NotBefore: in.Now.Add(Backoff(f.Count+1, d.UID)), Message: "refused"}
		}
		in.Tries.Revoke = map[string]Failure{}
		for range 1000 {
			s := planned(t, in)
			switch s.Action {
			case Wait:
				if !s.At.After(in.Now) {
					t.Fatalf("waits for ever: %+v", in)
				}
				in.Now = s.At
			case DropAttempt:
				RetireAttempt(&d.Status, in.Held, s.Reason, in.RequestLimit, in.Now)
			case DeleteSecret:
				in.Tries.DeleteSecret = fail(in.Tries.DeleteSecret)
			case RevokeRecord:
				key := Key(&recordsOf(d, s)[s.Record])
				in.Tries.Revoke[key] = fail(in.Tries.Revoke[key])
			case AbandonRecord:
				in.Done[Key(&recordsOf(d, s)[s.Record])] = true
			case RemoveFinalizer:
				if in.Now.After(latest) {
					t.Fatalf("ended at %s, not by %s", in.Now, latest)
				}
				return
			default:
				t.Fatalf("%+v during a deletion", s)
			}
		}
		t.Fatalf("not ended at %s, after 1000 steps", in.Now)
	})
}

func recordsOf(d *v1alpha1.DynamicSecret, s Step) []v1alpha1.LeaseRecord {
	if s.Retiring {
		return d.Status.Retiring
	}
	return d.Status.Leases
}
