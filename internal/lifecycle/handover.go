package lifecycle

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
)

// keepRetiring renews a lease that consumers may still use, or extends its token.
func (l *Lifecycle) keepRetiring(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.d.Status.Retiring[s.Record]
	keep := l.renewRecord
	if s.Action == lease.ExtendRetiring {
		keep = l.extendRecord
	}
	key := lease.TryKey(&rec)
	change, err := keep(ctx, o, &rec)
	switch {
	case err == nil:
		delete(o.mem.tries.Keep, key)
		return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { change(&d.Status.Retiring[s.Record]) }))
	case backend.KindOf(err) == backend.Gone:
		delete(o.mem.tries.Keep, key)
		return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RetiringLost(d, s.Record, l.clock.Now()) }))
	}
	f := o.mem.tries.Keep[key]
	l.renewFailed(&f, o, &rec, err)
	o.mem.setKeep(key, f)
	return nil
}

// followRollout takes the consumers one look further.
func (l *Lifecycle) followRollout(ctx context.Context, o *observation, s lease.Step) error {
	now := l.clock.Now()
	if l.rollouts == nil {
		o.mem.rolloutLook = now.Add(slowestLook)
		return nil
	}
	h := o.d.Status.Handover
	progress, err := l.rollouts.Follow(ctx, o.d, o.secret, s.Hold)
	if err != nil {
		return err
	}
	if progress.Stamped > 0 {
		l.announce.Event(o.d, corev1.EventTypeNormal, v1alpha1.ReasonRollingOut, "Workloads are rolled out, so that they take the new credential.")
	}
	if progress.Done {
		o.mem.rolloutLook = time.Time{}
		return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.RolledOut(&d.Status, l.clock.Now()) }))
	}
	o.mem.rolloutLook = now.Add(lookAfter(now.Sub(h.PublishedAt.Time)))
	if progress.Reason != h.Reason && (progress.Reason == v1alpha1.ReasonRolloutPaused || progress.Reason == v1alpha1.ReasonRolloutStuck) {
		l.announce.Event(o.d, corev1.EventTypeWarning, progress.Reason, "The old lease is held: "+strings.Join(progress.Waiting, "; ")+".")
	}
	if progress.Reason == h.Reason && equality.Semantic.DeepEqual(progress.Waiting, h.Waiting) && (progress.Stamped == 0 || h.StampedAt != nil) {
		return nil
	}
	return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.Rolling(&d.Status, progress.Reason, progress.Waiting, progress.Stamped > 0, now)
	}))
}

const slowestLook = 15 * time.Second

// lookAfter is the pause until the next look at a roll-out that has taken so long: a tenth of it.
func lookAfter(taken time.Duration) time.Duration {
	return max(time.Second, min(taken/10, slowestLook))
}

// apiRollouts are the workloads of the API server.
type apiRollouts struct {
	*rollout.Rollouts
	cache client.Reader
}

func (a apiRollouts) Follow(ctx context.Context, d *v1alpha1.DynamicSecret, s *corev1.Secret, hold bool) (rollout.Progress, error) {
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
	return a.Rollouts.Follow(ctx, consumer(d), writtenAt(s), others, hold)
}

// consumer describes the Secret of the object; with a stamp only while there is a roll-out.
func consumer(d *v1alpha1.DynamicSecret) rollout.Consumer {
	c := rollout.Consumer{Namespace: d.Namespace, Secret: d.TargetName(), Spec: *d.Spec.Rollout}
	if h := d.Status.Handover; h != nil && h.RolledOutAt == nil {
		c.Stamp = h.Stamp
	}
	return c
}

// writtenAt is when leasekeeper wrote the Secret last, by the API server's clock, which is that of the pods too.
func writtenAt(s *corev1.Secret) time.Time {
	at := s.CreationTimestamp.Time
	for _, f := range s.ManagedFields {
		if f.Manager == string(FieldOwner) && f.Time != nil && f.Time.After(at) {
			at = f.Time.Time
		}
	}
	return at
}
