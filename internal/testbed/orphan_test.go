//go:build integration

package testbed_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// orphanMode makes this test binary start all servers and wait to be killed.
const orphanMode = "TESTBED_ORPHAN"

func orphanMain() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	plane, errPlane := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{})
	if errPlane == nil {
		errPlane = plane.StartNodes(ctx, testbed.NodesOptions{Count: 1})
	}
	_, errVault := testbed.StartVault(ctx, testbed.VaultOptions{})
	_, errPostgres := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	if err := errors.Join(errPlane, errVault, errPostgres); err != nil {
		panic(err)
	}
	fmt.Println("started")
	select {}
}

func TestServersDieWithAKilledParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), orphanMode+"=1")
	parent.Stderr = os.Stderr
	out := must(parent.StdoutPipe())(t)
	check(t, parent.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("the parent printed %q (%v)", line, err)
	}
	servers := childrenOf(t, parent.Process.Pid)
	if len(servers) != 7 {
		t.Fatalf("got servers %v, want etcd, apiserver, controller-manager, scheduler, kwok, vault and postgres",
			servers)
	}
	check(t, parent.Process.Signal(syscall.SIGKILL))
	_ = parent.Wait()
	for pid, name := range servers {
		eventually(t, name+" to be dead", func() (bool, error) { return dead(pid), nil })
	}
}

// dead reports whether the process has ended. Its new parent may take long to collect its exit code.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.HasPrefix(state, "Z")
}

// childrenOf returns the names of a process's children by pid.
func childrenOf(t *testing.T, parent int) map[int]string {
	t.Helper()
	children := map[int]string{}
	for _, entry := range must(os.ReadDir("/proc"))(t) {
		var pid, ppid int
		if _, err := fmt.Sscanf(entry.Name(), "%d", &pid); err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		head, rest, _ := strings.Cut(string(stat), ") ")
		_, name, _ := strings.Cut(head, "(")
		var state string
		if _, err := fmt.Sscanf(rest, "%s %d", &state, &ppid); err == nil && ppid == parent {
			children[pid] = name
		}
	}
	return children
}
