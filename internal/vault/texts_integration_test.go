//go:build integration

package vault_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// textsOf are the error texts in an error of Vault's own client.
func textsOf(err error) []string {
	var response *api.ResponseError
	if errors.As(err, &response) {
		return response.Errors
	}
	return nil
}

// provoked makes the server send each of its texts. The result is what it sent.
var provoked = map[string]func(t *testing.T) string{
	"lease not found": func(t *testing.T) string { return about(t, "sys/leases/renew", revokedLease(t)) },
	"invalid lease":   func(t *testing.T) string { return about(t, "sys/leases/lookup", revokedLease(t)) },
	"lease expired":   expiredLease,
	"invalid accessor": func(t *testing.T) string {
		return sent(t, "auth/token/lookup-accessor", map[string]any{"accessor": "unknown"})
	},
	"token not found": func(t *testing.T) string {
		return sent(t, "auth/token/renew", map[string]any{"token": "hvs.unknown"})
	},
	"invalid token": func(t *testing.T) string {
		anonymous, err := bed.vault.Client("hvs.unknown")
		must(t, err)
		_, err = anonymous.Logical().ReadWithContext(t.Context(), "kv/x")
		return strings.Join(textsOf(err), "\n")
	},
	"bad token": func(t *testing.T) string {
		return sent(t, "auth/token/lookup", map[string]any{"token": "hvs.unknown"})
	},
	"Vault is sealed": func(t *testing.T) string {
		must(t, bed.vault.Seal(t.Context()))
		text := sent(t, "sys/leases/lookup", map[string]any{"lease_id": "a/b"})
		must(t, bed.vault.Unseal(context.WithoutCancel(t.Context())))
		return text
	},
	"unsupported operation": func(t *testing.T) string {
		_, err := bed.vault.Root.Logical().DeleteWithContext(t.Context(), "database/creds/x")
		return strings.Join(textsOf(err), "\n")
	},
	"certificate with serial %s not found": func(t *testing.T) string {
		pki, _ := pkiRole(t, time.Hour, false)
		return strings.ReplaceAll(sent(t, pki+"/revoke", map[string]any{"serial_number": "11:22:33:44"}),
			"11:22:33:44", "%s")
	},
	"exceeded the effective max_ttl": func(t *testing.T) string {
		id := leaseOf(t, databaseRole(t, time.Hour, 2*time.Hour).Path)
		response, err := bed.vault.Root.Logical().WriteWithContext(t.Context(), "sys/leases/renew",
			map[string]any{"lease_id": id, "increment": 100 * 3600})
		must(t, err)
		return strings.Join(response.Warnings, "\n")
	},
	"versioned K/V": func(t *testing.T) string {
		response, err := bed.vault.Root.Logical().ReadRawWithContext(t.Context(), "kv2/x")
		if response == nil {
			t.Fatal(err)
		}
		secret, err := api.ParseSecret(response.Body)
		must(t, err)
		return strings.Join(secret.Warnings, "\n")
	},
}

// notProvoked are the texts that no test can make a server send, and why.
var notProvoked = map[string]string{
	"invalid lease ID":                                 "only a token store that lost the lease of a token sends it",
	"namespace is sealed":                              "only a namespace with a seal of its own sends it",
	"node is not active":                               "only a standby of a storage without HA sends it",
	"Vault is in standby mode":                         "a standby redirects or forwards instead",
	"active context canceled after getting state lock": "the moment is too short",
	"no active Vault instance found":                   "a standby must lose the leader while it forwards a request",
	"node is not in HA cluster membership":             "only a node that was removed sends it",
	"cannot write to readonly storage":                 "only an OpenBao before 2.6.2 sends it",
	"storage is read-only":                             "only an OpenBao before 2.6.2 sends it",
	"lease count quota exceeded":                       "Vault Enterprise",

	"local node not active but active cluster node not found": "the moment of a step-down is too short; " +
		"TestAStandbyWithoutALeaderTripsTheBreaker shows what follows",
}

func TestEveryTextIsARealServers(t *testing.T) {
	for _, known := range vault.KnownTexts() {
		other := known.OnlyVault && bed.vault.OpenBao || known.OnlyOpenBao && !bed.vault.OpenBao
		if known.Library || other || notProvoked[known.Text] != "" {
			continue
		}
		provoke := provoked[known.Text]
		if provoke == nil {
			t.Errorf("%q is neither provoked nor listed with a reason", known.Text)
			continue
		}
		t.Run(known.Text, func(t *testing.T) {
			if got := provoke(t); !strings.Contains(got, known.Text) {
				t.Errorf("the server sent %q", got)
			}
		})
	}
}

// sent writes with the root token, and returns the error texts.
func sent(t *testing.T, path string, body map[string]any) string {
	t.Helper()
	_, err := bed.vault.Root.Logical().WriteWithContext(t.Context(), path, body)
	return strings.Join(textsOf(err), "\n")
}

func about(t *testing.T, path, id string) string {
	t.Helper()
	return sent(t, path, map[string]any{"lease_id": id})
}

// leaseOf issues with the root token.
func leaseOf(t *testing.T, path string) string {
	t.Helper()
	response, err := bed.vault.Root.Logical().ReadWithContext(t.Context(), path)
	must(t, err)
	return response.LeaseID
}

func revokedLease(t *testing.T) string {
	t.Helper()
	id := leaseOf(t, databaseRole(t, time.Hour, 2*time.Hour).Path)
	revoke(t, id)
	return id
}

// expiredLease waits for a lease that expires while the database is down, so that Vault still has it.
func expiredLease(t *testing.T) string {
	name := unique("role")
	must(t, bed.vault.WriteDatabaseRole(t.Context(), "database", name,
		testbed.DatabaseRole{DefaultTTL: 2 * time.Second, MaxTTL: time.Hour}))
	id := leaseOf(t, "database/creds/"+name)
	start := stopPostgres(t)
	text := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if text = about(t, "sys/leases/renew", id); strings.Contains(text, "lease expired") {
			break
		}
	}
	start()
	return text
}
