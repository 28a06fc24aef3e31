package backend

import (
	"errors"
	"fmt"
)

// ErrorKind says what an error of a Backend means for what happens next.
type ErrorKind string

const (
	// NoResponse: no answer of the backend itself came back (time-out, reset, an error of a gateway). It may still be
	// acting on the request.
	NoResponse ErrorKind = "NoResponse"
	// Unavailable: the request did not reach the backend (connection refused), or the backend answered that it does
	// not serve now: sealed, standby, rate-limited.
	Unavailable ErrorKind = "Unavailable"
	// Failed: the backend answered with an error of its own, such as a database that is down.
	Failed ErrorKind = "Failed"
	// Denied: the policy refuses. The message names the missing line.
	Denied ErrorKind = "Denied"
	// LoginFailed: the backend refuses the login.
	LoginFailed ErrorKind = "LoginFailed"
	// NotFound: nothing is at the path.
	NotFound ErrorKind = "NotFound"
	// Refused: the backend answered that the request is wrong.
	Refused ErrorKind = "Refused"
	// InvalidResponse: the backend's answer cannot be used: unreadable, empty, or of another shape.
	InvalidResponse ErrorKind = "InvalidResponse"
	// Gone: the lease or the token is no more.
	Gone ErrorKind = "Gone"
	// Mismatch: the token or lease that a record names is not its owner's.
	Mismatch ErrorKind = "Mismatch"
	// Disputed: another object's ledger names the same token or lease.
	Disputed ErrorKind = "Disputed"
	// TLS: the backend's certificate does not verify, or the TLS material cannot be used.
	TLS ErrorKind = "TLS"
	// NoServiceAccount: the ServiceAccount to log in as does not exist, or its namespace is going away.
	NoServiceAccount ErrorKind = "NoServiceAccount"
	// Misconfigured: something that the provider's spec names does not exist or cannot be used.
	Misconfigured ErrorKind = "Misconfigured"
)

// Error is an error of a Backend. Message is for people: what was tried, on what, and what they can do. It holds no
// credential and is the same for the same fault, so that a condition which shows it does not change at each try.
type Error struct {
	Kind    ErrorKind
	Message string
	// Err is the cause, where there is one. It is kept for errors.Is and is not printed.
	Err error
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// KindOf is the kind of a Backend's error. An error of an unknown sort counts as NoResponse, the kind that assumes the
// least.
func KindOf(err error) ErrorKind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return NoResponse
}
