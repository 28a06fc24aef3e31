package secret

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// OtherWriter says in a sentence, without its full stop, who else writes what leasekeeper writes into the Secret. It
// names field managers, keys, labels and annotations, and no values. manager is leasekeeper's own field manager.
func OtherWriter(m metav1.Object, d *v1alpha1.DynamicSecret, manager string) string {
	var fields []string
	labels := different(m.GetLabels(), d.Spec.Target.Labels)
	annotations := different(m.GetAnnotations(), d.Spec.Target.Annotations)
	by := map[string][]string{}
	note := func(what string, path ...string) {
		owner := ownerOf(m, manager, path...)
		if owner == "" && path[0] == "f:data" {
			return
		}
		by[owner] = append(by[owner], what)
		fields = append(fields, what)
	}
	for _, name := range labels {
		note("label "+name, "f:metadata", "f:labels", "f:"+name)
	}
	for _, name := range annotations {
		note("annotation "+name, "f:metadata", "f:annotations", "f:"+name)
	}
	keys := slices.Sorted(slices.Values(AppliedKeys(m)))
	for _, key := range keys[:min(len(keys), 64)] {
		note("key "+printable(key), "f:data", "f:"+key)
	}
	if len(by) == 0 {
		return "A mutating admission policy or webhook, or another writer, changes it"
	}
	owner := slices.Min(slices.Collect(maps.Keys(by)))
	what := strings.Join(by[owner][:min(3, len(by[owner]))], ", ")
	if owner == "" {
		return fmt.Sprintf("A mutating admission policy or webhook changes %s", what)
	}
	return fmt.Sprintf("Field manager %q changes %s", printable(owner), what)
}

// different are the names whose values are not the wanted ones.
func different(have, want map[string]string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := have[name]; !ok || got != want[name] {
			names = append(names, name)
		}
	}
	return names
}

// ownerOf is the field manager, other than leasekeeper, that wrote the field last; empty: there is none.
func ownerOf(m metav1.Object, manager string, path ...string) string {
	owner, last := "", metav1.Time{}
	for _, entry := range m.GetManagedFields() {
		if entry.Manager == manager || entry.FieldsV1 == nil || !has(entry.FieldsV1.GetRawBytes(), path) {
			continue
		}
		if entry.Time == nil || !entry.Time.Before(&last) {
			owner = entry.Manager
		}
		if entry.Time != nil {
			last = *entry.Time
		}
	}
	return owner
}

// has says whether a set of fields contains a path.
func has(raw []byte, path []string) bool {
	for _, step := range path {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil || fields[step] == nil {
			return false
		}
		raw = fields[step]
	}
	return true
}
