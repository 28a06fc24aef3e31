package backend

import (
	"errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// BlockFor translates an error of a Backend into the reason and message of a condition.
func BlockFor(err error) lease.Block {
	b := lease.Block{Reason: v1alpha1.ReasonBackendUnavailable, Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		b.RetryAfter = e.RetryAfter
	}
	switch KindOf(err) {
	case NoResponse, Unavailable, Throttled, Busy:
		return b
	case QuotaExceeded:
		b.Reason = v1alpha1.ReasonQuotaExceeded
		return b
	case Failed, Gone:
		b.Reason = v1alpha1.ReasonBackendError
		return b
	case Denied:
		b.Reason = v1alpha1.ReasonAccessDenied
	case LoginFailed:
		b.Reason = v1alpha1.ReasonLoginFailed
	case NotFound:
		b.Reason = v1alpha1.ReasonPathNotFound
	case Refused:
		b.Reason = v1alpha1.ReasonRequestRefused
	case InvalidResponse:
		b.Reason = v1alpha1.ReasonInvalidResponse
	case Mismatch, Disputed:
		b.Reason = v1alpha1.ReasonLedgerMismatch
	case TLS:
		b.Reason = v1alpha1.ReasonTLSFailed
	case NoServiceAccount:
		b.Reason = v1alpha1.ReasonServiceAccountNotFound
	case Misconfigured:
		b.Reason = v1alpha1.ReasonInvalidSpec
	}
	b.Stalled = true
	return b
}
