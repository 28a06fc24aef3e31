package secret

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What is written is what was leased. After the API server has stored it, its digest and its metadata are those of the
// spec, and what others have added is still there.
func FuzzSecret(f *testing.F) {
	f.Add("orders", "Opaque", "username", []byte("v-1"), "password", []byte("p"), uint32(0), "team", "shop")
	f.Add("orders", "kubernetes.io/tls", "tls.crt", []byte("x"), "tls.key", []byte("y"), uint32(0), "", "")
	f.Add("orders", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", []byte(`{"auths":{}}`), "a", []byte(nil),
		uint32(0), "x", "\n")
	f.Add("orders", "", "\x00", []byte("\xff\x00"), "..", []byte("1"), uint32(0), "leasekeeper.io/owner", "other")
	f.Add("o", "example.com/x", "a", []byte("1"), "b", []byte("2"), uint32(corev1.MaxSecretSize-2), "", "")
	f.Add("o", "example.com/x", "a", []byte("1"), "b", []byte("2"), uint32(corev1.MaxSecretSize-1), "", "")
	f.Add(strings.Repeat("a.", 126)+"b", "Opaque", "a", []byte("1"), "a", []byte("2"), uint32(5),
		"kubernetes.io/metadata.name", "")
	padding := make([]byte, corev1.MaxSecretSize+1)
	f.Fuzz(func(
		t *testing.T, name, kind, k1 string, v1 []byte, k2 string, v2 []byte, size uint32, label, value string,
	) {
		name, kind, label, value = dnsName(name), utf8(kind), utf8(label), utf8(value)
		given := map[string][]byte{k1: v1, k2: v2}
		// Sizes are small or close to the limit. Sizes between them are slow and prove nothing more.
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
			t.Errorf("%d bytes in %d keys are accepted", total, len(given))
		}
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("this is too long for an event: %q", err)
			}
			wrongKey := len(validation.IsConfigMapKey(k1)) > 0 || len(validation.IsConfigMapKey(k2)) > 0
			if !wrongKey && total <= corev1.MaxSecretSize && len(typeKeys[corev1.SecretType(kind)]) == 0 {
				t.Errorf("valid data are rejected: %v", err)
			}
			return
		}
		d := dsec(targetLabels(map[string]string{label: value}), targetAnnotations(map[string]string{value: label}))
		d.Name, d.Spec.Target.Type = name, kind
		content := Content{{Source: "db", Data: given}}
		s := &corev1.Secret{}
		convert(t, New(d, content, "salt"), s)
		if !maps.EqualFunc(s.Data, given, bytes.Equal) || DigestOf(s) != content.Digest("salt") || s.Type != Type(d) {
			t.Errorf("%q became %q", given, s.Data)
		}
		// The CRD rejects this prefix.
		reserved := strings.HasPrefix(label, "leasekeeper.io/") || strings.HasPrefix(value, "leasekeeper.io/")
		if !reserved && !InSync(s, d) {
			t.Errorf("out of sync: %+v", s.ObjectMeta)
		}
		s.Labels["theirs"], s.Annotations["theirs"] = "yes", "yes"
		_, same := given["theirs"]
		if !same {
			s.Data["theirs"] = []byte("yes")
		}
		d.Spec.Target.Labels, d.Spec.Target.Annotations = map[string]string{value: label}, nil
		content = Content{{Source: "db", Data: map[string][]byte{k2: v1}}}
		s = NewChange(s, d, content, "pepper").apply(t, s)
		if !same && k2 != "theirs" && string(s.Data["theirs"]) != "yes" || !bytes.Equal(s.Data[k2], v1) {
			t.Errorf("after a change the data are %q", s.Data)
		}
		if label != "theirs" && value != "theirs" && (s.Labels["theirs"] != "yes" || s.Annotations["theirs"] != "yes") {
			t.Errorf("what others have added is lost: %+v", s.ObjectMeta)
		}
		if _, left := s.Labels[label]; left && !reserved && label != value && label != "theirs" {
			t.Errorf("the label %q is still there", label)
		}
		if !reserved && !InSync(s, d) || DigestOf(s) != content.Digest("pepper") {
			t.Errorf("out of sync after a change: %+v", s.ObjectMeta)
		}
		if v := OwnerLabelValue(name); len(validation.IsValidLabelValue(v)) > 0 {
			t.Errorf("%q becomes the label %q", name, v)
		}
	})
}

// dnsName is a valid name, of the same length if possible.
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

// utf8 is the text as the API server stores it.
func utf8(text string) string { return strings.ToValidUTF8(text, "?") }
