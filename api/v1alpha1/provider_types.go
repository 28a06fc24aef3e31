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
// +kubebuilder:validation:XValidation:rule="has(self.auth.kubernetes) == has(oldSelf.auth.kubernetes) && (!has(self.auth.kubernetes) || self.auth.kubernetes.mount == oldSelf.auth.kubernetes.mount) && has(self.auth.jwt) == has(oldSelf.auth.jwt) && (!has(self.auth.jwt) || self.auth.jwt.mount == oldSelf.auth.jwt.mount) && has(self.auth.appRole) == has(oldSelf.auth.appRole) && (!has(self.auth.appRole) || self.auth.appRole.mount == oldSelf.auth.appRole.mount) && has(self.auth.cert) == has(oldSelf.auth.cert) && (!has(self.auth.cert) || self.auth.cert.mount == oldSelf.auth.cert.mount) && has(self.auth.userPass) == has(oldSelf.auth.userPass) && (!has(self.auth.userPass) || self.auth.userPass.mount == oldSelf.auth.userPass.mount) && has(self.auth.ldap) == has(oldSelf.auth.ldap) && (!has(self.auth.ldap) || self.auth.ldap.mount == oldSelf.auth.ldap.mount) && has(self.auth.aws) == has(oldSelf.auth.aws) && (!has(self.auth.aws) || self.auth.aws.mount == oldSelf.auth.aws.mount) && has(self.auth.gcp) == has(oldSelf.auth.gcp) && (!has(self.auth.gcp) || self.auth.gcp.mount == oldSelf.auth.gcp.mount) && has(self.auth.azure) == has(oldSelf.auth.azure) && (!has(self.auth.azure) || self.auth.azure.mount == oldSelf.auth.azure.mount)",message="the method and mount of auth are immutable, because leases are recognised by them: create another provider and point the DynamicSecrets to it"
// +kubebuilder:validation:XValidation:rule="(!has(self.auth.kubernetes) || !has(self.auth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.auth.jwt) || !has(self.auth.jwt.serviceAccountRef) || !has(self.auth.jwt.serviceAccountRef.__namespace__)) && (!has(self.auth.aws) || !has(self.auth.aws.serviceAccountRef) || !has(self.auth.aws.serviceAccountRef.__namespace__)) && (!has(self.auth.gcp) || !has(self.auth.gcp.serviceAccountRef) || !has(self.auth.gcp.serviceAccountRef.__namespace__)) && (!has(self.auth.azure) || !has(self.auth.azure.serviceAccountRef) || !has(self.auth.azure.serviceAccountRef.__namespace__))",message="omit namespace in the serviceAccountRef of auth: each DynamicSecret uses a ServiceAccount of its own namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.keeperAuth) || (!has(self.keeperAuth.kubernetes) || has(self.keeperAuth.kubernetes.serviceAccountRef.name)) && (!has(self.keeperAuth.jwt) || !has(self.keeperAuth.jwt.serviceAccountRef) || has(self.keeperAuth.jwt.serviceAccountRef.name)) && (!has(self.keeperAuth.gcp) || !has(self.keeperAuth.gcp.workloadIdentityProvider) || has(self.keeperAuth.gcp.serviceAccountRef) && has(self.keeperAuth.gcp.serviceAccountRef.name)) && (!has(self.keeperAuth.azure) || !has(self.keeperAuth.azure.clientID) || has(self.keeperAuth.azure.serviceAccountRef) && has(self.keeperAuth.azure.serviceAccountRef.name)) && (!has(self.keeperAuth.aws) || !has(self.keeperAuth.aws.roleARN) || has(self.keeperAuth.aws.serviceAccountRef) && has(self.keeperAuth.aws.serviceAccountRef.name))",message="set serviceAccountRef.name in keeperAuth: leasekeeper logs in as that ServiceAccount to renew and revoke leases"
// +kubebuilder:validation:XValidation:rule="!has(self.keeperAuth) || !has(self.keeperless) || !self.keeperless",message="set keeperAuth or keeperless, not both: keeperless accepts that leasekeeper has no identity that can revoke leases"
type VaultProvider struct {
	// Address of the server, such as https://vault.example:8200. Behind a gateway it may have a path, such as
	// https://gateway.example/vault; omit /v1.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getHost() != '' && self.matches('^https?://[^/@?#]+(/[A-Za-z0-9_.~-]+)*/?$') && !self.matches('[^/]/([.][.]?|v1)(/|$)')",message="address must be like https://vault.example:8200 or https://gateway.example/vault: a scheme, a host, no /v1 and no user"
	Address string `json:"address"`

	// RedirectHosts are the hosts to which this server may redirect requests, besides the host of address: the other
	// nodes of the same Vault, as their api_addr names them. leasekeeper sends them tokens. An entry is a name such as
	// vault-0.vault-internal, everything below a name such as *.vault-internal, an IP address, or a CIDR such as
	// 10.42.0.0/16. Standbys redirect if request forwarding is disabled or has failed.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^((\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f.:]*[0-9A-Fa-f:](/[0-9]{1,3})?)$`
	RedirectHosts []string `json:"redirectHosts,omitempty"`

	// Namespace of Vault Enterprise or OpenBao, for logins and for requests that do not set their own.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/')",message="namespace has no leading or trailing slash"
	Namespace string `json:"namespace,omitempty"`

	// TLS says how the server is verified. Absent: with the certificate authorities of the system.
	// +optional
	TLS *TLSConfig `json:"tls,omitempty"`

	// ProxyURL is the HTTP or SOCKS5 proxy for all requests to this server, such as http://proxy.example:3128. Absent:
	// that of HTTPS_PROXY, HTTP_PROXY and NO_PROXY in leasekeeper's environment.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https', 'socks5'] && url(self).getHost() != '' && url(self).getEscapedPath() in ['', '/'] && !self.contains('@') && !self.contains('?')",message="proxyURL must be like http://proxy.example:3128: a scheme (http, https or socks5), a host, no path and no user"
	ProxyURL string `json:"proxyURL,omitempty"`

	// Headers are added to every request, for a gateway in front of the server.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Headers []HTTPHeader `json:"headers,omitempty"`

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

// HTTPHeader is a header of requests.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.secretRef)",message="set either value or secretRef"
// +kubebuilder:validation:XValidation:rule="!self.name.matches('(?i)^(x-vault-.*|host|connection|content-.*|transfer-encoding|te|trailer|upgrade|proxy-.*|user-agent)$')",message="leasekeeper sets this header itself: use a header of the gateway, such as CF-Access-Client-Id"
type HTTPHeader struct {
	// Name of the header.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	Name string `json:"name"`

	// Value of the header. Everyone who can read this object can read it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	Value string `json:"value,omitempty"`

	// SecretRef names a Secret with a secret value (default key "value").
	// +optional
	SecretRef *SecretKeyReference `json:"secretRef,omitempty"`
}

// TLSConfig says how a server is verified.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.caBundle) && has(self.caRef))",message="set caBundle or caRef, not both"
type TLSConfig struct {
	// ServerName that the certificate must be valid for. Absent: the host of address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`

	// CABundle is a bundle of certificate authorities: PEM, as it is in ca.crt, or that file (PEM or DER) encoded with
	// base64, as `base64 ca.crt` prints it.
	// +optional
	// +kubebuilder:validation:MaxLength=1048576
	// +kubebuilder:validation:XValidation:rule="self.contains('-----BEGIN CERTIFICATE-----') || self.matches('^[A-Za-z0-9+/=[:space:]]*$')",message="caBundle must be certificates in PEM (-----BEGIN CERTIFICATE-----), or a file with them encoded with base64 (base64 ca.crt)"
	CABundle string `json:"caBundle,omitempty"`

	// CARef names a Secret or ConfigMap that contains a bundle of certificate authorities, in PEM or DER. A change is
	// noticed within a minute.
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
	// Key that contains the bundle, in data or, of a ConfigMap, in binaryData.
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

	// Key that contains the value. Defaults to "token", "jwt", "secretId", "password" or "value", as the field says
	// that refers to the Secret.
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
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.keeperAuth) || (!has(self.vault.auth.kubernetes) || has(self.vault.auth.kubernetes.serviceAccountRef.name)) && (!has(self.vault.auth.jwt) || !has(self.vault.auth.jwt.serviceAccountRef) || has(self.vault.auth.jwt.serviceAccountRef.name)) && (!has(self.vault.auth.gcp) || !has(self.vault.auth.gcp.workloadIdentityProvider) || has(self.vault.auth.gcp.serviceAccountRef) && has(self.vault.auth.gcp.serviceAccountRef.name)) && (!has(self.vault.auth.azure) || !has(self.vault.auth.azure.clientID) || has(self.vault.auth.azure.serviceAccountRef) && has(self.vault.auth.azure.serviceAccountRef.name)) && (!has(self.vault.auth.aws) || !has(self.vault.auth.aws.roleARN) || has(self.vault.auth.aws.serviceAccountRef) && has(self.vault.auth.aws.serviceAccountRef.name))",message="set keeperAuth, or serviceAccountRef.name in auth: leasekeeper logs in as that ServiceAccount to renew and revoke leases"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.kubernetes) || !has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.serviceAccountRef) || !has(self.vault.keeperAuth.jwt.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.aws) || !has(self.vault.keeperAuth.aws.serviceAccountRef) || !has(self.vault.keeperAuth.aws.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.gcp) || !has(self.vault.keeperAuth.gcp.serviceAccountRef) || !has(self.vault.keeperAuth.gcp.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.azure) || !has(self.vault.keeperAuth.azure.serviceAccountRef) || !has(self.vault.keeperAuth.azure.serviceAccountRef.__namespace__))",message="a SecretProvider uses its own namespace: omit namespace in the serviceAccountRef of keeperAuth"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (!has(self.vault.auth.jwt) || !has(self.vault.auth.jwt.secretRef) || !has(self.vault.auth.jwt.secretRef.__namespace__)) && (!has(self.vault.auth.appRole) || !has(self.vault.auth.appRole.secretRef.__namespace__)) && (!has(self.vault.auth.cert) || !has(self.vault.auth.cert.secretRef.__namespace__)) && (!has(self.vault.auth.userPass) || !has(self.vault.auth.userPass.secretRef.__namespace__)) && (!has(self.vault.auth.ldap) || !has(self.vault.auth.ldap.secretRef.__namespace__)) && (!has(self.vault.auth.token) || !has(self.vault.auth.token.secretRef.__namespace__)) && (!has(self.vault.auth.aws) || !has(self.vault.auth.aws.secretRef) || !has(self.vault.auth.aws.secretRef.__namespace__)) && (!has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.secretRef) || !has(self.vault.keeperAuth.jwt.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.appRole) || !has(self.vault.keeperAuth.appRole.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.cert) || !has(self.vault.keeperAuth.cert.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.userPass) || !has(self.vault.keeperAuth.userPass.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.ldap) || !has(self.vault.keeperAuth.ldap.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.token) || !has(self.vault.keeperAuth.token.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.aws) || !has(self.vault.keeperAuth.aws.secretRef) || !has(self.vault.keeperAuth.aws.secretRef.__namespace__)))",message="a SecretProvider uses its own namespace: omit namespace in each secretRef of auth and keeperAuth"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (!has(self.vault.auth.aws) || !has(self.vault.auth.aws.podIdentity) || !self.vault.auth.aws.podIdentity) && (!has(self.vault.auth.gcp) || !has(self.vault.auth.gcp.metadataServer) || !self.vault.auth.gcp.metadataServer) && (!has(self.vault.auth.azure) || !has(self.vault.auth.azure.metadataServer) || !self.vault.auth.azure.metadataServer) && (!has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.aws) || !has(self.vault.keeperAuth.aws.podIdentity) || !self.vault.keeperAuth.aws.podIdentity) && (!has(self.vault.keeperAuth.gcp) || !has(self.vault.keeperAuth.gcp.metadataServer) || !self.vault.keeperAuth.gcp.metadataServer) && (!has(self.vault.keeperAuth.azure) || !has(self.vault.keeperAuth.azure.metadataServer) || !self.vault.keeperAuth.azure.metadataServer))",message="podIdentity and metadataServer are the identity of leasekeeper itself, which only a ClusterSecretProvider may use: set one of the workload"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.headers) || self.vault.headers.all(h, !has(h.secretRef) || !has(h.secretRef.__namespace__))",message="a SecretProvider uses its own namespace: omit namespace in the secretRef of headers"
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
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.kubernetes) || has(self.vault.keeperAuth.kubernetes.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.serviceAccountRef) || has(self.vault.keeperAuth.jwt.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.aws) || !has(self.vault.keeperAuth.aws.serviceAccountRef) || has(self.vault.keeperAuth.aws.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.gcp) || !has(self.vault.keeperAuth.gcp.serviceAccountRef) || has(self.vault.keeperAuth.gcp.serviceAccountRef.__namespace__)) && (!has(self.vault.keeperAuth.azure) || !has(self.vault.keeperAuth.azure.serviceAccountRef) || has(self.vault.keeperAuth.azure.serviceAccountRef.__namespace__))",message="set namespace in the serviceAccountRef of keeperAuth: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (!has(self.vault.auth.jwt) || !has(self.vault.auth.jwt.secretRef) || has(self.vault.auth.jwt.secretRef.__namespace__)) && (!has(self.vault.auth.appRole) || has(self.vault.auth.appRole.secretRef.__namespace__)) && (!has(self.vault.auth.cert) || has(self.vault.auth.cert.secretRef.__namespace__)) && (!has(self.vault.auth.userPass) || has(self.vault.auth.userPass.secretRef.__namespace__)) && (!has(self.vault.auth.ldap) || has(self.vault.auth.ldap.secretRef.__namespace__)) && (!has(self.vault.auth.token) || has(self.vault.auth.token.secretRef.__namespace__)) && (!has(self.vault.auth.aws) || !has(self.vault.auth.aws.secretRef) || has(self.vault.auth.aws.secretRef.__namespace__)) && (!has(self.vault.keeperAuth) || (!has(self.vault.keeperAuth.jwt) || !has(self.vault.keeperAuth.jwt.secretRef) || has(self.vault.keeperAuth.jwt.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.appRole) || has(self.vault.keeperAuth.appRole.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.cert) || has(self.vault.keeperAuth.cert.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.userPass) || has(self.vault.keeperAuth.userPass.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.ldap) || has(self.vault.keeperAuth.ldap.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.token) || has(self.vault.keeperAuth.token.secretRef.__namespace__)) && (!has(self.vault.keeperAuth.aws) || !has(self.vault.keeperAuth.aws.secretRef) || has(self.vault.keeperAuth.aws.secretRef.__namespace__)))",message="set namespace in each secretRef of auth and keeperAuth: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.headers) || self.vault.headers.all(h, !has(h.secretRef) || has(h.secretRef.__namespace__))",message="set namespace in the secretRef of headers: a ClusterSecretProvider has none of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tls) || ((!has(self.vault.tls.caRef) || has(self.vault.tls.caRef.__namespace__)) && (!has(self.vault.tls.clientCertRef) || has(self.vault.tls.clientCertRef.__namespace__)))",message="set namespace in tls.caRef and tls.clientCertRef: a ClusterSecretProvider has none of its own"
type ClusterSecretProviderSpec struct {
	ProviderSpec `json:",inline"`

	// AllowedNamespaces says which namespaces may use this provider. Absent: all. A namespace that may not use it any
	// more gets no new leases. It keeps those that it has until they expire; they are not renewed.
	// +optional
	AllowedNamespaces *AllowedNamespaces `json:"allowedNamespaces,omitempty"`
}

// AllowedNamespaces says which namespaces may use a provider: those in names, and those that the selector matches. Set
// one of them, or both.
//
// +kubebuilder:validation:MinProperties=1
type AllowedNamespaces struct {
	// Names of namespaces.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	Names []string `json:"names,omitempty"`

	// Selector matches the labels of namespaces. An empty one matches all.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
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
