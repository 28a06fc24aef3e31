package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeaseRevocationSpec says which leases to revoke, and where. It cannot be changed: make another LeaseRevocation instead.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a LeaseRevocation cannot be changed; make another"
// +kubebuilder:validation:XValidation:rule="has(self.leaseID) != has(self.prefix)",message="set exactly one of leaseID and prefix"
// +kubebuilder:validation:XValidation:rule="!has(self.confirm) || (has(self.prefix) && self.confirm == self.prefix) || (has(self.leaseID) && self.confirm == self.leaseID)",message="confirm must repeat the prefix, or the leaseID, letter by letter"
// +kubebuilder:validation:XValidation:rule="!has(self.prefix) || self.prefix.matches('^[^/]+/[^/]') || has(self.confirm)",message="prefix is one segment, which is all that a mount has leased: to mean it, set confirm to the same text"
// +kubebuilder:validation:XValidation:rule="!has(self.force) || !self.force || has(self.confirm)",message="force makes Vault forget what it cannot revoke: to mean it, set confirm to the prefix, or the leaseID"
type LeaseRevocationSpec struct {
	// ProviderRef names the provider in whose backend the leases live. Its keeper revokes them.
	ProviderRef RevocationProviderReference `json:"providerRef"`

	// VaultNamespace is the namespace of Vault Enterprise or OpenBao that the leases live in. Defaults to the provider's.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_.@:~+=,/-]*$') && !self.startsWith('/') && !self.endsWith('/') && !self.contains('//') && !self.matches('(^|/)[.][.]?(/|$)')",message="vaultNamespace is like team-a/shop: no leading, trailing or double slash"
	VaultNamespace string `json:"vaultNamespace,omitempty"`

	// LeaseID is the one lease to revoke, such as database/creds/orders/2f6a….
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_.@:~+=,-]+(/[A-Za-z0-9_.@:~+=,-]+)+$') && !self.matches('(^|/)[.][.]?(/|$)')",message="leaseID is a whole id, as status.lease.id has it: database/creds/orders/2f6a"
	// +kubebuilder:validation:XValidation:rule="!self.matches('(?i)^(auth|sys|v1)(/|$)')",message="leaseID must be that of a secrets engine, without v1/: what is below auth/ are logins"
	LeaseID string `json:"leaseID,omitempty"`

	// Prefix of the ids of the leases to revoke, such as database/creds/ or database/creds/orders: all leases of the
	// server below that path, whoever asked for them. It goes by whole segments, with a trailing slash or without:
	// database/creds/or is not a prefix of database/creds/orders. A prefix of one segment must be repeated in confirm.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self != ''",message="an empty prefix is every lease and every login of the server: name a path"
	// +kubebuilder:validation:XValidation:rule="self == '' || (self.matches('^[A-Za-z0-9_.@:~+=,/-]+$') && !self.startsWith('/') && !self.contains('//') && !self.matches('(^|/)[.][.]?(/|$)'))",message="prefix is like database/creds/: no leading or double slash, no dot segments; letters, digits and _.@:~+=,- are allowed"
	// +kubebuilder:validation:XValidation:rule="!self.matches('(?i)^(auth|sys|v1)(/|$)')",message="prefix must be that of a secrets engine, without v1/: to revoke auth/ would end every login"
	Prefix string `json:"prefix,omitempty"`

	// Force makes Vault forget leases that it cannot revoke (revoke-force), after it has tried for some seconds: what they
	// stand for may stay alive in the database, and nobody knows of it any more. For a database that is gone for good. It
	// must be confirmed.
	// +optional
	Force bool `json:"force,omitempty"`

	// Confirm repeats the prefix, or the leaseID, letter by letter. It is asked for by force, and by a prefix of one
	// segment.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Confirm string `json:"confirm,omitempty"`

	// Reason why, for those who read it later; it goes to the log too. Put no secret here.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// TTLSecondsAfterFinished is how long after it finished this object is deleted, in seconds. Absent: it stays. Where a
	// GitOps tool applies it again, it is a new order and revokes again: leave this out there.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// RevocationProviderReference names a provider from outside of any namespace.
//
// +kubebuilder:validation:XValidation:rule="self.kind != 'SecretProvider' || has(self.__namespace__)",message="set namespace: a SecretProvider has one"
// +kubebuilder:validation:XValidation:rule="self.kind != 'ClusterSecretProvider' || !has(self.__namespace__)",message="leave namespace out: a ClusterSecretProvider has none"
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

// LeaseRevocationStatus is how far the order has come.
type LeaseRevocationStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always, True once the order is finished; Reconciling and Stalled only while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// StartedAt is when the leases were counted. Written before anything is revoked.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// MatchedLeases is how many leases the backend listed then. What is issued between that and the revocation is
	// revoked as well.
	// +optional
	MatchedLeases *int64 `json:"matchedLeases,omitempty"`

	// DynamicSecrets is how many DynamicSecrets had one of these leases then.
	// +optional
	DynamicSecrets *int64 `json:"dynamicSecrets,omitempty"`

	// AcceptedAt is when the backend took the order. From then on the leases are dead, cannot be renewed, and the backend
	// itself goes on to end what they stand for.
	// +optional
	AcceptedAt *metav1.Time `json:"acceptedAt,omitempty"`

	// RemainingLeases is how many of the leases the backend still had at the last look.
	// +optional
	RemainingLeases *int64 `json:"remainingLeases,omitempty"`

	// ForcedLeases is how many leases were revoked by force, because Vault had not got rid of them otherwise.
	// +optional
	ForcedLeases int64 `json:"forcedLeases,omitempty"`

	// CompletedAt is when the last of the leases was gone. Nothing is done for this object any more.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
}

// LeaseRevocation is an order, carried out once, to revoke leases by id or by prefix: whatever the backend holds there,
// leasekeeper's or not. DynamicSecrets whose lease it takes are replaced, or lose their Secret, at once.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lrev,categories=leasekeeper
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.providerRef.name`
// +kubebuilder:printcolumn:name="Prefix",type=string,JSONPath=`.spec.prefix`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matchedLeases`
// +kubebuilder:printcolumn:name="Remaining",type=integer,JSONPath=`.status.remainingLeases`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Lease",type=string,priority=1,JSONPath=`.spec.leaseID`
// +kubebuilder:printcolumn:name="Force",type=boolean,priority=1,JSONPath=`.spec.force`
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

// Finished says that the order is carried out: nothing is done for it any more.
func (r *LeaseRevocation) Finished() bool { return r.Status.CompletedAt != nil }

// LeaseRevocationList is a list of LeaseRevocations.
//
// +kubebuilder:object:root=true
type LeaseRevocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LeaseRevocation `json:"items"`
}
