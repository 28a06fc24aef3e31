package lease

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

var sealKey = []byte("a key of the tests")

func TestASealIsForOneRecordOfOneObject(t *testing.T) {
	rec := record(revocable, func(rec *v1alpha1.LeaseRecord) { rec.ID = "lease-1" })
	rec.Seal = Seal(sealKey, "mine", rec)
	if !Sealed(sealKey, "mine", rec) {
		t.Fatal("the seal is not accepted")
	}
	for name, forge := range map[string]func(r *v1alpha1.LeaseRecord){
		"another lease":         func(r *v1alpha1.LeaseRecord) { r.ID = "lease-2" },
		"another session":       func(r *v1alpha1.LeaseRecord) { r.SetHandle("token-2") },
		"another address":       func(r *v1alpha1.LeaseRecord) { r.Vault.Address = "https://other.test" },
		"another path":          func(r *v1alpha1.LeaseRecord) { r.Vault.Path = "database/creds" },
		"another namespace":     func(r *v1alpha1.LeaseRecord) { r.Vault.Namespace = "team" },
		"another serial number": func(r *v1alpha1.LeaseRecord) { r.Vault.SerialNumber = "00:00" },
		"another backend":       func(r *v1alpha1.LeaseRecord) { r.Vault = nil },
		"no seal":               func(r *v1alpha1.LeaseRecord) { r.Seal = "" },
	} {
		r := rec.DeepCopy()
		if forge(r); Sealed(sealKey, "mine", r) {
			t.Errorf("%s: the seal is accepted", name)
		}
	}
	renewed := rec.DeepCopy()
	renewed.Renewals, renewed.ExpiresAt, renewed.Reason = 7, stampPtr(0), reasonReplaced
	if !Sealed(sealKey, "mine", renewed) {
		t.Error("a renewal or retirement breaks the seal")
	}
	if Sealed(sealKey, "another", rec) || Sealed([]byte("another key"), "mine", rec) {
		t.Error("the seal is accepted for another object or key")
	}
	if Sealed(nil, "mine", record()) || Seal(nil, "mine", rec) != "" {
		t.Error("there is a seal without a key")
	}
}

func TestOnlyNewRecordsAreSealed(t *testing.T) {
	forged := record(numbered(8), noResponse)
	sealed := func(rec *v1alpha1.LeaseRecord) bool { return Sealed(sealKey, noJitter, rec) }
	before := input(attempt(forged)).Object
	after := before.DeepCopy()
	RetireAttempt(&after.Status, Held{}, "any", limit, t0)
	Journal(&after.Status, values([]*v1alpha1.LeaseRecord{db(noResponse), broker(noResponse)}), t0)
	SealNew(sealKey, before, after)
	if sealed(&after.Status.Retiring[0]) {
		t.Error("a record that somebody else wrote was sealed when it was moved")
	}
	for i := range after.Status.Attempt.Records {
		if !sealed(&after.Status.Attempt.Records[i]) {
			t.Errorf("record %d of the journal is not sealed", i)
		}
	}

	moved := after.DeepCopy()
	RetireAttempt(&moved.Status, Held{}, "any", limit, t0)
	SealNew(sealKey, after, moved)
	if !sealed(&moved.Status.Retiring[1]) || !sealed(&moved.Status.Retiring[2]) || sealed(&moved.Status.Retiring[0]) {
		t.Errorf("a record lost or gained a seal when it was moved: %+v", moved.Status.Retiring)
	}

	recorded := after.DeepCopy()
	recordSet(recorded, "digest-1", t0, db(), broker())
	SealNew(sealKey, after, recorded)
	if !sealed(&recorded.Status.Leases[0]) || !sealed(&recorded.Status.Leases[1]) {
		t.Errorf("the leases are not sealed with their ids: %+v", recorded.Status.Leases)
	}
}
