package vault

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// notVault is the advice for a response that is not Vault's.
const notVault = "a gateway, or not a Vault server; check the provider's address"

// fault maps a response that is not a success and that its caller does not handle. what is what was attempted, such as
// `renewing a lease of database/creds/orders`. who is the identity that lacks the policy line.
func (b *Backend) fault(r rawResponse, what, who, line string, secrets ...string) *backend.Error {
	a, ok := r.parse()
	switch {
	case r.redirect != "":
		return backend.Errorf(backend.Unavailable, "%s: no active node behind %s", what, b.address())
	case !ok || r.status == http.StatusBadGateway || r.status == http.StatusGatewayTimeout:
		return b.gatewayFault(r, what)
	case notServing(r.status), a.outage():
		return backend.Errorf(backend.Unavailable, "%s: Vault does not serve now (%s): %s",
			what, statusText(r.status), a.errorText(secrets...))
	case r.status == http.StatusForbidden:
		return backend.Errorf(backend.Denied, "%s: policy of %s lacks %s", what, who, line)
	case r.status == http.StatusTooManyRequests:
		return quotaFault(a, what, secrets...)
	}
	return backend.Errorf(backend.Failed, "%s: Vault responded %s: %s",
		what, statusText(r.status), a.errorText(secrets...))
}

// quotaFault is the error for a 429 of Vault. It checks quotas before it routes a request (handleRequest in
// vault/request_handling.go), so nothing was done. A quota concerns a path, a mount, a role, a namespace or all of
// Vault.
func quotaFault(a response, what string, secrets ...string) *backend.Error {
	text := a.errorText(secrets...)
	if a.says(leaseQuota) {
		return backend.Errorf(backend.QuotaExceeded, "%s: Vault refuses new leases and logins: %s: "+
			"revoke leases that nobody needs, or raise the quota; `vault list sys/quotas/lease-count` names the quotas",
			what, text)
	}
	return backend.Errorf(backend.Throttled, "%s: Vault asks to retry later: %s", what, text)
}

// gatewayFault is the error for a response that is not Vault's own.
func (b *Backend) gatewayFault(r rawResponse, what string) *backend.Error {
	head := string(r.body[:min(len(r.body), 256)])
	switch {
	case strings.Contains(head, textsOf(plainHTTP)[0]):
		return backend.Errorf(backend.TLS, "%s: %s requires TLS: use https:// in the address", what, r.address)
	case r.tooLong:
		return backend.Errorf(backend.NoResponse, "%s: %s responded %s with more than %s: %s",
			what, r.address, statusText(r.status), size(r.limit), notVault)
	case r.status == http.StatusMovedPermanently || r.status == http.StatusFound:
		return backend.Errorf(backend.NoResponse, "%s: %s responded %s, which is not followed: "+
			"set the address that it leads to", what, r.address, statusText(r.status))
	}
	return backend.Errorf(backend.NoResponse, "%s: %s responded %s in a form that is not Vault's: %s",
		what, r.address, statusText(r.status), notVault)
}

func size(bytes int) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// unusable is the error for a response to a request of leasekeeper's own that lacks what Vault always sends.
func unusable(r rawResponse, what string) *backend.Error {
	if r.tooLong {
		return backend.Errorf(backend.InvalidResponse, "%s: %s sent more than %s", what, r.address, size(r.limit))
	}
	return backend.Errorf(backend.InvalidResponse,
		"%s: %s sent a response that cannot be used; check the provider's address", what, r.address)
}

// notServing lists the statuses of a server that is sealed or not active. 412 asks the client to retry when a standby
// has caught up.
func notServing(status int) bool {
	switch status {
	case http.StatusServiceUnavailable, http.StatusPreconditionFailed, 472, 473, 474, 530:
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
