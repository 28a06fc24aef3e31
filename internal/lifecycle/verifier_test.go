package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// listingBackend lists leases. Its folders are the paths of the requests.
type listingBackend struct {
	backend.Backend
	// missing are ids that no list contains; every other id is listed.
	missing map[string]bool
	// errs by folder.
	errs map[string]error
	// listed are the folders in the order of the requests.
	listed []string
}

func (*listingBackend) Folder(rec *v1alpha1.LeaseRecord) string { return rec.Location() }

func (b *listingBackend) List(_ context.Context, rec v1alpha1.LeaseRecord) (map[string]bool, error) {
	b.listed = append(b.listed, rec.Location())
	live := map[string]bool{}
	for i := range 100 {
		id := fmt.Sprintf("%s/%d", rec.Location(), i)
		live[id] = !b.missing[id]
	}
	return live, b.errs[rec.Location()]
}

const dbPath, mqPath = "database/creds/orders", "rabbitmq/creds/orders"

// listDenied is the error of a list of the path.
func listDenied(path string) error {
	return &backend.Error{Kind: backend.Denied, Message: "the policy lacks list", Missing: []string{"list " + path}}
}

// leasedFor is a lease of the path with the number, issued a minute ago by cluster provider vault.
func leasedFor(path string, n int, modifiers ...func(*v1alpha1.LeaseRecord)) v1alpha1.LeaseRecord {
	issued := metav1.NewTime(checkedAt.Add(-time.Minute))
	return vaultRecord(fmt.Sprintf("%s/%d", path, n), fmt.Sprint("accessor-", n), append([]func(*v1alpha1.LeaseRecord){
		func(r *v1alpha1.LeaseRecord) { r.Vault.Path, r.IssuedAt = path, &issued },
	}, modifiers...)...)
}

// leasesOf is a DynamicSecret of namespace shop with the leases.
func leasesOf(name string, leases ...v1alpha1.LeaseRecord) *v1alpha1.DynamicSecret {
	return ledgerOf(name, v1alpha1.DynamicSecretStatus{Leases: leases})
}

// ofOwn makes a record one of namespaced provider own.
func ofOwn(r *v1alpha1.LeaseRecord) {
	r.Provider = v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindNamespaced, Name: "own"}
}

// registryFor has the backends of providers vault and own.
func registryFor(vault, own backend.Backend) *backend.Registry {
	return registryOf(&stubDriver{backends: map[string]backend.Backend{"vault": vault, "own": own}})
}

// verifierOn is a Verifier on a fake API server. Its queue of found objects has room for all of them.
func verifierOn(t *testing.T, registry *backend.Registry, stored ...client.Object) *Verifier {
	t.Helper()
	life := &Lifecycle{cache: apiServer(t, stored...).Build(), memory: newMemory()}
	v := NewVerifier(life, testclock.NewFakeClock(checkedAt.Time), registry, 30*time.Second)
	v.found = make(chan event.GenericEvent, 1000)
	return v
}

// raised runs one round, and returns the ids of the leases that are suspect after it and the objects that were queued.
func raised(t *testing.T, v *Verifier, objects ...string) (suspects, queued []string) {
	t.Helper()
	v.verifyAll(t.Context())
	for len(v.found) > 0 {
		queued = append(queued, (<-v.found).Object.GetName())
	}
	for _, name := range objects {
		key := ordersKey
		key.Name = name
		suspects = append(suspects, slices.Collect(maps.Keys(v.memory.suspectsOf(key)))...)
	}
	slices.Sort(suspects)
	slices.Sort(queued)
	return suspects, queued
}

func TestVerifierRequestsOneListForEachFolder(t *testing.T) {
	vault, own := &listingBackend{}, &listingBackend{}
	registry := registryFor(vault, own)
	v := verifierOn(t, registry, clusterProvider(), ownProvider(),
		leasesOf("one", leasedFor(dbPath, 1)), leasesOf("two", leasedFor(dbPath, 2)),
		leasesOf("set", leasedFor(dbPath, 3), leasedFor(mqPath, 4)),
		leasesOf("own", leasedFor(dbPath, 5, ofOwn)))
	suspects, queued := raised(t, v, "one", "two", "set", "own")
	slices.Sort(vault.listed)
	if !slices.Equal(vault.listed, []string{dbPath, mqPath}) || !slices.Equal(own.listed, []string{dbPath}) {
		t.Errorf("listed %v at vault and %v at own: the cost must not grow with the leases", vault.listed, own.listed)
	}
	if len(suspects)+len(queued) != 0 {
		t.Errorf("every lease was listed, but suspects are %v, queued %v", suspects, queued)
	}
}

func TestVerifierSuspectsOnlyMissingLeases(t *testing.T) {
	vault := &listingBackend{missing: map[string]bool{dbPath + "/2": true, mqPath + "/3": true}}
	registry := registryFor(vault, nil)
	v := verifierOn(t, registry, clusterProvider(),
		leasesOf("intact", leasedFor(dbPath, 0)),
		leasesOf("set", leasedFor(dbPath, 1), leasedFor(dbPath, 2), leasedFor(mqPath, 3)))
	suspects, queued := raised(t, v, "intact", "set")
	want := []string{dbPath + "/2", mqPath + "/3"}
	if !slices.Equal(suspects, want) || !slices.Equal(slices.Compact(queued), []string{"set"}) {
		t.Errorf("suspects %v, queued %v", suspects, queued)
	}
}

func TestVerifierSkipsWhatCannotBeMissing(t *testing.T) {
	unknown := func(r *v1alpha1.LeaseRecord) { r.IssuedAt = nil }
	static := func(r *v1alpha1.LeaseRecord) { r.ID, r.Kind = "", v1alpha1.ResponseStatic }
	issued := func(ago time.Duration) func(*v1alpha1.LeaseRecord) {
		return func(r *v1alpha1.LeaseRecord) { r.IssuedAt = &metav1.Time{Time: checkedAt.Add(-ago)} }
	}
	for _, c := range []struct {
		name, why string
		rec       v1alpha1.LeaseRecord
		listed    bool
	}{
		{"a settled lease", "every replica lists it", leasedFor(dbPath, 1, issued(settleTime+time.Second)), true},
		{"a young lease", "a replica may lag behind", leasedFor(dbPath, 1, issued(settleTime)), false},
		{"a lease without a time", "it may be young", leasedFor(dbPath, 1, unknown), false},
		{"a response without a lease", "no list contains it", leasedFor(dbPath, 1, static), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			vault := &listingBackend{missing: map[string]bool{dbPath + "/1": true}}
			registry := registryFor(vault, nil)
			v := verifierOn(t, registry, clusterProvider(), leasesOf("orders", c.rec))
			suspects, _ := raised(t, v, "orders")
			if (len(vault.listed) > 0) != c.listed || (len(suspects) > 0) != c.listed {
				t.Errorf("because %s: listed %v, suspects %v, want it checked: %t",
					c.why, vault.listed, suspects, c.listed)
			}
		})
	}
}

func TestVerifierRaisesNothingOnErrors(t *testing.T) {
	for _, kind := range []backend.ErrorKind{
		backend.NoResponse, backend.Unavailable, backend.Failed, backend.InvalidResponse, backend.NotFound,
		backend.LoginFailed,
	} {
		vault := &listingBackend{missing: map[string]bool{dbPath + "/1": true},
			errs: map[string]error{dbPath: backend.Errorf(kind, "no list")}}
		registry := registryFor(vault, nil)
		v := verifierOn(t, registry, clusterProvider(), leasesOf("orders", leasedFor(dbPath, 1)))
		if suspects, queued := raised(t, v, "orders"); len(suspects)+len(queued) != 0 {
			t.Errorf("%s: suspects %v, queued %v", kind, suspects, queued)
		}
		if advice := v.Advice(clusterProvider()); len(advice) != 0 {
			t.Errorf("%s: advice %q", kind, advice)
		}
	}
}

func TestVerifierSkipsProvidersThatCannotList(t *testing.T) {
	lease := leasesOf("orders", leasedFor(dbPath, 1))
	unusable := &stubDriver{backendError: backend.Errorf(backend.TLS, "the bundle is empty")}
	for name, v := range map[string]*Verifier{
		"no ability to list": verifierOn(t, registryOf(&stubDriver{}), clusterProvider(), lease.DeepCopy()),
		"no provider":        verifierOn(t, registryOf(&stubDriver{}), lease.DeepCopy()),
		"no backend":         verifierOn(t, registryOf(unusable), clusterProvider(), lease.DeepCopy()),
	} {
		if suspects, queued := raised(t, v, "orders"); len(suspects)+len(queued) != 0 {
			t.Errorf("%s: suspects %v, queued %v", name, suspects, queued)
		}
	}
}

func TestVerifierFindsTheListerBehindTheMetrics(t *testing.T) {
	vault := &listingBackend{missing: map[string]bool{dbPath + "/1": true}}
	registry := backend.NewRegistry(backend.NewMetrics(prometheus.NewRegistry()))
	registry.Register("vault", &stubDriver{backends: map[string]backend.Backend{"vault": vault}})
	v := verifierOn(t, registry, clusterProvider(), leasesOf("orders", leasedFor(dbPath, 1)))
	if suspects, _ := raised(t, v, "orders"); len(suspects) != 1 {
		t.Errorf("suspects %v", suspects)
	}
}

func TestDeniedListsSpreadLookupsOverRounds(t *testing.T) {
	vault := &listingBackend{errs: map[string]error{dbPath: listDenied(dbPath)}}
	registry := registryFor(vault, nil)
	stored := []client.Object{clusterProvider(), leasesOf("other", leasedFor(mqPath, 1))}
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("orders-%02d", i))
		stored = append(stored, leasesOf(names[i], leasedFor(dbPath, i)))
	}
	v := verifierOn(t, registry, stored...)
	seen := map[string]int{}
	for range lookupRounds {
		_, queued := raised(t, v, names...)
		if len(queued) < 2 || len(queued) > 3 {
			t.Errorf("%d look-ups in one round, want a tenth of 25", len(queued))
		}
		for _, name := range queued {
			seen[name]++
		}
	}
	for _, name := range names {
		if seen[name] != 1 {
			t.Errorf("%s was looked up %d times in %d rounds, want once", name, seen[name], lookupRounds)
		}
	}
	if seen["other"] != 0 {
		t.Error("a lease whose list is permitted was looked up")
	}
}

// shuffledCache lists objects in another order each time, as the manager's cache does.
type shuffledCache struct{ client.Reader }

func (c shuffledCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	err := c.Reader.List(ctx, list, opts...)
	if all, ok := list.(*v1alpha1.DynamicSecretList); ok {
		rand.Shuffle(len(all.Items), func(i, j int) { all.Items[i], all.Items[j] = all.Items[j], all.Items[i] })
	}
	return err
}

// The documentation promises that a revocation is noticed within ten rounds.
func TestDeniedListsLookUpEveryLeaseInAnyOrder(t *testing.T) {
	vault := &listingBackend{errs: map[string]error{dbPath: listDenied(dbPath)}}
	stored := []client.Object{clusterProvider()}
	for i := range 25 {
		stored = append(stored, leasesOf(fmt.Sprintf("orders-%02d", i), leasedFor(dbPath, i)))
	}
	v := verifierOn(t, registryFor(vault, nil), stored...)
	v.cache = shuffledCache{v.cache}
	seen := map[string]bool{}
	for range lookupRounds {
		_, queued := raised(t, v)
		for _, name := range queued {
			seen[name] = true
		}
	}
	if len(seen) != 25 {
		t.Errorf("%d of 25 leases were looked up in %d rounds", len(seen), lookupRounds)
	}
}

func TestDeniedListsGiveAdvice(t *testing.T) {
	vault := &listingBackend{errs: map[string]error{dbPath: listDenied(dbPath), mqPath: listDenied(mqPath)}}
	own := &listingBackend{}
	registry := registryFor(vault, own)
	v := verifierOn(t, registry, clusterProvider(), ownProvider(),
		leasesOf("orders", leasedFor(mqPath, 1), leasedFor(dbPath, 2)), leasesOf("billing", leasedFor(dbPath, 3)),
		leasesOf("own", leasedFor(dbPath, 4, ofOwn)))
	raised(t, v)
	want := []string{"list " + dbPath, "list " + mqPath}
	if got := v.Advice(clusterProvider()); !slices.Equal(got, want) {
		t.Errorf("advice %q, want %q", got, want)
	}
	if got := v.Advice(ownProvider()); len(got) != 0 {
		t.Errorf("advice for a provider that permits lists: %q", got)
	}
	vault.errs = map[string]error{mqPath: listDenied(mqPath)}
	raised(t, v)
	if got := v.Advice(clusterProvider()); !slices.Equal(got, want[1:]) {
		t.Errorf("after one permission was granted: %q, want %q", got, want[1:])
	}
}

func TestAdviceFitsTheStatus(t *testing.T) {
	vault := &listingBackend{errs: map[string]error{}}
	registry := registryFor(vault, nil)
	stored := []client.Object{clusterProvider()}
	for i := range 40 {
		path := fmt.Sprintf("database/creds/app-%02d", i)
		vault.errs[path] = listDenied(path)
		stored = append(stored, leasesOf(fmt.Sprintf("app-%02d", i), leasedFor(path, i)))
	}
	v := verifierOn(t, registry, stored...)
	raised(t, v)
	got := v.Advice(clusterProvider())
	if len(got) != 32 || !slices.IsSorted(got) || !strings.Contains(got[0], "app-00") {
		t.Errorf("%d lines from %q on; want the same 32 of 40 each round, or the status changes", len(got), got[0])
	}
}

func TestRaiseLostReportsLeasesAsGone(t *testing.T) {
	v := verifierOn(t, registryOf(&stubDriver{}))
	v.RaiseLost(t.Context(), leasesOf("orders"), "l", "m")
	lost := v.memory.lostOf(ordersKey)
	if !maps.Equal(lost, map[string]bool{"l": true, "m": true}) || len(v.found) != 1 {
		t.Errorf("lost %v, queued %d", lost, len(v.found))
	}
	if suspects := v.memory.suspectsOf(ordersKey); len(suspects) != 0 {
		t.Errorf("the backend has already reported them, but suspects are %v", suspects)
	}
}

func TestVerifierStopsWhileTheQueueIsFull(t *testing.T) {
	v := verifierOn(t, registryOf(&stubDriver{}))
	v.found = make(chan event.GenericEvent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v.Raise(ctx, leasesOf("orders"), "l") // must return
	if len(v.memory.suspectsOf(ordersKey)) != 1 {
		t.Error("the suspect is forgotten")
	}
}

// countingCache counts the rounds of a verifier.
type countingCache struct {
	client.Reader
	rounds atomic.Int32
}

func (c *countingCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	defer c.rounds.Add(1)
	return c.Reader.List(ctx, list, opts...)
}

func TestVerifierRunsOnceAnInterval(t *testing.T) {
	cache := &countingCache{Reader: apiServer(t).Build()}
	clock := testclock.NewFakeClock(checkedAt.Time)
	v := NewVerifier(&Lifecycle{cache: cache, memory: newMemory()}, clock, registryOf(&stubDriver{}), 30*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- v.Start(ctx) }()
	awaitTrue(t, "the ticker", clock.HasWaiters)
	if cache.rounds.Load() != 0 {
		t.Error("it lists before the first interval is over, while leases are still young")
	}
	for want := int32(1); want <= 2; want++ {
		clock.Step(30 * time.Second)
		awaitTrue(t, "the next round", func() bool { return cache.rounds.Load() == want })
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func awaitTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 1000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s did not come within 5 s", what)
}
