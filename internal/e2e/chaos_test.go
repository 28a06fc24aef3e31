//go:build integration

package e2e

import (
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/chaos"
)

// The long one is `make chaos`.
func TestInAStormOfAllFaultsNothingLeaksAndNothingChangesWithoutACause(t *testing.T) {
	t.Parallel()
	report, err := chaos.Run(t.Context(), chaos.Options{
		Seed: uint64(time.Now().UnixNano()), Storm: 50 * time.Second, Objects: 40, Manager: managerBinary, Root: "../..",
		Progress: t.Output(),
	})
	t.Logf("\n%s", report)
	if err != nil {
		t.Error(err)
	}
}
