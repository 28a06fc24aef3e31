package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Kinds of servers.
const (
	KindVault   = "Vault"
	KindOpenBao = "OpenBao"
)

// keeperPaths need `update` in the keeper's policy. None needs sudo.
var keeperPaths = []string{
	"auth/token/lookup-accessor",
	"auth/token/renew-accessor",
	"auth/token/revoke-accessor",
	"sys/leases/lookup",
	"sys/leases/renew",
	"sys/leases/revoke",
}

// Inspect implements backend.Inspector: it checks the server's health, logs the keeper in and checks its policy. A
// standby and a performance standby are accepted; they forward.
func (b *Backend) Inspect(ctx context.Context) (backend.Report, error) {
	report, err := b.inspectServer(ctx)
	if b.ignores(b.spec.Namespace) {
		note := "spec.vault.namespace is set, but " + noNamespaces + ": create a provider without it."
		report.Notes = append(report.Notes, strings.ToUpper(note[:1])+note[1:])
		var fault *backend.Error
		if errors.As(err, &fault) {
			told := *fault
			told.Message += "; " + note
			err = &told
		}
	}
	return report, err
}

func (b *Backend) inspectServer(ctx context.Context) (backend.Report, error) {
	report, err := b.health(ctx)
	if err == nil {
		report.Faults = b.knownFaults(ctx, report)
	}
	report.Address, report.Identity = b.address(), b.keeperName()
	if report.Unattended = b.spec.KeeperAuth == nil; report.Unattended {
		report.Notes = []string{"keeperAuth is not set, so leasekeeper uses auth: " +
			"when this namespace is deleted, its remaining leases expire by themselves."}
		report.Accepted = b.spec.Keeperless
		report.Remedy = "Add them to its policy, set spec.vault.keeperAuth, or accept this with " +
			"spec.vault.keeperless: true."
	}
	if err != nil {
		return report, err
	}
	report.Missing, err = b.missing(ctx, keeperPaths)
	if len(report.Missing) > 0 && b.keeperLoginAgain(ctx) {
		report.Missing, err = b.missing(ctx, keeperPaths)
	}
	if err != nil {
		return report, err
	}
	notes, err := b.checkKeeperToken(ctx)
	report.Notes = append(report.Notes, notes...)
	return report, err
}

// LastOutage implements backend.OutageReporter. What a path or a role is refused for is in the scopes.
func (b *Backend) LastOutage() time.Time { return b.breaker.lastDown() }

// healthTimeout is short: a server that does not respond must not occupy a worker for long.
const healthTimeout = 3 * time.Second

type health struct {
	Initialized *bool  `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
	Enterprise  *bool  `json:"enterprise"`
	Standby     bool   `json:"standby"`
}

func (b *Backend) health(ctx context.Context) (backend.Report, error) {
	const what = "requesting the server's health"
	r, err := b.do(ctx, call{method: http.MethodGet, path: "sys/health", exempt: true,
		timeout: min(b.timeout, healthTimeout)})
	if err != nil {
		return backend.Report{}, err
	}
	var h health
	if json.Unmarshal(r.body, &h) != nil || h.Initialized == nil {
		return backend.Report{}, b.gatewayFault(r, what)
	}
	report := backend.Report{ServerKind: serverKind(h), Version: scrub(h.Version)}
	b.withoutNamespaces.Store(withoutNamespaces(h))
	b.standby.Store(h.Standby)
	b.standbysRead.Store(standbysRead(h))
	problem := ""
	switch {
	case !*h.Initialized || r.status == http.StatusNotImplemented:
		problem = "is not initialised: run `vault operator init`"
	case h.Sealed || r.status == http.StatusServiceUnavailable:
		problem = "is sealed: unseal it"
	case r.status == 472:
		problem = "is a disaster recovery secondary, which serves no requests: use the primary's address"
	case r.status == 474:
		problem = "is a standby that does not reach its active node"
	case r.status == 530:
		problem = "was removed from its cluster: use the address of a member"
	case !succeeded(r.status) && r.status != http.StatusTooManyRequests && r.status != 473:
		return report, b.gatewayFault(r, what)
	}
	if problem != "" {
		return report, backend.Errorf(backend.Unavailable, "%s at %s %s", report.ServerKind, b.address(), problem)
	}
	return report, nil
}

// serverKind distinguishes OpenBao from Vault by sys/health, which needs no token. Vault's response has the key
// "enterprise" in every edition; before it had, its versions began with 1. OpenBao's never had the key
// (http/sys_health.go at v2.0.0, v2.2.0, v2.4.0 and main), and its versions begin with 2. The version alone is not
// enough: either may hide it.
func serverKind(h health) string {
	if h.Enterprise != nil || strings.HasPrefix(h.Version, "1.") || strings.HasPrefix(h.Version, "0.") {
		return KindVault
	}
	return KindOpenBao
}

// noNamespaces is what a message says about a server that ignores the namespace of a request.
const noNamespaces = "the server is a Vault of the community edition, or an OpenBao before 2.3: " +
	"it has no namespaces and ignores them"

// earlyOpenBao matches the versions of OpenBao without namespaces, which it has since 2.3.
var earlyOpenBao = regexp.MustCompile(`^v?2\.[0-2]\.`)

// withoutNamespaces is true if the server certainly ignores the namespace of a request.
func withoutNamespaces(h health) bool {
	if h.Enterprise != nil {
		return !*h.Enterprise
	}
	return serverKind(h) == KindOpenBao && earlyOpenBao.MatchString(h.Version)
}

// readingOpenBao matches the versions of OpenBao whose standbys read for themselves: since 2.5.
var readingOpenBao = regexp.MustCompile(`^v?(2\.([5-9]|\d\d+)\.|[3-9]\.|\d\d+\.)`)

// standbysRead is true if a standby of this server may serve reads itself. It lags behind the active node.
func standbysRead(h health) bool {
	if h.Enterprise != nil {
		return *h.Enterprise
	}
	return serverKind(h) == KindOpenBao && readingOpenBao.MatchString(h.Version)
}

// faultyOpenBao matches 2.5.0 to 2.6.1. OpenBao's change log lists the corrections under 2.5.3, 2.6.1 and 2.6.2.
var faultyOpenBao = regexp.MustCompile(`^v?2\.(5\.\d+|6\.[01])($|[^0-9])`)

// knownFaults of the server's version. It costs a request only if the version has one.
func (b *Backend) knownFaults(ctx context.Context, report backend.Report) []string {
	if report.ServerKind != KindOpenBao || !faultyOpenBao.MatchString(report.Version) {
		return nil
	}
	var leader struct {
		HAEnabled *bool `json:"ha_enabled"`
	}
	r, err := b.do(ctx, call{method: http.MethodGet, path: "sys/leader", exempt: true,
		timeout: min(b.timeout, healthTimeout)})
	if err == nil && json.Unmarshal(r.body, &leader) == nil && leader.HAEnabled != nil && !*leader.HAEnabled {
		return nil // it has no standbys
	}
	return []string{"A standby of OpenBao " + report.Version + " may fail to renew and revoke leases, and may create " +
		"a credential without a lease, which nobody can revoke: upgrade to 2.6.2 or later, or set " +
		"disable_standby_reads = true in the configuration of every node."}
}

// ignores is true if the server is known to ignore this namespace.
func (b *Backend) ignores(namespace string) bool {
	return namespace != "" && namespace != "root" && b.withoutNamespaces.Load()
}

// missing returns the policy lines that the keeper lacks: those of these paths on which it has no `update`.
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
		if !hasAll(has[path], "update") {
			missing = append(missing, path+": update")
		}
	}
	slices.Sort(missing)
	return missing, nil
}

const capabilitiesPath = "sys/capabilities-self"

// capabilitiesCall requests the capabilities of a token; empty: that of the keeper's session.
func capabilitiesCall(namespace, token string, paths []string) call {
	return call{method: http.MethodPost, path: capabilitiesPath, namespace: namespace, token: token,
		body: map[string]any{"paths": paths}}
}

// capabilities returns what the keeper may do on these paths.
func (b *Backend) capabilities(
	ctx context.Context, paths []string,
) (has map[string][]string, missing string, err error) {
	r, err := b.asKeeper(ctx, capabilitiesCall(b.spec.Namespace, "", paths))
	if err != nil {
		return nil, "", err
	}
	return b.readCapabilities(r, paths)
}

// readCapabilities reads what a token may do on these paths. The policy `default` permits capabilities-self; if it is
// refused, that line is missing, and nothing is known about the paths.
func (b *Backend) readCapabilities(
	r rawResponse, paths []string,
) (has map[string][]string, missing string, err error) {
	what := "requesting the capabilities of " + b.keeperName()
	a, ok := r.parse()
	switch {
	case r.status == http.StatusForbidden && ok:
		return nil, capabilitiesPath + ": update", nil
	case !succeeded(r.status):
		return nil, "", b.keeperFault(r, what, capabilitiesPath)
	}
	fields := object(a.Data)
	if fields == nil {
		return nil, "", unusable(r, what)
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

// hasAll reports whether the capabilities include all of the required ones.
func hasAll(has []string, required ...string) bool {
	if slices.Contains(has, "root") {
		return true
	}
	return !slices.ContainsFunc(required, func(capability string) bool { return !slices.Contains(has, capability) })
}
