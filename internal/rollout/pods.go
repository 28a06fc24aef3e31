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

// pods that may be of the workloads, or, where workloads are discovered, may use the Secret on their own.
func (r *Rollouts) pods(ctx context.Context, c Consumer, found []*workload) ([]corev1.Pod, error) {
	opts := []client.ListOption{client.InNamespace(c.Namespace)}
	switch {
	case c.Spec.Discover:
	case len(found) == 0:
		return nil, nil
	case len(found) == 1:
		opts = append(opts, client.MatchingLabelsSelector{Selector: found[0].pods})
	}
	list := &corev1.PodList{}
	if err := r.Reader.List(ctx, list, opts...); err != nil {
		return nil, reading(err, "list", "pods")
	}
	return list.Items, nil
}

// judge says what stands between the workloads and pods, and the end of the hand-over.
func judge(c Consumer, publishedAt time.Time, found []*workload, pods []corev1.Pod) (open []finding) {
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
			isOld := mayHoldTheOld(pod, c, publishedAt)
			if isOld {
				old = append(old, pod.Name)
			}
			// An old pod that crashes is about to be replaced, but that a StatefulSet waits for it.
			if why := crashing(pod); why != "" && (!isOld || w.kind.name == v1alpha1.KindStatefulSet) {
				blocked = fmt.Sprintf("pod %s has %s", pod.Name, why)
			}
		}
		if f := w.finding(old, blocked); f.reason != "" {
			open = append(open, finding{f.reason, w.String() + f.text})
		}
	}
	if !c.Spec.Discover {
		return open
	}
	for i := range pods {
		if pod := &pods[i]; !owned.Has(pod.Name) && holds(&pod.Spec, c.Secret) && mayHoldTheOld(pod, c, publishedAt) {
			open = append(open, finding{v1alpha1.ReasonRollingOut, "Pod/" + pod.Name + " started before the new credential"})
		}
	}
	return open
}

// finding of a workload, from its state, the names of its old pods and what keeps a new one from running.
func (w *workload) finding(old []string, blocked string) finding {
	state := w.state
	if w.deleted() {
		state = finding{} // nothing rolls out any more
	}
	switch {
	case state.reason == v1alpha1.ReasonRollingOut && blocked != "":
		return stuck(state.text + "; " + blocked)
	case state.reason != "":
		return state
	case len(old) == 1:
		return rolling(fmt.Sprintf(": pod %s started before the new credential", old[0]))
	case len(old) > 1:
		return rolling(fmt.Sprintf(": %d pods started before the new credential, such as %s", len(old), slices.Min(old)))
	}
	return finding{}
}

// mayHoldTheOld says whether a pod may have started with the credential before. The API server tells seconds only, so a
// pod of the very second counts; one with the stamp is from a template that is younger than the credential. A pod that
// is being deleted counts until it is gone.
func mayHoldTheOld(pod *corev1.Pod, c Consumer, publishedAt time.Time) bool {
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return false
	case c.Stamp != "" && pod.Annotations[StampKey(c.Secret)] == c.Stamp:
		return false
	}
	return !pod.CreationTimestamp.After(publishedAt)
}

// hopeless are the reasons of a waiting container that seldom pass by themselves.
var hopeless = sets.New("CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError")

// crashing is why a pod does not become ready; empty: no reason is known.
func crashing(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Waiting != nil && hopeless.Has(s.State.Waiting.Reason) {
			return s.State.Waiting.Reason
		}
	}
	return ""
}
