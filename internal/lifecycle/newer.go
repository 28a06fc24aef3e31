package lifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// reportNewer reports that a newer version of leasekeeper wrote the ledger. It patches the conditions and nothing else,
// because a write of the whole status would drop fields that this version does not know. It returns when the credential
// expires (zero: never).
func (l *Lifecycle) reportNewer(ctx context.Context, d *v1alpha1.DynamicSecret) (time.Time, error) {
	now, before := l.clock.Now(), d.DeepCopy()
	message := fmt.Sprintf("A newer version of leasekeeper wrote the ledger of this object (version %d; this one "+
		"knows version %d). Nothing is issued, renewed or revoked, and a deletion waits, until that version runs "+
		"again: upgrade leasekeeper.", d.Status.LedgerVersion, lease.Version)
	s := lease.Summary{Reason: v1alpha1.ReasonNewerLedger, Message: message, Stalled: true}
	ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
	end := d.Status.ExpiresAt
	alive := d.DeletionTimestamp.IsZero() && (end == nil || now.Before(end.Time))
	if ready != nil && ready.Status == "True" && alive {
		s = lease.Summary{Ready: true, Reason: ready.Reason, Message: ready.Message,
			Work: &lease.Block{Reason: s.Reason, Message: message, Stalled: true}}
	}
	lease.SetSummary(&d.Status.Conditions, d.Generation, now, s)
	d.Status.Summary, d.Status.Message = v1alpha1.ReasonNewerLedger, message
	next := time.Time{}
	if alive && end != nil {
		next = end.Time
	}
	if equality.Semantic.DeepEqual(before.Status, d.Status) {
		return next, nil
	}
	if err := l.objects.PatchStatus(ctx, before, d); err != nil {
		return time.Time{}, err
	}
	stalled := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.StalledCondition)
	if stalled == nil || stalled.Reason != v1alpha1.ReasonNewerLedger {
		log.FromContext(ctx).Info("a newer version of leasekeeper wrote the ledger; the object is left alone",
			"ledgerVersion", d.Status.LedgerVersion)
		l.announce.Event(d, corev1.EventTypeWarning, v1alpha1.ReasonNewerLedger, message)
	}
	return next, nil
}
