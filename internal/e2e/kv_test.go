//go:build integration

package e2e

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// engine is a KV engine of one version: the path of its secret, and how to write it.
type engine struct {
	version int
	path    string
	wrap    func(map[string]any) map[string]any
}

var engines = []engine{
	{1, "orders", func(data map[string]any) map[string]any { return data }},
	{2, "data/orders", func(data map[string]any) map[string]any { return map[string]any{"data": data} }},
}

// forEngines runs a test for each version, in a rig with such an engine and this secret.
func forEngines(t *testing.T, data map[string]any, test func(*rig, engine)) {
	t.Helper()
	for _, e := range engines {
		t.Run(fmt.Sprintf("KV version %d", e.version), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, kvPolicy, withProxy())
			e.put(r, data)
			test(r, e)
		})
	}
}

func (e engine) put(r *rig, data map[string]any) { kv(e.version, e.path, e.wrap(data))(r) }

// reads is the pattern of the reads of the secret, for requestTimes.
func (e engine) reads(r *rig) string { return "^GET /v1/" + r.name + "-kv/" + e.path + "$" }

// request makes the spec request the engine's secret at this interval.
func (e engine) request(r *rig, every time.Duration) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Path = r.name + "-kv/" + e.path
		d.Spec.RefreshInterval = &metav1.Duration{Duration: every}
	}
}

// untilRead waits until the secret has been read several more times.
func (e engine) untilRead(r *rig, more int) {
	r.t.Helper()
	before := len(r.requestTimes(e.reads(r)))
	r.eventually(fmt.Sprintf("%d more reads", more), func() bool {
		return len(r.requestTimes(e.reads(r))) >= before+more
	})
}

// contains reports whether the Secret has exactly these data.
func contains(s *corev1.Secret, want map[string]string) bool {
	return s != nil && maps.EqualFunc(s.Data, want, func(got []byte, want string) bool { return string(got) == want })
}

// untilContains waits until the Secret has exactly these data.
func (r *rig) untilContains(what string, want map[string]string) {
	r.t.Helper()
	r.eventually(what, func() bool { return contains(r.target("orders"), want) })
}

// untilUnleased waits until there is no lease and no user, and no token except the one that repeated reads share.
func (r *rig) untilUnleased() {
	r.t.Helper()
	r.eventually("no lease, no user and at most one token to be alive", func() bool {
		return len(r.leases()) == 0 && len(r.tokens()) <= 1 && len(r.users()) == 0
	})
}

func TestKVSecretIsUnwrapped(t *testing.T) {
	t.Parallel()
	// KV version 2 itself rounds numbers beyond 2^53.
	data := map[string]any{
		"text": "plain", "empty": "", "number": 42, "big": 1<<53 - 1, "fraction": 1.5, "yes": true, "nothing": nil,
		"object": map[string]any{"a": []any{1, "two", nil}}, "list": []any{"x", 2}, "markup": "<&>",
		"nested": map[string]any{"url": "a?b&c<d>"},
	}
	want := map[string]string{
		"text": "plain", "empty": "", "number": "42", "big": "9007199254740991", "fraction": "1.5", "yes": "true",
		"object": `{"a":[1,"two",null]}`, "list": `["x",2]`, "markup": "<&>", "nested": `{"url":"a?b&c<d>"}`,
	}
	forEngines(t, data, func(r *rig, e engine) {
		d := r.ready("orders", e.request(r, time.Hour))
		if s := r.target("orders"); !contains(s, want) {
			for k, v := range want {
				if got := string(s.Data[k]); got != v {
					r.t.Errorf("%s is %q, want %q", k, got, v)
				}
			}
			r.t.Errorf("%d keys, want %d", len(s.Data), len(want))
		}
		ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		leased := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.LeasedCondition)
		notLeased := leased != nil && leased.Status == metav1.ConditionFalse &&
			leased.Reason == v1alpha1.ReasonNotLeased
		if ready.Reason != v1alpha1.ReasonSynced || !notLeased {
			r.t.Fatalf("conditions: %+v", d.Status.Conditions)
		}
		for _, want := range []string{"has no lease", "read again every spec.refreshInterval (1h0m0s)"} {
			if !strings.Contains(leased.Message, want) {
				r.t.Errorf("the message of Leased is %q, want %q in it", leased.Message, want)
			}
		}
		if leaseID(d) != "" || record(d).Kind != v1alpha1.ResponseStatic || d.Status.ExpiresAt != nil {
			r.t.Errorf("the ledger has a lease or an expiry: %+v", record(d))
		}
		d = r.until("orders", "at rest", func(d *v1alpha1.DynamicSecret) bool { return len(d.Status.Retiring) == 0 })
		// NextActionAt would change at each read.
		if d.Status.NextAction != v1alpha1.NextRefresh || d.Status.NextActionAt != nil {
			r.t.Errorf("next: %s at %v", d.Status.NextAction, d.Status.NextActionAt)
		}
		r.untilAlive(0)
		if n := len(r.requestTimes(e.reads(r))); n != 1 {
			r.t.Errorf("it was read %d times, want 1", n)
		}
	})
}

func TestKVSecretIsWrittenOnlyWhenItChanges(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *rig, e engine) {
		r.ready("orders", e.request(r, time.Second))
		version := r.target("orders").ResourceVersion
		e.untilRead(r, 3)
		if s := r.target("orders"); s.ResourceVersion != version {
			r.t.Error("the Secret was written although its data are the same")
		}
		r.eventually("all reads to share one token", func() bool { return len(r.tokens()) <= 1 })
		e.put(r, map[string]any{"password": "two", "more": "x"})
		r.untilContains("the new value", map[string]string{"password": "two", "more": "x"})
		changed := r.target("orders").ResourceVersion
		e.untilRead(r, 2)
		if s := r.target("orders"); s.ResourceVersion != changed {
			r.t.Error("the Secret was written again although its data are the same")
		}
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Error("the object is not Ready any more")
		}
		r.remove("orders")
		r.untilUnleased()
	})
}

func TestRequestedRenewalReadsKVAtOnce(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *rig, e engine) {
		r.ready("orders", e.request(r, time.Hour))
		e.put(r, map[string]any{"password": "two"})
		r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
		r.until("orders", "read again", func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.LastHandledRenewAt == "now"
		})
		r.untilContains("the new value", map[string]string{"password": "two"})
		if n := len(r.requestTimes(e.reads(r))); n != 2 {
			r.t.Errorf("it was read %d times, want 2", n)
		}
		r.untilUnleased()
	})
}

func TestEditedKVSecretIsRestored(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *rig, e engine) {
		r.ready("orders", e.request(r, time.Hour))
		change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) {
			s.Data["password"] = []byte("mine")
		})
		r.untilContains("the value to be restored", map[string]string{"password": "one"})
		r.must(r.Kube.Delete(r.t.Context(), r.target("orders")))
		r.untilContains("the Secret to be restored", map[string]string{"password": "one"})
		r.untilReady("orders")
		r.untilUnleased()
	})
}

func TestOutageKeepsKVSecret(t *testing.T) {
	t.Parallel()
	forEngines(t, map[string]any{"password": "one"}, func(r *rig, e engine) {
		r.ready("orders", e.request(r, time.Second))
		r.must(r.proxy.Break(testbed.Fault{Path: "^/v1/" + r.name + "-kv/", Action: testbed.Refuse}))
		r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonReplacing)
		if s := r.target("orders"); !contains(s, map[string]string{"password": "one"}) {
			r.t.Error("the Secret was changed or deleted")
		}
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			r.t.Error("the object is not Ready any more")
		}
		r.proxy.Clear()
		e.put(r, map[string]any{"password": "two"})
		r.untilContains("the new value", map[string]string{"password": "two"})
		r.remove("orders")
		r.untilUnleased()
	})
}

func TestDeletedKVVersionIsReportedAndSecretStays(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"delete", "destroy"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, kvPolicy, withProxy())
			e := engines[1]
			e.put(r, map[string]any{"password": "one"})
			r.ready("orders", e.request(r, time.Second))
			r.must(r.Vault.Write(t.Context(), r.name+"-kv/"+verb+"/orders", map[string]any{"versions": []int{1}}))
			message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonPathNotFound)
			if !strings.Contains(message, "version 1 of") || !strings.Contains(message, "is "+verb) {
				t.Errorf("the message %q does not name the version and its state", message)
			}
			if !contains(r.target("orders"), map[string]string{"password": "one"}) {
				t.Error("the Secret was changed or deleted")
			}
			e.put(r, map[string]any{"password": "two"})
			r.untilContains("the new version", map[string]string{"password": "two"})
			r.until("orders", "no longer stalled", func(d *v1alpha1.DynamicSecret) bool {
				return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.StalledCondition) == nil
			})
			r.remove("orders")
			r.untilUnleased()
		})
	}
}

func TestPinnedKVVersionSaysWhatCanBeDone(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, kvPolicy)
	e := engines[1]
	for _, password := range []string{"one", "two"} {
		e.put(r, map[string]any{"password": password})
	}
	pin := func(version int) func(*v1alpha1.DynamicSecret) {
		return func(d *v1alpha1.DynamicSecret) {
			e.request(r, time.Second)(d)
			d.Spec.Vault.Parameters = parameters(map[string]any{"version": version})
		}
	}
	r.ready("orders", pin(1))
	r.untilContains("the first version", map[string]string{"password": "one"})
	for _, step := range []struct {
		verb, want string
	}{
		{"delete", "version 1 of .* is deleted: undelete it, or change the parameter version"},
		{"destroy", "version 1 of .* is destroyed: change the parameter version"},
	} {
		r.must(r.Vault.Write(t.Context(), r.name+"-kv/"+step.verb+"/orders", map[string]any{"versions": []int{1}}))
		said := regexp.MustCompile(step.want)
		r.eventually("a condition with "+step.want, func() bool { return said.MatchString(r.messages("orders")) })
	}
	if !contains(r.target("orders"), map[string]string{"password": "one"}) {
		t.Error("the Secret was changed or deleted")
	}
	r.edit("orders", pin(9))
	r.eventually("a condition about the version 9", func() bool {
		return strings.Contains(r.messages("orders"), "check the path and the version")
	})
	r.edit("orders", pin(2))
	r.untilContains("the second version", map[string]string{"password": "two"})
	r.remove("orders")
}
