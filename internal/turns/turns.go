// Package turns limits how much happens at the same time, without workers that wait.
package turns

import (
	"slices"
	"sync"
	"time"
)

// Turns give a few places to users. Who has waited longest is next. A user that gets no place returns its worker and
// tries again after a pause.
type Turns[K comparable] struct {
	mu     sync.Mutex
	places int
	taken  int
	// waiting users, the longest first.
	waiting []waiter[K]
}

type waiter[K comparable] struct {
	user K
	// until is when the user counts as gone, because it has not tried again.
	until time.Time
}

// New makes turns for so many places.
func New[K comparable](places int) *Turns[K] { return &Turns[K]{places: places} }

// Enter gives the user a place; call leave once. A user that gets none has to try again after the pause.
func (t *Turns[K]) Enter(user K, now time.Time, pause time.Duration) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w waiter[K]) bool { return w.user != user && w.until.Before(now) })
	i := slices.IndexFunc(t.waiting, func(w waiter[K]) bool { return w.user == user })
	if i < 0 {
		i = len(t.waiting)
		t.waiting = append(t.waiting, waiter[K]{user: user})
	}
	if i >= t.places-t.taken {
		t.waiting[i].until = now.Add(3 * pause)
		return nil, false
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	t.taken++
	return t.leave, true
}

func (t *Turns[K]) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
}
