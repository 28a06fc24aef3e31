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

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	// vaultLimit is Vault's max_request_duration. requestLimit, the manager's --request-limit, must be longer.
	vaultLimit   = 12 * time.Second
	requestLimit = 18 * time.Second

	// patience bounds every wait. It only decides when a test gives up, so it is long.
	patience = 2 * time.Minute
)

// bed is a cluster with leasekeeper installed, a Vault and a PostgreSQL.
type bed struct {
	*testbed.Bed
	// managerMustRun: the manager must not end before the tests do.
	managerMustRun bool
}

// shared is the bed of all tests that do not harm the manager or the servers.
var shared *bed

// The manager is built twice. The shared beds and the storm run it with the race detector. Beds of single tests use the
// quick one: they start it often, and two cores are few for all that runs at the same time.
var managerBinary, quickManager string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "leasekeeper-e2e-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	managerBinary, quickManager = filepath.Join(dir, "manager"), filepath.Join(dir, "quick")
	if err := errors.Join(buildManager(managerBinary, "-race"), buildManager(quickManager)); err != nil {
		panic(err)
	}
	shared, err = startBed(testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: relaxedElection,
	})
	if err != nil {
		panic(err)
	}
	shared.managerMustRun = true
	code := m.Run()
	err = errors.Join(shared.Close(), planes.close(), behindEngines.Close())
	if bedWithNodes != nil {
		err = errors.Join(err, bedWithNodes.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// startBedWithNodes returns a bed with nodes, whose manager may roll out workloads. All tests that need nodes share it.
var startBedWithNodes = sync.OnceValues(func() (_ *bed, err error) {
	bedWithNodes, err = startBed(testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Rollout: true,
		Flags: append([]string{"--rollout-window=6s"}, relaxedElection...),
	})
	if err == nil {
		bedWithNodes.managerMustRun = true
	}
	return bedWithNodes, err
})

// bedWithNodes is nil until the first test needs it.
var bedWithNodes *bed

// relaxedElection suits shared beds: nothing takes over from their manager, and on a busy machine a leader that must
// renew within 2 s soon loses its lease.
var relaxedElection = []string{
	"--leader-election-lease-duration=60s", "--leader-election-renew-deadline=45s", "--leader-election-retry-period=2s",
}

func buildManager(path string, flags ...string) error {
	args := append(append([]string{"build", "-ldflags=-w", "-o", path}, flags...), "../..")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("building the manager: %w\n%s", err, out)
	}
	return nil
}

// startBed starts everything. The flags of opts are added to flags that keep the tests short.
func startBed(opts testbed.BedOptions) (*bed, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	opts.Root = "../.."
	if opts.Manager == "" {
		opts.Manager = managerBinary
	}
	opts.Flags = append([]string{
		"--leader-election-lease-duration=10s", "--leader-election-renew-deadline=8s",
		"--leader-election-retry-period=500ms", "--request-limit=" + requestLimit.String(),
		"--backend-timeout=3s", "--issue-timeout=10s", "--kube-api-timeout=5s",
		"--provider-interval=5s", "--provider-retry-interval=1s", "--verify-interval=2s",
		"--zap-log-level=debug",
	}, opts.Flags...)
	b, err := testbed.StartBed(ctx, opts)
	return &bed{Bed: b}, err
}

// addReplica starts another replica of the manager.
func (b *bed) addReplica(ctx context.Context) (*testbed.Manager, error) {
	m, err := b.NewManager(ctx)
	if err != nil {
		return nil, err
	}
	return m, m.Run(ctx)
}

// bedSlots bounds how many beds of single tests run at the same time. Each has eight servers. With many of them on two
// cores, Vault gives up requests that take too long, which is not what these tests are about.
var bedSlots = make(chan struct{}, 3)

// awaitSlot waits for a slot and keeps it until the test ends.
func awaitSlot(t *testing.T) {
	bedSlots <- struct{}{}
	t.Cleanup(func() { <-bedSlots })
}

// ownBed is a bed for a test that harms the manager or the servers.
func ownBed(t *testing.T, opts testbed.VaultOptions, flags ...string) *bed {
	t.Helper()
	return ownBedWith(t, testbed.BedOptions{Vault: opts, Flags: flags})
}

// ownBedWith is ownBed with all options.
func ownBedWith(t *testing.T, opts testbed.BedOptions) *bed {
	t.Helper()
	awaitSlot(t)
	opts.Plane = planes.take(t)
	return newBed(t, opts)
}

// newBed starts a bed and stops it after the test.
func newBed(t *testing.T, opts testbed.BedOptions) *bed {
	t.Helper()
	if opts.Manager == "" {
		opts.Manager = quickManager
	}
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

// planePool has the control planes of tests with a bed of their own, between two of these tests. Starting a control
// plane takes as much time as many of the tests.
type planePool struct {
	mu   sync.Mutex
	idle []*testbed.ControlPlane
}

var planes planePool

// take returns a control plane until the test ends. After a failure it is not used again.
func (p *planePool) take(t *testing.T) *testbed.ControlPlane {
	t.Helper()
	plane, err := p.find()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = plane.Close()
			return
		}
		if err := tidy(plane); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle = append(p.idle, plane)
	})
	return plane
}

// tidy prepares a control plane for the next manager.
func tidy(plane *testbed.ControlPlane) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	kube, err := client.New(plane.Config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	leader := &coordinationv1.Lease{}
	leader.Namespace, leader.Name = testbed.ManagerNamespace, "leasekeeper.leasekeeper.io"
	return errors.Join(discard(ctx, kube), client.IgnoreNotFound(kube.Delete(ctx, leader)))
}

func (p *planePool) find() (*testbed.ControlPlane, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		plane := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return plane, nil
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	return testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"../../config/crd/bases"}})
}

func (p *planePool) close() (err error) {
	for _, plane := range p.idle {
		err = errors.Join(err, plane.Close())
	}
	return err
}

// discard deletes leasekeeper's objects without waiting for a manager. It revokes nothing.
func discard(ctx context.Context, kube client.Client, opts ...client.ListOption) error {
	var errs []error
	for _, list := range []client.ObjectList{
		&v1alpha1.DynamicSecretList{}, &v1alpha1.SecretProviderList{}, &v1alpha1.ClusterSecretProviderList{},
		&v1alpha1.LeaseRevocationList{},
	} {
		if err := kube.List(ctx, list, opts...); err != nil {
			errs = append(errs, client.IgnoreNotFound(err)) // its CRD may be gone
			continue
		}
		errs = append(errs, meta.EachListItem(list, func(o runtime.Object) error {
			return deleteAtOnce(ctx, kube, o.(client.Object))
		}))
	}
	return errors.Join(errs...)
}

func deleteAtOnce(ctx context.Context, kube client.Client, o client.Object) error {
	release := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	err := kube.Patch(ctx, o, release)
	if err == nil {
		err = kube.Delete(ctx, o)
	}
	return client.IgnoreNotFound(err)
}
