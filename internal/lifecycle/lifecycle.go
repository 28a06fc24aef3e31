package lifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// maxSteps bounds what one reconciliation does before it lets others have the worker.
const maxSteps = 32

// ReasonEndFailed is the reason of the event that tells of a lease which could not be ended yet. No condition has it: the
// Secret is as it should be.
const ReasonEndFailed = "EndFailed"

// Lifecycle carries out what lease.Plan decides: observe, plan, execute one step, write the status once, again.
type Lifecycle struct {
	clock    clock.PassiveClock
	cache    client.Reader
	objects  objects
	secrets  secrets
	sources  sources
	announce Announcer
	memory   *memory
	// requestLimit is how long a backend may go on with a request that nobody waits for.
	requestLimit time.Duration
	// sendWithin is how soon after the journal an issue must have been sent. A process that was asleep for longer
	// does not send it: others count on it being over by the request limit.
	sendWithin time.Duration
	// rollouts moves the consumers; nil: leasekeeper was installed without the right to.
	rollouts rollouts
	// rolloutWindow is how long a roll-out may wait for the other Secrets of its workloads.
	rolloutWindow time.Duration
	// sealKey seals records; empty: none is sealed.
	sealKey []byte
}

// Config is what a Lifecycle needs.
type Config struct {
	// Clock of the operator.
	Clock clock.PassiveClock
	// Cache and Writer are the manager's client; Reader reads from the API server.
	Cache, Writer client.Client
	Reader        client.Reader
	// Backends finds the backend of a provider.
	Backends BackendFunc
	// Recoveries counts how often a provider's backend became available again.
	Recoveries func(p v1alpha1.Provider) int64
	// RequestLimit is how long a backend may continue with a request that nobody waits for: at least one and a half
	// times Vault's max_request_duration.
	RequestLimit time.Duration
	// SealKey seals ledger records; empty: none is sealed.
	SealKey []byte
	// Rollout lets workloads be rolled out; RolloutWindow is how long that may wait for their other Secrets.
	Rollout       bool
	RolloutWindow time.Duration
	// Announce reports what happened.
	Announce Announcer
}

// New makes a Lifecycle for the manager.
func New(c Config) *Lifecycle {
	l := &Lifecycle{
		clock:         c.Clock,
		cache:         c.Cache,
		objects:       apiObjects{reader: c.Reader, writer: c.Writer},
		secrets:       apiSecrets{reader: c.Reader, writer: c.Writer},
		sources:       &providerSources{cache: c.Cache, backends: c.Backends, recoveries: c.Recoveries, requestLimit: c.RequestLimit, sealKey: c.SealKey},
		announce:      c.Announce,
		memory:        newMemory(),
		requestLimit:  c.RequestLimit,
		sendWithin:    c.RequestLimit / 8,
		sealKey:       c.SealKey,
		rolloutWindow: c.RolloutWindow,
	}
	if c.Rollout {
		l.rollouts = apiRollouts{&rollout.Rollouts{Reader: c.Reader, Writer: c.Writer}, c.Cache}
	}
	return l
}

// observation is what one look has seen.
type observation struct {
	d      *v1alpha1.DynamicSecret
	mem    *remembered
	source *source
	// secret of the wanted name, and of the recorded name where that is another; nil: absent.
	secret, recorded *corev1.Secret
	// glanced: it was made from the cache, which has the Secret as the status says, and not its data.
	glanced bool
	// writtenAt is when the last step has written the object; zero: it has not.
	writtenAt time.Time
	in        lease.Input
}

// run takes steps until there is nothing to do but wait, and returns when to come back (zero: when something changes).
// d is brought up to date.
func (l *Lifecycle) run(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	var o *observation
	for range maxSteps {
		if o == nil || !l.asGoodAsRead(o) {
			var err error
			if o, err = l.observe(ctx, d); err != nil {
				return time.Time{}, err
			}
		}
		step := lease.Plan(o.in)
		if step.Action == lease.Wait {
			err := l.rest(ctx, o, step)
			o.d.DeepCopyInto(d)
			return step.At, err
		}
		log.FromContext(ctx).Info("step", "action", step.Action, "reason", step.Reason)
		o.writtenAt = time.Time{}
		if err := l.execute(ctx, o, step); err != nil {
			return time.Time{}, err
		}
		if step.Action == lease.RemoveFinalizer {
			return time.Time{}, nil
		}
		o.d.DeepCopyInto(d)
	}
	return l.clock.Now().Add(time.Second), nil
}

// freshFor is how long a written object is taken for what a read would give.
const freshFor = time.Second

// asGoodAsRead says whether the last step has just written the object, so that there is nothing newer to read: a locked write
// that was taken tells as much as a read, and the Secret was read before it, or written by us. After a pause nothing is known.
func (l *Lifecycle) asGoodAsRead(o *observation) bool {
	since := l.clock.Now().Sub(o.writtenAt)
	if o.writtenAt.IsZero() || since < 0 || since > freshFor {
		return false
	}
	l.refreshInput(o)
	return true
}

// keep takes one step that keeps a lease alive, from a glance. It is done when nothing is left to do but wait.
func (l *Lifecycle) keep(ctx context.Context, o *observation, step lease.Step) (at time.Time, done bool, err error) {
	log.FromContext(ctx).Info("step", "action", step.Action, "reason", step.Reason)
	if err := l.execute(ctx, o, step); err != nil {
		return time.Time{}, false, err
	}
	l.refreshInput(o)
	next := lease.Plan(o.in)
	if next.Action != lease.Wait {
		return time.Time{}, false, nil
	}
	return next.At, true, l.rest(ctx, o, next)
}

// observe reads everything anew. The Secret is read before the object: whoever publishes has written the object first,
// so a Secret that was read earlier than an object which still names our lease cannot be a later one's, and an update
// that is locked to it cannot overwrite a later one's.
func (l *Lifecycle) observe(ctx context.Context, d *v1alpha1.DynamicSecret) (*observation, error) {
	o := &observation{}
	var err error
	name := d.TargetName()
	if o.secret, err = l.read(ctx, d.Namespace, name); err != nil {
		return nil, err
	}
	recorded := name
	if d.Status.Secret != nil && d.Status.Secret.Name != name {
		recorded = d.Status.Secret.Name
		if o.recorded, err = l.read(ctx, d.Namespace, recorded); err != nil {
			return nil, err
		}
	}
	fresh, err := l.objects.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: d.Name})
	if err != nil {
		return nil, err
	}
	if fresh.TargetName() != name || (fresh.Status.Secret != nil && fresh.Status.Secret.Name != recorded && fresh.Status.Secret.Name != name) {
		return l.observe(ctx, fresh)
	}
	o.d = fresh
	if o.source, err = l.sources.Resolve(ctx, fresh); err != nil {
		return nil, err
	}
	o.mem = l.memory.of(types.NamespacedName{Namespace: fresh.Namespace, Name: fresh.Name}, fresh.UID)
	l.refreshInput(o)
	return o, nil
}

func (l *Lifecycle) read(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	s, err := l.secrets.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name})
	// A 404 that is not in the API server's words comes from something that stands before it.
	if apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err) {
		return nil, nil
	}
	return s, err
}

// refreshInput makes the input from the observation as it stands now.
func (l *Lifecycle) refreshInput(o *observation) {
	o.mem.freshen(attemptKey{o.d.Generation, o.source.Where.Provider.UID, o.source.ProviderGeneration, o.source.Recoveries}, o.d.Status.Lease)
	state, outOfSync := lease.TargetCurrent, false
	if !o.glanced {
		state, outOfSync = targetState(o.d, o.secret, o.recorded)
	}
	o.in = lease.Input{
		Now:           l.clock.Now(),
		Object:        o.d,
		RequestDigest: o.source.Where.RequestDigest,
		Block:         o.source.Block,
		Target:        state,
		OutOfSync:     outOfSync,
		Held:          o.mem.heldForPlan(),
		LostID:        l.lostID(o),
		SuspectID:     l.memory.suspectOf(client.ObjectKeyFromObject(o.d)),
		Tries:         o.mem.tries,
		RolloutLook:   o.mem.rolloutLook,
		RolloutWindow: l.rolloutWindow,
		RolloutOff:    l.rollouts == nil,
		RequestLimit:  l.requestLimit,
	}
	var err error
	if o.in.Windows, err = lease.ParseWindows(o.d.Spec.Rotation.Windows); err != nil {
		o.in.Invalid = &lease.Block{Reason: v1alpha1.ReasonInvalidWindow, Message: err.Error(), Stalled: true}
	}
}

// lostID is the lease that is known to be gone: by an answer to this object's own question, or by an order.
func (l *Lifecycle) lostID(o *observation) string {
	id := l.memory.lostOf(client.ObjectKeyFromObject(o.d))
	if rec := o.d.Status.Lease; rec != nil && id != "" && id == rec.ID {
		return id
	}
	return o.mem.lostID
}

// targetState classifies what was read.
func targetState(d *v1alpha1.DynamicSecret, wanted, recorded *corev1.Secret) (lease.TargetState, bool) {
	known := d.Status.Secret
	current := func(s *corev1.Secret) bool {
		return s != nil && ours(d, s) && known != nil && known.Digest != "" && secret.DigestOf(s) == known.Digest
	}
	switch {
	case wanted != nil && !ours(d, wanted):
		return lease.TargetForeign, false
	case current(wanted):
		return lease.TargetCurrent, !lease.Published(&d.Status) || known.UID != wanted.UID || known.Name != wanted.Name || wanted.Type != secret.Type(d) || !secret.InSync(wanted, d)
	case current(recorded):
		return lease.TargetCurrent, true
	case wanted != nil || recorded != nil && ours(d, recorded):
		return lease.TargetChanged, false
	}
	return lease.TargetAbsent, false
}

// ours says whether the Secret belongs to the object: our label names it, and nobody else owns it. An owner of our
// kind and name with another UID is this object's predecessor: only one can bear the name.
func ours(d *v1alpha1.DynamicSecret, s *corev1.Secret) bool {
	if s.Labels[v1alpha1.OwnerLabel] != secret.OwnerLabelValue(d.Name) {
		return false
	}
	for _, o := range s.OwnerReferences {
		if o.UID != d.UID && (o.Kind != "DynamicSecret" || o.Name != d.Name) {
			return false
		}
	}
	return true
}

func (l *Lifecycle) execute(ctx context.Context, o *observation, s lease.Step) error {
	switch s.Action {
	case lease.AddFinalizer:
		return l.objects.SetFinalizer(ctx, o.d, true)
	case lease.IssueCredential:
		return l.issue(ctx, o, s)
	case lease.RecordLease:
		return l.record(ctx, o)
	case lease.DropAttempt:
		return l.dropAttempt(ctx, o, s)
	case lease.ResolveHeld:
		return l.resolveHeld(ctx, o)
	case lease.DropLease:
		return l.dropLease(ctx, o, s)
	case lease.PublishSecret:
		return l.publish(ctx, o)
	case lease.SyncSecret:
		return l.syncSecret(ctx, o)
	case lease.DeleteSecret:
		return l.deleteSecret(ctx, o, s)
	case lease.RenewLease:
		return l.renew(ctx, o)
	case lease.VerifyLease:
		return l.verify(ctx, o)
	case lease.AcknowledgeRenew:
		return l.commit(ctx, o, lease.RenewalHandled)
	case lease.ExtendToken:
		return l.extendToken(ctx, o)
	case lease.RenewRetiring, lease.ExtendRetiring:
		return l.keepRetiring(ctx, o, s)
	case lease.FollowRollout:
		return l.followRollout(ctx, o, s)
	case lease.EndRecord:
		return l.end(ctx, o, s)
	case lease.AbandonRecord:
		return l.abandon(ctx, o, s)
	case lease.RemoveFinalizer:
		return l.letGo(ctx, o)
	}
	return fmt.Errorf("no such action: %s", s.Action)
}

// commit makes one transition durable: the ledger and the conditions that follow from it, in one locked write. On an
// error nothing that depends on the transition may be done; the next observation says whether it was stored.
func (l *Lifecycle) commit(ctx context.Context, o *observation, transition func(*v1alpha1.DynamicSecret)) error {
	d := o.d.DeepCopy()
	transition(d)
	before := o.d
	lease.SealNew(l.sealKey, before, d)
	o.d = d
	l.refreshInput(o)
	lease.Summarize(o.in, lease.Plan(o.in))
	if err := l.objects.UpdateStatus(ctx, d); err != nil {
		o.d = before
		return err
	}
	o.writtenAt = l.clock.Now()
	return nil
}

// rest writes the status if waiting means something else than what it says already.
func (l *Lifecycle) rest(ctx context.Context, o *observation, s lease.Step) error {
	if o.mem.held != nil && o.in.Held.Outcome == lease.OutcomeIssued && o.d.Status.Lease != nil &&
		o.d.Status.Lease.TokenAccessor == o.in.Held.Accessor && o.in.Target == lease.TargetCurrent {
		o.mem.held = nil // published, or unchanged: nobody needs it any more
	}
	if !o.d.DeletionTimestamp.IsZero() && len(o.d.Finalizers) == 0 {
		return nil
	}
	before := o.d.Status.DeepCopy()
	lease.Summarize(o.in, s)
	l.tellFailure(o)
	if equality.Semantic.DeepEqual(before, &o.d.Status) {
		return nil
	}
	return l.objects.UpdateStatus(ctx, o.d)
}

// tellFailure says once, as an event, what does not go as it should.
func (l *Lifecycle) tellFailure(o *observation) {
	reason, message := "", ""
	for i := range o.d.Status.Retiring {
		if f := o.mem.tries.End[lease.TryKey(&o.d.Status.Retiring[i])]; f.Count > 0 {
			reason, message = ReasonEndFailed, "A lease that is no longer needed could not be ended yet: "+f.Message
		}
	}
	for _, c := range o.d.Status.Conditions {
		failing := c.Type == v1alpha1.StalledCondition && c.Status == "True" ||
			c.Type == v1alpha1.ReconcilingCondition && c.Status == "True" && o.mem.failing() && !o.mem.awaitsBackend(c.Reason)
		if failing && c.Reason != v1alpha1.ReasonRevoked && c.Reason != v1alpha1.ReasonGrantEnded && o.d.DeletionTimestamp.IsZero() {
			reason, message = c.Reason, c.Message
		}
	}
	if reason != "" && reason != o.mem.said {
		l.announce.Event(o.d, corev1.EventTypeWarning, reason, message)
	}
	o.mem.said = reason
}

// awaitsBackend: a renewal waits for a backend that is away, of which the provider tells, for all its users at once.
func (r *remembered) awaitsBackend(reason string) bool {
	return reason == v1alpha1.ReasonRenewing && (r.tries.Renew.Reason == v1alpha1.ReasonBackendUnavailable ||
		r.tries.Renew.Count == 0 && r.tries.ExtendToken.Reason == v1alpha1.ReasonBackendUnavailable)
}

func (r *remembered) failing() bool {
	t := r.tries
	for _, f := range t.End {
		if f.Count > 0 {
			return true
		}
	}
	return t.Issue.Count+t.Renew.Count+t.ExtendToken.Count+t.Publish.Count+t.Sync.Count > 0
}

// backoff is the pause after a failure of this object.
func (o *observation) backoff(count int) time.Duration { return lease.Backoff(count, o.d.UID) }

func owner(d *v1alpha1.DynamicSecret) backend.Owner {
	return backend.Owner{Namespace: d.Namespace, Name: d.Name, UID: string(d.UID)}
}
