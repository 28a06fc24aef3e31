package controllers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/provider"
)

// logins are the backends of many providers. The logins of those whose name begins with "hanging" never return.
type logins struct {
	mu sync.Mutex
	// patient are the logins in progress that nothing cancels, most is the largest number of them. full is closed once
	// every place for them is taken.
	patient, most int
	full          chan struct{}
}

func (l *logins) Backend(_ context.Context, p v1alpha1.Provider) (backend.Backend, error) {
	return login{logins: l, hangs: strings.HasPrefix(p.GetName(), "hanging")}, nil
}

func (l *logins) Recoveries(v1alpha1.Provider) int64 { return 0 }

func (l *logins) Forget(v1alpha1.Provider) {}

type login struct {
	backend.Backend
	*logins
	hangs bool
}

func (l login) Inspect(ctx context.Context) (backend.Report, error) {
	if !l.hangs {
		return backend.Report{}, nil
	}
	if _, limited := ctx.Deadline(); !limited {
		l.mu.Lock()
		l.patient++
		if l.most = max(l.most, l.patient); l.patient == concurrentInspections/4 {
			close(l.full)
		}
		l.mu.Unlock()
	}
	<-ctx.Done()
	return backend.Report{}, backend.Errorf(backend.NoResponse, "no response in time")
}

// inspections run the reconciler of SecretProviders as controller-runtime does.
type inspections struct {
	*ProviderReconciler
	t      *testing.T
	queue  priorityqueue.PriorityQueue[reconcile.Request]
	logins *logins
	client client.Client
}

func newInspections(t *testing.T) *inspections {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := clientfake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.SecretProvider{}).Build()
	i := &inspections{
		t: t, client: c, logins: &logins{full: make(chan struct{})},
		queue: priorityqueue.New[reconcile.Request]("test"),
	}
	i.ProviderReconciler = &ProviderReconciler{
		New: func() provider.Object { return &v1alpha1.SecretProvider{} }, cache: c,
		Runner: provider.New(provider.Config{
			Clock: clock.RealClock{}, Client: c, Reader: c, Backends: i.logins,
			Verification: func(v1alpha1.Provider) provider.Verification { return provider.Verification{} },
			Announce:     func(v1alpha1.Provider, string, string, string) {},
			Interval:     time.Hour, RetryInterval: time.Second,
			Workers: concurrentInspections, Patience: 5 * time.Millisecond,
		}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range concurrentInspections {
		workers.Go(func() { i.work(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		i.queue.ShutDown()
		workers.Wait()
	})
	return i
}

func (i *inspections) work(ctx context.Context) {
	for {
		request, priority, shutdown := i.queue.GetWithPriority()
		if shutdown {
			return
		}
		result, err := i.Reconcile(ctx, request)
		if result.Priority != nil {
			priority = *result.Priority
		}
		if err != nil && ctx.Err() == nil {
			i.t.Error(err)
		}
		if result.RequeueAfter > 0 {
			i.queue.AddWithOpts(priorityqueue.AddOpts{After: result.RequeueAfter, Priority: &priority}, request)
		}
		i.queue.Done(request)
	}
}

// create creates a provider, and delivers the event.
func (i *inspections) create(name string) {
	i.t.Helper()
	p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: types.UID(name), Generation: 1,
	}}
	if err := i.client.Create(i.t.Context(), p); err != nil {
		i.t.Fatal(err)
	}
	itsPriority(0).Create(i.t.Context(), event.CreateEvent{Object: p}, i.queue)
}

// untilJudged waits until a provider has a Ready condition, and returns it.
func (i *inspections) untilJudged(name string) metav1.Condition {
	i.t.Helper()
	for {
		p := &v1alpha1.SecretProvider{}
		if err := i.client.Get(i.t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, p); err != nil {
			i.t.Fatal(err)
		}
		if ready := provider.Ready(p); ready.Status != "" {
			return ready
		}
		time.Sleep(time.Millisecond)
	}
}

// No login ever returns, so a provider that waits behind those that hang waits forever.
func TestProvidersWhoseLoginsHangDelayNoOther(t *testing.T) {
	i := newInspections(t)
	for n := range 2 * concurrentInspections {
		i.create(fmt.Sprint("hanging-", n))
	}
	i.create("new-among-new")
	if ready := i.untilJudged("new-among-new"); ready.Status != metav1.ConditionTrue {
		t.Errorf("a provider that was created with those that hang: %+v", ready)
	}
	<-i.logins.full
	i.create("new")
	if ready := i.untilJudged("new"); ready.Status != metav1.ConditionTrue {
		t.Errorf("a provider that was created next to those that hang: %+v", ready)
	}
	i.logins.mu.Lock()
	defer i.logins.mu.Unlock()
	if i.logins.most > concurrentInspections/4 {
		t.Errorf("%d of %d workers waited for logins that hang", i.logins.most, concurrentInspections)
	}
}

func TestProvidersThatAUserWaitsForAreInspectedFirst(t *testing.T) {
	judged := func(name string, status metav1.ConditionStatus, generation int64) *v1alpha1.SecretProvider {
		p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2}}
		if status != "" {
			p.Status.Conditions = []metav1.Condition{
				{Type: v1alpha1.ReadyCondition, Status: status, ObservedGeneration: generation},
			}
		}
		return p
	}
	deleted := judged("deleted", metav1.ConditionFalse, 2)
	deleted.DeletionTimestamp = &metav1.Time{Time: now}
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	for _, p := range []*v1alpha1.SecretProvider{
		judged("failing", metav1.ConditionFalse, 2), judged("ready", metav1.ConditionTrue, 2),
		judged("new", "", 0), judged("changed", metav1.ConditionFalse, 1), deleted,
	} {
		// After a restart of the manager, too.
		itsPriority(0).Create(t.Context(), event.CreateEvent{Object: p, IsInInitialList: true}, q)
	}
	for _, want := range []string{"new", "changed", "deleted", "ready", "failing"} {
		if got, _ := q.Get(); got.Name != want {
			t.Errorf("got %q, want %q", got.Name, want)
		}
	}
}
