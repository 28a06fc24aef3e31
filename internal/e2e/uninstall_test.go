//go:build integration

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// TestUninstallingEndsAllLeasesAndLeavesNothing goes through docs/uninstall.md on a cluster of its own: what is told while it drains, the documented
// order, and the way out of the wrong one.
func TestUninstallingEndsAllLeasesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	steps := []struct {
		name string
		test func(*testing.T, *bed)
	}{
		{"a drain says what comes back and what it abandons", drainTells},
		{"a drain that takes too long says what it waits for", drainGivesUp},
		{"the documented order leaves nothing", documentedOrder},
		{"the wrong order is mended by installing again", wrongOrder},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, b) }) {
			return // the next would only fail too
		}
	}
}

// drain runs the documented command. It returns what it said, and its exit code.
func (b *bed) drain(t *testing.T, env ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../../hack/drain.sh", "--kubeconfig="+b.Plane.Kubeconfig)
	cmd.Env = append(append(os.Environ(), "KUBECTL="+b.Plane.Binaries.Kubectl), env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	t.Logf("hack/drain.sh ended with %d:\n%s", cmd.ProcessState.ExitCode(), out)
	return string(out), cmd.ProcessState.ExitCode()
}

func wantSaid(t *testing.T, out string, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if !strings.Contains(out, piece) {
			t.Errorf("it does not say %q", piece)
		}
	}
}

func drainTells(t *testing.T, b *bed) {
	r := newRoom(t, b, withProxy())
	within := func(deadline time.Duration) func(*v1alpha1.DynamicSecret) {
		return func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RevocationDeadline = metav1.Duration{Duration: deadline} }
	}
	// It is there until the other is made again.
	abandoned := r.ready("orders", within(16*time.Second)).Status.Lease.ID
	first := r.ready("more", within(4*time.Second))
	r.must(r.proxy.RefuseConnections())
	again := make(chan error, 1)
	go func() {
		// As a GitOps tool does.
		for r.get("more") != nil && r.get("more").UID == first.UID {
			time.Sleep(100 * time.Millisecond)
		}
		again <- r.Kube.Create(context.Background(), r.secret("more"))
	}()
	out, code := b.drain(t)
	r.must(<-again)
	if code != 1 {
		t.Errorf("it ended with %d, want 1", code)
	}
	wantSaid(t, out, "2 left", r.name+"/more was made again", "leases were abandoned", "DynamicSecret "+r.name+"/orders: Abandoned lease "+abandoned, "connection refused")
	if n := len(r.leases()); n != 2 {
		t.Errorf("%d leases are left to run out, want 2", n)
	}
	// By hand, as the page says.
	for _, id := range r.leases() {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}))
	}
	r.must(r.Kube.Delete(t.Context(), r.provider()))
}

func drainGivesUp(t *testing.T, b *bed) {
	r := newRoom(t, b, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	out, code := b.drain(t, "DRAIN_TIMEOUT=25")
	if code != 2 {
		t.Errorf("it ended with %d, want 2", code)
	}
	wantSaid(t, out, "1 left still:", "gave up waiting for:", r.name+"/orders: ", "connection refused")
	r.must(r.proxy.Accept())
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	r.must(r.Kube.Delete(t.Context(), r.provider()))
}

// twoTeams is two namespaces with a provider each, and three objects each that are Ready.
func twoTeams(t *testing.T, b *bed) []*room {
	t.Helper()
	teams := []*room{newRoom(t, b), newRoom(t, b)}
	for _, r := range teams {
		for _, name := range []string{"orders", "billing", "reports"} {
			r.ready(name)
		}
		r.untilAlive(3)
	}
	return teams
}

func documentedOrder(t *testing.T, b *bed) {
	teams := twoTeams(t, b)
	out, code := b.drain(t)
	if code != 0 {
		t.Errorf("the drain ended with %d", code)
	}
	wantSaid(t, out, "6 left", "no DynamicSecret is left, and no lease was abandoned")
	for _, r := range teams {
		if leases, tokens, users := r.leases(), r.tokens(), r.users(); len(leases)+len(tokens)+len(users) > 0 {
			t.Errorf("alive after the drain: leases %v, tokens %v, users %v", leases, tokens, users)
		}
		for _, name := range []string{"orders", "billing", "reports"} {
			if r.target(name) != nil {
				t.Errorf("Secret %s/%s is left", r.name, name)
			}
		}
	}
	b.kubectl(t, "delete", "secretproviders.leasekeeper.io", "--all", "--all-namespaces", "--timeout=60s")
	b.kubectl(t, "delete", "clustersecretproviders.leasekeeper.io", "--all", "--timeout=60s")
	b.kubectl(t, "delete", "-k", "../../config/default", "--timeout=60s")
	if err := b.Manager.Stop(); err != nil {
		t.Fatal(err)
	}
	b.nothingIsLeft(t)
}

// nothingIsLeft of what config/default has put into the cluster.
func (b *bed) nothingIsLeft(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"customresourcedefinitions", "namespaces", "clusterroles", "clusterrolebindings", "roles", "rolebindings", "deployments", "leases"} {
		out := b.kubectl(t, "get", kind, "--all-namespaces", "--ignore-not-found", "-o", "name")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "leasekeeper") {
				t.Errorf("left: %s", strings.TrimSpace(line))
			}
		}
	}
	if out := b.kubectl(t, "get", "secrets", "--all-namespaces", "-l", v1alpha1.OwnerLabel, "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("left: %s", out)
	}
}

func (b *bed) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := b.Plane.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// install is the README's, with a manager that runs.
func (b *bed) install(t *testing.T) {
	t.Helper()
	b.kubectl(t, "apply", "--server-side", "-k", "../../config/default")
	m, err := b.another(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Manager.Close()
	b.Manager = m
}

func wrongOrder(t *testing.T, b *bed) {
	b.install(t)
	teams := twoTeams(t, b)
	// The manager goes first, and all else is deleted with nobody there to revoke.
	if err := b.Manager.Stop(); err != nil {
		t.Fatal(err)
	}
	b.kubectl(t, "delete", "-k", "../../config/default", "--wait=false")
	teams[0].eventually("leasekeeper's namespace to be gone", func() bool {
		return b.kubectl(t, "get", "namespace", testbed.ManagerNamespace, "--ignore-not-found") == ""
	})
	if out := b.kubectl(t, "get", "crd", "dynamicsecrets.leasekeeper.io", "-o", "jsonpath={.metadata.deletionTimestamp}"); out == "" {
		t.Error("the CRD does not wait")
	}
	if n := len(teams[0].leases()) + len(teams[1].leases()); n != 6 {
		t.Errorf("%d leases are alive, want 6", n)
	}
	b.install(t)
	// That of SecretProviders, of which there were none, went at once and is there again.
	teams[0].eventually("the CRDs that waited to be gone", func() bool {
		return b.kubectl(t, "get", "crd", "dynamicsecrets.leasekeeper.io", "clustersecretproviders.leasekeeper.io", "--ignore-not-found", "-o", "name") == ""
	})
	for _, r := range teams {
		r.untilAlive(0)
	}
	b.kubectl(t, "delete", "-k", "../../config/default", "--ignore-not-found", "--timeout=60s")
	if err := b.Manager.Stop(); err != nil {
		t.Fatal(err)
	}
	b.nothingIsLeft(t)
}
