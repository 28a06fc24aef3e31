package chaos

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// vaultLoss is one way to lose the active Vault of a cluster. Requests are in progress meanwhile.
type vaultLoss struct {
	name       string
	begin, end func(ctx context.Context, c *testbed.VaultCluster, active int) error
}

var vaultLosses = []vaultLoss{{
	"active Vault killed",
	func(_ context.Context, c *testbed.VaultCluster, active int) error { return c.Nodes[active].Kill() },
	func(ctx context.Context, c *testbed.VaultCluster, active int) error {
		return c.Nodes[active].Start(ctx)
	},
}, {
	"active Vault stepped down",
	func(ctx context.Context, c *testbed.VaultCluster, active int) error { return c.StepDown(ctx, active) },
	func(context.Context, *testbed.VaultCluster, int) error { return nil },
}, {
	"active Vault isolated",
	func(_ context.Context, c *testbed.VaultCluster, active int) error { c.Isolate(active); return nil },
	func(_ context.Context, c *testbed.VaultCluster, _ int) error { c.Heal(); return nil },
}}

// loseActiveVaults loses the active Vault every few seconds, in one way after the other.
func (s *storm) loseActiveVaults(stormCtx, ctx context.Context, random *rand.Rand) error {
	if s.bed.Cluster == nil {
		return nil
	}
	pause := func() bool { return sleep(stormCtx, randomDuration(random, 2*time.Second, 8*time.Second)) }
	for i := 0; pause() && s.awaitFaultsAllowed(stormCtx); i++ {
		down := randomDuration(random, time.Millisecond, 4*time.Second)
		if err := s.loseActiveVault(stormCtx, ctx, vaultLosses[i%len(vaultLosses)], down); err != nil {
			return err
		}
	}
	return nil
}

// loseActiveVault restores the Vault when another one is active.
func (s *storm) loseActiveVault(stormCtx, ctx context.Context, loss vaultLoss, down time.Duration) error {
	s.vaultRunning.Lock()
	defer s.vaultRunning.Unlock()
	cluster := s.bed.Cluster
	active, err := cluster.AwaitActive(ctx)
	if err != nil {
		return err
	}
	stop := s.timeOutage("the active Vault")
	if err := loss.begin(ctx, cluster, active); err != nil {
		return err
	}
	s.count(loss.name)
	_, err = cluster.AwaitActive(ctx)
	stop()
	if err != nil {
		return err
	}
	s.holdOutage(stormCtx, down)
	if err := loss.end(ctx, cluster, active); err != nil {
		return err
	}
	return cluster.AwaitVoters(ctx)
}

// moveClient leads the manager's requests to another Vault of the cluster every few seconds, as a Service does. Most of
// the time that is a standby, and sometimes one that is down or isolated.
func (s *storm) moveClient(stormCtx, _ context.Context, random *rand.Rand) error {
	if s.bed.Cluster == nil {
		return nil
	}
	for sleep(stormCtx, randomDuration(random, 2*time.Second, 6*time.Second)) {
		node := s.bed.Cluster.Nodes[random.IntN(len(s.bed.Cluster.Nodes))]
		if err := s.vault.Retarget(node.Address); err != nil {
			return err
		}
		s.count("client moved to another Vault")
	}
	return nil
}

// orphansAllowed is how many users may exist without a lease. A Vault that is killed, steps down or is isolated while
// it creates a user cannot register the lease, and may be unable to drop the user. Nobody can revoke that user, and it
// is no credential that leasekeeper knows or could know. Each issuance that Vault did not complete may leave one. A
// credential that leasekeeper itself leaked has a lease, and no lease is allowed to remain.
func (e *environment) orphansAllowed() (int, error) {
	if e.bed.Cluster == nil {
		return 0, nil
	}
	entries, err := e.bed.Vault.Audit(0)
	requested := 0
	for _, entry := range entries {
		if entry.Type == "request" && strings.HasPrefix(entry.Path, runName+"/creds/") {
			requested++
		}
	}
	return requested - succeeded(entries, "read "+runName+"/creds/"), err
}

// leases are those of the run, without those that only a lost Vault can have left; see testbed.VaultCluster.Tidy.
func (e *environment) leases(ctx context.Context) ([]string, error) {
	if e.bed.Cluster != nil {
		if err := e.bed.Cluster.Tidy(ctx); err != nil {
			return nil, err
		}
	}
	return e.bed.Vault.Leases(ctx, runName)
}

// leakedUsers are the users in the database, unless lost Vaults may have left all of them.
func (e *environment) leakedUsers(ctx context.Context) ([]string, error) {
	users, err := e.bed.Postgres.Users(ctx, userPrefix)
	if err != nil {
		return nil, err
	}
	allowed, err := e.orphansAllowed()
	if len(users) <= allowed {
		return nil, err
	}
	return users, err
}
