//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/chaos"
)

// The long ones are `make chaos`.
func TestInAStormOfAllFaultsNothingLeaksAndNothingChangesWithoutACause(t *testing.T) {
	t.Parallel()
	awaitTurn(t)
	report, err := chaos.Run(t.Context(), chaos.Options{
		Seed: uint64(time.Now().UnixNano()), Storm: 50 * time.Second, Objects: 40, Manager: managerBinary, Root: "../..",
		Progress: t.Output(),
	})
	t.Logf("\n%s", report)
	if err != nil {
		t.Error(err)
	}
}

// At hundreds of leases; `make chaos` has thousands of them.
func TestManyLeasesOutliveAnOutageOneProbeAtATimeAndAreWatchedByAListARole(t *testing.T) {
	t.Parallel()
	awaitTurn(t)
	report, err := chaos.Run(t.Context(), chaos.Options{Scale: 200, Manager: quickManager(t), Root: "../..", Progress: t.Output()})
	t.Logf("\n%s", report)
	if err != nil {
		t.Error(err)
	}
}
