package provider

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// lane admits a few inspections that hang at a time. Who has waited longest is next. The others return their worker and
// try again after a pause.
type lane struct {
	mu     sync.Mutex
	places int
	taken  int
	// waiting providers, the longest first.
	waiting []waiter
}

type waiter struct {
	uid types.UID
	// until is when the provider counts as gone, because it has not tried again.
	until time.Time
}

// enter reserves a place; call leave once. A provider that gets none has to try again after the pause.
func (l *lane) enter(uid types.UID, now time.Time, pause time.Duration) (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(w waiter) bool { return w.uid != uid && w.until.Before(now) })
	i := slices.IndexFunc(l.waiting, func(w waiter) bool { return w.uid == uid })
	if i < 0 {
		i = len(l.waiting)
		l.waiting = append(l.waiting, waiter{uid: uid})
	}
	if i >= l.places-l.taken {
		l.waiting[i].until = now.Add(3 * pause)
		return nil, false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.taken++
	return l.leave, true
}

func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
}
