package lifecycle

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// operation is a kind of write to the API server. Each has its own admission webhooks, so each has its own limits.
// Those of all namespaces that seem to hang share a quarter of the workers.
type operation string

const (
	writeSecret    operation = "write_secret"
	deleteSecret   operation = "delete_secret"
	writeStatus    operation = "write_status"
	writeFinalizer operation = "write_finalizer"
	rollOut        operation = "roll_out"
)

// maxUpdateConflicts is how many conflicts in a row are those of others that write the object.
const maxUpdateConflicts = 10

// retryWrite is when to try again in a namespace whose limit is reached.
const retryWrite = time.Second

// writing writes the Secret of the object.
func (l *Lifecycle) writing(ctx context.Context, o *observation, write func() error) error {
	return l.gated(ctx, writeSecret, o.d.Namespace, write)
}

// gated limits the writes of one kind to one namespace of the API server, like the requests to one path of a backend:
// an admission webhook may take half a minute for each. Every write passes it.
func (l *Lifecycle) gated(ctx context.Context, kind operation, namespace string, do func() error) error {
	done, err := l.limits.AdmitTo(ctx, string(kind), namespace)
	if err != nil {
		return busyError{retryWrite}
	}
	err = do()
	done(verdictOf(err))
	return err
}

// verdictOf classifies an error of the API server for the limits of a namespace. An error that it reports after a long
// time counts as no response: a webhook did not respond to it.
func verdictOf(err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return backend.Errorf(backend.Failed, "the API server reports an error")
	case errors.Is(err, context.DeadlineExceeded):
		return backend.Errorf(backend.NoResponse, "the API server does not respond")
	}
	return backend.ErrNotSent // the API server cannot be reached, whatever the namespace is
}

// updateStatus writes the status of the object. If the API server does not accept it, or the namespace's limit is
// reached, the object waits for a growing pause. A removal continues, but writes nothing until then.
func (l *Lifecycle) updateStatus(ctx context.Context, o *observation, d *v1alpha1.DynamicSecret) error {
	if now := l.clock.Now(); o.removing() && now.Before(o.mem.unrecorded.NotBefore) {
		return busyError{o.mem.unrecorded.NotBefore.Sub(now)}
	}
	err := l.gated(ctx, writeStatus, d.Namespace, func() error { return l.objects.UpdateStatus(ctx, d) })
	f := &o.mem.unrecorded
	var busy busyError
	if errors.As(err, &busy) {
		// What was not recorded may be done again, such as a renewal. So this pause grows too.
		f.Count++
		f.At = l.clock.Now()
		f.NotBefore = f.At.Add(o.unrecordedPause(f.Count))
	} else if err := l.noteUpdate(ctx, o, f, writeStatus, err, o.unrecordedPause); err != nil {
		return err
	}
	if f.Count > 0 {
		return busyError{f.NotBefore.Sub(l.clock.Now())}
	}
	o.mem.unstored = nil
	return nil
}

// removing says that the object is being deleted, or that spec.revoked is true.
func (o *observation) removing() bool { return !o.d.DeletionTimestamp.IsZero() || o.d.Spec.Revoked }

// keepsUnstored says that the step continues although its transition could not be stored. The API server has stored
// that everything is to be removed, and whatever was revoked may be revoked again.
func (o *observation) keepsUnstored(ctx context.Context, err error) bool {
	return o.removing() && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err)
}

// unrecordedPause is the pause before the status is written again. A lease whose renewal is not recorded is renewed
// again then, so it is at most a quarter of the term of a lease.
func (o *observation) unrecordedPause(count int) time.Duration {
	pause := o.backoff(count)
	for i := range o.d.Status.Leases {
		if term := time.Duration(o.d.Status.Leases[i].DurationSeconds) * time.Second; term > 0 {
			pause = min(pause, term/4)
		}
	}
	return pause
}

// paused is until when the object waits because its status could not be written; zero: it does not.
func (l *Lifecycle) paused(o *observation) time.Time {
	f := o.mem.unrecorded
	if f.Count == 0 || o.removing() || !l.clock.Now().Before(f.NotBefore) {
		return time.Time{}
	}
	return f.NotBefore
}

// testJournal writes the status before a login if the last write failed, or others hang: a login whose journal is not
// stored is revoked.
func (l *Lifecycle) testJournal(ctx context.Context, o *observation) error {
	if o.mem.unrecorded.Count == 0 && !l.limits.Hangs(string(writeStatus), o.d.Namespace) {
		return nil
	}
	return l.commit(ctx, o, func(*v1alpha1.DynamicSecret) {})
}

// noteUpdate notes and reports that the API server does not accept an update of the object. It returns any other error.
func (l *Lifecycle) noteUpdate(
	ctx context.Context, o *observation, f *lease.Failure, kind operation, err error, pause func(int) time.Duration,
) error {
	hung := errors.Is(err, context.DeadlineExceeded) || apierrors.IsTimeout(err)
	conflicts := o.conflictsAgain(err)
	switch {
	case err == nil:
		*f = lease.Failure{}
		return nil
	case ctx.Err() != nil || !hung && !conflicts && !rejected(err) && !apierrors.IsInternalError(err):
		return err // the process ends, something else has written, or the API server is unavailable
	}
	result, why := backend.Failed, err.Error()
	switch {
	case rejected(err):
		result = backend.Refused
	case hung:
		result, why = backend.NoResponse, "the API server did not respond in time. Check whether an admission webhook "+
			"for DynamicSecrets responds"
	}
	b := lease.Block{Reason: v1alpha1.ReasonObjectNotUpdated, Stalled: rejected(err),
		Message: "The API server does not accept leasekeeper's " + updated[kind] + " on this object: " + why}
	l.announce.Count(string(kind), string(result))
	log.FromContext(ctx).Info("the object could not be updated", "what", updated[kind], "error", err.Error())
	if f.Reason == "" {
		l.announce.Event(o.d, corev1.EventTypeWarning, b.Reason, b.Message)
	}
	fail(f, b, l.clock.Now(), pause)
	return nil
}

// conflictsAgain says that the API server has reported nothing but conflicts: something writes the object all the time,
// or a webhook reports them.
func (o *observation) conflictsAgain(err error) bool {
	if !apierrors.IsConflict(err) {
		o.mem.conflicts = 0
		return false
	}
	o.mem.conflicts++
	return o.mem.conflicts > maxUpdateConflicts
}

// updated names what a kind of write changes on the object.
var updated = map[operation]string{writeStatus: "status", writeFinalizer: "finalizer"}
