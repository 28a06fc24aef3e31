package fake_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/backend/contract"
	"github.com/leasekeeper/leasekeeper/internal/backend/fake"
)

var paths = map[v1alpha1.ResponseKind]string{
	"":                         "database/creds/orders",
	v1alpha1.ResponseExpiring:  "pki/issue/orders",
	v1alpha1.ResponseScheduled: "static/orders",
	v1alpha1.ResponseStatic:    "kv/orders",
}

func TestTheFakeKeepsTheContract(t *testing.T) {
	contract.Run(t, harness(func(b backend.Backend, _ clock.PassiveClock) backend.Backend { return b }))
}

// The decorators of the manager change nothing, and hide no ability.
func TestADecoratedBackendKeepsTheContract(t *testing.T) {
	contract.Run(t, harness(func(b backend.Backend, c clock.PassiveClock) backend.Backend {
		p := &v1alpha1.ClusterSecretProvider{}
		limited := backend.NewLimits(c, 32).Wrap(b, p)
		return backend.NewMetrics(prometheus.NewRegistry()).Wrap(limited, p)
	}))
}

// harness makes decorated fakes.
func harness(decorate func(backend.Backend, clock.PassiveClock) backend.Backend) contract.Harness {
	return func(_ *testing.T, shape contract.Shape) contract.Subject {
		c := testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		b := fake.New(c)
		b.TTL, b.MaxTTL = shape.TTL, shape.MaxTTL
		b.Renewable, b.Revocable = !shape.NotRenewable, !shape.NotRevocable
		b.TokenTTL, b.TokenMaxTTL = time.Hour, 768*time.Hour
		path := paths[shape.Kind]
		return contract.Subject{
			Backend: decorate(b, c),
			Who: backend.Identity{
				Namespace: "shop", Owner: backend.Owner{Namespace: "shop", Name: "orders", UID: "1"},
			},
			Stranger: backend.Owner{Namespace: "bank", Name: "orders", UID: "2"},
			Source:   v1alpha1.SecretSource{Vault: &v1alpha1.VaultRequest{Path: path}},
			Record:   v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{Path: path}},
			Revoke:   func(_ *testing.T, id string) { b.RevokeBehind(id) },
			Live:     func(*testing.T) int { return len(b.Live()) + len(b.LiveCertificates()) },
			Change: func(*testing.T) {
				b.SetValue(path, "changed")
				c.Step(b.RotationPeriod)
			},
			Wait: func(_ *testing.T, d time.Duration) { c.Step(d) },
		}
	}
}

func TestUnleasedMakesEveryPathStatic(t *testing.T) {
	b := fake.New(testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)))
	b.Unleased = true
	session, err := b.Login(t.Context(), backend.Identity{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Issue(t.Context(), session, v1alpha1.SecretSource{Vault: &v1alpha1.VaultRequest{Path: paths[""]}})
	if err != nil || got.Kind != v1alpha1.ResponseStatic || b.Issued() != 0 {
		t.Errorf("kind %s, %d issued, %v", got.Kind, b.Issued(), err)
	}
}
