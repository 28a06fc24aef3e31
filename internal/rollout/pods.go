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

// findPods returns the pods of the workloads and, with discovery, all pods of the namespace.
func (r *Rollouts) findPods(ctx context.Context, c Consumer, found []*workload) ([]podFacts, error) {
	switch {
	case !c.Spec.Discover && len(found) == 0:
		return nil, nil
	case !c.Spec.Discover && len(found) == 1:
		return r.listPods(ctx, client.InNamespace(c.Namespace),
			client.MatchingLabelsSelector{Selector: found[0].podSelector})
	}
	return r.podsOf(ctx, c.Namespace)
}

// podFindings returns what delays the end of the handover: rollouts in progress, and pods that may hold the old
// credential.
func podFindings(c Consumer, publishedAt time.Time, found []*workload, pods []podFacts) (findings []finding) {
	owned := sets.New[string]()
	for _, w := range found {
		var old []string
		blocked := ""
		for i := range pods {
			p := &pods[i]
			if !w.owns(p) {
				continue
			}
			owned.Insert(p.name)
			isOld := mayHoldOldCredential(p, c, publishedAt)
			if isOld {
				old = append(old, p.name)
			}
			// A new pod replaces a blocked old pod, except in a StatefulSet, which waits for the old pod.
			if p.blocked != "" && (!isOld || w.kind.name == v1alpha1.KindStatefulSet) {
				blocked = fmt.Sprintf("pod %s is in %s", p.name, p.blocked)
			}
		}
		if f := w.evaluate(old, blocked); f.reason != "" {
			if w.contested {
				f = w.remover(c, publishedAt)
			}
			findings = append(findings, finding{f.reason, w.String() + f.text})
		}
	}
	if !c.Spec.Discover {
		return findings
	}
	for i := range pods {
		p := &pods[i]
		if !owned.Has(p.name) && slices.Contains(p.secrets, c.Secret) && mayHoldOldCredential(p, c, publishedAt) {
			findings = append(findings, rolling("Pod/"+p.name+" started before the new credential"))
		}
	}
	return findings
}

// evaluate combines the rollout state with the names of old pods and the reason that blocks a new pod.
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
func mayHoldOldCredential(p *podFacts, c Consumer, publishedAt time.Time) bool {
	if c.Stamp != "" && p.stamps[StampKey(c.Secret)] == c.Stamp {
		return false
	}
	return !p.created.After(publishedAt)
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
