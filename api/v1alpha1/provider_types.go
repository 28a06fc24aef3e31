package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProviderSpec says where credentials come from, and which identities request and keep them.
//
// +kubebuilder:validation:XValidation:rule="has(self.vault)",message="name a backend: set spec.vault"
type ProviderSpec struct {
	// Vault is a Vault or OpenBao server.
	// +optional
	Vault *VaultProvider `json:"vault,omitempty"`
}

// Backend is the name of the backend block that is set; empty: none.
func (s *ProviderSpec) Backend() string {
	if s.Vault != nil {
		return "vault"
	}
	return ""
}

// VaultProvider is a Vault or OpenBao server and how to log in to it. Address, namespace, and the method and mount of
// auth are immutable: the leases that were issued with them must be revoked with them. Create another provider instead,
// and point the DynamicSecrets to it.
//
// +kubebuilder:validation:XValidation:rule="self.address == oldSelf.address",message="address is immutable, because leases live there: create another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="has(self.__namespace__) == has(oldSelf.__namespace__) && (!has(self.__namespace__) || self.__namespace__ == oldSelf.__namespace__)",message="namespace is immutable, because leases live there: create another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="has(self.auth.kubernetes) == has(oldSelf.auth.kubernetes) && (!has(self.auth.kubernetes) || self.auth.kubernetes.mount == oldSelf.auth.kubernetes.mount) && has(self.auth.jwt) == has(oldSelf.auth.jwt) && (!has(self.auth.jwt) || self.auth.jwt.mount == oldSelf.auth.jwt.mount) && has(self.auth.appRole) == has(oldSelf.auth.appRole) && (!has(self.auth.appRole) || self.auth.appRole.mount == oldSelf.auth.appRole.mount) && has(self.auth.cert) == has(oldSelf.auth.cert) && (!has(self.auth.cert) || self.auth.cert.mount == oldSelf.auth.cert.mount) && has(self.auth.userPass) == has(oldSelf.auth.userPass) && (!has(self.auth.userPass) || self.auth.userPass.mount == oldSelf.auth.userPass.mount) && has(self.auth.ldap) == has(oldSelf.auth.ldap) && (!has(self.auth.ldap) || self.auth.ldap.mount == oldSelf.auth.ldap.mount)",message="the method and mount of auth are immutable, because leases are recognised by them: create another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="(!has(self.auth.kubernetes) || !has(self.auth.kubernetes.serviceAccountRef) || !has(self.auth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.auth.jwt) || !has(self.auth.jwt.serviceAccountRef) || !has(self.auth.jwt.serviceAccountRef.__namespace__))",message="omit namespace in the serviceAccountRef of auth: each DynamicSecret uses a ServiceAccount of its own namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.keeperAuth) || (!has(self.keeperAuth.kubernetes) || has(self.keeperAuth.kubernetes.serviceAccountRef)) && (!has(self.keeperAuth.jwt) || has(self.keeperAuth.jwt.serviceAccountRef) || has(self.keeperAuth.jwt.secretRef))",message="set serviceAccountRef in keeperAuth: leasekeeper logs in as that ServiceAccount to renew and revoke leases"
// +kubebuilder:validation:XValidation:rule="!has(self.keeperAuth) || !has(self.keeperless) || !self.keeperless",message="set keeperAuth or keeperless, not both: keeperless accepts that leasekeeper has no identity that can revoke leases"
type VaultProvider struct {
	// Address of the server, such as https://vault.example:8200, without a path.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' && url(self).getEscapedPath() in ['', '/'] && !self.contains('@') && !self.contains('?')",message="address must be like https://vault.example:8200: a scheme, a host, no path and no user"
	Address string `json:"address"`

	// Namespace of Vault Enterprise or OpenBao, for logins and for requests that do not set their own.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/')",message="namespace has no leading or trailing slash"
	Namespace string `json:"namespace,omitempty"`

	// TLS says how the server is verified. Absent: with the certificate authorities of the system.
	// +optional
	TLS *TLSConfig `json:"tls,omitempty"`

	// Auth is the identity that issues: the workload. Each issuance logs in for itself; its token owns the lease.
	Auth VaultAuth `json:"auth"`

	// KeeperAuth is the identity that renews, looks up and revokes leases: leasekeeper itself. Required on a
	// ClusterSecretProvider. A SecretProvider may omit it. Then leasekeeper uses auth, only until the namespace is
	// deleted, and auth's policy needs the keeper's lines; see status.missingCapabilities.
	// +optional
	KeeperAuth *VaultAuth `json:"keeperAuth,omitempty"`

	// Keeperless accepts, on a SecretProvider without keeperAuth, that the policy of auth lacks lines of the keeper:
	// credentials are issued although leasekeeper may be unable to renew, verify or revoke their leases. What is lost:
	// a credential that is replaced or deleted stays valid until it expires; without renewal, each is replaced before
	// its TTL ends; a lease that is revoked in Vault is not noticed. Default: false, so nothing is issued until the
	// lines are there.
	// +optional
	Keeperless bool `json:"keeperless,omitempty"`
}

// TLSConfig says how a server is verified.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.caBundle) && has(self.caRef))",message="set caBundle or caRef, not both"
type TLSConfig struct {
	// ServerName that the certificate must be valid for. Absent: the host of address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`

	// CABundle is a PEM bundle of certificate authorities, encoded as base64: `base64 -w0 ca.crt`. For plain PEM, use
	// caRef with a ConfigMap: the API server rejects it here with "must be of type byte".
	// +optional
	// +kubebuilder:validation:MaxLength=1048576
	CABundle []byte `json:"caBundle,omitempty"`

	// CARef names a Secret or ConfigMap that contains a PEM bundle of certificate authorities.
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
	// Namespace of that object. Required on a ClusterSecretProvider; must be omitted on a SecretProvider.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Key that contains the bundle.
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
	// Namespace of that object. Required on a ClusterSecretProvider; must be omitted on a SecretProvider.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// SecretKeyReference names a key of a Secret.
type SecretKeyReference struct {
	SecretReference `json:",inline"`

	// Key that contains the value. Defaults to "token", "jwt", "secretId" or "password", as the field says that refers
	// to the Secret.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// ProviderStatus is what leasekeeper knows about a provider.
type ProviderStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready always; Reconciling and Stalled only while they are true; Verifying while there are leases. If
	// it is False, leases that are revoked directly in Vault are detected late.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Server that responds at the address.
	// +optional
	Server *ServerStatus `json:"server,omitempty"`

	// MissingCapabilities are the policy lines that the keeper needs and lacks, such as
	// `auth/token/revoke-accessor: update`.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	MissingCapabilities []string `json:"missingCapabilities,omitempty"`

	// AdvisedCapabilities are policy lines that the keeper does not need but should have, such as
	// `sys/leases/lookup/database/creds/orders: list, sudo`. With it, a lease that was revoked directly in Vault is
	// detected within one --verify-interval. Without it, leases are looked up one by one, which takes up to ten.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	AdvisedCapabilities []string `json:"advisedCapabilities,omitempty"`
}

// ServerStatus is the server at a provider's address.
type ServerStatus struct {
	// Kind is Vault or OpenBao.
	Kind string `json:"kind"`
	// Version as the server reports it.
	Version string `json:"version"`
}

// SecretProviderSpec is ProviderSpec for one namespace.
//
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.keeperAuth) || (!has(self.vault.auth.kubernetes) || has(self.vault.auth.kubernetes.serviceAccountRef)) && (!has(self.vault.auth.jwt) || has(self.vault.auth.jwt.serviceAccountRef) || has(self.vault.auth.jwt.secretRef))",message="set keeperAuth, or serviceAccountRef in auth: leasekeeper logs in as that ServiceAccount to renew and revoke leases"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.kubernetes) || !has(self.vault.keeperAuth.kubernetes.serviceAccountRef) || !has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.serviceAccountRef) || !has(self.vault.keeperAuth.jwt.serviceAccountRef.__namespace__))",message="a SecretProvider uses its own namespace: omit namespace in the serviceAccountRef of keeperAuth"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.keeperAuth) ? [self.vault.auth, self.vault.keeperAuth] : [self.vault.auth]).all(a, (!has(a.jwt) || !has(a.jwt.secretRef) || !has(a.jwt.secretRef.__namespace__)) && (!has(a.appRole) || !has(a.appRole.secretRef.__namespace__)) && (!has(a.cert) || !has(a.cert.secretRef.__namespace__)) && (!has(a.userPass) || !has(a.userPass.secretRef.__namespace__)) && (!has(a.ldap) || !has(a.ldap.secretRef.__namespace__)) && (!has(a.token) || !has(a.token.secretRef.__namespace__)))",message="a SecretProvider uses its own namespace: omit namespace in each secretRef of auth and keeperAuth"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tls) || ((!has(self.vault.tls.caRef) || !has(self.vault.tls.caRef.__namespace__)) && (!has(self.vault.tls.clientCertRef) || !has(self.vault.tls.clientCertRef.__namespace__)))",message="a SecretProvider uses its own namespace: omit namespace in tls.caRef and tls.clientCertRef"
type SecretProviderSpec struct {
	ProviderSpec `json:",inline"`
}

// SecretProvider says where the credentials of one namespace come from, and which identities request and keep them.
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

	// Spec says where credentials come from, and which identities request and keep them.
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
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.keeperAuth)",message="a ClusterSecretProvider needs vault.keeperAuth: the identity that renews and revokes leases when a namespace is gone"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.kubernetes) || !has(self.vault.keeperAuth.kubernetes.serviceAccountRef) || has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.serviceAccountRef) || has(self.vault.keeperAuth.jwt.serviceAccountRef.__namespace__))",message="set namespace in the serviceAccountRef of keeperAuth: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.keeperAuth) ? [self.vault.auth, self.vault.keeperAuth] : [self.vault.auth]).all(a, (!has(a.jwt) || !has(a.jwt.secretRef) || has(a.jwt.secretRef.__namespace__)) && (!has(a.appRole) || has(a.appRole.secretRef.__namespace__)) && (!has(a.cert) || has(a.cert.secretRef.__namespace__)) && (!has(a.userPass) || has(a.userPass.secretRef.__namespace__)) && (!has(a.ldap) || has(a.ldap.secretRef.__namespace__)) && (!has(a.token) || has(a.token.secretRef.__namespace__)))",message="set namespace in each secretRef of auth and keeperAuth: a ClusterSecretProvider has none of its own"
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

// ClusterSecretProvider says where credentials come from, for all namespaces or those that it allows, and which
// identities request and keep them.
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

	// Spec says where credentials come from, and which identities request and keep them.
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

// Provider is either kind of provider.
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
