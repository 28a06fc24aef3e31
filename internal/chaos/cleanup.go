package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// deleteAll deletes all objects and waits until they are gone.
func (e *environment) deleteAll(ctx context.Context) error {
	if err := e.kube.DeleteAllOf(ctx, &v1alpha1.DynamicSecret{}, client.InNamespace(runName)); err != nil {
		return err
	}
	var names []string
	err := eventually(ctx, "all objects to be gone", func() (string, error) {
		objects, err := e.objects(ctx)
		names = slices.Sorted(maps.Keys(objects))
		return strings.Join(names, " "), err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, e.ledgers(ctx, names[:min(len(names), 5)]))
	}
	return nil
}

// awaitNothingLeft waits until no Secret, lease, user or issuing token is left.
func (e *environment) awaitNothingLeft(ctx context.Context, report *Report) error {
	var leases, users []string
	var tokens tokens
	err := eventually(ctx, "nothing to be left", func() (string, error) {
		secrets, err1 := e.secrets(ctx)
		var err2, err3, err4 error
		leases, err2 = e.leases(ctx)
		users, err3 = e.leakedUsers(ctx)
		tokens, err4 = e.tokens(ctx)
		var left []string
		for what, names := range map[string][]string{
			"Secrets": slices.Collect(maps.Keys(secrets)), "leases": leases,
			"users": users, "issuing tokens": tokens.issuing,
		} {
			if len(names) > 0 {
				left = append(left, what+": "+strings.Join(names, ", "))
			}
		}
		slices.Sort(left)
		return strings.Join(left, "; "), errors.Join(err1, err2, err3, err4)
	})
	report.LeftLeases, report.LeftUsers = len(leases), len(users)
	report.LeftTokens, report.UnusedLogins = len(tokens.issuing), tokens.unused
	return err
}

// tokens in Vault that belong to workloads of the run.
type tokens struct {
	// issuing lists the accessors of tokens that requested a credential.
	issuing []string
	// unused counts tokens that requested none. The login's response was lost, or the manager was killed before it
	// recorded the accessor. They own no lease and expire.
	unused int
}

func (e *environment) tokens(ctx context.Context) (tokens, error) {
	var found tokens
	accessors, err := e.bed.Vault.TokenAccessors(ctx)
	if err != nil {
		return found, err
	}
	issuing, err := e.issuingTokens()
	if err != nil {
		return found, err
	}
	for _, accessor := range accessors {
		token, err := e.bed.Vault.Root.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		if err != nil || token == nil {
			continue // the token was revoked or has expired
		}
		if meta, _ := token.Data["meta"].(map[string]any); meta["service_account_namespace"] != runName {
			continue
		}
		hash, err := e.bed.Vault.AuditHash(ctx, accessor)
		switch {
		case err != nil:
			return found, err
		case issuing[hash]:
			found.issuing = append(found.issuing, accessor)
		default:
			found.unused++
		}
	}
	return found, nil
}

// issuingTokens returns the hashed accessors of the tokens that requested a credential.
func (e *environment) issuingTokens() (map[string]bool, error) {
	requests, err := e.bed.Vault.Requests(0, "^read "+runName+"/creds/")
	issuing := map[string]bool{}
	for _, r := range requests {
		issuing[r.Accessor] = true
	}
	return issuing, err
}

// fillReport counts what Vault and the proxies recorded.
func (s *storm) fillReport(report *Report) error {
	entries, err1 := s.bed.Vault.Audit(0)
	report.Issued = succeeded(entries, "read "+runName+"/creds/")
	report.Renewals = succeeded(entries, "update sys/leases/renew")
	report.AbandonedByVault = abandonedByVault(entries)
	toVault, err2 := countFaults(s.vault, vaultRequests)
	toAPI, err3 := countFaults(s.bed.API, apiRequests)
	report.Objects, report.Bystanders = s.opts.Objects, len(s.history.names(bystander))
	orphans, err4 := s.bed.Postgres.Users(context.Background(), userPrefix)
	if s.bed.Cluster != nil {
		report.Orphans = len(orphans)
	}
	allowed, err5 := s.orphansAllowed()
	report.OrphansAllowed = allowed
	report.Kills, report.KillsAtWork, report.Pauses = s.counts[kills], s.counts[killsAtWork], s.counts[pauses]
	report.KillIntervals, report.LongestOutage = s.killIntervals, s.longestOutage
	report.ClosestCall = s.history.closestCall
	report.Faults, report.Mutations = toVault, map[string]int{}
	maps.Copy(report.Faults, toAPI)
	isMutation := map[string]bool{"object created": true}
	for _, m := range mutations {
		isMutation[m.name] = true
	}
	for name, n := range s.counts {
		switch {
		case name == kills || name == killsAtWork || name == pauses:
		case isMutation[name]:
			report.Mutations[name] = n
		default:
			report.Faults[name] = n
		}
	}
	return errors.Join(err1, err2, err3, err4, err5)
}

// succeeded counts the requests that Vault completed.
func succeeded(entries []testbed.AuditEntry, prefix string) int {
	n := 0
	for _, e := range entries {
		if e.Type == "response" && e.Error == "" && strings.HasPrefix(e.Operation+" "+e.Path, prefix) {
			n++
		}
	}
	return n
}

// abandonedByVault counts the issuances that Vault canceled or timed out.
func abandonedByVault(entries []testbed.AuditEntry) int {
	n := 0
	for _, e := range entries {
		isIssuance := e.Type == "response" && strings.HasPrefix(e.Path, runName+"/creds/")
		if isIssuance && strings.Contains(e.Error, "context ") {
			n++
		}
	}
	return n
}
