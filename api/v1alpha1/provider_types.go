package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProviderSpec says where credentials come from, and who to be when asking.
//
// +kubebuilder:validation:XValidation:rule="has(self.vault)",message="name a backend: set spec.vault"
type ProviderSpec struct {
	// Vault is a Vault or OpenBao server.
	// +optional
	Vault *VaultProvider `json:"vault,omitempty"`
}

// VaultProvider is a Vault or OpenBao server and how to log in to it. Address, namespace, and the method and mount of
// auth cannot be changed: leases that are recorded with them must be ended there. Make another provider instead, and
// point the DynamicSecrets to it.
//
// +kubebuilder:validation:XValidation:rule="self.address == oldSelf.address",message="address cannot be changed, leases live there; make another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="has(self.__namespace__) == has(oldSelf.__namespace__) && (!has(self.__namespace__) || self.__namespace__ == oldSelf.__namespace__)",message="namespace cannot be changed, leases live there; make another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="has(self.auth.kubernetes) == has(oldSelf.auth.kubernetes) && (!has(self.auth.kubernetes) || self.auth.kubernetes.mount == oldSelf.auth.kubernetes.mount)",message="the method and mount of auth cannot be changed, leases are told by them; make another provider and point the DynamicSecrets to it"
type VaultProvider struct {
	// Address of the server, such as https://vault.example:8200, without a path.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' && url(self).getEscapedPath() in ['', '/'] && !self.contains('@') && !self.contains('?')",message="address must look like https://vault.example:8200: a scheme, a host, no path and no user"
	Address string `json:"address"`

	// Namespace of Vault Enterprise or OpenBao to log in to and to ask in.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/')",message="namespace has no leading or trailing slash"
	Namespace string `json:"namespace,omitempty"`

	// TLS says how the server is verified. Absent: by the system's certificate authorities.
	// +optional
	TLS *TLSConfig `json:"tls,omitempty"`

	// Auth is who issues: the workload. Each issue logs in anew; its token owns the lease.
	Auth VaultAuth `json:"auth"`

	// KeeperAuth is who renews, looks up and ends leases: leasekeeper itself. Required on a ClusterSecretProvider. A
	// SecretProvider may leave it out; then auth does that work too, as far as its policy lets it, and no longer once
	// its namespace is being deleted.
	// +optional
	KeeperAuth *VaultKeeperAuth `json:"keeperAuth,omitempty"`
}

// TLSConfig says how a server is verified.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.caBundle) && has(self.caRef))",message="set caBundle or caRef, not both"
type TLSConfig struct {
	// ServerName to verify the certificate against, where it is not the address's host.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`

	// CABundle is a PEM bundle of certificate authorities, base64-encoded.
	// +optional
	// +kubebuilder:validation:MaxLength=1048576
	CABundle []byte `json:"caBundle,omitempty"`

	// CARef names a Secret or ConfigMap that holds a PEM bundle of certificate authorities.
	// +optional
	CARef *CAReference `json:"caRef,omitempty"`

	// ClientCertRef names a Secret of type kubernetes.io/tls to present to the server.
	// +optional
	ClientCertRef *SecretReference `json:"clientCertRef,omitempty"`
}

// CAReference names a key of a Secret or ConfigMap.
type CAReference struct {
	// Kind is Secret or ConfigMap.
	// +optional
	// +kubebuilder:default=Secret
	// +kubebuilder:validation:Enum=Secret;ConfigMap
	Kind string `json:"kind,omitempty"`
	// Name of the Secret or ConfigMap.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace of it. Required on a ClusterSecretProvider; must be left out on a SecretProvider.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Key of the bundle.
	// +optional
	// +kubebuilder:default="ca.crt"
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace of it. Required on a ClusterSecretProvider; must be left out on a SecretProvider.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// SecretKeyReference names a key of a Secret.
type SecretKeyReference struct {
	SecretReference `json:",inline"`
	// Key of the value.
	// +optional
	// +kubebuilder:default=token
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// VaultAuth is how the workload logs in.
//
// +kubebuilder:validation:XValidation:rule="has(self.kubernetes) != has(self.token)",message="set exactly one of kubernetes and token"
type VaultAuth struct {
	// Kubernetes logs in with a token of a ServiceAccount in the DynamicSecret's namespace.
	// +optional
	Kubernetes *VaultKubernetesAuth `json:"kubernetes,omitempty"`

	// Token makes a child of a token that is kept in a Secret, for each issue. For development: whoever reads that
	// Secret has the token's rights.
	// +optional
	Token *VaultTokenAuth `json:"token,omitempty"`
}

// VaultKubernetesAuth logs in by Vault's Kubernetes auth method.
type VaultKubernetesAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=kubernetes
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/') && !self.startsWith('auth/') && self.matches('^[A-Za-z0-9_./-]+$') && !self.matches('(^|/)[.][.]?(/|$)')",message="mount has no leading or trailing slash and no auth/: kubernetes"
	Mount string `json:"mount,omitempty"`

	// Role to log in as. It must give service tokens (Vault's default), not batch tokens.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// ServiceAccountRef is the ServiceAccount, always of the DynamicSecret's own namespace, unless the DynamicSecret
	// names another.
	// +optional
	ServiceAccountRef *WorkloadServiceAccount `json:"serviceAccountRef,omitempty"`
}

// WorkloadServiceAccount names a ServiceAccount of the DynamicSecret's namespace.
type WorkloadServiceAccount struct {
	// Name of the ServiceAccount.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Audiences of its token. Empty: the API server's own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`
}

// VaultTokenAuth takes a token from a Secret.
type VaultTokenAuth struct {
	// SecretRef names the Secret and the key (default "token").
	SecretRef SecretKeyReference `json:"secretRef"`
}

// VaultKeeperAuth is how leasekeeper itself logs in.
//
// +kubebuilder:validation:XValidation:rule="has(self.kubernetes) != has(self.token)",message="set exactly one of kubernetes and token"
type VaultKeeperAuth struct {
	// Kubernetes logs in with a token of a ServiceAccount, on a ClusterSecretProvider commonly leasekeeper's own.
	// +optional
	Kubernetes *VaultKeeperKubernetesAuth `json:"kubernetes,omitempty"`

	// Token takes a token that is kept in a Secret. For development: whoever reads that Secret has the token's rights.
	// +optional
	Token *VaultTokenAuth `json:"token,omitempty"`
}

// VaultKeeperKubernetesAuth logs in by Vault's Kubernetes auth method.
type VaultKeeperKubernetesAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=kubernetes
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/') && !self.startsWith('auth/') && self.matches('^[A-Za-z0-9_./-]+$') && !self.matches('(^|/)[.][.]?(/|$)')",message="mount has no leading or trailing slash and no auth/: kubernetes"
	Mount string `json:"mount,omitempty"`

	// Role to log in as; the README has its policy.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// ServiceAccountRef is the ServiceAccount to be.
	ServiceAccountRef KeeperServiceAccount `json:"serviceAccountRef"`
}

// KeeperServiceAccount names a ServiceAccount.
type KeeperServiceAccount struct {
	// Name of the ServiceAccount.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace of it. Required on a ClusterSecretProvider; must be left out on a SecretProvider.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Audiences of its token. Empty: the API server's own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`
}

// ProviderStatus is what leasekeeper knows of a provider.
type ProviderStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always; Reconciling and Stalled only while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Server is what answers at the address.
	// +optional
	Server *ServerStatus `json:"server,omitempty"`

	// MissingCapabilities are the policy lines that the keeper lacks, such as
	// `auth/token/revoke-accessor: update`.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	MissingCapabilities []string `json:"missingCapabilities,omitempty"`

	// AdvisedCapabilities are policy lines that the keeper can do without and would be better with, such as
	// `sys/leases/lookup/database/creds/orders: list, sudo`. With it, a lease that was revoked behind leasekeeper's back
	// is noticed within one --verify-interval; without it leases are looked up one by one, and it takes up to ten.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	AdvisedCapabilities []string `json:"advisedCapabilities,omitempty"`
}

// ServerStatus is what answers at a provider's address.
type ServerStatus struct {
	// Kind is Vault or OpenBao.
	Kind string `json:"kind"`
	// Version as the server tells it.
	Version string `json:"version"`
}

// SecretProviderSpec is ProviderSpec for one namespace.
//
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.keeperAuth) || has(self.vault.auth.token) || has(self.vault.auth.kubernetes.serviceAccountRef)",message="without keeperAuth, auth.kubernetes.serviceAccountRef is needed: it does the keeper's work"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || !has(self.vault.keeperAuth.kubernetes) || !has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)",message="a SecretProvider uses its own namespace: leave keeperAuth.kubernetes.serviceAccountRef.namespace out"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || !has(self.vault.keeperAuth.token) || !has(self.vault.keeperAuth.token.secretRef.__namespace__)",message="a SecretProvider uses its own namespace: leave keeperAuth.token.secretRef.namespace out"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.auth.token) || !has(self.vault.auth.token.secretRef.__namespace__)",message="a SecretProvider uses its own namespace: leave auth.token.secretRef.namespace out"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tls) || ((!has(self.vault.tls.caRef) || !has(self.vault.tls.caRef.__namespace__)) && (!has(self.vault.tls.clientCertRef) || !has(self.vault.tls.clientCertRef.__namespace__)))",message="a SecretProvider uses its own namespace: leave namespace out of tls.caRef and tls.clientCertRef"
type SecretProviderSpec struct {
	ProviderSpec `json:",inline"`
}

// SecretProvider says where the credentials of one namespace come from, and who to be when asking.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=leasekeeper
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.status.server.kind`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.server.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Address",type=string,priority=1,JSONPath=`.spec.vault.address`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type SecretProvider struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says where credentials come from, and who to be when asking.
	Spec SecretProviderSpec `json:"spec"`
	// Status is written by leasekeeper.
	// +optional
	Status ProviderStatus `json:"status,omitempty"`
}

// SecretProviderList is a list of SecretProviders.
//
// +kubebuilder:object:root=true
type SecretProviderList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretProvider `json:"items"`
}

// ClusterSecretProviderSpec is ProviderSpec for all namespaces.
//
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.keeperAuth)",message="a ClusterSecretProvider needs vault.keeperAuth: who renews and revokes when a namespace is gone"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || !has(self.vault.keeperAuth.kubernetes) || has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)",message="set keeperAuth.kubernetes.serviceAccountRef.namespace: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || !has(self.vault.keeperAuth.token) || has(self.vault.keeperAuth.token.secretRef.__namespace__)",message="set keeperAuth.token.secretRef.namespace: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.auth.token) || has(self.vault.auth.token.secretRef.__namespace__)",message="set auth.token.secretRef.namespace: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tls) || ((!has(self.vault.tls.caRef) || has(self.vault.tls.caRef.__namespace__)) && (!has(self.vault.tls.clientCertRef) || has(self.vault.tls.clientCertRef.__namespace__)))",message="set namespace in tls.caRef and tls.clientCertRef: a ClusterSecretProvider has none of its own"
type ClusterSecretProviderSpec struct {
	ProviderSpec `json:",inline"`

	// AllowedNamespaces says which namespaces may use this provider. Absent: all.
	// +optional
	AllowedNamespaces *AllowedNamespaces `json:"allowedNamespaces,omitempty"`
}

// AllowedNamespaces says which namespaces may use a provider.
type AllowedNamespaces struct {
	// Selector matches the labels of namespaces. An empty one matches all.
	Selector metav1.LabelSelector `json:"selector"`
}

// ClusterSecretProvider says where credentials come from, for all namespaces or those that it allows, and who to be
// when asking.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=leasekeeper
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.status.server.kind`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.server.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Address",type=string,priority=1,JSONPath=`.spec.vault.address`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type ClusterSecretProvider struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says where credentials come from, and who to be when asking.
	Spec ClusterSecretProviderSpec `json:"spec"`
	// Status is written by leasekeeper.
	// +optional
	Status ProviderStatus `json:"status,omitempty"`
}

// ClusterSecretProviderList is a list of ClusterSecretProviders.
//
// +kubebuilder:object:root=true
type ClusterSecretProviderList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterSecretProvider `json:"items"`
}

// Provider is what both kinds of provider have in common.
//
// +kubebuilder:object:generate=false
type Provider interface {
	metav1.Object
	// Kind is SecretProvider or ClusterSecretProvider.
	Kind() string
	// ProviderSpec is the part of the spec that both kinds share.
	ProviderSpec() *ProviderSpec
	// ProviderStatus is the status.
	ProviderStatus() *ProviderStatus
}

// Kind is SecretProvider.
func (*SecretProvider) Kind() string { return ProviderKindNamespaced }

// ProviderSpec is the part of the spec that both kinds share.
func (p *SecretProvider) ProviderSpec() *ProviderSpec { return &p.Spec.ProviderSpec }

// ProviderStatus is the status.
func (p *SecretProvider) ProviderStatus() *ProviderStatus { return &p.Status }

// Kind is ClusterSecretProvider.
func (*ClusterSecretProvider) Kind() string { return ProviderKindCluster }

// ProviderSpec is the part of the spec that both kinds share.
func (p *ClusterSecretProvider) ProviderSpec() *ProviderSpec { return &p.Spec.ProviderSpec }

// ProviderStatus is the status.
func (p *ClusterSecretProvider) ProviderStatus() *ProviderStatus { return &p.Status }
