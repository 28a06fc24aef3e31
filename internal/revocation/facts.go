package revocation

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Facts is what this process knows about a LeaseRevocation and no other does. Losing it costs a list that is begun
// again, a few lookups and, if the response to the revocation was lost too, a second revocation of the same leases.
type Facts struct {
	// Listing of the leases, which may take several steps.
	Listing Listing
	// Own are the ids of leases that existed before the revocation, Newer those of leases that were issued after it.
	Own, Newer map[string]bool
	// Counted is the count that this process stored last.
	Counted Counted
	// AcceptedAt is when the backend accepted the revocation, even if that is not stored yet.
	AcceptedAt time.Time
	// Rejected is true if the last attempt to revoke cannot have revoked anything.
	Rejected bool
	// Notified is true once the DynamicSecrets were notified for the first time.
	Notified bool
	// Check is the last check of the leases that remain.
	Check Checked
	// Retried is how many leases were revoked one by one.
	Retried int
	// Forced is the number of leases that were forced and are not in the status yet.
	Forced int64
	// Failure of the last step.
	Failure Failure
}

// Listing is a list of leases for one action. Another action begins another list.
type Listing struct {
	backend.Listing
	For Action
}

// Counted is a count of leases in the status.
type Counted struct {
	At time.Time
	// Version is the resourceVersion of the object with this count.
	Version string
}

// permits is true if the leases may be revoked: the count is recent, and nobody has written the object since.
func (c Counted) permits(r *v1alpha1.LeaseRevocation, now time.Time) bool {
	return c.stored(r) && now.Sub(c.At) < countLife
}

// stored is true if nobody has written the object since this count.
func (c Counted) stored(r *v1alpha1.LeaseRevocation) bool {
	return r.Status.StartedAt != nil && c.Version != "" && c.Version == r.ResourceVersion
}

// Checked is a check of the leases that remain.
type Checked struct {
	// At is when it was made. Zero: there was none.
	At time.Time
	// Remaining are the ids of the leases.
	Remaining []string
	// Found is the number of these leases and of the DynamicSecrets that have one.
	Found int
	// Idle is the number of checks in a row that found no fewer.
	Idle int
	// Helped is true once leases were revoked one by one after this check; Progress is true if one was revoked.
	Helped, Progress bool
}

// after is the check that follows c.
func (c Checked) after(at time.Time, remaining []string, holders int) Checked {
	next := Checked{At: at, Remaining: remaining, Found: len(remaining) + holders}
	if c.Found > 0 && next.Found >= c.Found {
		next.Idle = c.Idle + 1
	}
	return next
}

// needsHelp is true if the backend does not seem to get rid of the remaining leases by itself.
func (c Checked) needsHelp() bool { return len(c.Remaining) > 0 && c.Idle >= idleChecks }

// pause until the next check.
func (c Checked) pause() time.Duration {
	if c.Progress {
		return firstPause
	}
	return min(firstPause<<max(0, min(c.Idle, 16))+time.Duration(c.Found)*pausePerLease, lastPause)
}

// Failure of a step.
type Failure struct {
	// Count of failures in a row.
	Count int
	// NotBefore is when the step is repeated, unless the provider changes before.
	NotBefore time.Time
	// Provider is the version of the provider that the step failed with.
	Provider string
}

func (f Failure) pausesUntil(provider string) time.Time {
	if f.Provider != provider {
		return time.Time{}
	}
	return f.NotBefore
}

// memory holds the facts of all LeaseRevocations, by name.
type memory struct {
	mu    sync.Mutex
	known map[string]*entry
}

type entry struct {
	uid   types.UID
	facts *Facts
}

// of returns the facts of the object. The work queue hands out one name at a time, so only one worker uses them.
func (m *memory) of(r *v1alpha1.LeaseRevocation) *Facts {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.known[r.Name]; e != nil && e.uid == r.UID {
		return e.facts
	}
	if m.known == nil {
		m.known = map[string]*entry{}
	}
	facts := &Facts{Own: map[string]bool{}, Newer: map[string]bool{}}
	m.known[r.Name] = &entry{uid: r.UID, facts: facts}
	return facts
}

func (m *memory) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, name)
}
