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

// The story itself is run by `make demo`; here, both of the backends that it
// may find are shown to do what it relies on.
func TestAnAccountOfEitherBackendWorksUntilItsLeaseIsRevoked(t *testing.T) {
	if err := os.Chdir("../.."); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, start := range map[string]func(*stage) error{
		"PostgreSQL":        func(s *stage) error { return s.startBackend(ctx) },
		"kubernetes engine": func(s *stage) error { s.backend = &cluster{plane: s.plane}; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := &stage{}
			defer func() { check(t, s.Close()) }()
			check(t, s.startControlPlane(ctx))
			check(t, s.startVault(ctx, shortLeases))
			check(t, start(s))
			check(t, s.setUpVault(ctx, shortLeases))
			for _, args := range [][]string{
				{"create", "namespace", namespace}, {"create", "namespace", testbed.ManagerNamespace},
				{"create", "serviceaccount", account, "-n", namespace},
				{"create", "serviceaccount", testbed.ManagerAccount, "-n", testbed.ManagerNamespace},
			} {
				_, err := s.plane.Kubectl(ctx, args...)
				check(t, err)
			}
			livesAndEnds(ctx, t, s)
		})
	}
}

// livesAndEnds leases as the workload and ends as the keeper, each with no more
// than its policy.
func livesAndEnds(ctx context.Context, t *testing.T, s *stage) {
	issuer := loginAs(ctx, t, s, namespace, account, "app")
	var secret *api.Secret
	var err error
	if strings.Contains(s.backend.request(), "Write") {
		secret, err = issuer.Logical().WriteWithContext(ctx, "cluster/creds/orders", map[string]any{"kubernetes_namespace": namespace})
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
	_, err = s.backend.login(ctx, data)
	check(t, err)
	if accounts, err := s.backend.accounts(ctx); err != nil || len(accounts) != 1 || accounts[0] != s.backend.who(data) {
		t.Fatalf("one account was leased, there are %v (%v)", accounts, err)
	}
	keeper := loginAs(ctx, t, s, testbed.ManagerNamespace, testbed.ManagerAccount, "keeper")
	if _, err := keeper.Logical().ListWithContext(ctx, "sys/leases/lookup/"+s.backend.mount()+"/creds/orders"); err != nil {
		t.Fatalf("the keeper's policy does not let it list leases: %v", err)
	}
	// Sys().Revoke would put the id into the path, which needs a policy for all.
	_, err = keeper.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": secret.LeaseID, "sync": true})
	check(t, err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := s.backend.login(ctx, data)
		accounts, errList := s.backend.accounts(ctx)
		if err != nil && len(accounts) == 0 && errList == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after its revocation the account still works (login: %v, accounts: %v, %v)", err, accounts, errList)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func loginAs(ctx context.Context, t *testing.T, s *stage, namespace, name, role string) *api.Client {
	t.Helper()
	token, err := s.plane.Token(ctx, namespace, name, audience)
	check(t, err)
	client, err := s.vault.Login(ctx, "kubernetes", role, token)
	check(t, err)
	return client
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
