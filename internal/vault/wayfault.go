package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// wayKind tells what an error of the network means, in words that are the same for the same fault: Go's own texts
// name local ports, which change with each try.
func wayKind(ctx context.Context, err error, sent bool) (backend.ErrorKind, string) {
	if text, ok := tlsText(err, sent); ok {
		return backend.TLS, text
	}
	stopped := errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, context.Canceled)
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err)
	if sent {
		switch {
		case stopped:
			return backend.NoResponse, "the request was given up before an answer came"
		case late:
			return backend.NoResponse, "no answer in time"
		}
		return backend.NoResponse, "the connection broke before an answer came"
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return backend.Unavailable, fmt.Sprintf("the name %q cannot be resolved", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return backend.Unavailable, "connection refused"
	case stopped:
		return backend.Unavailable, "the request was given up before it was sent"
	case late:
		return backend.Unavailable, "no connection in time"
	}
	return backend.Unavailable, "no connection can be made"
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// tlsText tells errors of TLS that let no request through: the client's own checks come before it writes. With TLS 1.3
// a server's alert about the client's certificate comes after the client has written, but then the server has not
// finished its handshake; other alerts may come at any time and count only before anything was sent.
func tlsText(err error, sent bool) (string, bool) {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &authority):
		return "the server's certificate is signed by an unknown authority: set tls.caBundle or tls.caRef to the right one", true
	case errors.As(err, &hostname):
		return fmt.Sprintf("the server's certificate is not for %q: use an address that it is for, or set tls.serverName", hostname.Host), true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired or is not yet valid", true
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "the server's certificate does not verify", true
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the server does not speak TLS: is the address http://?", true
	}
	// crypto/tls has no exported type for an alert that came from the other side.
	if _, alert, found := strings.Cut(err.Error(), "remote error: tls: "); found && (!sent || strings.Contains(alert, "certificate")) {
		return "the server ended the TLS handshake (" + scrub(alert) + "): look at tls.clientCertRef", true
	}
	return "", false
}
