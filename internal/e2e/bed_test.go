//go:build integration

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	managerNamespace = "leasekeeper-system"
	managerAccount   = "leasekeeper"

	// vaultLimit is Vault's max_request_duration here, requestLimit the manager's --request-limit above it.
	vaultLimit   = 9 * time.Second
	requestLimit = 15 * time.Second

	// patience bounds every wait. It is long: it only decides when a test gives up.
	patience = 2 * time.Minute
)

// shared is the bed of all tests that leave the manager and the servers alone.
var shared *bed

// managerBinary is built once, with the race detector.
var managerBinary string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "leasekeeper-e2e-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	managerBinary = filepath.Join(dir, "manager")
	build := exec.Command("go", "build", "-race", "-o", managerBinary, "../..")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the manager: %v\n%s", err, out))
	}
	// On a machine that is busy with many tests a leader that must renew within 2 s is soon none any more; nobody takes
	// over here.
	patient := []string{"--leader-election-lease-duration=60s", "--leader-election-renew-deadline=45s", "--leader-election-retry-period=2s"}
	if shared, err = startBed(managerBinary, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, patient...); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// bed is a cluster with leasekeeper installed, a Vault and a PostgreSQL.
type bed struct {
	binary   string
	args     []string
	env      []string
	plane    *testbed.ControlPlane
	vault    *testbed.Vault
	postgres *testbed.Postgres
	kube     client.Client
	manager  *testbed.Program
	probes   string
	metrics  string
}

// startBed starts everything, the manager with the given flags besides those that make the tests short.
func startBed(binary string, opts testbed.VaultOptions, flags ...string) (*bed, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := &bed{binary: binary}
	for _, step := range []func() error{
		func() error { return b.startCluster(ctx) },
		func() (err error) { b.vault, err = testbed.StartVault(ctx, opts); return err },
		func() (err error) {
			b.postgres, err = testbed.StartPostgres(ctx, testbed.PostgresOptions{})
			return err
		},
		func() error { return b.setUpVault(ctx) },
		func() error { return b.prepareManager(ctx, flags) },
		func() error { return b.startManager(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

func (b *bed) startCluster(ctx context.Context) (err error) {
	if b.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"../../config/crd/bases"}}); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	if b.kube, err = client.New(b.plane.Config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	_, err = b.plane.Kubectl(ctx, "apply", "--server-side", "-k", "../../config/default")
	return err
}

// keeperPolicy is the one that the README shows.
const keeperPolicy = keeperPolicyWithoutList + `
path "sys/leases/lookup/*"        { capabilities = ["list", "sudo"] }
`

const keeperPolicyWithoutList = `
path "sys/leases/renew"           { capabilities = ["update"] }
path "sys/leases/lookup"          { capabilities = ["update"] }
path "sys/leases/revoke"          { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/renew-accessor"  { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
`

func (b *bed) setUpVault(ctx context.Context) error {
	return errors.Join(
		b.vault.EnableKubernetesAuth(ctx, "kubernetes", b.plane),
		b.vault.WritePolicy(ctx, "keeper", keeperPolicy),
		b.vault.WriteRole(ctx, "kubernetes", "keeper", testbed.KubernetesRole{
			ServiceAccounts: []string{managerAccount}, Namespaces: []string{managerNamespace},
			Policies: []string{"keeper"}, Audience: "vault", TTL: time.Hour,
		}),
	)
}

func (b *bed) prepareManager(ctx context.Context, flags []string) error {
	config, err := b.plane.ConfigForServiceAccount(ctx, managerNamespace, managerAccount)
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(filepath.Dir(b.plane.Kubeconfig), "manager.kubeconfig")
	if err := testbed.WriteKubeconfig(kubeconfig, config); err != nil {
		return err
	}
	var addresses [2]string
	for i := range addresses {
		port, err := testbed.FreePort()
		if err != nil {
			return err
		}
		addresses[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	b.probes, b.metrics = "http://"+addresses[0], "http://"+addresses[1]+"/metrics"
	args := append([]string{
		"--health-probe-bind-address=" + addresses[0],
		"--metrics-bind-address=" + addresses[1],
		"--leader-election-namespace=" + managerNamespace,
		"--leader-election-lease-duration=3s", "--leader-election-renew-deadline=2s", "--leader-election-retry-period=500ms",
		"--request-limit=" + requestLimit.String(),
		"--backend-timeout=3s", "--issue-timeout=10s",
		"--provider-interval=5s", "--provider-retry-interval=1s", "--verify-interval=2s",
		"--zap-log-level=debug",
	}, flags...)
	b.args, b.env = args, []string{"KUBECONFIG=" + kubeconfig, "GORACE=halt_on_error=1"}
	b.manager, err = testbed.NewProgram(b.binary, b.args, b.env)
	return err
}

// another starts a second replica, without endpoints of its own.
func (b *bed) another(ctx context.Context) (*testbed.Program, error) {
	args := append(slices.Clone(b.args), "--health-probe-bind-address=0", "--metrics-bind-address=0")
	p, err := testbed.NewProgram(b.binary, args, b.env)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

// startManager starts the manager, again where it has been killed.
func (b *bed) startManager(ctx context.Context) error {
	if err := b.manager.Start(); err != nil {
		return err
	}
	return b.manager.Await(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.probes+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("the manager is not ready: %s", answer.Status)
		}
		return nil
	})
}

// close ends everything, the manager first. A data race that it met is an error.
func (b *bed) close() error {
	var errs []error
	if b.manager != nil {
		if text, err := b.manager.Log(); err == nil && strings.Contains(text, "WARNING: DATA RACE") {
			errs = append(errs, fmt.Errorf("the manager raced:\n%s", text[strings.Index(text, "WARNING: DATA RACE"):]))
		}
		errs = append(errs, b.manager.Close())
	}
	if b.vault != nil {
		errs = append(errs, b.vault.Close())
	}
	if b.postgres != nil {
		errs = append(errs, b.postgres.Close())
	}
	if b.plane != nil {
		errs = append(errs, b.plane.Close())
	}
	return errors.Join(errs...)
}

// ownBed is a bed for a test that does harm to it.
func ownBed(t *testing.T, opts testbed.VaultOptions, flags ...string) *bed {
	t.Helper()
	return ownBedWith(t, managerBinary, opts, flags...)
}

// ownBedWith is ownBed with a manager of its own.
func ownBedWith(t *testing.T, binary string, opts testbed.VaultOptions, flags ...string) *bed {
	t.Helper()
	b, err := startBed(binary, opts, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.lastWords())
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// lastWords is the end of the manager's log.
func (b *bed) lastWords() string {
	text, err := b.manager.Log()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return "the manager's last words:\n" + strings.Join(lines[max(0, len(lines)-40):], "\n")
}
