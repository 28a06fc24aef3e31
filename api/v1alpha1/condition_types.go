package v1alpha1

// Conditions of a DynamicSecret, a provider and a LeaseRevocation. Ready is always there. Reconciling and Stalled are there only while
// they are True, as kstatus wants them.
const (
	// ReadyCondition is True while the Secret holds a credential that is known to be good; while a provider can be asked;
	// once a LeaseRevocation is finished.
	ReadyCondition = "Ready"
	// ReconcilingCondition is True while leasekeeper works towards the spec, or waits to try again.
	ReconcilingCondition = "Reconciling"
	// StalledCondition is True when nothing will get better until a person changes something; the message says what.
	StalledCondition = "Stalled"
	// LeasedCondition is True while the Secret's credential has a live lease.
	LeasedCondition = "Leased"
	// RotatedCondition is True when the last hand-over from one credential to the next is complete: the consumers have
	// moved, and the old lease was ended only then. It is there once a credential was replaced.
	RotatedCondition = "Rotated"
)

// Reasons of a DynamicSecret's conditions.
const (
	// ReasonLeased: the Secret holds a credential with a live lease.
	ReasonLeased = "Leased"
	// ReasonSynced: the Secret holds an answer that has no lease (KV, for one); it is read again every refreshInterval.
	ReasonSynced = "Synced"
	// ReasonNotLeased: the backend gave this answer without a lease, so there is nothing to renew or to revoke.
	ReasonNotLeased = "NotLeased"
	// ReasonIssuing: a credential is being asked for.
	ReasonIssuing = "Issuing"
	// ReasonPublishing: the credential is leased and its Secret is being written.
	ReasonPublishing = "Publishing"
	// ReasonPublishFailed: the API server did not take the Secret; the same credential is tried again.
	ReasonPublishFailed = "PublishFailed"
	// ReasonReplacing: a new credential is due (the old one cannot be renewed any further, its Secret was lost or
	// edited, its request changed, or somebody asked).
	ReasonReplacing = "Replacing"
	// ReasonRenewing: the lease is due for renewal and the renewal has not succeeded yet.
	ReasonRenewing = "Renewing"
	// ReasonExpired: the lease came to its end and no new one could be had.
	ReasonExpired = "LeaseExpired"
	// ReasonLeaseLost: the backend no longer knows the lease; somebody revoked it.
	ReasonLeaseLost = "LeaseLost"
	// ReasonGrantEnded: reissue is Never and the life of the one lease is over.
	ReasonGrantEnded = "GrantEnded"
	// ReasonRevoked: spec.revoked is true; the lease is revoked and the Secret deleted.
	ReasonRevoked = "Revoked"
	// ReasonRevoking: spec.revoked is true and the lease is being revoked.
	ReasonRevoking = "Revoking"
	// ReasonDeleting: the object is being deleted; the lease is being revoked.
	ReasonDeleting = "Deleting"
	// ReasonSuspended: spec.suspend is true; nothing is issued or replaced.
	ReasonSuspended = "Suspended"
	// ReasonRetiringFull: status.retiring is full; nothing planned is issued until the backend ends some of it.
	ReasonRetiringFull = "RetiringFull"

	// ReasonProviderNotFound: providerRef names a provider that does not exist.
	ReasonProviderNotFound = "ProviderNotFound"
	// ReasonProviderNotReady: the provider's own Ready condition is not True.
	ReasonProviderNotReady = "ProviderNotReady"
	// ReasonNamespaceNotAllowed: the ClusterSecretProvider's allowedNamespaces leaves this namespace out.
	ReasonNamespaceNotAllowed = "NamespaceNotAllowed"
	// ReasonProviderDeleting: the provider is being deleted and takes no new leases.
	ReasonProviderDeleting = "ProviderDeleting"
	// ReasonServiceAccountNotFound: the ServiceAccount to log in as does not exist, or none is named.
	ReasonServiceAccountNotFound = "ServiceAccountNotFound"
	// ReasonTargetConflict: the target Secret belongs to somebody else, or another DynamicSecret has the same target.
	ReasonTargetConflict = "TargetConflict"
	// ReasonTargetRejected: the API server would not take the Secret (a server-side dry run said so).
	ReasonTargetRejected = "TargetRejected"

	// ReasonPathNotFound: the backend has nothing at the path.
	ReasonPathNotFound = "PathNotFound"
	// ReasonAccessDenied: the backend's policy refuses the request; the message names the line that is missing.
	ReasonAccessDenied = "AccessDenied"
	// ReasonLoginFailed: the backend refuses the login.
	ReasonLoginFailed = "LoginFailed"
	// ReasonRequestRefused: the backend answered that the request is wrong.
	ReasonRequestRefused = "RequestRefused"
	// ReasonInvalidResponse: the backend's answer cannot become a Secret: empty, not readable, a key that is no Secret
	// key, or more than 1 MiB.
	ReasonInvalidResponse = "InvalidResponse"
	// ReasonBackendUnavailable: the backend cannot be reached, does not answer, is sealed, or says to come back later.
	ReasonBackendUnavailable = "BackendUnavailable"
	// ReasonBackendError: the backend answered with an error of its own (its database may be down).
	ReasonBackendError = "BackendError"
	// ReasonTLSFailed: the backend's certificate does not verify, or the provider's TLS material cannot be used.
	ReasonTLSFailed = "TLSFailed"
	// ReasonRotated: the consumers have moved to the new credential, and the old lease is ended.
	ReasonRotated = "Rotated"
	// ReasonRollingOut: the new credential is in the Secret, and workloads are moving to it.
	ReasonRollingOut = "RollingOut"
	// ReasonRolloutPaused: a workload is paused, or replaces pods only when somebody deletes them; the old lease is held.
	ReasonRolloutPaused = "RolloutPaused"
	// ReasonRolloutStuck: a workload does not come to the end of its roll-out; the old lease is held.
	ReasonRolloutStuck = "RolloutStuck"
	// ReasonRolloutTargetNotFound: spec.rollout.targets names a workload that does not exist; the old lease is held.
	ReasonRolloutTargetNotFound = "RolloutTargetNotFound"
	// ReasonRolloutForbidden: the API server does not let leasekeeper look at workloads, or stamp them; the old lease is
	// held.
	ReasonRolloutForbidden = "RolloutForbidden"
	// ReasonRolloutDisabled: spec.rollout needs a right that leasekeeper was installed without.
	ReasonRolloutDisabled = "RolloutDisabled"
	// ReasonOverlap: the consumers have moved; the old credential lives on for spec.rotation.overlap.
	ReasonOverlap = "Overlap"
	// ReasonHandoverCutShort: the old lease ended before the consumers had moved, or before spec.rotation.overlap was
	// over, because the backend would not extend it.
	ReasonHandoverCutShort = "HandoverCutShort"
	// ReasonInvalidWindow: spec.rotation.windows has a schedule or time zone that nobody understands.
	ReasonInvalidWindow = "InvalidWindow"
	// ReasonAbandoned: a lease was given up that could not be ended in time.
	ReasonAbandoned = "LeaseAbandoned"
	// ReasonLedgerMismatch: the ledger names a token or lease that is not this object's; it is not acted on.
	ReasonLedgerMismatch = "LedgerMismatch"
)

// Reasons of a provider's conditions.
const (
	// ReasonReachable: the backend answers and takes the keeper's login.
	ReasonReachable = "Reachable"
	// ReasonNoKeeper: the backend answers; no keeperAuth is named, so what needs the keeper's rights depends on
	// the rights of auth, and ends with this namespace.
	ReasonNoKeeper = "ReachableWithoutKeeper"
	// ReasonKeeperPolicyIncomplete: the keeper's policy lacks lines; status.missingCapabilities names them.
	ReasonKeeperPolicyIncomplete = "KeeperPolicyIncomplete"
	// ReasonInUse: the provider is being deleted and waits for the leases that it still has to end.
	ReasonInUse = "InUse"
	// ReasonInvalidSpec: something that the spec names does not exist or cannot be used; the message says what.
	ReasonInvalidSpec = "InvalidSpec"
)

// Reasons of a LeaseRevocation's conditions, besides those of a DynamicSecret that say what stands in the way:
// ProviderNotFound, AccessDenied, LoginFailed, BackendUnavailable, BackendError, TLSFailed and so on.
const (
	// ReasonRevokingLeases: the leases are counted, revoked, or the backend is still ending what they stand for.
	ReasonRevokingLeases = "RevokingLeases"
	// ReasonLeasesRevoked: the order is finished; the backend has none of these leases any more.
	ReasonLeasesRevoked = "LeasesRevoked"
)

// What leasekeeper means to do next, in status.nextAction.
const (
	NextIssue   = "Issue"
	NextRenew   = "Renew"
	NextReplace = "Replace"
	NextRefresh = "Refresh"
	NextPublish = "Publish"
	NextEnd     = "End"
	NextExpire  = "Expire"
	NextRollout = "Rollout"
)
