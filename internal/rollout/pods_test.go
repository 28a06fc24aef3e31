package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// read makes a workload with a state of choice.
func read(t *testing.T, name v1alpha1.WorkloadKind, object any, state finding) *workload {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if k.name == name {
			w, err := newWorkload(k, &unstructured.Unstructured{Object: content})
			if err != nil {
				t.Fatal(err)
			}
			w.state = state
			return w
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

func TestWhatPodsStandInTheWay(t *testing.T) {
	finished, begun := finding{}, rolling(": 1 of 3 pods updated")
	orders := func(state finding) *workload {
		return read(t, v1alpha1.KindDeployment, deployment("orders", "orders-db"), state)
	}
	set := func(state finding) *workload {
		return read(t, v1alpha1.KindStatefulSet, statefulSet("orders", "orders-db"), state)
	}
	leaving := func(state finding) *workload {
		w := orders(state)
		now := metav1.Now()
		w.object.SetDeletionTimestamp(&now)
		return w
	}
	stamped := func(p *corev1.Pod) { p.Annotations = map[string]string{StampKey("orders-db"): stampNow} }
	stampedBefore := func(p *corev1.Pod) { p.Annotations = map[string]string{StampKey("orders-db"): "older"} }
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = &p.CreationTimestamp }
	named := naming("orders-db", stampNow, target("", "orders"))
	discovered := discovering("orders-db", stampNow)
	bare := func(p *corev1.Pod) { p.Labels = nil }
	for _, c := range []struct {
		it     string
		c      Consumer
		w      *workload
		pods   []*corev1.Pod
		reason string
		text   string
	}{
		{"none where there are none", named, orders(finished), nil, done, ""},
		{"not one that is younger than the credential", named, orders(finished), []*corev1.Pod{pod("orders", "a", -time.Second)}, done, ""},
		{"one of the same second, for seconds are all that is known", named, orders(finished), []*corev1.Pod{pod("orders", "a", 0)},
			rollingReason, "Deployment/orders: pod a started before the new credential"},
		{"two that are older", named, orders(finished), []*corev1.Pod{pod("orders", "b", time.Hour), pod("orders", "a", time.Hour)},
			rollingReason, "Deployment/orders: 2 pods started before the new credential, such as a"},
		{"not one of the same second that has the stamp", named, orders(finished), []*corev1.Pod{pod("orders", "a", 0, stamped)}, done, ""},
		{"one with an older stamp", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, stampedBefore)}, rollingReason, "pod a"},
		{"one that terminates, until it is gone", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, terminating)}, rollingReason, "pod a"},
		{"not those that have ended", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, phase(corev1.PodSucceeded)), pod("orders", "b", time.Hour, phase(corev1.PodFailed))}, done, ""},
		{"one of a lost node", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, phase(corev1.PodUnknown))}, rollingReason, "pod a"},
		{"not one of another app", named, orders(finished), []*corev1.Pod{pod("billing", "a", time.Hour)}, done, ""},
		{"one of its ReplicaSets", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("ReplicaSet"))}, rollingReason, "pod a"},
		{"not one of a Job with its labels", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("Job"))}, done, ""},
		{"one of a workload that is being deleted", named, leaving(begun), []*corev1.Pod{pod("orders", "a", time.Hour)},
			rollingReason, "Deployment/orders: pod a started before"},
		{"none where a workload that is being deleted has none", named, leaving(begun), nil, done, ""},

		{"a new one that crashes", named, orders(begun), []*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("CrashLoopBackOff"))},
			stuckReason, "Deployment/orders: 1 of 3 pods updated; pod a has CrashLoopBackOff"},
		{"not one that is merely being created", named, orders(begun), []*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("ContainerCreating"))},
			rollingReason, "Deployment/orders: 1 of 3 pods updated"},
		{"not an old one that crashes, which is being replaced", named, orders(begun), []*corev1.Pod{pod("orders", "a", time.Hour, waitingFor("CrashLoopBackOff"))},
			rollingReason, "Deployment/orders: 1 of 3 pods updated"},
		{"an old one that a StatefulSet waits for", named, set(begun), []*corev1.Pod{pod("orders", "a", time.Hour, waitingFor("ImagePullBackOff"))},
			stuckReason, "StatefulSet/orders: 1 of 3 pods updated; pod a has ImagePullBackOff"},
		{"a pause is told before a crash", named, orders(paused(" is paused")), []*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("CrashLoopBackOff"))},
			pausedReason, "Deployment/orders is paused"},

		{"a bare one, where users are discovered", discovered, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, bare)},
			rollingReason, "Pod/a started before the new credential"},
		{"one of a Job, where users are discovered", discovered, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("Job"))},
			rollingReason, "Pod/a started before the new credential"},
		{"not a bare one that is not looked for", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, bare)}, done, ""},
		{"not a bare one that does not use the Secret", discovering("other", stampNow), orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, bare)}, done, ""},
	} {
		t.Run(c.it, func(t *testing.T) {
			var pods []corev1.Pod
			for _, p := range c.pods {
				pods = append(pods, *p)
			}
			open := judge(c.c, published, []*workload{c.w}, pods)
			if c.reason == done {
				if len(open) > 0 {
					t.Errorf("got %v", open)
				}
				return
			}
			if len(open) != 1 || open[0].reason != c.reason {
				t.Fatalf("got %v, want one with %s", open, c.reason)
			}
			expect(t, open[0], c.reason, c.text)
		})
	}
}

func TestProgressTellsTheWorst(t *testing.T) {
	all := []finding{rolling("c"), stuck("d"), paused("b"), {v1alpha1.ReasonRolloutTargetNotFound, "a"}, {v1alpha1.ReasonRolloutForbidden, "e"}}
	for i, reason := range []string{v1alpha1.ReasonRolloutForbidden, v1alpha1.ReasonRolloutTargetNotFound, v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutPaused, v1alpha1.ReasonRollingOut} {
		worst := slices.DeleteFunc(slices.Clone(all), func(f finding) bool { return slices.Index(severity, f.reason) < i })
		if p := progress(worst, 0); p.Reason != reason || p.Done || !slices.IsSorted(p.Waiting) || len(p.Waiting) != len(worst) {
			t.Errorf("want %s, got %+v", reason, p)
		}
	}
	if p := progress(nil, 2); !p.Done || p.Reason != "" || p.Waiting != nil || p.Stamped != 2 {
		t.Errorf("nothing is open, got %+v", p)
	}
}

func TestProgressTellsNoMoreThanAStatusTakesAndTheWorstOfIt(t *testing.T) {
	var open []finding
	for i := range 16 {
		open = append(open, rolling(fmt.Sprintf("Deployment/%02d", i)))
	}
	if p := progress(slices.Clone(open), 0); len(p.Waiting) != 16 || p.Waiting[15] != "Deployment/15" {
		t.Errorf("16 fit, got %q", p.Waiting)
	}
	open = append(open, paused("StatefulSet/z is paused"))
	p := progress(open, 0)
	if len(p.Waiting) != 16 || !slices.Contains(p.Waiting, "StatefulSet/z is paused") || !slices.Contains(p.Waiting, "and 2 more") || !slices.IsSorted(p.Waiting) {
		t.Errorf("got %q", p.Waiting)
	}
}
