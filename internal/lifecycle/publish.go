package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// publish writes the held credentials and records what was written.
func (l *Lifecycle) publish(ctx context.Context, o *observation) error {
	h := o.mem.held
	existed := o.secret != nil || o.previous != nil
	if err := l.write(ctx, o, h.content, h.salt); err != nil {
		return l.publishFailed(o, err)
	}
	o.mem.tries.Publish = lease.Failure{}
	digest := h.content.Digest(h.salt)
	if err := l.recordPublished(ctx, o, digest, existed); err != nil {
		return err
	}
	o.mem.held, o.mem.rolloutCheckAt = nil, time.Time{}
	// The conditions report the first credential; an event would be another request.
	if h.cause != "" && h.cause != lease.CauseFirst || existed && h.cause == lease.CauseFirst {
		l.announce.Event(o.d, corev1.EventTypeNormal, "Replaced", replacedMessage(o.d, h.cause))
	}
	return nil
}

// write creates or updates the Secret that the spec names, and deletes one of ours that had another name. The written
// Secret becomes that of the observation.
func (l *Lifecycle) write(ctx context.Context, o *observation, c secret.Content, salt string) error {
	if o.secret != nil && o.secret.kind() == secret.Type(o.d) {
		m, err := l.secrets.Patch(ctx, secret.NewChange(o.secret, o.d, c, salt), false)
		if err != nil {
			return err
		}
		l.wrote(o, m.ObjectMeta)
	} else {
		if o.secret != nil { // the type of a Secret cannot be changed
			if err := l.secrets.Delete(ctx, &o.secret.ObjectMeta); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		s := secret.New(o.d, c, salt)
		if err := l.secrets.Create(ctx, s, false); err != nil {
			return err
		}
		l.wrote(o, s.ObjectMeta)
	}
	return l.deletePrevious(ctx, o)
}

func (l *Lifecycle) deletePrevious(ctx context.Context, o *observation) error {
	if o.previous != nil && secret.Ours(o.previous, o.d) {
		if err := l.secrets.Delete(ctx, &o.previous.ObjectMeta); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	o.previous = nil
	return nil
}

// wrote notes the Secret that this process has just written.
func (l *Lifecycle) wrote(o *observation, m metav1.ObjectMeta) {
	m.ManagedFields = nil
	o.secret = &seen{ObjectMeta: m}
	o.mem.secret = &ownWrite{meta: m, at: l.clock.Now()}
}

// recordPublished records the Secret of the observation. existed says that there was a Secret before, so that workloads
// may use it.
func (l *Lifecycle) recordPublished(
	ctx context.Context, o *observation, digest string, existed bool, also ...func(*v1alpha1.DynamicSecret),
) error {
	s := o.secret
	written := v1alpha1.SecretStatus{Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion, Digest: digest}
	return l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		for _, change := range also {
			change(d)
		}
		lease.Publish(d, written, existed, l.clock.Now())
	})
}

// publishFailed: the credential stays in memory and is published again.
func (l *Lifecycle) publishFailed(o *observation, err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return apierrors.NewConflict(corev1.Resource("secrets"), o.d.TargetName(), err)
	}
	b := lease.Block{Reason: v1alpha1.ReasonPublishFailed,
		Message: "Secret " + o.d.TargetName() + " could not be written: " + rejection(err, false)}
	if rejected(err) {
		b.Reason, b.Stalled = v1alpha1.ReasonTargetRejected, true
	}
	fail(&o.mem.tries.Publish, b, l.clock.Now(), o.backoff)
	return nil
}

// syncSecret brings the Secret in line with the spec and keeps its data: their digest is right, so no new credential is
// needed.
func (l *Lifecycle) syncSecret(ctx context.Context, o *observation) error {
	from := o.secret
	if !o.current(from) {
		from = o.previous
	}
	content, salt := secret.ContentOf(from.full), secret.Salt(from)
	if o.secret != nil && o.secret.kind() != secret.Type(o.d) && o.mem.held == nil {
		// It must be deleted and created again. If that fails half way, the data are still here to be published.
		o.mem.held = l.holdPublished(o, content, salt)
	}
	moved := from != o.secret || o.previous != nil
	if moved || from.kind() != secret.Type(o.d) || !secret.InSync(from, o.d) {
		if err := l.write(ctx, o, content, salt); err != nil {
			if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
				return err
			}
			return l.targetRejected(o, &o.mem.tries.Sync, err, false)
		}
	}
	o.mem.tries.Sync = lease.Failure{}
	return l.recordPublished(ctx, o, content.Digest(salt), true)
}

// holdPublished holds what the Secret contains.
func (l *Lifecycle) holdPublished(o *observation, c secret.Content, salt string) *held {
	h := &held{Held: lease.Held{Outcome: lease.OutcomeIssued}, content: c, salt: salt}
	for i := range o.d.Status.Leases {
		h.Records = append(h.Records, lease.HeldRecord{Record: o.d.Status.Leases[i], Settled: true})
	}
	return h
}

// deleteSecret deletes the Secret, and one of the previous name if a move was interrupted; both only if they are ours.
func (l *Lifecycle) deleteSecret(ctx context.Context, o *observation, s lease.Step) error {
	for _, found := range []*seen{o.secret, o.previous} {
		if found == nil || !secret.Ours(found, o.d) {
			continue
		}
		err := l.secrets.Delete(ctx, &found.ObjectMeta)
		if err == nil || apierrors.IsNotFound(err) {
			continue
		}
		if !rejected(err) {
			return err
		}
		block := lease.Block{Reason: v1alpha1.ReasonTargetRejected,
			Message: "The API server refuses to delete Secret " + found.Name + ": " + rejection(err, false)}
		fail(&o.mem.tries.DeleteSecret, block, l.clock.Now(), o.backoff)
		return nil
	}
	o.secret, o.previous, o.mem.secret = nil, nil, nil
	o.mem.tries.DeleteSecret = lease.Failure{}
	if !o.d.DeletionTimestamp.IsZero() {
		return nil // the deletion timestamp is the record
	}
	name := o.d.Status.Secret.Name
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.SecretDeleted(&d.Status) }); err != nil {
		return err
	}
	if s.Reason == v1alpha1.ReasonExpired {
		l.announce.Event(o.d, corev1.EventTypeWarning, "SecretDeleted",
			"Secret "+name+" was deleted: its credential has expired and no new one could be issued.")
	}
	return nil
}

// refresh reads a static or scheduled source again, and writes what has changed. Nothing is minted, and an unchanged
// value costs no request to the API server.
func (l *Lifecycle) refresh(ctx context.Context, o *observation, s lease.Step) error {
	rec := o.record(s)
	src := o.sourceOf(rec.Source)
	if src == nil {
		return nil // the spec has just changed; the next plan replaces the set
	}
	now := l.clock.Now()
	response, part, err := l.readSource(ctx, o, src)
	if err != nil {
		l.announce.Count("refresh", string(backend.KindOf(err)))
		failKey(&o.mem.tries.Refresh, rec.Source, backend.BlockFor(err), now, o.backoff)
		return nil
	}
	l.announce.Count("refresh", "success")
	delete(o.mem.tries.Refresh, rec.Source)
	o.mem.handled[rec.Source] = lease.RequestedRenewal(o.d)
	read := lease.Read{At: response.Term.At}
	if response.Term.Duration > 0 {
		read.Next = response.Term.At.Add(response.Term.Duration)
	} else {
		read.Late = o.mem.reads[rec.Source].Late + 1
	}
	digest := part.Digest(secret.Salt(o.secret))
	if digest == rec.Digest && response.Kind == rec.Kind {
		o.mem.reads[rec.Source] = read
		return nil
	}
	whole := combined(o.d.Status.Leases, rec.Source, digest)
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.BeginRefresh(&d.Status, whole) }); err != nil {
		return err
	}
	m, err := l.secrets.Patch(ctx, secret.ReplacePart(o.secret, o.d, part), false)
	if err != nil {
		if rejected(err) {
			block := lease.Block{Reason: v1alpha1.ReasonTargetRejected, Stalled: true,
				Message: "The API server rejects Secret " + o.d.TargetName() + ": " + rejection(err, false)}
			failKey(&o.mem.tries.Refresh, rec.Source, block, now, o.backoff)
			return apierrors.NewConflict(corev1.Resource("secrets"), o.d.TargetName(), err)
		}
		return err
	}
	l.wrote(o, m.ObjectMeta)
	err = l.recordPublished(ctx, o, whole, true, func(d *v1alpha1.DynamicSecret) {
		for i := range d.Status.Leases {
			if d.Status.Leases[i].Source == rec.Source {
				lease.Refreshed(&d.Status.Leases[i], response.Kind, digest, response.Term)
			}
		}
	})
	if err != nil {
		return err
	}
	o.mem.rolloutCheckAt = time.Time{}
	delete(o.mem.reads, rec.Source)
	l.announce.Event(o.d, corev1.EventTypeNormal, "Refreshed",
		"Secret "+o.d.TargetName()+" contains the new value of "+rec.Location()+".")
	return nil
}

func (o *observation) sourceOf(name string) *source {
	for i := range o.sources.Sources {
		if s := &o.sources.Sources[i]; s.Spec.Name == name && s.Backend != nil {
			return s
		}
	}
	return nil
}

// readSource requests a source again and checks that the response can be published.
func (l *Lifecycle) readSource(
	ctx context.Context, o *observation, src *source,
) (backend.Response, secret.Part, error) {
	reader, ok := backend.As[backend.Reader](src.Backend)
	if !ok {
		return backend.Response{}, secret.Part{}, backend.Errorf(backend.Misconfigured,
			"%s: this backend cannot read a response again", src.Record.Location())
	}
	response, err := reader.Read(ctx, src.Identity, src.Spec)
	if err != nil {
		return response, secret.Part{}, err
	}
	part := secret.Select(src.Spec.Fields, o.d.Spec.Target.Fields, src.Spec.Name, response.Data, response.Volatile)
	others := secret.Part{Source: "other sources", Data: map[string][]byte{}}
	for _, key := range secret.KeysOfOthers(o.secret, src.Spec.Name) {
		others.Data[key] = nil
	}
	if err := (secret.Content{others, part}).Collision(); err != nil {
		return response, part, backend.Errorf(backend.InvalidResponse, "%s: %v", src.Record.Location(), err)
	}
	if len(o.d.AllSources()) == 1 {
		if err := usable(o.d, secret.Content{part}); err != nil {
			return response, part, err
		}
	}
	return response, part, nil
}

// combined is the digest of the Secret once the part of the source has the digest.
func combined(leases []v1alpha1.LeaseRecord, source, digest string) string {
	var parts []secret.PartDigest
	for i := range leases {
		p := secret.PartDigest{Source: leases[i].Source, Digest: leases[i].Digest}
		if p.Source == source {
			p.Digest = digest
		}
		parts = append(parts, p)
	}
	return secret.Combine(parts)
}
