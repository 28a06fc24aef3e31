//go:build integration

package e2e

import "testing"

// TestOnAnIdleMachine runs before all parallel tests. On a busy machine Vault responds too late for these: leases of
// 25 s expire, requests are repeated and cost more, and a revocation has not failed yet when its deadline passes.
func TestOnAnIdleMachine(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"RecoveryFromOutageLongerThanLeases": recoveryFromLongOutage,
		"RotationCost":                       rotationCost,
		"LeaseOfTableOwnerIsAbandoned":       leaseOfTableOwnerIsAbandoned,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}
