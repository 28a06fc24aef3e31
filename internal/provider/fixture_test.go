package provider

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

var t0 = metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func clusterProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1", Generation: 4}}
	for _, m := range modifiers {
		m(p)
	}
	return p
}

// terminating providers are being deleted.
func terminating(p *v1alpha1.ClusterSecretProvider) {
	p.Finalizers, p.DeletionTimestamp = []string{v1alpha1.ProviderFinalizer}, &t0
}

// lackedBefore: an earlier inspection found missing permissions.
func lackedBefore(p *v1alpha1.ClusterSecretProvider) {
	p.Status.MissingCapabilities = []string{"sys/leases/renew: update"}
	p.Status.Server = &v1alpha1.ServerStatus{Kind: "Vault", Version: "1.0.0"}
	lease.SetSummary(&p.Status.Conditions, 4, t0.Add(-time.Hour),
		lease.Summary{Reason: v1alpha1.ReasonPolicyIncomplete, Message: "lacks", Stalled: true})
}

// dynamicSecret of namespace shop whose ledger has the status.
func dynamicSecret(st v1alpha1.DynamicSecretStatus) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}, Status: st}
}

// inspected is a backend that can be inspected.
type inspected struct {
	backend.Backend
	bed *bed
}

func (i inspected) Inspect(ctx context.Context) (backend.Report, error) {
	if i.bed.hangs {
		<-ctx.Done()
	}
	return i.bed.report, i.bed.err
}

// bed runs a Runner for cluster providers on a fake API server.
type bed struct {
	*Runner
	t     *testing.T
	clock *testclock.FakeClock
	// report, err and verification are the result of the next inspection. notFound is why there is no backend; plain
	// means that the backend cannot be inspected.
	report   backend.Report
	err      error
	notFound error
	plain    bool
	// hangs: inspections take until they are cancelled. recoveries of the server.
	hangs      bool
	recoveries int64

	verification Verification
	// stale: the cache does not know the ledgers yet.
	stale bool
	// events and forgotten providers, and the number of lists that were read from the API server.
	events    []string
	forgotten []string
	uncached  int
}

const users = "users"

func key(kind, name, namespace string) string {
	if kind == v1alpha1.ProviderKindCluster {
		namespace = ""
	}
	return kind + "/" + namespace + "/" + name
}

func keysOf(o client.Object) []string {
	var keys []string
	for _, rec := range lease.Records(&o.(*v1alpha1.DynamicSecret).Status) {
		keys = append(keys, key(rec.Provider.Kind, rec.Provider.Name, o.GetNamespace()))
	}
	return keys
}

func newBed(t *testing.T, stored ...client.Object) *bed {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, clock: testclock.NewFakeClock(t0.Time)}
	b.report = backend.Report{ServerKind: "Vault", Address: "https://vault.test:8200"}
	server := clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...).
		WithIndex(&v1alpha1.DynamicSecret{}, users, keysOf).
		WithStatusSubresource(&v1alpha1.DynamicSecret{}, &v1alpha1.ClusterSecretProvider{}).Build()
	b.Runner = New(Config{
		Clock: b.clock, Backends: b, Users: users, Key: key, Interval: time.Hour, RetryInterval: time.Minute,
		Workers: 4, Patience: time.Minute,
		Client:       interceptor.NewClient(server, interceptor.Funcs{List: b.cachedList}),
		Reader:       interceptor.NewClient(server, interceptor.Funcs{List: b.uncachedList}),
		Verification: func(v1alpha1.Provider) Verification { return b.verification },
		Announce: func(_ v1alpha1.Provider, kind, reason, _ string) {
			b.events = append(b.events, kind+" "+reason)
		},
	})
	return b
}

// cachedList is empty while the cache is stale.
func (b *bed) cachedList(
	ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption,
) error {
	if b.stale {
		return nil
	}
	return c.List(ctx, list, opts...)
}

func (b *bed) uncachedList(
	ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption,
) error {
	b.uncached++
	return c.List(ctx, list, opts...)
}

func (b *bed) Backend(context.Context, v1alpha1.Provider) (backend.Backend, error) {
	if b.notFound != nil {
		return nil, b.notFound
	}
	if b.plain {
		return struct{ backend.Backend }{}, nil
	}
	return inspected{bed: b}, nil
}

func (b *bed) Recoveries(v1alpha1.Provider) int64 { return b.recoveries }

func (b *bed) Forget(p v1alpha1.Provider) { b.forgotten = append(b.forgotten, p.GetName()) }

// run runs provider vault, and returns it as it is stored then; nil: it is gone.
func (b *bed) run() (time.Duration, *v1alpha1.ClusterSecretProvider) {
	b.t.Helper()
	stored := types.NamespacedName{Name: "vault"}
	p := &v1alpha1.ClusterSecretProvider{}
	if err := b.Client.Get(b.t.Context(), stored, p); err != nil {
		b.t.Fatal(err)
	}
	pause, err := b.Run(b.t.Context(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	p = &v1alpha1.ClusterSecretProvider{}
	if err := b.Client.Get(b.t.Context(), stored, p); err != nil {
		if client.IgnoreNotFound(err) != nil {
			b.t.Fatal(err)
		}
		return pause, nil
	}
	return pause, p
}
