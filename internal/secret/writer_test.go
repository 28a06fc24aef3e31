package secret

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func managed(manager, fields string, at time.Duration) metav1.ManagedFieldsEntry {
	when := metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(at))
	return metav1.ManagedFieldsEntry{Manager: manager, Time: &when, FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestOtherWriter(t *testing.T) {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}}
	d.Spec.Target.Labels = map[string]string{"team": "ours"}
	s := func(change func(*corev1.Secret), entries ...metav1.ManagedFieldsEntry) *corev1.Secret {
		s := New(d, Content{{Data: map[string][]byte{"username": []byte("u"), "password": []byte("p4ss")}}}, "salt")
		s.ManagedFields = append(entries, managed("leasekeeper", `{"f:data":{"f:username":{},"f:password":{}}}`, 0))
		change(s)
		return s
	}
	relabel := func(s *corev1.Secret) { s.Labels["team"] = "theirs" }
	nothing := func(*corev1.Secret) {}
	const admits = "A mutating admission policy or webhook"
	for _, c := range []struct {
		name string
		s    *corev1.Secret
		want string
	}{
		{"a label of a policy", s(relabel), admits + " changes label team"},
		{"a label of a manager", s(relabel, managed("rival", `{"f:metadata":{"f:labels":{"f:team":{}}}}`, 0)),
			`Field manager "rival" changes label team`},
		{"a key of a manager", s(nothing, managed("rival", `{"f:data":{"f:password":{}}}`, 0)),
			`Field manager "rival" changes key password`},
		{"the last of two managers", s(nothing, managed("second", `{"f:data":{"f:password":{}}}`, time.Minute),
			managed("first", `{"f:data":{"f:password":{}}}`, 0)), `Field manager "second" changes key password`},
		{"keys of others", s(nothing, managed("rival", `{"f:data":{"f:more":{}}}`, 0)),
			admits + ", or another writer, changes it"},
		{"fields that cannot be read", s(nothing, managed("rival", `{`, 0), metav1.ManagedFieldsEntry{Manager: "x"}),
			admits + ", or another writer, changes it"},
	} {
		got := OtherWriter(c.s, d, "leasekeeper")
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if strings.Contains(got, "p4ss") {
			t.Errorf("%s: %q contains a value", c.name, got)
		}
	}
}

func TestGuessHasTheKeysOfTheMessage(t *testing.T) {
	data := Guess(corev1.SecretTypeOpaque, `denied request: missing DATABASE_URL, api.key (and "x-y").`).Data()
	for _, key := range []string{"DATABASE_URL", "api.key", "x-y", "username", "password"} {
		if data[key] == nil {
			t.Errorf("it lacks %s", key)
		}
	}
	if err := Check(corev1.SecretTypeOpaque, data); err != nil {
		t.Error(err)
	}
}

func TestCheckKeys(t *testing.T) {
	for _, c := range []struct {
		kind corev1.SecretType
		keys []string
		fits bool
	}{
		{corev1.SecretTypeOpaque, []string{"a"}, true},
		{corev1.SecretTypeOpaque, nil, false},
		{corev1.SecretTypeOpaque, []string{"not a key"}, false},
		{corev1.SecretTypeTLS, []string{"username", "password"}, false},
		{corev1.SecretTypeTLS, []string{"tls.crt", "tls.key"}, true},
		{corev1.SecretTypeBasicAuth, []string{"password"}, true},
		{corev1.SecretTypeDockerConfigJson, []string{".dockerconfigjson"}, true},
	} {
		if err := CheckKeys(c.kind, c.keys); (err == nil) != c.fits {
			t.Errorf("%s with %v: %v", c.kind, c.keys, err)
		}
	}
}
