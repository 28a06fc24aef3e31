// Command tests fails if the documentation names a test that does not exist, or not in the directory that it names.
// `make verify` runs it in the root of the repository.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	// declared finds the declaration of a test.
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	// named finds the name of a test in a text.
	named = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	// located finds names with the directory of their tests: "`TestA`, `TestB` in `internal/lease/`".
	located = regexp.MustCompile("((?:`(?:Test|Fuzz|Benchmark)[A-Z][\\w/]*`(?:, | and )?)+) in `([\\w/-]+)/`")
)

func main() {
	if err := check(os.DirFS(".")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check compares the pages with the tests of a tree.
func check(tree fs.FS) error {
	pages, tests := map[string]string{}, map[string][]string{}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name == "bin" || name == ".git" {
				return fs.SkipDir
			}
			return nil
		case !isPage(name) && !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if isPage(name) {
			pages[name] = string(text)
			return err
		}
		for _, found := range declared.FindAllStringSubmatch(string(text), -1) {
			tests[found[1]] = append(tests[found[1]], path.Dir(name))
		}
		return err
	})
	errs := []error{err}
	for _, page := range slices.Sorted(maps.Keys(pages)) {
		errs = append(errs, checkPage(page, pages[page], tests))
	}
	return errors.Join(errs...)
}

func isPage(name string) bool {
	return name == "README.md" || name == "CONTRIBUTING.md" ||
		strings.HasPrefix(name, "docs/") && strings.HasSuffix(name, ".md")
}

// checkPage checks a page against the directories of each test.
func checkPage(page, text string, tests map[string][]string) error {
	var errs []error
	for _, test := range named.FindAllString(text, -1) {
		if len(tests[test]) == 0 {
			errs = append(errs, fmt.Errorf("%s names %s, which does not exist", page, test))
		}
	}
	for _, found := range located.FindAllStringSubmatch(text, -1) {
		for _, test := range named.FindAllString(found[1], -1) {
			if in := tests[test]; len(in) > 0 && !slices.Contains(in, found[2]) {
				errs = append(errs, fmt.Errorf("%s names %s in %s, but it is in %s",
					page, test, found[2], strings.Join(in, ", ")))
			}
		}
	}
	return errors.Join(errs...)
}
