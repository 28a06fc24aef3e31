package lease

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Seal is what shows that leasekeeper itself wrote a record into the ledger of the object with this UID: a MAC over what
// the record names, by a key that only leasekeeper has. Empty without a key. It decides only where two ledgers name the
// same token or lease; a record without it, such as one of an older version, is as good as any other until then.
func Seal(key []byte, uid types.UID, rec *v1alpha1.LeaseRecord) string {
	if len(key) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join([]string{string(uid), rec.Address, rec.VaultNamespace, rec.Path, rec.TokenAccessor, rec.ID}, "\x00")))
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
}

// Sealed says whether the record has its seal.
func Sealed(key []byte, uid types.UID, rec *v1alpha1.LeaseRecord) bool {
	return len(key) > 0 && hmac.Equal([]byte(rec.Seal), []byte(Seal(key, uid, rec)))
}

// SealNew seals what a transition has written: the records that were not there before with the same token and lease. A
// record that somebody else wrote stays as it is, wherever in the ledger it is moved.
func SealNew(key []byte, before, after *v1alpha1.DynamicSecret) {
	seals := map[string]string{}
	for _, rec := range pointers(&before.Status) {
		seals[names(rec)] = rec.Seal
	}
	for _, rec := range pointers(&after.Status) {
		if seal, known := seals[names(rec)]; known {
			rec.Seal = seal
		} else {
			rec.Seal = Seal(key, after.UID, rec)
		}
	}
}

func names(rec *v1alpha1.LeaseRecord) string {
	return strings.Join([]string{rec.Address, rec.VaultNamespace, rec.Path, rec.TokenAccessor, rec.ID}, "\x00")
}

func pointers(st *v1alpha1.DynamicSecretStatus) []*v1alpha1.LeaseRecord {
	var all []*v1alpha1.LeaseRecord
	for _, rec := range []*v1alpha1.LeaseRecord{st.Attempt, st.Lease} {
		if rec != nil {
			all = append(all, rec)
		}
	}
	for i := range st.Retiring {
		all = append(all, &st.Retiring[i])
	}
	return all
}
