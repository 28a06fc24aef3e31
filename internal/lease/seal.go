package lease

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Seal proves that leasekeeper wrote a record into the ledger of the object with this UID: a MAC over what the record
// names, with a key that only leasekeeper has. Empty without a key. It decides if two ledgers name the same session or
// lease, whether a certificate without a lease may be revoked, and who owns a session if the backend does not record
// that. Otherwise a record without a valid seal is as good as any other.
func Seal(key []byte, uid types.UID, rec *v1alpha1.LeaseRecord) string {
	if len(key) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(uid) + "\x00" + rec.Identity()))
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
}

// Sealed says whether the record has a valid seal.
func Sealed(key []byte, uid types.UID, rec *v1alpha1.LeaseRecord) bool {
	return len(key) > 0 && hmac.Equal([]byte(rec.Seal), []byte(Seal(key, uid, rec)))
}

// SealNew seals what a transition has written: the records that did not exist before with the same session and lease. A
// record that somebody else wrote keeps its seal, wherever in the ledger it is moved.
func SealNew(key []byte, before, after *v1alpha1.DynamicSecret) {
	seals := map[string]string{}
	for _, rec := range pointers(&before.Status) {
		seals[rec.Identity()] = rec.Seal
	}
	for _, rec := range pointers(&after.Status) {
		if seal, known := seals[rec.Identity()]; known {
			rec.Seal = seal
		} else {
			rec.Seal = Seal(key, after.UID, rec)
		}
	}
}

func pointers(st *v1alpha1.DynamicSecretStatus) []*v1alpha1.LeaseRecord {
	var all []*v1alpha1.LeaseRecord
	if st.Attempt != nil {
		for i := range st.Attempt.Records {
			all = append(all, &st.Attempt.Records[i])
		}
	}
	for i := range st.Leases {
		all = append(all, &st.Leases[i])
	}
	for i := range st.Retiring {
		all = append(all, &st.Retiring[i])
	}
	return all
}
