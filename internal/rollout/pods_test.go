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

// newTestWorkload returns a workload in the given state.
func newTestWorkload(t *testing.T, name v1alpha1.WorkloadKind, object any, state finding) *workload {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if k.name == name {
			w := newWorkload(k, &unstructured.Unstructured{Object: content})
			w.state = state
			return w
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

func TestPodFindings(t *testing.T) {
	finished, begun := finding{}, rolling(": 1 of 3 pods updated")
	orders := func(state finding) *workload {
		return newTestWorkload(t, v1alpha1.KindDeployment, deployment("orders", "orders-db"), state)
	}
	set := func(state finding) *workload {
		return newTestWorkload(t, v1alpha1.KindStatefulSet, statefulSet("orders", "orders-db"), state)
	}
	terminatingDeployment := func(state finding) *workload {
		w := orders(state)
		now := metav1.Now()
		w.object.SetDeletionTimestamp(&now)
		return w
	}
	stamped := func(p *corev1.Pod) { p.Annotations = map[string]string{StampKey("orders-db"): stampNow} }
	stampedBefore := func(p *corev1.Pod) { p.Annotations = map[string]string{StampKey("orders-db"): "older"} }
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = &p.CreationTimestamp }
	named := targetConsumer("orders-db", stampNow, target("", "orders"))
	discovered := discoverConsumer("orders-db", stampNow)
	bare := func(p *corev1.Pod) { p.Labels = nil }
	for _, c := range []struct {
		name   string
		c      Consumer
		w      *workload
		pods   []*corev1.Pod
		reason string
		text   string
	}{
		{"no pods", named, orders(finished), nil, done, ""},
		{"newer pod", named, orders(finished), []*corev1.Pod{pod("orders", "a", -time.Second)}, done, ""},
		{"pod of the same second", named, orders(finished), []*corev1.Pod{pod("orders", "a", 0)},
			rollingReason, "Deployment/orders: pod a started before the new credential"},
		{"two older pods", named, orders(finished),
			[]*corev1.Pod{pod("orders", "b", time.Hour), pod("orders", "a", time.Hour)},
			rollingReason, "Deployment/orders: 2 pods started before the new credential, such as a"},
		{"stamped pod of the same second", named, orders(finished), []*corev1.Pod{pod("orders", "a", 0, stamped)}, done,
			""},
		{"pod with an older stamp", named, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, stampedBefore)}, rollingReason, "pod a"},
		{"terminating pod", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, terminating)},
			rollingReason, "pod a"},
		{"finished pods", named, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, phase(corev1.PodSucceeded)),
				pod("orders", "b", time.Hour, phase(corev1.PodFailed))}, done, ""},
		{"pod of a lost node", named, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, phase(corev1.PodUnknown))}, rollingReason, "pod a"},
		{"pod of another app", named, orders(finished), []*corev1.Pod{pod("billing", "a", time.Hour)}, done, ""},
		{"pod of its ReplicaSet", named, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("ReplicaSet"))}, rollingReason, "pod a"},
		{"pod of a Job with its labels", named, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("Job"))}, done, ""},
		{"pod of a terminating workload", named, terminatingDeployment(begun),
			[]*corev1.Pod{pod("orders", "a", time.Hour)},
			rollingReason, "Deployment/orders: pod a started before"},
		{"terminating workload without pods", named, terminatingDeployment(begun), nil, done, ""},

		{"new pod crashes", named, orders(begun),
			[]*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("CrashLoopBackOff"))},
			stuckReason, "Deployment/orders: 1 of 3 pods updated; pod a is in CrashLoopBackOff"},
		{"new pod is being created", named, orders(begun),
			[]*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("ContainerCreating"))},
			rollingReason, "Deployment/orders: 1 of 3 pods updated"},
		{"old pod crashes, and a new pod replaces it", named, orders(begun),
			[]*corev1.Pod{pod("orders", "a", time.Hour, waitingFor("CrashLoopBackOff"))},
			rollingReason, "Deployment/orders: 1 of 3 pods updated"},
		{"old pod crashes, and its StatefulSet waits for it", named, set(begun),
			[]*corev1.Pod{pod("orders", "a", time.Hour, waitingFor("ImagePullBackOff"))},
			stuckReason, "StatefulSet/orders: 1 of 3 pods updated; pod a is in ImagePullBackOff"},
		{"paused and crashing", named, orders(paused(" is paused")),
			[]*corev1.Pod{pod("orders", "a", -time.Second, waitingFor("CrashLoopBackOff"))},
			pausedReason, "Deployment/orders is paused"},

		{"discovered bare pod", discovered, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, bare)},
			rollingReason, "Pod/a started before the new credential"},
		{"discovered pod of a Job", discovered, orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, ownedBy("Job"))},
			rollingReason, "Pod/a started before the new credential"},
		{"bare pod without discovery", named, orders(finished), []*corev1.Pod{pod("orders", "a", time.Hour, bare)},
			done, ""},
		{"bare pod that does not use the Secret", discoverConsumer("other", stampNow), orders(finished),
			[]*corev1.Pod{pod("orders", "a", time.Hour, bare)}, done, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pods []podFacts
			for _, p := range c.pods {
				if known, alive := newPod(p); alive {
					pods = append(pods, known)
				}
			}
			findings := podFindings(c.c, published, []*workload{c.w}, pods)
			if c.reason == done {
				if len(findings) > 0 {
					t.Errorf("got %v", findings)
				}
				return
			}
			if len(findings) != 1 || findings[0].reason != c.reason {
				t.Fatalf("got %v, want one with %s", findings, c.reason)
			}
			expectFinding(t, findings[0], c.reason, c.text)
		})
	}
}

func TestProgressReportsTheWorstReason(t *testing.T) {
	all := []finding{rolling("c"), stuck("d"), paused("b"), {v1alpha1.ReasonRolloutTargetNotFound, "a"},
		{v1alpha1.ReasonRolloutForbidden, "e"}, checkFailed("f"), {v1alpha1.ReasonRolloutContested, "g"}}
	for i, reason := range []string{v1alpha1.ReasonRolloutForbidden, v1alpha1.ReasonRolloutTargetNotFound,
		v1alpha1.ReasonRolloutContested, v1alpha1.ReasonRolloutCheckFailed, v1alpha1.ReasonRolloutStuck,
		v1alpha1.ReasonRolloutPaused, v1alpha1.ReasonRollingOut} {
		worst := slices.DeleteFunc(slices.Clone(all),
			func(f finding) bool { return slices.Index(severity, f.reason) < i })
		if p := newProgress(worst, nil); p.Reason != reason || p.Done || !slices.IsSorted(p.Waiting) ||
			len(p.Waiting) != len(worst) {
			t.Errorf("want %s, got %+v", reason, p)
		}
	}
	if p := newProgress(nil, []string{"a", "b"}); !p.Done || p.Reason != "" || p.Waiting != nil || len(p.Stamped) != 2 {
		t.Errorf("got %+v, want it done", p)
	}
}

func TestProgressTruncatesWaiting(t *testing.T) {
	var findings []finding
	for i := range 16 {
		findings = append(findings, rolling(fmt.Sprintf("Deployment/%02d", i)))
	}
	if p := newProgress(slices.Clone(findings), nil); len(p.Waiting) != 16 || p.Waiting[15] != "Deployment/15" {
		t.Errorf("got %q, want all 16", p.Waiting)
	}
	findings = append(findings, paused("StatefulSet/z is paused"))
	p := newProgress(findings, nil)
	if len(p.Waiting) != 16 || !slices.Contains(p.Waiting, "StatefulSet/z is paused") ||
		!slices.Contains(p.Waiting, "and 2 more") || !slices.IsSorted(p.Waiting) {
		t.Errorf("got %q", p.Waiting)
	}
}
