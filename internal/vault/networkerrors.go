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

// classifyNetworkError returns the kind of a network error and a text that is the same for the same fault: Go's own
// texts contain local ports, which change with each attempt. certificateField is where the client's certificate is set.
func classifyNetworkError(
	ctx context.Context, err error, sent bool, certificateField string,
) (backend.ErrorKind, string) {
	if refused := (*refusedAddress)(nil); errors.As(err, &refused) {
		return backend.Misconfigured, refused.Error()
	}
	if text, ok := tlsText(err, sent, certificateField); ok {
		return backend.TLS, text
	}
	cancelled := errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, context.Canceled)
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err)
	if sent {
		switch {
		case cancelled:
			return backend.NoResponse, "the request was cancelled before a response arrived"
		case late:
			return backend.NoResponse, "no response in time"
		}
		return backend.NoResponse, "the connection broke before a response arrived"
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return backend.Unavailable, fmt.Sprintf("the name %q cannot be resolved", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return backend.Unavailable, "connection refused"
	case cancelled:
		return backend.Unavailable, "the request was cancelled before it was sent"
	case late:
		return backend.Unavailable, "no connection in time"
	}
	return backend.Unavailable, "no connection can be established"
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// tlsText recognises TLS errors that let no request through. The client verifies before it writes. With TLS 1.3 a
// server's alert about the client's certificate arrives after the client has written, but then the server has not
// finished its handshake. Other alerts may arrive at any time and count only before anything was sent.
func tlsText(err error, sent bool, certificateField string) (string, bool) {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &authority):
		return "the server's certificate is signed by an unknown authority: " +
			"set tls.caBundle or tls.caRef to its authority", true
	case errors.As(err, &hostname):
		return fmt.Sprintf("the server's certificate is not valid for %q: "+
			"use a name that it is valid for in address, or set tls.serverName", hostname.Host), true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired or is not yet valid", true
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "the server's certificate does not verify", true
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the server does not speak TLS: use http:// in address, or enable TLS on the server", true
	}
	// crypto/tls has no exported type for an alert of the other side.
	_, alert, found := strings.Cut(err.Error(), "remote error: tls: ")
	if found && (!sent || strings.Contains(alert, "certificate")) {
		return "the server rejected the TLS handshake (" + scrub(alert) + "): check " + certificateField, true
	}
	return "", false
}
