package revocation

import (
	"fmt"
	"strings"

	"k8s.io/utils/ptr"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// notReady is the summary of a LeaseRevocation that is not finished.
func notReady(b lease.Block) *lease.Summary {
	return &lease.Summary{Reason: b.Reason, Message: b.Message, Stalled: b.Stalled}
}

// underWay is the progress.
func (w *work) underWay() lease.Block {
	return lease.Block{Reason: v1alpha1.ReasonRevokingLeases, Message: fmt.Sprintf("Revoking %s: %d of %d remaining.",
		w.Spec.Selection(), ptr.Deref(w.Status.RemainingLeases, 0), ptr.Deref(w.Status.MatchedLeases, 0))}
}

// listing is the progress of a list that takes several steps.
func (w *work) listing() lease.Block {
	l := &w.facts.Listing
	return lease.Block{Reason: v1alpha1.ReasonRevokingLeases, Message: fmt.Sprintf(
		"Listing %s before they are revoked: %s in %s so far.", w.Spec.Selection(),
		plural(int64(len(l.IDs)), "lease"), plural(int64(l.Listed), "path"))}
}

// result is the summary of a finished LeaseRevocation.
func (w *work) result() *lease.Summary {
	matched := plural(ptr.Deref(w.Status.MatchedLeases, 0), "lease")
	secrets := plural(ptr.Deref(w.Status.DynamicSecrets, 0), "DynamicSecret")
	message := fmt.Sprintf("Revoked %s: %s matched; %s had one of them.", w.Spec.Selection(), matched, secrets)
	if forced := w.Status.ForcedLeases + w.facts.Forced; forced > 0 {
		message += fmt.Sprintf(" %s by force: their accounts may still exist, and the backend no longer tracks them.",
			plural(forced, "lease"))
	}
	if holders := w.facts.concerned(w.holders); len(holders) > 0 {
		message += " These DynamicSecrets still record a revoked lease: " + names(holders) + "."
	}
	return &lease.Summary{Ready: true, Reason: v1alpha1.ReasonLeasesRevoked, Message: message}
}

func names(holders []holder) string {
	const most = 5
	var all []string
	for _, h := range holders[:min(most, len(holders))] {
		all = append(all, h.object.Namespace+"/"+h.object.Name)
	}
	if len(holders) > most {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
