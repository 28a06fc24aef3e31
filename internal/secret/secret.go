// Package secret makes the Secret of a DynamicSecret: its data, its labels and annotations, and the digest by which it
// is known again. It trusts nothing that it reads from a Secret but the bytes that the digest vouches for.
package secret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Check says whether data can become the data of a Secret of the type: at least one key, every key a Secret key, the
// keys that the type asks for, and no more than 1 MiB. The error names keys, never values.
func Check(kind corev1.SecretType, data map[string][]byte) error {
	if len(data) == 0 {
		return fmt.Errorf("the answer is empty: there is nothing to put into a Secret")
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if errs := validation.IsConfigMapKey(key); len(errs) > 0 {
			return fmt.Errorf("the answer has a key that cannot be a Secret's: %q (letters, digits, '-', '_' and '.', 253 at most)", printable(key))
		}
		size += len(data[key])
	}
	if size > corev1.MaxSecretSize {
		return fmt.Errorf("the answer has %d bytes; a Secret takes %d", size, corev1.MaxSecretSize)
	}
	return checkType(kind, data)
}

func printable(key string) string {
	if len(key) > 64 {
		return key[:64] + "…"
	}
	return key
}

// typeKeys are the keys that the API server asks for, by type. One of each inner list is enough.
var typeKeys = map[corev1.SecretType][][]string{
	corev1.SecretTypeTLS:              {{corev1.TLSCertKey}, {corev1.TLSPrivateKeyKey}},
	corev1.SecretTypeBasicAuth:        {{corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey}},
	corev1.SecretTypeSSHAuth:          {{corev1.SSHAuthPrivateKey}},
	corev1.SecretTypeDockerConfigJson: {{corev1.DockerConfigJsonKey}},
	corev1.SecretTypeDockercfg:        {{corev1.DockerConfigKey}},
}

func checkType(kind corev1.SecretType, data map[string][]byte) error {
	for _, anyOf := range typeKeys[kind] {
		if !slices.ContainsFunc(anyOf, func(k string) bool { _, ok := data[k]; return ok }) {
			return fmt.Errorf("a Secret of type %s needs the key %q, which the answer does not have: set another spec.target.type", kind, anyOf[0])
		}
	}
	for _, k := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
		var object map[string]any
		if len(typeKeys[kind]) > 0 && slices.Contains(typeKeys[kind][0], k) && json.Unmarshal(data[k], &object) != nil {
			return fmt.Errorf("a Secret of type %s needs a JSON object under the key %q, which the answer does not have there", kind, k)
		}
	}
	if k := corev1.SSHAuthPrivateKey; kind == corev1.SecretTypeSSHAuth && len(data[k]) == 0 {
		return fmt.Errorf("a Secret of type %s needs a value under the key %q, which the answer has empty", kind, k)
	}
	return nil
}

// Placeholder is data that the API server takes for the type, for a dry run before there is a credential.
func Placeholder(kind corev1.SecretType) map[string][]byte {
	data := map[string][]byte{"placeholder": []byte("placeholder")}
	for _, anyOf := range typeKeys[kind] {
		data[anyOf[0]] = []byte("{}")
	}
	return data
}

// applied is the value of AppliedMetadataAnnotation.
type applied struct {
	Type        corev1.SecretType `json:"type,omitempty"`
	Labels      []string          `json:"labels,omitempty"`
	Annotations []string          `json:"annotations,omitempty"`
}

func wanted(d *v1alpha1.DynamicSecret) applied {
	return applied{
		Type:        Type(d),
		Labels:      slices.Sorted(maps.Keys(d.Spec.Target.Labels)),
		Annotations: slices.Sorted(maps.Keys(d.Spec.Target.Annotations)),
	}
}

// Type of the Secret that the spec asks for.
func Type(d *v1alpha1.DynamicSecret) corev1.SecretType {
	if d.Spec.Target.Type == "" {
		return corev1.SecretTypeOpaque
	}
	return corev1.SecretType(d.Spec.Target.Type)
}

// New is the Secret that the spec asks for, with the data.
func New(d *v1alpha1.DynamicSecret, data map[string][]byte, salt string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: d.TargetName(), Namespace: d.Namespace},
		Type:       Type(d),
	}
	Update(s, d, data, salt)
	return s
}

// Update brings a Secret in line with the spec: its data become those given, labels and annotations that came from the
// spec once and are no longer in it go, those of others stay.
func Update(s *corev1.Secret, d *v1alpha1.DynamicSecret, data map[string][]byte, salt string) {
	var before applied
	if json.Unmarshal([]byte(s.Annotations[v1alpha1.AppliedMetadataAnnotation]), &before) != nil {
		before = applied{} // somebody broke it: nothing is taken off
	}
	s.Labels = merge(s.Labels, before.Labels, d.Spec.Target.Labels)
	s.Annotations = merge(s.Annotations, before.Annotations, d.Spec.Target.Annotations)
	now, _ := json.Marshal(wanted(d))
	s.Labels[v1alpha1.OwnerLabel] = OwnerLabelValue(d.Name)
	s.Annotations[v1alpha1.DigestSaltAnnotation] = salt
	s.Annotations[v1alpha1.AppliedMetadataAnnotation] = string(now)
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, v1alpha1.GroupVersion.WithKind("DynamicSecret"))}
	s.Data = data
	s.StringData = nil
}

func merge(have map[string]string, before []string, want map[string]string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for _, k := range before {
		delete(out, k)
	}
	maps.Copy(out, want)
	return out
}

// InSync says whether the metadata of a Secret of ours is what the spec asks for. The type is told by an annotation,
// because who watches metadata only does not see it.
func InSync(m metav1.Object, d *v1alpha1.DynamicSecret) bool {
	now, _ := json.Marshal(wanted(d))
	return m.GetName() == d.TargetName() &&
		m.GetAnnotations()[v1alpha1.AppliedMetadataAnnotation] == string(now) &&
		m.GetLabels()[v1alpha1.OwnerLabel] == OwnerLabelValue(d.Name) &&
		metav1.IsControlledBy(m, d) &&
		contains(m.GetLabels(), d.Spec.Target.Labels) && contains(m.GetAnnotations(), d.Spec.Target.Annotations)
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// OwnerLabelValue is the name of the DynamicSecret, or, where that is longer than a label value may be, its beginning
// and a hash.
func OwnerLabelValue(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s-%x", name[:validation.LabelValueMaxLength-17], sum[:8])
}

// NewSalt makes the bytes that go into a digest.
func NewSalt() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return base64.RawStdEncoding.EncodeToString(b)
}

// Digest of the data, by which the status knows the Secret again. Without the salt, which only the Secret holds, it
// says nothing of the values.
func Digest(data map[string][]byte, salt string) string {
	mac := hmac.New(sha256.New, []byte(salt))
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		mac.Write(n[:])
		mac.Write(b)
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		part([]byte(k))
		part(data[k])
	}
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
}

// DigestOf is the digest of a Secret as it stands.
func DigestOf(s *corev1.Secret) string {
	return Digest(s.Data, s.Annotations[v1alpha1.DigestSaltAnnotation])
}
