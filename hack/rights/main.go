// Command rights fails if docs/security.md does not explain every right that leasekeeper's manifests grant, explains
// one that they do not grant, or does not name an attempt of the tests of the threat model. `make verify` runs it in
// the root of the repository.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const (
	page  = "docs/security.md"
	tests = "internal/e2e/attempts_test.go"
)

// attempt finds the name of an attempt in the tests.
var attempt = regexp.MustCompile(`(?m)^\t\t\{"([^"]+)",`)

// sections of the page, and the manifests whose rules they explain. The first cell of a row in a table has the rights,
// such as `secrets: get, list`.
var sections = map[string][]string{
	"## RBAC of the manager": {"config/rbac/role.yaml", "config/rollout/rollout_role.yaml"},
	"## RBAC of people": {
		"config/rbac/viewer_role.yaml", "config/rbac/editor_role.yaml", "config/rbac/provider_editor_role.yaml",
		"config/rbac/revoker_role.yaml",
	},
}

func main() {
	text, err := os.ReadFile(page)
	if err == nil {
		err = check(string(text), os.ReadFile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check compares the page with the manifests.
func check(text string, read func(path string) ([]byte, error)) error {
	var errs []error
	for _, title := range slices.Sorted(maps.Keys(sections)) {
		_, section, found := strings.Cut(text, title+"\n")
		if !found {
			errs = append(errs, fmt.Errorf("%s has no section %q", page, title))
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		explained, granted := explainedIn(section), map[string]bool{}
		for _, path := range sections[title] {
			manifest, err := read(path)
			if err == nil {
				err = addRights(granted, manifest)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		for _, right := range slices.Sorted(maps.Keys(granted)) {
			if !explained[right] {
				errs = append(errs, fmt.Errorf("%q in %s does not explain `%s`: add a row to its table, with what the "+
					"right is for and what it allows if compromised", title, page, right))
			}
		}
		for _, right := range slices.Sorted(maps.Keys(explained)) {
			if !granted[right] {
				errs = append(errs, fmt.Errorf("%q in %s explains `%s`, which nothing grants: remove it",
					title, page, right))
			}
		}
	}
	code, err := read(tests)
	if err != nil {
		return err
	}
	words := strings.Join(strings.Fields(text), " ")
	for _, found := range attempt.FindAllStringSubmatch(string(code), -1) {
		if !strings.Contains(words, found[1]) {
			errs = append(errs, fmt.Errorf("%s does not name the attempt %q of %s", page, found[1], tests))
		}
	}
	return errors.Join(errs...)
}

// rightsOf finds `resource: verb, verb` or `resource, resource: verb`.
var rightsOf = regexp.MustCompile("`([a-z./, ]+): ([a-z, ]+)`")

// explainedIn lists the rights in the first cells of the tables of a section, as "resource: verb".
func explainedIn(section string) map[string]bool {
	rights := map[string]bool{}
	for line := range strings.Lines(section) {
		cells := strings.SplitN(line, "|", 3)
		if len(cells) < 3 || cells[0] != "" {
			continue
		}
		for _, found := range rightsOf.FindAllStringSubmatch(cells[1], -1) {
			for _, resource := range strings.Split(found[1], ", ") {
				for _, verb := range strings.Split(found[2], ", ") {
					rights[resource+": "+verb] = true
				}
			}
		}
	}
	return rights
}

// addRights adds the rights of a manifest of Roles and ClusterRoles.
func addRights(to map[string]bool, manifest []byte) error {
	for document := range bytes.SplitSeq(manifest, []byte("\n---\n")) {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal(document, &role); err != nil {
			return err
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					to[resource+": "+verb] = true
				}
			}
		}
	}
	return nil
}
