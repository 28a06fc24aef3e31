package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The CEL rules of a LeaseRevocation stand at its spec, not at the fields: the API server visits each node that has
// rules on every write, status writes included.

// LeaseRevocationSpec says which leases to revoke, and where. It cannot be changed: create another LeaseRevocation
// instead.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a LeaseRevocation cannot be changed; create another"
// +kubebuilder:validation:XValidation:rule="self.providerRef.kind != 'SecretProvider' || has(self.providerRef.__namespace__)",message="set namespace: a SecretProvider has one",fieldPath=".providerRef.namespace"
// +kubebuilder:validation:XValidation:rule="self.providerRef.kind != 'ClusterSecretProvider' || !has(self.providerRef.__namespace__)",message="omit namespace: a ClusterSecretProvider has none",fieldPath=".providerRef.namespace"
// +kubebuilder:validation:XValidation:rule="has(self.vault)",message="name a backend: set vault"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.leaseID) != has(self.vault.prefix)",message="set exactly one of leaseID and prefix",fieldPath=".vault"
// +kubebuilder:validation:XValidation:rule="!has(self.confirm) || has(self.vault) && (has(self.vault.prefix) && self.confirm == self.vault.prefix || has(self.vault.leaseID) && self.confirm == self.vault.leaseID)",message="confirm must repeat prefix or leaseID exactly",fieldPath=".confirm"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.prefix) || self.vault.prefix.matches('^[^/]+/[^/]') || has(self.confirm)",message="a prefix of one segment selects every lease of a mount: if you mean that, set confirm to the same text",fieldPath=".vault.prefix"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.force) || !self.vault.force || has(self.confirm)",message="force makes Vault forget leases that it cannot revoke: if you mean that, set confirm to prefix or leaseID",fieldPath=".vault.force"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.__namespace__) || self.vault.__namespace__.matches('^([A-Za-z0-9_.@:~+=,-]+(/[A-Za-z0-9_.@:~+=,-]+)*)?$') && !self.vault.__namespace__.matches('(^|/)[.][.]?(/|$)')",message="namespace is like team-a/shop: no leading, trailing or double slash, no dot segments",fieldPath=".vault.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.leaseID) || self.vault.leaseID.matches('^[A-Za-z0-9_.@:~+=,-]+(/[A-Za-z0-9_.@:~+=,-]+)+$') && !self.vault.leaseID.matches('(^|/)[.][.]?(/|$)')",message="leaseID is a whole id, as in status.leases: database/creds/orders/2f6a",fieldPath=".vault.leaseID"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.leaseID) || !self.vault.leaseID.matches('(?i)^(auth|sys|v1)(/|$)')",message="leaseID must belong to a secrets engine, without v1/: ids below auth/ are logins",fieldPath=".vault.leaseID"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.prefix) || size(self.vault.prefix) > 0",message="an empty prefix selects every lease and every login of the server: name a path",fieldPath=".vault.prefix"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.prefix) || self.vault.prefix.matches('^([A-Za-z0-9_.@:~+=,-]+(/[A-Za-z0-9_.@:~+=,-]+)*/?)?$') && !self.vault.prefix.matches('(^|/)[.][.]?(/|$)')",message="prefix is like database/creds/: no leading or double slash, no dot segments; letters, digits and _.@:~+=,- are allowed",fieldPath=".vault.prefix"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.prefix) || !self.vault.prefix.matches('(?i)^(auth|sys|v1)(/|$)')",message="prefix must belong to a secrets engine, without v1/: revoking auth/ would end every login",fieldPath=".vault.prefix"
type LeaseRevocationSpec struct {
	// ProviderRef names the provider of the backend that owns the leases. They are revoked with leasekeeper's own
	// identity at that provider (keeperAuth).
	ProviderRef RevocationProviderReference `json:"providerRef"`

	// Vault selects leases of Vault or OpenBao.
	// +optional
	Vault *VaultRevocation `json:"vault,omitempty"`

	// Confirm repeats vault.prefix or vault.leaseID exactly. It is required by force, and by a prefix of one segment.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Confirm string `json:"confirm,omitempty"`

	// Reason for the revocation, for people who read it later. It is logged as well. Do not put a secret here.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// TTLSecondsAfterFinished is how long after its completion this object is deleted, in seconds. Absent: it is kept.
	// Omit it in manifests that a GitOps tool applies: the tool would create the object again, and that revokes again.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// VaultRevocation selects leases of Vault or OpenBao: one by its id, or all below a prefix.
type VaultRevocation struct {
	// Namespace of Vault Enterprise or OpenBao that contains the leases. Defaults to the provider's.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Namespace string `json:"namespace,omitempty"`

	// LeaseID is the one lease to revoke, such as database/creds/orders/2f6a….
	// +optional
	// +kubebuilder:validation:MaxLength=512
	LeaseID string `json:"leaseID,omitempty"`

	// Prefix selects every lease below a path, such as database/creds/ or database/creds/orders, including leases that
	// leasekeeper did not issue. It matches whole segments, with or without a trailing slash: database/creds/or does
	// not match database/creds/orders. A prefix of one segment must be repeated in confirm.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Prefix string `json:"prefix,omitempty"`

	// Force makes Vault forget leases that it could not revoke for some seconds (revoke-force). Their database users
	// may stay alive, and nothing tracks them any more. Use it if the database is gone for good. Requires confirm.
	// +optional
	Force bool `json:"force,omitempty"`
}

// Target is what confirm must repeat: the prefix or id of the leases.
func (s *LeaseRevocationSpec) Target() string {
	switch {
	case s.Vault == nil:
		return ""
	case s.Vault.LeaseID != "":
		return s.Vault.LeaseID
	}
	return s.Vault.Prefix
}

// Selection describes the leases, for messages: "lease database/creds/orders/2f6a" or "leases below database/creds/".
func (s *LeaseRevocationSpec) Selection() string {
	if s.Vault != nil && s.Vault.LeaseID != "" {
		return "lease " + s.Vault.LeaseID
	}
	return "leases below " + strings.TrimSuffix(s.Target(), "/") + "/"
}

// Forced is true if the backend may forget leases that it cannot revoke, and confirm says so too.
func (s *LeaseRevocationSpec) Forced() bool {
	return s.Vault != nil && s.Vault.Force && s.Target() != "" && s.Confirm == s.Target()
}

// RevocationProviderReference names a provider from outside of any namespace.
type RevocationProviderReference struct {
	// Kind is ClusterSecretProvider or SecretProvider.
	// +optional
	// +kubebuilder:default=ClusterSecretProvider
	// +kubebuilder:validation:Enum=SecretProvider;ClusterSecretProvider
	Kind string `json:"kind,omitempty"`

	// Name of the provider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Namespace of a SecretProvider.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// String is the kind and the name, for messages.
func (r RevocationProviderReference) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// LeaseRevocationStatus is the progress of a LeaseRevocation.
type LeaseRevocationStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always, True once the revocation is complete; Reconciling and Stalled only while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// StartedAt is when the leases were first counted. It is stored before any of them is revoked.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// MatchedLeases is how many leases the backend listed before the revocation. Leases that are issued between the
	// count and the revocation are revoked too.
	// +optional
	MatchedLeases *int64 `json:"matchedLeases,omitempty"`

	// DynamicSecrets is how many DynamicSecrets had one of these leases.
	// +optional
	DynamicSecrets *int64 `json:"dynamicSecrets,omitempty"`

	// AcceptedAt is when the backend accepted the revocation. The leases have expired then and cannot be renewed, and
	// the backend deletes their accounts in the background.
	// +optional
	AcceptedAt *metav1.Time `json:"acceptedAt,omitempty"`

	// RemainingLeases is how many of the leases the backend still listed at the last check.
	// +optional
	RemainingLeases *int64 `json:"remainingLeases,omitempty"`

	// ForcedLeases is how many leases were revoked by force, because the backend could not revoke them otherwise.
	// +optional
	ForcedLeases int64 `json:"forcedLeases,omitempty"`

	// CompletedAt is when the backend no longer listed any of the leases. leasekeeper does nothing more after that.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
}

// LeaseRevocation revokes leases by id or by prefix, once, whether or not leasekeeper issued them. A DynamicSecret that
// has one of the leases gets a new credential at once, or loses its Secret if it is a temporary grant.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lrev,categories=leasekeeper
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.providerRef.name`
// +kubebuilder:printcolumn:name="Prefix",type=string,JSONPath=`.spec.vault.prefix`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matchedLeases`
// +kubebuilder:printcolumn:name="Remaining",type=integer,JSONPath=`.status.remainingLeases`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Lease",type=string,priority=1,JSONPath=`.spec.vault.leaseID`
// +kubebuilder:printcolumn:name="Force",type=boolean,priority=1,JSONPath=`.spec.vault.force`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.spec.reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type LeaseRevocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says which leases to revoke, and where.
	Spec LeaseRevocationSpec `json:"spec"`
	// Status is written by leasekeeper.
	// +optional
	Status LeaseRevocationStatus `json:"status,omitempty"`
}

// Finished is true once the revocation is complete. Nothing more is done for it.
func (r *LeaseRevocation) Finished() bool { return r.Status.CompletedAt != nil }

// LeaseRevocationList is a list of LeaseRevocations.
//
// +kubebuilder:object:root=true
type LeaseRevocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LeaseRevocation `json:"items"`
}
