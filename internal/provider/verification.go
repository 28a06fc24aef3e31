package provider

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Verification reports how the leases of a provider are verified.
type Verification struct {
	// Known is false until leases were verified for the first time in this process.
	Known bool
	// Leases is false if there is nothing to verify.
	Leases bool
	// Advised are the permissions that lists lack.
	Advised []string
	// Failed is the error of a list that failed; empty: none did.
	Failed string
	// Overdue is the age that the last check of some lease exceeds; 0: none is late.
	Overdue time.Duration
}

const oneByOne = " Leases are looked up one by one, and revocations by others are detected up to ten times later."

// judgeVerification writes the condition Verifying.
func judgeVerification(p v1alpha1.Provider, identity string, v Verification, now time.Time) {
	st := p.ProviderStatus()
	c := metav1.Condition{
		Type: v1alpha1.VerifyingCondition, Status: metav1.ConditionFalse,
		ObservedGeneration: p.GetGeneration(), LastTransitionTime: metav1.NewTime(now),
	}
	switch {
	case !v.Known:
		return
	case !v.Leases:
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.VerifyingCondition)
		return
	case len(v.Advised) > 0:
		c.Reason, c.Message = v1alpha1.ReasonListDenied, lacks(identity, v.Advised)+oneByOne
	case v.Failed != "":
		c.Reason, c.Message = v1alpha1.ReasonListFailed, "Leases cannot be listed: "+v.Failed+"."+oneByOne
	case v.Overdue > 0:
		c.Reason = v1alpha1.ReasonListsSlow
		c.Message = fmt.Sprintf("The backend lists leases slowly: the last check of some is more than %s old, "+
			"so revocations by others are detected late.", v.Overdue)
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonLeasesListed
		c.Message = "Leases are listed once a --verify-interval; revocations by others are detected then."
	}
	meta.SetStatusCondition(&st.Conditions, c)
}
