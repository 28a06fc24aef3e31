package fake_test

import (
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/lease/contract"
	"github.com/leasekeeper/leasekeeper/internal/lease/fake"
)

func TestTheFakeKeepsTheContract(t *testing.T) {
	contract.Run(t, func(_ *testing.T, shape contract.Shape) contract.Subject {
		clock := testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		b := fake.New(clock)
		b.TTL, b.MaxTTL, b.Unleased = shape.TTL, shape.MaxTTL, shape.Unleased
		b.TokenTTL, b.TokenMaxTTL = time.Hour, 768*time.Hour
		return contract.Subject{
			Lessor:   b,
			Who:      lease.Identity{Namespace: "shop", Owner: lease.Owner{Namespace: "shop", Name: "orders", UID: "1"}},
			Stranger: lease.Owner{Namespace: "bank", Name: "orders", UID: "2"},
			Request:  lease.Request{Path: "database/creds/orders"},
			Revoke:   func(_ *testing.T, id string) { b.Revoke(id) },
			Live:     func(*testing.T) int { return len(b.Live()) },
			Wait:     func(_ *testing.T, d time.Duration) { clock.Step(d) },
		}
	})
}
