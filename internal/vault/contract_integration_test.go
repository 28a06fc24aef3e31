//go:build integration

package vault_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend/contract"
)

func TestVaultKeepsTheContract(t *testing.T) {
	contract.Run(t, func(t *testing.T, shape contract.Shape) contract.Subject {
		s := subjectOf(t, shape)
		s.Backend, s.Who, s.Stranger, s.Revoke = connect(t, "app"), who, stranger, revoke
		s.Record.Vault = &v1alpha1.VaultRecord{Namespace: s.Source.Vault.Namespace, Path: s.Source.Vault.Path}
		s.Wait = func(_ *testing.T, d time.Duration) { time.Sleep(d) }
		return s
	})
}

// subjectOf has the source of the shape, and what the tests need of it.
func subjectOf(t *testing.T, shape contract.Shape) contract.Subject {
	switch {
	case shape.Kind == v1alpha1.ResponseStatic:
		path := "kv/" + unique("contract")
		write(t, path, map[string]any{"a": "b"})
		return contract.Subject{
			Source: source(read(path)),
			Change: func(t *testing.T) { write(t, path, map[string]any{"a": "c"}) },
		}
	case shape.Kind == v1alpha1.ResponseScheduled:
		name := staticRole(t)
		return contract.Subject{
			Source: source(read("database/static-creds/" + name)),
			Change: func(t *testing.T) { write(t, "database/rotate-role/"+name, nil) },
		}
	case shape.Kind == v1alpha1.ResponseExpiring && shape.NotRevocable:
		return contract.Subject{Source: source(oidcRole(t, shape.TTL))}
	case shape.Kind == v1alpha1.ResponseExpiring:
		mount, req := pkiRole(t, shape.TTL, false)
		return contract.Subject{Source: source(req), Live: func(t *testing.T) int { return unrevoked(t, mount) }}
	case shape.NotRenewable:
		_, req := pkiRole(t, shape.TTL, true)
		return leasedSubject(req)
	}
	return leasedSubject(databaseRole(t, shape.TTL, shape.MaxTTL))
}

func leasedSubject(req *v1alpha1.VaultRequest) contract.Subject {
	return contract.Subject{Source: source(req), Live: func(t *testing.T) int {
		leases, err := bed.vault.Leases(t.Context(), req.Path)
		must(t, err)
		return len(leases)
	}}
}

func write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	must(t, bed.vault.Write(t.Context(), path, data))
}

func mount(t *testing.T, kind string) string {
	t.Helper()
	path := unique(kind)
	must(t, bed.vault.Root.Sys().MountWithContext(t.Context(), path, &api.MountInput{
		Type: kind, Config: api.MountConfigInput{MaxLeaseTTL: "48h"},
	}))
	t.Cleanup(func() { _ = bed.vault.Root.Sys().UnmountWithContext(context.WithoutCancel(t.Context()), path) })
	return path
}

func parameters(values map[string]string) map[string]apiextensionsv1.JSON {
	all := map[string]apiextensionsv1.JSON{}
	for name, value := range values {
		all[name] = apiextensionsv1.JSON{Raw: []byte(fmt.Sprintf("%q", value))}
	}
	return all
}

// pkiRole mounts a certificate authority with a role.
func pkiRole(t *testing.T, ttl time.Duration, leases bool) (string, *v1alpha1.VaultRequest) {
	t.Helper()
	pki := mount(t, "pki")
	write(t, pki+"/root/generate/internal", map[string]any{"common_name": "root", "ttl": "40h"})
	write(t, pki+"/roles/web", map[string]any{
		"allow_any_name": true, "key_type": "ec", "key_bits": 256, "ttl": ttl.String(), "generate_lease": leases,
	})
	return pki, &v1alpha1.VaultRequest{
		Path: pki + "/issue/web", Method: v1alpha1.MethodWrite,
		Parameters: parameters(map[string]string{"common_name": "web.test"}),
	}
}

// unrevoked counts the certificates of a mount that are not revoked, without the root.
func unrevoked(t *testing.T, pki string) int {
	t.Helper()
	count := func(path string) int {
		list, err := bed.vault.Root.Logical().ListWithContext(t.Context(), path)
		must(t, err)
		if list == nil {
			return 0
		}
		keys, _ := list.Data["keys"].([]any)
		return len(keys)
	}
	return count(pki+"/certs") - 1 - count(pki+"/certs/revoked")
}

// staticRole makes a static role of the database engine.
func staticRole(t *testing.T) string {
	t.Helper()
	name := unique("static")
	must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(`CREATE ROLE %q WITH LOGIN PASSWORD 'initial'`, name)))
	write(t, "database/static-roles/"+name, map[string]any{
		"db_name": "postgres", "username": name, "rotation_period": "1h",
	})
	return name
}

// oidcRole makes a role whose identity tokens last for ttl.
func oidcRole(t *testing.T, ttl time.Duration) *v1alpha1.VaultRequest {
	t.Helper()
	name := unique("oidc")
	write(t, "identity/oidc/key/"+name,
		map[string]any{"allowed_client_ids": "*", "verification_ttl": "2h", "rotation_period": "2h"})
	write(t, "identity/oidc/role/"+name, map[string]any{"key": name, "ttl": ttl.String()})
	return read("identity/oidc/token/" + name)
}
