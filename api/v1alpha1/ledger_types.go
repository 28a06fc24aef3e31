package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DynamicSecretStatus is what leasekeeper knows. Attempt, leases and retiring together are the ledger: everything that
// may be alive in the backends because of this object.
type DynamicSecretStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always; Leased once something was issued; Rotated once a credential was replaced; Reconciling
	// and Stalled only while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Summary is the most important reason of the conditions: why the object is not Ready, what a person must change,
	// what fails, or else the reason of Ready. An object with spec.suspend has ",Suspended" after it.
	// +optional
	Summary string `json:"summary,omitempty"`

	// Message is that of the condition which Summary is about.
	// +optional
	Message string `json:"message,omitempty"`

	// ExpiresAt is when the first credential in the Secret expires. Absent: none does.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// LedgerVersion is the version of the format of attempt, leases and retiring. A manager that does not know the
	// version leaves the object alone.
	// +optional
	LedgerVersion int32 `json:"ledgerVersion,omitempty"`

	// Attempt is an issuance in progress: its sessions exist, its credentials may.
	// +optional
	Attempt *IssuanceAttempt `json:"attempt,omitempty"`

	// Leases has one record for each source: of the credential that the Secret contains, or is about to contain.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Leases []LeaseRecord `json:"leases,omitempty"`

	// Retiring are the records of credentials that must still be revoked.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Retiring []LeaseRecord `json:"retiring,omitempty"`

	// Secret is the Secret as leasekeeper last wrote it, or is writing it now.
	// +optional
	Secret *SecretStatus `json:"secret,omitempty"`

	// Handover is the progress of the consumers towards the credential that the Secret contains.
	// +optional
	Handover *HandoverStatus `json:"handover,omitempty"`

	// GrantEndedAt is when the lease ended, for an object with reissue: Never.
	// +optional
	GrantEndedAt *metav1.Time `json:"grantEndedAt,omitempty"`

	// Unplanned counts the issuances that no schedule caused. Absent: none.
	// +optional
	Unplanned *UnplannedIssuances `json:"unplanned,omitempty"`

	// NextAction is what leasekeeper does next, such as Renew or Replace.
	// +optional
	NextAction string `json:"nextAction,omitempty"`

	// NextActionAt is the time of the next action. Absent: now, or after a short pause because it has failed.
	// +optional
	NextActionAt *metav1.Time `json:"nextActionAt,omitempty"`

	// LastHandledRenewAt is the last value of the annotation leasekeeper.io/renew-requested-at that was handled.
	// +optional
	LastHandledRenewAt string `json:"lastHandledRenewAt,omitempty"`

	// LastHandledForceSync is the last value of the annotation force-sync that was handled.
	// +optional
	LastHandledForceSync string `json:"lastHandledForceSync,omitempty"`

	// LastHandledRotateAt is the last value of the annotation leasekeeper.io/rotate-requested-at that was handled.
	// +optional
	LastHandledRotateAt string `json:"lastHandledRotateAt,omitempty"`
}

// IssuanceAttempt is an issuance in progress.
type IssuanceAttempt struct {
	// Records has one record for each source.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Records []LeaseRecord `json:"records"`
}

// UnplannedIssuances counts issuances that no schedule caused: the Secret was changed or lost, a lease was lost, the
// request changed, a rotation was requested, or a credential could not be used: the response could not become the
// Secret, or another source of the set was refused. The pause before the next one doubles up to an hour. A change of
// the spec, or a requested rotation, ends the pause the first five times.
type UnplannedIssuances struct {
	// Count since the last edit that ended the pause, or the last time that the pause and another hour passed without
	// such an issuance.
	Count int64 `json:"count"`

	// LastAt is when the last of them was recorded.
	LastAt metav1.Time `json:"lastAt"`

	// Edits is how many of them followed a change of the spec, or a requested rotation, without a pause.
	// +optional
	Edits int64 `json:"edits,omitempty"`

	// Recent are the times of those of the last hour.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Recent []metav1.Time `json:"recent,omitempty"`

	// Generation of the spec at the last of them.
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// Request is the value of the annotation leasekeeper.io/rotate-requested-at at the last of them.
	// +optional
	Request string `json:"request,omitempty"`

	// Reason why the last credential could not be used. Absent: it was used.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// HandoverStatus is the progress of the consumers towards the last published credential.
type HandoverStatus struct {
	// Stamp is the value that the pod templates of the consumers have once they use this credential. It is derived from
	// the digest of the Secret.
	Stamp string `json:"stamp"`

	// PublishedAt is when the Secret got the credential.
	PublishedAt metav1.Time `json:"publishedAt"`

	// StampedAt is when the first consumer was restarted. Absent: none was yet.
	// +optional
	StampedAt *metav1.Time `json:"stampedAt,omitempty"`

	// RolledOutAt is when all consumers used the credential. Absent: not all do yet.
	// +optional
	RolledOutAt *metav1.Time `json:"rolledOutAt,omitempty"`

	// Reason why not all do, such as RollingOut, RolloutPaused or RolloutTargetNotFound.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Waiting describes the pending workloads, one line each.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Waiting []string `json:"waiting,omitempty"`

	// CutShortAt is when an old lease ended before the handover was complete. Absent: none did.
	// +optional
	CutShortAt *metav1.Time `json:"cutShortAt,omitempty"`

	// HaltedAt is since when the rollout has waited for a person: a workload is paused, stuck or missing, or a
	// permission is. Absent: it does not.
	// +optional
	HaltedAt *metav1.Time `json:"haltedAt,omitempty"`

	// HaltedSeconds is how long it waited for people before that.
	// +optional
	HaltedSeconds int64 `json:"haltedSeconds,omitempty"`

	// RolloutSeconds is the duration of the last rollout, at most 1h, without the time for which it waited for people.
	// The next handover starts early enough for twice that.
	// +optional
	RolloutSeconds int64 `json:"rolloutSeconds,omitempty"`
}

// ResponseKind says how a response is kept valid.
// +kubebuilder:validation:Enum=Leased;Expiring;Scheduled;Static
type ResponseKind string

const (
	// ResponseLeased has a lease: it is renewed, verified and revoked by its id.
	ResponseLeased ResponseKind = "Leased"
	// ResponseExpiring has no lease but expires, such as a certificate: it is replaced in time.
	ResponseExpiring ResponseKind = "Expiring"
	// ResponseScheduled is changed by the backend on a schedule, such as a static role: it is read again after each
	// change.
	ResponseScheduled ResponseKind = "Scheduled"
	// ResponseStatic has no known expiry, such as a KV secret: it is read again every refreshInterval.
	ResponseStatic ResponseKind = "Static"
)

// LeaseRecord says where a credential lives, how it can be revoked, and how long it is valid. It contains no secret:
// an id or an accessor gives access to nothing. Exactly one backend block is set.
type LeaseRecord struct {
	// Source is the name of the source in spec.sources; empty for the short form.
	// +optional
	Source string `json:"source,omitempty"`

	// Provider that issued the credential.
	Provider ProviderIdentity `json:"provider"`

	// RequestDigest identifies the request: where it was sent, what it requested, and as whom. It starts with the
	// version of its format.
	RequestDigest string `json:"requestDigest"`

	// Kind of the response. Absent: there is no response yet.
	// +optional
	Kind ResponseKind `json:"kind,omitempty"`

	// ID of the lease; empty while it is unknown, and for a response without a lease.
	// +optional
	ID string `json:"id,omitempty"`

	// StartedAt is when the issuance started.
	StartedAt metav1.Time `json:"startedAt"`

	// IssuedAt is when the credential was requested, or when a static response last changed.
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// RenewedAt is when the lease was last renewed.
	// +optional
	RenewedAt *metav1.Time `json:"renewedAt,omitempty"`

	// ExpiresAt is when the credential expires unless its lease is renewed; for a scheduled response, when the backend
	// changes it.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// DurationSeconds is the duration of the last grant of the backend, in seconds.
	// +optional
	DurationSeconds int64 `json:"durationSeconds,omitempty"`

	// Renewable as the backend reports it.
	// +optional
	Renewable bool `json:"renewable,omitempty"`

	// Revocable is true for a response without a lease that the backend can revoke, such as a certificate.
	// +optional
	Revocable bool `json:"revocable,omitempty"`

	// ExpiryUnknown is true for a response without a lease that may expire without saying when. It is requested again
	// every refreshInterval.
	// +optional
	ExpiryUnknown bool `json:"expiryUnknown,omitempty"`

	// Once is true for a response without a lease or an expiry that another request would replace with another one,
	// such as a data key of transit. It is kept and not requested again.
	// +optional
	Once bool `json:"once,omitempty"`

	// Digest of the data of a static or scheduled response, salted like status.secret.digest.
	// +optional
	Digest string `json:"digest,omitempty"`

	// UserDigest identifies the user (username or access_key) of a leased response among those of the same mount of the
	// same server. While two leases have the same user, of one object or of two, neither is revoked, because that drops
	// the user of both.
	// +optional
	UserDigest string `json:"userDigest,omitempty"`

	// Renewals counts the renewals of this lease.
	// +optional
	Renewals int64 `json:"renewals,omitempty"`

	// MaxTTLReached is true once the backend refuses to extend the lease any further.
	// +optional
	MaxTTLReached bool `json:"maxTTLReached,omitempty"`

	// MaxTTLSeconds is the maximum life of a lease of this request, in seconds, as observed. Absent: unknown.
	// +optional
	MaxTTLSeconds int64 `json:"maxTTLSeconds,omitempty"`

	// Session is the term of the session that issued the credential. The credential is revoked with its session.
	// Absent: the session does not expire, or the credential does not depend on it.
	// +optional
	Session *SessionTerm `json:"session,omitempty"`

	// RevokeAfter is the earliest time to revoke a retiring record; for one that a handover holds, when the handover
	// is complete. Absent: it is not known yet when the consumers have moved.
	// +optional
	RevokeAfter *metav1.Time `json:"revokeAfter,omitempty"`

	// Reason why the record is retiring.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Seal proves that leasekeeper wrote this record. It is not a secret. If two objects name the same lease or
	// session, leasekeeper acts only on the record with a valid seal. It never revokes a certificate without a lease
	// whose record has no valid seal.
	// +optional
	Seal string `json:"seal,omitempty"`

	// Vault identifies the credential in Vault or OpenBao.
	// +optional
	Vault *VaultRecord `json:"vault,omitempty"`
}

// SessionTerm is how long the session that issued a credential lives.
type SessionTerm struct {
	// ExpiresAt is when the session expires unless it is extended.
	ExpiresAt metav1.Time `json:"expiresAt"`

	// DurationSeconds is the duration of the last grant to the session, in seconds.
	// +optional
	DurationSeconds int64 `json:"durationSeconds,omitempty"`

	// Renewable is true while the session can be extended further.
	// +optional
	Renewable bool `json:"renewable,omitempty"`
}

// VaultRecord identifies a credential in Vault or OpenBao.
type VaultRecord struct {
	// Address of the server.
	Address string `json:"address"`

	// Namespace of Vault Enterprise or OpenBao.
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// Path of the request.
	Path string `json:"path"`

	// TokenAccessor of the token that issued the credential. The token itself is not stored anywhere.
	// +optional
	TokenAccessor string `json:"tokenAccessor,omitempty"`

	// SerialNumber of a certificate that was issued without a lease.
	// +optional
	SerialNumber string `json:"serialNumber,omitempty"`
}

// Handle identifies the issuance in the backend: for Vault, the accessor of the issuing token. It is journaled before
// the credential is requested.
func (r *LeaseRecord) Handle() string {
	if r.Vault != nil {
		return r.Vault.TokenAccessor
	}
	return ""
}

// SetHandle sets what Handle returns. It does not change a block that another record shares.
func (r *LeaseRecord) SetHandle(handle string) {
	if r.Vault != nil {
		block := *r.Vault
		block.TokenAccessor = handle
		r.Vault = &block
	}
}

// Location is where the credential lives in the backend, for messages: a path of Vault.
func (r *LeaseRecord) Location() string {
	if r.Vault != nil {
		return r.Vault.Path
	}
	return ""
}

// UserScope identifies where a user of the backend is unique: for Vault, its server, its namespace and the mount. Roles
// of one mount may name the same user.
func (r *LeaseRecord) UserScope() string {
	path := r.Location()
	if v := r.Vault; v != nil {
		path = strings.Trim(v.Namespace+"/"+strings.Trim(path, "/"), "/")
	}
	if mount, _, found := strings.Cut(path, "/creds/"); found {
		path = mount
	}
	return r.server() + "|" + path
}

// Certificate is the serial number of a credential without a lease that is revoked by it; empty: there is none.
func (r *LeaseRecord) Certificate() string {
	if r.Vault != nil {
		return r.Vault.SerialNumber
	}
	return ""
}

// Keys identify the session, the lease and the certificate of the record, each with its server. Records with a common
// key name the same thing, whatever their paths are: a serial number is unique among all certificate authorities.
func (r *LeaseRecord) Keys() []string {
	var keys []string
	for _, part := range []struct{ kind, name string }{
		{"handle", r.Handle()}, {"lease", r.ID}, {"serial", r.Certificate()},
	} {
		if part.name != "" {
			keys = append(keys, r.server()+"|"+part.kind+"|"+part.name)
		}
	}
	return keys
}

// server identifies the server of the record. Several providers may use one, and its address may have a slash at its
// end.
func (r *LeaseRecord) server() string {
	if r.Vault != nil {
		return strings.TrimRight(r.Vault.Address, "/")
	}
	return r.Provider.Kind + "|" + r.Provider.Name
}

// Identity is all that says which credential the record names. It is the same for two records only if nothing tells
// them apart. Seals depend on it, so a change makes those of existing records invalid.
func (r *LeaseRecord) Identity() string {
	parts := []string{r.ID}
	if v := r.Vault; v != nil {
		parts = append(parts, "vault", v.Address, v.Namespace, v.Path, v.TokenAccessor, v.SerialNumber)
	}
	return strings.Join(parts, "\x00")
}

// ProviderIdentity identifies the provider of a record.
type ProviderIdentity struct {
	// Kind of the provider.
	Kind string `json:"kind"`
	// Name of the provider.
	Name string `json:"name"`
	// UID of the provider.
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// SecretStatus is the Secret as leasekeeper last wrote it, or is writing it now.
type SecretStatus struct {
	// Name of the Secret.
	Name string `json:"name"`
	// UID of the Secret; empty until it is written for the first time.
	// +optional
	UID types.UID `json:"uid,omitempty"`
	// ResourceVersion of the Secret after the last write; empty until the data of Digest is written.
	// +optional
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Digest of the data that leasekeeper wrote, salted with bytes that only the Secret contains.
	// +optional
	Digest string `json:"digest,omitempty"`
	// PreviousDigest of the data before a static source changed; set while the change is being written.
	// +optional
	PreviousDigest string `json:"previousDigest,omitempty"`
}
