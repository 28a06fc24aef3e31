package backend

import (
	"errors"
	"fmt"
	"time"
)

// ErrorKind classifies an error of a Backend. It decides whether to retry, wait or stop.
type ErrorKind string

const (
	// NoResponse: the backend did not respond (time-out, reset, gateway error). It may still execute the request.
	NoResponse ErrorKind = "NoResponse"
	// Unavailable: the request did not reach the backend (connection refused), the backend responded that it serves
	// nothing now (sealed, standby), or something that the request needs before it is sent cannot be obtained now, such
	// as a token of a ServiceAccount. Only an OutageReporter knows whether the whole server is unavailable.
	Unavailable ErrorKind = "Unavailable"
	// Throttled: the backend limits the rate of these requests, such as those of one path. It serves others.
	Throttled ErrorKind = "Throttled"
	// QuotaExceeded: the backend issues no more leases or logins, such as for one path. It serves everything else, so
	// leases can be renewed and revoked.
	QuotaExceeded ErrorKind = "QuotaExceeded"
	// Busy: the request was not sent, because others are in progress. It is no failure; try again soon.
	Busy ErrorKind = "Busy"
	// Failed: the backend responded with an error of its own, such as a database that is down.
	Failed ErrorKind = "Failed"
	// Denied: the policy does not permit the request. The message names the missing line.
	Denied ErrorKind = "Denied"
	// LoginFailed: the backend refuses the login.
	LoginFailed ErrorKind = "LoginFailed"
	// NotFound: nothing exists at the path.
	NotFound ErrorKind = "NotFound"
	// Refused: the backend responded that the request is invalid.
	Refused ErrorKind = "Refused"
	// InvalidResponse: the response cannot be used: unreadable, empty, or of another form.
	InvalidResponse ErrorKind = "InvalidResponse"
	// Gone: the lease or the session no longer exists.
	Gone ErrorKind = "Gone"
	// Mismatch: the session or lease of a record does not belong to its owner.
	Mismatch ErrorKind = "Mismatch"
	// Disputed: another object's ledger names the same session or lease.
	Disputed ErrorKind = "Disputed"
	// TLS: the backend's certificate does not verify, or the TLS material cannot be used.
	TLS ErrorKind = "TLS"
	// NoServiceAccount: the ServiceAccount to log in as does not exist, or its namespace is being deleted.
	NoServiceAccount ErrorKind = "NoServiceAccount"
	// Misconfigured: something that the provider's spec names does not exist or cannot be used.
	Misconfigured ErrorKind = "Misconfigured"
)

// Error is an error of a Backend. Message is for users: what was tried, on what, and what they can do. It contains no
// credential. It is the same for the same fault, so that a condition does not change with each attempt.
type Error struct {
	Kind    ErrorKind
	Message string
	// RetryAfter is when to try again if the request was not sent for the sake of others; 0: after a growing pause.
	RetryAfter time.Duration
	// Missing are the permissions that a Denied request lacks, as in Report.Missing. They may be only in Message.
	Missing []string
	// Err is the cause; nil: none. It is for errors.Is and is not printed.
	Err error
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// KindOf is the kind of a Backend's error. Any other error counts as NoResponse, the kind that assumes the least.
func KindOf(err error) ErrorKind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return NoResponse
}

// MissingFrom returns the permissions that a Denied request lacks; empty: none, or only the message names them.
func MissingFrom(err error) []string {
	var e *Error
	if errors.As(err, &e) {
		return e.Missing
	}
	return nil
}
