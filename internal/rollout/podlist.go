package rollout

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// pageSize is how many workloads or pods one request lists. A namespace may have thousands of pods of 10 kB and more;
// only what an inspection needs of them is kept.
const pageSize = 500

// podFacts is what an inspection needs of a pod that has not ended.
type podFacts struct {
	name   string
	labels map[string]string
	// owner is the kind of its controller; empty: none.
	owner   string
	created time.Time
	// stamps are the annotations that stampWorkload sets.
	stamps map[string]string
	// secrets are the Secrets whose content it may keep.
	secrets []string
	// blocked is why it cannot become ready; empty: unknown.
	blocked string
}

// newPod returns false for a pod that has ended.
func newPod(p *corev1.Pod) (podFacts, bool) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return podFacts{}, false
	}
	known := podFacts{name: p.Name, labels: p.Labels, created: p.CreationTimestamp.Time, secrets: heldSecrets(&p.Spec),
		blocked: blockedReason(p)}
	if owner := metav1.GetControllerOf(p); owner != nil {
		known.owner = owner.Kind
	}
	for key, value := range p.Annotations {
		if strings.HasPrefix(key, v1alpha1.StampAnnotationPrefix) {
			if known.stamps == nil {
				known.stamps = map[string]string{}
			}
			known.stamps[key] = value
		}
	}
	return known, true
}

// listPods lists pods page by page.
func (r *Rollouts) listPods(ctx context.Context, opts ...client.ListOption) ([]podFacts, error) {
	var all []podFacts
	for next := ""; ; {
		page := &corev1.PodList{}
		if err := r.Reader.List(ctx, page, append(opts, client.Limit(pageSize), client.Continue(next))...); err != nil {
			return nil, readError(err, "list", "pods")
		}
		for i := range page.Items {
			if p, alive := newPod(&page.Items[i]); alive {
				all = append(all, p)
			}
		}
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// podLists shares lists of pods between the inspections of a namespace. The zero value is ready.
type podLists struct {
	mu         sync.Mutex
	namespaces map[string]*namespaceLists
}

// namespaceLists are the lists of one namespace: at most one is being made, and one waits for it.
type namespaceLists struct {
	making chan struct{}
	// next is the list that has not begun.
	next *podList
	// users count the inspections that use this.
	users int
}

type podList struct {
	done chan struct{}
	pods []podFacts
	err  error
}

// podsOf lists the pods of the namespace. Inspections that wait for a list in progress share the one after it: the pods
// must be read after the workloads, so the list in progress is too old for them.
func (r *Rollouts) podsOf(ctx context.Context, namespace string) ([]podFacts, error) {
	lists, list, first := r.lists.join(namespace)
	defer r.lists.leave(namespace)
	if !first {
		select {
		case <-list.done:
			return list.pods, list.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	lists.making <- struct{}{}
	defer func() { <-lists.making }()
	r.lists.begin(lists)
	defer close(list.done)
	list.pods, list.err = r.listPods(context.WithoutCancel(ctx), client.InNamespace(namespace))
	return list.pods, list.err
}

// join returns the next list of the namespace. first: the caller makes it.
func (l *podLists) join(namespace string) (lists *namespaceLists, list *podList, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.namespaces == nil {
		l.namespaces = map[string]*namespaceLists{}
	}
	lists = l.namespaces[namespace]
	if lists == nil {
		lists = &namespaceLists{making: make(chan struct{}, 1)}
		l.namespaces[namespace] = lists
	}
	lists.users++
	if first = lists.next == nil; first {
		lists.next = &podList{done: make(chan struct{})}
	}
	return lists, lists.next, first
}

// begin ends the time in which others may join the next list.
func (l *podLists) begin(lists *namespaceLists) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists.next = nil
}

func (l *podLists) leave(namespace string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lists := l.namespaces[namespace]
	if lists.users--; lists.users == 0 {
		delete(l.namespaces, namespace)
	}
}
