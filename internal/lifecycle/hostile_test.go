package lifecycle

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// hostility is what something else does to the Secret, again and again.
type hostility struct {
	// always is done once, at the start.
	always func(w *world)
	// often is done before each run.
	often func(w *world)
}

func byAdmission(of func(sec *corev1.Secret, dryRun bool) error) hostility {
	return hostility{always: func(w *world) { w.admission = of }}
}

// hostilities by name. None of them is a person's.
var hostilities = map[string]hostility{
	"a controller changes a key": {often: (*world).tamper},
	"a controller adds a key":    {often: (*world).touch},
	"a controller deletes it":    {often: func(w *world) { clear(w.secrets) }},
	"a controller makes it immutable": {often: func(w *world) {
		for _, s := range w.secrets {
			s.Immutable = new(true)
			w.put(s)
		}
	}},
	"a controller removes the annotations": {often: func(w *world) {
		for _, s := range w.secrets {
			clear(s.Annotations)
			w.put(s)
		}
	}},
	"admission changes a label": byAdmission(func(sec *corev1.Secret, _ bool) error {
		sec.Labels["team"] = "theirs"
		return nil
	}),
	"admission changes a key": byAdmission(func(sec *corev1.Secret, dryRun bool) error {
		if !dryRun {
			sec.Data["username"] = []byte("theirs")
		}
		return nil
	}),
	"admission removes the salt": byAdmission(func(sec *corev1.Secret, _ bool) error {
		delete(sec.Annotations, v1alpha1.DigestSaltAnnotation)
		return nil
	}),
	"admission requires odd keys": byAdmission(func(sec *corev1.Secret, _ bool) error {
		if sec.Data["DATABASE_URL"] == nil {
			return denial("this Secret is not complete")
		}
		return nil
	}),
	"admission rejects what is stored": byAdmission(func(_ *corev1.Secret, dryRun bool) error {
		if !dryRun {
			return denial("not today")
		}
		return nil
	}),
	"the type does not fit": {always: func(w *world) {
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(corev1.SecretTypeTLS) })
	}},
	"a source is denied": {always: func(w *world) {
		w.useSeveralSources()
		w.failing[otherPath] = errDenied
	}},
	"one source is denied, then another one": {
		always: (*world).useSeveralSources,
		often: func(w *world) {
			path := otherPath
			if w.failing[path] != nil {
				path = leasedPath
			}
			clear(w.failing)
			w.failing[path] = errDenied
		},
	},
	"a controller changes the request to and fro": {often: func(w *world) { w.changeRequest(w.version % 2) }},
	"a controller keeps changing the request":     {often: func(w *world) { w.changeRequest(w.version) }},
	"a controller requests rotations": {often: func(w *world) {
		w.requestRotation(strconv.Itoa(w.version))
	}},
	"a controller edits what is not requested": {often: func(w *world) {
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RenewAtPercent = int32(50 + w.version%20) })
	}},
	"a controller revokes and restores": {often: func(w *world) {
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = !d.Spec.Revoked })
	}},
	"the selection selects nothing": {always: func(w *world) {
		w.person(func(d *v1alpha1.DynamicSecret) {
			d.Spec.Target.Fields = &v1alpha1.FieldSelection{Include: []string{"nothing"}}
		})
	}},
}

var errDenied = backend.Errorf(backend.Denied, "the policy lacks a line")

// useSeveralSources lets somebody edit the object so that it requests several sources: none whose value changes by
// itself, because each new value is written.
func (w *world) useSeveralSources() {
	w.severalSources()
	w.object.Spec.Sources = slices.DeleteFunc(w.object.Spec.Sources, func(s v1alpha1.SecretSource) bool {
		return s.Vault.Path == scheduledPath
	})
	w.object.Generation++
}

// changeRequest lets somebody change the request of the object, or of its first source.
func (w *world) changeRequest(n int) {
	w.person(func(d *v1alpha1.DynamicSecret) {
		request := d.Spec.Vault
		if request == nil {
			request = d.Spec.Sources[0].Vault
		}
		request.Parameters = map[string]apiextensionsv1.JSON{"n": {Raw: []byte(strconv.Itoa(n))}}
	})
}

func hostileNames() []string {
	var names []string
	for name := range hostilities {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// No object mints more than 12 credentials of a source in any hour, whatever happens to its Secret, to its spec, to its
// annotations and to its other sources. A credential that is lost because the manager was killed before it could
// publish it is replaced in addition. Writes are few as well; each edit may cause some.
func TestHostileWritersMintAtMostTwelveAnHour(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(1)
		w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
		w.object.Spec.Target.Labels = map[string]string{"team": "ours"}
		if rapid.Bool().Draw(t, "several sources") {
			w.useSeveralSources()
		}
		if rapid.Bool().Draw(t, "it was in order") {
			for range 3 {
				_, _ = w.procs[0].run(nil)
			}
		}
		var chosen []hostility
		var names []string
		for range rapid.IntRange(1, 3).Draw(t, "hostilities") {
			names = append(names, rapid.SampledFrom(hostileNames()).Draw(t, "hostility"))
			h := hostilities[names[len(names)-1]]
			if h.always != nil {
				h.always(w)
			}
			chosen = append(chosen, h)
		}
		minted, lost := map[string][]time.Time{}, map[string]int{}
		restarts := 0
		clear(w.minted)
		for range 250 {
			for _, h := range chosen {
				if h.often != nil && rapid.IntRange(0, 3).Draw(t, "now") > 0 {
					h.often(w)
				}
			}
			if rapid.IntRange(0, 40).Draw(t, "restart if 40") == 40 {
				if w.procs[0].holds() {
					lost[leasedPath]++
					lost[otherPath]++
				}
				w.procs[0].restart()
				restarts++
			}
			_, _ = w.procs[0].run(nil)
			for path, times := range w.minted {
				replaced := min(lost[path], len(times))
				lost[path] -= replaced
				minted[path] = append(minted[path], times[replaced:]...)
			}
			clear(w.minted)
			w.clock.Step(rapid.SampledFrom([]time.Duration{1, 1, 5, 30, 200}).Draw(t, "seconds") * time.Second)
		}
		for path, times := range minted {
			if from, to := thirteen(times); !from.IsZero() {
				t.Fatalf("13 credentials of %s between %s and %s, with %q\nstatus %+v\neffects: %v",
					path, from, to, names, w.object.Status, tail(w.effects))
			}
		}
		if writes := w.secretWrites(); writes > 100+15*restarts+4*w.edits {
			t.Fatalf("%d writes of the Secret, with %q: %v", writes, names, tail(w.effects))
		}
	})
}

// thirteen finds an hour with 13 of the times; zero: there is none.
func thirteen(times []time.Time) (from, to time.Time) {
	for i := range times {
		if i+12 < len(times) && times[i+12].Sub(times[i]) < time.Hour {
			return times[i], times[i+12]
		}
	}
	return time.Time{}, time.Time{}
}

// The first source of a set mints, and another one fails.
func TestOneFailingSourceMintsFewCredentials(t *testing.T) {
	for _, c := range []struct {
		it, because string
		err         error
		restarts    bool
		most        int
		unplanned   bool
		// recovers is when it must be in order, after the failure is over.
		recovers time.Duration
	}{
		{"mints once while a source is denied", "the denied source is requested first the next time",
			errDenied, false, 1, true, 2 * time.Minute},
		{"pauses if restarts forget the order", "each start mints again",
			errDenied, true, 13, true, time.Hour},
		{"mints once during an outage", "the unavailable source is requested first the next time",
			backend.Errorf(backend.Failed, "the database is down"), false, 1, false, 2 * time.Minute},
		{"mints once while a source hangs", "the hanging source is requested first the next time",
			backend.Errorf(backend.NoResponse, "no response"), false, 1, false, time.Hour},
	} {
		t.Run(c.it, func(t *testing.T) {
			w := newWorld(1)
			w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
			w.severalSources()
			w.failing[otherPath] = c.err
			for end := w.clock.Now().Add(2 * time.Hour); w.clock.Now().Before(end); w.clock.Step(5 * time.Second) {
				if c.restarts {
					w.procs[0].restart()
				}
				_, _ = w.procs[0].run(nil)
			}
			if n := len(w.minted[leasedPath]); n == 0 || n > c.most || n < c.most/2 {
				t.Errorf("%d credentials were minted, want about %d: %s", n, c.most, c.because)
			}
			if u := w.object.Status.Unplanned; (u != nil) != c.unplanned {
				t.Errorf("counted: %+v", u)
			}
			clear(w.failing)
			w.pass(c.recovers)
			if len(w.secrets) != 1 {
				t.Errorf("it is not in order: %+v", w.object.Status)
			}
		})
	}
}

func (w *world) secretWrites() int {
	n := 0
	for _, e := range w.effects {
		if strings.HasSuffix(e, " secret") {
			n++
		}
	}
	return n
}

// A loop is reported by a condition, with the credential and without one.
func TestLoopsAreReported(t *testing.T) {
	for name, want := range map[string]string{
		"a controller changes a key":       v1alpha1.ReasonTargetContested,
		"a controller deletes it":          v1alpha1.ReasonTargetContested,
		"admission changes a label":        v1alpha1.ReasonTargetContested,
		"admission changes a key":          v1alpha1.ReasonTargetContested,
		"admission requires odd keys":      v1alpha1.ReasonTargetRejected,
		"admission rejects what is stored": v1alpha1.ReasonTargetRejected,
		"the type does not fit":            v1alpha1.ReasonInvalidResponse,
		"the selection selects nothing":    v1alpha1.ReasonInvalidResponse,
		"a source is denied":               v1alpha1.ReasonAccessDenied,

		"a controller keeps changing the request":  v1alpha1.ReasonRequestContested,
		"a controller requests rotations":          v1alpha1.ReasonRequestContested,
		"a controller revokes and restores":        v1alpha1.ReasonRequestContested,
		"a controller edits what is not requested": "",

		"a controller adds a key":         "",
		"a controller makes it immutable": "",
	} {
		t.Run(name, func(t *testing.T) {
			w, h := newWorld(1), hostilities[name]
			w.object.Spec.Target.Labels = map[string]string{"team": "ours"}
			if h.always != nil {
				h.always(w)
			}
			for range 400 {
				if h.often != nil {
					h.often(w)
				}
				_, _ = w.procs[0].run(nil)
				w.clock.Step(2 * time.Second)
			}
			got := ""
			if c := meta.FindStatusCondition(w.object.Status.Conditions, v1alpha1.StalledCondition); c != nil {
				got = c.Reason
				t.Log(c.Message)
			}
			if got != want {
				t.Errorf("the reason is %q, want %q: %+v", got, want, w.object.Status.Conditions)
			}
		})
	}
}

// foreign creates a Secret of something else at the target, instead of ours.
func (w *world) foreign() {
	sec := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: w.object.TargetName(),
		Labels: map[string]string{}, Annotations: map[string]string{}}, Data: map[string][]byte{"mine": []byte("mine")}}
	w.put(sec)
}

// While a Secret of something else has the target's name, nothing is minted: it could not be published.
func TestNothingIsMintedForAForeignSecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		all := w.actions(t)
		run := func(f fault) {
			if w.object == nil {
				return
			}
			s, before := w.secrets[w.object.TargetName()], w.backend.Issued()
			isForeign := s != nil && s.Data["mine"] != nil
			w.fault = f
			_, _ = w.somebody(t).run(nil)
			w.fault = fault{after: -1}
			if isForeign && w.backend.Issued() != before {
				t.Fatalf("a credential was minted: %+v\neffects: %v", w.object.Status, tail(w.effects))
			}
		}
		some := map[string]func(*rapid.T){
			"run": func(*rapid.T) { run(fault{after: -1}) },
			"run with a fault": func(t *rapid.T) {
				run(fault{rapid.IntRange(0, 9).Draw(t, "after effects"),
					rapid.SampledFrom([]faultKind{crashBefore, crashAfter, failBefore, failAfter}).Draw(t, "kind")})
			},
			"create a foreign Secret": func(*rapid.T) {
				if w.object != nil {
					w.foreign()
				}
			},
			"delete the foreign Secret": func(*rapid.T) {
				maps.DeleteFunc(w.secrets, func(_ string, s *corev1.Secret) bool { return s.Data["mine"] != nil })
			},
		}
		for _, name := range []string{"kill", "let time pass", "suspend", "revoke", "change the request",
			"revoke a lease in the backend", "request a rotation", "rename the target", "delete the Secret", ""} {
			some[name] = all[name]
		}
		t.Repeat(some)
	})
}

// Renames, however they are interrupted, leave one Secret.
func TestRenamesLeaveOneSecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(2)
		w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
		all := w.actions(t)
		some := map[string]func(*rapid.T){
			"run with a fault": func(t *rapid.T) {
				w.fault = fault{rapid.IntRange(0, 9).Draw(t, "after effects"),
					rapid.SampledFrom(faultKinds).Draw(t, "kind")}
				_, _ = w.somebody(t).run(nil)
				w.fault = fault{after: -1}
			},
		}
		for _, name := range []string{"run", "kill", "rename the target", "request a rotation", "suspend", ""} {
			some[name] = all[name]
		}
		t.Repeat(some)
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = false })
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		w.verifySettled(t)
	})
}

// The credential in a Secret is alive until its successor is there, whatever happens to the successor.
func TestTheCredentialInUseIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(2)
		w.backend.TTL, w.backend.MaxTTL = 100*time.Hour, 1000*time.Hour
		reissue := []v1alpha1.Reissue{v1alpha1.ReissueAlways, v1alpha1.ReissueNever}
		w.object.Spec.Lease.Reissue = rapid.SampledFrom(reissue).Draw(t, "reissue")
		if rapid.Bool().Draw(t, "several sources") {
			w.severalSources()
		}
		all, byOthers := w.actions(t), map[string]bool{}
		some := map[string]func(*rapid.T){
			"revoke a lease that is not in use": func(t *rapid.T) {
				for id := range w.backend.Live() {
					if !w.inASecret(id) {
						byOthers[id] = true
						w.backend.RevokeBehind(id)
						for _, p := range w.procs {
							p.life.memory.suspect(ordersKey, id)
						}
					}
				}
			},
			"": func(t *rapid.T) {
				live := w.backend.Live()
				for _, s := range w.secrets {
					if user := string(s.Data["username"]); live[user] == "" && !byOthers[user] {
						t.Fatalf("the Secret contains %s, which is dead: %+v\neffects: %v",
							user, w.object.Status, tail(w.effects))
					}
				}
			},
		}
		for _, name := range []string{"run", "run with a fault", "kill", "request a rotation", "suspend",
			"change the request", "read", "run from a stale read", "outage"} {
			some[name] = all[name]
		}
		some["let a second pass"] = func(*rapid.T) { w.clock.Step(time.Second) }
		t.Repeat(some)
	})
}

func (w *world) inASecret(id string) bool {
	for _, s := range w.secrets {
		if string(s.Data["username"]) == id || string(s.Data["BROKER_username"]) == id {
			return true
		}
	}
	return false
}

// A is in the Secret, B is recorded, the process dies before it publishes B, and B is revoked or expires.
func TestALostSuccessorLeavesTheCredentialInUse(t *testing.T) {
	for _, several := range []bool{false, true} {
		w := newWorld(1)
		if several {
			w.severalSources()
		}
		p := w.procs[0]
		for range 3 {
			_, _ = p.run(nil)
		}
		used := string(w.secrets["orders"].Data["username"])
		w.person(func(d *v1alpha1.DynamicSecret) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, "now")
		})
		first, n := w.object.Status.Leases[0].ID, len(w.object.Spec.Sources)
		w.fault = fault{2*max(n, 1) + 1, crashAfter} // logins, the journal, issuances, the record
		if _, _ = p.run(nil); w.object.Status.Leases[0].ID == first {
			t.Fatalf("the successor is not recorded: %v", tail(w.effects))
		}
		w.fault = fault{after: -1}
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = true })
		for i := range w.object.Status.Leases {
			if id := w.object.Status.Leases[i].ID; id != "" {
				w.backend.RevokeBehind(id)
				p.life.memory.suspect(ordersKey, id)
				break
			}
		}
		for range 300 {
			_, _ = p.run(nil)
			w.clock.Step(20 * time.Second)
			s := w.secrets["orders"]
			if s == nil || string(s.Data["username"]) != used || w.backend.Live()[used] == "" {
				t.Fatalf("several %v: the credential in use is gone: %v\n%+v\neffects: %v",
					several, s, w.object.Status, tail(w.effects))
			}
		}
	}
}
