package turns

import (
	"fmt"
	"testing"
	"time"
)

func TestWhoWaitsLongestIsNext(t *testing.T) {
	const pause = time.Second
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	turns := New[string](2)
	enter := func(user string) bool {
		_, ok := turns.Enter(user, now, pause)
		return ok
	}
	if !enter("a") || !enter("b") {
		t.Fatal("there are two places")
	}
	for i, c := range []struct {
		// leaves: a user gives its place back before, and the time since the last step.
		leaves bool
		after  time.Duration
		user   string
		want   bool
	}{
		{false, 0, "c", false}, {false, 0, "d", false}, {false, 0, "e", false},
		{true, 0, "a", false}, {false, 0, "e", false}, {false, 0, "d", false}, {false, 0, "c", true},
		{true, 0, "e", false}, {false, 0, "d", true},
		{true, 4 * pause, "f", true}, // the others were deleted meanwhile
	} {
		if c.leaves {
			turns.leave()
		}
		now = now.Add(c.after)
		if got := enter(c.user); got != c.want {
			t.Errorf("step %d: %s got a place: %t, want %t", i, c.user, got, c.want)
		}
	}
	if got := fmt.Sprint(len(turns.waiting), turns.taken); got != "0 2" {
		t.Errorf("%s are waiting and have a place", got)
	}
}
