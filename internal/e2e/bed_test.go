//go:build integration

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	// vaultLimit is Vault's max_request_duration here, requestLimit the manager's --request-limit above it.
	vaultLimit   = 12 * time.Second
	requestLimit = 18 * time.Second

	// patience bounds every wait. It is long: it only decides when a test gives up.
	patience = 2 * time.Minute
)

// bed is a cluster with leasekeeper installed, a Vault and a PostgreSQL.
type bed struct {
	*testbed.Bed
	// lasting: its manager is never to end before the tests have.
	lasting bool
}

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
	if err := buildManager(managerBinary, "-race"); err != nil {
		panic(err)
	}
	if shared, err = startBed(testbed.BedOptions{Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: patient}); err != nil {
		panic(err)
	}
	shared.lasting = true
	code := m.Run()
	err = shared.Close()
	if withNodes != nil {
		err = errors.Join(err, withNodes.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// fleet is a bed with nodes, whose manager may roll workloads out, for all tests that leave it alone.
var fleet = sync.OnceValues(func() (_ *bed, err error) {
	withNodes, err = startBed(testbed.BedOptions{Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Rollout: true,
		Flags: append([]string{"--rollout-window=6s"}, patient...)})
	if err == nil {
		withNodes.lasting = true
	}
	return withNodes, err
})

// withNodes is the bed that fleet has started; nil: nobody asked for it.
var withNodes *bed

// patient election: on a machine that is busy with many tests a leader that must renew within 2 s is soon none any more;
// nobody takes over here.
var patient = []string{"--leader-election-lease-duration=60s", "--leader-election-renew-deadline=45s", "--leader-election-retry-period=2s"}

func buildManager(path string, flags ...string) error {
	args := append(append([]string{"build", "-o", path}, flags...), "../..")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("building the manager: %w\n%s", err, out)
	}
	return nil
}

// startBed starts everything, the manager with the given flags besides those that make the tests short.
func startBed(opts testbed.BedOptions) (*bed, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	opts.Root = "../.."
	if opts.Manager == "" {
		opts.Manager = managerBinary
	}
	opts.Flags = append([]string{
		"--leader-election-lease-duration=10s", "--leader-election-renew-deadline=8s", "--leader-election-retry-period=500ms",
		"--request-limit=" + requestLimit.String(),
		"--backend-timeout=3s", "--issue-timeout=10s", "--kube-api-timeout=5s",
		"--provider-interval=5s", "--provider-retry-interval=1s", "--verify-interval=2s",
		"--zap-log-level=debug",
	}, opts.Flags...)
	b, err := testbed.StartBed(ctx, opts)
	return &bed{Bed: b}, err
}

// another starts a second replica.
func (b *bed) another(ctx context.Context) (*testbed.Manager, error) {
	m, err := b.NewManager(ctx)
	if err != nil {
		return nil, err
	}
	return m, m.Run(ctx)
}

// turns bounds how many beds of single tests stand at the same time. Each is eight servers, and on a machine of two cores
// with many of them Vault gives up requests that take too long, which is not what is tested.
var turns = make(chan struct{}, 4)

// awaitTurn waits until there is room for a bed, and keeps it until the test has ended.
func awaitTurn(t *testing.T) {
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

// ownBed is a bed for a test that does harm to it.
func ownBed(t *testing.T, opts testbed.VaultOptions, flags ...string) *bed {
	t.Helper()
	return ownBedWith(t, testbed.BedOptions{Vault: opts, Flags: flags})
}

// ownBedWith is ownBed with more to choose.
func ownBedWith(t *testing.T, opts testbed.BedOptions) *bed {
	t.Helper()
	awaitTurn(t)
	b, err := startBed(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.Manager.LastWords(40))
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
