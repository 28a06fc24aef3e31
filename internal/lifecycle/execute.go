package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

func (l *Lifecycle) execute(ctx context.Context, o *observation, s lease.Step) error {
	switch s.Action {
	case lease.AddFinalizer:
		return l.setFinalizer(ctx, o, true)
	case lease.Issue:
		return l.issue(ctx, o, s)
	case lease.RecordLeases:
		return l.record(ctx, o)
	case lease.DropAttempt:
		return l.dropAttempt(ctx, o, s)
	case lease.ResolveHeld:
		return l.resolveHeld(ctx, o)
	case lease.DropLeases:
		return l.dropLeases(ctx, o, s)
	case lease.PublishSecret:
		return l.publish(ctx, o)
	case lease.SyncSecret:
		return l.syncSecret(ctx, o)
	case lease.DeleteSecret:
		return l.deleteSecret(ctx, o, s)
	case lease.RefreshSource:
		return l.refresh(ctx, o, s)
	case lease.RenewLease:
		return l.renew(ctx, o, s)
	case lease.ExtendSession:
		return l.extendSession(ctx, o, s)
	case lease.VerifyLease:
		return l.verify(ctx, o, s)
	case lease.AcknowledgeRenew:
		return l.commit(ctx, o, lease.RenewalHandled)
	case lease.FollowRollout:
		return l.followRollout(ctx, o, s)
	case lease.RevokeRecord:
		return l.revoke(ctx, o, s)
	case lease.AbandonRecord:
		return l.abandon(ctx, o, s)
	case lease.RemoveFinalizer:
		l.reportFailure(o, o.d)
		return l.setFinalizer(ctx, o, false)
	}
	return fmt.Errorf("unknown action %s", s.Action)
}

func (l *Lifecycle) setFinalizer(ctx context.Context, o *observation, present bool) error {
	d := o.d.DeepCopy()
	err := l.gated(ctx, writeFinalizer, d.Namespace, func() error { return l.objects.SetFinalizer(ctx, d, present) })
	if !present && (err == nil || apierrors.IsNotFound(err)) {
		l.memory.release(o.key(), o.d.UID)
		return nil
	}
	if err == nil {
		d.Status = o.d.Status // what is in memory is not older
		l.stored(o, d)
	}
	return l.noteUpdate(ctx, o, &o.mem.tries.Finalizer, writeFinalizer, err, o.backoff)
}

// stored notes that a locked write of the object succeeded: the observation is as current as a read.
func (l *Lifecycle) stored(o *observation, d *v1alpha1.DynamicSecret) {
	o.d, o.locked = d, true
	l.memory.setLatest(o.key(), d)
}

// commit makes one transition durable: the ledger and the conditions that follow from it, in one locked write. After an
// error nothing that depends on the transition may be done; the next observation shows whether it was stored. A removal
// does not depend on it.
func (l *Lifecycle) commit(ctx context.Context, o *observation, transition func(*v1alpha1.DynamicSecret)) error {
	before, d := o.d, o.d.DeepCopy()
	transition(d)
	lease.SealNew(l.sealKey, before, d)
	o.d = d
	l.refreshInput(ctx, o)
	lease.SetStatus(d, o.in, o.step)
	if err := l.updateStatus(ctx, o, d); err != nil {
		if o.keepsUnstored(ctx, err) {
			o.mem.keep(before, d)
			return nil
		}
		o.d = before
		return err
	}
	l.stored(o, d)
	return nil
}

// commitFor is commit for something that has already happened to a lease. After a conflict, such as a person's edit of
// a label, it applies the transition to the stored object, as long as that still has the lease.
func (l *Lifecycle) commitFor(
	ctx context.Context, o *observation, id string,
	change func(*v1alpha1.LeaseRecord), also func(*v1alpha1.DynamicSecret),
) error {
	apply := func(d *v1alpha1.DynamicSecret) {
		if rec := findRecord(&d.Status, id); rec != nil {
			change(rec)
		}
		if also != nil {
			also(d)
		}
	}
	err := l.commit(ctx, o, apply)
	for range 3 {
		if !apierrors.IsConflict(err) {
			return err
		}
		if err := l.read(ctx, o); err != nil {
			return err
		}
		if findRecord(&o.d.Status, id) == nil {
			return nil
		}
		err = l.commit(ctx, o, apply)
	}
	return err
}

func findRecord(st *v1alpha1.DynamicSecretStatus, id string) *v1alpha1.LeaseRecord {
	for _, records := range [][]v1alpha1.LeaseRecord{st.Leases, st.Retiring} {
		for i := range records {
			if records[i].ID == id {
				return &records[i]
			}
		}
	}
	return nil
}

// record of a step.
func (o *observation) record(s lease.Step) v1alpha1.LeaseRecord {
	if s.Retiring {
		return o.d.Status.Retiring[s.Record]
	}
	return o.d.Status.Leases[s.Record]
}

// rest writes the status if it does not say yet what waiting means.
func (l *Lifecycle) rest(ctx context.Context, o *observation, s lease.Step) error {
	h := o.mem.held
	issued := h != nil && h.Outcome == lease.OutcomeIssued
	if issued && o.in.Target == lease.TargetCurrent && o.heldIsRecorded() {
		o.mem.held = nil // published, or unchanged: nothing needs it any more
		l.refreshInput(ctx, o)
	}
	if !o.d.DeletionTimestamp.IsZero() && len(o.d.Finalizers) == 0 {
		return nil
	}
	d := o.d.DeepCopy()
	lease.SetStatus(d, o.in, s)
	l.reportFailure(o, d)
	l.reportLost(o, d)
	if equality.Semantic.DeepEqual(o.d.Status, d.Status) && o.mem.unstored == nil {
		return nil
	}
	if err := l.updateStatus(ctx, o, d); err != nil {
		if apierrors.IsConflict(err) {
			l.memory.setLatest(o.key(), nil)
		}
		return err
	}
	l.stored(o, d)
	return nil
}

func (o *observation) heldIsRecorded() bool {
	leases := o.d.Status.Leases
	return len(leases) > 0 && len(o.mem.held.Records) > 0 && leases[0].Handle() == o.mem.held.Records[0].Record.Handle()
}

// reportLost emits an event when a suspended object loses its Secret: nothing else happens then.
func (l *Lifecycle) reportLost(o *observation, d *v1alpha1.DynamicSecret) {
	was := meta.IsStatusConditionTrue(o.d.Status.Conditions, v1alpha1.ReadyCondition)
	ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
	if was && ready.Status == metav1.ConditionFalse && ready.Reason == v1alpha1.ReasonSuspended {
		l.announce.Event(o.d, corev1.EventTypeWarning, v1alpha1.ReasonSecretLost, "Secret "+d.TargetName()+
			" no longer contains a valid credential. Nothing is issued until spec.suspend is false.")
	}
}

// reportFailure emits one event for each new failure.
func (l *Lifecycle) reportFailure(o *observation, d *v1alpha1.DynamicSecret) {
	failures := o.failures(d)
	for _, reason := range slices.Sorted(maps.Keys(failures)) {
		if !o.mem.reported[reason] {
			l.announce.Event(o.d, corev1.EventTypeWarning, reason, failures[reason])
		}
	}
	o.mem.reported = nil
	for reason := range failures {
		put(&o.mem.reported, reason, true)
	}
}

// reportedOtherwise are reasons of conditions that a user caused, or that another event reports.
var reportedOtherwise = []string{v1alpha1.ReasonRevoked, v1alpha1.ReasonGrantEnded, v1alpha1.ReasonRevoking,
	v1alpha1.ReasonObjectNotUpdated, v1alpha1.ReasonRolloutContested}

// failures are the messages of what fails, by reason.
func (o *observation) failures(d *v1alpha1.DynamicSecret) map[string]string {
	failures := map[string]string{}
	if f := o.mem.tries.DeleteSecret; f.Count > 0 {
		failures[f.Reason] = f.Message
	}
	for _, rec := range append(append([]v1alpha1.LeaseRecord{}, d.Status.Leases...), d.Status.Retiring...) {
		if f := o.mem.tries.Revoke[lease.Key(&rec)]; f.Count > 0 {
			failures[v1alpha1.ReasonRevocationFailed] = "A lease that is no longer needed could not be revoked yet: " +
				f.Message
		}
	}
	for _, c := range d.Status.Conditions {
		stalled := c.Type == v1alpha1.StalledCondition && c.Status == "True"
		reconciling := c.Type == v1alpha1.ReconcilingCondition && c.Status == "True"
		trying := reconciling && o.mem.failing() && !o.mem.awaitsBackend(c.Reason)
		expected := slices.Contains(reportedOtherwise, c.Reason) || strings.HasPrefix(c.Message, lease.NotRevoked)
		if (stalled || trying) && !expected && d.DeletionTimestamp.IsZero() {
			failures[c.Reason] = c.Message
		}
	}
	return failures
}

// awaitsBackend: the provider already reports this outage; don't repeat it per object.
func (r *remembered) awaitsBackend(reason string) bool {
	if reason != v1alpha1.ReasonRenewing {
		return false
	}
	for _, tries := range []map[string]lease.Failure{r.tries.Renew, r.tries.ExtendSession} {
		for _, f := range tries {
			if f.Count > 0 && f.Reason != v1alpha1.ReasonBackendUnavailable {
				return false
			}
		}
	}
	return true
}

func (r *remembered) failing() bool {
	t := r.tries
	n := t.Issue.Count + t.Publish.Count + t.Sync.Count + t.DeleteSecret.Count
	for _, tries := range []map[string]lease.Failure{t.Renew, t.ExtendSession, t.Revoke, t.Refresh} {
		for _, f := range tries {
			n += f.Count
		}
	}
	return n > 0
}

// backoff is the pause after a failure of this object.
func (o *observation) backoff(count int) time.Duration { return lease.Backoff(count, o.d.UID) }

// revision identifies what a person can change so that something that has failed may succeed: the spec, a requested
// rotation, and the providers.
func (o *observation) revision() string {
	request := o.d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	return fmt.Sprintf("%d|%s|%s", o.d.Generation, request, o.sources.Revision)
}

func owner(d *v1alpha1.DynamicSecret) backend.Owner {
	return backend.Owner{Namespace: d.Namespace, Name: d.Name, UID: string(d.UID)}
}

// holder is the owner of a record that this process holds in memory and has written itself.
func holder(d *v1alpha1.DynamicSecret) backend.Owner {
	o := owner(d)
	o.Proven = true
	return o
}

// ownerOf is the owner of a record of the ledger. Without a key no record has a seal, and none is required.
func (l *Lifecycle) ownerOf(d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) backend.Owner {
	o := owner(d)
	o.Proven = len(l.sealKey) == 0 || lease.Sealed(l.sealKey, d.UID, rec)
	return o
}

func keyOf(d *v1alpha1.DynamicSecret) types.NamespacedName {
	return types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
}
