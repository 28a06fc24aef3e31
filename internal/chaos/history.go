package chaos

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	// expiringTTL is the lease TTL of expiring objects. Their leases reach the maximum TTL during a run.
	expiringTTL = 30 * time.Second
	// expiringMinLife is the shortest time after which age alone may replace an expiring credential. A lease is due at
	// 67 % of its TTL, minus up to a tenth for jitter, and times have a resolution of one second.
	expiringMinLife = expiringTTL*6/10 - 2*time.Second
)

// history records, for each object, the causes for a new credential and the credentials that reached its Secret.
//
// A credential is one PostgreSQL user. Its name contains its creation time. A new credential needs a cause: the object
// was created, a rotation was requested, the Secret was deleted or edited, or the lease was revoked out of band. A key
// that others add, a changed label, an immutable Secret, a renamed target, a removed finalizer and denied writes are no
// causes.
//
// Causes that arrive together cost one replacement: a new credential consumes every cause triggered before its
// creation. A later cause remains open for the next credential. Only credentials that reach the Secret count.
//
// Age alone replaces only expiring credentials, and only after expiringMinLife. A renewal, a restart, an outage or a
// lost response is not a cause.
//
// A cause is added before it is triggered, so its effect is never observed first. It is triggered once the request
// returns.
type history struct {
	mu      sync.Mutex
	objects map[string]*objectHistory
	// closestCall is the shortest remaining life of a bystander's lease at its renewal; negative if there was no
	// renewal.
	closestCall time.Duration
}

type objectHistory struct {
	kind kind
	spec *v1alpha1.DynamicSecret
	// open causes, oldest first. causeCount and credentialCount are totals.
	open                        []*cause
	causeCount, credentialCount int
	// user in the Secret, and its creation time.
	user    string
	created time.Time
	// seen has all users so far. During a rename the Secret with the old name may still contain an earlier one.
	seen map[string]bool

	expires    *metav1.Time
	renewals   int64
	violations []string
}

// cause for a new credential.
type cause struct {
	history *history
	object  *objectHistory
	// triggered is zero until the request returned.
	triggered time.Time
}

func newHistory() *history { return &history{objects: map[string]*objectHistory{}, closestCall: -1} }

func (h *history) addObject(name string, kind kind, spec *v1alpha1.DynamicSecret) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects[name] = &objectHistory{kind: kind, spec: spec, seen: map[string]bool{}}
}

// newObject returns the object to create under this name.
func (h *history) newObject(name string) *v1alpha1.DynamicSecret {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.objects[name].spec.DeepCopy()
}

// addCause adds a cause that is about to be triggered.
func (h *history) addCause(name string) *cause {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.objects[name]
	c := &cause{history: h, object: o}
	o.open = append(o.open, c)
	o.causeCount++
	return c
}

// markTriggered records that the request returned. The request may have failed.
func (c *cause) markTriggered() {
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.triggered = time.Now()
}

// withdraw removes a cause that was not triggered.
func (c *cause) withdraw() {
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.object.causeCount--
	c.object.open = slices.DeleteFunc(c.object.open, func(o *cause) bool { return o == c })
}

// consumeCauses removes the causes that a credential satisfies: those triggered before its creation, or else the
// oldest. It returns false if no cause is open.
func (o *objectHistory) consumeCauses(created time.Time) bool {
	n := len(o.open)
	if n == 0 {
		return false
	}
	o.open = slices.DeleteFunc(o.open,
		func(c *cause) bool { return !c.triggered.IsZero() && c.triggered.Before(created) })
	if len(o.open) == n {
		o.open = o.open[1:]
	}
	return true
}

// observeSecret compares the user in a Secret with the previous one.
func (h *history) observeSecret(obj client.Object) {
	s, ok := obj.(*corev1.Secret)
	if !ok {
		return
	}
	user := string(s.Data["username"])
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.objects[ownerOf(s)]
	if o == nil || user == "" || o.seen[user] {
		return
	}
	o.seen[user] = true
	created := creationTime(user)
	o.credentialCount++
	expired := o.kind == expiring && created.Sub(o.created) >= expiringMinLife
	if !o.consumeCauses(created) && !expired {
		o.violations = append(o.violations, fmt.Sprintf("at %s user %s replaced %q without a cause",
			time.Now().Format("15:04:05.000"), user, o.user))
	}
	o.user, o.created = user, created
}

// ownerOf is the name of the object whose Secret it is.
func ownerOf(s *corev1.Secret) string {
	if owner := metav1.GetControllerOf(s); owner != nil {
		return owner.Name
	}
	return s.Name
}

// creationTime is the Unix time at the end of a user's name.
func creationTime(user string) time.Time {
	seconds, err := strconv.ParseInt(user[strings.LastIndexByte(user, '-')+1:], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// observeObject records how much life a bystander's lease had left at its renewal.
func (h *history) observeObject(obj client.Object) {
	d, ok := obj.(*v1alpha1.DynamicSecret)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o, lease := h.objects[d.Name], onlyLease(d)
	if o == nil || o.kind != bystander || lease == nil {
		return
	}
	if lease.Renewals > o.renewals && o.expires != nil && lease.RenewedAt != nil {
		left := o.expires.Sub(lease.RenewedAt.Time)
		if h.closestCall < 0 || left < h.closestCall {
			h.closestCall = left
		}
	}
	o.renewals, o.expires = lease.Renewals, lease.ExpiresAt
}

// shortestLife is the remaining life of the bystander's lease that expires first.
func (h *history) shortestLife() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	shortest := time.Hour
	for _, o := range h.objects {
		if o.kind == bystander && o.expires != nil {
			shortest = min(shortest, time.Until(o.expires.Time))
		}
	}
	return shortest
}

// historySummary of all objects.
type historySummary struct {
	// credentials that reached a Secret, and causes for them.
	credentials, causes int
	changedBystanders   int
	// violations by object.
	violations map[string][]string
}

func (h *history) summary() historySummary {
	h.mu.Lock()
	defer h.mu.Unlock()
	sum := historySummary{violations: map[string][]string{}}
	for name, o := range h.objects {
		sum.credentials += o.credentialCount
		sum.causes += o.causeCount
		if len(o.violations) > 0 {
			sum.violations[name] = slices.Clone(o.violations)
		}
		if o.kind == bystander && o.credentialCount > 1 {
			sum.changedBystanders++
		}
	}
	return sum
}

func (h *history) names(kinds ...kind) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name, o := range h.objects {
		if slices.Contains(kinds, o.kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// watchAll calls observe with every version of the objects in the namespace. It resumes a closed watch at the last
// version, so a paused API server hides no version.
func watchAll(ctx context.Context, kube client.WithWatch, list client.ObjectList, observe func(client.Object)) {
	version := ""
	for ctx.Err() == nil {
		if version == "" {
			if kube.List(ctx, list, client.InNamespace(runName)) != nil {
				sleep(ctx, 100*time.Millisecond)
				continue
			}
			version = list.GetResourceVersion()
			_ = meta.EachListItem(list, func(o runtime.Object) error {
				observe(o.(client.Object))
				return nil
			})
		}
		version = watchFrom(ctx, kube, list, version, observe)
	}
}

// watchFrom watches until the watch closes and returns the version to resume at. The version is empty if the API
// server no longer has it.
func watchFrom(
	ctx context.Context, kube client.WithWatch, list client.ObjectList, version string, observe func(client.Object),
) string {
	w, err := kube.Watch(ctx, list, &client.ListOptions{
		Namespace: runName, Raw: &metav1.ListOptions{ResourceVersion: version},
	})
	if err != nil {
		sleep(ctx, 100*time.Millisecond)
		return version
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		o, ok := event.Object.(client.Object)
		if event.Type == watch.Error || !ok {
			return ""
		}
		version = o.GetResourceVersion()
		if event.Type != watch.Deleted {
			observe(o)
		}
	}
	return version
}
