package testbed

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// KeeperPolicy is the keeper's policy in the README. Its last line permits listing leases.
const (
	KeeperPolicy = KeeperPolicyWithoutList + `
path "sys/leases/lookup/*"        { capabilities = ["list", "sudo"] }
`
	KeeperPolicyWithoutList = `
path "sys/leases/renew"           { capabilities = ["update"] }
path "sys/leases/lookup"          { capabilities = ["update"] }
path "sys/leases/revoke"          { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/renew-accessor"  { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
`
)

// BedOptions configure a bed.
type BedOptions struct {
	// Root is the root directory of the repository.
	Root string
	// Manager is the path of the manager binary.
	Manager string
	// Flags of all managers.
	Flags []string
	// Vault configures the Vault server.
	Vault VaultOptions
	// VaultCluster starts three Vaults instead of one. Vault must be zero except for MaxRequestDuration.
	VaultCluster bool
	// Install installs leasekeeper's rights instead of config/default, and returns additional flags of all managers.
	Install func(ctx context.Context, plane *ControlPlane) (flags []string, err error)
	// Rollout gives leasekeeper the permissions for rollouts and starts nodes.
	Rollout bool
	// APIProxy puts a proxy between the managers and the API server.
	APIProxy bool
	// Plane is a running control plane to use instead of a new one; Close leaves it running. It must not have Rollout.
	Plane *ControlPlane
}

// Bed is a cluster with leasekeeper installed, a Vault that accepts its ServiceAccounts, a PostgreSQL, and a running
// manager.
type Bed struct {
	Plane *ControlPlane
	Vault *Vault
	// Cluster has the nodes behind Vault; nil without VaultCluster.
	Cluster  *VaultCluster
	Postgres *Postgres
	// Kube is an administrator's client without throttling.
	Kube    client.WithWatch
	Manager *Manager
	// API is the proxy between the managers and the API server; nil without APIProxy.
	API *Proxy

	opts BedOptions
}

// StartBed starts all servers and waits until the manager is ready.
func StartBed(ctx context.Context, opts BedOptions) (*Bed, error) {
	b := &Bed{opts: opts}
	for _, step := range []func() error{
		func() error { return b.startCluster(ctx) },
		func() error { return b.startVault(ctx) },
		func() (err error) { b.Postgres, err = StartPostgres(ctx, PostgresOptions{}); return err },
		func() error { return b.SetUpVault(ctx) },
		func() (err error) { b.Manager, err = b.NewManager(ctx); return err },
		func() error { return b.Manager.Run(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

func (b *Bed) startVault(ctx context.Context) (err error) {
	if !b.opts.VaultCluster {
		b.Vault, err = StartVault(ctx, b.opts.Vault)
		return err
	}
	if b.Cluster, err = StartVaultCluster(ctx, b.opts.Vault); err == nil {
		b.Vault = b.Cluster.Vault
	}
	return err
}

func (b *Bed) startCluster(ctx context.Context) (err error) {
	if b.Plane = b.opts.Plane; b.Plane == nil {
		crds := filepath.Join(b.opts.Root, "config", "crd", "bases")
		if b.Plane, err = StartControlPlane(ctx, ControlPlaneOptions{CRDs: []string{crds}}); err != nil {
			return err
		}
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	if b.Kube, err = client.NewWithWatch(b.Plane.Config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	if b.opts.APIProxy {
		if b.API, err = StartProxy(b.Plane.Config.Host, ProxyOptions{CA: b.Plane.CA, TLS: true}); err != nil {
			return err
		}
	}
	config := "default"
	if b.opts.Rollout {
		config = "rollout"
		b.opts.Flags = append(slices.Clone(b.opts.Flags), "--rollout")
		if err := b.Plane.StartNodes(ctx, NodesOptions{}); err != nil {
			return err
		}
	}
	if b.opts.Install != nil {
		b.Plane.installed = ""
		flags, err := b.opts.Install(ctx, b.Plane)
		b.opts.Flags = append(slices.Clone(b.opts.Flags), flags...)
		return err
	}
	if b.Plane.installed == config {
		return nil // a plane that another bed has used
	}
	_, err = b.Plane.Kubectl(ctx, "apply", "--server-side", "-k", filepath.Join(b.opts.Root, "config", config))
	b.Plane.installed = config
	return err
}

// SetUpVault mounts auth/kubernetes and writes the keeper's role and policy.
func (b *Bed) SetUpVault(ctx context.Context) error {
	return errors.Join(
		b.Vault.EnableKubernetesAuth(ctx, "kubernetes", b.Plane),
		b.Vault.WritePolicy(ctx, "keeper", KeeperPolicy),
		b.Vault.WriteRole(ctx, "kubernetes", "keeper", KubernetesRole{
			ServiceAccounts: []string{ManagerAccount}, Namespaces: []string{ManagerNamespace},
			Policies: []string{"keeper"}, Audience: "vault", TTL: time.Hour,
		}),
	)
}

// NewManager prepares another replica of the manager with additional flags.
func (b *Bed) NewManager(ctx context.Context, flags ...string) (*Manager, error) {
	return b.NewManagerVia(ctx, b.API, flags...)
}

// NewManagerVia is NewManager with its own proxy to the API server; nil for a direct connection.
func (b *Bed) NewManagerVia(ctx context.Context, api *Proxy, flags ...string) (*Manager, error) {
	return NewManager(ctx, b.Plane, b.opts.Manager, ManagerOptions{
		Flags: append(slices.Clone(b.opts.Flags), flags...), Env: []string{"GORACE=halt_on_error=1"}, API: api,
	})
}

// Close stops everything, the manager first. It returns an error if a manager had a data race.
func (b *Bed) Close() error {
	var errs []error
	if b.Manager != nil {
		errs = append(errs, b.Manager.Raced(), b.Manager.Close())
	}
	if b.API != nil {
		errs = append(errs, b.API.Close())
	}
	switch {
	case b.Cluster != nil:
		errs = append(errs, b.Cluster.Close())
	case b.Vault != nil:
		errs = append(errs, b.Vault.Close())
	}
	if b.Postgres != nil {
		errs = append(errs, b.Postgres.Close())
	}
	if b.Plane != nil && b.opts.Plane == nil {
		errs = append(errs, b.Plane.Close())
	}
	return errors.Join(errs...)
}
