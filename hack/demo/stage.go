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

// The names that config/, the samples and the README use.
const (
	namespace = "shop"
	account   = "orders"
	object    = "orders-db"
	audience  = "vault"
)

// setting says how long leases live and where Vault listens.
type setting struct {
	// defaultTTL is what one renewal gives, maxTTL where renewing ends.
	defaultTTL, maxTTL time.Duration
	// vaultPort is taken if it is free; 0 is any.
	vaultPort int
}

var (
	// shortLeases let a person see a whole life in two minutes.
	shortLeases = setting{defaultTTL: 20 * time.Second, maxTTL: time.Minute}
	// longLeases are what config/samples is written for, its address included.
	longLeases = setting{defaultTTL: time.Hour, maxTTL: 24 * time.Hour, vaultPort: 8200}
)

//go:embed policies/*.hcl
var policies embed.FS

// stage is all that the demo starts.
type stage struct {
	plane   *testbed.ControlPlane
	vault   *testbed.Vault
	backend backend
	manager *testbed.Manager
	kube    client.Client
}

// open starts the servers, sets Vault up, installs leasekeeper as config/ does,
// and runs the manager with the token of its own ServiceAccount.
func (s *stage) open(ctx context.Context, set setting, manager string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"Starting etcd, kube-apiserver and kube-controller-manager", func() error { return s.startControlPlane(ctx) }},
		{"Starting Vault", func() error { return s.startVault(ctx, set) }},
		{"Starting what Vault makes accounts in", func() error { return s.startBackend(ctx) }},
		{"Setting Vault up: who may log in, what may be leased", func() error { return s.setUpVault(ctx, set) }},
		{"Installing leasekeeper: CRDs, ServiceAccount, RBAC", func() error { return s.install(ctx) }},
		{"Starting the manager, with the rights of its ServiceAccount", func() error { return s.startManager(ctx, manager) }},
	} {
		start := time.Now()
		fmt.Printf("%s ...", step.what)
		if err := step.do(); err != nil {
			fmt.Println(" failed")
			return err
		}
		fmt.Printf(" %s\n", seconds(time.Since(start)))
	}
	return nil
}

func (s *stage) startControlPlane(ctx context.Context) (err error) {
	s.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"config/crd/bases"}})
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), leasekeeperv1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	s.kube, err = client.New(s.plane.Config, client.Options{Scheme: scheme})
	return err
}

func (s *stage) startVault(ctx context.Context, set setting) (err error) {
	opts := testbed.VaultOptions{}
	if free(set.vaultPort) {
		opts.Port = set.vaultPort
	}
	s.vault, err = testbed.StartVault(ctx, opts)
	return err
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// startBackend prefers PostgreSQL and does without where it is not installed.
func (s *stage) startBackend(ctx context.Context) error {
	server, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	switch {
	case err == nil:
		s.backend = &postgres{server: server}
		return nil
	case errors.Is(err, testbed.ErrNoPostgres):
		fmt.Print("\n  PostgreSQL is not installed here and could not be.\n" +
			"  Vault's kubernetes engine takes its place: it leases ServiceAccounts of this cluster ...")
		s.backend = &cluster{plane: s.plane}
		return nil
	default:
		return err
	}
}

// setUpVault does what a Vault administrator does before leasekeeper can work:
// two roles to log in by, each with its policy, and something to lease.
func (s *stage) setUpVault(ctx context.Context, set setting) error {
	if err := s.vault.EnableKubernetesAuth(ctx, "kubernetes", s.plane); err != nil {
		return err
	}
	for name, file := range map[string]string{"orders": s.backend.policy(), "keeper": "keeper.hcl"} {
		rules, err := policies.ReadFile("policies/" + file)
		if err != nil {
			return err
		}
		if err := s.vault.WritePolicy(ctx, name, string(rules)); err != nil {
			return err
		}
	}
	ttl, maxTTL := s.backend.tokenTTL(set)
	issuer := testbed.KubernetesRole{
		ServiceAccounts: []string{account}, Namespaces: []string{namespace},
		Policies: []string{"orders"}, Audience: audience, TTL: ttl, MaxTTL: maxTTL,
	}
	if err := s.vault.WriteRole(ctx, "kubernetes", "app", issuer); err != nil {
		return err
	}
	keeper := testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{"keeper"}, Audience: audience, TTL: time.Hour,
	}
	if err := s.vault.WriteRole(ctx, "kubernetes", "keeper", keeper); err != nil {
		return err
	}
	return s.backend.setUp(ctx, s.vault, set)
}

// install applies the manifests that users apply, and the workload's namespace.
// There are no nodes here, so the Deployment's pod never runs: the manager is a
// process of ours instead.
func (s *stage) install(ctx context.Context) error {
	for _, args := range [][]string{
		{"apply", "--server-side", "-k", "config/default"},
		{"apply", "-f", "config/samples/00-shop.yaml"},
	} {
		if _, err := s.plane.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startManager(ctx context.Context, binary string) (err error) {
	// Revocations are noticed within 5 s, so that the story is told in a minute.
	s.manager, err = testbed.NewManager(ctx, s.plane, binary, testbed.ManagerOptions{Flags: []string{"--verify-interval=5s"}})
	if err != nil {
		return err
	}
	return s.manager.Run(ctx)
}

// lastWords is the end of the manager's log, for a story that went wrong.
func (s *stage) lastWords() error {
	if s.manager == nil {
		return nil
	}
	return errors.New(s.manager.LastWords(15))
}

// Close ends everything, the manager first.
func (s *stage) Close() error {
	var errs []error
	if s.manager != nil {
		errs = append(errs, s.manager.Stop(), s.manager.Close())
	}
	if s.vault != nil {
		errs = append(errs, s.vault.Close())
	}
	if s.backend != nil {
		errs = append(errs, s.backend.close())
	}
	if s.plane != nil {
		errs = append(errs, s.plane.Close())
	}
	return errors.Join(errs...)
}
