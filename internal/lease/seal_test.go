package lease

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

var sealKey = []byte("a key of the tests")

func TestASealIsForOneRecordOfOneObject(t *testing.T) {
	rec := v1alpha1.LeaseRecord{Address: "https://vault.test", Path: "db/creds/a", TokenAccessor: "acc", ID: "db/creds/a/1"}
	rec.Seal = Seal(sealKey, "mine", &rec)
	if !Sealed(sealKey, "mine", &rec) {
		t.Fatal("it is not sealed")
	}
	for name, forged := range map[string]func(r *v1alpha1.LeaseRecord){
		"another lease":     func(r *v1alpha1.LeaseRecord) { r.ID = "db/creds/a/2" },
		"another token":     func(r *v1alpha1.LeaseRecord) { r.TokenAccessor = "other" },
		"another address":   func(r *v1alpha1.LeaseRecord) { r.Address = "https://other.test" },
		"another path":      func(r *v1alpha1.LeaseRecord) { r.Path = "db/creds" },
		"another namespace": func(r *v1alpha1.LeaseRecord) { r.VaultNamespace = "team" },
		"no seal":           func(r *v1alpha1.LeaseRecord) { r.Seal = "" },
	} {
		r := rec
		if forged(&r); Sealed(sealKey, "mine", &r) {
			t.Errorf("%s: the seal is taken", name)
		}
	}
	if Sealed(sealKey, "another's", &rec) || Sealed([]byte("another key"), "mine", &rec) || Sealed(nil, "mine", &v1alpha1.LeaseRecord{}) {
		t.Error("the seal is taken for another object, by another key, or without one")
	}
}

func TestOnlyWhatATransitionWritesIsSealed(t *testing.T) {
	forged := v1alpha1.LeaseRecord{Path: "p", TokenAccessor: "stolen"}
	before := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{UID: "mine"}}
	before.Status.Attempt = &forged
	after := before.DeepCopy()
	RetireAttempt(&after.Status, "", t0, "any")
	after.Status.Attempt = &v1alpha1.LeaseRecord{Path: "p", TokenAccessor: "new"}
	SealNew(sealKey, before, after)
	if Sealed(sealKey, "mine", &after.Status.Retiring[0]) {
		t.Error("a record that somebody else wrote was sealed as it was moved")
	}
	if !Sealed(sealKey, "mine", after.Status.Attempt) {
		t.Error("a new record was not sealed")
	}
	last := after.DeepCopy()
	RetireAttempt(&last.Status, "", t0, "any")
	SealNew(sealKey, after, last)
	if !Sealed(sealKey, "mine", &last.Status.Retiring[1]) {
		t.Error("a record lost its seal as it was moved")
	}
}
