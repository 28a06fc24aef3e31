//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/chaos"
)

// `make chaos` runs the long storms.
func TestStormLeaksNothingAndReplacesNothingWithoutCause(t *testing.T) {
	t.Parallel()
	awaitSlot(t)
	report, err := chaos.Run(t.Context(), chaos.Options{
		Seed: uint64(time.Now().UnixNano()), Storm: 50 * time.Second,
		Objects: 40, Manager: managerBinary, Root: "../..",
		Progress: t.Output(),
	})
	t.Logf("\n%s", report)
	if err != nil {
		t.Error(err)
	}
}

// `make chaos` does the same with thousands of leases. An unavailable backend gets one probe at a time, and leases are
// verified by one list for each role.
func TestManyLeasesSurviveAnOutage(t *testing.T) {
	t.Parallel()
	awaitSlot(t)
	report, err := chaos.Run(t.Context(), chaos.Options{
		Scale: 200, Manager: quickManager, Root: "../..", Progress: t.Output(),
	})
	t.Logf("\n%s", report)
	if err != nil {
		t.Error(err)
	}
}
