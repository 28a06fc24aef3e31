//go:build integration

package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// lease logs in as the namespace's ServiceAccount and reads a credential.
func lease(t *testing.T, namespace string) *api.Secret {
	t.Helper()
	token := must(bed.plane.Token(t.Context(), namespace, "orders", "vault"))(t)
	client := must(bed.vault.Login(t.Context(), "kubernetes", "app", token))(t)
	return must(client.Logical().ReadWithContext(t.Context(), "database/creds/orders"))(t)
}

func login(ctx context.Context, credential *api.Secret) error {
	return bed.postgres.Login(ctx, fmt.Sprint(credential.Data["username"]), fmt.Sprint(credential.Data["password"]))
}

func TestCredentialLogsInUntilItIsRevoked(t *testing.T) {
	account(t, "leasing")
	ctx := t.Context()
	mark := must(bed.vault.Mark())(t)
	credential := lease(t, "leasing")
	check(t, login(ctx, credential))
	if users := must(bed.postgres.Users(ctx, "v-"))(t); len(users) != 1 {
		t.Fatalf("PostgreSQL has %d users, want 1", len(users))
	}
	if leases := must(bed.vault.Leases(ctx, "database"))(t); len(leases) != 1 || leases[0] != credential.LeaseID {
		t.Fatalf("Vault has leases %v, want one", leases)
	}
	if reads := must(bed.vault.Requests(mark, `^read database/creds/orders$`))(t); len(reads) != 1 {
		t.Fatalf("the audit log has %d reads, want 1", len(reads))
	}
	check(t, bed.vault.Root.Sys().RevokeWithContext(ctx, credential.LeaseID))
	eventually(t, "the login of the revoked user to fail",
		func() (bool, error) { return login(ctx, credential) != nil, nil })
	eventually(t, "the revoked lease to be gone", func() (bool, error) {
		leases, err := bed.vault.Leases(ctx, "database/creds/orders")
		return len(leases) == 0, err
	})
}

func TestVaultRejectsTokenOfOtherAudience(t *testing.T) {
	account(t, "reviewed")
	token := must(bed.plane.Token(t.Context(), "reviewed", "orders", "elsewhere"))(t)
	if _, err := bed.vault.Login(t.Context(), "kubernetes", "app", token); err == nil {
		t.Fatal("a token for another audience logged in")
	}
}

func TestDurableVaultKeepsLeasesAfterKill(t *testing.T) {
	account(t, "crash")
	ctx := t.Context()
	credential := lease(t, "crash")
	tokens := len(must(bed.vault.TokenAccessors(ctx))(t))
	check(t, bed.vault.Kill())
	if _, err := bed.vault.Leases(ctx, "database"); err == nil {
		t.Fatal("a killed Vault responded")
	}
	check(t, bed.vault.Start(ctx))
	if leases := must(bed.vault.Leases(ctx, "database"))(t); len(leases) != 1 {
		t.Fatalf("got %d leases after the crash, want 1", len(leases))
	}
	if after := len(must(bed.vault.TokenAccessors(ctx))(t)); after != tokens {
		t.Fatalf("%d tokens before the crash, %d after", tokens, after)
	}
	check(t, bed.vault.Root.Sys().RevokeWithContext(ctx, credential.LeaseID))
}

func TestSealedVaultRespondsWith503(t *testing.T) {
	check(t, bed.vault.Seal(t.Context()))
	_, err := bed.vault.Leases(t.Context(), "database")
	var response *api.ResponseError
	if !errors.As(err, &response) || response.StatusCode != 503 {
		t.Fatalf("a sealed Vault responded with %v", err)
	}
	check(t, bed.vault.Unseal(t.Context()))
	must(bed.vault.Leases(t.Context(), "database"))(t)
}

func TestPausedServerRespondsAfterResume(t *testing.T) {
	for name, server := range map[string]struct {
		pause, resume func() error
		request       func(context.Context) error
	}{
		"vault": {bed.vault.Pause, bed.vault.Resume,
			func(ctx context.Context) error { _, err := bed.vault.Leases(ctx, "database"); return err }},
		"postgres": {bed.postgres.Pause, bed.postgres.Resume,
			func(ctx context.Context) error { _, err := bed.postgres.Users(ctx, "v-"); return err }},
		"apiserver": {bed.plane.Pause, bed.plane.Resume, func(ctx context.Context) error {
			_, err := bed.plane.Token(ctx, "default", "default")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, server.pause())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := server.request(ctx); err == nil {
				t.Error("it responded while paused")
			}
			check(t, server.resume())
			eventually(t, "a response",
				func() (bool, error) { err := server.request(t.Context()); return err == nil, err })
		})
	}
}

func TestRestartedPostgresKeepsItsUsers(t *testing.T) {
	ctx := t.Context()
	check(t, bed.postgres.Exec(ctx, `CREATE ROLE kept`))
	check(t, bed.postgres.Stop())
	if _, err := bed.postgres.Users(ctx, "kept"); err == nil {
		t.Fatal("a stopped PostgreSQL responded")
	}
	check(t, bed.postgres.Start(ctx))
	if users := must(bed.postgres.Users(ctx, "kept"))(t); len(users) != 1 {
		t.Fatalf("role kept was lost: %v", users)
	}
}

func TestKVAndKubernetesEngines(t *testing.T) {
	ctx := t.Context()
	account(t, "engines")
	for mount, version := range map[string]int{"kv1": 1, "kv2": 2} {
		check(t, bed.vault.EnableKV(ctx, mount, version))
	}
	check(t, bed.vault.Write(ctx, "kv1/plain", map[string]any{"key": "value"}))
	eventually(t, "kv2 to accept a value", func() (bool, error) {
		// Vault upgrades a new mount to version 2 in the background.
		err := bed.vault.Write(ctx, "kv2/data/plain", map[string]any{"data": map[string]any{"key": "value"}})
		return err == nil, err
	})
	check(t, bed.vault.EnableKubernetesSecrets(ctx, "cluster", bed.plane))
	check(t, bed.vault.Write(ctx, "cluster/roles/orders", map[string]any{
		"allowed_kubernetes_namespaces": "engines", "service_account_name": "orders",
	}))
	response := must(bed.vault.Root.Logical().WriteWithContext(ctx, "cluster/creds/orders",
		map[string]any{"kubernetes_namespace": "engines"}))(t)
	if response.LeaseID == "" || response.Data["service_account_token"] == nil {
		t.Fatal("the kubernetes engine leased no token")
	}
}

func TestVaultTLSRequiresItsCA(t *testing.T) {
	vault := must(testbed.StartVault(t.Context(),
		testbed.VaultOptions{TLS: true, MaxRequestDuration: 3 * time.Second}))(t)
	defer func() { check(t, vault.Close()) }()
	must(vault.TokenAccessors(t.Context()))(t)
	untrusting := testbed.Vault{Address: vault.Address}
	client := must(untrusting.Client(""))(t)
	if _, err := client.Sys().SealStatusWithContext(t.Context()); err == nil {
		t.Fatal("a client without the CA got a response")
	}
}
