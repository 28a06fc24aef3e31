package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	// before is called before each list, without the lock; nil: nothing is.
	before func(path string)

	mu sync.Mutex
	// listed are the folders, and looked the leases, in the order of the requests.
	listed, looked []string
	// lookupErr is the error of a lookup of a lease that is not missing.
	lookupErr error
}

func (*listingBackend) Folder(rec *v1alpha1.LeaseRecord) string { return rec.Location() }

func (b *listingBackend) Lookup(_ context.Context, rec v1alpha1.LeaseRecord) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looked = append(b.looked, rec.ID)
	if b.missing[rec.ID] {
		return backend.Errorf(backend.Gone, "it no longer exists")
	}
	return b.lookupErr
}

func (b *listingBackend) List(_ context.Context, rec v1alpha1.LeaseRecord) (map[string]bool, error) {
	if b.before != nil {
		b.before(rec.Location())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
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
	v.begin(t.Context())
	v.rounds.Wait()
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

func TestFailedListsAreLookedUpInstead(t *testing.T) {
	for _, c := range []struct {
		kind    backend.ErrorKind
		lookups bool
	}{
		{backend.Denied, true}, {backend.NoResponse, true}, {backend.Failed, true}, {backend.Throttled, true},
		{backend.InvalidResponse, true}, {backend.NotFound, true},
		{backend.Unavailable, false}, {backend.LoginFailed, false}, {backend.QuotaExceeded, false},
		{backend.TLS, false},
	} {
		vault := &listingBackend{missing: map[string]bool{dbPath + "/1": true},
			errs: map[string]error{dbPath: backend.Errorf(c.kind, "no list")}}
		v := verifierOn(t, registryFor(vault, nil), clusterProvider(), leasesOf("orders", leasedFor(dbPath, 1)))
		suspects, queued := raised(t, v, "orders")
		if found := len(suspects) == 1 && len(queued) == 1; found != c.lookups {
			t.Errorf("%s: suspects %v, queued %v", c.kind, suspects, queued)
		}
		got := v.Verification(clusterProvider())
		if !got.Known || !got.Leases || (got.Failed == "no list") != c.lookups || len(got.Advised) > 0 {
			t.Errorf("%s: it reports %+v", c.kind, got)
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
	stored := []client.Object{clusterProvider(), leasesOf("other", leasedFor(mqPath, 1))}
	for i := range 25 {
		stored = append(stored, leasesOf(fmt.Sprintf("orders-%02d", i), leasedFor(dbPath, i)))
	}
	v := verifierOn(t, registryFor(vault, nil), stored...)
	for round := range lookupRounds {
		if _, queued := raised(t, v); len(queued) != 0 {
			t.Errorf("intact leases are suspect: %v", queued)
		}
		if n := len(vault.looked); n != 3*(round+1) {
			t.Errorf("%d look-ups in %d rounds, want a tenth of 25 in each", n, round+1)
		}
	}
	slices.Sort(vault.looked)
	if n := len(slices.Compact(vault.looked)); n != 25 {
		t.Errorf("%d of 25 leases were looked up", n)
	}
}

func TestLookupsOfARoundEndWithAnError(t *testing.T) {
	vault := &listingBackend{errs: map[string]error{dbPath: listDenied(dbPath)},
		lookupErr: backend.Errorf(backend.NoResponse, "no response in time")}
	stored := []client.Object{clusterProvider()}
	for i := range 50 {
		stored = append(stored, leasesOf(fmt.Sprintf("orders-%02d", i), leasedFor(dbPath, i)))
	}
	v := verifierOn(t, registryFor(vault, nil), stored...)
	raised(t, v)
	raised(t, v)
	if len(vault.looked) != 2 || vault.looked[0] == vault.looked[1] {
		t.Errorf("looked up %v, want one lease in each round, and another each time", vault.looked)
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
		raised(t, v)
	}
	for _, id := range vault.looked {
		seen[id] = true
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
	if got := v.Verification(clusterProvider()).Advised; !slices.Equal(got, want) {
		t.Errorf("advice %q, want %q", got, want)
	}
	if got := v.Verification(ownProvider()).Advised; len(got) != 0 {
		t.Errorf("advice for a provider that permits lists: %q", got)
	}
	vault.errs = map[string]error{mqPath: listDenied(mqPath)}
	raised(t, v)
	if got := v.Verification(clusterProvider()).Advised; !slices.Equal(got, want[1:]) {
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
	got := v.Verification(clusterProvider()).Advised
	if len(got) != 32 || !slices.IsSorted(got) || !strings.Contains(got[0], "app-00") {
		t.Errorf("%d lines from %q on; want the same 32 of 40 each round, or the status changes", len(got), got[0])
	}
}

// slowServer is a Verifier whose lists of provider vault advance the clock, as if each took that long.
func slowServer(t *testing.T, takes time.Duration, stored ...client.Object) (*Verifier, *listingBackend) {
	vault := &listingBackend{}
	v := verifierOn(t, registryFor(vault, &listingBackend{}), stored...)
	clock := v.clock.(*testclock.FakeClock)
	// Lists that run at the same time take that long together.
	vault.before = func(string) { clock.Step(takes / listsAtOnce) }
	return v, vault
}

// A tenant with a hundred paths, on a server that lists in 9.9 s.
func TestSlowListsDelayNoOtherTenant(t *testing.T) {
	stored := []client.Object{clusterProvider(), leasesOf("small", leasedFor(mqPath, 1))}
	stored[1].SetNamespace("small")
	paths := map[string]bool{}
	for i := range 100 {
		path := fmt.Sprintf("database/creds/app-%02d", i)
		paths[path] = true
		stored = append(stored, leasesOf(fmt.Sprintf("app-%02d", i), leasedFor(path, i)))
	}
	v, vault := slowServer(t, 9900*time.Millisecond, stored...)
	started := v.clock.Now()
	for round := range 15 {
		raised(t, v)
		n := 0
		for _, path := range vault.listed {
			if path == mqPath {
				n++
			}
			delete(paths, path)
		}
		if n != round+1 {
			t.Fatalf("after %d rounds, the small tenant was checked %d times", round+1, n)
		}
	}
	if took := v.clock.Now().Sub(started); took > 15*45*time.Second {
		t.Errorf("15 rounds took %s", took)
	}
	if len(paths) > 0 {
		t.Errorf("%d paths of the large tenant were never checked", len(paths))
	}
}

func TestRoundsOfAProviderHaveABudget(t *testing.T) {
	var stored []client.Object
	for i := range 100 {
		path := fmt.Sprintf("database/creds/app-%02d", i)
		stored = append(stored, leasesOf(fmt.Sprintf("app-%02d", i), leasedFor(path, i)))
	}
	v, vault := slowServer(t, 9900*time.Millisecond, append(stored, clusterProvider())...)
	raised(t, v)
	if n := len(vault.listed); n < listsAtOnce || n > 4*listsAtOnce {
		t.Errorf("%d lists in the first round", n)
	}
}

// A list that takes longer than the whole round until it fails is looked up all the same.
func TestListsThatUseUpTheRoundAreLookedUp(t *testing.T) {
	stored := []client.Object{clusterProvider()}
	for i := range 10 {
		stored = append(stored, leasesOf(fmt.Sprintf("orders-%d", i), leasedFor(dbPath, i)))
	}
	v, vault := slowServer(t, 4*time.Minute, stored...)
	vault.errs = map[string]error{dbPath: backend.Errorf(backend.NoResponse, "no response in time")}
	for range lookupRounds {
		raised(t, v)
	}
	if slices.Sort(vault.looked); len(slices.Compact(vault.looked)) != 10 {
		t.Errorf("looked up %v, want each lease", vault.looked)
	}
}

func TestLateChecksAreReported(t *testing.T) {
	var stored []client.Object
	for i := range 100 {
		path := fmt.Sprintf("database/creds/app-%02d", i)
		stored = append(stored, leasesOf(fmt.Sprintf("app-%02d", i), leasedFor(path, i)))
	}
	v, _ := slowServer(t, 50*time.Second, append(stored, clusterProvider())...)
	raised(t, v)
	if got := v.Verification(clusterProvider()); got.Overdue != 0 {
		t.Errorf("the first round reports %+v", got)
	}
	for range 20 {
		raised(t, v)
	}
	if got := v.Verification(clusterProvider()); got.Overdue != 5*time.Minute {
		t.Errorf("later it reports %+v", got)
	}
}

// One provider's lists hang.
func TestAHangingProviderDelaysNoOther(t *testing.T) {
	release := make(chan struct{})
	vault, own := &listingBackend{before: func(string) { <-release }}, &listingBackend{}
	v := verifierOn(t, registryFor(vault, own), clusterProvider(), ownProvider(),
		leasesOf("hangs", leasedFor(dbPath, 1)), leasesOf("own", leasedFor(mqPath, 2, ofOwn)))
	listed := func(b *listingBackend) int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.listed)
	}
	for round := range 3 {
		v.begin(t.Context())
		awaitTrue(t, "the list of the other provider", func() bool { return listed(own) == round+1 })
		awaitTrue(t, "the end of its round", func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return !v.checks[ProviderKey(v1alpha1.ProviderKindNamespaced, "own", "shop")].running
		})
	}
	close(release)
	v.rounds.Wait()
	if n := listed(vault); n != 1 {
		t.Errorf("the hanging provider was listed %d times, want once", n)
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
