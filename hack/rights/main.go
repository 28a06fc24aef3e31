// Command rights fails if docs/security.md does not explain every right that config/ or the chart grants, explains one
// that they do not grant, or its attempts are not those of the tests of the threat model. `make verify` runs it in the
// root of the repository.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	page  = "docs/security.md"
	tests = "internal/e2e/attempts_test.go"

	// scope is the namespace that the scoped manager serves.
	scope = "scope"
)

// inputs are what is compared.
type inputs struct {
	// page is the text of docs/security.md, and tests the code of the attempts.
	page, tests string
	// config has the manifests in config/rbac and config/rollout, and chart those of the chart.
	config, chart string
	// scoped has the chart's manifests of the scoped mode, and scopedOnly those without the kinds of the cluster.
	scoped, scopedOnly string
}

func main() {
	in, err := read(context.Background())
	if err == nil {
		err = in.check()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(ctx context.Context) (in inputs, err error) {
	var errs []error
	file := func(path string) string {
		text, err := os.ReadFile(path)
		errs = append(errs, err)
		return string(text)
	}
	render := func(values ...string) string {
		text, err := testbed.RenderChart(ctx, ".", append(values, "rollout.enabled=true")...)
		errs = append(errs, err)
		return text
	}
	in.page, in.tests = file(page), file(tests)
	for _, dir := range []string{"config/rbac", "config/rollout"} {
		paths, err := filepath.Glob(dir + "/*.yaml")
		errs = append(errs, err)
		for _, path := range paths {
			in.config += "\n---\n" + file(path)
		}
	}
	in.chart = render()
	in.scoped = render("scope.namespaces={" + scope + "}")
	in.scopedOnly = render("scope.namespaces={"+scope+"}", "scope.clusterKinds=false")
	return in, errors.Join(errs...)
}

// right is one verb for one resource, such as `deployments.apps: get`, in a namespace. Where is empty for the whole
// cluster.
type right struct{ what, where string }

func (r right) String() string {
	if r.where == "" {
		return "`" + r.what + "`"
	}
	return "`" + r.what + "` in " + r.where
}

type rights map[right]bool

// without are the rights that are not in other.
func (r rights) without(other rights) rights {
	left := maps.Clone(r)
	maps.DeleteFunc(left, func(r right, _ bool) bool { return other[r] })
	return left
}

// in are the rights in this place.
func (r rights) in(where string) rights {
	found := maps.Clone(r)
	maps.DeleteFunc(found, func(r right, _ bool) bool { return r.where != where })
	return found
}

func (r rights) sorted() []string {
	var all []string
	for right := range r {
		all = append(all, right.String())
	}
	slices.Sort(all)
	return all
}

// Places of rights, as the page names them.
const (
	ownNamespace   = "its own namespace"
	scopeNamespace = "namespace " + scope
)

// check compares the page with everything else.
func (in inputs) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	explained := func(title string) rights {
		section, found := sectionOf(in.page, title)
		if !found {
			fail("%s has no section %q", page, title)
		}
		return explainedIn(section)
	}
	compare := func(title, manifests string, explained, granted rights) {
		for _, right := range granted.without(explained).sorted() {
			fail("%q in %s does not explain %s of %s: add a row to its table, with what the right is for and what it "+
				"allows if compromised", title, page, right, manifests)
		}
		for _, right := range explained.without(granted).sorted() {
			fail("%q in %s explains %s, which %s does not grant: remove it", title, page, right, manifests)
		}
	}
	ofManifests := func(name, text string) (manager, people rights) {
		manager, people, err := grantedBy(text)
		if err != nil {
			fail("%s: %w", name, err)
		}
		return manager, people
	}

	const ofManager, ofScope, ofPeople = "## RBAC of the manager", "### Scoped mode", "## RBAC of people"
	wide, scoped, people := explained(ofManager), explained(ofScope), explained(ofPeople)
	for name, text := range map[string]string{"config/": in.config, "the chart": in.chart} {
		grantedToManager, grantedToPeople := ofManifests(name, text)
		compare(ofManager, name, wide, grantedToManager)
		compare(ofPeople, name, people, grantedToPeople)
	}
	anywhere := rights{} // the rights in the whole cluster, as rights in the namespace of the scope
	for right := range wide.in("") {
		right.where = scopeNamespace
		anywhere[right] = true
	}
	// What the page explains for both modes is not repeated for the scoped mode.
	both := maps.Clone(anywhere)
	maps.Copy(both, wide.in(ownNamespace))
	granted, _ := ofManifests("the chart in scoped mode", in.scoped)
	compare(ofScope, "the chart in scoped mode", scoped, granted.without(both))
	granted, _ = ofManifests("the chart in scoped mode", in.scopedOnly)
	for _, right := range granted.without(both).without(scoped).sorted() {
		fail("%q in %s does not explain %s of the chart without the cluster kinds", ofScope, page, right)
	}
	for _, right := range granted.in("").sorted() {
		fail("the chart grants %s in the whole cluster without the cluster kinds", right)
	}
	return errors.Join(append(errs, in.checkAttempts())...)
}

// sectionOf returns the text of a section up to the next heading.
func sectionOf(text, title string) (section string, found bool) {
	_, section, found = strings.Cut(text, "\n"+title+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	return section, found
}

// rightsOf finds `resource.group: verb, verb` or `resource, resource/subresource: verb`, and where.
var rightsOf = regexp.MustCompile("`([a-z0-9./, ()-]+): ([a-z, ]+)`(?: in (its own namespace|namespace default))?")

// firstCells lists the first cell of every row of the tables in a text.
func firstCells(text string) (found []string) {
	for line := range strings.Lines(text) {
		if cells := strings.SplitN(line, "|", 3); len(cells) == 3 && cells[0] == "" {
			found = append(found, strings.TrimSpace(cells[1]))
		}
	}
	return found
}

// explainedIn lists the rights in the first cells of the tables of a section.
func explainedIn(section string) rights {
	all := rights{}
	for _, cell := range firstCells(section) {
		for _, found := range rightsOf.FindAllStringSubmatch(cell, -1) {
			for resource := range strings.SplitSeq(found[1], ", ") {
				for verb := range strings.SplitSeq(found[2], ", ") {
					all[right{resource + ": " + verb, found[3]}] = true
				}
			}
		}
	}
	return all
}

// role is the kind, the namespace and the name of a role.
type role struct{ kind, namespace, name string }

// grantedBy lists the rights of manifests: those bound to the manager, and those of the roles that are for people.
func grantedBy(manifests string) (manager, people rights, err error) {
	roles, bound := map[role][]rbacv1.PolicyRule{}, map[role]bool{}
	var bindings []rbacv1.RoleBinding
	for document := range bytes.SplitSeq([]byte("\n"+manifests), []byte("\n---\n")) {
		// A ClusterRole has the fields of a Role, and a ClusterRoleBinding those of a RoleBinding.
		var r rbacv1.Role
		if err := yaml.Unmarshal(document, &r); err != nil {
			return nil, nil, err
		}
		switch r.Kind {
		case "Role", "ClusterRole":
			roles[role{r.Kind, r.Namespace, r.Name}] = r.Rules
		case "RoleBinding", "ClusterRoleBinding":
			var b rbacv1.RoleBinding
			if err := yaml.Unmarshal(document, &b); err != nil {
				return nil, nil, err
			}
			bindings = append(bindings, b)
		}
	}
	manager, people = rights{}, rights{}
	for _, b := range bindings {
		found := role{b.RoleRef.Kind, b.Namespace, b.RoleRef.Name}
		if found.kind == "ClusterRole" {
			found.namespace = ""
		}
		if !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return s.Kind == "ServiceAccount" }) {
			continue
		}
		rules, there := roles[found]
		if !there {
			return nil, nil, fmt.Errorf("%s %q binds %s %q, which is not in the manifests", b.Kind, b.Name, found.kind,
				found.name)
		}
		bound[found] = true
		manager.add(rules, b.Namespace)
	}
	for name, rules := range roles {
		if !bound[name] {
			people.add(rules, name.namespace)
		}
	}
	return manager, people, nil
}

// add adds the rights of rules in a namespace.
func (r rights) add(rules []rbacv1.PolicyRule, namespace string) {
	where := ""
	switch namespace {
	case "":
	case testbed.ManagerNamespace:
		where = ownNamespace
	default:
		where = "namespace " + namespace
	}
	for _, rule := range rules {
		names := slices.Clone(rule.NonResourceURLs)
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				names = append(names, nameOf(group, resource, rule.ResourceNames))
			}
		}
		for _, name := range names {
			for _, verb := range rule.Verbs {
				r[right{name + ": " + verb, where}] = true
			}
		}
	}
}

// nameOf names a resource as kubectl does: deployments.apps/status. The names of objects, if any, are in brackets.
func nameOf(group, resource string, objects []string) string {
	resource, sub, nested := strings.Cut(resource, "/")
	if group != "" {
		resource += "." + group
	}
	if nested {
		resource += "/" + sub
	}
	if len(objects) > 0 {
		resource += " (" + strings.Join(objects, " ") + ")"
	}
	return resource
}

// attempt finds the name of an attempt in the tests.
var attempt = regexp.MustCompile(`(?m)^\t\t\{"([^"]+)",`)

// checkAttempts compares the attempts in the tables of the threat model with those of the tests.
func (in inputs) checkAttempts() error {
	section, _ := sectionOf(in.page, "## Threat model")
	tested, cited := map[string]bool{}, map[string]bool{}
	for _, found := range attempt.FindAllStringSubmatch(in.tests, -1) {
		tested[found[1]] = true
	}
	for _, cell := range firstCells(section) {
		if cell == "attempt" || strings.HasPrefix(cell, "---") {
			continue
		}
		for name := range strings.SplitSeq(cell, ", ") {
			cited[name] = true
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(tested)) {
		if !cited[name] {
			errs = append(errs, fmt.Errorf("%s does not name the attempt %q of %s", page, name, tests))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cited)) {
		if !tested[name] {
			errs = append(errs, fmt.Errorf("%s names the attempt %q, which is not in %s", page, name, tests))
		}
	}
	return errors.Join(errs...)
}
