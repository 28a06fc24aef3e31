package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// change modifies a record.
type change func(*v1alpha1.LeaseRecord)

// record of a renewable lease of an hour, issued at t0 by a session that does not expire.
func record(changes ...change) *v1alpha1.LeaseRecord {
	rec := &v1alpha1.LeaseRecord{
		Provider:      v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"},
		RequestDigest: "request-1",
		Kind:          v1alpha1.ResponseLeased,
		ID:            "lease-1",
		StartedAt:     stamp(0),
		IssuedAt:      stampPtr(0),
		Renewable:     true,
		Vault: &v1alpha1.VaultRecord{Address: "https://vault.test:8200", Path: "database/creds/orders",
			TokenAccessor: "token-1"},
	}
	for _, c := range append([]change{granted(time.Hour)}, changes...) {
		c(rec)
	}
	return rec
}

// The sources of a set. Their leases are lease-1 and lease-2.
func db(changes ...change) *v1alpha1.LeaseRecord {
	return record(append([]change{source("db")}, changes...)...)
}

func broker(changes ...change) *v1alpha1.LeaseRecord {
	return record(append([]change{source("broker"), numbered(2)}, changes...)...)
}

func settings(changes ...change) *v1alpha1.LeaseRecord {
	return record(append([]change{source("settings"), numbered(3), static}, changes...)...)
}

func source(name string) change { return func(rec *v1alpha1.LeaseRecord) { rec.Source = name } }

func numbered(n int) change {
	return func(rec *v1alpha1.LeaseRecord) {
		rec.ID = leaseOf(n)
		rec.SetHandle(tokenOf(n))
	}
}

// granted sets the duration of the last grant, at t0.
func granted(d time.Duration) change {
	return func(rec *v1alpha1.LeaseRecord) {
		rec.ExpiresAt, rec.DurationSeconds = stampPtr(d), int64(d/time.Second)
	}
}

// renewedAt says that the lease was renewed then, for an hour.
func renewedAt(at time.Duration) change {
	return func(rec *v1alpha1.LeaseRecord) { rec.RenewedAt, rec.ExpiresAt = stampPtr(at), stampPtr(at+time.Hour) }
}

func expiresAt(at time.Duration) change {
	return func(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = stampPtr(at) }
}

func endless(rec *v1alpha1.LeaseRecord) { rec.ExpiresAt = nil }

func unleased(rec *v1alpha1.LeaseRecord, kind v1alpha1.ResponseKind) {
	rec.Kind, rec.ID, rec.Renewable = kind, "", false
}

func static(rec *v1alpha1.LeaseRecord) {
	unleased(rec, v1alpha1.ResponseStatic)
	rec.ExpiresAt, rec.DurationSeconds = nil, 0
}

// unknownExpiry is of a response that may expire without saying when.
// once makes the response one that is not read again.
func once(rec *v1alpha1.LeaseRecord) { static(rec); rec.ExpiryUnknown, rec.Once = true, true }

func unknownExpiry(rec *v1alpha1.LeaseRecord) { rec.ExpiryUnknown = true }

// scheduled responses change after d.
func scheduled(d time.Duration) change {
	return func(rec *v1alpha1.LeaseRecord) {
		unleased(rec, v1alpha1.ResponseScheduled)
		granted(d)(rec)
	}
}

// expiring is a certificate for an hour that cannot be revoked.
func expiring(rec *v1alpha1.LeaseRecord) { unleased(rec, v1alpha1.ResponseExpiring) }

// revocable is one that can.
func revocable(rec *v1alpha1.LeaseRecord) {
	expiring(rec)
	rec.Revocable = true
	block := *rec.Vault
	block.SerialNumber = "serial-" + block.TokenAccessor
	rec.Vault = &block
}

// noResponse is a record whose session is all that is known.
func noResponse(rec *v1alpha1.LeaseRecord) {
	unleased(rec, "")
	rec.IssuedAt, rec.ExpiresAt, rec.DurationSeconds = nil, nil, 0
}

func maxTTL(rec *v1alpha1.LeaseRecord) { rec.MaxTTLReached = true }

func notRenewable(rec *v1alpha1.LeaseRecord) { rec.Renewable = false }

// session that was granted for d at t0.
func session(d time.Duration, renewable bool) change {
	return func(rec *v1alpha1.LeaseRecord) {
		seconds := int64(d / time.Second)
		rec.Session = &v1alpha1.SessionTerm{ExpiresAt: stamp(d), DurationSeconds: seconds, Renewable: renewable}
	}
}

func retired(at time.Duration, reason string) change {
	return func(rec *v1alpha1.LeaseRecord) { rec.RevokeAfter, rec.Reason = stampPtr(at), reason }
}

// failed is a failure that may be tried again at t0 + at, after a pause of a second.
func failed(at time.Duration) Failure {
	return Failure{Count: 1, At: t0.Add(at - time.Second), NotBefore: t0.Add(at),
		Reason: v1alpha1.ReasonBackendUnavailable, Message: "Vault is unavailable"}
}

// failedAt is a failure that happened at t0 + at.
func failedAt(at time.Duration) Failure {
	return failed(at + time.Second)
}

// refusedAt is the n-th refusal in a row, at t0 + at.
func refusedAt(at time.Duration, n int) Failure {
	f := failedAt(at)
	f.Count, f.Refusals = n, n
	return f
}

func tries(change func(*Tries)) given { return func(in *Input) { change(&in.Tries) } }

// byKey adds failures of records to a map of Tries.
func byKey(tries *map[string]Failure, f Failure, recs ...*v1alpha1.LeaseRecord) {
	if *tries == nil {
		*tries = map[string]Failure{}
	}
	for _, rec := range recs {
		(*tries)[Key(rec)] = f
	}
}

func renewFailed(f Failure, recs ...*v1alpha1.LeaseRecord) given {
	return tries(func(t *Tries) { byKey(&t.Renew, f, recs...) })
}

func extendFailed(f Failure, recs ...*v1alpha1.LeaseRecord) given {
	return tries(func(t *Tries) { byKey(&t.ExtendSession, f, recs...) })
}

func revokeFailed(f Failure, recs ...*v1alpha1.LeaseRecord) given {
	return tries(func(t *Tries) { byKey(&t.Revoke, f, recs...) })
}

func refreshFailed(f Failure, source string) given {
	return tries(func(t *Tries) { t.Refresh = map[string]Failure{source: f} })
}

// handover of the leases that the Secret contains, published at t0.
func handover(changes ...func(*v1alpha1.HandoverStatus)) given {
	return status(func(st *v1alpha1.DynamicSecretStatus) {
		st.Handover = &v1alpha1.HandoverStatus{Stamp: Stamp("digest-1"), PublishedAt: stamp(0)}
		for _, c := range changes {
			c(st.Handover)
		}
	})
}
