package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestEveryNamedTestExists(t *testing.T) {
	for name, c := range map[string]struct {
		page, text string
		want       string // empty: no error
	}{
		"it exists":              {"docs/a.md", "`TestOne`", ""},
		"a case of it":           {"docs/a.md", "`TestOne/with_a_name`", ""},
		"a fuzz target":          {"README.md", "`FuzzTwo` in `internal/b/`", ""},
		"in its directory":       {"docs/a.md", "`TestOne`, `TestTwo` in `internal/a/`; `FuzzTwo`", ""},
		"no test":                {"docs/a.md", "Tests and TestedWords", ""},
		"it was renamed":         {"docs/a.md", "`TestOnes`", "TestOnes, which does not exist"},
		"in a decision":          {"docs/decisions/1.md", "TestOther", "TestOther, which does not exist"},
		"in another page":        {"README.md", "`FuzzOne`", "FuzzOne, which does not exist"},
		"in another directory":   {"docs/a.md", "`TestTwo`, `TestOne` in `internal/b/`", "TestOne in internal/b"},
		"its file is not a test": {"docs/a.md", "`TestThree`", "TestThree, which does not exist"},
	} {
		err := check(fstest.MapFS{
			c.page:                  {Data: []byte(c.text)},
			"internal/a/a_test.go":  {Data: []byte("func TestOne(t *testing.T) {}\nfunc TestTwo(t *testing.T) {}\n")},
			"internal/b/b_test.go":  {Data: []byte("func FuzzTwo(f *testing.F) {}\nfunc TestTwo(t *testing.T) {}\n")},
			"internal/a/a.go":       {Data: []byte("func TestThree(t *testing.T) {}\n")},
			"bin/docs/other.md":     {Data: []byte("`TestUnknown`")},
			"internal/testing/x.md": {Data: []byte("`TestUnknown`")},
		})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
