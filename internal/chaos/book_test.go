package chaos

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The judge is judged: what it must not let pass, and what it must.
func TestACredentialNeedsACauseThatWasGivenBeforeIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kind kind
		// what happens: "+" a cause, "-" one that is taken back, and otherwise the user that the Secret is seen to hold.
		happens []string
		since   time.Duration
		wrong   int
	}{
		{"the first credential of an object that was created", stirred, []string{"+", "a"}, 0, 0},
		{"the same credential, seen again", stirred, []string{"+", "a", "a", "a"}, 0, 0},
		{"one more for one more cause", stirred, []string{"+", "a", "+", "b"}, 0, 0},
		{"one for two causes that came together", stirred, []string{"+", "a", "+", "+", "b"}, 0, 0},
		{"one without a cause", stirred, []string{"+", "a", "b"}, 0, 1},
		{"a cause that comes after what it would have caused", stirred, []string{"+", "a", "b", "+"}, 0, 1},
		{"a cause that was not given in the end", stirred, []string{"+", "a", "-", "b"}, 0, 1},
		{"a bystander that changes", bystander, []string{"+", "a", "b"}, time.Hour, 1},
		{"a brief one that has lived its life", brief, []string{"+", "a", "b"}, briefLife, 0},
		{"a brief one that changes twice in one life", brief, []string{"+", "a", "b", "c"}, briefLife, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			b.open("orders", c.kind, object("orders", "", 0))
			for _, what := range c.happens {
				switch what {
				case "+":
					b.cause("orders")
				case "-":
					b.cause("orders")()
				default:
					b.pages["orders"].since = time.Now().Add(-c.since)
					b.seeSecret(&corev1.Secret{ObjectMeta: named("orders"), Data: map[string][]byte{"username": []byte(what)}})
				}
			}
			if got := len(b.pages["orders"].wrong); got != c.wrong {
				t.Errorf("%d found wrong, want %d", got, c.wrong)
			}
		})
	}
}
