package lease

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Others can cause issuances in a loop: a controller that keeps changing the Secret or the request, an admission
// policy, a response that cannot become the Secret, a set of which one source is denied. These issuances are counted in
// the status, and the pause before the next one doubles from two seconds to an hour. A user's edit ends the pause, but
// only freeEdits times, because a controller that edits the object looks the same. Whatever others do, at most 12
// credentials are issued in any hour, the first one included. A count starts again if no such issuance was necessary
// for an hour after its pause.

const (
	maxLoopPause = time.Hour
	maxLoopCount = 64
	// loopQuiet is how long after the pause a loop counts as over.
	loopQuiet = time.Hour
	// freeEdits is how many changes of a request, of the spec, or of the requested rotation take effect at once.
	freeEdits = 5
	// mostInAnHour is how many credentials are issued in an hour besides the first one.
	mostInAnHour = 11
)

// LoopPause is the pause after the count-th time that something had to be done again: 2 s, doubling, an hour at most,
// less a jitter.
func LoopPause(count int, uid types.UID) time.Duration {
	return doubling(min(count, maxLoopCount)+1, maxLoopPause, uid)
}

// LoopOver says that the loop whose last pause ended then is over.
func LoopOver(pauseEnded, now time.Time) bool { return !now.Before(pauseEnded.Add(loopQuiet)) }

// unplanned says whether neither a schedule nor a request caused the issuance. A credential that a killed manager did
// not publish is no loop of others: a pause could outlast the old credential. One that was rejected is counted as
// unusable.
func unplanned(cause string) bool {
	return cause == CauseFirst || cause == CauseSecretLost || cause == CauseSecretChanged
}

// byRequest says whether a change of the request, or a requested rotation, caused the issuance.
func byRequest(cause string) bool { return cause == CauseRequestChanged || cause == CauseRequested }

// edited says whether the issuance for the cause follows an edit since the last counted one.
func edited(d *v1alpha1.DynamicSecret, u *v1alpha1.UnplannedIssuances, cause string) bool {
	if byRequest(cause) {
		return true
	}
	return u.Generation != d.Generation || u.Request != d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
}

// counted returns the unplanned issuances so far; nil: none, the loop is over, or another clock counted them.
func counted(d *v1alpha1.DynamicSecret, now time.Time) *v1alpha1.UnplannedIssuances {
	u := d.Status.Unplanned
	if u == nil || u.LastAt.After(now.Add(time.Minute)) || LoopOver(loopPauseEnd(d, u), now) {
		return nil
	}
	return u
}

func loopPauseEnd(d *v1alpha1.DynamicSecret, u *v1alpha1.UnplannedIssuances) time.Time {
	return u.LastAt.Add(LoopPause(int(min(u.Count, maxLoopCount)), d.UID))
}

// withinAnHour are the counted issuances of the last hour.
func withinAnHour(u *v1alpha1.UnplannedIssuances, now time.Time) []metav1.Time {
	var recent []metav1.Time
	for _, at := range u.Recent {
		if at.After(now.Add(-time.Hour)) && !at.After(now.Add(time.Minute)) {
			recent = append(recent, at)
		}
	}
	return recent
}

// nextAfterLoop is when the count permits an issuance for the cause.
func nextAfterLoop(d *v1alpha1.DynamicSecret, u *v1alpha1.UnplannedIssuances, cause string, now time.Time) time.Time {
	at := loopPauseEnd(d, u)
	if edited(d, u, cause) && u.Edits < freeEdits {
		at = now
	}
	if recent := withinAnHour(u, now); len(recent) >= mostInAnHour {
		at = laterOf(at, recent[len(recent)-mostInAnHour].Add(time.Hour))
	}
	return at
}

// countIssuance counts a credential that was issued for the cause and recorded.
func countIssuance(d *v1alpha1.DynamicSecret, cause string, now time.Time) {
	if counted(d, now) == nil {
		d.Status.Unplanned = nil
	}
	if byRequest(cause) || unplanned(cause) && !isFirst(&d.Status) {
		count(d, cause, "", now)
	}
}

// isFirst says that nothing was issued before. After an issuance there is a condition, even if all leases were revoked.
func isFirst(st *v1alpha1.DynamicSecretStatus) bool {
	issued := meta.FindStatusCondition(st.Conditions, v1alpha1.LeasedCondition) != nil
	return st.Unplanned == nil && st.Secret == nil && len(st.Retiring) == 0 && !issued
}

// CountUnusable counts an issuance that minted without use: its response could not become the Secret, or the request of
// another source failed for a reason that a person must remove.
func CountUnusable(d *v1alpha1.DynamicSecret, cause, reason string, now time.Time) {
	if counted(d, now) == nil {
		d.Status.Unplanned = nil
	}
	count(d, cause, reason, now)
}

func count(d *v1alpha1.DynamicSecret, cause, reason string, now time.Time) {
	request, u := d.Annotations[v1alpha1.RotateRequestedAtAnnotation], v1alpha1.UnplannedIssuances{}
	if d.Status.Unplanned == nil {
		u.Generation, u.Request = d.Generation, request
	} else {
		d.Status.Unplanned.DeepCopyInto(&u)
	}
	free := edited(d, &u, cause) && u.Edits < freeEdits
	if free {
		u.Edits, u.Count = max(0, u.Edits)+1, 0
	}
	if !free || !byRequest(cause) || reason != "" {
		u.Count = max(0, min(u.Count, maxLoopCount)) + 1
	}
	u.LastAt, u.Generation, u.Request, u.Reason = ceil(now), d.Generation, request, reason
	recent := append(withinAnHour(&u, now), u.LastAt)
	u.Recent = recent[max(0, len(recent)-mostInAnHour):]
	d.Status.Unplanned = &u
}

// pausedByLoop is when a loop permits the next issuance, and what it says until then; nil: at once.
func (v *view) pausedByLoop(cause string) (time.Time, *Block) {
	u := counted(v.Object, v.Now)
	if u == nil || u.Reason == "" && !unplanned(cause) && !byRequest(cause) {
		return time.Time{}, nil
	}
	at := nextAfterLoop(v.Object, u, cause, v.Now)
	switch {
	case !v.Now.Before(at):
		return time.Time{}, nil
	case u.Reason != "":
		return at, v.unusable(u.Reason)
	case byRequest(cause) || cause == CauseFirst && u.Edits >= freeEdits:
		return at, v.requestContested(cause, at)
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

// requestContested says what keeps changing.
func (v *view) requestContested(cause string, at time.Time) *Block {
	what := "the spec or the provider"
	if cause == CauseRequested {
		what = "annotation " + v1alpha1.RotateRequestedAtAnnotation
	}
	var changed []string
	for _, r := range v.Requests {
		changed = append(changed, r.Changed...)
	}
	if cause == CauseRequestChanged && len(changed) > 0 {
		what = strings.Join(changed[:min(len(changed), 3)], ", ")
	}
	kept := ""
	if v.contains() {
		kept = "; until then the Secret keeps the old one, which stays valid"
	}
	return &Block{Reason: v1alpha1.ReasonRequestContested, Stalled: true,
		Message: fmt.Sprintf("The request changes too often; the last change was of %s. The next credential is issued "+
			"at %s%s. Stop what keeps changing the object: kubectl get dsec %s -o yaml --show-managed-fields shows "+
			"who does.", what, utc(at), kept, v.Object.Name)}
}
