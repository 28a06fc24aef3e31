// Package provider keeps the status of providers, and keeps a provider from being removed while leases need it.
package provider

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// judge writes the result of an inspection into the provider's status. After an error, what was known of the server
// stays.
func judge(p v1alpha1.Provider, report backend.Report, err error, now time.Time) {
	st := p.ProviderStatus()
	if err == nil {
		st.Server = &v1alpha1.ServerStatus{Kind: report.ServerKind, Version: report.Version}
		if report.ServerKind == "" {
			st.Server = nil // the backend is no server that can be inspected
		}
		st.MissingCapabilities, st.AdvisedCapabilities = report.Missing, report.Advised
	}
	s := verdict(report, err)
	if ready := Ready(p); ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == p.GetGeneration() {
		switch backend.KindOf(err) {
		case backend.Throttled:
			return // nothing was learnt
		case backend.QuotaExceeded:
			s.Ready, s.Message = true, s.Message+". Leases are renewed and revoked meanwhile."
		}
	}
	lease.SetSummary(&st.Conditions, p.GetGeneration(), now, s)
}

// verdict on the provider.
func verdict(report backend.Report, err error) lease.Summary {
	switch {
	case err != nil:
		b := backend.BlockFor(err)
		return lease.Summary{Reason: b.Reason, Message: b.Message, Stalled: b.Stalled}
	case len(report.Missing) > 0 && !report.Accepted:
		message := lacks(report.Identity, report.Missing) + " Nothing is issued, because it could not be revoked."
		if report.Remedy != "" {
			message += " " + report.Remedy
		}
		return lease.Summary{Reason: v1alpha1.ReasonPolicyIncomplete, Stalled: true, Message: message}
	}
	s := lease.Summary{Ready: true, Reason: v1alpha1.ReasonReachable, Message: reachable(report)}
	switch {
	case len(report.Faults) > 0:
		s.Reason = v1alpha1.ReasonFaultyVersion
	case report.Unattended:
		s.Reason = v1alpha1.ReasonUnattended
	}
	return s
}

// reachable is the message of a provider that is ready.
func reachable(report backend.Report) string {
	sentences := []string{"The backend can be used."}
	if report.Address != "" {
		sentences[0] = report.Address + " is reachable."
	}
	sentences = append(sentences, report.Faults...)
	sentences = append(sentences, report.Notes...)
	if len(report.Missing) > 0 {
		sentences = append(sentences, lacks(report.Identity, report.Missing),
			"Operations that need these permissions are skipped, and leases may have to be abandoned.")
	}
	if len(report.Advised) > 0 {
		sentences = append(sentences, lacks(report.Identity, report.Advised),
			"Until then leases are looked up one by one, and revocations by others are detected up to ten times later.")
	}
	return strings.Join(sentences, " ")
}

func lacks(identity string, permissions []string) string {
	if identity == "" {
		identity = "leasekeeper"
	}
	subject := strings.ToUpper(identity[:1]) + identity[1:]
	return subject + " lacks these permissions: " + strings.Join(permissions, "; ") + "."
}

// Ready is the Ready condition of a provider; the zero value if it has none yet.
func Ready(p v1alpha1.Provider) metav1.Condition { return conditionOf(p, v1alpha1.ReadyCondition) }

// conditionOf is a condition of a provider; the zero value if it has none of the kind.
func conditionOf(p v1alpha1.Provider, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(p.ProviderStatus().Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}
