package secret

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// marker is part of every value in these tests. No error may contain it.
const marker = "hunter2"

func data(pairs ...string) map[string][]byte {
	d := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		d[pairs[i]] = []byte(pairs[i+1])
	}
	return d
}

func TestCheck(t *testing.T) {
	const (
		opaque, tls, basic = corev1.SecretTypeOpaque, corev1.SecretTypeTLS, corev1.SecretTypeBasicAuth
		ssh, docker, old   = corev1.SecretTypeSSHAuth, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg
	)
	full, long := strings.Repeat("x", corev1.MaxSecretSize), strings.Repeat("k", 254)
	for _, c := range []struct {
		name string
		kind corev1.SecretType
		data map[string][]byte
		want string // empty: it is accepted
	}{
		{"an Opaque Secret accepts any keys", opaque, data("user.name_1-A", marker, "password", ""), ""},
		{"an unknown type accepts any keys", "example.com/other", data("password", marker), ""},
		{"an empty response is rejected", opaque, nil, "the response is empty"},
		{"a key with a slash is rejected", opaque, data("a", "b", "a/b", marker), `"a/b"`},
		{"an empty key is rejected", opaque, data("", marker), `""`},
		{"the error shortens a long key", opaque, data(long, marker), `"` + long[:64] + `…"`},
		{"the longest key is accepted", opaque, data(long[1:], marker), ""},
		{"1 MiB is accepted", opaque, data("a", full[1:], "b", "x"), ""},
		{"one byte more is rejected; keys do not count", opaque, data("a", full, "b", "x"),
			"1048577 bytes; a Secret can have 1048576"},

		{"tls: a certificate and its key", tls, data("tls.crt", marker, "tls.key", marker, "ca.crt", marker), ""},
		{"tls: no key", tls, data("tls.crt", marker), `needs the key "tls.key"`},
		{"tls: no certificate", tls, data("tls.key", marker), `needs the key "tls.crt"`},
		{"basic-auth: only a password", basic, data("password", marker), ""},
		{"basic-auth: only a user", basic, data("username", marker), ""},
		{"basic-auth: neither", basic, data("user", marker), `needs the key "username"`},
		{"ssh-auth: a key", ssh, data("ssh-privatekey", marker), ""},
		{"ssh-auth: no key", ssh, data("key", marker), `needs the key "ssh-privatekey"`},
		{"ssh-auth: an empty key, which the API server rejects", ssh, data("ssh-privatekey", ""),
			`a value under the key "ssh-privatekey"`},
		{"dockerconfigjson: an object", docker, data(".dockerconfigjson", `{"auths":{}}`), ""},
		{"dockerconfigjson: another key", docker, data("config.json", `{}`), `needs the key ".dockerconfigjson"`},
		{"dockerconfigjson: no JSON", docker, data(".dockerconfigjson", marker),
			`a JSON object under the key ".dockerconfigjson"`},
		{"dockerconfigjson: a list", docker, data(".dockerconfigjson", `["`+marker+`"]`),
			`a JSON object under the key ".dockerconfigjson"`},
		{"dockercfg: an object", old, data(".dockercfg", `{}`), ""},
		{"dockercfg: no JSON", old, data(".dockercfg", marker), `a JSON object under the key ".dockercfg"`},
		{"dockercfg: the newer key is not checked", old, data(".dockercfg", `{}`, ".dockerconfigjson", marker), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(c.kind, c.data)
			switch {
			case (err == nil) != (c.want == ""):
				t.Fatalf("got %v, want %q", err, c.want)
			case err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("got %q, want %q in it", err, c.want)
			case err != nil && strings.Contains(err.Error(), marker):
				t.Errorf("the error contains a value: %q", err)
			}
		})
	}
}

// The API server accepts the keys of data that pass Check, and errors of Check contain no value.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(0), "username", "one", "password", "two")
	f.Add(uint8(1), "tls.crt", "one", "tls.key", "two")
	f.Add(uint8(3), "ssh-privatekey", "", "a/b", "two")
	f.Add(uint8(4), ".dockerconfigjson", `{"auths":{}}`, "x", "two")
	f.Add(uint8(5), ".dockercfg", "null", "", "")
	kinds := []corev1.SecretType{corev1.SecretTypeOpaque, corev1.SecretTypeTLS, corev1.SecretTypeBasicAuth,
		corev1.SecretTypeSSHAuth, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg}
	f.Fuzz(func(t *testing.T, n uint8, k1, v1, k2, v2 string) {
		kind := kinds[int(n)%len(kinds)]
		err := Check(kind, data(k1, v1, k2, v2))
		if err == nil {
			for _, k := range []string{k1, k2} {
				if len(validation.IsConfigMapKey(k)) > 0 {
					t.Errorf("the invalid key %q is accepted", k)
				}
			}
			return
		}
		// The same keys with other invalid values give the same error, so no text of it comes from a value.
		valid := v1 == "" || v2 == "" || json.Valid([]byte(v1)) || json.Valid([]byte(v2))
		if k1 == k2 || valid {
			return
		}
		other := Check(kind, data(k1, strings.Repeat("?", len(v1)), k2, strings.Repeat("?", len(v2))))
		if other == nil || other.Error() != err.Error() {
			t.Errorf("with other values %q becomes %v", err, other)
		}
	})
}

func TestPlaceholder(t *testing.T) {
	kinds := []corev1.SecretType{corev1.SecretTypeOpaque, "", "example.com/other"}
	for kind := range typeKeys {
		kinds = append(kinds, kind)
	}
	for _, kind := range kinds {
		for _, keys := range [][]string{nil, {"username", "password"}, {".dockerconfigjson", "ssh-privatekey"}} {
			c := Placeholder(kind, keys)
			if err := Check(kind, c.Data()); err != nil {
				t.Errorf("%s with keys %q: %v", kind, keys, err)
			}
			for _, key := range keys {
				if _, ok := c.Data()[key]; !ok {
					t.Errorf("%s: the known key %q is missing, so admission policies are not rehearsed with it",
						kind, key)
				}
			}
		}
	}
	// The keys come from an annotation that anyone may have edited. A key that the API server rejects would block the
	// issuance forever.
	if err := Check("Opaque", Placeholder("Opaque", []string{"a/b", "", "password"}).Data()); err != nil {
		t.Errorf("with damaged keys: %v", err)
	}
}

func dsec(modifiers ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1"}}
	for _, m := range modifiers {
		m(d)
	}
	return d
}

func targetLabels(labels map[string]string) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = labels }
}

func targetAnnotations(annotations map[string]string) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Annotations = annotations }
}

// single is the content of an object with one source.
func single(pairs ...string) Content { return Content{{Data: data(pairs...)}} }

func TestNew(t *testing.T) {
	d := dsec(targetLabels(map[string]string{"team": "shop"}), targetAnnotations(map[string]string{"note": "hello"}))
	d.Spec.Target.Name = "orders-db"
	content := Content{{Source: "db", Data: data("password", marker)}, {Source: "kv", Data: data("url", marker)}}
	s := New(d, content, "salt")
	if s.Name != "orders-db" || s.Namespace != "shop" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("%s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if !reflect.DeepEqual(s.Data, data("password", marker, "url", marker)) {
		t.Errorf("keys %v", slices.Sorted(maps.Keys(s.Data)))
	}
	if s.Labels["team"] != "shop" || s.Labels[v1alpha1.OwnerLabel] != "orders" || s.Annotations["note"] != "hello" {
		t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
	}
	owner := s.OwnerReferences[0]
	if !metav1.IsControlledBy(s, d) || owner.Kind != "DynamicSecret" || owner.APIVersion != "leasekeeper.io/v1alpha1" {
		t.Errorf("owners %+v", s.OwnerReferences)
	}
	if !InSync(s, d) || !Ours(s, d) {
		t.Errorf("a new Secret is in sync: %t, and ours: %t", InSync(s, d), Ours(s, d))
	}
	if DigestOf(s) != content.Digest("salt") || Salt(s) != "salt" {
		t.Error("the digest of the Secret is not that of its content")
	}
	if strings.Contains(fmt.Sprint(s.Labels, s.Annotations), marker) {
		t.Error("the metadata contain a value")
	}
	if s.Labels["more"] = "1"; len(d.Spec.Target.Labels) != 1 {
		t.Errorf("the Secret shares its labels with the spec: %v", d.Spec.Target.Labels)
	}
}

func TestNewTakesNameAndTypeFromTheSpec(t *testing.T) {
	d := dsec()
	if s := New(d, nil, ""); s.Name != "orders" || s.Type != "Opaque" || AppliedType(s) != "Opaque" {
		t.Errorf("by default: %s of type %s, applied %s", s.Name, s.Type, AppliedType(s))
	}
	d.Spec.Target.Type = "kubernetes.io/tls"
	if s := New(d, nil, ""); s.Type != corev1.SecretTypeTLS || AppliedType(s) != corev1.SecretTypeTLS {
		t.Errorf("of type %s, applied %s", s.Type, AppliedType(s))
	}
}

func TestInSync(t *testing.T) {
	other := metav1.OwnerReference{Kind: "ConfigMap", Name: "x", UID: "x"}
	for _, c := range []struct {
		name   string
		secret func(*corev1.Secret)
		object func(*v1alpha1.DynamicSecret)
		want   bool
	}{
		{name: "others added a label", secret: func(s *corev1.Secret) { s.Labels["theirs"] = "yes" }, want: true},
		{name: "others added an annotation", secret: func(s *corev1.Secret) { s.Annotations["theirs"] = "" },
			want: true},
		{name: "a label was removed", secret: func(s *corev1.Secret) { delete(s.Labels, "team") }},
		{name: "a label has another value", secret: func(s *corev1.Secret) { s.Labels["team"] = "x" }},
		{name: "an annotation was removed", secret: func(s *corev1.Secret) { delete(s.Annotations, "note") }},
		{name: "our label was removed", secret: func(s *corev1.Secret) { delete(s.Labels, v1alpha1.OwnerLabel) }},
		{name: "our label has another value", secret: func(s *corev1.Secret) { s.Labels[v1alpha1.OwnerLabel] = "x" }},
		{name: "the applied metadata are damaged",
			secret: func(s *corev1.Secret) { s.Annotations[v1alpha1.AppliedAnnotation] = "{" }},
		{name: "the owner was removed", secret: func(s *corev1.Secret) { s.OwnerReferences = nil }},
		{name: "an owner that is no controller was added",
			secret: func(s *corev1.Secret) { s.OwnerReferences = append(s.OwnerReferences, other) }},
		{name: "the object was created again", object: func(d *v1alpha1.DynamicSecret) { d.UID = "uid-2" }},
		{name: "the spec has another name", object: func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "x" }},
		{name: "the spec has another type", object: func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = "x" }},
		{name: "the spec has one label more", object: targetLabels(map[string]string{"team": "shop", "more": ""})},
		{name: "the spec has one label less", object: targetLabels(nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := dsec(targetLabels(map[string]string{"team": "shop"}),
				targetAnnotations(map[string]string{"note": "hello"}))
			s := New(d, single("a", "b"), "salt")
			if !InSync(s, d) {
				t.Fatal("out of sync before the change")
			}
			if c.secret != nil {
				c.secret(s)
			}
			if c.object != nil {
				c.object(d)
			}
			if InSync(s, d) != c.want {
				t.Errorf("in sync: %t, want %t", !c.want, c.want)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	controller := func(group, kind, name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: group, Kind: kind, Name: name, UID: uid, Controller: new(true)}}
	}
	const group = "leasekeeper.io/v1alpha1"
	for _, c := range []struct {
		name, why string
		change    func(*corev1.Secret)
		want      bool
	}{
		{"a Secret as it was written", "the object is its controller", func(*corev1.Secret) {}, true},
		{"our label was removed", "the UID of the controller is enough",
			func(s *corev1.Secret) { delete(s.Labels, v1alpha1.OwnerLabel) }, true},
		{"our label names another object", "the UID of the controller is enough",
			func(s *corev1.Secret) { s.Labels[v1alpha1.OwnerLabel] = "other" }, true},
		{"an owner that is no controller was added", "it is repaired, not refused", func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{Kind: "ConfigMap", Name: "x", UID: "x"})
		}, true},
		{"the controller was removed", "a restored backup may lack it; the label is left",
			func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		{"the controller and the label were removed", "nothing names the object", func(s *corev1.Secret) {
			s.OwnerReferences, s.Labels = nil, nil
		}, false},
		{"a predecessor of the same name is the controller", "only one object can have the name",
			func(s *corev1.Secret) { s.OwnerReferences = controller(group, "DynamicSecret", "orders", "uid-0") }, true},
		{"a DynamicSecret of another name is the controller", "it belongs to that one",
			func(s *corev1.Secret) { s.OwnerReferences = controller(group, "DynamicSecret", "other", "uid-2") }, false},
		{"another kind of the same name is the controller", "it belongs to that one, whatever the label says",
			func(s *corev1.Secret) { s.OwnerReferences = controller("apps/v1", "Deployment", "orders", "uid-2") },
			false},
		{"a DynamicSecret of another API group is the controller", "another product may use the name of the kind",
			func(s *corev1.Secret) {
				s.OwnerReferences = controller("example.com/v1", "DynamicSecret", "orders", "uid-2")
			}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := dsec()
			s := New(d, single("a", "b"), "salt")
			if c.change(s); Ours(s, d) != c.want {
				t.Errorf("because %s: ours is %t, want %t", c.why, !c.want, c.want)
			}
		})
	}
}

func TestContentOf(t *testing.T) {
	written := Content{
		{Source: "db", Data: data("username", "u", "ttl", "60"), Volatile: []string{"ttl"}},
		{Source: "kv", Data: data("empty", "")},
	}
	intact := written.Digest("salt")
	for _, c := range []struct {
		name   string
		change func(*corev1.Secret)
		same   bool
	}{
		{"unchanged", func(*corev1.Secret) {}, true},
		{"a key of others", func(s *corev1.Secret) { s.Data["theirs"] = []byte("x") }, true},
		{"another volatile value", func(s *corev1.Secret) { s.Data["ttl"] = []byte("59") }, true},
		{"another value", func(s *corev1.Secret) { s.Data["username"] = []byte("x") }, false},
		{"a removed key", func(s *corev1.Secret) { delete(s.Data, "username") }, false},
		{"a removed key with an empty value", func(s *corev1.Secret) { delete(s.Data, "empty") }, false},
		{"another salt", func(s *corev1.Secret) { s.Annotations[v1alpha1.DigestSaltAnnotation] = "x" }, false},
		{"no annotation", func(s *corev1.Secret) { s.Annotations = nil }, false},
		{"damaged JSON", func(s *corev1.Secret) { s.Annotations[v1alpha1.AppliedAnnotation] = "{" }, false},
		{"a null", func(s *corev1.Secret) { s.Annotations[v1alpha1.AppliedAnnotation] = "null" }, false},
		{"a value that is declared volatile", func(s *corev1.Secret) {
			s.Annotations[v1alpha1.AppliedAnnotation] = `{"sources":[
				{"name":"db","keys":["ttl","username"],"volatile":["ttl","username"]},{"name":"kv","keys":["empty"]}]}`
		}, false},
		{"a source that was renamed", func(s *corev1.Secret) {
			applied := s.Annotations[v1alpha1.AppliedAnnotation]
			s.Annotations[v1alpha1.AppliedAnnotation] = strings.Replace(applied, "kv", "vk", 1)
		}, false},
		{"keys without a list", func(s *corev1.Secret) {
			s.Annotations[v1alpha1.AppliedAnnotation] = `{"sources":[{"name":"db"},null]}`
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New(dsec(), written, "salt")
			c.change(s)
			if (DigestOf(s) == intact) != c.same {
				t.Errorf("the digest is the same: %t, want %t", !c.same, c.same)
			}
		})
	}
	if got := ContentOf(New(dsec(), written, "salt")); !reflect.DeepEqual(got, written) {
		t.Errorf("read %+v, wrote %+v", got, written)
	}
}

func TestOwnerLabelValue(t *testing.T) {
	long := strings.Repeat("a", 62)
	seen := map[string]string{}
	for _, name := range []string{
		"a", "orders", long + "b", long + "bc", long + "bd", strings.Repeat("a.", 126) + "b",
		strings.Repeat("a-", 126) + "c",
	} {
		v := OwnerLabelValue(name)
		if errs := validation.IsValidLabelValue(v); len(errs) > 0 {
			t.Errorf("%q becomes %q: %v", name, v, errs)
		}
		if other, ok := seen[v]; ok {
			t.Errorf("%q and %q are both %q", name, other, v)
		}
		if len(name) <= 63 && v != name {
			t.Errorf("%q is short enough, but becomes %q", name, v)
		}
		seen[v] = name
	}
}

func TestNewSalt(t *testing.T) {
	if a, b := NewSalt(), NewSalt(); a == b || len(a) != 22 {
		t.Errorf("%q and %q", a, b)
	}
}
