package testbed

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMarkIsTheEndOfTheLastCompleteLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\nsec")
	mark, err := markOf(path)
	if err != nil {
		t.Fatal(err)
	}
	write("first\nsecond\nthird\n")
	var lines []string
	err = linesSince(path, mark, func(line []byte) error { lines = append(lines, string(line)); return nil })
	if err != nil || len(lines) != 2 || lines[0] != "second" {
		t.Errorf("lines after the mark: %q, %v", lines, err)
	}
}
