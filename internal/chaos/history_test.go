package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Each event ends with its time in seconds: "+2" triggers a cause and "a3" creates user a. "~" withdraws a cause, and
// "*" adds a cause that has not been triggered.
func TestHistoryRequiresACauseForEachCredential(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		kind       kind
		events     string
		violations int
	}{
		{"the object was created", mutated, "+1 a2", 0},
		{"a Secret observed before the create request returned", mutated, "* a2", 0},
		{"the same credential observed again", mutated, "+1 a2 a2 a2", 0},
		{"one credential for each cause", mutated, "+1 a2 +3 b4", 0},
		{"one credential for two causes at once", mutated, "+1 a2 +3 +4 b5", 0},
		{"two credentials for two causes at once", mutated, "+1 a2 +3 +4 b5 c6", 1},
		{"a cause triggered in the second of the last credential", mutated, "+1 +2 a2 b3", 0},
		{"an earlier credential in the Secret with the old name", mutated, "+1 a2 +3 b4 a2", 0},
		{"no cause", mutated, "+1 a2 b3", 1},
		{"a cause triggered after the credential", mutated, "+1 a2 b3 +4", 1},
		{"a withdrawn cause", mutated, "+1 a2 ~ b3", 1},
		{"a bystander, at any age", bystander, "+1 a2 b3600", 1},
		{"an expiring credential at its age limit", expiring, "+1 a2 b40", 0},
		{"an expiring credential before its age limit", expiring, "+1 a2 b40 c41", 1},
		{"an expiring credential at each age limit", expiring, "+1 a2 b40 c80 d120", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHistory()
			h.addObject("orders", c.kind, object("orders", "", 0))
			for _, event := range strings.Fields(c.events) {
				play(t, h, event)
			}
			if got := len(h.objects["orders"].violations); got != c.violations {
				t.Errorf("got %d violations, want %d", got, c.violations)
			}
		})
	}
}

func play(t *testing.T, h *history, event string) {
	t.Helper()
	var second int64
	if len(event) > 1 {
		if _, err := fmt.Sscan(event[1:], &second); err != nil {
			t.Fatal(err)
		}
	}
	switch event[0] {
	case '+':
		h.addCause("orders").triggered = time.Unix(second, 0)
	case '~':
		h.addCause("orders").withdraw()
	case '*':
		h.addCause("orders")
	default:
		user := fmt.Sprintf("%s%c-%d", userPrefix, event[0], second)
		h.observeSecret(&corev1.Secret{ObjectMeta: objectMeta("orders"),
			Data: map[string][]byte{"username": []byte(user)}})
	}
}
