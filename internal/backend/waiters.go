package backend

// Waiter is an object that waits for a place.
type Waiter struct {
	// Key identifies the object.
	Key string
	// Wake is called when there may be a place. It must not block.
	Wake func()
}

// waiters are woken in the order in which they came.
type waiters struct {
	order []string
	wake  map[string]func()
}

func (w *waiters) add(who Waiter) {
	if w.wake == nil {
		w.wake = map[string]func(){}
	}
	if w.wake[who.Key] == nil {
		w.wake[who.Key] = who.Wake
		w.order = append(w.order, who.Key)
	}
}

// remove forgets an object that got a place. Its key leaves the order when it is the first.
func (w *waiters) remove(key string) { delete(w.wake, key) }

// next takes the first; nil: nobody waits.
func (w *waiters) next() func() {
	for len(w.order) > 0 {
		key := w.order[0]
		w.order = w.order[1:]
		if wake := w.wake[key]; wake != nil {
			delete(w.wake, key)
			return wake
		}
	}
	return nil
}

// take takes the first n, or all if they are fewer.
func (w *waiters) take(n int) (wake []func()) {
	for range n {
		if next := w.next(); next != nil {
			wake = append(wake, next)
		}
	}
	return wake
}
