//go:build integration

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// engine is a KV engine of one version: how its secret is written and where it is read.
type engine struct {
	version int
	path    string
	wrap    func(map[string]any) map[string]any
}

var engines = []engine{
	{1, "orders", func(data map[string]any) map[string]any { return data }},
	{2, "data/orders", func(data map[string]any) map[string]any { return map[string]any{"data": data} }},
}

// forEngines runs a test for each version, in a room with that engine and this secret.
func forEngines(t *testing.T, data map[string]any, test func(*room, engine)) {
	t.Helper()
	for _, e := range engines {
		t.Run(fmt.Sprintf("KV version %d", e.version), func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared, kvPolicy, withProxy())
			e.put(r, data)
			test(r, e)
		})
	}
}

func (e engine) put(r *room, data map[string]any) { kv(e.version, e.path, e.wrap(data))(r) }

// reads is the pattern, for tries, of the reads of the secret.
func (e engine) reads(r *room) string { return "^GET /v1/" + r.name + "-kv/" + e.path + "$" }

// ask makes the spec ask for the engine's secret, so often.
func (e engine) ask(r *room, every time.Duration) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Path = r.name + "-kv/" + e.path
		d.Spec.RefreshInterval = metav1.Duration{Duration: every}
	}
}

// untilRead waits until the secret was read so many times more.
func (e engine) untilRead(r *room, more int) {
	r.t.Helper()
	before := len(r.tries(e.reads(r)))
	r.eventually(fmt.Sprintf("%d reads more", more), func() bool { return len(r.tries(e.reads(r))) >= before+more })
}

func holds(s *corev1.Secret, want map[string]string) bool {
	return s != nil && maps.EqualFunc(s.Data, want, func(got []byte, want string) bool { return string(got) == want })
}

func TestWhatHasNoLeaseIsUnwrappedAndSaysSo(t *testing.T) {
	t.Parallel()
	// A number beyond 2^53 would not do: KV version 2 itself rounds it.
	data := map[string]any{
		"text": "plain", "empty": "", "number": 42, "big": 1<<53 - 1, "fraction": 1.5, "yes": true, "nothing": nil,
		"object": map[string]any{"a": []any{1, "two", nil}}, "list": []any{"x", 2}, "markup": "<&>",
	}
	want := map[string]string{
		"text": "plain", "empty": "", "number": "42", "big": "9007199254740991", "fraction": "1.5", "yes": "true", "nothing": "null",
		"object": `{"a":[1,"two",null]}`, "list": `["x",2]`, "markup": "<&>",
	}
	forEngines(t, data, func(r *room, e engine) {
		d := r.ready("orders", e.ask(r, time.Hour))
		if s := r.target("orders"); !holds(s, want) {
			for k, v := range want {
				if got := string(s.Data[k]); got != v {
					r.t.Errorf("%s is %q, want %q", k, got, v)
				}
			}
			r.t.Errorf("%d keys, want %d", len(s.Data), len(want))
		}
		ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		leased := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.LeasedCondition)
		if ready.Reason != v1alpha1.ReasonSynced || leased == nil || leased.Status != metav1.ConditionFalse || leased.Reason != v1alpha1.ReasonNotLeased {
			r.t.Errorf("conditions: %+v", d.Status.Conditions)
		}
		if !strings.Contains(leased.Message, "answered without a lease") || !strings.Contains(leased.Message, "1h0m0s") {
			r.t.Errorf("Leased says %q", leased.Message)
		}
		if d.Status.Lease.ID != "" || d.Status.Lease.ExpiresAt != nil || d.Status.Lease.DurationSeconds != 0 {
			r.t.Errorf("the ledger has a lease: %+v", d.Status.Lease)
		}
		d = r.until("orders", "at rest", func(d *v1alpha1.DynamicSecret) bool { return len(d.Status.Retiring) == 0 })
		if d.Status.NextAction != v1alpha1.NextRefresh || d.Status.NextActionAt == nil {
			r.t.Errorf("next: %s at %v", d.Status.NextAction, d.Status.NextActionAt)
		}
		r.untilAlive(0)
		if n := len(r.tries(e.reads(r))); n != 1 {
			r.t.Errorf("it was read %d times, want 1", n)
		}
	})
}

func TestAnAnswerWithoutALeaseIsReadAgainAndWrittenWhenItChanged(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *room, e engine) {
		r.ready("orders", e.ask(r, time.Second))
		version := r.target("orders").ResourceVersion
		e.untilRead(r, 3)
		if s := r.target("orders"); s.ResourceVersion != version {
			r.t.Error("the Secret was written, and its data are the same")
		}
		r.eventually("the tokens of all reads but the last to be ended", func() bool { return len(r.tokens()) <= 1 })
		e.put(r, map[string]any{"password": "two", "more": "x"})
		r.eventually("the new value", func() bool {
			return holds(r.target("orders"), map[string]string{"password": "two", "more": "x"})
		})
		changed := r.target("orders").ResourceVersion
		e.untilRead(r, 2)
		if s := r.target("orders"); s.ResourceVersion != changed {
			r.t.Error("the Secret was written again, and its data are the same")
		}
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Error("it is not Ready any more")
		}
		r.remove("orders")
		r.untilAlive(0)
	})
}

func TestAnOrderToRenewReadsAnAnswerWithoutALeaseAtOnce(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *room, e engine) {
		r.ready("orders", e.ask(r, time.Hour))
		e.put(r, map[string]any{"password": "two"})
		r.askFor(v1alpha1.RenewRequestedAtAnnotation, "now")
		r.until("orders", "read again", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
		r.eventually("the new value", func() bool { return holds(r.target("orders"), map[string]string{"password": "two"}) })
		if n := len(r.tries(e.reads(r))); n != 2 {
			r.t.Errorf("it was read %d times, want 2", n)
		}
		r.untilAlive(0)
	})
}

func TestAnAnswerWithoutALeaseThatSomebodyEditedIsPutBack(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *room, e engine) {
		r.ready("orders", e.ask(r, time.Hour))
		change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) { s.Data["password"] = []byte("mine") })
		r.eventually("the value to be back", func() bool { return holds(r.target("orders"), map[string]string{"password": "one"}) })
		r.must(r.Kube.Delete(r.t.Context(), r.target("orders")))
		r.eventually("the Secret to be back", func() bool { return holds(r.target("orders"), map[string]string{"password": "one"}) })
		r.untilReady("orders")
		r.untilAlive(0)
	})
}

func TestABackendThatIsAwayLeavesAnAnswerWithoutALeaseInPlace(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *room, e engine) {
		r.ready("orders", e.ask(r, time.Second))
		r.must(r.proxy.Break(testbed.Fault{Path: "^/v1/" + r.name + "-kv/", Action: testbed.Refuse}))
		r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonReplacing)
		if s := r.target("orders"); !holds(s, map[string]string{"password": "one"}) {
			r.t.Error("the Secret was changed or deleted")
		}
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Error("it is not Ready any more")
		}
		r.proxy.Clear()
		e.put(r, map[string]any{"password": "two"})
		r.eventually("the new value", func() bool { return holds(r.target("orders"), map[string]string{"password": "two"}) })
		r.remove("orders")
		r.untilAlive(0)
	})
}

func TestADeletedVersionIsSaidAndTheSecretStays(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"delete", "destroy"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared, kvPolicy, withProxy())
			e := engines[1]
			e.put(r, map[string]any{"password": "one"})
			r.ready("orders", e.ask(r, time.Second))
			r.must(r.Vault.Write(t.Context(), r.name+"-kv/"+verb+"/orders", map[string]any{"versions": []int{1}}))
			message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonPathNotFound)
			if !strings.Contains(message, "version 1 of") || !strings.Contains(message, "is "+verb) {
				t.Errorf("it says %q", message)
			}
			if !holds(r.target("orders"), map[string]string{"password": "one"}) {
				t.Error("the Secret was changed or deleted")
			}
			e.put(r, map[string]any{"password": "two"})
			r.eventually("the new version", func() bool { return holds(r.target("orders"), map[string]string{"password": "two"}) })
			r.until("orders", "no longer stalled", func(d *v1alpha1.DynamicSecret) bool {
				return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.StalledCondition) == nil
			})
			r.remove("orders")
			r.untilAlive(0)
		})
	}
}
