package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// listPods returns the pods of the workloads and, with discovery, all pods of the namespace.
func (r *Rollouts) listPods(ctx context.Context, c Consumer, found []*workload) ([]corev1.Pod, error) {
	opts := []client.ListOption{client.InNamespace(c.Namespace)}
	switch {
	case c.Spec.Discover:
	case len(found) == 0:
		return nil, nil
	case len(found) == 1:
		opts = append(opts, client.MatchingLabelsSelector{Selector: found[0].podSelector})
	}
	list := &corev1.PodList{}
	if err := r.Reader.List(ctx, list, opts...); err != nil {
		return nil, readError(err, "list", "pods")
	}
	return list.Items, nil
}

// podFindings returns what delays the end of the hand-over: roll-outs in progress, and pods that may hold the old
// credential.
func podFindings(c Consumer, publishedAt time.Time, found []*workload, pods []corev1.Pod) (findings []finding) {
	owned := sets.New[string]()
	for _, w := range found {
		var old []string
		blocked := ""
		for i := range pods {
			pod := &pods[i]
			if !w.owns(pod) {
				continue
			}
			owned.Insert(pod.Name)
			isOld := mayHoldOldCredential(pod, c, publishedAt)
			if isOld {
				old = append(old, pod.Name)
			}
			// A new pod replaces a blocked old pod, except in a StatefulSet, which waits for the old pod.
			if reason := blockedReason(pod); reason != "" && (!isOld || w.kind.name == v1alpha1.KindStatefulSet) {
				blocked = fmt.Sprintf("pod %s is in %s", pod.Name, reason)
			}
		}
		if f := w.evaluate(old, blocked); f.reason != "" {
			findings = append(findings, finding{f.reason, w.String() + f.text})
		}
	}
	if !c.Spec.Discover {
		return findings
	}
	for i := range pods {
		pod := &pods[i]
		if !owned.Has(pod.Name) && holds(&pod.Spec, c.Secret) && mayHoldOldCredential(pod, c, publishedAt) {
			findings = append(findings, rolling("Pod/"+pod.Name+" started before the new credential"))
		}
	}
	return findings
}

// evaluate combines the roll-out state with the names of old pods and the reason that blocks a new pod.
func (w *workload) evaluate(old []string, blocked string) finding {
	state := w.state
	if w.deleted() {
		state = finding{} // a deleted workload does not roll out
	}
	switch {
	case state.reason == v1alpha1.ReasonRollingOut && blocked != "":
		return stuck(state.text + "; " + blocked)
	case state.reason != "":
		return state
	case len(old) == 1:
		return rolling(fmt.Sprintf(": pod %s started before the new credential", old[0]))
	case len(old) > 1:
		return rolling(fmt.Sprintf(": %d pods started before the new credential, such as %s", len(old),
			slices.Min(old)))
	}
	return finding{}
}

// mayHoldOldCredential reports whether the pod may have started with the old credential. Creation times have a
// resolution of one second, so a pod created in the second of publication counts as old. A pod with the stamp comes
// from a newer template. A terminating pod counts until it is gone.
func mayHoldOldCredential(pod *corev1.Pod, c Consumer, publishedAt time.Time) bool {
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return false
	case c.Stamp != "" && pod.Annotations[StampKey(c.Secret)] == c.Stamp:
		return false
	}
	return !pod.CreationTimestamp.After(publishedAt)
}

// blockedReasons are waiting reasons that rarely resolve by themselves.
var blockedReasons = sets.New("CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
	"CreateContainerConfigError", "CreateContainerError")

// blockedReason returns why a pod cannot become ready; empty if unknown.
func blockedReason(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Waiting != nil && blockedReasons.Has(s.State.Waiting.Reason) {
			return s.State.Waiting.Reason
		}
	}
	return ""
}
