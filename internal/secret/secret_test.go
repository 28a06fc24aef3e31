package secret

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// marker stands in every value of these tests and must be in no error.
const marker = "hunter2"

func data(pairs ...string) map[string][]byte {
	d := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		d[pairs[i]] = []byte(pairs[i+1])
	}
	return d
}

func TestCheck(t *testing.T) {
	full := strings.Repeat("x", corev1.MaxSecretSize)
	for _, c := range []struct {
		it   string
		kind corev1.SecretType
		data map[string][]byte
		want string // empty: it fits
	}{
		{"any keys fit an Opaque Secret", corev1.SecretTypeOpaque, data("user.name_1-A", marker, "password", ""), ""},
		{"any keys fit a type of somebody's", "example.com/other", data("password", marker), ""},
		{"nothing fits nowhere", corev1.SecretTypeOpaque, nil, "the answer is empty"},
		{"a key with a slash does not fit", corev1.SecretTypeOpaque, data("a", "b", "a/b", marker), `"a/b"`},
		{"an empty key does not fit", corev1.SecretTypeOpaque, data("", marker), `""`},
		{"a long key is cut short in the error", corev1.SecretTypeOpaque, data(strings.Repeat("k", 254), marker), `"` + strings.Repeat("k", 64) + `…"`},
		{"the longest key fits", corev1.SecretTypeOpaque, data(strings.Repeat("k", 253), marker), ""},
		{"a full Secret fits", corev1.SecretTypeOpaque, data("a", full[1:], "b", "x"), ""},
		{"a byte more does not, and keys do not count", corev1.SecretTypeOpaque, data("a", full, "b", "x"), "1048577 bytes; a Secret takes 1048576"},

		{"a certificate and its key fit", corev1.SecretTypeTLS, data("tls.crt", marker, "tls.key", marker, "ca.crt", marker), ""},
		{"a certificate alone does not", corev1.SecretTypeTLS, data("tls.crt", marker), `needs the key "tls.key"`},
		{"nor does a key alone", corev1.SecretTypeTLS, data("tls.key", marker), `needs the key "tls.crt"`},
		{"a password alone fits", corev1.SecretTypeBasicAuth, data("password", marker), ""},
		{"a user alone fits", corev1.SecretTypeBasicAuth, data("username", marker), ""},
		{"neither does not", corev1.SecretTypeBasicAuth, data("user", marker), `needs the key "username"`},
		{"an SSH key fits", corev1.SecretTypeSSHAuth, data("ssh-privatekey", marker), ""},
		{"none does not", corev1.SecretTypeSSHAuth, data("key", marker), `needs the key "ssh-privatekey"`},
		{"an empty one does not: the API server takes it for none", corev1.SecretTypeSSHAuth, data("ssh-privatekey", ""), `a value under the key "ssh-privatekey"`},
		{"a Docker configuration fits", corev1.SecretTypeDockerConfigJson, data(".dockerconfigjson", `{"auths":{}}`), ""},
		{"none does not", corev1.SecretTypeDockerConfigJson, data("config.json", `{}`), `needs the key ".dockerconfigjson"`},
		{"what is no JSON does not", corev1.SecretTypeDockerConfigJson, data(".dockerconfigjson", marker), `a JSON object under the key ".dockerconfigjson"`},
		{"what is no object does not: the API server wants one", corev1.SecretTypeDockerConfigJson, data(".dockerconfigjson", `["`+marker+`"]`), `a JSON object under the key ".dockerconfigjson"`},
		{"an old Docker configuration fits", corev1.SecretTypeDockercfg, data(".dockercfg", `{}`), ""},
		{"one that is no JSON does not", corev1.SecretTypeDockercfg, data(".dockercfg", marker), `a JSON object under the key ".dockercfg"`},
		{"the other's key is no concern of this type", corev1.SecretTypeDockercfg, data(".dockercfg", `{}`, ".dockerconfigjson", marker), ""},
	} {
		t.Run(c.it, func(t *testing.T) {
			err := Check(c.kind, c.data)
			switch {
			case (err == nil) != (c.want == ""):
				t.Fatalf("got %v, want %q", err, c.want)
			case err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("got %q, want it to say %q", err, c.want)
			case err != nil && strings.Contains(err.Error(), marker):
				t.Errorf("a value is in the error: %q", err)
			}
		})
	}
}

// What Check lets pass has keys that the API server takes, and what it says holds no value.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(0), "username", "one", "password", "two")
	f.Add(uint8(1), "tls.crt", "one", "tls.key", "two")
	f.Add(uint8(3), "ssh-privatekey", "", "a/b", "two")
	f.Add(uint8(4), ".dockerconfigjson", `{"auths":{}}`, "x", "two")
	f.Add(uint8(5), ".dockercfg", "null", "", "")
	kinds := []corev1.SecretType{corev1.SecretTypeOpaque, corev1.SecretTypeTLS, corev1.SecretTypeBasicAuth, corev1.SecretTypeSSHAuth,
		corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg}
	f.Fuzz(func(t *testing.T, n uint8, k1, v1, k2, v2 string) {
		kind := kinds[int(n)%len(kinds)]
		err := Check(kind, data(k1, v1, k2, v2))
		if err == nil {
			for _, k := range []string{k1, k2} {
				if len(validation.IsConfigMapKey(k)) > 0 {
					t.Errorf("the key %q passes", k)
				}
			}
			return
		}
		// The same keys with other values that are no better: the words are the same, so they come from no value.
		if k1 == k2 || json.Valid([]byte(v1)) || json.Valid([]byte(v2)) || v1 == "" || v2 == "" {
			return
		}
		other := Check(kind, data(k1, strings.Repeat("?", len(v1)), k2, strings.Repeat("?", len(v2))))
		if other == nil || other.Error() != err.Error() {
			t.Errorf("by other values %q becomes %v", err, other)
		}
	})
}

func TestPlaceholderFitsEveryType(t *testing.T) {
	kinds := []corev1.SecretType{corev1.SecretTypeOpaque, "", "example.com/other"}
	for kind := range typeKeys {
		kinds = append(kinds, kind)
	}
	for _, kind := range kinds {
		if err := Check(kind, Placeholder(kind)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func owner(change func(*v1alpha1.TargetSpec)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1"}}
	if change != nil {
		change(&d.Spec.Target)
	}
	return d
}

func TestNew(t *testing.T) {
	d := owner(func(s *v1alpha1.TargetSpec) {
		s.Name, s.Labels, s.Annotations = "orders-db", map[string]string{"team": "shop"}, map[string]string{"note": "hello"}
	})
	s := New(d, data("password", marker), "salt")
	if s.Name != "orders-db" || s.Namespace != "shop" || s.Type != corev1.SecretTypeOpaque || string(s.Data["password"]) != marker {
		t.Errorf("%s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if s.Labels["team"] != "shop" || s.Labels[v1alpha1.OwnerLabel] != "orders" || s.Annotations["note"] != "hello" {
		t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
	}
	if !metav1.IsControlledBy(s, d) || s.OwnerReferences[0].Kind != "DynamicSecret" || s.OwnerReferences[0].APIVersion != "leasekeeper.io/v1alpha1" {
		t.Errorf("owners %+v", s.OwnerReferences)
	}
	if !InSync(s, d) {
		t.Error("a Secret made just now is out of sync")
	}
	if DigestOf(s) != Digest(data("password", marker), "salt") {
		t.Error("it is not known again by its digest")
	}
	if strings.Contains(fmt.Sprint(s.Labels, s.Annotations), marker) {
		t.Error("a value is in the metadata")
	}
	if New(owner(nil), nil, "").Name != "orders" || New(owner(func(s *v1alpha1.TargetSpec) { s.Type = "kubernetes.io/tls" }), nil, "").Type != corev1.SecretTypeTLS {
		t.Error("name and type are not those of the spec")
	}
}

func TestUpdate(t *testing.T) {
	d := owner(func(s *v1alpha1.TargetSpec) {
		s.Labels, s.Annotations = map[string]string{"ours": "1", "changed": "1"}, map[string]string{"ours": "1"}
	})
	s := New(d, data("old", marker), "salt")
	s.Labels["theirs"], s.Annotations["theirs"] = "yes", "yes"
	s.StringData = map[string]string{"left": "over"}
	d.Spec.Target.Labels, d.Spec.Target.Annotations = map[string]string{"changed": "2", "new": "2"}, nil
	Update(s, d, data("new", marker), "pepper")

	if want := map[string]string{"theirs": "yes", "changed": "2", "new": "2", v1alpha1.OwnerLabel: "orders"}; !maps.Equal(s.Labels, want) {
		t.Errorf("labels %v, want %v", s.Labels, want)
	}
	if _, ours := s.Annotations["ours"]; ours || s.Annotations["theirs"] != "yes" || s.Annotations[v1alpha1.DigestSaltAnnotation] != "pepper" || len(s.Annotations) != 3 {
		t.Errorf("annotations %v", s.Annotations)
	}
	if !reflect.DeepEqual(s.Data, data("new", marker)) || s.StringData != nil {
		t.Errorf("keys %v, and %d of stringData", maps.Keys(s.Data), len(s.StringData))
	}
	if !InSync(s, d) {
		t.Error("out of sync after an update")
	}
}

// Where the annotation cannot be read, nothing is known of whose a label is.
func TestUpdateTakesNothingOffByABrokenAnnotation(t *testing.T) {
	for _, broken := range []string{"", "{", "null", `{"labels":"theirs"}`, `{"labels":["ours"],"annotations":5}`} {
		d := owner(func(s *v1alpha1.TargetSpec) { s.Labels = map[string]string{"ours": "1"} })
		s := New(d, data("a", "b"), "salt")
		s.Labels["theirs"] = "yes"
		s.Annotations[v1alpha1.AppliedMetadataAnnotation] = broken
		d.Spec.Target.Labels = nil
		Update(s, d, s.Data, "salt")
		if s.Labels["theirs"] != "yes" || s.Labels["ours"] != "1" {
			t.Errorf("with the annotation %q the labels are %v", broken, s.Labels)
		}
		if !InSync(s, d) {
			t.Errorf("the annotation %q is not mended", broken)
		}
	}
}

func TestUpdateDoesNotShareMapsWithTheSpec(t *testing.T) {
	d := owner(func(s *v1alpha1.TargetSpec) { s.Labels = map[string]string{"ours": "1"} })
	s := New(d, data("a", "b"), "salt")
	s.Labels["more"] = "1"
	if len(d.Spec.Target.Labels) != 1 {
		t.Errorf("the spec has %v", d.Spec.Target.Labels)
	}
}

func TestInSync(t *testing.T) {
	for it, change := range map[string]func(*corev1.Secret, *v1alpha1.DynamicSecret){
		"a label is gone":           func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) { delete(s.Labels, "team") },
		"a label has another value": func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) { s.Labels["team"] = "other" },
		"an annotation is gone":     func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) { delete(s.Annotations, "note") },
		"our label is another's":    func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) { s.Labels[v1alpha1.OwnerLabel] = "other" },
		"what was applied is broken": func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) {
			s.Annotations[v1alpha1.AppliedMetadataAnnotation] = "{"
		},
		"nobody owns it":            func(s *corev1.Secret, _ *v1alpha1.DynamicSecret) { s.OwnerReferences = nil },
		"its owner is gone":         func(_ *corev1.Secret, d *v1alpha1.DynamicSecret) { d.UID = "uid-2" },
		"the spec names another":    func(_ *corev1.Secret, d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "other" },
		"the spec has another type": func(_ *corev1.Secret, d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = "kubernetes.io/tls" },
		"the spec has a label more": func(_ *corev1.Secret, d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels["more"] = "" },
		"the spec has a label less": func(_ *corev1.Secret, d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = nil },
	} {
		d := owner(func(s *v1alpha1.TargetSpec) {
			s.Labels, s.Annotations = map[string]string{"team": "shop"}, map[string]string{"note": "hello"}
		})
		s := New(d, data("a", "b"), "salt")
		s.Labels["theirs"] = "yes"
		if !InSync(s, d) {
			t.Fatal("it is out of sync from the start")
		}
		if change(s, d); InSync(s, d) {
			t.Errorf("%s, and yet it is in sync", it)
		}
	}
}

func TestOwnerLabelValue(t *testing.T) {
	long := strings.Repeat("a", 62)
	seen := map[string]string{}
	for _, name := range []string{"a", "orders", long + "b", long + "bc", long + "bd", strings.Repeat("a.", 126) + "b", strings.Repeat("a-", 126) + "c"} {
		v := OwnerLabelValue(name)
		if errs := validation.IsValidLabelValue(v); len(errs) > 0 {
			t.Errorf("%q becomes %q: %v", name, v, errs)
		}
		if other, ok := seen[v]; ok {
			t.Errorf("%q and %q are both %q", name, other, v)
		}
		if len(name) <= 63 && v != name {
			t.Errorf("%q becomes %q without need", name, v)
		}
		seen[v] = name
	}
}

func TestDigest(t *testing.T) {
	base := Digest(data("a", "1", "b", "2"), "salt")
	for range 20 {
		// A map is walked in another order each time.
		if base != Digest(data("b", "2", "a", "1"), "salt") {
			t.Fatal("the order of the keys matters")
		}
	}
	for it, other := range map[string]string{
		"another salt":          Digest(data("a", "1", "b", "2"), "pepper"),
		"no salt":               Digest(data("a", "1", "b", "2"), ""),
		"another value":         Digest(data("a", "1", "b", "3"), "salt"),
		"another key":           Digest(data("a", "1", "c", "2"), "salt"),
		"values swapped":        Digest(data("a", "2", "b", "1"), "salt"),
		"a key less":            Digest(data("a", "1"), "salt"),
		"an empty key more":     Digest(data("a", "1", "b", "2", "c", ""), "salt"),
		"keys and values as is": Digest(data("a", "1b2"), "salt"),
		"nothing":               Digest(nil, "salt"),
	} {
		if other == base {
			t.Errorf("%s has the same digest", it)
		}
	}
	if Digest(data("ab", "c"), "salt") == Digest(data("a", "bc"), "salt") {
		t.Error("the boundary between key and value does not count")
	}
	if strings.Contains(base, "=") || len(base) != 43 {
		t.Errorf("%q is not a plain sha256", base)
	}
}

// Two sets of data have one digest only if they are the same, wherever the boundaries are.
func FuzzDigest(f *testing.F) {
	f.Add("ab", "c", "d", "", "a", "bc", "d", "")
	f.Add("a", "b", "c", "d", "a", "b\x00\x00\x00\x00\x00\x00\x00\x01c", "c", "d")
	f.Add("", "", "a", "", "a", "", "", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3, k4, v4 string) {
		one, two := data(k1, v1, k2, v2), data(k3, v3, k4, v4)
		same := maps.EqualFunc(one, two, func(a, b []byte) bool { return string(a) == string(b) })
		if (Digest(one, "salt") == Digest(two, "salt")) != same {
			t.Errorf("%q and %q: same %v", one, two, same)
		}
	})
}

func TestNewSalt(t *testing.T) {
	if a, b := NewSalt(), NewSalt(); a == b || len(a) != 22 {
		t.Errorf("%q and %q", a, b)
	}
}
