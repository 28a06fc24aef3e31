package lifecycle

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
)

// maxRolloutPause is the longest pause between two checks of a rollout.
const maxRolloutPause = 15 * time.Second

// rolloutPause is the pause until the next check of a rollout that has taken so long: a tenth of it.
func rolloutPause(taken time.Duration) time.Duration {
	return max(time.Second, min(taken/10, maxRolloutPause))
}

// followRollout stamps the consumers and records their progress.
func (l *Lifecycle) followRollout(ctx context.Context, o *observation, s lease.Step) error {
	now := l.clock.Now()
	if l.rollouts == nil {
		o.mem.rolloutCheckAt = now.Add(maxRolloutPause)
		return nil
	}
	var progress rollout.Progress
	err := l.gated(ctx, rollOut, o.d.Namespace, func() (err error) {
		progress, err = l.rollouts.Follow(ctx, o.d, s.Hold, o.contestedWorkloads(now))
		return err
	})
	var busy busyError
	if errors.As(err, &busy) {
		o.mem.rolloutCheckAt = now.Add(busy.after)
		return nil
	}
	if err != nil {
		// Nothing else of the object waits for its consumers.
		progress.Reason, progress.Waiting = v1alpha1.ReasonRolloutCheckFailed, []string{shortened(err.Error())}
	}
	if ctx.Err() != nil {
		return ctx.Err() // a shutdown
	}
	if o.noteStamps(progress.Stamped, now) {
		l.announce.Event(o.d, corev1.EventTypeNormal, v1alpha1.ReasonRollingOut,
			"Workloads are being rolled out to use the new credential.")
	}
	if progress.Done {
		o.mem.rolloutCheckAt, o.mem.rolloutTries = time.Time{}, lease.Failure{}
		return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RolledOut(&d.Status, l.clock.Now()) })
	}
	o.checkRolloutAgain(progress.Reason, now)
	return l.recordRollout(ctx, o, progress)
}

// checkRolloutAgain sets when to check the consumers again: after a growing pause if that failed.
func (o *observation) checkRolloutAgain(reason string, now time.Time) {
	if reason == v1alpha1.ReasonRolloutCheckFailed {
		fail(&o.mem.rolloutTries, lease.Block{Reason: reason}, now, o.backoff)
		o.mem.rolloutCheckAt = o.mem.rolloutTries.NotBefore
		return
	}
	o.mem.rolloutTries = lease.Failure{}
	o.mem.rolloutCheckAt = now.Add(rolloutPause(now.Sub(o.d.Status.Handover.PublishedAt.Time)))
}

// troubled are the reasons of a rollout that an event reports.
var troubled = []string{v1alpha1.ReasonRolloutPaused, v1alpha1.ReasonRolloutStuck, v1alpha1.ReasonRolloutCheckFailed,
	v1alpha1.ReasonRolloutContested}

// recordRollout writes the progress to the status if it has changed.
func (l *Lifecycle) recordRollout(ctx context.Context, o *observation, progress rollout.Progress) error {
	h := o.d.Status.Handover
	contested := progress.Reason == v1alpha1.ReasonRolloutContested
	known := progress.Reason == h.Reason || contested && o.mem.stamps.reported
	if contested {
		o.mem.stamps.reported = true
	}
	if !known && slices.Contains(troubled, progress.Reason) {
		l.announce.Event(o.d, corev1.EventTypeWarning, progress.Reason,
			"The old lease is kept: "+strings.Join(progress.Waiting, "; ")+".")
	}
	noted := len(progress.Stamped) == 0 || h.StampedAt != nil
	if progress.Reason == h.Reason && sameWaiting(progress, h.Waiting) && noted {
		return nil
	}
	return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.RecordRollout(&d.Status, progress.Reason, progress.Waiting, len(progress.Stamped) > 0, l.clock.Now())
	})
}

// digits of an error text may change with each attempt: a port, a duration.
var digits = regexp.MustCompile(`[0-9]+`)

// sameWaiting says that the status has the progress. Errors that differ only in digits are the same error.
func sameWaiting(progress rollout.Progress, waiting []string) bool {
	if progress.Reason != v1alpha1.ReasonRolloutCheckFailed {
		return equality.Semantic.DeepEqual(progress.Waiting, waiting)
	}
	return slices.EqualFunc(progress.Waiting, waiting, func(a, b string) bool {
		return digits.ReplaceAllString(a, "#") == digits.ReplaceAllString(b, "#")
	})
}

// quickStamps is how often a workload is stamped without a pause: a tool may just be replacing it.
const quickStamps = 3

// stamps are what this process knows of the stamps of one handover.
type stamps struct {
	// of is the stamp.
	of string
	// workloads counts, such as for Deployment/orders, how often each got it, and has when it may get it again.
	workloads map[string]lease.Failure
	// reported: an event has reported that something removes it.
	reported bool
}

// contestedWorkloads are those that may not be stamped again yet.
func (o *observation) contestedWorkloads(now time.Time) map[string]bool {
	if s := &o.mem.stamps; s.of != o.d.Status.Handover.Stamp {
		*s = stamps{of: o.d.Status.Handover.Stamp}
	}
	var contested map[string]bool
	for workload, f := range o.mem.stamps.workloads {
		if f.Count >= quickStamps && now.Before(f.NotBefore) {
			put(&contested, workload, true)
		}
	}
	return contested
}

// noteStamps counts the stamps of workloads. It reports whether one of them had none before.
func (o *observation) noteStamps(workloads []string, now time.Time) (first bool) {
	for _, workload := range workloads {
		f := o.mem.stamps.workloads[workload]
		first = first || f.Count == 0
		o.countRepair(&f, now)
		put(&o.mem.stamps.workloads, workload, f)
	}
	return first
}

// apiRollouts are the workloads of the API server.
type apiRollouts struct {
	*rollout.Rollouts
	cache, reader client.Reader
}

func (a apiRollouts) Follow(
	ctx context.Context, d *v1alpha1.DynamicSecret, hold bool, contested map[string]bool,
) (rollout.Progress, error) {
	var all v1alpha1.DynamicSecretList
	if err := a.cache.List(ctx, &all, client.InNamespace(d.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return rollout.Progress{}, err
	}
	var others []rollout.Consumer
	for i := range all.Items {
		if other := &all.Items[i]; other.UID != d.UID && lease.RollsOut(other) {
			others = append(others, consumer(other))
		}
	}
	written, err := a.writtenAt(ctx, d)
	if err != nil {
		return rollout.Progress{}, err
	}
	c := consumer(d)
	c.Contested = contested
	return a.Rollouts.Follow(ctx, c, written, others, hold)
}

// consumer describes the Secret of the object; with a stamp only during a rollout.
func consumer(d *v1alpha1.DynamicSecret) rollout.Consumer {
	c := rollout.Consumer{Namespace: d.Namespace, Secret: d.TargetName(), Spec: *d.Spec.Rollout}
	if h := d.Status.Handover; h != nil && h.RolledOutAt == nil {
		c.Stamp = h.Stamp
	}
	return c
}

// writtenAt is when leasekeeper last wrote the Secret, by the API server's clock, which the pods use too. Only the API
// server has it: the cache omits managedFields.
func (a apiRollouts) writtenAt(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	m := secretMetadata()
	if err := a.reader.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: d.TargetName()}, m); err != nil {
		return time.Time{}, err
	}
	at := m.CreationTimestamp.Time
	for _, f := range m.ManagedFields {
		if f.Manager == string(FieldOwner) && f.Time != nil && f.Time.After(at) {
			at = f.Time.Time
		}
	}
	return at, nil
}
