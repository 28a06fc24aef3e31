// Package rollout moves the consumers of a Secret to a new credential. It finds the workloads that use the Secret,
// stamps their pod templates so that they roll out, and reports when no pod can hold the old credential.
//
// It keeps no state of a handover. It reads its progress from the workloads, so a restarted manager resumes it.
package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// maxWaiting is the maximum number of lines in status.handover.waiting.
const maxWaiting = 16

// Consumer describes a Secret with a replaced credential, and the workloads that use it. Each DynamicSecret has one.
type Consumer struct {
	// Namespace of the Secret and its workloads.
	Namespace string
	// Secret is the name of the Secret.
	Secret string
	// Stamp of the current credential. Empty if its consumers already have it.
	Stamp string
	// Spec selects the workloads.
	Spec v1alpha1.RolloutSpec
	// Contested are workloads, such as "Deployment/orders", from which something removes the stamp again and again.
	// They are not stamped now. If all their pods use the new credential nevertheless, they do not delay the handover.
	Contested map[string]bool
}

// Progress of a handover.
type Progress struct {
	// Done reports that all consumers use the new credential and that no pod may hold the old one.
	Done bool
	// Reason why the handover is not done; empty when it is. The most serious of v1alpha1.ReasonRolloutForbidden,
	// ReasonRolloutTargetNotFound, ReasonRolloutContested, ReasonRolloutCheckFailed, ReasonRolloutStuck,
	// ReasonRolloutPaused and ReasonRollingOut, in this order.
	Reason string
	// Waiting lists what delays the handover, sorted, in at most 16 lines, such as "Deployment/orders: 1 of 3 pods
	// updated". With ReasonRolloutForbidden it names the missing permission, such as "patch deployments.apps".
	Waiting []string
	// Stamped are the workloads that this call has stamped, such as "Deployment/orders".
	Stamped []string
}

// Rollouts finds and stamps workloads. It must not be copied.
type Rollouts struct {
	// Reader must not be cached. Workloads and pods are read only during a handover and never watched.
	Reader client.Reader
	// Writer applies the stamps.
	Writer client.Client

	lists podLists
}

// Follow stamps the workloads that need a stamp and reports the progress of the handover. It is safe to repeat: it
// does not change a template that already has the stamp.
//
// The new credential must have been in the Secret since publishedAt, by the API server's clock.
//
// others are the namespace's DynamicSecrets with a rollout; they may include c. A workload that needs stamps of
// several consumers gets all of them in one patch. With hold, a workload waits for consumers in others that have no
// stamp yet, and then rolls out once for all of them.
//
// Progress reports everything that delays the handover, including what cannot be read or stamped at present: that does
// not keep other workloads from rolling out. A missing permission ends the call. The only error is that of ctx; Stamped
// is valid then too.
func (r *Rollouts) Follow(
	ctx context.Context, c Consumer, publishedAt time.Time, others []Consumer, hold bool,
) (Progress, error) {
	found, findings, err := r.findWorkloads(ctx, c)
	if err != nil {
		return newProgress([]finding{failed(err)}, nil), ctx.Err()
	}
	var stamped []string
	for _, w := range found {
		changed, err := r.stampWorkload(ctx, w, c, others, hold)
		switch {
		case lacksAny(err):
			return newProgress([]finding{failed(err)}, stamped), ctx.Err()
		case err != nil:
			findings = append(findings, failed(err))
		case changed:
			stamped = append(stamped, w.String())
		}
	}
	// Read pods after workloads. A rollout that had finished then has no old pods now.
	pods, err := r.findPods(ctx, c, found)
	switch {
	case lacksAny(err):
		return newProgress([]finding{failed(err)}, stamped), ctx.Err()
	case err != nil:
		findings = append(findings, failed(err))
	}
	return newProgress(append(findings, podFindings(c, publishedAt, found, pods)...), stamped), ctx.Err()
}

// finding is one cause that delays the end of a handover. The zero value means none.
type finding struct {
	reason string
	// text continues the name of a workload: " is paused".
	text string
}

// severity lists reasons, most serious first.
var severity = []string{
	v1alpha1.ReasonRolloutForbidden,
	v1alpha1.ReasonRolloutTargetNotFound,
	v1alpha1.ReasonRolloutContested,
	v1alpha1.ReasonRolloutCheckFailed,
	v1alpha1.ReasonRolloutStuck,
	v1alpha1.ReasonRolloutPaused,
	v1alpha1.ReasonRollingOut,
}

func newProgress(findings []finding, stamped []string) Progress {
	if len(findings) == 0 {
		return Progress{Done: true, Stamped: stamped}
	}
	// Truncation keeps the most serious findings.
	slices.SortFunc(findings, func(a, b finding) int {
		return cmp.Or(slices.Index(severity, a.reason)-slices.Index(severity, b.reason), cmp.Compare(a.text, b.text))
	})
	p := Progress{Reason: findings[0].reason, Stamped: stamped}
	for _, f := range findings {
		p.Waiting = append(p.Waiting, f.text)
	}
	if more := len(findings) - maxWaiting + 1; more > 1 {
		p.Waiting = append(p.Waiting[:maxWaiting-1], fmt.Sprintf("and %d more", more))
	}
	slices.Sort(p.Waiting)
	return p
}

// forbiddenError is a missing permission, such as "list pods".
type forbiddenError struct{ permission string }

func (e *forbiddenError) Error() string { return "leasekeeper lacks the permission to " + e.permission }
