package main

import (
	"strings"
	"testing"
)

const (
	clusterRole = `---
kind: ClusterRole
metadata: {name: leasekeeper}
rules:
- apiGroups: [""]
  resources: [secrets, serviceaccounts/token]
  verbs: [get]
- apiGroups: [leasekeeper.io]
  resources: [leases/status]
  verbs: [update]
---
kind: ClusterRoleBinding
roleRef: {kind: ClusterRole, name: leasekeeper}
subjects: [{kind: ServiceAccount, name: leasekeeper}]
`
	electionRole = `---
kind: Role
metadata: {name: leasekeeper, namespace: leasekeeper-system}
rules:
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [update]
---
kind: RoleBinding
metadata: {namespace: leasekeeper-system}
roleRef: {kind: Role, name: leasekeeper}
subjects: [{kind: ServiceAccount, name: leasekeeper}]
`
	viewer = `---
kind: ClusterRole
metadata: {name: viewer}
rules:
- apiGroups: [leasekeeper.io]
  resources: [providers]
  verbs: [get, list]
`
	scopeRole = `---
kind: Role
metadata: {name: leasekeeper, namespace: scope}
rules:
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
---
kind: RoleBinding
metadata: {namespace: scope}
roleRef: {kind: Role, name: leasekeeper}
subjects: [{kind: ServiceAccount, name: leasekeeper}]
---
kind: Role
metadata: {name: own, namespace: leasekeeper-system}
rules:
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [seal]
  verbs: [get]
---
kind: RoleBinding
metadata: {namespace: leasekeeper-system}
roleRef: {kind: Role, name: own}
subjects: [{kind: ServiceAccount, name: leasekeeper}]
`
	clusterKinds = `---
kind: ClusterRole
metadata: {name: kinds}
rules:
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
---
kind: ClusterRoleBinding
roleRef: {kind: ClusterRole, name: kinds}
subjects: [{kind: ServiceAccount, name: leasekeeper}]
`
	text = `# Security

## Threat model

| attempt | what stops it |
| --- | --- |
| reads a Secret, writes one | RBAC |

## RBAC of the manager

| rule | purpose |
| --- | --- |
| ` + "`secrets, serviceaccounts/token: get`, `leases.leasekeeper.io/status: update`" + ` | x |
| ` + "`leases.coordination.k8s.io: update` in its own namespace" + ` | x |

### Scoped mode

| ` + "`secrets (seal): get` in its own namespace" + ` | x |
| ` + "`namespaces: get`" + ` | x |

## RBAC of people

| ` + "`providers.leasekeeper.io: get, list`" + ` | x |
`
)

func TestPageExplainsExactlyWhatIsGranted(t *testing.T) {
	replace := func(field func(*inputs) *string, old, with string) func(*inputs) {
		return func(in *inputs) {
			if !strings.Contains(*field(in), old) {
				panic(old)
			}
			*field(in) = strings.Replace(*field(in), old, with, 1)
		}
	}
	page := func(in *inputs) *string { return &in.page }
	config := func(in *inputs) *string { return &in.config }
	chart := func(in *inputs) *string { return &in.chart }
	scoped := func(in *inputs) *string { return &in.scoped }
	scopedOnly := func(in *inputs) *string { return &in.scopedOnly }
	tests := func(in *inputs) *string { return &in.tests }
	for name, c := range map[string]struct {
		change func(*inputs)
		want   string // empty: no error
	}{
		"all of them": {func(*inputs) {}, ""},

		"a resource is missing": {replace(page, "secrets, service", "service"), "does not explain `secrets: get` of"},
		"a verb is missing": {replace(page, "get, list", "get"),
			"does not explain `providers.leasekeeper.io: list` of"},
		"a right in another cell": {replace(page, "| `secrets,", "| x | `secrets,"),
			"does not explain `secrets: get` of"},
		"a verb too many": {replace(page, "get, list", "get, list, watch"),
			": watch`, which config/ does not grant"},
		"a section is missing": {replace(page, "## RBAC of people", "## People"), `no section "## RBAC of people"`},

		"another group on the page": {replace(page, "leases.coordination.k8s.io", "leases"),
			"does not explain `leases.coordination.k8s.io: update` in its own namespace of"},
		"another group in config/": {replace(config, "coordination.k8s.io", "leasekeeper.io"),
			"does not explain `leases.leasekeeper.io: update` in its own namespace of config/"},
		"another group in the chart": {replace(chart, "coordination.k8s.io", "apps"),
			"does not explain `leases.apps: update` in its own namespace of the chart"},
		"all groups": {replace(chart, "coordination.k8s.io", `"*"`), "does not explain `leases.*: update`"},

		"a Role becomes a ClusterRole": {
			replace(chart, "kind: Role\nmetadata: {name: leasekeeper, namespace: leasekeeper-system}\nrules:\n",
				"kind: ClusterRole\nmetadata: {name: more}\nrules:\n"), `binds Role "leasekeeper", which is not`},
		"a Role in another namespace": {func(in *inputs) {
			in.chart = strings.ReplaceAll(in.chart, "leasekeeper-system", "default")
		}, "does not explain `leases.coordination.k8s.io: update` in namespace default of the chart"},
		"a Role lacks a verb": {replace(chart, "[update]\n---\nkind: RoleBinding", "[]\n---\nkind: RoleBinding"),
			"`leases.coordination.k8s.io: update` in its own namespace, which the chart does not grant"},
		"a role from elsewhere": {replace(chart, "ClusterRole, name: leasekeeper", "ClusterRole, name: admin"),
			`binds ClusterRole "admin", which is not in the manifests`},
		"a URL": {replace(config, "- apiGroups: [coordination.k8s.io]\n  resources: [leases]\n",
			"- nonResourceURLs: [/metrics]\n"), "does not explain `/metrics: update`"},
		"people get the manager's role": {replace(config, "kind: ServiceAccount", "kind: Group"),
			`"## RBAC of people" in docs/security.md does not explain ` + "`secrets: get` of config/"},

		"the scope has more": {replace(scoped, "resources: [secrets]", "resources: [secrets, pods]"),
			"does not explain `pods: get` in namespace scope of the chart in scoped mode"},
		"the own namespace has more": {replace(scoped, "  resourceNames: [seal]\n", ""),
			"does not explain `secrets: get` in its own namespace of the chart in scoped mode"},
		"the cluster has more in scoped mode": {replace(scoped, "[namespaces]", "[namespaces, secrets]"),
			"does not explain `secrets: get` of the chart in scoped mode"},
		"the scope alone has more": {replace(scopedOnly, "resources: [secrets]", "resources: [secrets, pods]"),
			"does not explain `pods: get` in namespace scope of the chart without the cluster kinds"},
		"the cluster kinds without them": {func(in *inputs) { in.scopedOnly += clusterKinds },
			"grants `namespaces: get` in the whole cluster without the cluster kinds"},

		"an attempt is missing": {replace(page, "reads a Secret, ", ""), `does not name the attempt "reads a Secret"`},
		"an attempt is part of another": {replace(page, "reads a Secret,", "reads a Secret of others,"),
			`does not name the attempt "reads a Secret"`},
		"an attempt without a test": {replace(page, "writes one", "writes one, deletes one"),
			`names the attempt "deletes one", which is not in`},
		"a test of another name": {replace(tests, "writes one", "patches one"), `names the attempt "writes one"`},
	} {
		in := inputs{
			page: text, config: clusterRole + electionRole + viewer, chart: viewer + electionRole + clusterRole,
			scoped: scopeRole + clusterKinds + electionRole, scopedOnly: scopeRole + electionRole,
			tests: "\t\t{\"reads a Secret\", func() {\n\t\t{\"writes one\",\n",
		}
		c.change(&in)
		err := in.check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
