// Package rollout brings the consumers of a Secret to a new credential: it finds the workloads that use it, stamps their
// pod templates so that they roll out, and tells when the last pod that may hold the old credential is gone.
//
// It keeps nothing between calls. What was done is read from the workloads, so another process goes on where one ended.
package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// maxWaiting is how many lines status.handover.waiting takes.
const maxWaiting = 16

// Consumer is a Secret whose credential was replaced, and who uses it. There is one for each DynamicSecret.
type Consumer struct {
	// Namespace of the Secret and of all who use it.
	Namespace string
	// Secret is its name.
	Secret string
	// Stamp of the credential that it holds. Empty: its consumers have that credential already.
	Stamp string
	// Spec says who uses it.
	Spec v1alpha1.RolloutSpec
}

// Progress of a hand-over.
type Progress struct {
	// Done: all consumers have the new credential, and no pod is left that may hold the old one.
	Done bool
	// Reason why it is not done, the most serious first: v1alpha1.ReasonRolloutForbidden, ReasonRolloutTargetNotFound,
	// ReasonRolloutStuck, ReasonRolloutPaused, ReasonRollingOut. Empty when it is done.
	Reason string
	// Waiting says what is waited for, sorted, at most 16 lines, such as "Deployment/orders: 1 of 3 pods updated". For
	// ReasonRolloutForbidden it names the right that is missing: "patch deployments.apps".
	Waiting []string
	// Stamped counts the pod templates that this call has changed.
	Stamped int
}

// Rollouts finds and stamps workloads.
type Rollouts struct {
	// Reader is not cached: workloads and pods are read only while a credential is handed over, and never watched.
	Reader client.Reader
	// Writer applies the stamps.
	Writer client.Client
}

// Follow stamps the workloads that have to be stamped, and says how far all consumers are. It is safe to repeat at any
// time: a template that has the stamp is not changed.
//
// The credential must be in the Secret already, since publishedAt by the API server's clock. Others are the
// DynamicSecrets of the namespace with a roll-out; c may be among them. Where one of them concerns the same workload and
// has a stamp of its own, both go on in one patch. hold keeps the stamp from workloads that somebody among the others
// without a stamp concerns: they wait for that one's credential, and then roll out once for both.
//
// What the API server refuses is told in Progress, as is all that a person can change; an error means that nothing is
// known and the call is to be repeated. Stamped counts then too.
func (r *Rollouts) Follow(ctx context.Context, c Consumer, publishedAt time.Time, others []Consumer, hold bool) (Progress, error) {
	found, open, err := r.find(ctx, c)
	if err != nil {
		return unread(err, 0)
	}
	stamped := 0
	for _, w := range found {
		changed, err := r.stamp(ctx, w, c, others, hold)
		if err != nil {
			return unread(err, stamped)
		}
		if changed {
			stamped++
		}
	}
	// Pods are read after the workloads: what was finished then has no older pods now.
	pods, err := r.pods(ctx, c, found)
	if err != nil {
		return unread(err, stamped)
	}
	return progress(append(open, judge(c, publishedAt, found, pods)...), stamped), nil
}

// finding is one thing that stands between the consumers and the end of the hand-over. The zero value: nothing does.
type finding struct {
	reason string
	// text of a workload's state continues its name: " is paused".
	text string
}

// severity of reasons, the worst first.
var severity = []string{
	v1alpha1.ReasonRolloutForbidden,
	v1alpha1.ReasonRolloutTargetNotFound,
	v1alpha1.ReasonRolloutStuck,
	v1alpha1.ReasonRolloutPaused,
	v1alpha1.ReasonRollingOut,
}

func progress(open []finding, stamped int) Progress {
	if len(open) == 0 {
		return Progress{Done: true, Stamped: stamped}
	}
	// Where there are too many, the worst are told.
	slices.SortFunc(open, func(a, b finding) int {
		return cmp.Or(slices.Index(severity, a.reason)-slices.Index(severity, b.reason), cmp.Compare(a.text, b.text))
	})
	p := Progress{Reason: open[0].reason, Stamped: stamped}
	for _, f := range open {
		p.Waiting = append(p.Waiting, f.text)
	}
	if more := len(open) - maxWaiting + 1; more > 1 {
		p.Waiting = append(p.Waiting[:maxWaiting-1], fmt.Sprintf("and %d more", more))
	}
	slices.Sort(p.Waiting)
	return p
}

// refusal is a right that leasekeeper does not have, such as "list pods".
type refusal struct{ right string }

func (r *refusal) Error() string { return "leasekeeper may not " + r.right }

// unread is the progress where something could not be read: nothing may be concluded from it.
func unread(err error, stamped int) (Progress, error) {
	var refused *refusal
	if errors.As(err, &refused) {
		return progress([]finding{{v1alpha1.ReasonRolloutForbidden, refused.right}}, stamped), nil
	}
	return Progress{Stamped: stamped}, err
}
