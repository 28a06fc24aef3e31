package lifecycle

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// trustOwnWrite is how long a Secret that this process wrote is assumed to exist before the cache shows it.
const trustOwnWrite = 5 * time.Second

// observation is the known state of an object. It comes from the cache and from this process's own writes. The API
// server is read only if the Secret seems to be changed or missing, or after a conflict.
type observation struct {
	d       *v1alpha1.DynamicSecret
	mem     *remembered
	sources *resolved
	// secret has the name that the spec wants, previous the name in the status if that is another; nil: absent.
	secret, previous *seen
	// strays are Secrets of ours with other names, which interrupted renames have left.
	strays []metav1.ObjectMeta
	// unread is why the Secret of a removal could not be read; nil: it is known.
	unread *unreadError
	// locked: the Secret was seen before the last locked write of the object, or before the last read of it. Only then
	// is it certain that no newer credential is overwritten: publishing one writes the object first.
	locked bool
	// trustedUntil is when the observation stops relying on an own write that the cache lacks; zero: it does not.
	trustedUntil time.Time
	// stored is the digest of the data that the API server stored at the last write; empty: nothing was written.
	stored string
	// conflicts counts how often the deletion of the Secret met another write.
	conflicts int
	in        lease.Input
	// step is what follows from the input.
	step lease.Step
}

// seen is a Secret as it was observed.
type seen struct {
	metav1.ObjectMeta
	// full is the Secret if it was read from the API server; nil: only its metadata are known.
	full *corev1.Secret
}

func (s *seen) kind() corev1.SecretType {
	if s.full != nil {
		return s.full.Type
	}
	return secret.AppliedType(s)
}

func (o *observation) key() types.NamespacedName { return client.ObjectKeyFromObject(o.d) }

// recheckAt is the earlier of at and the end of the trust in an own write.
func (o *observation) recheckAt(at time.Time) time.Time { return earlier(at, o.trustedUntil) }

// observe builds the observation, without a request if that is possible.
func (l *Lifecycle) observe(ctx context.Context, d *v1alpha1.DynamicSecret) (*observation, error) {
	o := &observation{mem: l.memory.of(client.ObjectKeyFromObject(d), d.UID)}
	o.d = l.memory.newest(d)
	o.mem.restore(o.d)
	l.memory.forgetIDs(o.key(), &o.d.Status)
	o.mem.prune(&o.d.Status)
	var err error
	if o.sources, err = l.sources.Resolve(ctx, o.d); err != nil {
		return nil, err
	}
	if err = l.findStrays(ctx, o); err != nil {
		return nil, err
	}
	certain, err := l.seeCached(ctx, o)
	if err != nil {
		return nil, err
	}
	if !certain {
		return o, l.orRemove(ctx, o, l.confirm)
	}
	l.refreshInput(ctx, o)
	return o, nil
}

// findStrays searches the cache once for each generation of the object, and during a rename.
func (l *Lifecycle) findStrays(ctx context.Context, o *observation) error {
	known := o.d.Status.Secret
	renamed := known != nil && known.Name != o.d.TargetName()
	if o.mem.searched == o.d.Generation && !renamed && o.mem.held == nil {
		return nil
	}
	all, err := l.secrets.Owned(ctx, o.d)
	for i := range all {
		m := &all[i]
		current := m.Name == o.d.TargetName() || known != nil && m.Name == known.Name
		if !current && metav1.IsControlledBy(m, o.d) {
			o.strays = append(o.strays, m.ObjectMeta)
		}
	}
	o.mem.searched = 0
	if err == nil && len(o.strays) == 0 && !renamed {
		o.mem.searched = o.d.Generation
	}
	return err
}

// orRemove reads with the function. If the API server does not let leasekeeper read the Secret of an object that is
// being deleted or revoked, that counts as a failure to delete it: revocation does not wait for it.
func (l *Lifecycle) orRemove(
	ctx context.Context, o *observation, read func(context.Context, *observation) error,
) error {
	found, previous := o.secret, o.previous
	err := read(ctx, o)
	var unread unreadError
	if !errors.As(err, &unread) || !o.removing() {
		return err
	}
	o.secret, o.previous, o.unread = found, previous, &unread
	if err := l.notDeleted(ctx, o, unread.name, unread.error); err != nil {
		return err
	}
	l.refreshInput(ctx, o)
	return nil
}

// unreadError: a Secret could not be read.
type unreadError struct {
	error
	name string
}

func (e unreadError) Unwrap() error { return e.error }

// confirm reads the Secret. If it is ours and unchanged, others changed only what leasekeeper does not write, and the
// object needs no read.
func (l *Lifecycle) confirm(ctx context.Context, o *observation) error {
	if err := l.readSecrets(ctx, o); err != nil {
		return err
	}
	unchanged := lease.Published(&o.d.Status) && o.current(o.secret) && secret.InSync(o.secret, o.d)
	if unchanged && o.previous == nil && o.mem.held == nil && o.secret.full.Type == secret.Type(o.d) {
		l.refreshInput(ctx, o)
		return nil
	}
	return l.readObject(ctx, o)
}

// seeCached takes the Secret from the cache. False: it seems to be changed, missing or moved; a read must confirm that.
func (l *Lifecycle) seeCached(ctx context.Context, o *observation) (certain bool, err error) {
	known, name := o.d.Status.Secret, o.d.TargetName()
	if known != nil && known.Name != name || o.mem.held != nil {
		return false, nil
	}
	m, err := l.secrets.Cached(ctx, types.NamespacedName{Namespace: o.d.Namespace, Name: name})
	if err != nil {
		return false, err
	}
	if own := o.mem.secret; own != nil && own.meta.Name == name {
		if !behind(m, own) {
			o.mem.secret = nil
		} else if l.clock.Now().Sub(own.at) > trustOwnWrite {
			return false, nil
		} else {
			o.trustedUntil = own.at.Add(trustOwnWrite + 100*time.Millisecond)
			m = &metav1.PartialObjectMetadata{ObjectMeta: own.meta}
		}
	}
	switch {
	case m == nil && known != nil && !o.d.DeletionTimestamp.IsZero():
		return o.mem.noSecretAnyMore, nil // each try to revoke would read it
	case m == nil && (known == nil || known.UID == "" && o.mem.noSecret):
		return true, nil // there is none, or one of something else, which the dry run finds
	case m == nil || known == nil || known.UID != m.UID:
		return false, nil
	}
	unchanged := m.ResourceVersion == known.ResourceVersion || m.ResourceVersion == o.mem.verified
	o.secret = &seen{ObjectMeta: m.ObjectMeta}
	return unchanged && known.PreviousDigest == "" && secret.InSync(m, o.d), nil
}

// behind says that the cache does not show the own write yet.
func behind(m *metav1.PartialObjectMetadata, own *ownWrite) bool {
	return m == nil || m.UID != own.meta.UID || older(m.ResourceVersion, own.meta.ResourceVersion)
}

// read builds the observation from the API server. It reads the Secret before the object. Publishing writes the object
// first, so if the object still names our leases, the Secret that was read before it cannot be a later one.
func (l *Lifecycle) read(ctx context.Context, o *observation) error {
	if err := l.readSecrets(ctx, o); err != nil {
		return err
	}
	return l.readObject(ctx, o)
}

// readSecrets reads the Secret of the name in the spec, and that of the name in the status.
func (l *Lifecycle) readSecrets(ctx context.Context, o *observation) (err error) {
	o.secret, o.previous, o.unread, o.trustedUntil, o.locked = nil, nil, nil, time.Time{}, false
	name := o.d.TargetName()
	if o.secret, err = l.readSecret(ctx, o.d.Namespace, name); err != nil {
		return err
	}
	if s := o.secret; s != nil && secret.Ours(s, o.d) && !(o.current(s) && secret.InSync(s, o.d)) {
		o.mem.writer = secret.OtherWriter(s, o.d, string(FieldOwner))
	}
	o.noteSecret(o.secret != nil)
	if known := o.d.Status.Secret; known != nil && known.Name != name {
		o.previous, err = l.readSecret(ctx, o.d.Namespace, known.Name)
	}
	return err
}

// noteSecret notes whether the Secret exists.
func (o *observation) noteSecret(exists bool) {
	o.mem.noSecret, o.mem.noSecretAnyMore = !exists, !exists && !o.d.DeletionTimestamp.IsZero()
}

// readObject reads the object, after its Secrets.
func (l *Lifecycle) readObject(ctx context.Context, o *observation) error {
	name := o.d.TargetName()
	previous := name
	if known := o.d.Status.Secret; known != nil {
		previous = known.Name
	}
	fresh, err := l.objects.Get(ctx, o.key())
	if err != nil {
		return err
	}
	o.d = fresh
	l.memory.setLatest(o.key(), fresh)
	known := fresh.Status.Secret
	if fresh.TargetName() != name || known != nil && known.Name != previous && known.Name != name {
		return l.read(ctx, o)
	}
	if o.sources, err = l.sources.Resolve(ctx, fresh); err != nil {
		return err
	}
	o.mem = l.memory.of(o.key(), fresh.UID)
	o.mem.restore(o.d)
	o.locked = true
	l.refreshInput(ctx, o)
	return nil
}

func (l *Lifecycle) readSecret(ctx context.Context, namespace, name string) (*seen, error) {
	s, err := l.secrets.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name})
	// A 404 that the API server did not write comes from something in front of it.
	if apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadError{err, name}
	}
	return &seen{ObjectMeta: s.ObjectMeta, full: s}, nil
}

// refreshInput makes the input of the plan from the observation as it is now, and plans the next step.
func (l *Lifecycle) refreshInput(ctx context.Context, o *observation) {
	o.mem.refresh(o.revision(), o.sources.Recoveries, o.d.Status.Leases)
	o.mem.boundRevocations(&o.d.Status, l.requestLimit, l.clock.Now())
	state, outOfSync := o.targetState()
	o.in = lease.Input{
		Now:            l.clock.Now(),
		Object:         o.d,
		Block:          o.sources.Block,
		Target:         state,
		OutOfSync:      outOfSync,
		Edited:         o.edited(),
		Writer:         o.mem.writer,
		Held:           o.mem.heldForPlan(),
		Lost:           union(o.mem.lost, l.memory.lostOf(o.key())),
		Revoked:        l.memory.lostOf(o.key()),
		Suspects:       l.memory.suspectsOf(o.key()),
		Sharers:        l.sources.Sharers(ctx, o.d),
		Done:           o.mem.done,
		RevokeBy:       o.mem.revokeBy,
		Reads:          o.mem.reads,
		Handled:        o.mem.handled,
		Tries:          o.mem.tries,
		RolloutCheckAt: o.mem.rolloutCheckAt,
		RolloutWindow:  l.rolloutWindow,
		RolloutOff:     l.rollouts == nil,
		RequestLimit:   l.requestLimit,
	}
	for i := range o.sources.Sources {
		s := &o.sources.Sources[i]
		o.in.Requests = append(o.in.Requests, lease.Request{Source: s.Spec.Name, Digest: s.Record.RequestDigest,
			Changed: changedFields(o.d.Status.Leases, s)})
	}
	var err error
	if o.in.Windows, err = lease.ParseWindows(o.d.Spec.Rotation.Windows); err != nil {
		o.in.Invalid = &lease.Block{Reason: v1alpha1.ReasonInvalidWindow, Message: err.Error(), Stalled: true}
	}
	o.step = lease.Plan(o.in)
}

// changedFields are the fields of the spec in which a source differs from what was issued for it; nil: none, or nothing
// was issued.
func changedFields(issued []v1alpha1.LeaseRecord, s *source) (fields []string) {
	i := slices.IndexFunc(issued, func(rec v1alpha1.LeaseRecord) bool { return rec.Source == s.Spec.Name })
	if i < 0 && len(issued) > 0 {
		return []string{"spec.sources"}
	}
	if i < 0 || s.Record.RequestDigest == "" || issued[i].RequestDigest == s.Record.RequestDigest {
		return nil
	}
	was, is, at := &issued[i], &s.Record, "spec."
	if s.Spec.Name != "" {
		at = "spec.sources[" + s.Spec.Name + "]."
	}
	if was.Provider.Kind != is.Provider.Kind || was.Provider.Name != is.Provider.Name {
		fields = append(fields, at+"providerRef")
	}
	if a, b := was.Vault, is.Vault; a != nil && b != nil {
		for field, differs := range map[string]bool{"address of the provider": a.Address != b.Address,
			at + "vault.namespace": a.Namespace != b.Namespace, at + "vault.path": a.Path != b.Path} {
			if differs {
				fields = append(fields, field)
			}
		}
	}
	if len(fields) == 0 {
		fields = []string{at + "vault.method or parameters, spec.serviceAccountName, target.type, or selected fields"}
	}
	slices.Sort(fields)
	return fields
}

func union(sets ...map[string]bool) map[string]bool {
	all := map[string]bool{}
	for _, set := range sets {
		for id := range set {
			all[id] = true
		}
	}
	return all
}

// targetState classifies the Secret. Metadata from the cache that passed seeCached belong to an unchanged Secret.
func (o *observation) targetState() (state lease.TargetState, outOfSync bool) {
	d, known := o.d, o.d.Status.Secret
	leftBehind := o.previous != nil && secret.Ours(o.previous, d) || len(o.strays) > 0
	switch {
	case o.secret != nil && !secret.Ours(o.secret, d):
		if leftBehind && !d.DeletionTimestamp.IsZero() {
			return lease.TargetChanged, false // ours is still to be deleted
		}
		return lease.TargetForeign, false
	case o.current(o.secret):
		noted := lease.Published(&d.Status) && known.UID == o.secret.UID && known.Name == o.secret.Name
		outOfSync := !noted || o.secret.kind() != secret.Type(d) || !secret.InSync(o.secret, d) || len(o.strays) > 0
		return lease.TargetCurrent, outOfSync
	case o.current(o.previous):
		return lease.TargetCurrent, true
	case o.secret != nil || leftBehind:
		return lease.TargetChanged, false
	case o.unread != nil && known != nil:
		return lease.TargetChanged, false
	}
	return lease.TargetAbsent, false
}

// current says that a Secret of ours contains what the status says, or what it contained before a refresh that was not
// completed.
func (o *observation) current(s *seen) bool {
	known := o.d.Status.Secret
	if s == nil || known == nil || known.Digest == "" || !secret.Ours(s, o.d) {
		return false
	}
	if s.full == nil {
		return s.UID == known.UID && (s.ResourceVersion == known.ResourceVersion || s.ResourceVersion == o.mem.verified)
	}
	digest := secret.DigestOf(s.full)
	if digest != known.Digest && (known.PreviousDigest == "" || digest != known.PreviousDigest) {
		return false
	}
	if lease.Published(&o.d.Status) && known.UID == s.UID {
		o.mem.verified = s.ResourceVersion
	}
	return true
}

// edited says that the Secret was read, and contains neither what the status says nor the responses that the leases
// replace.
func (o *observation) edited() bool {
	var replaced []secret.PartDigest
	for _, rec := range o.d.Status.Retiring {
		if rec.Reason == v1alpha1.ReasonReplacing {
			replaced = append(replaced, secret.PartDigest{Source: rec.Source, Digest: rec.Digest})
		}
	}
	read := false
	for _, s := range []*seen{o.secret, o.previous} {
		if s == nil || s.full == nil {
			continue
		}
		if read = true; o.current(s) || secret.DigestOf(s.full) == secret.Combine(replaced) {
			return false
		}
	}
	return read
}

// mayAct says whether the step may be executed on this observation. A step that overwrites or deletes a Secret needs
// one that was seen before the object was known to be current.
func (l *Lifecycle) mayAct(o *observation, s lease.Step) bool {
	switch s.Action {
	case lease.Issue:
		return o.trustedUntil.IsZero() // the Secret may be another one by now
	case lease.PublishSecret:
		return o.locked
	case lease.SyncSecret:
		complete := func(s *seen) bool { return s == nil || s.full != nil }
		return o.locked && complete(o.secret) && complete(o.previous)
	case lease.DeleteSecret:
		return o.locked || !o.d.DeletionTimestamp.IsZero()
	}
	return true
}
