package secret

import (
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Change is an update of an existing Secret. It contains only what leasekeeper writes, so it needs no read, and it
// leaves the keys, labels and annotations of others alone. The API server rejects it if the Secret has another UID or
// resource version.
type Change struct {
	Namespace, Name string
	UID             types.UID
	ResourceVersion string
	// Labels and Annotations to set; nil values are removed.
	Labels, Annotations map[string]*string
	// Data to set; nil values are removed. A nil map leaves the data as they are.
	Data map[string][]byte
	// Owners replace the owner references.
	Owners []metav1.OwnerReference
}

// NewChange brings the Secret with the metadata in line with the spec. A nil content leaves the data as they are.
func NewChange(m metav1.Object, d *v1alpha1.DynamicSecret, c Content, salt string) Change {
	before := readApplied(m.GetAnnotations())
	change := Change{
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
		Labels:      merge(before.Labels, d.Spec.Target.Labels),
		Annotations: merge(before.Annotations, d.Spec.Target.Annotations),
		Owners:      owners(d),
	}
	value := OwnerLabelValue(d.Name)
	change.Labels[v1alpha1.OwnerLabel] = &value
	after := wanted(d)
	after.Sources = before.Sources
	if c != nil {
		after = readApplied(map[string]string{v1alpha1.AppliedAnnotation: appliedValue(d, c)})
		change.Annotations[v1alpha1.DigestSaltAnnotation] = &salt
		change.replaceData(before.keys(), c.Data())
	}
	change.setApplied(after)
	return change
}

// replaceData removes the former keys that the data no longer have.
func (c *Change) replaceData(former []string, data map[string][]byte) {
	c.Data = map[string][]byte{}
	for _, key := range former {
		c.Data[key] = nil
	}
	for key, value := range data {
		if value == nil {
			value = []byte{} // nil removes a key
		}
		c.Data[key] = value
	}
}

func (c *Change) setApplied(a applied) {
	text, _ := json.Marshal(a)
	annotation := string(text)
	c.Annotations[v1alpha1.AppliedAnnotation] = &annotation
}

// ReplacePart is NewChange for one part: the others stay as they are.
func ReplacePart(m metav1.Object, d *v1alpha1.DynamicSecret, p Part) Change {
	change := NewChange(m, d, nil, "")
	after := readApplied(map[string]string{v1alpha1.AppliedAnnotation: *change.Annotations[v1alpha1.AppliedAnnotation]})
	part := readApplied(map[string]string{v1alpha1.AppliedAnnotation: appliedValue(d, Content{p})}).Sources[0]
	var former []string
	at := slices.IndexFunc(after.Sources, func(s appliedSource) bool { return s.Name == p.Source })
	if at < 0 {
		after.Sources = append(after.Sources, part)
	} else {
		former, after.Sources[at] = after.Sources[at].Keys, part
	}
	change.replaceData(former, p.Data)
	change.setApplied(after)
	return change
}

// KeysOfOthers are the keys that other sources wrote.
func KeysOfOthers(m metav1.Object, source string) []string {
	var keys []string
	for _, s := range readApplied(m.GetAnnotations()).Sources {
		if s.Name != source {
			keys = append(keys, s.Keys...)
		}
	}
	return keys
}

func merge(before []string, want map[string]string) map[string]*string {
	out := map[string]*string{}
	for _, k := range before {
		out[k] = nil
	}
	for k, v := range want {
		out[k] = &v
	}
	return out
}

// MarshalJSON makes a JSON merge patch.
func (c Change) MarshalJSON() ([]byte, error) {
	patch := map[string]any{"metadata": map[string]any{
		"uid": c.UID, "resourceVersion": c.ResourceVersion, "labels": c.Labels, "annotations": c.Annotations,
		"ownerReferences": c.Owners,
	}}
	if c.Data != nil {
		patch["data"] = c.Data
	}
	return json.Marshal(patch)
}
