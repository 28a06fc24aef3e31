package v1alpha1_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// reasons are the values of the constants whose names start with Reason.
func reasons(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "condition_types.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		c, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(c.Names[0].Name, "Reason") {
			return true
		}
		value, err := strconv.Unquote(c.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found[value] = true
		return true
	})
	return found
}

// Each reason is explained in a table of docs/conditions.md and has an example there, and no example is of a reason
// that does not exist.
func TestEachReasonIsDocumentedWithAnExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/conditions.md")
	if err != nil {
		t.Fatal(err)
	}
	explained, examples, found := strings.Cut(string(text), "\n## Examples\n")
	if !found {
		t.Fatal("docs/conditions.md has no section Examples")
	}
	examples, events, _ := strings.Cut(examples, "\n## ")
	rows := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| (.+) \\|$").FindAllStringSubmatch(examples, -1) {
		rows[row[1]] = len(strings.TrimSpace(row[2])) > 10
	}
	all := reasons(t)
	if len(all) < 50 {
		t.Fatalf("only %d reasons were found", len(all))
	}
	for reason := range all {
		if !rows[reason] {
			t.Errorf("%s has no example in docs/conditions.md", reason)
		}
		first := regexp.MustCompile("(?m)^\\|[^|]*`" + reason + "`")
		if !first.MatchString(explained) && !first.MatchString(events) {
			t.Errorf("%s is in no table of docs/conditions.md", reason)
		}
	}
	for reason := range rows {
		if !all[reason] {
			t.Errorf("docs/conditions.md has an example of %s, which does not exist", reason)
		}
	}
}
