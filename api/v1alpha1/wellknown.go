package v1alpha1

const (
	// Finalizer keeps a DynamicSecret until its Secret is deleted and each record of its ledger revoked or abandoned.
	Finalizer = "leasekeeper.io/lease"
	// ProviderFinalizer keeps a provider until no ledger names it.
	ProviderFinalizer = "leasekeeper.io/in-use"

	// OwnerLabel is set on every Secret that leasekeeper writes. Its value is the name of the DynamicSecret; if that is
	// too long for a label, a prefix and a hash of it.
	OwnerLabel = "leasekeeper.io/dynamic-secret"

	// ParametersLabel, with the value "true", permits DynamicSecrets of the namespace to send the values of a Secret to
	// their providers (parametersFrom). Without it, somebody who may create providers and DynamicSecrets could read
	// every Secret of the namespace.
	ParametersLabel = "leasekeeper.io/parameters"

	// DigestSaltAnnotation is set on the Secret. It contains the random salt of status.secret.digest, so that somebody
	// who can read the status, but not the Secret, cannot guess values.
	DigestSaltAnnotation = "leasekeeper.io/digest-salt"
	// AppliedAnnotation is set on the Secret. It lists the keys, labels and annotations that leasekeeper wrote, so that
	// leasekeeper removes those that it no longer writes and keeps those of others.
	AppliedAnnotation = "leasekeeper.io/applied"

	// RenewRequestedAtAnnotation requests a renewal. Every value that was not handled before counts.
	RenewRequestedAtAnnotation = "leasekeeper.io/renew-requested-at"
	// ForceSyncAnnotation requests the same. External Secrets Operator uses the same annotation. A response without a
	// lease is read again if it is static or scheduled. It never issues a credential, so a response of unknown expiry
	// is left alone.
	ForceSyncAnnotation = "force-sync"
	// RotateRequestedAtAnnotation requests a new credential. Every value that was not handled before counts.
	RotateRequestedAtAnnotation = "leasekeeper.io/rotate-requested-at"
	// AbandonLeaseAnnotation, set to "true", completes a deletion without waiting for revocations.
	AbandonLeaseAnnotation = "leasekeeper.io/abandon-lease"

	// StampAnnotationPrefix is the prefix of the annotation that restarts a Secret's consumers: leasekeeper sets it on
	// their pod templates. The name of the Secret follows, or a prefix and a hash of it. The value is
	// status.handover.stamp, so the template changes once for each credential.
	StampAnnotationPrefix = "rollout.leasekeeper.io/"
)

const (
	// ProviderKindNamespaced is the kind of a provider for one namespace.
	ProviderKindNamespaced = "SecretProvider"
	// ProviderKindCluster is the kind of a provider for all namespaces.
	ProviderKindCluster = "ClusterSecretProvider"

	// MaxRetiring is the number of records in status.retiring from which on nothing is issued. An object with more than
	// eight sources may have twice as many records as sources.
	MaxRetiring = 16
)
