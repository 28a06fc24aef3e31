package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// draw a world: how the backend leases, what the spec requests, and two replicas with clocks of their own.
func draw(t *rapid.T) *world {
	w := newWorld(2)
	w.backend.TTL = rapid.SampledFrom([]time.Duration{30 * time.Second, 10 * time.Minute, time.Hour}).Draw(t, "TTL")
	w.backend.MaxTTL = w.backend.TTL * time.Duration(rapid.IntRange(1, 4).Draw(t, "max TTL, in TTLs"))
	w.backend.TokenTTL = rapid.SampledFrom([]time.Duration{0, 5 * time.Minute, 10 * time.Hour}).Draw(t, "token TTL")
	w.backend.TokenMaxTTL = rapid.SampledFrom([]time.Duration{0, 20 * time.Hour}).Draw(t, "token max TTL")
	w.backend.Renewable = rapid.Bool().Draw(t, "renewable")
	w.backend.Unleased = rapid.IntRange(0, 5).Draw(t, "unleased if 0") == 0
	if !w.backend.Unleased && rapid.Bool().Draw(t, "several sources") {
		w.severalSources()
	}
	w.backend.Revocable = rapid.Bool().Draw(t, "certificates can be revoked")
	if rapid.IntRange(0, 2).Draw(t, "certificate if 0") == 0 {
		w.certificate()
	}
	w.object.Spec.Target.Labels = map[string]string{"team": "ours"}
	delays := []time.Duration{0, 5 * time.Second, 90 * time.Second}
	w.backend.Delay = rapid.SampledFrom(delays).Draw(t, "delay of a late issuance")
	spec := &w.object.Spec.Lease
	onExpiry := []v1alpha1.OnExpiry{v1alpha1.OnExpiryDelete, v1alpha1.OnExpiryRetain}
	spec.OnExpiry = rapid.SampledFrom(onExpiry).Draw(t, "onExpiry")
	reissue := []v1alpha1.Reissue{v1alpha1.ReissueAlways, v1alpha1.ReissueAlways, v1alpha1.ReissueNever}
	spec.Reissue = rapid.SampledFrom(reissue).Draw(t, "reissue")
	w.rotation(t)
	w.skew(t)
	return w
}

// rotation draws a rotation that fits into the life of a lease.
func (w *world) rotation(t *rapid.T) {
	spec := &w.object.Spec
	if rapid.Bool().Draw(t, "has a maximum age") {
		spec.Rotation.MaxAge = &metav1.Duration{Duration: 2 * w.backend.TTL}
	}
	parts := rapid.SampledFrom([]time.Duration{10, 1_000_000})
	spec.Rotation.Overlap = &metav1.Duration{Duration: w.backend.TTL / parts.Draw(t, "overlap, as a part of TTL")}
	if rapid.Bool().Draw(t, "rolls out") {
		spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
	}
	w.takes = w.backend.TTL / parts.Draw(t, "rollout, as a part of TTL")
}

// skew sets the clocks: the first differs by up to 30 s from the backend's, the second by as much from the first.
func (w *world) skew(t *rapid.T) {
	off := time.Duration(0)
	for _, p := range w.procs {
		off += time.Duration(rapid.IntRange(-30, 30).Draw(t, "skew of "+p.name)) * time.Second
		p.skew = off
	}
}

var faultKinds = []faultKind{crashBefore, crashAfter, failBefore, failAfter, late, wakeOther, shutdown}

// somebody picks a replica.
func (w *world) somebody(t *rapid.T) *process { return rapid.SampledFrom(w.procs).Draw(t, "who") }

// actions are what may happen to a world.
func (w *world) actions(t *rapid.T) map[string]func(*rapid.T) {
	stale := []*v1alpha1.DynamicSecret{w.object.DeepCopy()}
	n := 0
	return map[string]func(*rapid.T){
		"run": func(t *rapid.T) {
			_, _ = w.somebody(t).run(nil)
		},
		"run with a fault": func(t *rapid.T) {
			after := rapid.IntRange(0, 9).Draw(t, "after effects")
			w.fault = fault{after, rapid.SampledFrom(faultKinds).Draw(t, "kind")}
			_, _ = w.somebody(t).run(nil)
			w.fault = fault{after: -1}
		},
		"run from a stale read": func(t *rapid.T) {
			_, _ = w.somebody(t).run(rapid.SampledFrom(stale).Draw(t, "read"))
		},
		"read": func(*rapid.T) {
			if w.object != nil {
				stale = append(stale, w.object.DeepCopy())
			}
		},
		"kill": func(t *rapid.T) { w.somebody(t).restart() },
		"let time pass": func(t *rapid.T) {
			seconds := rapid.SampledFrom([]time.Duration{1, 3, 10, 21, 60, 151, 420, 2500}).Draw(t, "seconds")
			w.clock.Step(seconds * time.Second)
		},
		"outage": func(*rapid.T) { w.down = !w.down },
		"break a path": func(t *rapid.T) {
			path := rapid.SampledFrom([]string{leasedPath, otherPath, staticPath, certificatePath}).Draw(t, "path")
			w.broken[path] = rapid.SampledFrom([]breakage{fails, hangs, ""}).Draw(t, "how")
		},
		"refuse extensions": func(*rapid.T) {
			refuse := !w.refuses["renew"]
			w.refuses["renew"], w.refuses["extend"] = refuse, refuse
		},
		"revoke a lease in the backend": func(t *rapid.T) {
			if ids := slices.Sorted(maps.Keys(w.backend.Live())); len(ids) > 0 {
				w.backend.RevokeBehind(rapid.SampledFrom(ids).Draw(t, "lease"))
			}
		},
		"tamper with the Secret":  func(*rapid.T) { w.tamper() },
		"add a key to the Secret": func(*rapid.T) { w.touch() },
		"change the KV secret": func(*rapid.T) {
			n++
			w.backend.SetValue(staticPath, fmt.Sprint(n))
		},
		"delete the Secret": func(*rapid.T) { clear(w.secrets) },
		"a foreign Secret appears": func(*rapid.T) {
			if w.object != nil {
				w.foreign()
			}
		},
		"the foreign Secrets disappear": func(*rapid.T) { w.removeForeign() },
		"admission changes Secrets": func(t *rapid.T) {
			w.admitWith(t, "admission changes a label", "admission changes a key")
		},
		"admission strips Secrets": func(t *rapid.T) {
			w.admitWith(t, "admission removes the salt", "")
		},
		"admission rejects Secrets": func(t *rapid.T) {
			w.admitWith(t, "admission requires odd keys", "admission rejects what is stored")
		},
		"admission ends": func(*rapid.T) { w.admission = nil },
		"change the request": func(t *rapid.T) {
			n++
			raw, _ := apiextensionsJSON(n)
			w.person(func(d *v1alpha1.DynamicSecret) {
				request := d.Spec.Vault
				if request == nil {
					request = d.Spec.Sources[n%len(d.Spec.Sources)].Vault
				}
				request.Parameters = map[string]apiextensionsv1.JSON{"n": raw}
			})
		},
		"request a rotation": func(*rapid.T) {
			n++
			w.person(func(d *v1alpha1.DynamicSecret) {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation,
					w.clock.Now().String())
			})
		},
		"rename the target": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"", "one", "two"}).Draw(t, "name")
			w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = name })
		},
		"suspend": func(*rapid.T) { w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = !d.Spec.Suspend }) },
		"revoke":  func(*rapid.T) { w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = !d.Spec.Revoked }) },
		"replace the object": func(*rapid.T) {
			w.person(func(d *v1alpha1.DynamicSecret) { d.Finalizers = nil })
		},
		"delete": func(t *rapid.T) {
			if rapid.IntRange(0, 7).Draw(t, "really if 0") == 0 {
				w.delete()
			}
		},
		"protect the Secret": func(t *rapid.T) {
			w.refusal = rapid.SampledFrom(append(refusals(), nil)).Draw(t, "refusal")
			w.unread = rapid.Bool().Draw(t, "unread")
		},
		"": func(t *rapid.T) {
			if leaked := w.leaked(); len(leaked) > 0 {
				t.Fatalf("live leases that nothing knows of: %v\neffects: %v", leaked, tail(w.effects))
			}
		},
	}
}

// admitWith lets one of the hostile policies decide on each Secret; an empty name: one that removes all metadata.
func (w *world) admitWith(t *rapid.T, names ...string) {
	name := rapid.SampledFrom(names).Draw(t, "policy")
	if name != "" {
		hostilities[name].always(w)
		return
	}
	w.admission = func(sec *corev1.Secret, _ bool) error {
		clear(sec.Labels)
		clear(sec.Annotations)
		return nil
	}
}

func apiextensionsJSON(n int) (apiextensionsv1.JSON, error) {
	return apiextensionsv1.JSON{Raw: []byte{'"', byte('a' + n%26), '"'}}, nil
}

func tail(effects []string) []string { return effects[max(0, len(effects)-25):] }

// Whatever happens to two replicas, in any order and between any two effects: every live lease is on record or held by
// a living process. When the faults stop it settles, with exactly the recorded leases alive and in the Secret, and none
// for an object that is gone or revoked.
func TestEveryLiveLeaseIsOnRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		t.Repeat(w.actions(t))
		w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Suspend = false })
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		w.verifySettled(t)
	})
}

func (w *world) verifySettled(t *rapid.T) {
	live := w.alive()
	if w.object == nil {
		maps.DeleteFunc(live, func(_, handle string) bool { return w.abandoned[handle] })
	} else if len(w.object.Finalizers) == 0 {
		t.Fatal("the object has no finalizer")
	}
	secrets := w.labelled()
	if w.object == nil || w.object.Spec.Revoked || w.object.Status.GrantEndedAt != nil {
		if len(live) > 0 || secrets > 0 {
			t.Fatalf("left behind: leases %v, %d Secrets\neffects: %v", live, secrets, tail(w.effects))
		}
		return
	}
	s := w.secrets[w.object.TargetName()]
	if s == nil || secrets != 1 {
		t.Fatalf("there are %d Secrets, one with the target's name: %v\neffects: %v",
			secrets, s != nil, tail(w.effects))
	}
	recorded := map[string]string{}
	for i := range w.object.Status.Leases {
		rec := &w.object.Status.Leases[i]
		switch serial := serialOf(rec); {
		case lease.Leased(rec):
			recorded[rec.ID] = rec.Handle()
		case serial != "":
			recorded[serial] = rec.Handle()
		}
	}
	if !maps.Equal(live, recorded) {
		t.Fatalf("live %v, recorded %v\neffects: %v", live, recorded, tail(w.effects))
	}
	for id := range recorded {
		if !contains(s, id) {
			t.Fatalf("the Secret lacks %s: %v\neffects: %v",
				id, slices.Collect(maps.Keys(s.Data)), tail(w.effects))
		}
	}
}

// labelled counts the Secrets that have the target's name or leasekeeper's label. A process that did not write the
// others cannot find them. The garbage collector deletes them with the object.
func (w *world) labelled() (n int) {
	for name, s := range w.secrets {
		owned := metav1.GetControllerOf(s) != nil
		target := w.object != nil && name == w.object.TargetName()
		if !owned || target || s.Labels[v1alpha1.OwnerLabel] != "" {
			n++
		}
	}
	return n
}

func contains(s *corev1.Secret, value string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(s.Data)), func(v []byte) bool { return string(v) == value })
}

// Restarts, failovers, outages, API errors, keys that others add, new values of static sources and edits that change no
// request mint nothing. Nor does an admission policy that changes a label or rejects every Secret. One that changes the
// data or the digest, or rejects only what is stored when the type changes, makes a new credential necessary: the old
// one is in no Secret any more.
func TestNothingIsMintedWithoutACause(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(2)
		w.backend.TTL, w.backend.MaxTTL = 10*time.Hour, 200*time.Hour
		w.backend.TokenTTL = rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "token TTL")
		wanted := 1
		if rapid.Bool().Draw(t, "several sources") {
			w.severalSources()
			wanted = 2
			if rapid.Bool().Draw(t, "certificate") {
				w.certificate()
				wanted = 3
			}
		}
		w.skew(t)
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		all := w.actions(t)
		harmless := map[string]func(*rapid.T){
			"label the target": func(t *rapid.T) {
				v := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "value")
				w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"team": v} })
			},
			"change the type": func(t *rapid.T) {
				v := rapid.SampledFrom([]string{"Opaque", "example.com/other"}).Draw(t, "type")
				w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = v })
				_, _ = w.procs[0].run(nil)
			},
			"request a renewal": func(t *rapid.T) {
				w.person(func(d *v1alpha1.DynamicSecret) {
					metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RenewRequestedAtAnnotation,
						w.clock.Now().String())
				})
			},
			"let a minute pass": func(*rapid.T) { w.clock.Step(time.Minute) },
			"admission interferes": func(t *rapid.T) {
				w.admitWith(t, "admission changes a label", "admission requires odd keys")
			},
			"": func(t *rapid.T) {
				if n := w.backend.Issued(); n != wanted {
					t.Fatalf("%d credentials were minted instead of %d\neffects: %v", n, wanted, tail(w.effects))
				}
			},
		}
		for _, name := range []string{
			"run", "run from a stale read", "read", "kill", "outage", "break a path", "suspend", "admission ends",
			"add a key to the Secret", "change the KV secret",
		} {
			harmless[name] = all[name]
		}
		harmless["run with a fault that moves no Secret"] = func(t *rapid.T) {
			// A Secret whose type changes is deleted and created again: a failure in between loses it.
			if s := w.secrets[w.object.TargetName()]; s == nil || s.Type != secret.Type(w.object) {
				return
			}
			w.fault = fault{rapid.IntRange(0, 5).Draw(t, "after effects"),
				rapid.SampledFrom([]faultKind{failBefore, failAfter, wakeOther}).Draw(t, "kind")}
			_, _ = w.somebody(t).run(nil)
			w.fault = fault{after: -1}
		}
		t.Repeat(harmless)
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		harmless[""](t)
	})
}

// The leases of a path are renewed in time while the database of another path of the same set fails or hangs, and that
// ends before its own leases do. Nothing leaks, and nothing is minted: no lease has ended.
func TestABrokenPathHoldsUpNoOther(t *testing.T) {
	renewals := int64(0)
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(1)
		w.backend.TTL = rapid.SampledFrom([]time.Duration{4 * time.Minute, time.Hour}).Draw(t, "TTL")
		w.backend.MaxTTL = 10_000 * w.backend.TTL
		w.backend.TokenTTL = rapid.SampledFrom([]time.Duration{0, w.backend.TTL}).Draw(t, "token TTL")
		w.severalSources()
		if rapid.Bool().Draw(t, "two sources on each path") {
			w.object.Spec.Sources = append(w.object.Spec.Sources,
				from("db-2", leasedPath, "DB2_"), from("broker-2", otherPath, "BROKER2_"))
		}
		if err := w.settle(); err != nil {
			t.Fatal(err)
		}
		wanted := w.backend.Issued()
		all := w.actions(t)
		some := map[string]func(*rapid.T){
			"break a path for a while": func(t *rapid.T) {
				path := rapid.SampledFrom([]string{leasedPath, otherPath, staticPath}).Draw(t, "path")
				w.broken[path] = rapid.SampledFrom([]breakage{fails, hangs}).Draw(t, "how")
				part := w.backend.TTL / 50
				end := w.clock.Now().Add(part * time.Duration(rapid.IntRange(1, 11).Draw(t, "fiftieths of the TTL")))
				for w.clock.Now().Before(end) {
					w.pass(part)
					w.checkRenewed(t)
				}
				delete(w.broken, path)
				w.pass(w.backend.TTL / 10) // a retry waits for a quarter of the remaining time at most
			},
			"let time pass": func(t *rapid.T) {
				w.pass(w.backend.TTL / 10 * time.Duration(rapid.IntRange(1, 5).Draw(t, "tenths of the TTL")))
			},
			"": func(t *rapid.T) {
				w.checkRenewed(t)
				all[""](t)
				if n := w.backend.Issued(); n != wanted {
					t.Fatalf("%d credentials were minted instead of %d\neffects: %v", n, wanted, tail(w.effects))
				}
			},
		}
		for _, name := range []string{"run", "read", "run from a stale read", "kill", "change the KV secret"} {
			some[name] = all[name]
		}
		t.Repeat(some)
		renewals += w.object.Status.Leases[0].Renewals
	})
	if renewals == 0 {
		t.Error("nothing was renewed, so nothing was tested")
	}
}

// checkRenewed fails if a recorded lease was not renewed although its path works.
func (w *world) checkRenewed(t *rapid.T) {
	for i := range w.object.Status.Leases {
		rec := &w.object.Status.Leases[i]
		if !lease.Leased(rec) || w.broken[rec.Vault.Path] != "" {
			continue
		}
		end, _ := w.backend.Expiry(rec.ID)
		if left := end.Sub(w.clock.Now()); left < w.backend.TTL/5 {
			t.Fatalf("lease %s has %s left\neffects: %v", rec.ID, left, tail(w.effects))
		}
	}
}

// A Secret whose lease has expired is gone, or contains another credential, after the next reconciliations.
func TestASecretNeverOutlivesItsLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		w.object.Spec.Lease.OnExpiry = v1alpha1.OnExpiryDelete
		w.backend.Unleased = false
		for _, p := range w.procs {
			p.skew = 0
		}
		all := w.actions(t)
		some := map[string]func(*rapid.T){}
		for _, name := range []string{
			"run", "run with a fault", "kill", "let time pass", "outage", "suspend", "change the request", "",
			"break a path", "a foreign Secret appears", "the foreign Secrets disappear", "admission changes Secrets",
			"admission strips Secrets", "admission rejects Secrets", "admission ends",
		} {
			some[name] = all[name]
		}
		some["reconcile"] = func(t *rapid.T) {
			// The first runs may meet a failure that they must note, and after which they pause.
			var next time.Time
			for range 5 {
				for range 3 {
					next, _ = w.procs[0].run(nil)
				}
				if w.expired() == "" {
					return
				}
				if next.After(w.clock.Now()) {
					w.clock.SetTime(next)
				}
			}
			t.Fatalf("the Secret contains a credential: %s\neffects: %v", w.expired(), tail(w.effects))
		}
		t.Repeat(some)
	})
}

// stormWithDeadline returns a world after a storm. Its object, if there still is one, has a revocation deadline of ten
// minutes.
func stormWithDeadline(t *rapid.T) *world {
	w := draw(t)
	w.object.Spec.Lease.RevocationDeadline = &metav1.Duration{Duration: 10 * time.Minute}
	t.Repeat(w.actions(t))
	return w
}

// A deletion completes within its deadline although the backend stays unavailable, and reports what it gave up.
func TestDeletionMeetsItsDeadlineWithoutABackend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := stormWithDeadline(t)
		if w.object == nil {
			return
		}
		w.delete()
		w.down = true
		for range 200 {
			_, _ = w.procs[0].run(nil)
			w.clock.Step(10 * time.Second)
			if w.object == nil {
				break
			}
		}
		if w.object != nil {
			t.Fatalf("it still exists: %d records, %v", len(lease.Records(&w.object.Status)), tail(w.effects))
		}
		if leaked := w.leaked(); len(leaked) > 0 {
			t.Fatalf("given up without a report: %v", leaked)
		}
	})
}

// refusals are errors of an API server that does not delete a Secret.
func refusals() []error {
	return []error{
		apierrors.NewForbidden(secretsResource, "orders", errors.New("protected")),
		apierrors.NewInternalError(errors.New("failed calling webhook")),
		apierrors.NewUnauthorized("not here"),
		apierrors.NewConflict(secretsResource, "orders", errors.New("somebody else writes it")),
		apierrors.NewTimeoutError("slow webhook", 1),
	}
}

// rejections are errors of an API server that does not accept a status.
func rejections() []error {
	return append(refusals(), context.DeadlineExceeded, apierrors.NewServiceUnavailable("etcd is read-only"),
		apierrors.NewTooManyRequestsError("failed calling webhook"))
}

// Leases are revoked, and a deletion completes at its deadline, whatever prevents the deletion of the Secret, and
// whether or not the status can be written.
func TestRevocationWaitsOnlyForTheBackend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := stormWithDeadline(t)
		if w.object == nil {
			return
		}
		w.down = false
		clear(w.broken)
		w.refusal = rapid.SampledFrom(refusals()).Draw(t, "refusal")
		w.unread = rapid.Bool().Draw(t, "unread")
		if rapid.Bool().Draw(t, "reject the status") {
			w.rejectStatus(rapid.SampledFrom(rejections()).Draw(t, "rejection"))
		}
		if rapid.Bool().Draw(t, "delete") {
			w.delete()
		} else {
			w.person(func(d *v1alpha1.DynamicSecret) { d.Spec.Revoked = true })
		}
		for range 8 * 60 / 5 { // less than the deadline, more than the request limit
			for _, p := range w.procs {
				w.gone(p)
				_, _ = p.run(nil)
			}
			w.clock.Step(5 * time.Second)
		}
		live := w.alive()
		maps.DeleteFunc(live, func(_, handle string) bool { return w.abandoned[handle] })
		if len(live) > 0 {
			t.Fatalf("live: %v: %v\neffects: %v", live, w.object.Status.Conditions, tail(w.effects))
		}
		for range 60 {
			_, _ = w.procs[0].run(nil)
			w.clock.Step(5 * time.Second)
		}
		if w.object != nil && !w.object.Spec.Revoked {
			t.Fatalf("the object still exists\neffects: %v", tail(w.effects))
		}
	})
}

// rejectStatus lets the API server accept no status.
func (w *world) rejectStatus(err error) {
	w.updates = func(of operation) error {
		if of == writeStatus {
			return err
		}
		return nil
	}
}

// Consumers that read the Secret only when they start are never cut off: not by a rotation, whatever its cause, nor by
// kills and failures during one. If an admission policy rejects the Secret of a successor, their credential may expire
// at its maximum TTL, but it is not revoked. A policy that changes what is stored is excluded: the Secret can contain a
// credential that leasekeeper could not record, and that is revoked if the manager is killed then.
func TestConsumersAreNeverCutOff(t *testing.T) {
	rotations := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(2)
		w.backend.TTL = rapid.SampledFrom([]time.Duration{2 * time.Minute, time.Hour}).Draw(t, "TTL")
		times := rapid.SampledFrom([]time.Duration{1, 3, 1000}).Draw(t, "max TTL, in TTLs")
		w.backend.MaxTTL = w.backend.TTL * times
		w.backend.TokenTTL = rapid.SampledFrom([]time.Duration{0, 10 * time.Hour}).Draw(t, "token TTL")
		w.rotation(t)
		w.object.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
		reconcile := func() {
			// The first run may meet a failure that it must note; a retry waits for a second.
			for range 4 {
				for _, p := range w.procs {
					_, _ = p.run(nil)
				}
				w.clock.Step(time.Second)
			}
		}
		reconcile()
		w.move()
		if w.using == "" {
			t.Fatal("there is no credential at the start")
		}
		all := w.actions(t)
		some := map[string]func(*rapid.T){}
		for _, name := range []string{"run", "run with a fault", "kill", "change the request", "request a rotation"} {
			some[name] = all[name]
		}
		interferes := rapid.Bool().Draw(t, "admission interferes")
		if interferes {
			some["admission rejects Secrets"] = all["admission rejects Secrets"]
			some["admission ends"] = all["admission ends"]
			w.procs = w.procs[:1] // two leaders would replace each other's unpublished credentials at every step
		}
		some["let time pass"] = func(t *rapid.T) {
			w.pass(time.Duration(rapid.IntRange(4, 240).Draw(t, "seconds")) * time.Second)
		}
		some[""] = func(t *rapid.T) {
			w.move()
			end, _ := w.backend.Expiry(w.using)
			expired := !w.clock.Now().Before(end.Truncate(time.Second)) // the status has whole seconds
			if w.backend.Live()[w.using] == "" && !(interferes && expired) {
				t.Fatalf("the consumers use %s, which is dead at %s\nhandover: %+v\nretiring: %+v\neffects: %v",
					w.using, w.clock.Now(), w.object.Status.Handover, w.object.Status.Retiring, tail(w.effects))
			}
		}
		t.Repeat(some)
		rotations += w.backend.Issued() - 1
	})
	if rotations == 0 {
		t.Error("nothing was rotated, so nothing was tested")
	}
}

// A planned handover starts in time: the old credential lives until its consumers have moved, and for the overlap
// after that. If the backend refuses every extension from some time on, the consumers are not cut off either, but the
// overlap may be.
func TestPlannedHandoversStartInTime(t *testing.T) {
	rotations := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(1)
		w.backend.TTL = rapid.SampledFrom([]time.Duration{4 * time.Minute, time.Hour}).Draw(t, "TTL")
		w.backend.MaxTTL = w.backend.TTL * time.Duration(rapid.IntRange(5, 12).Draw(t, "max TTL, in TTLs"))
		w.backend.TokenTTL = rapid.SampledFrom([]time.Duration{0, 5 * time.Minute, time.Hour}).Draw(t, "token TTL")
		if maximum := w.backend.MaxTTL * 2 / 3; w.backend.TokenTTL < maximum {
			w.backend.TokenMaxTTL = maximum
		}
		tenths := time.Duration(rapid.IntRange(1, 10).Draw(t, "overlap, in tenths of a fifth of the max TTL"))
		w.object.Spec.Rotation.Overlap = &metav1.Duration{Duration: w.backend.MaxTTL / 50 * tenths}
		w.object.Spec.Rotation.Settle = &metav1.Duration{Duration: 10 * time.Second}
		w.object.Spec.Rollout = &v1alpha1.RolloutSpec{Discover: true}
		w.takes = time.Duration(rapid.IntRange(1, 30).Draw(t, "rollout in seconds")) * time.Second
		if rapid.Bool().Draw(t, "refuse") {
			w.live(t, w.backend.TTL/10, func() {})
			w.refuses["renew"], w.refuses["extend"] = true, true
		}
		for end := w.clock.Now().Add(2 * w.backend.MaxTTL); w.backend.Issued() < 4 && w.clock.Now().Before(end); {
			w.live(t, w.backend.MaxTTL/20, func() { w.checkConsumers(t) })
		}
		rotations += w.backend.Issued() - 1
	})
	if rotations == 0 {
		t.Error("nothing was rotated, so nothing was tested")
	}
}

// checkConsumers fails if the consumers use a dead credential, or a handover was cut short without a refusal.
func (w *world) checkConsumers(t *rapid.T) {
	w.move()
	h := w.object.Status.Handover
	if w.backend.Live()[w.using] == "" {
		t.Fatalf("the consumers use %q, which is dead at %s: %+v\neffects: %v",
			w.using, w.clock.Now(), h, tail(w.effects))
	}
	if h != nil && h.CutShortAt != nil && !w.refuses["renew"] {
		t.Fatalf("the handover was cut short at %s: %+v", w.clock.Now(), h)
	}
}

// The user in a Secret is never dropped, although the backend gives every lease of two objects the same user: not when
// the Secret is deleted, changed or stripped of its annotations, nor by rotations, failed writes, kills, the deletion
// of the other object, and a correction of the role.
func TestTheUserOfAllLeasesIsNeverDropped(t *testing.T) {
	shared, both := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(2)
		const user = "orders"
		w.backend.TTL, w.backend.MaxTTL, w.backend.OneUser = 100*time.Hour, 1000*time.Hour, user
		other := w.second()
		some := map[string]func(*rapid.T){}
		for i, w := range []*world{w, other} {
			for action, do := range w.actionsWithOneUser(t) {
				some[fmt.Sprintf("%d: %s", i, action)] = do
			}
			if rapid.IntRange(0, 3).Draw(t, "it is in order unless 0") > 0 {
				_, _ = w.procs[0].run(nil)
			}
		}
		some["delete the second"] = func(*rapid.T) { other.delete() }
		some["correct the role"] = func(*rapid.T) {
			w.backend.OneUser = map[string]string{"": user, user: ""}[w.backend.OneUser]
		}
		some[""] = func(t *rapid.T) {
			used := 0
			for _, w := range []*world{w, other} {
				if w.object == nil || !w.object.DeletionTimestamp.IsZero() {
					continue // its Secret is about to be deleted
				}
				for _, s := range w.secrets {
					if string(s.Data["username"]) != user {
						continue
					}
					if used++; w.backend.Dropped() {
						t.Fatalf("the user was dropped: %+v\neffects: %v\n%v",
							w.object, tail(w.effects), tail(w.other.effects))
					}
				}
			}
			shared, both = max(shared, len(w.backend.Live())), max(both, used)
		}
		t.Repeat(some)
	})
	if shared < 2 || both < 2 {
		t.Error("no two leases, or no two objects, had the user, so nothing was tested")
	}
}

// actionsWithOneUser are what may happen to a world in which all leases have the same user.
func (w *world) actionsWithOneUser(t *rapid.T) map[string]func(*rapid.T) {
	overlaps := rapid.SampledFrom([]time.Duration{0, time.Minute})
	w.object.Spec.Rotation.Overlap = &metav1.Duration{Duration: overlaps.Draw(t, "overlap")}
	all, writable := w.actions(t), true
	w.admission = func(_ *corev1.Secret, dryRun bool) error {
		if !writable && !dryRun {
			return apierrors.NewInternalError(errors.New("failed calling webhook"))
		}
		return nil
	}
	some := map[string]func(*rapid.T){
		"clear the annotations of the Secret": func(*rapid.T) {
			for _, s := range w.secrets {
				clear(s.Annotations)
				w.put(s)
			}
		},
		"let no Secret be written": func(*rapid.T) { writable = !writable },
	}
	for _, name := range []string{"run", "kill", "let time pass", "outage", "tamper with the Secret",
		"delete the Secret", "rename the target", "request a rotation", "change the request", "suspend"} {
		some[name] = all[name]
	}
	return some
}
