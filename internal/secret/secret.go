// Package secret builds the Secret of a DynamicSecret: its data, its labels and annotations, and the digest that proves
// that it is unchanged. It trusts nothing that it reads from a Secret except data whose digest matches.
package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Check says whether data can be the data of a Secret of the type: at least one key, every key valid, the keys that the
// type requires, and no more than 1 MiB. The error names keys, never values.
func Check(kind corev1.SecretType, data map[string][]byte) error {
	if len(data) == 0 {
		return fmt.Errorf("the response is empty: there is nothing to write to a Secret")
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if errs := validation.IsConfigMapKey(key); len(errs) > 0 {
			return fmt.Errorf("the response has a field that cannot be a key of a Secret: %q "+
				"(letters, digits, '-', '_' and '.', 253 at most)", printable(key))
		}
		size += len(data[key])
	}
	if size > corev1.MaxSecretSize {
		return fmt.Errorf("the response has %d bytes; a Secret can have %d", size, corev1.MaxSecretSize)
	}
	return checkType(kind, data)
}

func printable(key string) string {
	if len(key) > 64 {
		return key[:64] + "…"
	}
	return key
}

// typeKeys are the keys that the API server requires, by type. One of each inner list is enough.
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
			return fmt.Errorf("a Secret of type %s needs the key %q, which the response does not have: "+
				"set another spec.target.type", kind, anyOf[0])
		}
	}
	for _, k := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
		var object map[string]any
		needed := len(typeKeys[kind]) > 0 && slices.Contains(typeKeys[kind][0], k)
		if needed && json.Unmarshal(data[k], &object) != nil {
			return fmt.Errorf("a Secret of type %s needs a JSON object under the key %q, "+
				"which the response does not have there", kind, k)
		}
	}
	if k := corev1.SSHAuthPrivateKey; kind == corev1.SecretTypeSSHAuth && len(data[k]) == 0 {
		return fmt.Errorf("a Secret of type %s needs a value under the key %q, which is empty in the response",
			kind, k)
	}
	return nil
}

// CheckKeys says whether data with these keys can be the data of a Secret of the type. The values are unknown.
func CheckKeys(kind corev1.SecretType, keys []string) error {
	data := map[string][]byte{}
	for _, key := range keys {
		data[key] = []byte("{}")
	}
	return Check(kind, data)
}

// commonKeys are keys that credentials often have, for a policy that requires some of them.
var commonKeys = []string{
	"username", "password", "user", "token", "access_key", "secret_key", "security_token", "certificate", "private_key",
	"ca_chain", "issuing_ca", "serial_number", "url", "host", "client_id", "client_secret", "service_account_token",
	"service_account_name", "service_account_namespace", "data", "key", "value",
}

// Guess is placeholder data with common keys and with those that a rejection mentions. A policy that requires certain
// keys accepts it if it names them.
func Guess(kind corev1.SecretType, rejection string) Content {
	words := strings.FieldsFunc(rejection, func(r rune) bool {
		word := r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !word
	})
	var keys []string
	for _, word := range words[:min(len(words), 128)] {
		keys = append(keys, strings.Trim(word, "."))
	}
	return Placeholder(kind, append(keys, commonKeys...))
}

// Placeholder is data that the API server accepts for the type, for a dry run before there is a credential. keys are
// those of the last content, if there was one. Invalid keys are left out: they come from an annotation that anybody may
// have edited, and must not block an issuance.
func Placeholder(kind corev1.SecretType, keys []string) Content {
	data := map[string][]byte{}
	for _, key := range keys {
		if len(validation.IsConfigMapKey(key)) == 0 {
			data[key] = []byte("placeholder")
		}
	}
	for _, anyOf := range typeKeys[kind] {
		data[anyOf[0]] = []byte("{}")
	}
	if len(data) == 0 {
		data["placeholder"] = []byte("placeholder")
	}
	return Content{{Data: data}}
}

// applied is the value of AppliedAnnotation: what leasekeeper wrote, so that it removes what it no longer writes and
// leaves alone what others wrote.
type applied struct {
	Type        corev1.SecretType `json:"type,omitempty"`
	Labels      []string          `json:"labels,omitempty"`
	Annotations []string          `json:"annotations,omitempty"`
	Sources     []appliedSource   `json:"sources,omitempty"`
}

type appliedSource struct {
	Name     string   `json:"name,omitempty"`
	Keys     []string `json:"keys"`
	Volatile []string `json:"volatile,omitempty"`
}

// wanted is the metadata that the spec asks for.
func wanted(d *v1alpha1.DynamicSecret) applied {
	return applied{
		Type:        Type(d),
		Labels:      slices.Sorted(maps.Keys(d.Spec.Target.Labels)),
		Annotations: slices.Sorted(maps.Keys(d.Spec.Target.Annotations)),
	}
}

// readApplied returns what was applied; the zero value if the annotation is missing or damaged.
func readApplied(annotations map[string]string) applied {
	var a applied
	if json.Unmarshal([]byte(annotations[v1alpha1.AppliedAnnotation]), &a) != nil {
		return applied{}
	}
	return a
}

func (a applied) keys() []string {
	var keys []string
	for _, s := range a.Sources {
		keys = append(keys, s.Keys...)
	}
	return keys
}

func (a applied) metadata() string {
	a.Sources = nil
	text, _ := json.Marshal(a)
	return string(text)
}

// Type of the Secret that the spec asks for.
func Type(d *v1alpha1.DynamicSecret) corev1.SecretType {
	if d.Spec.Target.Type == "" {
		return corev1.SecretTypeOpaque
	}
	return corev1.SecretType(d.Spec.Target.Type)
}

// New is the Secret that the spec asks for, with the content.
func New(d *v1alpha1.DynamicSecret, c Content, salt string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: d.TargetName(), Namespace: d.Namespace},
		Type:       Type(d),
		Data:       c.Data(),
	}
	s.Labels, s.Annotations = maps.Clone(d.Spec.Target.Labels), maps.Clone(d.Spec.Target.Annotations)
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Labels[v1alpha1.OwnerLabel] = OwnerLabelValue(d.Name)
	s.Annotations[v1alpha1.DigestSaltAnnotation] = salt
	s.Annotations[v1alpha1.AppliedAnnotation] = appliedValue(d, c)
	s.OwnerReferences = owners(d)
	return s
}

func owners(d *v1alpha1.DynamicSecret) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(d, v1alpha1.GroupVersion.WithKind("DynamicSecret"))}
}

func appliedValue(d *v1alpha1.DynamicSecret, c Content) string {
	a := wanted(d)
	for _, p := range c {
		a.Sources = append(a.Sources, appliedSource{p.Source, slices.Sorted(maps.Keys(p.Data)), p.Volatile})
	}
	text, _ := json.Marshal(a)
	return string(text)
}

// InSync says whether the metadata of a Secret of ours matches the spec. The type is read from an annotation, because
// the cache contains metadata only.
func InSync(m metav1.Object, d *v1alpha1.DynamicSecret) bool {
	owned := metav1.IsControlledBy(m, d) && len(m.GetOwnerReferences()) == 1 &&
		m.GetLabels()[v1alpha1.OwnerLabel] == OwnerLabelValue(d.Name)
	applied := readApplied(m.GetAnnotations()).metadata() == wanted(d).metadata() &&
		contains(m.GetLabels(), d.Spec.Target.Labels) && contains(m.GetAnnotations(), d.Spec.Target.Annotations)
	return m.GetName() == d.TargetName() && owned && applied
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Ours says whether the Secret belongs to the object: it is its controller, or the label names it and nothing else
// controls it. A controller of our kind and name with another UID is this object's predecessor: only one can have the
// name.
func Ours(m metav1.Object, d *v1alpha1.DynamicSecret) bool {
	if c := metav1.GetControllerOf(m); c != nil {
		group, _, _ := strings.Cut(c.APIVersion, "/")
		return c.UID == d.UID || group == v1alpha1.GroupVersion.Group && c.Kind == "DynamicSecret" && c.Name == d.Name
	}
	return m.GetLabels()[v1alpha1.OwnerLabel] == OwnerLabelValue(d.Name)
}

// AppliedType is the type that leasekeeper wrote.
func AppliedType(m metav1.Object) corev1.SecretType { return readApplied(m.GetAnnotations()).Type }

// AppliedKeys are the keys that leasekeeper wrote.
func AppliedKeys(m metav1.Object) []string { return readApplied(m.GetAnnotations()).keys() }

// Salt of the digest.
func Salt(m metav1.Object) string { return m.GetAnnotations()[v1alpha1.DigestSaltAnnotation] }

// ContentOf is what leasekeeper wrote into a Secret, as it is now. It trusts nothing: compare its digest.
func ContentOf(s *corev1.Secret) Content {
	var c Content
	for _, source := range readApplied(s.Annotations).Sources {
		p := Part{Source: source.Name, Data: map[string][]byte{}, Volatile: source.Volatile}
		for _, key := range source.Keys {
			if value, ok := s.Data[key]; ok {
				p.Data[key] = value
			}
		}
		c = append(c, p)
	}
	return c
}

// OwnerLabelValue is the name of the DynamicSecret. If that is too long for a label, it is a prefix and a hash of it.
func OwnerLabelValue(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s-%x", name[:validation.LabelValueMaxLength-17], sum[:8])
}

// NewSalt makes the salt of a digest.
func NewSalt() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return base64.RawStdEncoding.EncodeToString(b)
}

// DigestOf is the digest of what leasekeeper wrote into the Secret, as it is now.
func DigestOf(s *corev1.Secret) string { return ContentOf(s).Digest(Salt(s)) }
