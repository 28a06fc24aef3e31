package fake

import (
	"fmt"
	"sort"
	"time"
)

// SetValue sets the value of a static path.
func (b *Backend) SetValue(path, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[path] = value
}

// Live maps the ids of the live leases to the accessors that own them.
func (b *Backend) Live() map[string]string { return b.liveOf(true) }

// LiveCertificates maps the serial numbers of the live expiring credentials to the accessors that requested them.
func (b *Backend) LiveCertificates() map[string]string { return b.liveOf(false) }

func (b *Backend) liveOf(leased bool) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	b.settle(now)
	live := map[string]string{}
	for id, c := range b.minted {
		if c.leased == leased && b.alive(c, now) {
			live[id] = c.accessor
		}
	}
	return live
}

// RevokeBehind revokes a credential without leasekeeper, as an administrator would.
func (b *Backend) RevokeBehind(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.minted[id]; c != nil {
		c.revoked = true
	}
}

// Dropped says that the revocation of a lease has dropped OneUser, and that no later lease has created it again.
func (b *Backend) Dropped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(b.clock.Now())
	return b.dropped
}

// Issued counts the credentials that were minted.
func (b *Backend) Issued() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.issued
}

// Calls counts the calls of each operation, in the order of their names.
func (b *Backend) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for op, n := range b.calls {
		out = append(out, fmt.Sprintf("%s=%d", op, n))
	}
	sort.Strings(out)
	return out
}

// Expiry of a credential in the backend; false: there is no such credential.
func (b *Backend) Expiry(id string) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.minted[id]
	if c == nil {
		return time.Time{}, false
	}
	return c.expires, true
}
