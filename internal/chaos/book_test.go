package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The judge is judged: what it must not let pass, and what it must. A story is told in seconds: "+2" is a cause that is
// given at the second 2, "~" one that is taken back, "*" one that is not answered yet, and "a3" a user made at 3.
func TestACredentialNeedsACauseOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		kind  kind
		story string
		wrong int
	}{
		{"the first credential of an object that was created", stirred, "+1 a2", 0},
		{"one that is seen before the creation was answered", stirred, "* a2", 0},
		{"the same credential, seen again", stirred, "+1 a2 a2 a2", 0},
		{"one more for one more cause", stirred, "+1 a2 +3 b4", 0},
		{"one for two causes that came together", stirred, "+1 a2 +3 +4 b5", 0},
		{"two for two causes that came together", stirred, "+1 a2 +3 +4 b5 c6", 1},
		{"a cause that was given while the last credential was made", stirred, "+1 +2 a2 b3", 0},
		{"one without a cause", stirred, "+1 a2 b3", 1},
		{"a cause that comes after what it would have caused", stirred, "+1 a2 b3 +4", 1},
		{"a cause that was not given in the end", stirred, "+1 a2 ~ b3", 1},
		{"a bystander that changes, at any age", bystander, "+1 a2 b3600", 1},
		{"a brief one that has lived its life", brief, "+1 a2 b40", 0},
		{"a brief one that changes twice in one life", brief, "+1 a2 b40 c41", 1},
		{"a brief one that changes as often as it may", brief, "+1 a2 b40 c80 d120", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			b.open("orders", c.kind, object("orders", "", 0))
			for _, event := range strings.Fields(c.story) {
				tell(t, b, event)
			}
			if got := len(b.pages["orders"].wrong); got != c.wrong {
				t.Errorf("%d found wrong, want %d", got, c.wrong)
			}
		})
	}
}

func tell(t *testing.T, b *book, event string) {
	t.Helper()
	var second int64
	if len(event) > 1 {
		if _, err := fmt.Sscan(event[1:], &second); err != nil {
			t.Fatal(err)
		}
	}
	switch event[0] {
	case '+':
		b.cause("orders").given = time.Unix(second, 0)
	case '~':
		b.cause("orders").takeBack()
	case '*':
		b.cause("orders")
	default:
		user := fmt.Sprintf("%s%c-%d", userPrefix, event[0], second)
		b.seeSecret(&corev1.Secret{ObjectMeta: named("orders"), Data: map[string][]byte{"username": []byte(user)}})
	}
}
