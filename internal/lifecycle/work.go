package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// Work does what is due, from the cache alone where that will do: an object at rest costs no request, and a renewal costs
// the one that renews and the one that writes it down. d is brought up to date.
func (l *Lifecycle) Work(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	o, err := l.glance(ctx, d)
	if err != nil {
		return time.Time{}, err
	}
	if o == nil {
		return l.run(ctx, d)
	}
	step := lease.Plan(o.in)
	switch step.Action {
	case lease.Wait:
		lease.Summarize(o.in, step)
		if equality.Semantic.DeepEqual(d.Status, o.d.Status) {
			return step.At, nil
		}
	case lease.VerifyLease:
		// A question does no harm; what follows from the answer is decided anew.
		if err := l.verify(ctx, o); err != nil {
			return time.Time{}, err
		}
	case lease.RenewLease, lease.ExtendToken:
		// Neither does harm if the cache was stale, and the write that follows is locked.
		at, done, err := l.keep(ctx, o, step)
		o.d.DeepCopyInto(d)
		if done || err != nil {
			return at, err
		}
	}
	return l.run(ctx, d)
}

// glance makes an observation from the cache; nil: the Secret is not as the status says, or there is more to look at.
func (l *Lifecycle) glance(ctx context.Context, d *v1alpha1.DynamicSecret) (*observation, error) {
	known := d.Status.Secret
	if known == nil || known.UID == "" || known.Name != d.TargetName() || !d.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := l.cache.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: known.Name}, m)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if m.UID != known.UID || m.ResourceVersion != known.ResourceVersion || !secret.InSync(m, d) {
		return nil, nil
	}
	src, err := l.sources.Resolve(ctx, d)
	if err != nil {
		return nil, err
	}
	mem := l.memory.of(types.NamespacedName{Namespace: d.Namespace, Name: d.Name}, d.UID)
	if mem.held != nil {
		return nil, nil
	}
	o := &observation{d: d.DeepCopy(), mem: mem, source: src, glanced: true}
	l.refreshInput(o)
	return o, nil
}

// Gone: the object is no more. What this process may still hold for it is ended.
func (l *Lifecycle) Gone(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	mem := l.memory.find(key)
	if mem == nil {
		return 0, nil
	}
	if h := mem.held; h != nil && (h.Outcome == lease.OutcomeIssued || h.Outcome == lease.OutcomeRefused) {
		was := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: mem.uid}}
		if err := l.endHeld(ctx, was, h); err != nil {
			log.FromContext(ctx).Info("the lease of an object that is gone could not be ended yet", "lease", h.answer.LeaseID, "error", err.Error())
			return 10 * time.Second, nil
		}
	}
	l.memory.forget(key)
	return 0, nil
}
