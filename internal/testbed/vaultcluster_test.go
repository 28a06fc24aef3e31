//go:build integration

package testbed_test

import (
	"context"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Whatever happens to the active node, another one takes over and has everything that was stored.
func TestClusterSurvivesTheLossOfItsActiveNode(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cluster := must(testbed.StartVaultCluster(ctx, testbed.VaultOptions{}))(t)
	defer func() { check(t, cluster.Close()) }()
	check(t, cluster.Vault.EnableKV(ctx, "kv", 1))
	for name, lose := range map[string]struct {
		begin, end func(node int) error
	}{
		"killed": {
			func(node int) error { return cluster.Nodes[node].Kill() },
			func(node int) error { return cluster.Nodes[node].Start(ctx) },
		},
		"isolated": {
			func(node int) error { cluster.Isolate(node); return nil },
			func(int) error { cluster.Heal(); return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := must(cluster.AwaitActive(ctx))(t)
			check(t, cluster.Vault.Write(ctx, "kv/"+name, map[string]any{"a": "b"}))
			check(t, lose.begin(before))
			after := must(cluster.AwaitActive(ctx))(t)
			if after == before {
				t.Errorf("node %d is still active", before)
			}
			if kept := must(cluster.Vault.Root.Logical().ReadWithContext(ctx, "kv/"+name))(t); kept == nil {
				t.Error("a value was lost")
			}
			if name == "isolated" {
				eventually(t, "the isolated node to stop being active", func() (bool, error) {
					_, err := cluster.Nodes[before].Root.Logical().ReadWithContext(ctx, "kv/"+name)
					return err != nil, nil
				})
			}
			check(t, lose.end(before))
			check(t, cluster.AwaitVoters(ctx))
		})
	}
	t.Run("steps down", func(t *testing.T) {
		before := must(cluster.AwaitActive(ctx))(t)
		check(t, cluster.StepDown(ctx, before))
		must(cluster.AwaitActive(ctx))(t)
	})
}
