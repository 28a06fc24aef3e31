package secret

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// apply returns what the API server stores: the change is a JSON merge patch (RFC 7386).
func (c Change) apply(t *testing.T, s *corev1.Secret) *corev1.Secret {
	t.Helper()
	var stored, patch map[string]any
	convert(t, s, &stored)
	convert(t, c, &patch)
	after := &corev1.Secret{}
	convert(t, mergePatch(stored, patch), after)
	return after
}

// convert copies from one type to another by its JSON.
func convert(t *testing.T, from, to any) {
	t.Helper()
	raw, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(raw, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mergePatch(into, patch map[string]any) map[string]any {
	if into == nil {
		into = map[string]any{}
	}
	for k, v := range patch {
		inner, object := v.(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case object:
			old, _ := into[k].(map[string]any)
			into[k] = mergePatch(old, inner)
		default:
			into[k] = v
		}
	}
	return into
}

// stored is a Secret with two sources, as the API server has it, to which others have added a key, a label and an
// annotation.
func stored(d *v1alpha1.DynamicSecret) *corev1.Secret {
	s := New(d, Content{
		{Source: "db", Data: data("username", "u1", "password", "p1", "ttl", "60"), Volatile: []string{"ttl"}},
		{Source: "kv", Data: data("url", "v1", "empty", "")},
	}, "salt")
	s.UID, s.ResourceVersion = "secret-1", "41"
	s.Labels["theirs"], s.Annotations["theirs"], s.Data["theirs"] = "yes", "yes", []byte("yes")
	return s
}

func TestNewChange(t *testing.T) {
	d := dsec(targetLabels(map[string]string{"ours": "1", "changed": "1"}),
		targetAnnotations(map[string]string{"ours": "1"}))
	s := stored(d)
	d.Spec.Target.Labels, d.Spec.Target.Annotations = map[string]string{"changed": "2", "new": "2"}, nil
	content := Content{{Source: "db", Data: data("username", "u2", "extra", "")}}
	s = NewChange(s, d, content, "pepper").apply(t, s)

	labels := map[string]string{"theirs": "yes", "changed": "2", "new": "2", v1alpha1.OwnerLabel: "orders"}
	if !maps.Equal(s.Labels, labels) {
		t.Errorf("labels %v, want %v", s.Labels, labels)
	}
	if _, ours := s.Annotations["ours"]; ours || s.Annotations["theirs"] != "yes" || len(s.Annotations) != 3 {
		t.Errorf("annotations %v", s.Annotations)
	}
	if want := data("username", "u2", "extra", "", "theirs", "yes"); !reflect.DeepEqual(s.Data, want) {
		t.Errorf("data %q, want %q", s.Data, want)
	}
	if same := DigestOf(s) == content.Digest("pepper"); !InSync(s, d) || !same {
		t.Errorf("in sync: %t, the digest is that of the new content: %t", InSync(s, d), same)
	}
}

func TestNewChangeIsLocked(t *testing.T) {
	s := stored(dsec())
	for name, c := range map[string]Change{
		"all":  NewChange(s, dsec(), single("a", "b"), "salt"),
		"meta": NewChange(s, dsec(), nil, ""),
		"part": ReplacePart(s, dsec(), Part{Source: "kv", Data: data("a", "b")}),
	} {
		var patch struct{ Metadata metav1.ObjectMeta }
		convert(t, c, &patch)
		if patch.Metadata.UID != "secret-1" || patch.Metadata.ResourceVersion != "41" {
			t.Errorf("%s: UID %q, resource version %q", name, patch.Metadata.UID, patch.Metadata.ResourceVersion)
		}
		if c.Namespace != "shop" || c.Name != "orders" {
			t.Errorf("%s: of %s/%s", name, c.Namespace, c.Name)
		}
	}
}

func TestNewChangeWithoutContentKeepsTheData(t *testing.T) {
	d := dsec()
	s := stored(d)
	before := DigestOf(s)
	d.Spec.Target.Labels = map[string]string{"new": "1"}
	after := NewChange(s, d, nil, "pepper").apply(t, s)
	if !reflect.DeepEqual(after.Data, s.Data) || DigestOf(after) != before || Salt(after) != "salt" {
		t.Errorf("data %q, salt %q, want them unchanged", after.Data, Salt(after))
	}
	if !InSync(after, d) || after.Labels["new"] != "1" {
		t.Errorf("out of sync: %+v", after.ObjectMeta)
	}
}

// What people do to the metadata is repaired, without a new credential.
func TestNewChangeRepairsMetadata(t *testing.T) {
	other := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}
	for name, damage := range map[string]func(*corev1.Secret){
		"our label was removed":      func(s *corev1.Secret) { delete(s.Labels, v1alpha1.OwnerLabel) },
		"all labels were removed":    func(s *corev1.Secret) { s.Labels = nil },
		"a label was removed":        func(s *corev1.Secret) { delete(s.Labels, "ours") },
		"an annotation has changed":  func(s *corev1.Secret) { s.Annotations["ours"] = "2" },
		"an owner was added":         func(s *corev1.Secret) { s.OwnerReferences = append(s.OwnerReferences, other) },
		"the owner was removed":      func(s *corev1.Secret) { s.OwnerReferences = nil },
		"the owner is a predecessor": func(s *corev1.Secret) { s.OwnerReferences[0].UID = "uid-0" },
	} {
		d := dsec(targetLabels(map[string]string{"ours": "1"}), targetAnnotations(map[string]string{"ours": "1"}))
		s := stored(d)
		before := DigestOf(s)
		if damage(s); InSync(s, d) || !Ours(s, d) {
			t.Errorf("%s: in sync %t, ours %t", name, InSync(s, d), Ours(s, d))
		}
		if s = NewChange(s, d, nil, "").apply(t, s); !InSync(s, d) || DigestOf(s) != before {
			t.Errorf("%s: not repaired: %+v", name, s.ObjectMeta)
		}
	}
}

// If the annotation is damaged, leasekeeper does not know whose labels these are.
func TestNewChangeRemovesNothingIfTheAnnotationIsDamaged(t *testing.T) {
	for _, damaged := range []string{"", "{", "null", `{"labels":"theirs"}`, `{"labels":["ours"],"annotations":5}`} {
		d := dsec(targetLabels(map[string]string{"ours": "1"}))
		s := stored(d)
		s.Annotations[v1alpha1.AppliedAnnotation] = damaged
		d.Spec.Target.Labels = nil
		s = NewChange(s, d, single("a", "b"), "salt").apply(t, s)
		if s.Labels["theirs"] != "yes" || s.Labels["ours"] != "1" || string(s.Data["theirs"]) != "yes" {
			t.Errorf("with the annotation %q: labels %v, keys %v", damaged, s.Labels, slices.Sorted(maps.Keys(s.Data)))
		}
		if !InSync(s, d) {
			t.Errorf("the annotation %q is not repaired", damaged)
		}
	}
}

func TestEmptyValuesAreKept(t *testing.T) {
	d := dsec()
	s := New(d, single("was", "1"), "salt")
	part := Part{Data: map[string][]byte{"nil": nil, "empty": {}, "was": nil}}
	for name, c := range map[string]Change{
		"NewChange": NewChange(s, d, Content{part}, "salt"), "ReplacePart": ReplacePart(s, d, part),
	} {
		after := c.apply(t, s)
		if keys := slices.Sorted(maps.Keys(after.Data)); !slices.Equal(keys, []string{"empty", "nil", "was"}) {
			t.Errorf("%s: keys %v: a null in a merge patch removes a key", name, keys)
		}
		if DigestOf(after) != (Content{part}).Digest("salt") {
			t.Errorf("%s: the digest is not that of the content", name)
		}
	}
}

func TestReplacePart(t *testing.T) {
	d := dsec()
	for _, c := range []struct {
		name, why string
		part      Part
		want      map[string][]byte
		sources   []string
	}{
		{"another value", "the other part stays", Part{Source: "kv", Data: data("url", "v2", "empty", "")},
			data("username", "u1", "password", "p1", "ttl", "60", "url", "v2", "empty", "", "theirs", "yes"),
			[]string{"db", "kv"}},
		{"other keys", "keys that are no longer written are removed", Part{Source: "kv", Data: data("host", "h")},
			data("username", "u1", "password", "p1", "ttl", "60", "host", "h", "theirs", "yes"), []string{"db", "kv"}},
		{"volatile keys", "they remain volatile", Part{Source: "db", Data: data("ttl", "9"), Volatile: []string{"ttl"}},
			data("ttl", "9", "url", "v1", "empty", "", "theirs", "yes"), []string{"db", "kv"}},
		{"a source that the Secret does not have", "it is added", Part{Source: "mq", Data: data("queue", "q")},
			data("username", "u1", "password", "p1", "ttl", "60", "url", "v1", "empty", "", "queue", "q", "theirs",
				"yes"),
			[]string{"db", "kv", "mq"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := stored(d)
			after := ReplacePart(s, d, c.part).apply(t, s)
			if !reflect.DeepEqual(after.Data, c.want) {
				t.Errorf("because %s: data %q, want %q", c.why, after.Data, c.want)
			}
			var sources []string
			for _, p := range ContentOf(after) {
				if sources = append(sources, p.Source); p.Source == c.part.Source && !reflect.DeepEqual(p, c.part) {
					t.Errorf("because %s: the part is %+v, want %+v", c.why, p, c.part)
				}
			}
			if !slices.Equal(sources, c.sources) {
				t.Errorf("because %s: sources %v, want %v", c.why, sources, c.sources)
			}
			if theirs := after.Labels["theirs"] + after.Annotations["theirs"]; !InSync(after, d) || theirs != "yesyes" {
				t.Errorf("because %s: the metadata are %+v", c.why, after.ObjectMeta)
			}
		})
	}
}

// A refresh commits this digest before it writes, without the data of the other sources.
func TestReplacePartHasTheCombinedDigest(t *testing.T) {
	s := stored(dsec())
	part := Part{Source: "kv", Data: data("url", "v2")}
	want := Combine([]PartDigest{{"db", ContentOf(s)[0].Digest("salt")}, {"kv", part.Digest("salt")}})
	if after := ReplacePart(s, dsec(), part).apply(t, s); DigestOf(after) != want {
		t.Errorf("the digest is %s, want %s", DigestOf(after), want)
	}
}

func TestKeysOfOthers(t *testing.T) {
	s := stored(dsec())
	if got := KeysOfOthers(s, "kv"); !slices.Equal(got, []string{"password", "ttl", "username"}) {
		t.Errorf("besides kv: %v", got)
	}
	if got := KeysOfOthers(s, "new"); len(got) != 5 || slices.Contains(got, "theirs") {
		t.Errorf("besides a new source: %v", got)
	}
	if got := AppliedKeys(s); len(got) != 5 || slices.Contains(got, "theirs") {
		t.Errorf("applied: %v", got)
	}
}
