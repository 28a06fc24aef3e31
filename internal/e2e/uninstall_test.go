//go:build integration

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// TestUninstallLeavesNothing follows docs/uninstall.md on its own cluster: the reports of the drain, the documented
// order, and the recovery from the wrong order.
func TestUninstallLeavesNothing(t *testing.T) {
	t.Parallel()
	awaitSlot(t)
	b := newBed(t, testbed.BedOptions{Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}})
	steps := []struct {
		name string
		test func(*testing.T, *bed)
	}{
		{"drain reports recreated objects and abandoned leases", drainReports},
		{"drain reports what it waits for when it times out", drainTimesOut},
		{"documented order leaves nothing", documentedOrder},
		{"installing again recovers from the wrong order", wrongOrder},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, b) }) {
			return // the next step would fail as well
		}
	}
}

// drain runs the documented command, and returns its output and its exit code.
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

func wantOutput(t *testing.T, out string, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if !strings.Contains(out, piece) {
			t.Errorf("the output does not contain %q", piece)
		}
	}
}

func drainReports(t *testing.T, b *bed) {
	r := newRig(t, b, withProxy())
	// This object exists until the other one is created again.
	abandoned := leaseID(r.ready("orders", deadline(16*time.Second)))
	first := r.ready("more", deadline(4*time.Second))
	r.must(r.proxy.RefuseConnections())
	again := make(chan error, 1)
	go func() {
		// A GitOps tool creates the object again.
		for d := r.get("more"); d != nil && d.UID == first.UID; d = r.get("more") {
			time.Sleep(100 * time.Millisecond)
		}
		again <- r.Kube.Create(context.Background(), r.secret("more"))
	}()
	out, code := b.drain(t)
	r.must(<-again)
	if code != 1 {
		t.Errorf("it ended with %d, want 1", code)
	}
	wantOutput(t, out, "2 left", r.name+"/more was created again", "these leases were abandoned",
		"DynamicSecret "+r.name+"/orders: Abandoned lease "+abandoned, "connection refused")
	if n := len(r.leases()); n != 2 {
		t.Errorf("%d leases are left, want 2", n)
	}
	// The page says to revoke them manually.
	for _, id := range r.leases() {
		r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}))
	}
	r.must(r.Kube.Delete(t.Context(), r.provider()))
}

func drainTimesOut(t *testing.T, b *bed) {
	r := newRig(t, b, withProxy())
	r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	out, code := b.drain(t, "DRAIN_TIMEOUT=25")
	if code != 2 {
		t.Errorf("it ended with %d, want 2", code)
	}
	wantOutput(t, out, "1 still left:", "timed out waiting for:", r.name+"/orders: ", "connection refused")
	r.must(r.proxy.Accept())
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	r.must(r.Kube.Delete(t.Context(), r.provider()))
}

// twoTeams creates two namespaces, each with a provider and three Ready objects.
func twoTeams(t *testing.T, b *bed) []*rig {
	t.Helper()
	teams := []*rig{newRig(t, b), newRig(t, b)}
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
	wantOutput(t, out, "6 left", "no DynamicSecret is left, and no lease was abandoned")
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

// nothingIsLeft expects the cluster to contain nothing that config/default created.
func (b *bed) nothingIsLeft(t *testing.T) {
	t.Helper()
	for _, kind := range []string{
		"customresourcedefinitions", "namespaces", "clusterroles", "clusterrolebindings", "roles", "rolebindings",
		"deployments", "leases",
	} {
		out := b.kubectl(t, "get", kind, "--all-namespaces", "--ignore-not-found", "-o", "name")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "leasekeeper") {
				t.Errorf("left: %s", strings.TrimSpace(line))
			}
		}
	}
	out := b.kubectl(t, "get", "secrets", "--all-namespaces", "-l", v1alpha1.OwnerLabel, "-o", "name")
	if strings.TrimSpace(out) != "" {
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

// install installs leasekeeper as the README says, and starts a manager.
func (b *bed) install(t *testing.T) {
	t.Helper()
	b.kubectl(t, "apply", "--server-side", "-k", "../../config/default")
	m, err := b.addReplica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Manager.Close()
	b.Manager = m
}

func wrongOrder(t *testing.T, b *bed) {
	b.install(t)
	teams := twoTeams(t, b)
	// Without a manager, nothing revokes the leases of what is deleted next.
	if err := b.Manager.Stop(); err != nil {
		t.Fatal(err)
	}
	b.kubectl(t, "delete", "-k", "../../config/default", "--wait=false")
	teams[0].eventually("leasekeeper's namespace to be gone", func() bool {
		return b.kubectl(t, "get", "namespace", testbed.ManagerNamespace, "--ignore-not-found") == ""
	})
	out := b.kubectl(t, "get", "crd", "dynamicsecrets.leasekeeper.io", "-o", "jsonpath={.metadata.deletionTimestamp}")
	if out == "" {
		t.Error("the CRD is not waiting for its objects to be deleted")
	}
	if n := len(teams[0].leases()) + len(teams[1].leases()); n != 6 {
		t.Errorf("%d leases are alive, want 6", n)
	}
	b.install(t)
	// The CRD of SecretProviders was deleted at once, because there were none, and exists again.
	teams[0].eventually("the CRDs that waited to be deleted", func() bool {
		return b.kubectl(t, "get", "crd", "dynamicsecrets.leasekeeper.io", "clustersecretproviders.leasekeeper.io",
			"--ignore-not-found", "-o", "name") == ""
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
