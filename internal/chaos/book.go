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
	// briefTTL is that of the leases that reach their maximum in a run.
	briefTTL = 30 * time.Second
	// briefLife is how long a brief credential lives at least, unless there is a cause: a lease is due for renewal or
	// replacement at 67 % of its term, of which a tenth is jitter, and times are kept in whole seconds.
	briefLife = briefTTL*6/10 - 2*time.Second
)

// book keeps, for each object, what the storm gave it cause for and what credentials its Secret was seen to hold.
//
// The rule. A credential is one PostgreSQL user, known by its name in the Secret, which also says when it was made. What
// takes its place needs a cause: the creation of the object (for the first credential, and the first of each object made
// again under the name), an order to rotate, a Secret deleted, a Secret edited, a lease revoked behind our back. Causes that
// come together cost one replacement: whatever was asked for before a credential was made is met by it, so that cause is
// used up, and one that was given later is left for the next. What was minted and could not be published was in no Secret
// and does not count. Beyond that only age replaces a credential, within a run only a brief one's, and not before it has
// lived for briefLife. A renewal, a restart, an outage, a lost answer are no causes.
//
// A cause is noted before it is given, so that none can be seen to work before it is known, and it counts as given when it
// was answered.
type book struct {
	mu    sync.Mutex
	pages map[string]*page
	// closest is the least life that was left of a bystander's lease when it was renewed.
	closest time.Duration
}

type page struct {
	kind   kind
	wanted *v1alpha1.DynamicSecret
	// open are the causes that are not used up, the oldest first; causes and changes count all.
	open            []*cause
	causes, changes int
	// user that the Secret holds, and when it was made.
	user string
	made time.Time

	expires  *metav1.Time
	renewals int64
	wrong    []string
}

// cause for a new credential.
type cause struct {
	book *book
	page *page
	// given is when it was; zero: it is about to be.
	given time.Time
}

func newBook() *book { return &book{pages: map[string]*page{}, closest: -1} }

func (b *book) open(name string, kind kind, wanted *v1alpha1.DynamicSecret) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages[name] = &page{kind: kind, wanted: wanted}
}

// wanted is the object of that name, to be created.
func (b *book) wanted(name string) *v1alpha1.DynamicSecret {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pages[name].wanted.DeepCopy()
}

// cause notes a cause that is about to be given.
func (b *book) cause(name string) *cause {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[name]
	c := &cause{book: b, page: p}
	p.open = append(p.open, c)
	p.causes++
	return c
}

// wasGiven notes that it was, or perhaps was.
func (c *cause) wasGiven() {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	c.given = time.Now()
}

// takeBack forgets one that turned out not to have been given.
func (c *cause) takeBack() {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	c.page.causes--
	c.page.open = slices.DeleteFunc(c.page.open, func(o *cause) bool { return o == c })
}

// use takes the causes that a credential made then has met: those given before, or else the oldest. False: there is none.
func (p *page) use(made time.Time) bool {
	n := len(p.open)
	if n == 0 {
		return false
	}
	p.open = slices.DeleteFunc(p.open, func(c *cause) bool { return !c.given.IsZero() && c.given.Before(made) })
	if len(p.open) == n {
		p.open = p.open[1:]
	}
	return true
}

// seeSecret compares what a Secret holds with what it held before.
func (b *book) seeSecret(o client.Object) {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return
	}
	user := string(s.Data["username"])
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[o.GetName()]
	if p == nil || user == "" || user == p.user {
		return
	}
	made := madeAt(user)
	p.changes++
	aged := p.kind == brief && made.Sub(p.made) >= briefLife
	if !p.use(made) && !aged {
		p.wrong = append(p.wrong, fmt.Sprintf("at %s user %s took the place of %q without a cause",
			time.Now().Format("15:04:05.000"), user, p.user))
	}
	p.user, p.made = user, made
}

// madeAt is when Vault made the user, in whole seconds: its name ends with that.
func madeAt(user string) time.Time {
	seconds, err := strconv.ParseInt(user[strings.LastIndexByte(user, '-')+1:], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// seeObject looks how late a bystander's lease is renewed.
func (b *book) seeObject(o client.Object) {
	d, ok := o.(*v1alpha1.DynamicSecret)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, rec := b.pages[d.Name], d.Status.Lease
	if p == nil || p.kind != bystander || rec == nil {
		return
	}
	if rec.Renewals > p.renewals && p.expires != nil && rec.RenewedAt != nil {
		left := p.expires.Sub(rec.RenewedAt.Time)
		if b.closest < 0 || left < b.closest {
			b.closest = left
		}
	}
	p.renewals, p.expires = rec.Renewals, rec.ExpiresAt
}

// leastLife is what is left of the bystander's lease that ends first.
func (b *book) leastLife() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	least := time.Hour
	for _, p := range b.pages {
		if p.kind == bystander && p.expires != nil {
			least = min(least, time.Until(p.expires.Time))
		}
	}
	return least
}

// sum of the book: credentials that reached a Secret, causes, and what had none, by object.
func (b *book) sum() (changes, causes, changedBystanders int, wrong map[string][]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wrong = map[string][]string{}
	for name, p := range b.pages {
		changes += p.changes
		causes += p.causes
		if len(p.wrong) > 0 {
			wrong[name] = slices.Clone(p.wrong)
		}
		if p.kind == bystander && p.changes > 1 {
			changedBystanders++
		}
	}
	return changes, causes, changedBystanders, wrong
}

func (b *book) names(kinds ...kind) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, p := range b.pages {
		if slices.Contains(kinds, p.kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// follow shows every version of the objects of a kind in the namespace. A watch that ends is taken up where it ended, so
// that no version is missed while the API server is paused.
func follow(ctx context.Context, kube client.WithWatch, list client.ObjectList, see func(client.Object)) {
	version := ""
	for ctx.Err() == nil {
		if version == "" {
			if kube.List(ctx, list, client.InNamespace(place)) != nil {
				nap(ctx, 100*time.Millisecond)
				continue
			}
			version = list.GetResourceVersion()
			_ = meta.EachListItem(list, func(o runtime.Object) error {
				see(o.(client.Object))
				return nil
			})
		}
		version = followFrom(ctx, kube, list, version, see)
	}
}

// followFrom returns the version to go on from; empty: the API server no longer has it.
func followFrom(ctx context.Context, kube client.WithWatch, list client.ObjectList, version string, see func(client.Object)) string {
	w, err := kube.Watch(ctx, list, &client.ListOptions{Namespace: place, Raw: &metav1.ListOptions{ResourceVersion: version}})
	if err != nil {
		nap(ctx, 100*time.Millisecond)
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
			see(o)
		}
	}
	return version
}
