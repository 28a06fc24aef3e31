package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Input is everything that Plan considers. Plan does not modify it.
type Input struct {
	// Now by the operator's clock.
	Now time.Time
	// Object as it was read; its status is the ledger.
	Object *v1alpha1.DynamicSecret
	// Requests are what the spec requests now, one for each source.
	Requests []Request
	// Block says why nothing may be issued at present; nil: no check failed.
	Block *Block
	// Invalid is a spec error. It blocks only the first issuance. nil: none.
	Invalid *Block
	// Target is the state of the Secret.
	Target TargetState
	// OutOfSync: the Secret contains the right data, but its name, type, labels or annotations are not those of the
	// spec, or the status does not describe it.
	OutOfSync bool
	// Edited: the Secret was read, and contains neither what the status says nor the responses that the leases replace.
	Edited bool
	// Writer is who else writes the Secret, as a sentence without its full stop; empty: unknown.
	Writer string
	// Held is what this process knows of its own issuance.
	Held Held
	// Lost are the ids of leases that the backend reported as gone.
	Lost map[string]bool
	// Revoked are the ids of those that a LeaseRevocation has revoked.
	Revoked map[string]bool
	// Suspects are the ids of leases that were missing from a list of the backend.
	Suspects map[string]bool
	// Sharers are other objects that use the user of a record (see UsesUserOf), by its Key.
	Sharers map[string]string
	// Done are the keys (see Key) of records that this process has revoked or abandoned while the object is being
	// deleted. Then the ledger is not updated for each.
	Done map[string]bool
	// RevokeBy bounds, by Key, the RevokeAfter of retiring records that is further away than leasekeeper ever sets it.
	RevokeBy map[string]time.Time
	// Reads are the last reads of static and scheduled sources by this process, by source.
	Reads map[string]Read
	// Handled is, by source, the requested renewal (see RequestedRenewal) that this process has carried out.
	Handled map[string]string
	// Tries are the failures so far.
	Tries Tries
	// Windows of spec.rotation.
	Windows Windows
	// RolloutCheckAt is when to check the consumers again; zero: now.
	RolloutCheckAt time.Time
	// RolloutWindow is how long a rollout may wait for the other Secrets of its workloads.
	RolloutWindow time.Duration
	// RolloutOff: leasekeeper was installed without the permission to roll anything out.
	RolloutOff bool
	// RequestLimit is how long the backend may continue with a request that nobody waits for.
	RequestLimit time.Duration
}

// Request identifies what a source requests.
type Request struct {
	// Source is its name.
	Source string
	// Digest of the request; empty: unknown, because the provider is missing.
	Digest string
	// Changed are the fields in which it differs from the request of the lease, as far as that is known.
	Changed []string
}

// Read is a read of a static or scheduled source that found nothing new.
type Read struct {
	// At is when it was sent.
	At time.Time
	// Next is when the backend changes the value, or asks to be read again; zero: it did not say.
	Next time.Time
	// Late counts the consecutive reads since a scheduled change was due and had not happened yet.
	Late int
}

// Block is a reason not to issue.
type Block struct {
	// Reason for the conditions.
	Reason string
	// Message says what to do.
	Message string
	// Stalled: nothing improves until a person changes something.
	Stalled bool
	// RetryAfter is when to try again, if that is known; 0: after a growing pause.
	RetryAfter time.Duration
	// Lapses: leases are not renewed either. They are kept until they expire.
	Lapses bool
}

// TargetState is the observed state of the Secret.
type TargetState string

const (
	// TargetAbsent: there is no Secret of that name.
	TargetAbsent TargetState = "Absent"
	// TargetCurrent: it is ours and contains what the status says.
	TargetCurrent TargetState = "Current"
	// TargetChanged: it is ours and contains something else.
	TargetChanged TargetState = "Changed"
	// TargetForeign: it belongs to something else.
	TargetForeign TargetState = "Foreign"
)

// Outcome of an issuance.
type Outcome string

const (
	// OutcomePending: it is not complete, or this process knows nothing of it.
	OutcomePending Outcome = ""
	// OutcomeIssued: every source responded with a credential, which is in memory.
	OutcomeIssued Outcome = "Issued"
	// OutcomeFailed: a source did not respond, responded with an error, or with something that cannot become a Secret.
	OutcomeFailed Outcome = "Failed"
)

// Held is what this process knows about its own issuance, from the journal until the Secret is written. It is lost when
// the process ends; the journal covers that.
type Held struct {
	// Records of the attempt, one for each source; empty: nothing is held.
	Records []HeldRecord
	// Outcome of the issuance.
	Outcome Outcome
}

// HeldRecord is one source of a held issuance.
type HeldRecord struct {
	// Record as journaled; once the backend has responded, with what it responded.
	Record v1alpha1.LeaseRecord
	// Settled: the backend has finished with the request, or the request was never sent.
	Settled bool
}

// settled says that the backends have finished with every request.
func (h Held) settled() bool {
	for i := range h.Records {
		if !h.Records[i].Settled {
			return false
		}
	}
	return len(h.Records) > 0 && h.Outcome != OutcomePending
}

// find returns the held record with the handle; nil: there is none.
func (h Held) find(handle string) *HeldRecord {
	for i := range h.Records {
		if handle != "" && h.Records[i].Record.Handle() == handle {
			return &h.Records[i]
		}
	}
	return nil
}

// Tries are consecutive failures, by what failed. They are kept in memory: after a restart everything is tried at once.
type Tries struct {
	Issue, Publish, Sync, Settle, DeleteSecret Failure
	// Finalizer counts the failures to add or remove the finalizer.
	Finalizer Failure
	// Repair counts how often the metadata of the Secret were corrected. Each correction succeeded.
	Repair Failure
	// Renew, ExtendSession and Revoke by Key of the record; Refresh by source.
	Renew, ExtendSession, Revoke, Refresh map[string]Failure
}

// Failure is what failed last.
type Failure struct {
	// Count of consecutive failures; 0: none.
	Count int
	// At is when the last of them ended.
	At time.Time
	// Refusals counts how often in a row the backend has definitely refused to extend a lease or a session. A failure
	// of another kind, such as an outage, starts again at 0.
	Refusals int
	// NotBefore is when to try again.
	NotBefore time.Time
	// Reason and Message for the conditions.
	Reason, Message string
	// Stalled: nothing improves until a person changes something.
	Stalled bool
	// Final: another try is useless.
	Final bool
}

// block is what the conditions say about the failure; nil: there is none.
func (f Failure) block() *Block {
	if f.Count == 0 {
		return nil
	}
	return &Block{Reason: f.Reason, Message: f.Message, Stalled: f.Stalled}
}

func (f Failure) waiting(now time.Time) bool { return f.Count > 0 && now.Before(f.NotBefore) }

// pausesBriefly says that the pause is too short to be shown. It stays true or false until the next failure.
func (f Failure) pausesBriefly() bool { return f.NotBefore.Sub(f.At) <= 2*maxBackoff }

// Key identifies a record in Tries and Done.
func Key(rec *v1alpha1.LeaseRecord) string { return rec.Handle() + "|" + rec.ID }

// Action is what a Step does.
type Action string

const (
	// Wait does nothing until Step.At, or until something changes.
	Wait Action = "Wait"
	// AddFinalizer ensures that the object is not removed before its leases are.
	AddFinalizer Action = "AddFinalizer"
	// Issue logs in, journals, and requests the credentials of all sources.
	Issue Action = "Issue"
	// RecordLeases turns the held responses into the leases.
	RecordLeases Action = "RecordLeases"
	// DropAttempt moves the attempt to the retiring records.
	DropAttempt Action = "DropAttempt"
	// ResolveHeld settles a held issuance whose attempt was dropped by another process.
	ResolveHeld Action = "ResolveHeld"
	// DropLeases moves the leases to the retiring records.
	DropLeases Action = "DropLeases"
	// PublishSecret writes the held credentials.
	PublishSecret Action = "PublishSecret"
	// SyncSecret corrects name, type, labels and annotations of the Secret and keeps its data.
	SyncSecret Action = "SyncSecret"
	// DeleteSecret deletes the Secret.
	DeleteSecret Action = "DeleteSecret"
	// RefreshSource reads a static or scheduled source again.
	RefreshSource Action = "RefreshSource"
	// RenewLease renews a lease by its id.
	RenewLease Action = "RenewLease"
	// ExtendSession extends the session that issued a lease.
	ExtendSession Action = "ExtendSession"
	// VerifyLease asks the backend whether a suspect lease exists.
	VerifyLease Action = "VerifyLease"
	// AcknowledgeRenew records that a requested renewal had nothing to do.
	AcknowledgeRenew Action = "AcknowledgeRenew"
	// FollowRollout stamps the consumers and checks their progress.
	FollowRollout Action = "FollowRollout"
	// RevokeRecord revokes a record in the backend.
	RevokeRecord Action = "RevokeRecord"
	// AbandonRecord gives a record up.
	AbandonRecord Action = "AbandonRecord"
	// RemoveFinalizer releases the object.
	RemoveFinalizer Action = "RemoveFinalizer"
)

// Step is the decision: one thing to do now, or to wait.
type Step struct {
	Action Action
	// Reason in the words of the conditions.
	Reason string
	// Record is an index into status.leases, or, if Retiring is set, into status.retiring. For DropLeases it is the
	// record that ended; -1: all of them.
	Record   int
	Retiring bool
	// Hold, for FollowRollout: workloads that also use other Secrets wait for these.
	Hold bool
	// At is when to decide again, for Wait; zero: when something changes.
	At time.Time
	// Next is what will be due, in the words of status.nextAction, and NextAt when; empty: nothing.
	Next   string
	NextAt time.Time
	// Retrying: NextAt is the end of a short pause after a failure. A status that showed it would be written each time.
	Retrying bool
	// Blocked is what prevents an issuance or a read that is due, for Wait.
	Blocked *Block
}
