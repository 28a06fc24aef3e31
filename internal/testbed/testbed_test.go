//go:build integration

package testbed_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// bed is shared. Each test has its own namespace and mounts.
var bed struct {
	plane    *testbed.ControlPlane
	vault    *testbed.Vault
	postgres *testbed.Postgres
}

func TestMain(m *testing.M) {
	if os.Getenv(orphanMode) != "" {
		orphanMain()
		return
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = plane.Close() }()
	vault, err := testbed.StartVault(ctx, testbed.VaultOptions{Durable: true})
	if err != nil {
		panic(err)
	}
	defer func() { _ = vault.Close() }()
	postgres, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = postgres.Close() }()
	bed.plane, bed.vault, bed.postgres = plane, vault, postgres
	if err := setUpVault(ctx); err != nil {
		panic(err)
	}
	return m.Run()
}

const issuerPolicy = `path "database/creds/orders" { capabilities = ["read"] }`

// setUpVault permits role "app" to lease from database/creds/orders.
func setUpVault(ctx context.Context) error {
	v := bed.vault
	if err := v.EnableKubernetesAuth(ctx, "kubernetes", bed.plane); err != nil {
		return err
	}
	if err := v.WritePolicy(ctx, "orders", issuerPolicy); err != nil {
		return err
	}
	if err := v.WriteRole(ctx, "kubernetes", "app", testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: []string{"*"}, Policies: []string{"orders"},
		Audience: "vault", TTL: time.Hour,
	}); err != nil {
		return err
	}
	if err := v.EnableDatabase(ctx, "database", bed.postgres); err != nil {
		return err
	}
	return v.WriteDatabaseRole(ctx, "database", "orders",
		testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 2 * time.Hour})
}

// eventually polls for up to a minute.
func eventually(t *testing.T, what string, condition func() (bool, error)) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ok, err := condition()
		if ok && err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s (last error: %v)", what, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
