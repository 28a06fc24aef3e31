package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// clusterSize tolerates the loss of one node.
const clusterSize = 3

// VaultCluster is three Vaults with raft storage. One is active; the others are standbys, which forward requests to it.
// All traffic between the nodes passes through proxies, so that a node can be isolated.
type VaultCluster struct {
	// Vault is the cluster for an administrator. Its Root client requests the node that AwaitActive found last. Stop,
	// Kill and the like work on the nodes only.
	Vault *Vault
	// Nodes of the cluster.
	Nodes []*Vault

	links *links
	dir   string
}

// clusterNode is what distinguishes a node from a single server.
type clusterNode struct {
	name string
	// listen is where it listens for the other nodes; advertised is the address of the proxy in front of that.
	listen, advertised string
	// audit is the log that all nodes share.
	audit string
	// process is set once it runs.
	process atomic.Pointer[process]
}

// pid of the node; 0: it does not run.
func (n *clusterNode) pid() int {
	if p := n.process.Load(); p != nil {
		return p.pid()
	}
	return 0
}

// storage is the configuration of the node's storage. Leaders are replaced a little faster than by default, and not so
// fast that a busy machine loses them.
func (n *clusterNode) storage(dir string) string {
	return fmt.Sprintf(`storage "raft" {
  path = %q
  node_id = %q
  performance_multiplier = 2
}
cluster_addr = %q`, filepath.Join(dir, "data"), n.name, n.advertised)
}

// StartVaultCluster starts the nodes, and waits until one is active and all can vote.
func StartVaultCluster(ctx context.Context, opts VaultOptions) (*VaultCluster, error) {
	binaries, err := FindBinaries()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("vaults")
	if err != nil {
		return nil, err
	}
	c := &VaultCluster{dir: dir, links: newLinks()}
	if err := c.start(ctx, binaries.Vault, opts); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *VaultCluster) start(ctx context.Context, binary string, opts VaultOptions) error {
	for i := range clusterSize {
		if err := c.launch(ctx, binary, i, opts); err != nil {
			return err
		}
	}
	first := c.Nodes[0]
	if err := first.initialize(ctx); err != nil {
		return err
	}
	var err error
	c.Vault = &Vault{
		Address: first.Address, OpenBao: first.OpenBao, Version: first.Version, dir: c.dir, cluster: first.cluster,
	}
	if c.Vault.Root, err = first.Client(first.Root.Token()); err != nil {
		return err
	}
	// A new node votes after it was healthy for that long.
	if err := c.awaitWrite(ctx, "sys/storage/raft/autopilot/configuration",
		map[string]any{"server_stabilization_time": "1s"}); err != nil {
		return err
	}
	for _, node := range c.Nodes[1:] {
		if err := c.join(ctx, node); err != nil {
			return err
		}
	}
	if err := c.AwaitVoters(ctx); err != nil {
		return err
	}
	_, err = c.AwaitActive(ctx)
	return err
}

func (c *VaultCluster) launch(ctx context.Context, binary string, i int, opts VaultOptions) error {
	port, err := FreePort()
	if err != nil {
		return err
	}
	node := &clusterNode{
		name: fmt.Sprintf("node-%d", i), listen: loopback(port), audit: filepath.Join(c.dir, "audit.log"),
	}
	v := &Vault{dir: filepath.Join(c.dir, node.name), durable: true, cluster: node}
	if err := os.MkdirAll(filepath.Join(v.dir, "data"), 0o700); err != nil {
		return err
	}
	c.Nodes = append(c.Nodes, v)
	if node.advertised, err = c.links.add(node.listen, node.pid); err != nil {
		return err
	}
	node.advertised = "https://" + node.advertised
	if err := v.launch(ctx, binary, opts); err != nil {
		return err
	}
	node.process.Store(v.process)
	return nil
}

// awaitWrite writes as soon as the first node is the leader of the storage, too.
func (c *VaultCluster) awaitWrite(ctx context.Context, path string, data map[string]any) error {
	return c.Nodes[0].process.await(ctx, func(ctx context.Context) error { return c.Vault.Write(ctx, path, data) })
}

func (c *VaultCluster) join(ctx context.Context, node *Vault) error {
	first := c.Nodes[0]
	node.unsealKey = first.unsealKey
	node.Root.SetToken(first.Root.Token())
	_, err := node.Root.Logical().WriteWithContext(ctx, "sys/storage/raft/join",
		map[string]any{"leader_api_addr": first.Address})
	if err != nil {
		return fmt.Errorf("join %s: %w", node.cluster.name, err)
	}
	return node.Unseal(ctx)
}

// AwaitVoters waits until every node has a vote, so that the cluster survives the loss of one.
func (c *VaultCluster) AwaitVoters(ctx context.Context) error {
	return c.poll(ctx, "every node to have a vote", func(ctx context.Context) error {
		response, err := c.Vault.Root.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil || response == nil {
			return fmt.Errorf("no configuration: %w", err)
		}
		config, _ := response.Data["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, raw := range servers {
			if server, _ := raw.(map[string]any); server["voter"] == true {
				voters++
			}
		}
		if voters < clusterSize {
			return fmt.Errorf("%d of %d nodes have a vote", voters, clusterSize)
		}
		return nil
	})
}

// AwaitActive waits until a node is active that is not isolated, and returns its index.
func (c *VaultCluster) AwaitActive(ctx context.Context) (active int, err error) {
	err = c.poll(ctx, "an active node", func(ctx context.Context) error {
		for i, node := range c.Nodes {
			if node.cluster.pid() == 0 || c.links.isIsolated(i) {
				continue
			}
			leader, err := node.Root.Sys().LeaderWithContext(ctx)
			if err != nil || !leader.IsSelf {
				continue
			}
			// It may just have lost the leadership of the storage. A write proves that it has not.
			if err := node.Write(ctx, "auth/token/create", map[string]any{"ttl": "1s"}); err != nil {
				return err
			}
			active = i
			return c.Vault.Root.SetAddress(node.Address)
		}
		return errors.New("no node is active")
	})
	return active, err
}

func (c *VaultCluster) poll(ctx context.Context, what string, ready func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out waiting for %s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// StepDown makes the active node a standby. Another node becomes active, or the same one again.
func (c *VaultCluster) StepDown(ctx context.Context, active int) error {
	return c.Nodes[active].Root.Sys().StepDownWithContext(ctx)
}

// Tidy makes Vault revoke leases whose token does not exist. A Vault that is killed after it stored a lease, and before
// it stored that the lease belongs to its token, leaves such a lease: the revocation of the token does not reach it
// (Register in vault/expiration.go). A lease that a client forgot has a token, so Tidy does not touch it.
func (c *VaultCluster) Tidy(ctx context.Context) error {
	return c.Vault.Write(ctx, "sys/leases/tidy", nil)
}

// Isolate cuts a node off from the other nodes until Heal: nothing that they send arrives, and connections stay open.
// Clients still reach it.
func (c *VaultCluster) Isolate(node int) { c.links.isolate(node) }

// Heal ends Isolate.
func (c *VaultCluster) Heal() { c.links.heal() }

// Close kills the nodes and removes their files.
func (c *VaultCluster) Close() error {
	errs := []error{c.links.close()}
	for _, node := range c.Nodes {
		errs = append(errs, node.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
