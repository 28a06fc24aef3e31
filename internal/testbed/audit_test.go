package testbed

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMarkIsTheEndOfTheLastCompleteLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := func(line []byte) (string, error) { return string(line), nil }
	var log auditLog[string]
	if mark, err := log.mark(path, text); mark != 0 || err != nil {
		t.Errorf("without a log the mark is %d, %v", mark, err)
	}
	write("first\nsec")
	mark, err := log.mark(path, text)
	if err != nil {
		t.Fatal(err)
	}
	write("first\nsecond\nthird\nfou")
	for _, c := range []struct {
		since Mark
		want  []string
	}{{0, []string{"first", "second", "third"}}, {mark, []string{"second", "third"}}, {mark + 7, []string{"third"}}} {
		if lines, err := log.since(c.since, path, text); err != nil || !slices.Equal(lines, c.want) {
			t.Errorf("lines after %d: %q, %v, want %q", c.since, lines, err, c.want)
		}
	}
}
