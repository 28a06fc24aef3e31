package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DynamicSecretSpec says which credential to lease and where to put it.
//
// +kubebuilder:validation:XValidation:rule="has(self.vault)",message="name a backend: set spec.vault"
type DynamicSecretSpec struct {
	// ProviderRef names the provider that the credential comes from.
	ProviderRef ProviderReference `json:"providerRef"`

	// ServiceAccountName is the ServiceAccount of this namespace to log in as. It overrides the provider's
	// auth.kubernetes.serviceAccountRef.name. It has no meaning with token auth.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// Vault says what to ask Vault or OpenBao for.
	// +optional
	Vault *VaultRequest `json:"vault,omitempty"`

	// Lease says how the lease is kept.
	// +optional
	// +kubebuilder:default={}
	Lease LeaseSpec `json:"lease,omitempty"`

	// Rotation says when a credential is replaced although it lives, and how long it lives on after that.
	// +optional
	// +kubebuilder:default={}
	Rotation RotationSpec `json:"rotation,omitempty"`

	// Rollout says which workloads are rolled out anew when the credential was replaced. The old lease is held until
	// they have moved to the new one. It needs rollout.enabled in leasekeeper's chart. Absent: nothing is rolled out,
	// which suits workloads that re-read a mounted Secret; set rotation.overlap to the time that they take for it.
	// +optional
	Rollout *RolloutSpec `json:"rollout,omitempty"`

	// RefreshInterval is how often an answer without a lease (KV, for one) is read again. Answers with a lease do not
	// use it. At least 1s.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="refreshInterval must be at least 1s"
	RefreshInterval metav1.Duration `json:"refreshInterval,omitempty"`

	// Target describes the Secret. It belongs to this object: a Secret of that name that somebody else made is
	// refused before anything is issued.
	// +optional
	// +kubebuilder:default={}
	Target TargetSpec `json:"target,omitempty"`

	// Suspend stops issuing and replacing. Renewing, expiring and deleting go on.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// Revoked, set to true, revokes the lease and deletes the Secret; the object stays as a tombstone. Setting it
	// back to false issues anew.
	// +optional
	Revoked bool `json:"revoked,omitempty"`
}

// ProviderReference names a provider.
type ProviderReference struct {
	// Kind is SecretProvider (in this namespace) or ClusterSecretProvider.
	// +optional
	// +kubebuilder:default=SecretProvider
	// +kubebuilder:validation:Enum=SecretProvider;ClusterSecretProvider
	Kind string `json:"kind,omitempty"`

	// Name of the provider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// RequestMethod is how a path is asked.
// +kubebuilder:validation:Enum=Read;Write
type RequestMethod string

const (
	// MethodRead sends a GET; parameters become its query.
	MethodRead RequestMethod = "Read"
	// MethodWrite sends a PUT; parameters become its JSON body.
	MethodWrite RequestMethod = "Write"
)

// VaultRequest is one request to Vault or OpenBao.
type VaultRequest struct {
	// Path to ask, mount included and "v1/" left out, such as database/creds/orders, or secret/data/orders for KV
	// version 2.
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/') && !self.contains('//')",message="path has no leading, trailing or double slash: database/creds/orders"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('v1/')",message="leave the leading v1/ out of path"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('sys/') && !self.startsWith('auth/')",message="path must be that of a secrets engine; sys/ and auth/ are not"
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_.@:~+=,/-]+$') && !self.matches('(^|/)[.][.]?(/|$)')",message="path has a character or a segment that is not allowed; letters, digits and _.@:~+=,- are"
	Path string `json:"path"`

	// Method is Read for most engines, Write for those that want a request body, such as pki/issue or
	// kubernetes/creds.
	// +optional
	// +kubebuilder:default=Read
	Method RequestMethod `json:"method,omitempty"`

	// Parameters of the request: the JSON body of a Write, the query of a Read (plain values only). They are kept in
	// this object, readable by whoever may read it: put no secret here.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Parameters map[string]apiextensionsv1.JSON `json:"parameters,omitempty"`

	// Namespace of Vault Enterprise or OpenBao to ask in. Defaults to the provider's.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/')",message="namespace has no leading or trailing slash"
	Namespace string `json:"namespace,omitempty"`
}

// OnExpiry is what becomes of a Secret whose lease died.
// +kubebuilder:validation:Enum=Delete;Retain
type OnExpiry string

const (
	// OnExpiryDelete deletes the Secret.
	OnExpiryDelete OnExpiry = "Delete"
	// OnExpiryRetain leaves the dead credential in the Secret.
	OnExpiryRetain OnExpiry = "Retain"
)

// Reissue says whether a lease that is over is followed by another.
// +kubebuilder:validation:Enum=Always;Never
type Reissue string

const (
	// ReissueAlways follows a lease by the next.
	ReissueAlways Reissue = "Always"
	// ReissueNever makes the one lease a temporary grant.
	ReissueNever Reissue = "Never"
)

// OnDelete is what becomes of the lease when the object is deleted.
// +kubebuilder:validation:Enum=Revoke;Abandon
type OnDelete string

const (
	// OnDeleteRevoke revokes the lease.
	OnDeleteRevoke OnDelete = "Revoke"
	// OnDeleteAbandon leaves it to run out.
	OnDeleteAbandon OnDelete = "Abandon"
)

// LeaseSpec says how the lease is kept.
type LeaseSpec struct {
	// Increment is the duration asked for at each renewal. It is a wish: the backend may grant less. It never
	// shortens a lease. Defaults to the duration that the lease was issued with.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="increment must be at least 1s"
	Increment *metav1.Duration `json:"increment,omitempty"`

	// RenewAtPercent is how much of the granted duration may pass before the lease is renewed, in percent.
	// +optional
	// +kubebuilder:default=67
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=90
	RenewAtPercent int32 `json:"renewAtPercent,omitempty"`

	// OnExpiry is what becomes of the Secret when its lease died and no new one can be had: Delete (so that nobody
	// uses a dead credential) or Retain.
	// +optional
	// +kubebuilder:default=Delete
	OnExpiry OnExpiry `json:"onExpiry,omitempty"`

	// Reissue is Always (a lease that is over is followed by another) or Never (a temporary grant: when its life is
	// over the Secret is deleted and stays away).
	// +optional
	// +kubebuilder:default=Always
	Reissue Reissue `json:"reissue,omitempty"`

	// OnDelete is what becomes of the lease when this object is deleted: Revoke, or Abandon (the Secret goes, the
	// lease runs out by itself).
	// +optional
	// +kubebuilder:default=Revoke
	OnDelete OnDelete `json:"onDelete,omitempty"`

	// RevocationDeadline is how long a deletion waits for a backend that is away or refuses to revoke. After it the
	// object goes and the lease is abandoned, with an event and a metric that say so.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="revocationDeadline must not be negative"
	RevocationDeadline metav1.Duration `json:"revocationDeadline,omitempty"`
}

// RotationSpec says when a credential is replaced although it lives, and how long it lives on after that.
type RotationSpec struct {
	// MaxAge is how old a credential may become. When it is that old, or a little younger (up to a tenth, so that
	// objects which were made together do not rotate together), it is replaced, even if its lease could be renewed
	// further. Absent: as old as the backend lets it become.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="maxAge must be at least 1s"
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// Overlap is how long the old credential lives on after the new one is in the Secret and, where spec.rollout
	// names workloads, all of them have moved to it. Then its lease is revoked. The backend's maximum may cut it short,
	// which the condition Rotated says.
	// +optional
	// +kubebuilder:default="2m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="overlap must not be negative"
	Overlap *metav1.Duration `json:"overlap,omitempty"`

	// Windows are the times in which a credential may be replaced by plan: by maxAge, or because the backend's maximum
	// comes near. A lease that would end before the next window opens is replaced all the same. What is ordered, or
	// follows from a change or a loss, does not wait for a window. Absent: always.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Windows []RotationWindow `json:"windows,omitempty"`
}

// RotationWindow opens again and again.
type RotationWindow struct {
	// Schedule says when it opens, in the five fields of cron: minute, hour, day of month, month, day of week, such as
	// "0 2 * * 1-5". Names (MON, JAN) and @daily, @weekly and the like are understood too.
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="!self.contains('TZ=')",message="name the time zone in timeZone, not in schedule"
	// +kubebuilder:validation:XValidation:rule="self.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^@ ]+( +[^ ]+){4})$')",message="schedule has five fields (minute, hour, day of month, month, day of week), or is one of @hourly, @daily, @weekly, @monthly and @yearly"
	Schedule string `json:"schedule"`

	// TimeZone that the schedule is meant in, by its name in the IANA database, such as Europe/Vienna. Defaults to UTC.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local'",message="name a time zone of the IANA database, such as Europe/Vienna"
	TimeZone string `json:"timeZone,omitempty"`

	// Duration is for how long it is open.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m')",message="duration must be at least 1m"
	Duration metav1.Duration `json:"duration"`
}

// RolloutSpec says which workloads are rolled out anew when the credential was replaced.
//
// +kubebuilder:validation:XValidation:rule="has(self.discover) && self.discover || has(self.targets) && size(self.targets) > 0",message="name workloads in targets, or set discover to true"
type RolloutSpec struct {
	// Targets are workloads of this namespace.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Targets []RolloutTarget `json:"targets,omitempty"`

	// Discover finds the workloads of this namespace whose pod template uses the Secret: as a volume, also a projected
	// one, in env or envFrom, or as an image pull secret. They are listed when a credential was replaced, not watched.
	// +optional
	Discover bool `json:"discover,omitempty"`
}

// WorkloadKind is a kind of workload that can be rolled out.
// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet;Rollout
type WorkloadKind string

// The kinds of workloads. KindRollout is that of argoproj.io.
const (
	KindDeployment  WorkloadKind = "Deployment"
	KindStatefulSet WorkloadKind = "StatefulSet"
	KindDaemonSet   WorkloadKind = "DaemonSet"
	KindRollout     WorkloadKind = "Rollout"
)

// RolloutTarget names a workload, or selects some.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.selector)",message="set either name or selector"
type RolloutTarget struct {
	// Kind of the workload: Deployment, StatefulSet, DaemonSet, or Rollout (of Argo Rollouts).
	// +optional
	// +kubebuilder:default=Deployment
	Kind WorkloadKind `json:"kind,omitempty"`

	// Name of the workload. One that does not exist holds the old lease, for it may be a slip of the pen.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// Selector chooses workloads by their labels. It may choose none.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// TargetSpec describes the Secret that is written.
type TargetSpec struct {
	// Name of the Secret. Defaults to the name of this object.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="name must be a lower-case DNS name"
	Name string `json:"name,omitempty"`

	// Type of the Secret. A change deletes and re-creates it with the same credential.
	// +optional
	// +kubebuilder:default=Opaque
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self != 'kubernetes.io/service-account-token' && self != 'bootstrap.kubernetes.io/token'",message="this type makes the cluster give out rights of its own; use another"
	Type string `json:"type,omitempty"`

	// Labels to put on the Secret. Those with the prefix leasekeeper.io/ are leasekeeper's own.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('leasekeeper.io/'))",message="labels with the prefix leasekeeper.io/ are reserved"
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations to put on the Secret. Those with the prefix leasekeeper.io/ are leasekeeper's own.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('leasekeeper.io/'))",message="annotations with the prefix leasekeeper.io/ are reserved"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// DynamicSecretStatus is what leasekeeper knows. Attempt, lease and retiring together are the ledger: everything that
// may be alive in the backend because of this object.
type DynamicSecretStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always, Leased once something was issued, Rotated once a credential was replaced, Reconciling and
	// Stalled only while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Attempt is an issue that is under way: its token exists, its credential may.
	// +optional
	Attempt *LeaseRecord `json:"attempt,omitempty"`

	// Lease is the record of the credential that the Secret holds, or is about to hold.
	// +optional
	Lease *LeaseRecord `json:"lease,omitempty"`

	// Retiring lists records that are still owed an end in the backend.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Retiring []LeaseRecord `json:"retiring,omitempty"`

	// Secret is what was written last, or is being written.
	// +optional
	Secret *SecretStatus `json:"secret,omitempty"`

	// Handover is how far the consumers have come with the credential that the Secret holds.
	// +optional
	Handover *HandoverStatus `json:"handover,omitempty"`

	// GrantEndedAt is when the one lease of a grant with reissue: Never came to its end.
	// +optional
	GrantEndedAt *metav1.Time `json:"grantEndedAt,omitempty"`

	// NextAction is what leasekeeper means to do next, such as Renew or Replace.
	// +optional
	NextAction string `json:"nextAction,omitempty"`

	// NextActionAt is when it means to.
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

// HandoverStatus is how far the consumers have come with the credential that was published last.
type HandoverStatus struct {
	// Stamp is the value that the pod templates of the consumers carry once they are to have this credential. It is made
	// from the digest of the Secret.
	Stamp string `json:"stamp"`

	// PublishedAt is when the Secret began to hold the credential.
	PublishedAt metav1.Time `json:"publishedAt"`

	// StampedAt is when the first consumer was told to roll out. Absent: none was yet.
	// +optional
	StampedAt *metav1.Time `json:"stampedAt,omitempty"`

	// RolledOutAt is when all consumers had moved to it. Absent: they have not yet.
	// +optional
	RolledOutAt *metav1.Time `json:"rolledOutAt,omitempty"`

	// Reason why they have not, such as RollingOut, RolloutPaused or RolloutTargetNotFound.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Waiting says what is waited for, by workload.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Waiting []string `json:"waiting,omitempty"`

	// CutShortAt is when an old lease ended that was still to be held. Absent: none did.
	// +optional
	CutShortAt *metav1.Time `json:"cutShortAt,omitempty"`

	// RolloutSeconds is how long the last roll-out took. The next hand-over is begun early enough for twice of it.
	// +optional
	RolloutSeconds int64 `json:"rolloutSeconds,omitempty"`
}

// LeaseRecord says where a credential lives, by what it can be ended, and how long it lives. It holds no secret: an
// accessor or a lease id gives access to nothing.
type LeaseRecord struct {
	// Provider that the credential came from.
	Provider ProviderIdentity `json:"provider"`

	// Address of the backend.
	Address string `json:"address"`

	// VaultNamespace is the namespace of Vault Enterprise or OpenBao.
	// +optional
	VaultNamespace string `json:"vaultNamespace,omitempty"`

	// Path that was asked.
	Path string `json:"path"`

	// RequestDigest tells one request from another: where it went, what it asked, and as whom.
	RequestDigest string `json:"requestDigest"`

	// ID of the lease; empty while it is not known, and for an answer without a lease.
	// +optional
	ID string `json:"id,omitempty"`

	// TokenAccessor of the token that issued the credential. The token itself is forgotten.
	// +optional
	TokenAccessor string `json:"tokenAccessor,omitempty"`

	// StartedAt is when the issue began.
	StartedAt metav1.Time `json:"startedAt"`

	// IssuedAt is when the answer came.
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// RenewedAt is when the lease was renewed last.
	// +optional
	RenewedAt *metav1.Time `json:"renewedAt,omitempty"`

	// ExpiresAt is when the lease ends unless it is renewed.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// DurationSeconds is what the backend granted last, in seconds.
	// +optional
	DurationSeconds int64 `json:"durationSeconds,omitempty"`

	// Renewable is what the backend says of the lease.
	// +optional
	Renewable bool `json:"renewable,omitempty"`

	// Renewals counts the renewals of this lease.
	// +optional
	Renewals int64 `json:"renewals,omitempty"`

	// MaxTTLReached is true once the backend will not extend the lease any further.
	// +optional
	MaxTTLReached bool `json:"maxTTLReached,omitempty"`

	// MaxTTLSeconds is how long a lease of this request lives at most, as the last one that reached it has shown. Absent:
	// not known.
	// +optional
	MaxTTLSeconds int64 `json:"maxTTLSeconds,omitempty"`

	// TokenExpiresAt is when the issuing token ends, and its leases with it. Absent: never.
	// +optional
	TokenExpiresAt *metav1.Time `json:"tokenExpiresAt,omitempty"`

	// TokenDurationSeconds is what was granted to the token last, in seconds.
	// +optional
	TokenDurationSeconds int64 `json:"tokenDurationSeconds,omitempty"`

	// TokenRenewable is true while the issuing token can be extended further.
	// +optional
	TokenRenewable bool `json:"tokenRenewable,omitempty"`

	// EndAfter is when a retiring record may be ended, at the earliest.
	// +optional
	EndAfter *metav1.Time `json:"endAfter,omitempty"`

	// Reason why the record retires.
	// +optional
	Reason string `json:"reason,omitempty"`

	// Seal shows that leasekeeper itself wrote this record. It is no secret. Where two objects name the same lease or
	// token, only the one whose record has its seal is acted on.
	// +optional
	Seal string `json:"seal,omitempty"`
}

// ProviderIdentity tells which provider a record belongs to.
type ProviderIdentity struct {
	// Kind of the provider.
	Kind string `json:"kind"`
	// Name of the provider.
	Name string `json:"name"`
	// UID of the provider.
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// SecretStatus is the Secret that was written last, or is being written.
type SecretStatus struct {
	// Name of the Secret.
	Name string `json:"name"`
	// UID of the Secret; empty until it is written for the first time.
	// +optional
	UID types.UID `json:"uid,omitempty"`
	// ResourceVersion of the Secret as it was written last; empty while the data of Digest are still to be written.
	// +optional
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Digest of the data, salted with bytes that only the Secret holds.
	// +optional
	Digest string `json:"digest,omitempty"`
}

// DynamicSecret is one leased credential, kept in one Secret. leasekeeper issues it, renews its lease, replaces it
// before it dies, and revokes it when it is no longer needed.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dsec,categories=leasekeeper
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.providerRef.name`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Expires",type=string,format=date-time,JSONPath=`.status.lease.expiresAt`
// +kubebuilder:printcolumn:name="Renews",type=string,format=date-time,JSONPath=`.status.nextActionAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Lease",type=string,priority=1,JSONPath=`.status.lease.id`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type DynamicSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says which credential to lease and where to put it.
	Spec DynamicSecretSpec `json:"spec"`
	// Status is written by leasekeeper; it is the ledger that tells what is alive.
	// +optional
	Status DynamicSecretStatus `json:"status,omitempty"`
}

// TargetName is the name of the Secret: spec.target.name, or the object's own.
func (d *DynamicSecret) TargetName() string {
	if d.Spec.Target.Name != "" {
		return d.Spec.Target.Name
	}
	return d.Name
}

// DynamicSecretList is a list of DynamicSecrets.
//
// +kubebuilder:object:root=true
type DynamicSecretList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DynamicSecret `json:"items"`
}
