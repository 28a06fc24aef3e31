package backend

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

func TestBlockFor(t *testing.T) {
	for kind, want := range map[ErrorKind]lease.Block{
		NoResponse:       {Reason: v1alpha1.ReasonBackendUnavailable},
		Unavailable:      {Reason: v1alpha1.ReasonBackendUnavailable},
		Throttled:        {Reason: v1alpha1.ReasonBackendUnavailable},
		QuotaExceeded:    {Reason: v1alpha1.ReasonQuotaExceeded},
		Failed:           {Reason: v1alpha1.ReasonBackendError},
		Gone:             {Reason: v1alpha1.ReasonBackendError},
		Denied:           {Reason: v1alpha1.ReasonAccessDenied, Stalled: true},
		LoginFailed:      {Reason: v1alpha1.ReasonLoginFailed, Stalled: true},
		NotFound:         {Reason: v1alpha1.ReasonPathNotFound, Stalled: true},
		Refused:          {Reason: v1alpha1.ReasonRequestRefused, Stalled: true},
		InvalidResponse:  {Reason: v1alpha1.ReasonInvalidResponse, Stalled: true},
		Mismatch:         {Reason: v1alpha1.ReasonLedgerMismatch, Stalled: true},
		Disputed:         {Reason: v1alpha1.ReasonLedgerMismatch, Stalled: true},
		TLS:              {Reason: v1alpha1.ReasonTLSFailed, Stalled: true},
		NoServiceAccount: {Reason: v1alpha1.ReasonServiceAccountNotFound, Stalled: true},
		Misconfigured:    {Reason: v1alpha1.ReasonInvalidSpec, Stalled: true},
	} {
		want.Message = "orders: 7 of 9"
		if got := BlockFor(fmt.Errorf("%w", Errorf(kind, "orders: %d of %d", 7, 9))); got != want {
			t.Errorf("%s becomes %+v, want %+v", kind, got, want)
		}
	}
	want := lease.Block{Reason: v1alpha1.ReasonBackendUnavailable, Message: "odd"}
	if got := BlockFor(errors.New("odd")); got != want {
		t.Errorf("an error of an unknown kind becomes %+v", got)
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("dial tcp: the cause, with what may be in it")
	err := Errorf(Denied, "policy lacks %s", "a line")
	err.Err = cause
	if got := err.Error(); got != "policy lacks a line" || strings.Contains(got, "cause") {
		t.Errorf("the message is %q", got)
	}
	wrapped := fmt.Errorf("while issuing: %w", err)
	if KindOf(wrapped) != Denied || !errors.Is(wrapped, cause) {
		t.Errorf("wrapped, the kind is %s and the cause %v", KindOf(wrapped), errors.Is(wrapped, cause))
	}
	err.Missing = []string{"a line"}
	if got := MissingFrom(wrapped); !slices.Equal(got, err.Missing) {
		t.Errorf("the missing permissions are %q", got)
	}
	if MissingFrom(cause) != nil || MissingFrom(nil) != nil {
		t.Error("an error that is not the backend's lacks permissions")
	}
	// The kind that assumes the least: something may have been minted.
	if got := KindOf(errors.New("odd")); got != NoResponse {
		t.Errorf("an error of an unknown sort is %s", got)
	}
}
