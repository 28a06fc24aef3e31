package lifecycle

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// publish writes the held credentials and records what was written.
func (l *Lifecycle) publish(ctx context.Context, o *observation) error {
	h := o.mem.held
	existed := o.secret != nil || o.previous != nil
	if err := l.writing(ctx, o, func() error { return l.write(ctx, o, h.content, h.salt) }); err != nil {
		if h.untested && rejected(err) && !existed {
			return l.giveUp(ctx, o, err)
		}
		// The credential stays in memory and is published again.
		return l.notWritten(ctx, o, &o.mem.tries.Publish, err, false)
	}
	digest := h.content.Digest(h.salt)
	if o.stored != digest {
		l.storedDifferently(o)
		return nil
	}
	o.mem.tries.Publish = lease.Failure{}
	if err := l.recordPublished(ctx, o, digest, existed); err != nil {
		return err
	}
	o.mem.held, o.mem.rolloutCheckAt = nil, time.Time{}
	// The conditions report the first credential; an event would be another request.
	if h.cause != "" && h.cause != lease.CauseFirst || existed && h.cause == lease.CauseFirst {
		l.announce.Event(o.d, corev1.EventTypeNormal, v1alpha1.ReasonReplaced, replacedMessage(o.d, h.cause))
	}
	return nil
}

// write creates or updates the Secret that the spec names, and deletes one of ours that had another name. The written
// Secret becomes that of the observation.
func (l *Lifecycle) write(ctx context.Context, o *observation, c secret.Content, salt string) error {
	if o.secret == nil || o.secret.kind() != secret.Type(o.d) {
		return l.create(ctx, o, c, salt)
	}
	m, err := l.secrets.Patch(ctx, secret.NewChange(o.secret, o.d, c, salt), false)
	if immutable(err) {
		return l.create(ctx, o, c, salt)
	}
	if err != nil {
		return err
	}
	l.wrote(o, m)
	return l.deletePrevious(ctx, o)
}

// create creates the Secret, instead of one whose type must change or that somebody made immutable. That is deleted
// only after a successful trial.
func (l *Lifecycle) create(ctx context.Context, o *observation, c secret.Content, salt string) error {
	s := secret.New(o.d, c, salt)
	if o.secret != nil {
		if err := l.trial(ctx, s); err != nil {
			return err
		}
		if err := l.secrets.Delete(ctx, &o.secret.ObjectMeta); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if err := l.secrets.Create(ctx, s, false); err != nil {
		return err
	}
	l.wrote(o, s)
	return l.deletePrevious(ctx, o)
}

func (l *Lifecycle) deletePrevious(ctx context.Context, o *observation) error {
	if o.previous != nil && secret.Ours(o.previous, o.d) {
		if err := l.secrets.Delete(ctx, &o.previous.ObjectMeta); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	o.previous = nil
	return l.deleteStrays(ctx, o)
}

// deleteStrays deletes what interrupted renames have left, after the Secret that replaces it was written. One that has
// changed since is found again.
func (l *Lifecycle) deleteStrays(ctx context.Context, o *observation) error {
	for i := range o.strays {
		if o.strays[i].Name == o.d.TargetName() {
			continue // it was renamed back
		}
		err := l.secrets.Delete(ctx, &o.strays[i])
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	o.strays = nil
	return nil
}

// wrote notes the Secret that this process has just written, as the API server stored it.
func (l *Lifecycle) wrote(o *observation, s *corev1.Secret) {
	if o.stored = secret.DigestOf(s); !secret.InSync(s, o.d) {
		o.mem.writer = secret.OtherWriter(s, o.d, string(FieldOwner))
	}
	m := *s.ObjectMeta.DeepCopy()
	m.ManagedFields = nil
	o.secret = &seen{ObjectMeta: m}
	o.mem.secret = &ownWrite{meta: m, at: l.clock.Now()}
	o.noteSecret(true)
}

// storedDifferently: the API server accepted the write and stored other data. The credential stays in memory and is
// written again after a growing pause; nothing is issued.
func (l *Lifecycle) storedDifferently(o *observation) {
	b := lease.Block{Reason: v1alpha1.ReasonTargetContested, Stalled: true,
		Message: "The API server stores other data in Secret " + o.d.TargetName() + " than leasekeeper writes: " +
			"a mutating admission policy or webhook changes them. Exclude this Secret from it."}
	pause := func(count int) time.Duration { return lease.LoopPause(count, o.d.UID) }
	fail(&o.mem.tries.Publish, b, l.clock.Now(), pause)
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
		lease.RecordPublished(d, written, existed, l.clock.Now())
	})
}

// giveUp revokes a credential whose Secret the API server rejects, as it has rejected invented data. Now it is known
// that the fields of the response are not accepted either.
func (l *Lifecycle) giveUp(ctx context.Context, o *observation, err error) error {
	now := l.clock.Now()
	fail(&o.mem.tries.Issue, unwritten(o, err, false), now, o.backoff)
	reason, cause := o.mem.tries.Issue.Reason, o.mem.held.cause
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.RetireLeases(d, lease.CauseUnpublished, -1, now)
		lease.CountUnusable(d, cause, reason, now)
	}); err != nil {
		return err
	}
	o.mem.held, o.mem.tries.Publish = nil, lease.Failure{}
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
	if from.kind() != secret.Type(o.d) {
		if err := usable(o.d, content); err != nil {
			fail(&o.mem.tries.Sync, backend.BlockFor(err), l.clock.Now(), o.backoff)
			return nil
		}
	}
	if o.secret != nil && o.secret.kind() != secret.Type(o.d) && o.mem.held == nil {
		// It must be deleted and created again. If that fails half way, the data are still here to be published.
		o.mem.held = l.holdPublished(o, content, salt)
	}
	if len(o.strays) > 0 {
		delete := func() error { return l.deleteStrays(ctx, o) }
		if err := l.gated(ctx, deleteSecret, o.d.Namespace, delete); err != nil {
			return l.notWritten(ctx, o, &o.mem.tries.Sync, err, false)
		}
	}
	moved := from != o.secret || o.previous != nil
	if moved || from.kind() != secret.Type(o.d) || !secret.InSync(from, o.d) {
		o.stored = ""
		if err := l.writing(ctx, o, func() error { return l.write(ctx, o, content, salt) }); err != nil {
			return l.notWritten(ctx, o, &o.mem.tries.Sync, err, false)
		}
		l.noteRepair(o)
	}
	digest := content.Digest(salt)
	if o.stored != "" && o.stored != digest {
		o.mem.held = l.holdPublished(o, content, salt)
		l.storedDifferently(o)
		return nil
	}
	o.mem.tries.Sync = lease.Failure{}
	return l.recordPublished(ctx, o, digest, true)
}

// noteRepair counts a correction of the Secret. If another one is necessary soon, somebody else writes it too, or the
// API server stores something else than leasekeeper writes.
func (l *Lifecycle) noteRepair(o *observation) {
	o.countRepair(&o.mem.tries.Repair, l.clock.Now())
}

// countRepair counts something that succeeded and had to be done again. The pause before the next time grows.
func (o *observation) countRepair(f *lease.Failure, now time.Time) {
	if f.Count > 0 && lease.LoopOver(f.NotBefore, now) {
		*f = lease.Failure{}
	}
	f.Count++
	f.At, f.NotBefore = now, now.Add(lease.LoopPause(f.Count, o.d.UID))
}

// holdPublished holds what the Secret contains.
func (l *Lifecycle) holdPublished(o *observation, c secret.Content, salt string) *held {
	h := &held{Held: lease.Held{Outcome: lease.OutcomeIssued}, content: c, salt: salt}
	for i := range o.d.Status.Leases {
		h.Records = append(h.Records, lease.HeldRecord{Record: o.d.Status.Leases[i], Settled: true})
	}
	return h
}

// deleteTimeout bounds a request to delete a Secret.
const deleteTimeout = 5 * time.Second

// maxConflicts is how often one reconciliation reads a Secret again that somebody else keeps writing.
const maxConflicts = 3

// deleteSecret deletes the Secret, and one of the previous name if a move was interrupted; both only if they are ours.
func (l *Lifecycle) deleteSecret(ctx context.Context, o *observation, s lease.Step) error {
	if o.unread != nil {
		return l.notDeleted(ctx, o, o.unread.name, o.unread.error)
	}
	all := []*seen{o.secret, o.previous}
	for i := range o.strays {
		all = append(all, &seen{ObjectMeta: o.strays[i]})
	}
	for _, found := range all {
		if found == nil || !secret.Ours(found, o.d) {
			continue
		}
		err := l.deleteQuickly(ctx, found)
		switch {
		case err == nil || apierrors.IsNotFound(err):
		case apierrors.IsConflict(err) && o.conflicts < maxConflicts:
			o.conflicts++
			return err
		default:
			return l.notDeleted(ctx, o, found.Name, err)
		}
	}
	o.secret, o.previous, o.strays, o.mem.secret = nil, nil, nil, nil
	o.mem.tries.DeleteSecret = lease.Failure{}
	if !o.d.DeletionTimestamp.IsZero() {
		o.noteSecret(false)
		return nil // the deletion timestamp is the record
	}
	name := o.d.Status.Secret.Name
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.SecretDeleted(&d.Status) }); err != nil {
		return err
	}
	if s.Reason == v1alpha1.ReasonExpired {
		l.announce.Event(o.d, corev1.EventTypeWarning, v1alpha1.ReasonSecretDeleted,
			"Secret "+name+" was deleted: its credential has expired and no new one could be issued.")
	}
	return nil
}

// deleteQuickly gives up early: revocation comes after it.
func (l *Lifecycle) deleteQuickly(ctx context.Context, s *seen) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	return l.gated(ctx, deleteSecret, s.Namespace, func() error { return l.secrets.Delete(ctx, &s.ObjectMeta) })
}

// notDeleted counts the failure to delete a Secret. Revocation does not wait for it.
func (l *Lifecycle) notDeleted(ctx context.Context, o *observation, name string, err error) error {
	if ctx.Err() != nil {
		return err // the process ends
	}
	block := lease.Block{Reason: v1alpha1.ReasonSecretNotDeleted, Stalled: rejected(err)}
	why := rejection(err, false)
	var busy busyError
	switch {
	case errors.As(err, &busy):
		block.RetryAfter = busy.after
		why = "the API server does not respond to other deletions in this namespace"
	case rejected(err):
		l.announce.Count(string(deleteSecret), string(backend.Refused))
	default:
		l.announce.Count(string(deleteSecret), string(backend.Failed))
	}
	block.Message = "Secret " + name + " could not be deleted: " + why + ". The leases are revoked all the same."
	fail(&o.mem.tries.DeleteSecret, block, l.clock.Now(), o.backoff)
	o.locked = false
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
	put(&o.mem.handled, rec.Source, lease.RequestedRenewal(o.d))
	read := lease.Read{At: response.Term.At}
	if response.Term.Duration > 0 {
		read.Next = response.Term.At.Add(response.Term.Duration)
	} else {
		read.Late = o.mem.reads[rec.Source].Late + 1
	}
	digest := part.Digest(secret.Salt(o.secret))
	if digest == rec.Digest && response.Kind == rec.Kind {
		put(&o.mem.reads, rec.Source, read)
		return nil
	}
	whole := combined(o.d.Status.Leases, rec.Source, digest)
	o.mem.verified = o.secret.ResourceVersion // it contains the last value until it is written
	if err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.BeginRefresh(&d.Status, whole) }); err != nil {
		return err
	}
	if err := l.writing(ctx, o, func() error { return l.writePart(ctx, o, part) }); err != nil {
		if err := undecided(ctx, o, err); err != nil {
			return err
		}
		failKey(&o.mem.tries.Refresh, rec.Source, unwritten(o, err, false), now, o.rejectedPause)
		return apierrors.NewConflict(corev1.Resource("secrets"), o.d.TargetName(), err)
	}
	if o.stored != whole {
		return apierrors.NewConflict(corev1.Resource("secrets"), o.d.TargetName(), errors.New("stored differently"))
	}
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
	l.announce.Event(o.d, corev1.EventTypeNormal, v1alpha1.ReasonRefreshed,
		"Secret "+o.d.TargetName()+" contains the new value of "+rec.Location()+".")
	return nil
}

// rejectedPause is the pause before a value is read again that the API server rejected: a try costs a request to the
// backend and three to the API server.
func (o *observation) rejectedPause(count int) time.Duration {
	return min(lease.LoopPause(count, o.d.UID), 10*time.Minute)
}

// writePart writes the part of a source. A Secret that somebody made immutable is created again.
func (l *Lifecycle) writePart(ctx context.Context, o *observation, part secret.Part) error {
	m, err := l.secrets.Patch(ctx, secret.ReplacePart(o.secret, o.d, part), false)
	if !immutable(err) {
		if err == nil {
			l.wrote(o, m)
		}
		return err
	}
	found, err := l.readSecret(ctx, o.d.Namespace, o.secret.Name)
	if err != nil || found == nil || found.ResourceVersion != o.secret.ResourceVersion {
		return apierrors.NewConflict(corev1.Resource("secrets"), o.secret.Name, err)
	}
	content := secret.ContentOf(found.full)
	at := slices.IndexFunc(content, func(p secret.Part) bool { return p.Source == part.Source })
	if at < 0 {
		content = append(content, part)
	} else {
		content[at] = part
	}
	return l.create(ctx, o, content, secret.Salt(found))
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
	part := selected(o.d, src.Spec, response)
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
