//go:build integration

package vault_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// bed is started once: every test uses its own paths.
var bed struct {
	plane    *testbed.ControlPlane
	vault    *testbed.Vault
	postgres *testbed.Postgres
	ldap     *testbed.LDAP
	client   client.Client
	driver   *vault.Driver
}

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var err error
	if bed.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{}); err != nil {
		panic(err)
	}
	defer func() { _ = bed.plane.Close() }()
	if bed.vault, err = testbed.StartVault(ctx, testbed.VaultOptions{TLS: true}); err != nil {
		panic(err)
	}
	defer func() { _ = bed.vault.Close() }()
	if bed.postgres, err = testbed.StartPostgres(ctx, testbed.PostgresOptions{}); err != nil {
		panic(err)
	}
	defer func() { _ = bed.postgres.Close() }()
	if bed.ldap, err = testbed.StartLDAP(ctx, testbed.LDAPOptions{}); err != nil {
		panic(err)
	}
	defer func() { _ = bed.ldap.Close() }()
	if err := setUp(ctx); err != nil {
		panic(err)
	}
	return m.Run()
}

// keeperPolicy is the one of the README.
const keeperPolicy = `
path "sys/leases/renew"           { capabilities = ["update"] }
path "sys/leases/lookup"          { capabilities = ["update"] }
path "sys/leases/revoke"          { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/renew-accessor"  { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
`

// certificatePolicy is what revokes certificates without a lease.
const certificatePolicy = `path "+/revoke" { capabilities = ["update"] }`

const issuerPolicy = `
path "database/creds/*" { capabilities = ["read"] }
path "database/static-creds/*" { capabilities = ["read"] }
path "identity/oidc/token/*" { capabilities = ["read"] }
path "+/sign/*" { capabilities = ["update"] }
path "+/issue/*" { capabilities = ["update"] }
path "kv/*"             { capabilities = ["read"] }
path "kv2/*"            { capabilities = ["read"] }
path "nowhere/*"        { capabilities = ["read"] }
`

func setUp(ctx context.Context) error {
	v := bed.vault
	steps := []func() error{
		func() error { return setUpCluster(ctx) },
		func() error { return v.EnableKubernetesAuth(ctx, "kubernetes", bed.plane) },
		func() error { return v.WritePolicy(ctx, "keeper", keeperPolicy) },
		func() error { return v.WritePolicy(ctx, "certificates", certificatePolicy) },
		func() error { return v.WritePolicy(ctx, "app", issuerPolicy) },
		func() error { return v.EnableDatabase(ctx, "database", bed.postgres) },
		func() error { return v.EnableKV(ctx, "kv", 1) },
		func() error { return v.EnableKV(ctx, "kv2", 2) },
	}
	for name, role := range map[string]testbed.KubernetesRole{
		"app":      {Policies: []string{"app"}, TTL: time.Hour},
		"short":    {Policies: []string{"app"}, TTL: 20 * time.Second, MaxTTL: time.Hour},
		"periodic": {Policies: []string{"app"}, Period: time.Minute},
		"capped":   {Policies: []string{"app"}, TTL: time.Minute, MaxTTL: 10 * time.Minute},
		"batch":    {Policies: []string{"app"}, TTL: time.Hour, More: map[string]any{"token_type": "batch"}},
		"uses":     {Policies: []string{"app"}, TTL: time.Hour, More: map[string]any{"token_num_uses": 2}},
		"nothing":  {TTL: time.Hour},
		"keeper":   {Policies: []string{"keeper", "certificates"}, TTL: time.Hour},
		"bare":     {Policies: []string{"keeper"}, TTL: time.Hour},
		"weak":     {TTL: time.Hour},
	} {
		role.ServiceAccounts, role.Namespaces, role.Audience = []string{"orders", "leasekeeper"}, []string{"*"}, "vault"
		steps = append(steps, func() error { return v.WriteRole(ctx, "kubernetes", name, role) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func setUpCluster(ctx context.Context) (err error) {
	if bed.client, err = client.New(bed.plane.Config, client.Options{}); err != nil {
		return err
	}
	allowed, err := vault.ParseHosts([]string{"127.0.0.1", "vault.invalid"})
	if err != nil {
		return err
	}
	bed.driver = vault.NewDriver(vault.Options{
		Clock: clock.RealClock{}, Kube: vault.NewKube(bed.client, bed.client), AllowedAddresses: allowed,
	})
	for namespace, account := range map[string]string{"shop": "orders", "bank": "orders", "system": "leasekeeper"} {
		for _, object := range []client.Object{
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: namespace}},
		} {
			if err := bed.client.Create(ctx, object); err != nil {
				return err
			}
		}
	}
	return nil
}

var serial int

// unique makes a name that nothing else has.
func unique(name string) string {
	serial++
	return fmt.Sprintf("%s-%d", name, serial)
}

// connect makes a backend whose workloads log in with the role. The keeper's role is "keeper" unless it is changed.
func connect(t *testing.T, role string, changes ...func(*v1alpha1.VaultProvider)) *vault.Backend {
	t.Helper()
	name := unique("vault")
	p := &v1alpha1.ClusterSecretProvider{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1},
		Spec: v1alpha1.ClusterSecretProviderSpec{ProviderSpec: v1alpha1.ProviderSpec{Vault: &v1alpha1.VaultProvider{
			Address: bed.vault.Address, TLS: &v1alpha1.TLSConfig{CABundle: string(bed.vault.CA)},
			Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
				Mount: "kubernetes", Role: role,
				ServiceAccountRef: &v1alpha1.ServiceAccountReference{Name: "orders", Audiences: []string{"vault"}},
			}},
			KeeperAuth: &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
				Mount: "kubernetes", Role: "keeper",
				ServiceAccountRef: &v1alpha1.ServiceAccountReference{
					Name: "leasekeeper", Namespace: "system", Audiences: []string{"vault"},
				},
			}},
		}}},
	}
	for _, change := range changes {
		change(p.Spec.Vault)
	}
	b, err := bed.driver.Backend(t.Context(), p)
	must(t, err)
	t.Cleanup(func() { bed.driver.Forget(p) })
	return b.(*vault.Backend)
}

var (
	owner    = backend.Owner{Namespace: "shop", Name: "orders-db", UID: "uid-of-orders-db"}
	stranger = backend.Owner{Namespace: "bank", Name: "orders-db", UID: "uid-of-another"}
	who      = backend.Identity{Namespace: "shop", Owner: owner}
)

// read is a request without parameters.
func read(path string) *v1alpha1.VaultRequest { return &v1alpha1.VaultRequest{Path: path} }

// source has the request.
func source(req *v1alpha1.VaultRequest) v1alpha1.SecretSource {
	return v1alpha1.SecretSource{Vault: req}
}

// recordOf is the record of a lease or an attempt.
func recordOf(path, id, accessor string) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{
		ID: id, Vault: &v1alpha1.VaultRecord{Address: bed.vault.Address, Path: path, TokenAccessor: accessor},
	}
}

// databaseRole makes a role that nothing else uses.
func databaseRole(t *testing.T, ttl, maxTTL time.Duration) *v1alpha1.VaultRequest {
	t.Helper()
	name := unique("role")
	must(t, bed.vault.WriteDatabaseRole(t.Context(), "database", name,
		testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: maxTTL}))
	return read("database/creds/" + name)
}

// issue logs in, issues and makes the record.
func issue(t *testing.T, b *vault.Backend, req *v1alpha1.VaultRequest) (v1alpha1.LeaseRecord, backend.Response) {
	t.Helper()
	session, err := b.Login(t.Context(), who)
	must(t, err)
	response, err := b.Issue(t.Context(), session, source(req))
	must(t, err)
	return recordOf(req.Path, response.LeaseID, session.Handle), response
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, backend.KindOf(err))
	}
}

// eventually polls until a deadline that only a fault reaches.
func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// stopPostgres stops the database until start is called, or the test ends.
func stopPostgres(t *testing.T) (start func()) {
	t.Helper()
	must(t, bed.postgres.Stop())
	start = sync.OnceFunc(func() { must(t, bed.postgres.Start(context.WithoutCancel(t.Context()))) })
	t.Cleanup(start)
	return start
}
