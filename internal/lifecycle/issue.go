package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// issue checks what can be checked, logs in once for each source, journals, and requests the credentials. It keeps the
// responses in memory for the next step to record; the journal covers a response that never arrives.
func (l *Lifecycle) issue(ctx context.Context, o *observation, s lease.Step) error {
	if err := l.testJournal(ctx, o); err != nil {
		return err
	}
	places, err := l.admit(o)
	if backend.KindOf(err) == backend.Busy {
		return busyError{recheckBusy} // it is woken when there is a place
	}
	if err != nil {
		l.issueFailed(o, err)
		return nil
	}
	defer places.leave()
	if err := o.checkKnownKeys(l.clock.Now()); err != nil {
		l.issueFailed(o, err)
		return nil
	}
	var untested bool
	err = l.writing(ctx, o, func() (err error) {
		untested, err = l.rehearse(ctx, o)
		return err
	})
	if err != nil {
		return l.notWritten(ctx, o, &o.mem.tries.Issue, err, true)
	}
	inputs, err := inputsOf(ctx, o)
	if err != nil {
		l.issueFailed(o, err)
		return nil
	}
	h := &held{cause: s.Reason, untested: untested}
	for i := range o.sources.Sources {
		src := &o.sources.Sources[i]
		session, err := src.Backend.Login(ctx, src.Identity)
		session.Inputs = inputs[i]
		if err != nil {
			places.note(src, shownByLogin(err))
			l.closeUnused(ctx, o, h)
			l.issueFailed(o, err)
			return nil
		}
		rec := *src.Record.DeepCopy()
		lease.SetSession(&rec, session.Handle, session.Term)
		h.Records = append(h.Records, lease.HeldRecord{Record: rec, Settled: true})
		h.sessions = append(h.sessions, session)
	}
	if err := l.journal(ctx, o, h); err != nil {
		l.closeUnused(ctx, o, h)
		if errors.Is(err, errPruned) {
			l.issueFailed(o, backend.Errorf(backend.Misconfigured, "%v", err))
			return nil
		}
		return err
	}
	o.mem.held = h
	h.Outcome = lease.OutcomeFailed
	paused := l.clock.Now().Sub(o.d.Status.Attempt.Records[0].StartedAt.Time) > l.sendWithin
	if paused || ctx.Err() != nil {
		return nil // nothing is sent late, or during a shutdown
	}
	l.request(ctx, o, h, places)
	return nil
}

// shownByLogin is what a failed login shows about the path. If it hangs, or the server or the API server fails, the
// others of the path need not try meanwhile: each would keep a place until its time-out. A refusal concerns the
// identity.
func shownByLogin(err error) error {
	switch backend.KindOf(err) {
	case backend.NoResponse, backend.Unavailable, backend.QuotaExceeded:
		return err
	case backend.Failed: // it does not show that the path responds
		return backend.Errorf(backend.NoResponse, "%s", err)
	}
	return backend.ErrNotSent
}

// inputsOf obtains what the requests need besides their sources.
func inputsOf(ctx context.Context, o *observation) ([]any, error) {
	var all []any
	for i := range o.sources.Sources {
		src := &o.sources.Sources[i]
		inputs, err := backend.Prepare(ctx, src.Backend, src.Identity, src.Spec)
		if err != nil {
			return nil, err
		}
		all = append(all, inputs)
	}
	return all, nil
}

// places are reserved for the requests of an object, one for each path.
type places map[string]*place

type place struct {
	done   func(error)
	result error
}

// note the result of a request. A path of which nothing was requested has none.
func (p places) note(src *source, result error) { p[pathOf(src)].result = result }

// leave returns the places, each with the result of its own path: a path that hangs says nothing about the others.
func (p places) leave() {
	for _, place := range p {
		place.done(place.result)
	}
}

// pathOf identifies the path of a source among all providers.
func pathOf(src *source) string {
	return src.Record.Provider.Kind + "/" + src.Record.Provider.Name + "|" + src.Record.Location()
}

// admit reserves a place for the requests of all sources.
func (l *Lifecycle) admit(o *observation) (places, error) {
	all := places{}
	key := o.key()
	who := backend.Waiter{Key: key.String(), Wake: func() { l.wake(key) }}
	for i := range o.sources.Sources {
		src := &o.sources.Sources[i]
		if all[pathOf(src)] != nil {
			continue
		}
		done, err := backend.Admit(src.Backend, src.Record.Location(), len(all) == 0, who)
		if err != nil {
			all.leave()
			return nil, err
		}
		all[pathOf(src)] = &place{done, backend.ErrNotSent}
	}
	return all, nil
}

// wake continues with an object that waits for a place. If nobody listens, it continues after recheckBusy.
func (l *Lifecycle) wake(key types.NamespacedName) {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case l.woken <- event.GenericEvent{Object: d}:
	default:
	}
}

// journal writes the attempt.
func (l *Lifecycle) journal(ctx context.Context, o *observation, h *held) error {
	var records []v1alpha1.LeaseRecord
	for i := range h.Records {
		records = append(records, h.Records[i].Record)
	}
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) { lease.Journal(&d.Status, records, l.clock.Now()) })
	if err != nil {
		return err
	}
	if !sameHandles(o.d.Status.Attempt, records) {
		return errPruned
	}
	for i := range h.Records {
		o.d.Status.Attempt.Records[i].DeepCopyInto(&h.Records[i].Record)
	}
	return nil
}

// errPruned: the API server did not store the journal, so nothing may be minted.
var errPruned = errors.New("the installed CRDs drop fields of the ledger: " +
	"install the CRDs of this version of leasekeeper")

func sameHandles(stored *v1alpha1.IssuanceAttempt, records []v1alpha1.LeaseRecord) bool {
	return stored != nil && slices.EqualFunc(stored.Records, records, func(a, b v1alpha1.LeaseRecord) bool {
		return a.Source == b.Source && a.Handle() == b.Handle()
	})
}

// closeUnused revokes the sessions of an issuance that was not journaled. Nothing was requested with them.
func (l *Lifecycle) closeUnused(ctx context.Context, o *observation, h *held) {
	for i := range h.Records {
		rec := h.Records[i].Record
		err := o.sources.Sources[i].Backend.Revoke(context.WithoutCancel(ctx), rec, holder(o.d))
		if err != nil {
			log.FromContext(ctx).Info("an unused session could not be revoked; it expires by itself",
				"handle", rec.Handle(), "error", err.Error())
		}
	}
}

// request sends the requests of all sources, until one fails. The source that failed last goes first, so that nothing
// is minted while it still fails. A shutdown waits for the responses: without them the sessions could only be revoked
// after the request limit.
func (l *Lifecycle) request(ctx context.Context, o *observation, h *held, places places) {
	salt := secret.NewSalt()
	if m := o.carrier(); m != nil && secret.Salt(m) != "" {
		salt = secret.Salt(m)
	}
	h.salt = salt
	known := &lastResponse{fields: map[string]fieldNames{}, generation: o.d.Generation, at: l.clock.Now()}
	content := make(secret.Content, len(h.Records))
	for _, i := range o.requestOrder() {
		src, rec := &o.sources.Sources[i], &h.Records[i]
		if err := l.journalAgain(ctx, o, h); err != nil {
			l.issueFailed(o, backend.Errorf(backend.Failed,
				"the other responses took long, and the ledger could not be written: %v", err))
			return
		}
		rec.Settled = false
		response, err := src.Backend.Issue(context.WithoutCancel(ctx), h.sessions[i], src.Spec)
		if err == nil && response.LeaseID != "" && response.Term.Duration <= 0 {
			err = backend.Errorf(backend.InvalidResponse,
				"%s returned a lease without a duration: set a TTL on its role", rec.Record.Location())
			rec.Record.ID, rec.Record.Kind = response.LeaseID, response.Kind
		}
		rec.Settled = err == nil || backend.KindOf(err) != backend.NoResponse
		places.note(src, err)
		if err != nil {
			o.mem.failedSource = src.Spec.Name
			h.note(err)
			l.issueFailed(o, err)
			return
		}
		known.fields[responseKey(src)] = namesOf(response)
		part := selected(o.d, src.Spec, response)
		respond(&rec.Record, response, part.Digest(salt))
		if lease.Leased(&rec.Record) && !response.ForeignUser {
			rec.Record.UserDigest = secret.UserDigest(response.Data, rec.Record.UserScope())
		}
		content[i] = part
	}
	h.content = content
	o.mem.response, o.mem.failedSource = known, ""
	if err := usable(o.d, h.content); err != nil {
		h.note(err)
		l.issueFailed(o, err)
		return
	}
	h.Outcome = lease.OutcomeIssued
	o.mem.tries.Issue = lease.Failure{}
	l.announce.Count("issue", "success")
}

// journalAgain postpones the revocation of an attempt whose first responses took long: the request limit of the next
// request starts now.
func (l *Lifecycle) journalAgain(ctx context.Context, o *observation, h *held) error {
	if l.clock.Now().Sub(o.d.Status.Attempt.Records[0].StartedAt.Time) <= l.sendWithin {
		return nil
	}
	return l.journal(ctx, o, h)
}

// selected makes the part of a source from its response.
func selected(d *v1alpha1.DynamicSecret, src v1alpha1.SecretSource, r backend.Response) secret.Part {
	data := r.Data
	if form := r.Forms[secret.Type(d)]; len(form) > 0 {
		data = maps.Clone(form)
		maps.Copy(data, r.Data) // a field of that name is what the backend returned
	}
	return secret.Select(src.Fields, d.Spec.Target.Fields, src.Name, data, r.Volatile)
}

// fieldNames are the names of the fields of a response, and those that a type of Secret adds.
type fieldNames struct {
	all   []string
	forms map[corev1.SecretType][]string
}

func namesOf(r backend.Response) fieldNames {
	names := fieldNames{slices.Sorted(maps.Keys(r.Data)), map[corev1.SecretType][]string{}}
	for kind, form := range r.Forms {
		names.forms[kind] = slices.Sorted(maps.Keys(form))
	}
	return names
}

// requestOrder has the indexes of the sources in the order of their requests.
func (o *observation) requestOrder() []int {
	first := slices.IndexFunc(o.sources.Sources, func(s source) bool { return s.Spec.Name == o.mem.failedSource })
	var order []int
	if first >= 0 {
		order = append(order, first)
	}
	for i := range o.sources.Sources {
		if i != first {
			order = append(order, i)
		}
	}
	return order
}

// note says whether the error makes the attempt one that minted without use: a response cannot become the Secret, or
// one source has minted and another one fails until a person changes something. An outage is not counted.
func (h *held) note(err error) {
	b := backend.BlockFor(err)
	minted := slices.ContainsFunc(h.Records, func(r lease.HeldRecord) bool {
		return lease.Leased(&r.Record) || r.Record.Kind == v1alpha1.ResponseExpiring
	})
	if backend.KindOf(err) == backend.InvalidResponse || b.Stalled && minted {
		h.unusable = b.Reason
	}
}

// respond records a response.
func respond(rec *v1alpha1.LeaseRecord, r backend.Response, digest string) {
	lease.Respond(rec, r.Kind, r.LeaseID, r.Term)
	rec.Digest, rec.Revocable, rec.ExpiryUnknown, rec.Once = digest, r.Revocable, r.UnknownExpiry, r.Once
	if r.Identify != nil {
		r.Identify(rec)
	}
}

// usable says whether the content can become the Secret.
func usable(d *v1alpha1.DynamicSecret, c secret.Content) error {
	if err := c.Collision(); err != nil {
		return backend.Errorf(backend.InvalidResponse, "%v", err)
	}
	if err := secret.Check(secret.Type(d), c.Data()); err != nil {
		return backend.Errorf(backend.InvalidResponse, "%s: %v", locations(d), err)
	}
	return nil
}

// locations names what the spec requests.
func locations(d *v1alpha1.DynamicSecret) string {
	all := d.AllSources()
	if len(all) == 1 && all[0].Location() != "" {
		return all[0].Location()
	}
	return fmt.Sprintf("%d sources", len(all))
}

func (l *Lifecycle) issueFailed(o *observation, err error) {
	fail(&o.mem.tries.Issue, backend.BlockFor(err), l.clock.Now(), o.backoff)
	l.announce.Count("issue", string(backend.KindOf(err)))
}

// notWritten notes why the API server does not store the Secret. If something else has written, the next observation
// decides.
func (l *Lifecycle) notWritten(
	ctx context.Context, o *observation, f *lease.Failure, err error, placeholders bool,
) error {
	if err := undecided(ctx, o, err); err != nil {
		return err
	}
	fail(f, unwritten(o, err, placeholders), l.clock.Now(), o.backoff)
	return nil
}

// undecided returns the error if it shows nothing about the Secret: something else has written or deleted it, nothing
// was sent, or the process ends. nil: it shows something.
func undecided(ctx context.Context, o *observation, err error) error {
	var busy busyError
	switch {
	case apierrors.IsNotFound(err):
		return apierrors.NewConflict(corev1.Resource("secrets"), o.d.TargetName(), err)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), errors.As(err, &busy), ctx.Err() != nil:
		return err
	}
	return nil
}

// unwritten tells an API server that rejects the Secret from one that could not decide: an admission webhook is down,
// for example.
func unwritten(o *observation, err error, placeholders bool) lease.Block {
	name, why := o.d.TargetName(), rejection(err, placeholders)
	if rejected(err) {
		return lease.Block{Reason: v1alpha1.ReasonTargetRejected, Stalled: true,
			Message: "The API server rejects Secret " + name + ": " + why}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		why = "the API server did not respond in time. Check whether an admission webhook for Secrets responds"
	}
	return lease.Block{Reason: v1alpha1.ReasonPublishFailed,
		Message: "Secret " + name + " could not be written: " + why}
}

// rejected says that the API server inspected the Secret and refused it.
func rejected(err error) bool {
	malformed := apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err)
	return malformed || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err)
}

// admission finds the name of the policy or webhook that denied a request.
var admission = regexp.MustCompile(
	`(ValidatingAdmissionPolicy|MutatingAdmissionPolicy|admission webhook) ['"]([a-z0-9.-]{1,253})['"]`)

// rejection is the text of an API error without values that it may quote. The text of an admission policy is shown only
// if the Secret contained placeholders.
func rejection(err error, placeholders bool) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || !rejected(err) {
		return err.Error()
	}
	if placeholders && !apierrors.IsInvalid(err) {
		return err.Error()
	}
	if immutable(err) {
		return "somebody made it immutable"
	}
	message := string(status.Status().Reason)
	if by := admission.FindStringSubmatch(err.Error()); by != nil && !placeholders {
		message += "; " + by[1] + " " + by[2] + " denies it"
	}
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

// record turns the held responses into the leases.
func (l *Lifecycle) record(ctx context.Context, o *observation) error {
	h := o.mem.held
	var records []v1alpha1.LeaseRecord
	for i := range h.Records {
		records = append(records, h.Records[i].Record)
	}
	digest := h.content.Digest(h.salt)
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.Record(d, records, h.cause, digest, l.clock.Now())
		if !anyRenewable(records) {
			lease.RenewalHandled(d)
		}
	})
	if err == nil {
		clear(o.mem.reads)
		clear(o.mem.handled)
	}
	return err
}

// anyRenewable says whether a requested renewal has something to renew.
func anyRenewable(records []v1alpha1.LeaseRecord) bool {
	for i := range records {
		if lease.Leased(&records[i]) {
			return true
		}
	}
	return false
}

// carrier is the Secret of ours that was seen; nil: none.
func (o *observation) carrier() metav1.Object {
	for _, s := range []*seen{o.secret, o.previous} {
		if s != nil && secret.Ours(s, o.d) {
			return s
		}
	}
	return nil
}

func (l *Lifecycle) dropAttempt(ctx context.Context, o *observation, s lease.Step) error {
	err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
		lease.RetireAttempt(&d.Status, o.mem.heldForPlan(), s.Reason, l.requestLimit, l.clock.Now())
		if h := o.mem.held; h != nil && h.unusable != "" {
			lease.CountUnusable(d, h.cause, h.unusable, l.clock.Now())
		}
	})
	if err == nil {
		o.mem.held = nil
	}
	return err
}

// resolveHeld: the responses are here, the attempt is not.
func (l *Lifecycle) resolveHeld(ctx context.Context, o *observation) error {
	h := o.mem.held
	var recorded []v1alpha1.LeaseRecord
	for i := range o.d.Status.Retiring {
		for j := range h.Records {
			if h.Records[j].Record.Handle() == o.d.Status.Retiring[i].Handle() {
				recorded = append(recorded, h.Records[j].Record)
			}
		}
	}
	if len(recorded) > 0 {
		err := l.commit(ctx, o, func(d *v1alpha1.DynamicSecret) {
			for i := range recorded {
				lease.Resolve(&d.Status, &recorded[i], l.clock.Now())
			}
		})
		if err != nil {
			return err
		}
	}
	if len(recorded) < len(h.Records) {
		if err := l.revokeHeld(ctx, o.d, h); err != nil {
			fail(&o.mem.tries.Settle, backend.BlockFor(err), l.clock.Now(), o.backoff)
			return nil
		}
	}
	o.mem.held = nil
	return nil
}

// replacedMessage says what the Secret contains now, and why.
func replacedMessage(d *v1alpha1.DynamicSecret, cause string) string {
	message := "Secret " + d.TargetName() + " contains a new response of " + locations(d)
	if leases := d.Status.Leases; len(leases) == 1 && lease.Leased(&leases[0]) {
		message = "Secret " + d.TargetName() + " contains a new credential, lease " + leases[0].ID
	}
	return message + " (" + cause + ")."
}
