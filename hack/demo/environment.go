package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	leasekeeperv1alpha1 "github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Names used in config/, the samples and the README.
const (
	namespace = "shop"
	account   = "orders"
	object    = "orders-db"
	audience  = "vault"
)

// leaseSettings configures the lease TTLs and Vault's port.
type leaseSettings struct {
	// defaultTTL is the TTL after each renewal, and maxTTL the maximum TTL.
	defaultTTL, maxTTL time.Duration
	// vaultPort is used if it is free; 0 means any port.
	vaultPort int
}

var (
	// shortLeases show a whole life in two minutes.
	shortLeases = leaseSettings{defaultTTL: 20 * time.Second, maxTTL: time.Minute}
	// longLeases match config/samples, including Vault's address.
	longLeases = leaseSettings{defaultTTL: time.Hour, maxTTL: 24 * time.Hour, vaultPort: 8200}
)

//go:embed policies/*.hcl
var policies embed.FS

// environment is everything that the demo starts.
type environment struct {
	plane   *testbed.ControlPlane
	vault   *testbed.Vault
	backend backend
	manager *testbed.Manager
	kube    client.Client
}

// start starts the servers, configures Vault, installs leasekeeper from config/, and runs the manager with its
// ServiceAccount.
func (e *environment) start(ctx context.Context, settings leaseSettings, manager string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"Starting etcd, kube-apiserver and kube-controller-manager", func() error { return e.startControlPlane(ctx) }},
		{"Starting Vault", func() error { return e.startVault(ctx, settings) }},
		{"Starting the backend for leased accounts", func() error { return e.startBackend(ctx) }},
		{"Configuring Vault: login roles, policies and leases", func() error { return e.setUpVault(ctx, settings) }},
		{"Installing leasekeeper: CRDs, ServiceAccount, RBAC", func() error { return e.install(ctx) }},
		{"Starting the manager with its ServiceAccount", func() error { return e.startManager(ctx, manager) }},
	} {
		start := time.Now()
		fmt.Printf("%s ...", step.name)
		if err := step.run(); err != nil {
			fmt.Println(" failed")
			return err
		}
		fmt.Printf(" %s\n", seconds(time.Since(start)))
	}
	return nil
}

func (e *environment) startControlPlane(ctx context.Context) (err error) {
	e.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"config/crd/bases"}})
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), leasekeeperv1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	e.kube, err = client.New(e.plane.Config, client.Options{Scheme: scheme})
	return err
}

func (e *environment) startVault(ctx context.Context, settings leaseSettings) (err error) {
	opts := testbed.VaultOptions{}
	if free(settings.vaultPort) {
		opts.Port = settings.vaultPort
	}
	e.vault, err = testbed.StartVault(ctx, opts)
	return err
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// startBackend uses PostgreSQL, or the kubernetes engine if PostgreSQL is not installed.
func (e *environment) startBackend(ctx context.Context) error {
	server, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	switch {
	case err == nil:
		e.backend = &postgres{server: server}
		return nil
	case errors.Is(err, testbed.ErrNoPostgres):
		fmt.Print("\n  PostgreSQL is not installed.\n" +
			"  Using Vault's kubernetes engine instead, which leases ServiceAccounts of this cluster ...")
		e.backend = &cluster{plane: e.plane}
		return nil
	default:
		return err
	}
}

// setUpVault does what a Vault administrator must do: create two login roles with their policies, and an engine to
// lease from.
func (e *environment) setUpVault(ctx context.Context, settings leaseSettings) error {
	if err := e.vault.EnableKubernetesAuth(ctx, "kubernetes", e.plane); err != nil {
		return err
	}
	for name, file := range map[string]string{"orders": e.backend.policy(), "keeper": "keeper.hcl"} {
		rules, err := policies.ReadFile("policies/" + file)
		if err != nil {
			return err
		}
		if err := e.vault.WritePolicy(ctx, name, string(rules)); err != nil {
			return err
		}
	}
	ttl, maxTTL := e.backend.tokenTTL(settings)
	issuer := testbed.KubernetesRole{
		ServiceAccounts: []string{account}, Namespaces: []string{namespace},
		Policies: []string{"orders"}, Audience: audience, TTL: ttl, MaxTTL: maxTTL,
	}
	if err := e.vault.WriteRole(ctx, "kubernetes", "app", issuer); err != nil {
		return err
	}
	keeper := testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{"keeper"}, Audience: audience, TTL: time.Hour,
	}
	if err := e.vault.WriteRole(ctx, "kubernetes", "keeper", keeper); err != nil {
		return err
	}
	return e.backend.setUp(ctx, e.vault, settings)
}

// install applies the manifests and the workload's namespace. The Deployment's pod cannot run without nodes, so the
// demo runs the manager as a process.
func (e *environment) install(ctx context.Context) error {
	for _, args := range [][]string{
		{"apply", "--server-side", "-k", "config/default"},
		{"apply", "-f", "config/samples/00-shop.yaml"},
	} {
		if _, err := e.plane.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) startManager(ctx context.Context, binary string) (err error) {
	// Detect revocations within 5 s, to keep the demo short.
	e.manager, err = testbed.NewManager(ctx, e.plane, binary,
		testbed.ManagerOptions{Flags: []string{"--verify-interval=5s"}})
	if err != nil {
		return err
	}
	return e.manager.Run(ctx)
}

// managerLog returns the end of the manager's log as an error.
func (e *environment) managerLog() error {
	if e.manager == nil {
		return nil
	}
	return errors.New(e.manager.LastWords(15))
}

// Close stops everything, the manager first.
func (e *environment) Close() error {
	var errs []error
	if e.manager != nil {
		errs = append(errs, e.manager.Stop(), e.manager.Close())
	}
	if e.vault != nil {
		errs = append(errs, e.vault.Close())
	}
	if e.backend != nil {
		errs = append(errs, e.backend.close())
	}
	if e.plane != nil {
		errs = append(errs, e.plane.Close())
	}
	return errors.Join(errs...)
}
