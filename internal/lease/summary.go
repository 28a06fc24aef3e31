package lease

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Summary is what the conditions Ready, Reconciling and Stalled of any kind say.
type Summary struct {
	// Ready with its Reason and Message.
	Ready           bool
	Reason, Message string
	// Stalled: nothing improves until a person changes something.
	Stalled bool
	// Idle: it is not ready, and nothing is being done about it.
	Idle bool
	// Work is what Reconciling, or Stalled, says if that differs from Ready; nil: the same.
	Work *Block
}

// SetSummary writes Ready, Reconciling and Stalled. Reconciling and Stalled exist only while they are True, as kstatus
// expects, and never together. A condition that does not change keeps its transition time.
func SetSummary(conditions *[]metav1.Condition, generation int64, now time.Time, s Summary) {
	work := Block{Reason: s.Reason, Message: s.Message, Stalled: s.Stalled}
	if s.Work != nil {
		work = *s.Work
	}
	stalled := work.Stalled
	reconciling := !stalled && !s.Idle && (!s.Ready || s.Work != nil)
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(conditions, metav1.Condition{Type: kind, Status: status, Reason: reason,
			Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now)})
	}
	ready := metav1.ConditionFalse
	if s.Ready {
		ready = metav1.ConditionTrue
	}
	set(v1alpha1.ReadyCondition, ready, s.Reason, s.Message)
	for kind, wanted := range map[string]bool{
		v1alpha1.StalledCondition:     stalled,
		v1alpha1.ReconcilingCondition: reconciling,
	} {
		if wanted {
			set(kind, metav1.ConditionTrue, work.Reason, work.Message)
		} else {
			meta.RemoveStatusCondition(conditions, kind)
		}
	}
}
