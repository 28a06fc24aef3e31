package lifecycle

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/provider"
)

// checks are what is remembered of the folders of a provider.
type checks struct {
	running bool
	folders map[string]*check
}

// check is the last one of a folder.
type check struct {
	// since is when the folder was first seen, at when it was checked last; zero: never.
	since, at time.Time
	// failed is why it could not be listed; nil: it was.
	failed error
	// next is the lease to look up next.
	next int
}

// age is when the folder was checked last, or first seen.
func (c *check) age() time.Time {
	if c.at.IsZero() {
		return c.since
	}
	return c.at
}

// plan forgets folders without leases, and orders the others: the tenant that was not served for the longest time comes
// first, with its folder that was not checked for the longest time. Each tenant has one turn before any has its second.
func (c *checks) plan(folders map[string]*folder, now time.Time) []*folder {
	kept := map[string]*check{}
	tenants := map[string][]*folder{}
	for path, f := range folders {
		f.check = c.folders[path]
		if f.check == nil {
			f.check = &check{since: now}
		}
		kept[path] = f.check
		tenants[f.tenant()] = append(tenants[f.tenant()], f)
	}
	c.folders = kept
	oldestFirst := func(a, b *folder) int {
		return cmp.Or(a.check.at.Compare(b.check.at), strings.Compare(a.path, b.path))
	}
	var turns [][]*folder
	for _, own := range tenants {
		slices.SortFunc(own, oldestFirst)
		turns = append(turns, own)
	}
	slices.SortFunc(turns, func(a, b []*folder) int { return oldestFirst(a[len(a)-1], b[len(b)-1]) })
	var queue []*folder
	for turn := 0; len(queue) < len(folders); turn++ {
		for _, own := range turns {
			if turn < len(own) {
				queue = append(queue, own[turn])
			}
		}
	}
	return queue
}

// mostAdvice is how many lines a status can hold.
const mostAdvice = 32

// Verification reports how the leases of a provider are verified.
func (v *Verifier) Verification(p v1alpha1.Provider) provider.Verification {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.checks[ProviderKey(p.Kind(), p.GetName(), p.GetNamespace())]
	if c == nil {
		return provider.Verification{Known: v.began}
	}
	known := provider.Verification{Known: true}
	var failed string
	late := false
	for path, f := range c.folders {
		known.Leases = known.Leases || !f.at.IsZero()
		late = late || v.clock.Now().Sub(f.age()) > lookupRounds*v.interval
		if f.failed == nil {
			continue
		}
		known.Advised = append(known.Advised, backend.MissingFrom(f.failed)...)
		if canLookUp(f.failed) && (failed == "" || path < failed) {
			failed = path
		}
	}
	if failed != "" {
		known.Failed = c.folders[failed].failed.Error()
	}
	if late {
		known.Overdue = lookupRounds * v.interval
	}
	slices.Sort(known.Advised)
	known.Advised = slices.Compact(known.Advised)
	known.Advised = known.Advised[:min(mostAdvice, len(known.Advised))]
	return known
}
