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

// lease logs in as the ServiceAccount of the namespace and reads a credential.
func lease(t *testing.T, namespace string) *api.Secret {
	t.Helper()
	token := must(bed.plane.Token(t.Context(), namespace, "orders", "vault"))(t)
	client := must(bed.vault.Login(t.Context(), "kubernetes", "app", token))(t)
	return must(client.Logical().ReadWithContext(t.Context(), "database/creds/orders"))(t)
}

func login(ctx context.Context, credential *api.Secret) error {
	return bed.postgres.Login(ctx, fmt.Sprint(credential.Data["username"]), fmt.Sprint(credential.Data["password"]))
}

func TestALeasedCredentialLogsInUntilItIsRevoked(t *testing.T) {
	account(t, "leasing")
	ctx := t.Context()
	mark := must(bed.vault.Mark())(t)
	credential := lease(t, "leasing")
	check(t, login(ctx, credential))
	if users := must(bed.postgres.Users(ctx, "v-"))(t); len(users) != 1 {
		t.Fatalf("one user was leased, PostgreSQL has %d", len(users))
	}
	if leases := must(bed.vault.Leases(ctx, "database"))(t); len(leases) != 1 || leases[0] != credential.LeaseID {
		t.Fatalf("one lease was made, Vault has %v", leases)
	}
	if reads := must(bed.vault.Requests(mark, `^read database/creds/orders$`))(t); len(reads) != 1 {
		t.Fatalf("one credential was read, the audit log has %d", len(reads))
	}
	check(t, bed.vault.Root.Sys().RevokeWithContext(ctx, credential.LeaseID))
	eventually(t, "the revoked user to be refused", func() (bool, error) { return login(ctx, credential) != nil, nil })
	eventually(t, "the revoked lease to be gone", func() (bool, error) {
		leases, err := bed.vault.Leases(ctx, "database/creds/orders")
		return len(leases) == 0, err
	})
}

func TestAnAccountThatTheAPIServerDoesNotKnowIsRefused(t *testing.T) {
	account(t, "reviewed")
	token := must(bed.plane.Token(t.Context(), "reviewed", "orders", "elsewhere"))(t)
	if _, err := bed.vault.Login(t.Context(), "kubernetes", "app", token); err == nil {
		t.Fatal("a token for another audience logged in")
	}
}

func TestADurableVaultKeepsItsLeasesThroughACrash(t *testing.T) {
	account(t, "crash")
	ctx := t.Context()
	credential := lease(t, "crash")
	tokens := len(must(bed.vault.TokenAccessors(ctx))(t))
	check(t, bed.vault.Kill())
	if _, err := bed.vault.Leases(ctx, "database"); err == nil {
		t.Fatal("a killed Vault answered")
	}
	check(t, bed.vault.Start(ctx))
	if leases := must(bed.vault.Leases(ctx, "database"))(t); len(leases) != 1 {
		t.Fatalf("one lease was stored, after the crash there are %d", len(leases))
	}
	if after := len(must(bed.vault.TokenAccessors(ctx))(t)); after != tokens {
		t.Fatalf("%d tokens before the crash, %d after", tokens, after)
	}
	check(t, bed.vault.Root.Sys().RevokeWithContext(ctx, credential.LeaseID))
}

func TestASealedVaultAnswers503(t *testing.T) {
	check(t, bed.vault.Seal(t.Context()))
	_, err := bed.vault.Leases(t.Context(), "database")
	var refused *api.ResponseError
	if !errors.As(err, &refused) || refused.StatusCode != 503 {
		t.Fatalf("a sealed Vault said %v", err)
	}
	check(t, bed.vault.Unseal(t.Context()))
	must(bed.vault.Leases(t.Context(), "database"))(t)
}

func TestAPausedServerAnswersAgainOnceResumed(t *testing.T) {
	for name, server := range map[string]struct {
		pause, resume func() error
		ask           func(context.Context) error
	}{
		"vault":    {bed.vault.Pause, bed.vault.Resume, func(ctx context.Context) error { _, err := bed.vault.Leases(ctx, "database"); return err }},
		"postgres": {bed.postgres.Pause, bed.postgres.Resume, func(ctx context.Context) error { _, err := bed.postgres.Users(ctx, "v-"); return err }},
		"apiserver": {bed.plane.Pause, bed.plane.Resume, func(ctx context.Context) error {
			_, err := bed.plane.Token(ctx, "default", "default")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, server.pause())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := server.ask(ctx); err == nil {
				t.Error("it answered while it was paused")
			}
			check(t, server.resume())
			eventually(t, "an answer", func() (bool, error) { err := server.ask(t.Context()); return err == nil, err })
		})
	}
}

func TestAStoppedPostgresComesBackWithItsUsers(t *testing.T) {
	ctx := t.Context()
	check(t, bed.postgres.Exec(ctx, `CREATE ROLE kept`))
	check(t, bed.postgres.Stop())
	if _, err := bed.postgres.Users(ctx, "kept"); err == nil {
		t.Fatal("a stopped PostgreSQL answered")
	}
	check(t, bed.postgres.Start(ctx))
	if users := must(bed.postgres.Users(ctx, "kept"))(t); len(users) != 1 {
		t.Fatalf("role kept is lost: %v", users)
	}
}

func TestEnginesWithoutPostgres(t *testing.T) {
	ctx := t.Context()
	account(t, "engines")
	for mount, version := range map[string]int{"kv1": 1, "kv2": 2} {
		check(t, bed.vault.EnableKV(ctx, mount, version))
	}
	check(t, bed.vault.Write(ctx, "kv1/plain", map[string]any{"key": "value"}))
	eventually(t, "kv2 to take a value", func() (bool, error) {
		// Vault upgrades a new mount to version 2 in the background.
		err := bed.vault.Write(ctx, "kv2/data/plain", map[string]any{"data": map[string]any{"key": "value"}})
		return err == nil, err
	})
	check(t, bed.vault.EnableKubernetesSecrets(ctx, "cluster", bed.plane))
	check(t, bed.vault.Write(ctx, "cluster/roles/orders", map[string]any{
		"allowed_kubernetes_namespaces": "engines", "service_account_name": "orders",
	}))
	answer := must(bed.vault.Root.Logical().WriteWithContext(ctx, "cluster/creds/orders", map[string]any{"kubernetes_namespace": "engines"}))(t)
	if answer.LeaseID == "" || answer.Data["service_account_token"] == nil {
		t.Fatal("the kubernetes engine leased no token")
	}
}

func TestTLSIsVerifiedWithTheCAOfThisVault(t *testing.T) {
	vault := must(testbed.StartVault(t.Context(), testbed.VaultOptions{TLS: true, MaxRequestDuration: 3 * time.Second}))(t)
	defer func() { check(t, vault.Close()) }()
	must(vault.TokenAccessors(t.Context()))(t)
	stranger := *vault
	stranger.CA = nil
	client := must(stranger.Client(""))(t)
	if _, err := client.Sys().SealStatusWithContext(t.Context()); err == nil {
		t.Fatal("a client without the CA was served")
	}
}
