package lifecycle

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// issue checks what can be checked, logs in, journals, and asks. What comes back is held in memory, for the next step to
// record; what did not come back is left to the journal.
func (l *Lifecycle) issue(ctx context.Context, o *observation, s lease.Step) error {
	if err := l.rehearse(ctx, o); err != nil {
		return l.targetRejected(o, &o.mem.tries.Issue, err, true)
	}
	session, err := o.source.Backend.Login(ctx, o.source.Identity)
	if err != nil {
		l.issueFailed(o, err)
		return nil
	}
	o.mem.held = &held{Held: lease.Held{Accessor: session.Handle}, cause: s.Reason}
	if err := l.journal(ctx, o, session); err != nil {
		return IgnoreConflict(err)
	}
	if l.clock.Now().Sub(o.d.Status.Attempt.StartedAt.Time) > l.sendWithin {
		o.mem.held.Outcome = lease.OutcomeRefused
		return nil
	}
	// A shutdown waits for the answer: without it the token could only be ended after the request limit.
	answer, err := o.source.Backend.Issue(context.WithoutCancel(ctx), session, o.source.Request)
	l.answered(o, answer, err)
	return nil
}

// rehearse asks the API server whether it would take the Secret, so that no credential is minted for one that it would
// not.
func (l *Lifecycle) rehearse(ctx context.Context, o *observation) error {
	if o.secret == nil || o.secret.Type != secret.Type(o.d) {
		s := secret.New(o.d, secret.Placeholder(secret.Type(o.d)), "")
		if o.secret != nil {
			// The type of a Secret cannot be changed in place; it will be made anew. Rehearse under a free name.
			s.Name, s.GenerateName = "", "leasekeeper-"
		}
		return l.secrets.Create(ctx, s, true)
	}
	s := o.secret.DeepCopy()
	secret.Update(s, o.d, secret.Placeholder(s.Type), "")
	return l.secrets.Update(ctx, s, true)
}

// targetRejected tells an API server that does not take the Secret from one that cannot be asked.
func (l *Lifecycle) targetRejected(o *observation, f *lease.Failure, err error, placeholders bool) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil // seen anew by the next observation
	}
	if !rejected(err) {
		return err
	}
	fail(f, lease.Block{
		Reason:  v1alpha1.ReasonTargetRejected,
		Message: "The API server does not take Secret " + o.d.TargetName() + ": " + reasonOf(err, placeholders),
		Stalled: true,
	}, l.clock.Now(), o.backoff)
	return nil
}

// rejected: the API server looked at the Secret and said no.
func rejected(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsMethodNotSupported(err)
}

// reasonOf is what an API error says, but for values that it may quote. The words of an admission policy's author are
// shown only where the Secret held placeholders.
func reasonOf(err error, placeholders bool) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || !rejected(err) {
		return err.Error()
	}
	if placeholders && !apierrors.IsInvalid(err) {
		return err.Error()
	}
	message := string(status.Status().Reason)
	for _, c := range status.Status().Details.Causes {
		switch {
		case c.Field != "":
			message += "; " + c.Field + ": " + string(c.Type)
		case placeholders:
			message += "; " + c.Message
		}
	}
	return message
}

// journal writes the attempt. When that fails the token was not used, so it is ended at once.
func (l *Lifecycle) journal(ctx context.Context, o *observation, session backend.Session) error {
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.Journal(&d.Status, o.source.Where, session.Handle, session.Term, l.clock.Now())
	})
	if err == nil {
		return nil
	}
	o.mem.held = nil
	rec := o.source.Where
	rec.TokenAccessor = session.Handle
	if endErr := o.source.Backend.Revoke(context.WithoutCancel(ctx), rec, owner(o.d)); endErr != nil {
		log.FromContext(ctx).Info("an unused token could not be ended; it expires by itself", "accessor", session.Handle, "error", endErr.Error())
	}
	return err
}

// answered sorts what came back.
func (l *Lifecycle) answered(o *observation, answer backend.Response, err error) {
	if err == nil {
		err = usable(o.d, answer)
	}
	h := o.mem.held
	h.rec, h.answer = *o.d.Status.Attempt, answer
	h.rec.ID = answer.LeaseID
	switch {
	case err == nil:
		h.Outcome = lease.OutcomeIssued
		o.mem.tries.Issue = lease.Failure{}
		l.announce.Count("issue", "success")
	case backend.KindOf(err) == backend.NoResponse:
		h.Outcome = lease.OutcomeUnanswered
		l.issueFailed(o, err)
	default:
		h.Outcome = lease.OutcomeRefused
		l.issueFailed(o, err)
	}
}

// usable says whether the answer can become the Secret.
func usable(d *v1alpha1.DynamicSecret, a backend.Response) error {
	if a.LeaseID != "" && a.Term.Duration <= 0 {
		return backend.Errorf(backend.InvalidResponse, "%s was answered with a lease of no duration: give its role a TTL", d.Spec.Vault.Path)
	}
	if err := secret.Check(secret.Type(d), a.Data); err != nil {
		return backend.Errorf(backend.InvalidResponse, "%s: %v", d.Spec.Vault.Path, err)
	}
	return nil
}

func (l *Lifecycle) issueFailed(o *observation, err error) {
	fail(&o.mem.tries.Issue, backend.BlockFor(err), l.clock.Now(), o.backoff)
	l.announce.Count("issue", string(backend.KindOf(err)))
}

// record makes the held answer the lease.
func (l *Lifecycle) record(ctx context.Context, o *observation) error {
	h := o.mem.held
	if h.salt == "" {
		h.salt = secret.NewSalt()
		if s := o.carrier(); s != nil && s.Annotations[v1alpha1.DigestSaltAnnotation] != "" {
			h.salt = s.Annotations[v1alpha1.DigestSaltAnnotation]
		}
	}
	digest := secret.Digest(h.answer.Data, h.salt)
	err := l.commit(context.WithoutCancel(ctx), o, func(d *v1alpha1.DynamicSecret) {
		lease.Record(d, h.answer.LeaseID, h.answer.Term, digest, l.clock.Now())
	})
	if err != nil {
		return IgnoreConflict(err)
	}
	o.mem.lostID = ""
	return nil
}

// carrier is the Secret of ours that was read; nil: none.
func (o *observation) carrier() *corev1.Secret {
	for _, s := range []*corev1.Secret{o.secret, o.recorded} {
		if s != nil && ours(o.d, s) {
			return s
		}
	}
	return nil
}

func (l *Lifecycle) dropAttempt(ctx context.Context, o *observation, s lease.Step) error {
	id := ""
	if h := o.mem.held; h != nil && h.Accessor == o.d.Status.Attempt.TokenAccessor {
		id = h.answer.LeaseID
	}
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.RetireAttempt(&d.Status, id, s.EndAfter, s.Reason)
	})
	if err == nil {
		o.mem.held = nil
	}
	return IgnoreConflict(err)
}

// resolveHeld: the answer is here, the attempt is not.
func (l *Lifecycle) resolveHeld(ctx context.Context, o *observation) error {
	h := o.mem.held
	for i := range o.d.Status.Retiring {
		rec := &o.d.Status.Retiring[i]
		if rec.TokenAccessor != h.Accessor {
			continue
		}
		if rec.ID != h.answer.LeaseID || rec.EndAfter.After(l.clock.Now()) {
			err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
				lease.Resolve(&d.Status, h.Accessor, h.answer.LeaseID, l.clock.Now())
			})
			if err != nil {
				return IgnoreConflict(err)
			}
		}
		o.mem.held = nil
		return nil
	}
	if err := l.endHeld(ctx, o.d, h); err != nil {
		fail(&o.mem.tries.Settle, backend.BlockFor(err), l.clock.Now(), o.backoff)
		return nil
	}
	o.mem.held = nil
	return nil
}

// endHeld ends a credential that only this process knows of.
func (l *Lifecycle) endHeld(ctx context.Context, d *v1alpha1.DynamicSecret, h *held) error {
	server, err := l.sources.BackendFor(ctx, d, &h.rec)
	if err != nil {
		return err
	}
	return server.Revoke(context.WithoutCancel(ctx), h.rec, owner(d))
}

// IgnoreConflict: somebody else has written; the next observation sees what.
func IgnoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}
