package v1alpha1

const (
	// Finalizer keeps a DynamicSecret until its Secret is gone and every record of its ledger has ended.
	Finalizer = "leasekeeper.io/lease"
	// ProviderFinalizer keeps a provider until no ledger names it.
	ProviderFinalizer = "leasekeeper.io/in-use"

	// OwnerLabel is set on every Secret that leasekeeper writes; its value is the name of the DynamicSecret, or,
	// where that is longer than a label may be, a prefix and a hash of it.
	OwnerLabel = "leasekeeper.io/dynamic-secret"

	// DigestSaltAnnotation is set on the Secret: random bytes that go into status.secret.digest, so that who may
	// read the status but not the Secret cannot guess at values.
	DigestSaltAnnotation = "leasekeeper.io/digest-salt"
	// AppliedMetadataAnnotation is set on the Secret: which labels and annotations came from spec.target, so that
	// one that is taken out of the spec is taken off the Secret and those of others stay.
	AppliedMetadataAnnotation = "leasekeeper.io/applied-metadata"

	// RenewRequestedAtAnnotation asks for a renewal now; any value that was not handled before counts.
	RenewRequestedAtAnnotation = "leasekeeper.io/renew-requested-at"
	// ForceSyncAnnotation is External Secrets' order to read anew; here it asks for a renewal, or for another look where
	// there is no lease. It never costs a credential.
	ForceSyncAnnotation = "force-sync"
	// RotateRequestedAtAnnotation asks for a new credential now; any value that was not handled before counts.
	RotateRequestedAtAnnotation = "leasekeeper.io/rotate-requested-at"
	// AbandonLeaseAnnotation, set to "true", lets a deletion go on without revoking.
	AbandonLeaseAnnotation = "leasekeeper.io/abandon-lease"

	// StampAnnotationPrefix begins the key of the annotation that is put on the pod templates of a Secret's consumers;
	// the name of the Secret, or a prefix and a hash of it, follows. Its value is status.handover.stamp, so that the
	// template changes once for each credential.
	StampAnnotationPrefix = "rollout.leasekeeper.io/"
)

const (
	// ProviderKindNamespaced is the kind of a provider for one namespace.
	ProviderKindNamespaced = "SecretProvider"
	// ProviderKindCluster is the kind of a provider for all namespaces.
	ProviderKindCluster = "ClusterSecretProvider"

	// MaxRetiring is how many records status.retiring may hold; when it is full nothing planned is issued.
	MaxRetiring = 16
)
