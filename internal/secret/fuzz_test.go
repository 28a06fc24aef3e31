package secret

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// What is written is what was leased: it fits, it is known again by its digest after the API server has had it, the
// metadata are those wanted, and what others have put there stays.
func FuzzSecret(f *testing.F) {
	f.Add("orders", "Opaque", "username", []byte("v-1"), "password", []byte("p"), uint32(0), "team", "shop")
	f.Add("orders", "kubernetes.io/tls", "tls.crt", []byte("x"), "tls.key", []byte("y"), uint32(0), "", "")
	f.Add("orders", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", []byte(`{"auths":{}}`), "a", []byte(nil), uint32(0), "x", "\n")
	f.Add("orders", "", "\x00", []byte("\xff\x00"), "..", []byte("1"), uint32(0), "leasekeeper.io/owner", "other")
	f.Add("o", "example.com/x", "a", []byte("1"), "b", []byte("2"), uint32(corev1.MaxSecretSize-2), "", "")
	f.Add("o", "example.com/x", "a", []byte("1"), "b", []byte("2"), uint32(corev1.MaxSecretSize-1), "", "")
	f.Add(strings.Repeat("a.", 126)+"b", "Opaque", "a", []byte("1"), "a", []byte("2"), uint32(5), "kubernetes.io/metadata.name", "")
	padding := make([]byte, corev1.MaxSecretSize+1)
	f.Fuzz(func(t *testing.T, name, kind, k1 string, v1 []byte, k2 string, v2 []byte, size uint32, label, value string) {
		name, kind, label, value = dnsName(name), utf8(kind), utf8(label), utf8(value)
		given := map[string][]byte{k1: v1, k2: v2}
		// Sizes are small or about what a Secret takes; those between say nothing more, and are slow.
		n := int(size)
		if n < corev1.MaxSecretSize-8 || n > len(padding) {
			n %= 64
		}
		if n > 0 {
			given["padding"] = padding[:n]
		}
		total := 0
		for _, v := range given {
			total += len(v)
		}
		err := Check(corev1.SecretType(kind), given)
		if err == nil && (total > corev1.MaxSecretSize || len(given) == 0) {
			t.Errorf("%d bytes in %d keys fit", total, len(given))
		}
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("this fits into no event: %q", err)
			}
			wrongKey := len(validation.IsConfigMapKey(k1)) > 0 || len(validation.IsConfigMapKey(k2)) > 0
			if !wrongKey && total <= corev1.MaxSecretSize && len(typeKeys[corev1.SecretType(kind)]) == 0 {
				t.Errorf("nothing is wrong with it, and yet: %v", err)
			}
			return
		}
		d := owner(func(s *v1alpha1.TargetSpec) {
			s.Type, s.Labels, s.Annotations = kind, map[string]string{label: value}, map[string]string{value: label}
		})
		d.Name = name
		made := New(d, given, "salt")
		raw, err := json.Marshal(made)
		if err != nil {
			t.Fatal(err)
		}
		stored := &corev1.Secret{}
		if err := json.Unmarshal(raw, stored); err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(stored.Data, given, bytes.Equal) || DigestOf(stored) != Digest(given, "salt") || stored.Type != Type(d) {
			t.Errorf("%q became %q", given, stored.Data)
		}
		ours := strings.HasPrefix(label, "leasekeeper.io/") || strings.HasPrefix(value, "leasekeeper.io/") // which the CRD refuses
		if !ours && !InSync(stored, d) {
			t.Errorf("out of sync: %+v", stored.ObjectMeta)
		}
		stored.Labels["theirs"], stored.Annotations["theirs"] = "yes", "yes"
		d.Spec.Target.Labels, d.Spec.Target.Annotations = map[string]string{value: label}, nil
		Update(stored, d, given, "pepper")
		if label != "theirs" && value != "theirs" && (stored.Labels["theirs"] != "yes" || stored.Annotations["theirs"] != "yes") {
			t.Errorf("what others have put there is gone: %+v", stored.ObjectMeta)
		}
		if _, left := stored.Labels[label]; left && !ours && label != value && label != "theirs" {
			t.Errorf("the label %q is left", label)
		}
		if !ours && !InSync(stored, d) || DigestOf(stored) != Digest(given, "pepper") {
			t.Errorf("out of sync after an update: %+v", stored.ObjectMeta)
		}
		if v := OwnerLabelValue(name); len(validation.IsValidLabelValue(v)) > 0 {
			t.Errorf("%q becomes the label %q", name, v)
		}
	})
}

// dnsName is a name that the API server takes, of the same length where that may be.
func dnsName(text string) string {
	if len(validation.IsDNS1123Subdomain(text)) == 0 {
		return text
	}
	name := []byte("o" + text)
	for i := range name {
		name[i] = 'a' + name[i]%26
	}
	return string(name[:min(len(name), validation.DNS1123SubdomainMaxLength)])
}

// utf8 is the text as the API server would have it.
func utf8(text string) string { return strings.ToValidUTF8(text, "?") }
