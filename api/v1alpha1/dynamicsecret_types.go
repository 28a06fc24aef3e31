package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The CEL rules of a DynamicSecret stand at its spec, not at the fields: the API server visits each node that has rules
// on every write, status writes included.

// DynamicSecretSpec says which credentials to lease and where to put them. Set either one source (vault) or several
// (sources).
//
// +kubebuilder:validation:XValidation:rule="has(self.vault) != has(self.sources)",message="set either vault, for one source, or sources, for several"
// +kubebuilder:validation:XValidation:rule="has(self.providerRef) || has(self.sources) && self.sources.all(s, has(s.providerRef))",message="set providerRef, or a providerRef on each source",fieldPath=".providerRef"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, has(s.vault))",message="name a backend on each source: set vault",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !self.vault.path.startsWith('v1/')",message="omit the leading v1/ from path",fieldPath=".vault.path"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !self.vault.path.matches('^(sys|auth)/')",message="path must belong to a secrets engine; sys/ and auth/ do not",fieldPath=".vault.path"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !self.vault.path.startsWith('cubbyhole/')",message="each token has a cubbyhole of its own, and leasekeeper logs in again for each credential, so it is always empty: use a KV engine",fieldPath=".vault.path"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || self.vault.path.matches('^[^/]+(/[^/]+)*$')",message="path has no leading, trailing or double slash: database/creds/orders",fieldPath=".vault.path"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || self.vault.path.matches(r'^[\\pL\\pM\\pN\\pP\\pS ]+$') && !self.vault.path.matches('(^|/)[.][.]?(/|$)|%[0-9A-Fa-f][0-9A-Fa-f]')",message="path contains a character or a segment that is not allowed: no control characters, no dot segments, and write it unencoded, such as a space instead of %20",fieldPath=".vault.path"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.__namespace__) || self.vault.__namespace__.matches('^([^/]+(/[^/]+)*)?$')",message="namespace has no leading or trailing slash",fieldPath=".vault.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, !has(s.vault) || s.vault.path.matches(r'^[\\pL\\pM\\pN\\pP\\pS ]+$') && !s.vault.path.matches('^/|//|/$|(^|/)[.][.]?(/|$)|^(sys|auth|v1)/|%[0-9A-Fa-f][0-9A-Fa-f]'))",message="a path is like database/creds/orders: no leading, trailing or double slash, no leading v1/, sys/ or auth/, no dot segments, no control characters, and written unencoded",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, !has(s.vault) || !s.vault.path.startsWith('cubbyhole/'))",message="each token has a cubbyhole of its own, and leasekeeper logs in again for each credential, so it is always empty: use a KV engine",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, !has(s.vault) || !has(s.vault.__namespace__) || s.vault.__namespace__.matches('^([^/]+(/[^/]+)*)?$'))",message="namespace has no leading or trailing slash",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(a, !has(a.fields) || !has(a.fields.include) || self.sources.all(b, a.name == b.name || !has(b.fields) || !has(b.fields.include) || has(b.fields.prefix) && size(b.fields.prefix) > 0 && !(has(a.fields.prefix) && a.fields.prefix.startsWith(b.fields.prefix)) || !a.fields.include.exists(f, (!has(a.fields.prefix) ? f : !has(b.fields.prefix) ? a.fields.prefix + f : a.fields.prefix == b.fields.prefix ? f : a.fields.prefix.substring(size(b.fields.prefix)) + f) in b.fields.include && !(has(a.fields.exclude) && f in a.fields.exclude) && !(has(b.fields.exclude) && (!has(a.fields.prefix) ? f : !has(b.fields.prefix) ? a.fields.prefix + f : a.fields.prefix == b.fields.prefix ? f : a.fields.prefix.substring(size(b.fields.prefix)) + f) in b.fields.exclude))))",message="two sources produce the same key, which is the prefix and a field that is included and not excluded: set different prefixes",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.parametersFrom) && !has(self.vault.privateKey) || has(self.vault.method) && self.vault.method == 'Write'",message="parametersFrom and privateKey need method: Write",fieldPath=".vault"
// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.privateKey) || !has(self.vault.privateKey.size) || (!has(self.vault.privateKey.algorithm) || self.vault.privateKey.algorithm == 'ECDSA' ? self.vault.privateKey.size < 2048 : self.vault.privateKey.algorithm == 'RSA' && self.vault.privateKey.size >= 2048)",message="size does not suit the algorithm: RSA has 2048, 3072 or 4096 bits, ECDSA 256, 384 or 521; omit it for Ed25519",fieldPath=".vault"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, !has(s.vault) || !has(s.vault.parametersFrom) && !has(s.vault.privateKey) || has(s.vault.method) && s.vault.method == 'Write')",message="parametersFrom and privateKey need method: Write",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.sources) || self.sources.all(s, !has(s.vault) || !has(s.vault.privateKey) || !has(s.vault.privateKey.size) || (!has(s.vault.privateKey.algorithm) || s.vault.privateKey.algorithm == 'ECDSA' ? s.vault.privateKey.size < 2048 : s.vault.privateKey.algorithm == 'RSA' && s.vault.privateKey.size >= 2048))",message="size does not suit the algorithm: RSA has 2048, 3072 or 4096 bits, ECDSA 256, 384 or 521; omit it for Ed25519",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="!has(self.refreshInterval) || self.refreshInterval.matches('^([0-9.]+(ms|s|m|h))+$') && duration(self.refreshInterval) >= duration('1s')",message="refreshInterval must be at least 1s, such as 30s, 5m or 1h30m",fieldPath=".refreshInterval"
// +kubebuilder:validation:XValidation:rule="!has(self.lease) || !has(self.lease.increment) || self.lease.increment.matches('^([0-9.]+(ms|s|m|h))+$') && duration(self.lease.increment) >= duration('1s')",message="increment must be at least 1s, such as 30s, 5m or 1h30m",fieldPath=".lease.increment"
// +kubebuilder:validation:XValidation:rule="!has(self.lease) || !has(self.lease.revocationDeadline) || self.lease.revocationDeadline.matches('^([0-9.]+(ms|s|m|h)|0)+$')",message="revocationDeadline must not be negative: a duration such as 0s, 30m or 1h",fieldPath=".lease.revocationDeadline"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.maxAge) || self.rotation.maxAge.matches('^([0-9.]+(ms|s|m|h))+$') && duration(self.rotation.maxAge) >= duration('1s')",message="maxAge must be at least 1s, such as 1h or 24h",fieldPath=".rotation.maxAge"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.overlap) || self.rotation.overlap.matches('^([0-9.]+(ms|s|m|h)|0)+$')",message="overlap must not be negative: a duration such as 0s, 2m or 1h",fieldPath=".rotation.overlap"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.settle) || self.rotation.settle.matches('^([0-9.]+(ms|s|m|h)|0)+$')",message="settle must not be negative: a duration such as 0s, 10s or 1m",fieldPath=".rotation.settle"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.windows) || self.rotation.windows.all(w, !w.schedule.contains('TZ='))",message="name the time zone in timeZone, not in schedule",fieldPath=".rotation.windows"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.windows) || self.rotation.windows.all(w, w.schedule.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^@ ]+( +[^ ]+){4})$'))",message="schedule has five fields (minute, hour, day of month, month, day of week), or is one of @hourly, @daily, @weekly, @monthly and @yearly",fieldPath=".rotation.windows"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.windows) || self.rotation.windows.all(w, !has(w.timeZone) || w.timeZone != 'Local')",message="name a time zone of the IANA database, such as Europe/Vienna",fieldPath=".rotation.windows"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.rotation.windows) || self.rotation.windows.all(w, w.duration.matches('^([0-9.]+(ms|s|m|h))+$') && duration(w.duration) >= duration('1m'))",message="duration must be at least 1m",fieldPath=".rotation.windows"
// +kubebuilder:validation:XValidation:rule="!has(self.rollout) || has(self.rollout.discover) && self.rollout.discover || has(self.rollout.targets) && size(self.rollout.targets) > 0",message="name workloads in targets, or set discover to true",fieldPath=".rollout"
// +kubebuilder:validation:XValidation:rule="!has(self.rollout) || !has(self.rollout.targets) || self.rollout.targets.all(t, has(t.name) != has(t.selector))",message="set either name or selector",fieldPath=".rollout.targets"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.target.name) || size(self.target.name) == 0 || self.target.name.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="name must be a lower-case DNS name",fieldPath=".target.name"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.target.type) || !(self.target.type in ['kubernetes.io/service-account-token', 'bootstrap.kubernetes.io/token'])",message="the cluster grants rights to Secrets of this type; use another",fieldPath=".target.type"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.target.labels) || self.target.labels.all(k, !k.startsWith('leasekeeper.io/'))",message="labels with the prefix leasekeeper.io/ are reserved",fieldPath=".target.labels"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.target.annotations) || self.target.annotations.all(k, !k.startsWith('leasekeeper.io/'))",message="annotations with the prefix leasekeeper.io/ are reserved",fieldPath=".target.annotations"
type DynamicSecretSpec struct {
	// ProviderRef names the provider of every source that does not name its own.
	// +optional
	ProviderRef *ProviderReference `json:"providerRef,omitempty"`

	// ServiceAccountName is the ServiceAccount of this namespace to log in as. It overrides the one that the provider
	// names. Token auth does not use it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// Vault is the request to Vault or OpenBao, for an object with one source.
	// +optional
	Vault *VaultRequest `json:"vault,omitempty"`

	// Sources are several requests whose responses are stored in one Secret. They are issued together and replaced
	// together; each lease is renewed and revoked separately. If one lease is lost, all of them are replaced.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Sources []SecretSource `json:"sources,omitempty"`

	// Lease configures renewal, expiry and revocation.
	// +optional
	// +kubebuilder:default={}
	Lease LeaseSpec `json:"lease,omitempty"`

	// Rotation configures when a live credential is replaced, and how long the old one stays valid after that.
	// +optional
	// +kubebuilder:default={}
	Rotation RotationSpec `json:"rotation,omitempty"`

	// Rollout names the workloads to restart after the Secret has changed. The old leases stay valid until these
	// workloads use the new credential. It requires rollout.enabled in the chart. Without it nothing is restarted,
	// which suits workloads that re-read a mounted Secret; then set rotation.overlap to the time they need for that.
	// +optional
	Rollout *RolloutSpec `json:"rollout,omitempty"`

	// RefreshInterval is the time between two reads of a response that neither has a lease nor expires, such as a KV
	// secret. A response that states a shorter duration is read again after that. At least 1s.
	// +optional
	// +kubebuilder:default="1h0m0s"
	RefreshInterval *metav1.Duration `json:"refreshInterval,omitempty"`

	// Target describes the Secret. It belongs to this object: a Secret of that name that something else created is
	// refused before anything is issued.
	// +optional
	// +kubebuilder:default={}
	Target TargetSpec `json:"target,omitempty"`

	// Suspend stops issuance and replacement. Renewal, expiry, verification and deletion continue.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// Revoked, when true, revokes the leases and deletes the Secret; the object remains. Set it back to false to issue
	// again.
	// +optional
	Revoked bool `json:"revoked,omitempty"`
}

// SecretSource is one of several requests of a DynamicSecret.
type SecretSource struct {
	// Name of the source, unique in this object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// ProviderRef names the provider of this source. Defaults to spec.providerRef.
	// +optional
	ProviderRef *ProviderReference `json:"providerRef,omitempty"`

	// Vault is the request to Vault or OpenBao.
	// +optional
	Vault *VaultRequest `json:"vault,omitempty"`

	// Fields selects the fields of the response that become keys of the Secret. Two sources must not produce the same
	// key; a prefix keeps them apart. target.fields applies afterwards.
	// +optional
	Fields *FieldSelection `json:"fields,omitempty"`
}

// Location is where the source is requested, for messages: a path of Vault.
func (s *SecretSource) Location() string {
	if s.Vault != nil {
		return s.Vault.Path
	}
	return ""
}

// FieldSelection selects the fields of a response that become keys of the Secret. A change of the selection replaces
// the credential.
type FieldSelection struct {
	// Include lists the fields to keep. Empty: all.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	Include []string `json:"include,omitempty"`

	// Exclude lists the fields to omit. It is applied after include.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	Exclude []string `json:"exclude,omitempty"`

	// Prefix is put before the name of each field, such as DB_.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]*$`
	Prefix string `json:"prefix,omitempty"`
}

// ProviderReference names a provider.
type ProviderReference struct {
	// Kind is SecretProvider (in this namespace), the default, or ClusterSecretProvider.
	// +optional
	// +kubebuilder:validation:Enum=SecretProvider;ClusterSecretProvider
	Kind string `json:"kind,omitempty"`

	// Name of the provider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// RequestMethod is the method of a request.
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
	// Path of the request, with the mount and without "v1/", such as database/creds/orders, or secret/data/orders for
	// KV version 2. Write it as it is, such as secret/data/my orders; leasekeeper encodes it.
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=512
	Path string `json:"path"`

	// Method is Read, the default, for most engines, and Write for those that need a request body, such as pki/issue or
	// kubernetes/creds.
	// +optional
	Method RequestMethod `json:"method,omitempty"`

	// Parameters of the request: the JSON body of a Write, the query of a Read (plain values, and lists of them), such
	// as {version: 3} for a fixed version of a secret in KV version 2. A value keeps its type: true is sent as a
	// boolean, "true" as a string. Everyone who can read this object can read them: use parametersFrom for a secret.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Parameters map[string]apiextensionsv1.JSON `json:"parameters,omitempty"`

	// ParametersFrom are parameters of a Write whose values are secret. They are read from Secrets of this namespace
	// before each request and sent as strings. A new value takes effect with the next credential; request one with the
	// annotation leasekeeper.io/rotate-requested-at.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	ParametersFrom []ParameterSource `json:"parametersFrom,omitempty"`

	// PrivateKey makes leasekeeper generate a private key for each certificate, for the paths pki/sign and
	// pki/sign-verbatim. Vault receives only a certificate signing request (the parameter csr) with the names in the
	// parameters common_name, alt_names, ip_sans and uri_sans. The key is the field private_key of the response, in
	// PKCS #8. It requires method: Write.
	// +optional
	PrivateKey *PrivateKeySpec `json:"privateKey,omitempty"`

	// CustomMetadata adds the custom metadata of a secret in KV version 2 to the response, as the field
	// custom_metadata, a JSON object. It is omitted if the secret has none.
	// +optional
	CustomMetadata bool `json:"customMetadata,omitempty"`

	// Namespace of Vault Enterprise or OpenBao. Defaults to the provider's.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Namespace string `json:"namespace,omitempty"`
}

// ParameterSource is a parameter whose value is in a Secret.
type ParameterSource struct {
	// Name of the parameter.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`

	// SecretKeyRef names the value. The Secret must have the label leasekeeper.io/parameters with the value "true":
	// its owner agrees that DynamicSecrets of the namespace send its values to their providers.
	SecretKeyRef ParameterKeyReference `json:"secretKeyRef"`
}

// ParameterKeyReference names a key of a Secret in the same namespace.
type ParameterKeyReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Key of the value in the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// PrivateKeyAlgorithm is an algorithm of private keys.
// +kubebuilder:validation:Enum=ECDSA;RSA;Ed25519
type PrivateKeyAlgorithm string

// The algorithms of private keys.
const (
	AlgorithmECDSA   PrivateKeyAlgorithm = "ECDSA"
	AlgorithmRSA     PrivateKeyAlgorithm = "RSA"
	AlgorithmEd25519 PrivateKeyAlgorithm = "Ed25519"
)

// PrivateKeySpec describes the private key that leasekeeper generates.
type PrivateKeySpec struct {
	// Algorithm is ECDSA, the default, RSA or Ed25519. The role of the pki engine must permit it (key_type).
	// +optional
	Algorithm PrivateKeyAlgorithm `json:"algorithm,omitempty"`

	// Size in bits. RSA: 2048 (the default), 3072 or 4096. ECDSA: 256 (the default), 384 or 521. Ed25519 has only one
	// size: omit it.
	// +optional
	// +kubebuilder:validation:Enum=256;384;521;2048;3072;4096
	Size int32 `json:"size,omitempty"`
}

// OnExpiry is what happens to a Secret whose lease has expired.
// +kubebuilder:validation:Enum=Delete;Retain
type OnExpiry string

const (
	// OnExpiryDelete deletes the Secret.
	OnExpiryDelete OnExpiry = "Delete"
	// OnExpiryRetain leaves the expired credential in the Secret.
	OnExpiryRetain OnExpiry = "Retain"
)

// Reissue says whether a credential is replaced when its lease has ended.
// +kubebuilder:validation:Enum=Always;Never
type Reissue string

const (
	// ReissueAlways replaces it.
	ReissueAlways Reissue = "Always"
	// ReissueNever makes the first credential a temporary grant.
	ReissueNever Reissue = "Never"
)

// OnDelete is what happens to the leases when the object is deleted.
// +kubebuilder:validation:Enum=Revoke;Abandon
type OnDelete string

const (
	// OnDeleteRevoke revokes the leases.
	OnDeleteRevoke OnDelete = "Revoke"
	// OnDeleteAbandon lets them expire.
	OnDeleteAbandon OnDelete = "Abandon"
)

// LeaseSpec configures renewal, expiry and revocation.
type LeaseSpec struct {
	// Increment is the duration requested at each renewal. The backend may grant less. It never shortens a lease.
	// Defaults to the duration that the lease was issued with. A handover that takes longer than half of it (overlap,
	// rollout) needs more: then twice the time of the handover is requested. At least 1s.
	// +optional
	Increment *metav1.Duration `json:"increment,omitempty"`

	// RenewAtPercent is the share of the granted duration after which a lease is renewed, in percent. A credential that
	// expires and cannot be renewed is replaced after the same share of its life.
	// +optional
	// +kubebuilder:default=67
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=90
	RenewAtPercent int32 `json:"renewAtPercent,omitempty"`

	// OnExpiry is what happens to the Secret when a lease has expired and no new credential can be issued: Delete (so
	// that nothing uses an expired credential) or Retain.
	// +optional
	// +kubebuilder:default=Delete
	OnExpiry OnExpiry `json:"onExpiry,omitempty"`

	// Reissue is Always (a credential whose lease has ended is replaced) or Never (a temporary grant: when the lease
	// ends, the Secret is deleted and not created again).
	// +optional
	// +kubebuilder:default=Always
	Reissue Reissue `json:"reissue,omitempty"`

	// OnDelete is what happens to the leases when this object is deleted: Revoke, or Abandon (the Secret is deleted and
	// the leases expire by themselves).
	// +optional
	// +kubebuilder:default=Revoke
	OnDelete OnDelete `json:"onDelete,omitempty"`

	// RevocationDeadline is how long a deletion waits for a backend that is unavailable or refuses to revoke. After
	// that the object is removed and the leases are abandoned, with an event and a metric. It must not be negative.
	// +optional
	// +kubebuilder:default="1h0m0s"
	RevocationDeadline *metav1.Duration `json:"revocationDeadline,omitempty"`
}

// RotationSpec configures when a live credential is replaced, and how long the old one stays valid after that.
type RotationSpec struct {
	// MaxAge is the maximum age of a credential. It is replaced at that age or up to a tenth earlier (so that objects
	// created together are not replaced together), even if its lease could be renewed further. Absent: the maximum of
	// the backend. At least 1s.
	// +optional
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// Overlap is how long the old credential stays valid after the new one is in the Secret and all workloads of
	// spec.rollout use it. Then its lease is revoked. The backend's maximum may cut it short; the condition Rotated
	// reports that. It must not be negative.
	// +optional
	// +kubebuilder:default="2m0s"
	Overlap *metav1.Duration `json:"overlap,omitempty"`

	// Settle is how long to wait after the new credential is in the Secret before the workloads of spec.rollout
	// restart, for a backend whose new credentials do not work everywhere at once: new AWS access keys need about 10s.
	// It must not be negative. Defaults to 0s.
	// +optional
	Settle *metav1.Duration `json:"settle,omitempty"`

	// Windows are the times in which a planned replacement may start: one because of maxAge, or because the backend's
	// maximum is near. A lease that would expire before the next window opens is replaced anyway. A replacement that
	// somebody requested, or that follows a change or a loss, does not wait for a window. Absent: always.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Windows []RotationWindow `json:"windows,omitempty"`
}

// RotationWindow is a recurring period.
type RotationWindow struct {
	// Schedule says when the window opens, in the five fields of cron: minute, hour, day of month, month, day of week,
	// such as "0 2 * * 1-5". Names (MON, JAN) and @daily, @weekly and the like are supported.
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=128
	Schedule string `json:"schedule"`

	// TimeZone of the schedule, by its name in the IANA database, such as Europe/Vienna. Absent: UTC.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`

	// Duration that the window stays open. At least 1m.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	Duration metav1.Duration `json:"duration"`
}

// RolloutSpec names the workloads to restart after the Secret has changed.
type RolloutSpec struct {
	// Targets are workloads of this namespace.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Targets []RolloutTarget `json:"targets,omitempty"`

	// Discover finds the workloads of this namespace whose pod template uses the Secret: as a volume (projected volumes
	// included), in env or envFrom, or as an image pull secret. They are listed after each replacement, not watched.
	// +optional
	Discover bool `json:"discover,omitempty"`
}

// WorkloadKind is a kind of workload that can be restarted.
// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet;Rollout
type WorkloadKind string

// The kinds of workloads. KindRollout is that of argoproj.io.
const (
	KindDeployment  WorkloadKind = "Deployment"
	KindStatefulSet WorkloadKind = "StatefulSet"
	KindDaemonSet   WorkloadKind = "DaemonSet"
	KindRollout     WorkloadKind = "Rollout"
)

// RolloutTarget names a workload, or selects several.
type RolloutTarget struct {
	// Kind of the workload: Deployment, the default, StatefulSet, DaemonSet, or Rollout (of Argo Rollouts).
	// +optional
	Kind WorkloadKind `json:"kind,omitempty"`

	// Name of the workload. A missing workload keeps the old lease alive; the name may be a typo.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// Selector selects workloads by their labels. It may match none.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// TargetSpec describes the Secret.
type TargetSpec struct {
	// Name of the Secret. Defaults to the name of this object.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// Type of the Secret. A change deletes the Secret and creates it again with the same credential, or with a new one
	// if the type was or becomes kubernetes.io/tls. For that type, the keys tls.crt (the certificate, then its
	// intermediates), tls.key and ca.crt (the root, or else the last issuer) are made from a response that has the
	// fields certificate and private_key, such as that of pki/issue. The fields remain; use fields to omit them.
	// +optional
	// +kubebuilder:default=Opaque
	// +kubebuilder:validation:MaxLength=253
	Type string `json:"type,omitempty"`

	// Labels of the Secret. The prefix leasekeeper.io/ is reserved.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations of the Secret. The prefix leasekeeper.io/ is reserved.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Annotations map[string]string `json:"annotations,omitempty"`

	// Fields selects the fields that become keys of the Secret, over all sources.
	// +optional
	Fields *FieldSelection `json:"fields,omitempty"`
}

// DynamicSecret leases credentials and keeps them in one Secret. leasekeeper issues them, renews their leases, replaces
// them before they expire, and revokes them when they are no longer needed.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dsec,categories=leasekeeper
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.providerRef.name`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Expires",type=string,format=date-time,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Next",type=string,JSONPath=`.status.nextAction`
// +kubebuilder:printcolumn:name="At",type=string,format=date-time,JSONPath=`.status.nextActionAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Lease",type=string,priority=1,JSONPath=`.status.leases[*].id`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
type DynamicSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says which credentials to lease and where to put them.
	Spec DynamicSecretSpec `json:"spec"`
	// Status is written by leasekeeper. It is the ledger of everything that may be alive in the backends.
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

// AllSources lists the sources: spec.sources, or one without a name for the short form.
func (d *DynamicSecret) AllSources() []SecretSource {
	if len(d.Spec.Sources) > 0 {
		return d.Spec.Sources
	}
	return []SecretSource{{Vault: d.Spec.Vault}}
}

// ProviderOf is the provider of a source. The name is empty if neither the source nor the object names one.
func (d *DynamicSecret) ProviderOf(s *SecretSource) ProviderReference {
	var ref ProviderReference
	switch {
	case s.ProviderRef != nil:
		ref = *s.ProviderRef
	case d.Spec.ProviderRef != nil:
		ref = *d.Spec.ProviderRef
	}
	if ref.Kind == "" {
		ref.Kind = ProviderKindNamespaced
	}
	return ref
}

// DynamicSecretList is a list of DynamicSecrets.
//
// +kubebuilder:object:root=true
type DynamicSecretList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DynamicSecret `json:"items"`
}
