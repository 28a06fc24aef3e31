package vault

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// fault maps an answer that is not a success and that its caller has not told apart already. what says what was
// tried, such as `renewing a lease of database/creds/orders`; line is the policy line that it needs, and who the
// identity that lacks it.
func (b *Backend) fault(r reply, what, who, line string, secrets ...string) *backend.Error {
	a, ok := r.parse()
	switch {
	case r.redirect != "":
		return backend.Errorf(backend.Unavailable, "%s: no active node behind %s", what, b.address())
	case !ok || r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout:
		return b.gatewayFault(r, what)
	case r.status == http.StatusForbidden:
		return backend.Errorf(backend.Denied, "%s: policy of %s lacks %s", what, who, line)
	case notServing(r.status):
		return backend.Errorf(backend.Unavailable, "%s: Vault does not serve now (%s): %s", what, statusText(r.status), a.quote(secrets...))
	}
	return backend.Errorf(backend.Failed, "%s: Vault answered %s: %s", what, statusText(r.status), a.quote(secrets...))
}

// gatewayFault is for answers that are not Vault's own.
func (b *Backend) gatewayFault(r reply, what string) *backend.Error {
	switch {
	case strings.Contains(string(r.body[:min(len(r.body), 256)]), "HTTP request to an HTTPS server"):
		return backend.Errorf(backend.TLS, "%s: %s wants TLS: use https:// in the address", what, r.address)
	case r.tooLong:
		return backend.Errorf(backend.NoResponse, "%s: %s answered %s with more than %d MiB", what, r.address, statusText(r.status), maxAnswerBytes>>20)
	case r.status == http.StatusMovedPermanently || r.status == http.StatusFound:
		return backend.Errorf(backend.NoResponse, "%s: %s answered %s, which is not followed: give the address that it leads to", what, r.address, statusText(r.status))
	}
	return backend.Errorf(backend.NoResponse, "%s: %s answered %s, not in Vault's words: a gateway, or another server", what, r.address, statusText(r.status))
}

// notServing are the statuses of a server that is sealed, not active, or limits its rate. 412 asks to come back when
// a standby has caught up.
func notServing(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusPreconditionFailed, 472, 473, 474, 530:
		return true
	}
	return false
}

func statusText(status int) string {
	switch status {
	case 472:
		return "472 Disaster Recovery Secondary"
	case 473:
		return "473 Performance Standby"
	case 474:
		return "474 Standby Without Its Active Node"
	case 530:
		return "530 Removed From The Cluster"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

func succeeded(status int) bool { return status >= 200 && status < 300 }
