package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Kinds of servers.
const (
	KindVault   = "Vault"
	KindOpenBao = "OpenBao"
)

// keeperPaths are what the keeper needs `update` on. None needs sudo.
var keeperPaths = []string{
	"auth/token/lookup-accessor",
	"auth/token/renew-accessor",
	"auth/token/revoke-accessor",
	"sys/leases/lookup",
	"sys/leases/renew",
	"sys/leases/revoke",
}

// Report is what Inspect finds.
type Report struct {
	// ServerKind is Vault or OpenBao.
	ServerKind string
	// Version as the server tells it; empty where it is set up not to.
	Version string
	// Missing are the policy lines that the keeper lacks, such as `sys/leases/revoke: update`, sorted.
	Missing []string
	// Advised are lines that the keeper can do without and would be better with. Inspect does not fill it in: what
	// they are depends on what is leased.
	Advised []string
}

// Inspect asks the server how it is, logs the keeper in and asks what its policy lacks. What an error leaves unknown is
// left out of the report; the rest is there. A standby and a performance standby are fine, they forward.
func (b *Backend) Inspect(ctx context.Context) (Report, error) {
	report, err := b.health(ctx)
	if err != nil {
		return report, err
	}
	report.Missing, err = b.missing(ctx, keeperPaths)
	if len(report.Missing) > 0 && b.loginAnew(ctx) {
		report.Missing, err = b.missing(ctx, keeperPaths)
	}
	return report, err
}

type health struct {
	Initialized *bool  `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
	Enterprise  *bool  `json:"enterprise"`
}

func (b *Backend) health(ctx context.Context) (Report, error) {
	const what = "asking for the server's health"
	r, err := b.do(ctx, call{method: http.MethodGet, path: "sys/health", exempt: true})
	if err != nil {
		return Report{}, err
	}
	var h health
	if json.Unmarshal(r.body, &h) != nil || h.Initialized == nil {
		return Report{}, b.gatewayFault(r, what)
	}
	report := Report{ServerKind: serverKind(h), Version: scrub(h.Version)}
	why := ""
	switch {
	case !*h.Initialized || r.status == http.StatusNotImplemented:
		why = "is not initialised"
	case h.Sealed || r.status == http.StatusServiceUnavailable:
		why = "is sealed"
	case r.status == 472:
		why = "is a disaster recovery secondary, which serves no requests"
	case r.status == 474:
		why = "is a standby that does not reach its active node"
	case r.status == 530:
		why = "was removed from its cluster"
	case !succeeded(r.status) && r.status != http.StatusTooManyRequests && r.status != 473:
		return report, b.gatewayFault(r, what)
	}
	if why != "" {
		return report, backend.Errorf(backend.Unavailable, "%s at %s %s", report.ServerKind, b.address(), why)
	}
	return report, nil
}

// serverKind tells OpenBao from Vault by sys/health, which needs no token. Vault's has the key "enterprise", in every
// edition, and its versions begin with 1 for as long as it had not; OpenBao's never had it (http/sys_health.go at v2.0.0,
// v2.2.0, v2.4.0 and main) and begins at 2. The version alone would not do: either may hide it.
func serverKind(h health) string {
	if h.Enterprise != nil || strings.HasPrefix(h.Version, "1.") || strings.HasPrefix(h.Version, "0.") {
		return KindVault
	}
	return KindOpenBao
}

// missing asks which of these paths the keeper has no `update` on.
func (b *Backend) missing(ctx context.Context, paths []string) ([]string, error) {
	has, line, err := b.capabilities(ctx, paths)
	if err != nil {
		return nil, err
	}
	if line != "" {
		return []string{line}, nil
	}
	var missing []string
	for _, path := range paths {
		if !covers(has[path], "update") {
			missing = append(missing, path+": update")
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// capabilities asks what the keeper may do with these paths. capabilities-self is answered to everybody who has the policy
// `default`; where it is refused that line is what is missing, and nothing is known of the others.
func (b *Backend) capabilities(ctx context.Context, paths []string) (has map[string][]string, missing string, err error) {
	const path = "sys/capabilities-self"
	r, err := b.asKeeper(ctx, call{
		method: http.MethodPost, path: path, namespace: b.spec.Namespace, body: map[string]any{"paths": paths},
	})
	if err != nil {
		return nil, "", err
	}
	a, ok := r.parse()
	switch {
	case r.status == http.StatusForbidden && ok:
		return nil, path + ": update", nil
	case !succeeded(r.status):
		return nil, "", b.keeperFault(r, "asking what the keeper may do", path)
	}
	fields := object(a.Data)
	if fields == nil {
		return nil, "", backend.Errorf(backend.InvalidResponse, "asking what the keeper may do: %s gave an answer that cannot be used", r.address)
	}
	has = map[string][]string{}
	for _, path := range paths {
		var capabilities []string
		if json.Unmarshal(fields[path], &capabilities) == nil {
			has[path] = capabilities
		}
	}
	return has, "", nil
}

// covers says whether what the keeper has on a path is all of what is wanted.
func covers(has []string, wanted ...string) bool {
	if slices.Contains(has, "root") {
		return true
	}
	return !slices.ContainsFunc(wanted, func(capability string) bool { return !slices.Contains(has, capability) })
}
