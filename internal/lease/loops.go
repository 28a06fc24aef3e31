package lease

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Others can cause issuances in a loop: a controller that keeps changing the Secret, an admission policy, a response
// that cannot become the Secret, a set of which one source is denied. These issuances are counted in the status, and
// the pause before the next one doubles from two seconds to an hour: with the first issuance, at most 12 fit into an
// hour. A count starts again if no issuance was necessary for an hour after its pause.

const (
	maxLoopPause = time.Hour
	maxLoopCount = 64
	// loopQuiet is how long after the pause a loop counts as over.
	loopQuiet = time.Hour
)

// LoopPause is the pause after the count-th time that something had to be done again: 2 s, doubling, an hour at most,
// less a jitter.
func LoopPause(count int, uid types.UID) time.Duration {
	return doubling(min(count, maxLoopCount)+1, maxLoopPause, uid)
}

// LoopOver says that the loop whose last pause ended then is over.
func LoopOver(pauseEnded, now time.Time) bool { return !now.Before(pauseEnded.Add(loopQuiet)) }

// unplanned says whether neither a schedule nor a user caused the issuance. A credential that a killed manager did not
// publish is no loop of others: a pause could outlast the old credential. One that was rejected is counted as unusable.
func unplanned(cause string) bool {
	return cause == CauseFirst || cause == CauseSecretLost || cause == CauseSecretChanged
}

// counted returns the unplanned issuances so far; nil: none, or they belong to another spec, request, or clock.
func counted(d *v1alpha1.DynamicSecret, now time.Time) *v1alpha1.UnplannedIssuances {
	u := d.Status.Unplanned
	same := u != nil && u.Generation == d.Generation && u.Request == d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
	if !same || u.LastAt.After(now.Add(time.Minute)) || LoopOver(loopPauseEnd(d, u), now) {
		return nil
	}
	return u
}

func loopPauseEnd(d *v1alpha1.DynamicSecret, u *v1alpha1.UnplannedIssuances) time.Time {
	return u.LastAt.Add(LoopPause(int(min(u.Count, maxLoopCount)), d.UID))
}

// countIssuance counts a credential that was issued for the cause and recorded.
func countIssuance(d *v1alpha1.DynamicSecret, cause string, now time.Time) {
	st := &d.Status
	first := st.Unplanned == nil && st.Secret == nil && len(st.Retiring) == 0
	if counted(d, now) == nil {
		st.Unplanned = nil
	}
	if unplanned(cause) && !first {
		count(d, "", now)
	}
}

// CountUnusable counts an issuance that minted without use: its response could not become the Secret, or the request of
// another source failed for a reason that a person must remove.
func CountUnusable(d *v1alpha1.DynamicSecret, reason string, now time.Time) {
	if counted(d, now) == nil {
		d.Status.Unplanned = nil
	}
	count(d, reason, now)
}

func count(d *v1alpha1.DynamicSecret, reason string, now time.Time) {
	u := d.Status.Unplanned
	if u == nil {
		u = &v1alpha1.UnplannedIssuances{}
	}
	d.Status.Unplanned = &v1alpha1.UnplannedIssuances{Count: max(0, min(u.Count, maxLoopCount)) + 1, LastAt: ceil(now),
		Generation: d.Generation, Request: d.Annotations[v1alpha1.RotateRequestedAtAnnotation], Reason: reason}
}

// pausedByLoop is when a loop permits the next issuance, and what it says until then; nil: at once.
func (v *view) pausedByLoop(cause string) (time.Time, *Block) {
	u := counted(v.Object, v.Now)
	if u == nil || u.Reason == "" && !unplanned(cause) {
		return time.Time{}, nil
	}
	at := loopPauseEnd(v.Object, u)
	if !v.Now.Before(at) {
		return time.Time{}, nil
	}
	if u.Reason != "" {
		return at, v.unusable(u.Reason)
	}
	return at, v.contested()
}

// unusable is why the last issuance was of no use. After a restart only the conditions still know that.
func (v *view) unusable(reason string) *Block {
	b := &Block{Reason: reason, Stalled: true, Message: "What was issued last could not be used. " +
		"Correct spec.target, the sources, or the roles and policies in the backend."}
	if f := v.Tries.Issue; f.Count > 0 {
		return &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
	}
	for _, c := range v.st.Conditions {
		if c.Reason == reason && c.Message != "" {
			b.Message = c.Message
		}
	}
	return b
}

// contested says who else writes the Secret.
func (v *view) contested() *Block {
	who := "Something else keeps changing or deleting it"
	if v.Writer != "" {
		who = v.Writer
	}
	return &Block{Reason: v1alpha1.ReasonTargetContested, Stalled: true,
		Message: fmt.Sprintf("Secret %s does not keep what leasekeeper writes. %s. leasekeeper repairs it after "+
			"pauses of up to an hour: stop the other writer, or set another spec.target.name.",
			v.Object.TargetName(), who)}
}
