package rollout

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// podServer serves pods page by page, slowly.
type podServer struct {
	client.Reader
	pods  int
	lists atomic.Int32
	// most is the largest page that was requested.
	most atomic.Int64
}

func (s *podServer) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	from := 0
	if o.Continue == "" {
		s.lists.Add(1)
	} else if _, err := fmt.Sscan(o.Continue, &from); err != nil {
		return err
	}
	time.Sleep(time.Second)
	to := s.pods
	if o.Limit > 0 {
		to = min(to, from+int(o.Limit))
	}
	s.most.Store(max(s.most.Load(), int64(to-from)))
	page := list.(*corev1.PodList)
	for i := from; i < to; i++ {
		page.Items = append(page.Items, *pod("orders", fmt.Sprintf("orders-%d", i), time.Hour))
	}
	if to < s.pods {
		page.Continue = fmt.Sprint(to)
	}
	return nil
}

func TestPodsAreListedInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &podServer{pods: 1234}
		pods, err := (&Rollouts{Reader: server}).podsOf(t.Context(), namespace)
		if err != nil || len(pods) != 1234 || pods[1233].name != "orders-1233" || server.most.Load() > pageSize {
			t.Errorf("%d pods in pages of up to %d, %v", len(pods), server.most.Load(), err)
		}
	})
}

// Fifty inspections of a namespace at the same time make two lists: one for those that were there first, and one for
// those that came while it was made. None uses a list that began before it.
func TestInspectionsShareTheirPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &podServer{pods: 3}
		r := &Rollouts{Reader: server}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				asked := time.Now()
				pods, err := r.podsOf(t.Context(), namespace)
				if err != nil || len(pods) != 3 || time.Since(asked) < time.Second {
					t.Errorf("%d pods after %s, %v", len(pods), time.Since(asked), err)
				}
			})
		}
		all.Wait()
		if n := server.lists.Load(); n != 2 {
			t.Errorf("%d lists", n)
		}
		if len(r.lists.namespaces) != 0 {
			t.Errorf("%d namespaces are remembered", len(r.lists.namespaces))
		}
	})
}

// A workload that cannot be parsed delays only the consumers that it may use.
func TestUnparsedWorkload(t *testing.T) {
	argo := kinds[len(kinds)-1]
	object := func(secret string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			"replicas": "three",
			"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{
				"envFrom": []any{map[string]any{"secretRef": map[string]any{"name": secret}}},
			}}}},
		}}}
		o.SetName("web")
		return o
	}
	discover := discoverConsumer("orders-db", stampNow)
	w := newWorkload(argo, object("orders-db"))
	if !discover.targets(w) || w.needsStamp(discover) {
		t.Errorf("%s mentions the Secret: it must hold the old lease, and must not be stamped", w)
	}
	findings := podFindings(discover, published, []*workload{w}, nil)
	if len(findings) != 1 {
		t.Fatalf("got %v", findings)
	}
	expectFinding(t, findings[0], v1alpha1.ReasonRolloutCheckFailed, "Rollout/web cannot be parsed: ")
	if discover.targets(newWorkload(argo, object("billing-db"))) {
		t.Error("it does not mention the Secret")
	}
	if named := targetConsumer("billing-db", stampNow, target(v1alpha1.KindRollout, "web")); !named.targets(w) {
		t.Error("a named workload holds the old lease")
	}
}
