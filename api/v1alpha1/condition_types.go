package v1alpha1

// Conditions of a DynamicSecret, a provider and a LeaseRevocation. Ready is always present. Reconciling and Stalled are
// present only while they are True, as kstatus expects. A DynamicSecret can be Ready and also Reconciling or Stalled:
// its credential is valid, and the next one is being prepared or cannot be issued.
const (
	// ReadyCondition is True while the Secret contains a credential that is known to be valid, while a provider can be
	// used, or once a LeaseRevocation is complete.
	ReadyCondition = "Ready"
	// ReconcilingCondition is True while leasekeeper works towards the spec, or waits to try again.
	ReconcilingCondition = "Reconciling"
	// StalledCondition is True if nothing improves until a person changes something; the message says what.
	StalledCondition = "Stalled"
	// LeasedCondition is True while a credential in the Secret has a live lease. It is False with reason NotLeased if
	// no response has a lease. It is present after the first issuance.
	LeasedCondition = "Leased"
	// RotatedCondition is True once the last handover is complete: the consumers use the new credential, and the old
	// lease was revoked only after that. It is present after the first replacement.
	RotatedCondition = "Rotated"
	// VerifyingCondition of a provider is True while leasekeeper lists the leases regularly, so that it notices those
	// that somebody else revoked, and False while lists are denied, fail or are late. It is present while the provider
	// has leases.
	VerifyingCondition = "Verifying"
)

// Reasons of a DynamicSecret's conditions: its state.
const (
	// ReasonLeased: the Secret contains a credential with a live lease.
	ReasonLeased = "Leased"
	// ReasonSynced: the Secret contains responses without a lease. A static response is read again every
	// spec.refreshInterval, a scheduled one after each change by the backend; an expiring one is replaced before it
	// expires.
	ReasonSynced = "Synced"
	// ReasonNotLeased: no response has a lease, so there is nothing to renew or verify. The message says how each
	// response is kept valid, whether it can be revoked, and whether its expiry is unknown.
	ReasonNotLeased = "NotLeased"
	// ReasonIssuing: leasekeeper is requesting a credential.
	ReasonIssuing = "Issuing"
	// ReasonPublishing: the credential is issued, and leasekeeper is writing the Secret.
	ReasonPublishing = "Publishing"
	// ReasonPublishFailed: the API server did not store the Secret; leasekeeper retries with the same credential.
	ReasonPublishFailed = "PublishFailed"
	// ReasonReplacing: a new credential is due, because the old one cannot be renewed further, its Secret was deleted
	// or edited, its request has changed, or somebody requested a rotation; or a static or scheduled response is due to
	// be read again, and the read has failed so far.
	ReasonReplacing = "Replacing"
	// ReasonRenewing: a lease, or the session that issued it, is due for renewal, and the renewal has failed so far.
	ReasonRenewing = "Renewing"
	// ReasonExpired: a lease expired before a new credential could be issued.
	ReasonExpired = "LeaseExpired"
	// ReasonLeaseLost: the backend no longer knows the lease; somebody revoked it, or the token that issued it.
	ReasonLeaseLost = "LeaseLost"
	// ReasonLeaseRevoked: a LeaseRevocation revoked the lease.
	ReasonLeaseRevoked = "LeaseRevoked"
	// ReasonGrantEnded: spec.lease.reissue is Never, and the only lease has ended.
	ReasonGrantEnded = "GrantEnded"
	// ReasonRevoking: spec.revoked is true, and the leases are being revoked.
	ReasonRevoking = "Revoking"
	// ReasonRevoked: spec.revoked is true; the leases are revoked and the Secret is deleted.
	ReasonRevoked = "Revoked"
	// ReasonDeleting: the object is being deleted, and its leases are being revoked.
	ReasonDeleting = "Deleting"
	// ReasonSuspended: spec.suspend is true, so nothing is issued or replaced.
	ReasonSuspended = "Suspended"
	// ReasonReplaced is the reason of an event: the Secret contains a new credential. The message has the cause.
	ReasonReplaced = "Replaced"
	// ReasonRefreshed is the reason of an event: the Secret contains a changed response that has no lease.
	ReasonRefreshed = "Refreshed"
	// ReasonSecretDeleted is the reason of an event: the lease has expired, no new one could be issued, and the Secret
	// is deleted.
	ReasonSecretDeleted = "SecretDeleted"
	// ReasonSecretNotDeleted is the reason of an event: the API server did not delete the Secret of an object that is
	// deleted or revoked, or of a lease that has expired. The leases are revoked all the same.
	ReasonSecretNotDeleted = "SecretNotDeleted"
	// ReasonObjectNotUpdated: the API server does not accept leasekeeper's status or finalizer on this object, so
	// nothing is issued. The event reports both; a condition can only report the finalizer.
	ReasonObjectNotUpdated = "ObjectNotUpdated"
	// ReasonOldLeaseRevoked is the reason of an event: a handover is complete, and its old lease is revoked.
	ReasonOldLeaseRevoked = "OldLeaseRevoked"
	// ReasonSecretLost is the reason of an event: the Secret was deleted or changed, and spec.suspend prevents a new
	// credential.
	ReasonSecretLost = "SecretLost"
	// ReasonRevocationFailed is the reason of an event: a lease that is no longer needed could not be revoked yet. No
	// condition has it: the Secret is in order.
	ReasonRevocationFailed = "RevocationFailed"
	// ReasonAbandoned is the reason of an event: leasekeeper gave up a lease that it could not revoke in time.
	ReasonAbandoned = "LeaseAbandoned"
)

// Reasons of the condition Rotated: the progress of a handover. The old lease is kept until the handover is complete.
const (
	// ReasonRotated: the handover to the new credential is complete, and no old lease is kept.
	ReasonRotated = "Rotated"
	// ReasonRollingOut: the Secret contains the new credential, and not all workloads use it.
	ReasonRollingOut = "RollingOut"
	// ReasonRolloutPaused: a workload is paused, or it replaces pods only when somebody deletes them.
	ReasonRolloutPaused = "RolloutPaused"
	// ReasonRolloutStuck: a workload does not complete its rollout.
	ReasonRolloutStuck = "RolloutStuck"
	// ReasonRolloutCheckFailed: a consumer cannot be inspected or stamped at present, because a request failed or a
	// workload cannot be parsed. leasekeeper tries again after a growing pause; nothing else waits for it.
	ReasonRolloutCheckFailed = "RolloutCheckFailed"
	// ReasonRolloutTargetNotFound: spec.rollout.targets names a workload that does not exist.
	ReasonRolloutTargetNotFound = "RolloutTargetNotFound"
	// ReasonRolloutContested: something removes the annotation that rolls out a workload. The pause before leasekeeper
	// sets it again doubles up to an hour.
	ReasonRolloutContested = "RolloutContested"
	// ReasonRolloutForbidden: the API server does not permit leasekeeper to inspect or stamp workloads.
	ReasonRolloutForbidden = "RolloutForbidden"
	// ReasonRolloutDisabled: spec.rollout requires a permission that leasekeeper was installed without.
	ReasonRolloutDisabled = "RolloutDisabled"
	// ReasonOverlap: the consumers use the new credential; the old one remains valid for spec.rotation.overlap.
	ReasonOverlap = "Overlap"
	// ReasonHandoverCutShort: the old lease ended, or will end, before the handover is complete, because the backend
	// refuses to extend it or somebody revoked it.
	ReasonHandoverCutShort = "HandoverCutShort"
)

// Reasons of a DynamicSecret's conditions: problems. Those of the backend are also reasons of a provider and of a
// LeaseRevocation.
const (
	// ReasonProviderNotFound: providerRef names a provider that does not exist.
	ReasonProviderNotFound = "ProviderNotFound"
	// ReasonProviderNotReady: the provider is not Ready, or has not been checked yet.
	ReasonProviderNotReady = "ProviderNotReady"
	// ReasonProviderDeleting: the provider is being deleted and accepts no new leases.
	ReasonProviderDeleting = "ProviderDeleting"
	// ReasonNamespaceNotAllowed: allowedNamespaces of the ClusterSecretProvider does not match this namespace.
	ReasonNamespaceNotAllowed = "NamespaceNotAllowed"
	// ReasonServiceAccountNotFound: the ServiceAccount for the login does not exist, or none is set.
	ReasonServiceAccountNotFound = "ServiceAccountNotFound"
	// ReasonTargetConflict: the target Secret does not belong to this object, or an older DynamicSecret has the same
	// target.
	ReasonTargetConflict = "TargetConflict"
	// ReasonTargetRejected: the API server rejected the Secret, in the dry run before an issuance or in the write.
	ReasonTargetRejected = "TargetRejected"
	// ReasonTargetContested: something else keeps changing or deleting the Secret, or the API server stores something
	// else than leasekeeper writes. The pause before the next repair doubles up to an hour.
	ReasonTargetContested = "TargetContested"
	// ReasonRequestContested: something keeps changing the request, or keeps requesting rotations. The pause before the
	// next issuance doubles up to an hour; the old credential stays valid.
	ReasonRequestContested = "RequestContested"
	// ReasonSharedUser: the backend gave a new lease the user of the old one. Revoking the old lease would drop the
	// user that is in use, so it is kept.
	ReasonSharedUser = "SharedUser"
	// ReasonRetiringFull: status.retiring is full; nothing is issued until the backend has revoked some of it.
	ReasonRetiringFull = "RetiringFull"
	// ReasonInvalidWindow: a schedule or time zone in spec.rotation.windows is invalid. It blocks the first issuance
	// only.
	ReasonInvalidWindow = "InvalidWindow"
	// ReasonLedgerMismatch: the ledger names a session or lease of another object. leasekeeper does not act on it.
	ReasonLedgerMismatch = "LedgerMismatch"
	// ReasonNewerLedger: a newer version of leasekeeper wrote the ledger, and this one does not know its format. The
	// object is left alone until the newer version runs again.
	ReasonNewerLedger = "NewerLedger"

	// ReasonPathNotFound: the backend has nothing at the path.
	ReasonPathNotFound = "PathNotFound"
	// ReasonAccessDenied: the backend's policy denies the request; the message names the missing permission.
	ReasonAccessDenied = "AccessDenied"
	// ReasonLoginFailed: the backend rejects the login, or grants a session that cannot be used.
	ReasonLoginFailed = "LoginFailed"
	// ReasonRequestRefused: the backend reports that the request is wrong.
	ReasonRequestRefused = "RequestRefused"
	// ReasonInvalidResponse: the response cannot become a Secret: it is empty or unreadable, it exceeds 1 MiB, a key is
	// invalid or missing, two sources produce the same key, or a lease has no duration.
	ReasonInvalidResponse = "InvalidResponse"
	// ReasonBackendUnavailable: the backend cannot be reached, does not respond, is sealed, or asks to retry later.
	ReasonBackendUnavailable = "BackendUnavailable"
	// ReasonQuotaExceeded: the backend issues no more leases or logins until some are revoked or a quota is raised.
	// Leases are renewed meanwhile.
	ReasonQuotaExceeded = "QuotaExceeded"
	// ReasonBackendError: the backend returned an error of its own; its database may be down.
	ReasonBackendError = "BackendError"
	// ReasonTLSFailed: the backend's certificate cannot be verified, or the provider's TLS material cannot be used.
	ReasonTLSFailed = "TLSFailed"
	// ReasonInvalidSpec: the provider's spec names something that does not exist or cannot be used.
	ReasonInvalidSpec = "InvalidSpec"
)

// Reasons of a provider's conditions, besides the problems above.
const (
	// ReasonReachable: the backend responds and accepts leasekeeper's login, and leasekeeper has all permissions.
	ReasonReachable = "Reachable"
	// ReasonUnattended: the backend responds. leasekeeper has no identity of its own there and uses the workload's, as
	// far as its policy permits and until its namespace is deleted.
	ReasonUnattended = "Unattended"
	// ReasonFaultyVersion: the backend responds, and its version has a known fault. The message says what may happen,
	// and what to do.
	ReasonFaultyVersion = "FaultyVersion"
	// ReasonPolicyIncomplete: leasekeeper lacks the permissions in status.missingCapabilities.
	ReasonPolicyIncomplete = "PolicyIncomplete"
	// ReasonInUse: the provider is being deleted and waits for leases that must still be revoked through it.
	ReasonInUse = "InUse"
)

// Reasons of the condition Verifying of a provider.
const (
	// ReasonLeasesListed: each path is listed once an interval.
	ReasonLeasesListed = "LeasesListed"
	// ReasonListDenied: leasekeeper lacks the permissions in status.advisedCapabilities, so leases are looked up one by
	// one.
	ReasonListDenied = "ListDenied"
	// ReasonListFailed: a list fails, so leases are looked up one by one.
	ReasonListFailed = "ListFailed"
	// ReasonListsSlow: lists take so long that leases are checked late.
	ReasonListsSlow = "ListsSlow"
)

// Reasons of a LeaseRevocation's conditions, besides ProviderNotFound and the problems of the backend above.
const (
	// ReasonRevokingLeases: leasekeeper is counting or revoking the leases, or the backend has not finished yet.
	ReasonRevokingLeases = "RevokingLeases"
	// ReasonLeasesRevoked: the LeaseRevocation is complete; the backend no longer has any of these leases.
	ReasonLeasesRevoked = "LeasesRevoked"
)

// Values of status.nextAction: what leasekeeper does next.
const (
	// NextIssue issues the first credential.
	NextIssue = "Issue"
	// NextRenew renews a lease, or extends the session that issued it.
	NextRenew = "Renew"
	// NextReplace issues a new credential while the old one is still valid.
	NextReplace = "Replace"
	// NextRefresh reads a static or scheduled response again.
	NextRefresh = "Refresh"
	// NextPublish writes the Secret.
	NextPublish = "Publish"
	// NextRollout stamps or inspects the consumers.
	NextRollout = "Rollout"
	// NextRevoke revokes a retiring record.
	NextRevoke = "Revoke"
	// NextExpire deletes the Secret or replaces its credential, unless the lease is renewed before.
	NextExpire = "Expire"
)
