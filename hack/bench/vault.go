package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// The engine is ssh with one-time passwords: the cheapest engine of Vault that gives real leases. It only stores the
// password's hash. A database, a message broker or the API server, which other engines call, would be measured instead
// of leasekeeper. Its leases cannot be renewed; they outlast the run.
const (
	leaseTTL    = "48h"
	tokenTTL    = 48 * time.Hour
	credentials = "/creds/otp"

	// The manager uses these mounts.
	engine, workloadAuth, keeperAuth = "ssh", "kubernetes", "keeper"
	// The bare loop uses mounts of its own, so that its leases are not counted as the manager's.
	bareEngine, bareAuth = "bare-ssh", "bare"
)

// issuing is the pattern of the manager's credential requests in Vault's audit log.
const issuing = "^update " + engine + credentials + "$"

func (s *site) startVault(ctx context.Context) (err error) {
	if s.vault, err = testbed.StartVault(ctx, testbed.VaultOptions{}); err != nil {
		return err
	}
	v := s.vault
	return errors.Join(
		s.enableEngine(ctx, engine), s.enableEngine(ctx, bareEngine),
		s.enableLogin(ctx, workloadAuth, engine), s.enableLogin(ctx, bareAuth, bareEngine),
		v.WritePolicy(ctx, "keeper", testbed.KeeperPolicy),
		v.EnableKubernetesAuth(ctx, keeperAuth, s.plane),
		v.WriteRole(ctx, keeperAuth, "keeper", testbed.KubernetesRole{
			ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
			Policies: []string{"keeper"}, Audience: "vault", TTL: time.Hour,
		}),
	)
}

func (s *site) enableEngine(ctx context.Context, mount string) error {
	input := &api.MountInput{
		Type: "ssh", Config: api.MountConfigInput{DefaultLeaseTTL: leaseTTL, MaxLeaseTTL: leaseTTL},
	}
	if err := s.vault.Root.Sys().MountWithContext(ctx, mount, input); err != nil {
		return err
	}
	return s.vault.Write(ctx, mount+"/roles/otp", map[string]any{
		"key_type": "otp", "default_user": "bench", "cidr_list": "127.0.0.0/8",
	})
}

// enableLogin lets the bench's ServiceAccount log in at the mount and get credentials of the engine.
func (s *site) enableLogin(ctx context.Context, mount, engine string) error {
	return errors.Join(
		s.vault.EnableKubernetesAuth(ctx, mount, s.plane),
		s.vault.WritePolicy(ctx, engine, fmt.Sprintf(`path %q { capabilities = ["update"] }`, engine+credentials)),
		s.vault.WriteRole(ctx, mount, namespace, testbed.KubernetesRole{
			ServiceAccounts: []string{namespace}, Namespaces: []string{namespace},
			Policies: []string{engine}, Audience: "vault", TTL: tokenTTL, MaxTTL: tokenTTL,
		}),
	)
}
