package v1alpha1

// VaultAuth is a way to log in to Vault or OpenBao. Set exactly one method. docs/auth.md compares them.
//
// +kubebuilder:validation:XValidation:rule="[has(self.appRole), has(self.aws), has(self.azure), has(self.cert), has(self.gcp), has(self.jwt), has(self.kubernetes), has(self.ldap), has(self.token), has(self.userPass)].exists_one(set, set)",message="set exactly one of appRole, aws, azure, cert, gcp, jwt, kubernetes, ldap, token and userPass"
type VaultAuth struct {
	// Kubernetes logs in with a token of a ServiceAccount, which Vault reviews with the API server.
	// +optional
	Kubernetes *VaultKubernetesAuth `json:"kubernetes,omitempty"`

	// JWT logs in with a token of a ServiceAccount, or another JWT, whose signature Vault verifies itself.
	// +optional
	JWT *VaultJWTAuth `json:"jwt,omitempty"`

	// AppRole logs in with a role id and a secret id from a Secret.
	// +optional
	AppRole *VaultAppRoleAuth `json:"appRole,omitempty"`

	// Cert logs in with a client certificate from a Secret.
	// +optional
	Cert *VaultCertAuth `json:"cert,omitempty"`

	// UserPass logs in with a user name and a password from a Secret.
	// +optional
	UserPass *VaultUserPassAuth `json:"userPass,omitempty"`

	// LDAP logs in as a user of a directory, with a password from a Secret.
	// +optional
	LDAP *VaultLDAPAuth `json:"ldap,omitempty"`

	// AWS logs in with an identity of AWS IAM.
	// +optional
	AWS *VaultAWSAuth `json:"aws,omitempty"`

	// GCP logs in with a service account of Google Cloud.
	// +optional
	GCP *VaultGCPAuth `json:"gcp,omitempty"`

	// Azure logs in with an application or a managed identity of Microsoft Entra ID.
	// +optional
	Azure *VaultAzureAuth `json:"azure,omitempty"`

	// Token uses a token that is stored in a Secret; as auth, each issuance creates a child of it. For development:
	// everyone who can read that Secret has the token's rights.
	// +optional
	Token *VaultTokenAuth `json:"token,omitempty"`
}

// VaultMount is the path of an auth method, without "auth/".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.endsWith('/') && !self.startsWith('auth/') && self.matches('^[A-Za-z0-9_./-]+$') && !self.matches('(^|/)[.][.]?(/|$)')",message="mount has no leading or trailing slash and no auth/: kubernetes"
type VaultMount string

// VaultKubernetesAuth logs in with Vault's Kubernetes auth method.
type VaultKubernetesAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=kubernetes
	Mount VaultMount `json:"mount,omitempty"`

	// Role to log in as. For auth it must issue service tokens (Vault's default), not batch tokens. The README has the
	// policy that the role of keeperAuth needs.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// ServiceAccountRef is the ServiceAccount and the audiences of its token. For auth, the ServiceAccount belongs to
	// the namespace of each DynamicSecret, which may name another one with spec.serviceAccountName.
	// +required
	ServiceAccountRef *ServiceAccountReference `json:"serviceAccountRef,omitempty"`
}

// ServiceAccountReference names a ServiceAccount, and the audiences of the token that Vault receives.
type ServiceAccountReference struct {
	// Name of the ServiceAccount. Required in keeperAuth. In auth it may be omitted if each DynamicSecret sets
	// spec.serviceAccountName.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// Namespace of the ServiceAccount. Required in keeperAuth of a ClusterSecretProvider; must be omitted everywhere
	// else.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// Audiences of its token, such as [vault]. Vault's role should require one of them. Do not use an audience of the
	// API server: Vault, and everyone who can read the request, could then act as the ServiceAccount in the cluster.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences"`
}

// FederatedAccountReference names a ServiceAccount whose token a cloud exchanges. It has the fields of
// ServiceAccountReference; its audiences have a default.
type FederatedAccountReference struct {
	// Name of the ServiceAccount. Required in keeperAuth. In auth it may be omitted if each DynamicSecret sets
	// spec.serviceAccountName.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// Namespace of the ServiceAccount. Required in keeperAuth of a ClusterSecretProvider; must be omitted everywhere
	// else.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// Audiences of its token. Absent: the audience that the cloud expects. Do not use an audience of the API server:
	// everyone who can read the request could then act as the ServiceAccount in the cluster.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`
}

// VaultJWTAuth logs in with Vault's JWT auth method. Vault verifies the signature itself, with keys that it fetches or
// that were configured, so it needs no token reviewer and, with configured keys, no route to the API server.
//
// +kubebuilder:validation:XValidation:rule="has(self.serviceAccountRef) != has(self.secretRef)",message="set either serviceAccountRef or secretRef"
type VaultJWTAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=jwt
	Mount VaultMount `json:"mount,omitempty"`

	// Role to log in as. Its role_type must be jwt. For auth it must issue service tokens (Vault's default), not batch
	// tokens.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// ServiceAccountRef names the ServiceAccount whose token is used, and the token's audiences, which must include one
	// of the role's bound_audiences. For auth it belongs to the namespace of each DynamicSecret, which may name another
	// one.
	// +optional
	ServiceAccountRef *ServiceAccountReference `json:"serviceAccountRef,omitempty"`

	// SecretRef names a Secret with a JWT of another issuer (default key "jwt"). Something else must replace it before
	// it expires.
	// +optional
	SecretRef *SecretKeyReference `json:"secretRef,omitempty"`
}

// VaultAppRoleAuth logs in with Vault's AppRole auth method.
type VaultAppRoleAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=approle
	Mount VaultMount `json:"mount,omitempty"`

	// RoleID of the role: `vault read auth/approle/role/NAME/role-id`. It identifies the role and is not secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RoleID string `json:"roleID"`

	// SecretRef names the Secret with the secret id (default key "secretId"). Each issuance logs in, so create the
	// secret id with secret_id_num_uses=0, which means without limit.
	SecretRef SecretKeyReference `json:"secretRef"`

	// Wrapped says that the Secret contains a response-wrapping token for the secret id, as `vault write -wrap-ttl`
	// prints it. It is unwrapped once, and the secret id is kept in memory. After a restart of leasekeeper the Secret
	// needs a new wrapping token. Default: false.
	// +optional
	Wrapped bool `json:"wrapped,omitempty"`
}

// VaultCertAuth logs in with Vault's TLS certificate auth method. Nothing between leasekeeper and Vault may terminate
// TLS.
type VaultCertAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=cert
	Mount VaultMount `json:"mount,omitempty"`

	// Role to log in as: a name below auth/cert/certs. Absent: any that matches the certificate.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role,omitempty"`

	// SecretRef names the Secret of type kubernetes.io/tls with the certificate and its key. It is used for the login
	// only; tls.clientCertRef is presented with all other requests.
	SecretRef SecretReference `json:"secretRef"`
}

// VaultUserName is the name of a user. It is part of the path of the login.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[^/\x00-\x1f\x7f]*[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*$`
type VaultUserName string

// VaultUserPassAuth logs in with Vault's user name and password auth method.
type VaultUserPassAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=userpass
	Mount VaultMount `json:"mount,omitempty"`

	// Username to log in as.
	Username VaultUserName `json:"username"`

	// SecretRef names the Secret with the password (default key "password").
	SecretRef SecretKeyReference `json:"secretRef"`
}

// VaultLDAPAuth logs in with Vault's LDAP auth method.
type VaultLDAPAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=ldap
	Mount VaultMount `json:"mount,omitempty"`

	// Username to log in as, without the directory's suffix, as the method's userattr expects it.
	Username VaultUserName `json:"username"`

	// SecretRef names the Secret with the password (default key "password").
	SecretRef SecretKeyReference `json:"secretRef"`
}

// VaultAWSAuth logs in with Vault's AWS auth method, type iam. The identity is a role that a ServiceAccount assumes
// (roleARN), a user or role with static keys (secretRef), or leasekeeper's own (podIdentity).
//
// +kubebuilder:validation:XValidation:rule="[has(self.roleARN), has(self.secretRef), has(self.podIdentity) && self.podIdentity].exists_one(set, set)",message="set exactly one of roleARN, secretRef and podIdentity"
// +kubebuilder:validation:XValidation:rule="has(self.roleARN) || !has(self.serviceAccountRef)",message="set roleARN: the ServiceAccount assumes that role"
type VaultAWSAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=aws
	Mount VaultMount `json:"mount,omitempty"`

	// Role of Vault to log in as. Its auth_type must be iam. For auth it must issue service tokens (Vault's default).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// Region of STS, such as eu-central-1. It must be Vault's sts_region. Defaults to us-east-1.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	Region string `json:"region,omitempty"`

	// STSEndpoint is the URL of STS, for a VPC endpoint. Defaults to https://sts.REGION.amazonaws.com/.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^https?://[^/@?#\s]+/?$`
	STSEndpoint string `json:"stsEndpoint,omitempty"`

	// ServerID is the value of Vault's iam_server_id_header_value. Set it, so that another server cannot use the login.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[!-~]+$`
	ServerID string `json:"serverID,omitempty"`

	// RoleARN is the role of AWS that the ServiceAccount assumes, such as arn:aws:iam::111122223333:role/orders (IRSA).
	// Its trust policy must name the cluster's issuer and the ServiceAccount.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^arn:[a-z-]+:iam::[0-9]{12}:role/.+$`
	RoleARN string `json:"roleARN,omitempty"`

	// ServiceAccountRef names the ServiceAccount. Its audiences default to sts.amazonaws.com. For auth it belongs to
	// the namespace of each DynamicSecret, which may name another one.
	// +optional
	ServiceAccountRef *FederatedAccountReference `json:"serviceAccountRef,omitempty"`

	// SecretRef names a Secret with the keys access_key_id, secret_access_key and perhaps session_token.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`

	// PodIdentity uses the EKS Pod Identity of leasekeeper's own pod. Only a ClusterSecretProvider may use it.
	// +optional
	PodIdentity bool `json:"podIdentity,omitempty"`
}

// VaultGCPAuth logs in with Vault's Google Cloud auth method. The identity is a service account of Google that a
// ServiceAccount may use (workloadIdentityProvider), or leasekeeper's own (metadataServer).
//
// +kubebuilder:validation:XValidation:rule="has(self.workloadIdentityProvider) != (has(self.metadataServer) && self.metadataServer)",message="set either workloadIdentityProvider or metadataServer"
// +kubebuilder:validation:XValidation:rule="has(self.workloadIdentityProvider) == has(self.serviceAccountEmail) && (has(self.workloadIdentityProvider) || !has(self.serviceAccountRef))",message="set workloadIdentityProvider together with serviceAccountEmail; serviceAccountRef requires both"
type VaultGCPAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=gcp
	Mount VaultMount `json:"mount,omitempty"`

	// Role of Vault to log in as. Its type must be iam for workloadIdentityProvider, and gce for metadataServer.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// WorkloadIdentityProvider that trusts the cluster's issuer, such as
	// projects/1/locations/global/workloadIdentityPools/cluster/providers/cluster.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$`
	WorkloadIdentityProvider string `json:"workloadIdentityProvider,omitempty"`

	// ServiceAccountEmail is the service account of Google that signs the login, such as
	// orders@project.iam.gserviceaccount.com.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+@[a-z0-9.-]+$`
	ServiceAccountEmail string `json:"serviceAccountEmail,omitempty"`

	// ServiceAccountRef names the ServiceAccount. Its audiences default to the provider's. For auth it belongs to the
	// namespace of each DynamicSecret, which may name another one.
	// +optional
	ServiceAccountRef *FederatedAccountReference `json:"serviceAccountRef,omitempty"`

	// MetadataServer uses the identity of leasekeeper's own pod or machine. Only a ClusterSecretProvider may use it.
	// +optional
	MetadataServer bool `json:"metadataServer,omitempty"`
}

// VaultAzureAuth logs in with Vault's Azure auth method. The identity is an application that trusts a ServiceAccount
// (clientID, tenantID), or leasekeeper's own (metadataServer).
//
// +kubebuilder:validation:XValidation:rule="has(self.clientID) != (has(self.metadataServer) && self.metadataServer)",message="set either clientID or metadataServer"
// +kubebuilder:validation:XValidation:rule="has(self.clientID) == has(self.tenantID) && (has(self.clientID) || !has(self.serviceAccountRef))",message="set clientID together with tenantID; serviceAccountRef requires both"
type VaultAzureAuth struct {
	// Mount of the auth method, without "auth/".
	// +optional
	// +kubebuilder:default=azure
	Mount VaultMount `json:"mount,omitempty"`

	// Role of Vault to log in as.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Role string `json:"role"`

	// Resource is the audience of the token. It must be the resource in Vault's configuration. Defaults to
	// https://management.azure.com/.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:MinLength=1
	Resource string `json:"resource,omitempty"`

	// TenantID of the application.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+$`
	TenantID string `json:"tenantID,omitempty"`

	// ClientID of the application, whose federated credential names the cluster's issuer and the ServiceAccount.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	ClientID string `json:"clientID,omitempty"`

	// ServiceAccountRef names the ServiceAccount. Its audiences default to api://AzureADTokenExchange. For auth it
	// belongs to the namespace of each DynamicSecret, which may name another one.
	// +optional
	ServiceAccountRef *FederatedAccountReference `json:"serviceAccountRef,omitempty"`

	// MetadataServer uses the managed identity of leasekeeper's own machine. Only a ClusterSecretProvider may use it.
	// +optional
	MetadataServer bool `json:"metadataServer,omitempty"`
}

// VaultTokenAuth uses a token from a Secret.
type VaultTokenAuth struct {
	// SecretRef names the Secret and the key (default "token").
	SecretRef SecretKeyReference `json:"secretRef"`
}
