//go:build integration

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// rendered are the objects of the chart with these values.
func rendered(t *testing.T, values ...string) []unstructured.Unstructured {
	t.Helper()
	text, err := testbed.RenderChart(t.Context(), "../..", values...)
	if err != nil {
		t.Fatal(err)
	}
	var objects []unstructured.Unstructured
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(text, -1) {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		if o.Object != nil {
			objects = append(objects, o)
		}
	}
	return objects
}

// findRendered finds an object of the chart.
func findRendered(t *testing.T, objects []unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(objects, func(o unstructured.Unstructured) bool {
		return o.GetKind() == kind && o.GetName() == name
	})
	if i < 0 {
		t.Fatalf("the chart has no %s %s", kind, name)
	}
	return &objects[i]
}

func stringOf(o *unstructured.Unstructured, fields ...string) string {
	found, _, _ := unstructured.NestedString(o.Object, fields...)
	return found
}

func TestChartAggregatesRolesOnRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values           []string
		editor, provider string // "view, edit, admin", for each of the roles; "none": the role does not exist
	}{
		{nil, "admin edit", ""},
		{[]string{"rbac.aggregateSecretProviders=true"}, "admin edit", "admin edit"},
		{[]string{"rbac.aggregate=false"}, "none", ""},
		{[]string{"rbac.aggregate=false", "rbac.aggregateSecretProviders=true"}, "none", "admin edit"},
	} {
		objects := rendered(t, c.values...)
		got := map[string]string{"leasekeeper-editor": "none", "leasekeeper-provider-editor": "none"}
		for _, o := range objects {
			var into []string
			for label, value := range o.GetLabels() {
				role, found := strings.CutPrefix(label, "rbac.authorization.k8s.io/aggregate-to-")
				if found && value == "true" {
					into = append(into, role)
				}
			}
			slices.Sort(into)
			got[o.GetName()] = strings.Join(into, " ")
		}
		if got["leasekeeper-editor"] != c.editor || got["leasekeeper-provider-editor"] != c.provider {
			t.Errorf("with %v the editor is aggregated to %q and the provider editor to %q, want %q and %q", c.values,
				got["leasekeeper-editor"], got["leasekeeper-provider-editor"], c.editor, c.provider)
		}
	}
}

func TestChartInstallsAdmissionPoliciesUnlessDisabled(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int{"true": 4, "false": 0} {
		n := 0
		for _, o := range rendered(t, "admissionPolicies.enabled="+value) {
			if strings.HasPrefix(o.GetAPIVersion(), "admissionregistration.k8s.io/") {
				n++
			}
		}
		if n != want {
			t.Errorf("admissionPolicies.enabled=%s installs %d policies and bindings, want %d", value, n, want)
		}
	}
}

// An audience may be a text that the template replaces elsewhere.
func TestChartPutsAudiencesIntoThePolicy(t *testing.T) {
	t.Parallel()
	for values, list := range map[string]string{
		"{vault}":                               "['vault']",
		"{https://vault.example,sts}":           "['https://vault.example', 'sts']",
		"{leasekeeper-tokens,openbao.internal}": "['leasekeeper-tokens', 'openbao.internal']",
	} {
		objects := rendered(t, "admissionPolicies.audiences="+values, "fullnameOverride=shop")
		policy := findRendered(t, objects, "ValidatingAdmissionPolicy", "shop-tokens")
		rules, _, _ := unstructured.NestedSlice(policy.Object, "spec", "validations")
		got := fmt.Sprint(rules)
		if len(rules) != 1 || !strings.Contains(got, "audience in "+list+")") || !strings.Contains(got, "only: "+list) {
			t.Errorf("audiences %s: %s", values, got)
		}
	}
}

func TestChartRejectsBadNamesAndAudiences(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"admissionPolicies.audiences={}", "admissionPolicies.audiences={a'b}", `admissionPolicies.audiences={a"b}`,
		"admissionPolicies.audiences={a b}", "fullnameOverride=Shop", "fullnameOverride=shop_1", "nameOverride=-shop",
	} {
		_, err := testbed.RenderChart(t.Context(), "../..", value)
		path, _, _ := strings.Cut(value, "=")
		if err == nil || !strings.Contains(err.Error(), path[strings.LastIndex(path, ".")+1:]) {
			t.Errorf("%s: got %v", value, err)
		}
	}
}

// Every object has the name, except the ServiceAccount, and every reference leads to an object of the chart.
func TestChartUsesFullnameOverrideEverywhere(t *testing.T) {
	t.Parallel()
	values := []string{
		"fullnameOverride=shop", "rollout.enabled=true", "rbac.revokers[0].kind=Group", "rbac.revokers[0].name=oncall",
	}
	for _, scope := range [][]string{nil, {"scope.namespaces={a,b}"}} {
		objects := rendered(t, append(scope, values...)...)
		exists := map[string]bool{}
		for _, o := range objects {
			exists[o.GetKind()+" "+o.GetNamespace()+" "+o.GetName()] = true
			named := o.GetName() == "shop" || strings.HasPrefix(o.GetName(), "shop-")
			if o.GetKind() == "ServiceAccount" {
				named = o.GetName() == "leasekeeper"
			}
			if !named {
				t.Errorf("%s is called %q", o.GetKind(), o.GetName())
			}
		}
		for _, o := range objects {
			var target string
			switch o.GetKind() {
			case "ClusterRoleBinding":
				target = "ClusterRole  " + stringOf(&o, "roleRef", "name")
			case "RoleBinding":
				target = "Role " + o.GetNamespace() + " " + stringOf(&o, "roleRef", "name")
			case "ValidatingAdmissionPolicyBinding":
				target = "ValidatingAdmissionPolicy  " + stringOf(&o, "spec", "policyName")
			case "Deployment":
				account := stringOf(&o, "spec", "template", "spec", "serviceAccountName")
				target = "ServiceAccount " + o.GetNamespace() + " " + account
			default:
				continue
			}
			if !exists[target] {
				t.Errorf("%s %s refers to %q, which the chart does not have", o.GetKind(), o.GetName(), target)
			}
		}
		policy := findRendered(t, objects, "ValidatingAdmissionPolicy", "shop-secret-types")
		conditions, _, _ := unstructured.NestedSlice(policy.Object, "spec", "matchConditions")
		if !strings.Contains(fmt.Sprint(conditions), "'"+managerUser+"'") {
			t.Errorf("the policy is for %v", conditions)
		}
	}
}

// values.schema.json rejects values that it does not declare, so these are all values of the chart.
func TestChartDescribesEveryValue(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	text, err := os.ReadFile("../../charts/leasekeeper/values.schema.json")
	if err == nil {
		err = yaml.Unmarshal(text, &schema)
	}
	if err == nil {
		text, err = os.ReadFile("../../charts/leasekeeper/values.yaml")
	}
	if err != nil {
		t.Fatal(err)
	}
	described := describedValues(string(text))
	var walk func(path string, schema map[string]any)
	walk = func(path string, schema map[string]any) {
		properties, _ := schema["properties"].(map[string]any)
		for name, property := range properties {
			if path+name != "global" { // Helm passes it to every chart
				walk(path+name+".", property.(map[string]any))
			}
		}
		if path = strings.TrimSuffix(path, "."); len(properties) == 0 && !described[path] {
			t.Errorf("values.yaml does not describe %s: add it, below a comment that says what it does", path)
		}
	}
	walk("", schema)
}

// describedValues are the paths of the values whose line follows a comment.
func describedValues(text string) map[string]bool {
	described := map[string]bool{}
	var path []string
	comment := false
	for line := range strings.Lines(text) {
		key, _, isKey := strings.Cut(strings.TrimLeft(line, " "), ":")
		isComment := strings.HasPrefix(key, "#")
		if isKey && !isComment {
			depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
			path = append(path[:min(depth, len(path))], key)
			described[strings.Join(path, ".")] = comment
		}
		comment = isComment
	}
	return described
}
