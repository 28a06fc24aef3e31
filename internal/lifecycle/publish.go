package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// publish writes the held credential and notes what was written.
func (l *Lifecycle) publish(ctx context.Context, o *observation) error {
	h := o.mem.held
	// Somebody may have taken it out of the status since the lease was recorded.
	known := o.d.Status.Secret
	first := known == nil || known.UID == ""
	existed := o.secret != nil || o.recorded != nil
	if err := l.write(ctx, o, h.answer.Data, h.salt); err != nil {
		return l.publishFailed(o, err)
	}
	o.mem.tries.Publish = lease.Failure{}
	if err := l.notePublished(ctx, o, existed); err != nil {
		return err
	}
	o.mem.held, o.mem.rolloutLook = nil, time.Time{}
	what := "Replaced"
	switch {
	case h.cause == "":
		return nil // the same credential, in a Secret made anew
	case first:
		what = "Issued"
	case h.cause == lease.CauseRefresh:
		what = "Refreshed"
	}
	l.announce.Event(o.d, corev1.EventTypeNormal, what, issuedMessage(o.d, h.cause))
	return nil
}

func issuedMessage(d *v1alpha1.DynamicSecret, cause string) string {
	message := "Secret " + d.TargetName() + " holds a new answer of " + d.Status.Lease.Path
	if lease.Leased(d.Status.Lease) {
		message = "Secret " + d.TargetName() + " holds a new credential, lease " + d.Status.Lease.ID
	}
	if cause == lease.CauseFirst {
		return message + "."
	}
	return message + " (" + cause + ")."
}

// write creates or updates the Secret of the wanted name, and deletes one of ours that had another name. What it wrote
// becomes the observation's Secret.
func (l *Lifecycle) write(ctx context.Context, o *observation, data map[string][]byte, salt string) error {
	switch {
	case o.secret != nil && o.secret.Type == secret.Type(o.d):
		s := o.secret.DeepCopy()
		secret.Update(s, o.d, data, salt)
		if err := l.secrets.Update(ctx, s, false); err != nil {
			return err
		}
		o.secret = s
	default:
		if o.secret != nil { // the type of a Secret cannot be changed in place
			if err := l.secrets.Delete(ctx, o.secret); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		s := secret.New(o.d, data, salt)
		if err := l.secrets.Create(ctx, s, false); err != nil {
			return err
		}
		o.secret = s
	}
	if o.recorded != nil && ours(o.d, o.recorded) {
		if err := l.secrets.Delete(ctx, o.recorded); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	o.recorded = nil
	return nil
}

// notePublished notes what was written. existed says that there was a Secret before, which somebody may use.
func (l *Lifecycle) notePublished(ctx context.Context, o *observation, existed bool) error {
	s := o.secret
	written := v1alpha1.SecretStatus{Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion, Digest: secret.DigestOf(s)}
	return IgnoreConflict(l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Publish(d, written, existed, l.clock.Now()) }))
}

// publishFailed: the credential stays in memory and the same one is tried again.
func (l *Lifecycle) publishFailed(o *observation, err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	b := lease.Block{Reason: v1alpha1.ReasonPublishFailed, Message: "Secret " + o.d.TargetName() + " could not be written: " + reasonOf(err, false)}
	if rejected(err) {
		b.Reason, b.Stalled = v1alpha1.ReasonTargetRejected, true
	}
	fail(&o.mem.tries.Publish, b, l.clock.Now(), o.backoff)
	return nil
}

// syncSecret brings the Secret in line with the spec, with the data that it has. The digest has vouched for them, so no
// new credential is needed.
func (l *Lifecycle) syncSecret(ctx context.Context, o *observation) error {
	from := o.secret
	if from == nil || secret.DigestOf(from) != o.d.Status.Secret.Digest {
		from = o.recorded
	}
	salt := from.Annotations[v1alpha1.DigestSaltAnnotation]
	if o.secret != nil && o.secret.Type != secret.Type(o.d) && o.mem.held == nil {
		// It must be deleted and made anew. Should that break off half way, the data are still here to be published.
		rec := *o.d.Status.Lease
		o.mem.held = &held{
			Held:   lease.Held{Accessor: rec.TokenAccessor, Outcome: lease.OutcomeIssued},
			rec:    rec,
			answer: backend.Response{LeaseID: rec.ID, Data: from.Data},
			salt:   salt,
		}
	}
	moved := from != o.secret || o.recorded != nil
	if moved || from.Type != secret.Type(o.d) || !secret.InSync(from, o.d) {
		if err := l.write(ctx, o, from.Data, salt); err != nil {
			return l.targetRejected(o, &o.mem.tries.Sync, err, false)
		}
	}
	o.mem.tries.Sync = lease.Failure{}
	return l.notePublished(ctx, o, true)
}

// deleteSecret deletes the Secret that the status names, and one of the wanted name where a move was cut short; both
// only if they are ours.
func (l *Lifecycle) deleteSecret(ctx context.Context, o *observation, s lease.Step) error {
	for _, found := range []*corev1.Secret{o.secret, o.recorded} {
		if found == nil || !ours(o.d, found) {
			continue
		}
		if err := l.secrets.Delete(ctx, found); err != nil && !apierrors.IsNotFound(err) {
			return IgnoreConflict(err)
		}
	}
	name := o.d.Status.Secret.Name
	o.secret, o.recorded = nil, nil
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.SecretDeleted(&d.Status) }); err != nil {
		return IgnoreConflict(err)
	}
	if s.Reason == v1alpha1.ReasonExpired {
		l.announce.Event(o.d, corev1.EventTypeWarning, "SecretDeleted", "Secret "+name+" is deleted: its lease is over and no new one could be had.")
	}
	return nil
}
