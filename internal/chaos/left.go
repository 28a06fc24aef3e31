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

// deleteAll deletes every object and waits until they are gone.
func (s *site) deleteAll(ctx context.Context) error {
	if err := s.kube.DeleteAllOf(ctx, &v1alpha1.DynamicSecret{}, client.InNamespace(place)); err != nil {
		return err
	}
	var names []string
	err := eventually(ctx, "all objects to be gone", func() (string, error) {
		objects, err := s.objects(ctx)
		names = slices.Sorted(maps.Keys(objects))
		return strings.Join(names, " "), err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.ledgers(ctx, names[:min(len(names), 5)]))
	}
	return nil
}

// nothingLeft: no Secret, no lease, no user, and no token that has asked for a credential.
func (s *site) nothingLeft(ctx context.Context, report *Report) error {
	var leases, users []string
	var tokens tokens
	err := eventually(ctx, "nothing to be left", func() (string, error) {
		secrets, err1 := s.secrets(ctx)
		var err2, err3, err4 error
		leases, err2 = s.bed.Vault.Leases(ctx, place)
		users, err3 = s.bed.Postgres.Users(ctx, userPrefix)
		tokens, err4 = s.tokens(ctx)
		var left []string
		for what, names := range map[string][]string{
			"Secrets": slices.Collect(maps.Keys(secrets)), "leases": leases, "users": users, "issuing tokens": tokens.issuing,
		} {
			if len(names) > 0 {
				left = append(left, what+": "+strings.Join(names, ", "))
			}
		}
		slices.Sort(left)
		return strings.Join(left, "; "), errors.Join(err1, err2, err3, err4)
	})
	report.LeftLeases, report.LeftUsers, report.LeftTokens, report.UnusedLogins = len(leases), len(users), len(tokens.issuing), tokens.unused
	return err
}

// tokens in Vault that workloads of the site logged in for.
type tokens struct {
	// issuing have asked for a credential, by accessor.
	issuing []string
	// unused have not: the answer to their login was lost, or the manager died before it had written down their accessor.
	// They have no lease, nobody knows them, and they expire by themselves.
	unused int
}

func (s *site) tokens(ctx context.Context) (tokens, error) {
	var found tokens
	accessors, err := s.bed.Vault.TokenAccessors(ctx)
	if err != nil {
		return found, err
	}
	asked, err := s.askers()
	if err != nil {
		return found, err
	}
	for _, accessor := range accessors {
		token, err := s.bed.Vault.Root.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		if err != nil || token == nil {
			continue // ended meanwhile
		}
		if meta, _ := token.Data["meta"].(map[string]any); meta["service_account_namespace"] != place {
			continue
		}
		hash, err := s.bed.Vault.AuditHash(ctx, accessor)
		switch {
		case err != nil:
			return found, err
		case asked[hash]:
			found.issuing = append(found.issuing, accessor)
		default:
			found.unused++
		}
	}
	return found, nil
}

// askers are the hashed accessors of the tokens that have asked for a credential.
func (s *site) askers() (map[string]bool, error) {
	requests, err := s.bed.Vault.Requests(0, "^read "+place+"/creds/")
	asked := map[string]bool{}
	for _, r := range requests {
		asked[r.Accessor] = true
	}
	return asked, err
}

// fill counts what Vault and the proxies have seen.
func (s *storm) fill(report *Report) error {
	entries, err1 := s.bed.Vault.Audit(0)
	report.Issued, report.Renewals = done(entries, "read "+place+"/creds/"), done(entries, "update sys/leases/renew")
	report.GivenUp = givenUp(entries)
	toVault, err2 := met(s.vault, vaultRequests)
	toAPI, err3 := met(s.bed.API, apiRequests)
	report.Objects, report.Bystanders = s.opts.Objects, len(s.book.names(bystander))
	report.Kills, report.KillsAtWork, report.Pauses, report.Lives = s.counts[kills], s.counts[worked], s.counts[pauses], s.lives
	report.ClosestCall, report.Longest = s.book.closest, s.longest
	report.Faults, report.Orders = toVault, map[string]int{}
	maps.Copy(report.Faults, toAPI)
	given := map[string]bool{"object created": true}
	for _, o := range orders {
		given[o.name] = true
	}
	for what, n := range s.counts {
		switch {
		case what == kills || what == worked || what == pauses:
		case given[what]:
			report.Orders[what] = n
		default:
			report.Faults[what] = n
		}
	}
	return errors.Join(err1, err2, err3)
}

// done counts the requests that Vault has carried out.
func done(entries []testbed.AuditEntry, prefix string) int {
	n := 0
	for _, e := range entries {
		if e.Type == "response" && e.Error == "" && strings.HasPrefix(e.Operation+" "+e.Path, prefix) {
			n++
		}
	}
	return n
}

// givenUp counts the issues that Vault gave up itself: it says that their context was cancelled, or that their time is over.
func givenUp(entries []testbed.AuditEntry) int {
	n := 0
	for _, e := range entries {
		if e.Type == "response" && strings.HasPrefix(e.Path, place+"/creds/") && strings.Contains(e.Error, "context ") {
			n++
		}
	}
	return n
}
