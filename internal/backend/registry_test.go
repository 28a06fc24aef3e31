package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

func vaultProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1"}}
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://vault.test:8200"}
	for _, m := range modifiers {
		m(p)
	}
	return p
}

// unknownBackend is a provider that this version cannot serve.
func unknownBackend(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault = nil }

// stubDriver returns its fields.
type stubDriver struct {
	backend       Backend
	err           error
	forgotten     []string
	closed        int
	recoveryCount int64
}

func (s *stubDriver) Backend(context.Context, v1alpha1.Provider) (Backend, error) {
	return s.backend, s.err
}

func (s *stubDriver) Describe(v1alpha1.Provider, Identity, v1alpha1.SecretSource) (v1alpha1.LeaseRecord, error) {
	return v1alpha1.LeaseRecord{RequestDigest: "1:abc"}, s.err
}

func (s *stubDriver) Holds(v1alpha1.Provider, *v1alpha1.LeaseRecord) error { return s.err }

func (s *stubDriver) Recoveries(v1alpha1.Provider) int64 { return s.recoveryCount }

func (s *stubDriver) Forget(p v1alpha1.Provider) { s.forgotten = append(s.forgotten, p.GetName()) }

func (s *stubDriver) Close(context.Context) error {
	s.closed++
	return s.err
}

// stubBackend returns its error from every method.
type stubBackend struct{ err error }

func (s stubBackend) Login(context.Context, Identity) (Session, error) {
	return Session{Handle: "session"}, s.err
}

func (s stubBackend) Issue(context.Context, Session, v1alpha1.SecretSource) (Response, error) {
	return Response{LeaseID: "lease"}, s.err
}

func (s stubBackend) Renew(context.Context, v1alpha1.LeaseRecord, time.Duration) (lease.Term, error) {
	return lease.Term{Duration: time.Hour}, s.err
}

func (s stubBackend) ExtendSession(context.Context, v1alpha1.LeaseRecord, Owner) (lease.Term, error) {
	return lease.Term{Duration: time.Minute}, s.err
}

func (s stubBackend) Revoke(context.Context, v1alpha1.LeaseRecord, Owner) error { return s.err }

func (s stubBackend) Lookup(context.Context, v1alpha1.LeaseRecord) error { return s.err }

// readingBackend has one more ability.
type readingBackend struct{ stubBackend }

func (r readingBackend) Read(context.Context, Identity, v1alpha1.SecretSource) (Response, error) {
	return Response{Kind: v1alpha1.ResponseStatic}, r.err
}

// ableBackend has every ability.
type ableBackend struct{ readingBackend }

func (ableBackend) Folder(*v1alpha1.LeaseRecord) string { return "folder" }

func (a ableBackend) List(context.Context, v1alpha1.LeaseRecord) (map[string]bool, error) {
	return map[string]bool{"lease": true}, a.err
}

func (a ableBackend) Inspect(context.Context) (Report, error) {
	return Report{Version: "1.21.0"}, a.err
}

func (a ableBackend) ListNext(_ context.Context, _ *v1alpha1.LeaseRevocationSpec, l *Listing) error {
	l.IDs, l.Complete = []string{"lease"}, true
	return a.err
}

func (a ableBackend) RevokeAll(context.Context, *v1alpha1.LeaseRevocationSpec) error { return a.err }

func (a ableBackend) RevokeOne(context.Context, *v1alpha1.LeaseRevocationSpec, string, bool) error {
	return a.err
}

func (a ableBackend) Lives(context.Context, *v1alpha1.LeaseRevocationSpec, string) (bool, error) {
	return true, a.err
}

func (ableBackend) Covers(*v1alpha1.LeaseRevocationSpec, *v1alpha1.LeaseRecord) bool { return true }

func TestRegistryUsesTheDriverOfTheProvider(t *testing.T) {
	d := &stubDriver{backend: stubBackend{}, recoveryCount: 3}
	r := NewRegistry()
	r.Register("vault", d)
	p, rec := vaultProvider(), &v1alpha1.LeaseRecord{}
	if b, err := r.Backend(t.Context(), p); b != d.backend || err != nil {
		t.Errorf("backend %v, %v", b, err)
	}
	if err := r.Holds(p, rec); err != nil {
		t.Errorf("holds: %v", err)
	}
	if n := r.Recoveries(p); n != 3 {
		t.Errorf("%d recoveries", n)
	}
	d.err = Errorf(TLS, "the bundle is empty")
	if _, err := r.Backend(t.Context(), p); !errors.Is(err, d.err) {
		t.Errorf("backend: %v", err)
	}
	if err := r.Holds(p, rec); !errors.Is(err, d.err) {
		t.Errorf("holds: %v", err)
	}
}

func TestRegistryRefusesAnUnknownBackend(t *testing.T) {
	r := NewRegistry()
	r.Register("vault", &stubDriver{recoveryCount: 3})
	p := vaultProvider(unknownBackend)
	_, backendErr := r.Backend(t.Context(), p)
	_, describeErr := r.Describe(p, Identity{}, v1alpha1.SecretSource{})
	for method, err := range map[string]error{
		"Backend": backendErr, "Describe": describeErr, "Holds": r.Holds(p, &v1alpha1.LeaseRecord{}),
	} {
		if err == nil || KindOf(err) != Misconfigured {
			t.Errorf("%s: %v", method, err)
		}
	}
	if n := r.Recoveries(p); n != 0 {
		t.Errorf("%d recoveries", n)
	}
	r.Forget(p) // must not panic
}

func TestRegistryDescribeAddsSourceAndProvider(t *testing.T) {
	d := &stubDriver{}
	r := NewRegistry()
	r.Register("vault", d)
	want := v1alpha1.LeaseRecord{Source: "db", RequestDigest: "1:abc",
		Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"}}
	for _, err := range []error{nil, Errorf(NoServiceAccount, "name a ServiceAccount")} {
		d.err = err
		rec, got := r.Describe(vaultProvider(), Identity{}, v1alpha1.SecretSource{Name: "db"})
		if rec != want || !errors.Is(got, err) {
			t.Errorf("got %+v, %v, want %+v, %v", rec, got, want, err)
		}
	}
}

func TestRegistryForgetAndCloseReachEveryDriver(t *testing.T) {
	one, two := &stubDriver{err: errors.New("one")}, &stubDriver{err: errors.New("two")}
	r := NewRegistry()
	r.Register("vault", one)
	r.Register("other", two)
	// The block of a provider that is gone may have changed before.
	r.Forget(vaultProvider())
	if !slices.Equal(one.forgotten, []string{"vault"}) || !slices.Equal(two.forgotten, []string{"vault"}) {
		t.Errorf("forgotten by one: %v, by two: %v", one.forgotten, two.forgotten)
	}
	err := r.Close(t.Context())
	if one.closed != 1 || two.closed != 1 || !errors.Is(err, one.err) || !errors.Is(err, two.err) {
		t.Errorf("closed %d and %d times, %v: one failure must not keep the other sessions open",
			one.closed, two.closed, err)
	}
}

func TestAsFindsAbilitiesBehindDecorators(t *testing.T) {
	m, l := NewMetrics(prometheus.NewRegistry()), NewLimits(testclock.NewFakeClock(time.Time{}), 16)
	plain, reading := stubBackend{}, readingBackend{}
	for name, c := range map[string]struct {
		b    Backend
		want bool
	}{
		"a backend with the ability":    {reading, true},
		"one decorator":                 {m.Wrap(reading, vaultProvider()), true},
		"two decorators":                {m.Wrap(l.Wrap(reading, vaultProvider()), vaultProvider()), true},
		"a backend without the ability": {plain, false},
		"two decorators around it":      {m.Wrap(l.Wrap(plain, vaultProvider()), vaultProvider()), false},
		"no backend":                    {nil, false},
	} {
		reader, ok := As[Reader](c.b)
		if ok != c.want || (reader != nil) != c.want {
			t.Errorf("%s: found %t, want %t", name, ok, c.want)
		}
	}
	if _, ok := As[Lister](m.Wrap(reading, vaultProvider())); ok {
		t.Error("one ability passes for another")
	}
}

func TestRegistryMeasuresItsBackends(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := NewRegistry(NewMetrics(registry))
	r.Register("vault", &stubDriver{backend: readingBackend{}})
	b, err := r.Backend(t.Context(), vaultProvider())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := As[Reader](b); !ok {
		t.Error("the ability is lost")
	}
	_ = b.Lookup(t.Context(), v1alpha1.LeaseRecord{})
	want := map[string]int{"success ClusterSecretProvider vault lookup": 1}
	if got := counted(t, registry); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	r.Forget(vaultProvider())
	if got := counted(t, registry); len(got) != 0 {
		t.Errorf("the series of a provider that is gone remain: %v", got)
	}
}
