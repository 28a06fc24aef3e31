package lifecycle

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/lease"
)

func TestARecoveryClearsFailures(t *testing.T) {
	mem := &remembered{}
	mem.freshen(attemptKey{recoveries: 1}, nil)
	mem.tries.Renew, mem.tries.End = lease.Failure{Count: 7}, map[string]lease.Failure{"a": {Count: 2}}
	mem.freshen(attemptKey{recoveries: 1}, nil)
	if mem.tries.Renew.Count != 7 {
		t.Error("they were forgotten without a reason")
	}
	mem.freshen(attemptKey{recoveries: 2}, nil)
	if mem.tries.Renew.Count != 0 || len(mem.tries.End) != 0 {
		t.Errorf("they are remembered: %+v", mem.tries)
	}
}
