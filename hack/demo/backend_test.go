//go:build integration

package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// `make demo` tests the whole demo. This test covers both backends, of which a machine runs only one.
func TestAccountWorksUntilItsLeaseIsRevoked(t *testing.T) {
	if err := os.Chdir("../.."); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, start := range map[string]func(*environment) error{
		"PostgreSQL":        func(e *environment) error { return e.startBackend(ctx) },
		"kubernetes engine": func(e *environment) error { e.backend = &cluster{plane: e.plane}; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := &environment{}
			defer func() { check(t, e.Close()) }()
			check(t, e.startControlPlane(ctx))
			check(t, e.startVault(ctx, shortLeases))
			check(t, start(e))
			check(t, e.setUpVault(ctx, shortLeases))
			for _, args := range [][]string{
				{"create", "namespace", namespace}, {"create", "namespace", testbed.ManagerNamespace},
				{"create", "serviceaccount", account, "-n", namespace},
				{"create", "serviceaccount", testbed.ManagerAccount, "-n", testbed.ManagerNamespace},
			} {
				_, err := e.plane.Kubectl(ctx, args...)
				check(t, err)
			}
			leaseAndRevoke(ctx, t, e)
		})
	}
}

// leaseAndRevoke issues a lease as the workload and revokes it as the keeper, each with only its policy.
func leaseAndRevoke(ctx context.Context, t *testing.T, e *environment) {
	issuer := loginAs(ctx, t, e, namespace, account, "app")
	var secret *api.Secret
	var err error
	if strings.Contains(e.backend.request(), "Write") {
		secret, err = issuer.Logical().WriteWithContext(ctx, "cluster/creds/orders",
			map[string]any{"kubernetes_namespace": namespace})
	} else {
		secret, err = issuer.Logical().ReadWithContext(ctx, "database/creds/orders")
	}
	check(t, err)
	data := map[string][]byte{}
	for key, value := range secret.Data {
		if text, ok := value.(string); ok {
			data[key] = []byte(text)
		}
	}
	_, err = e.backend.login(ctx, data)
	check(t, err)
	if accounts, err := e.backend.accounts(ctx); err != nil || len(accounts) != 1 ||
		accounts[0] != e.backend.accountName(data) {
		t.Fatalf("got accounts %v (%v), want one", accounts, err)
	}
	keeper := loginAs(ctx, t, e, testbed.ManagerNamespace, testbed.ManagerAccount, "keeper")
	if _, err := keeper.Logical().ListWithContext(ctx,
		"sys/leases/lookup/"+e.backend.mount()+"/creds/orders"); err != nil {
		t.Fatalf("the keeper cannot list leases: %v", err)
	}
	// Sys().Revoke would put the lease id into the path, which needs a wider policy.
	_, err = keeper.Logical().WriteWithContext(ctx, "sys/leases/revoke",
		map[string]any{"lease_id": secret.LeaseID, "sync": true})
	check(t, err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := e.backend.login(ctx, data)
		accounts, errList := e.backend.accounts(ctx)
		if err != nil && len(accounts) == 0 && errList == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the account still works after revocation (login: %v, accounts: %v, %v)", err, accounts, errList)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func loginAs(ctx context.Context, t *testing.T, e *environment, namespace, name, role string) *api.Client {
	t.Helper()
	token, err := e.plane.Token(ctx, namespace, name, audience)
	check(t, err)
	client, err := e.vault.Login(ctx, "kubernetes", role, token)
	check(t, err)
	return client
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
