package fake_test

import (
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/backend/contract"
	"github.com/leasekeeper/leasekeeper/internal/backend/fake"
)

func TestTheFakeKeepsTheContract(t *testing.T) {
	contract.Run(t, func(_ *testing.T, shape contract.Shape) contract.Subject {
		clock := testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		b := fake.New(clock)
		b.TTL, b.MaxTTL, b.Unleased = shape.TTL, shape.MaxTTL, shape.Unleased
		b.TokenTTL, b.TokenMaxTTL = time.Hour, 768*time.Hour
		return contract.Subject{
			Backend:  b,
			Who:      backend.Identity{Namespace: "shop", Owner: backend.Owner{Namespace: "shop", Name: "orders", UID: "1"}},
			Stranger: backend.Owner{Namespace: "bank", Name: "orders", UID: "2"},
			Request:  backend.Request{Path: "database/creds/orders"},
			Revoke:   func(_ *testing.T, id string) { b.RevokeBehind(id) },
			Live:     func(*testing.T) int { return len(b.Live()) },
			Wait:     func(_ *testing.T, d time.Duration) { clock.Step(d) },
		}
	})
}
