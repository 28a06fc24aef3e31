package main

import (
	"strings"
	"testing"
)

const role = `---
kind: ClusterRole
rules:
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list]
---
kind: Role
rules:
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [update]
`

func TestEveryRightNeedsAnExplanation(t *testing.T) {
	read := func(path string) ([]byte, error) {
		if path == tests {
			return []byte("\t\t{\"tries something\", nil},\n"), nil
		}
		return []byte(role), nil
	}
	const people = "\ntries something\n## RBAC of people\n\n" +
		"| `secrets, configmaps: get, list`, `leases: update` | x | y |\n"
	section := func(rows string) string { return "## RBAC of the manager\n\n" + rows + people }
	for name, c := range map[string]struct {
		text string
		want string // empty: no error
	}{
		"all of them": {section("| `secrets, configmaps: get, list` | x |\n| `leases: update` | y |\n"), ""},
		"a resource is missing": {section("| `secrets: get, list`, `leases: update` | x |\n"),
			"does not explain `configmaps: get`"},
		"a verb is missing": {section("| `secrets, configmaps: get`, `leases: update` | x |\n"),
			"does not explain `secrets: list`"},
		"it is in another cell": {section("| x | `secrets, configmaps: get, list` |\n| `leases: update` | y |\n"),
			"does not explain `secrets: get`"},
		"one too many": {section("| `secrets, configmaps: get, list`, `leases: update, delete` | x |\n"),
			"`leases: delete`, which nothing grants"},
		"an attempt is missing": {
			strings.Replace(section("| `secrets, configmaps: get, list`, `leases: update` | x |\n"), "tries", "", 1),
			`the attempt "tries something"`},
		"another section": {people, `no section "## RBAC of the manager"`},
	} {
		err := check(c.text, read)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
