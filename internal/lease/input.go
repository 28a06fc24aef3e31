package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Input is everything that Plan looks at.
type Input struct {
	// Now by the operator's clock.
	Now time.Time
	// Object as it was read; its status is the ledger.
	Object *v1alpha1.DynamicSecret
	// RequestDigest of what the spec asks for now. Empty: not known (the provider is not there).
	RequestDigest string
	// Block says why nothing may be issued at present; nil: nothing that was checked speaks against it.
	Block *Block
	// Target is the state of the Secret.
	Target TargetState
	// OutOfSync: the Secret holds the right data, but its name, type, labels, annotations, or what the status says of
	// it, are not those wanted.
	OutOfSync bool
	// Held is what this process knows of an issue of its own.
	Held Held
	// LostID is the id of a lease that the backend says is no more.
	LostID string
	// SuspectID is the id of a lease that was missing from a list of the backend's. A list is a hint.
	SuspectID string
	// Tries are the failures so far.
	Tries Tries
	// Invalid is what is wrong with the spec, for a lease that lives as for one that is to be issued; nil: nothing. It keeps
	// the first credential from being issued, and nothing from being kept alive or replaced in time.
	Invalid *Block
	// Windows of spec.rotation.
	Windows Windows
	// RolloutLook is when the consumers are to be looked at again; zero: now.
	RolloutLook time.Time
	// RolloutWindow is how long a roll-out may wait for the other Secrets of its workloads.
	RolloutWindow time.Duration
	// RolloutOff: leasekeeper was installed without the right to roll anything out.
	RolloutOff bool
	// RequestLimit is how long the backend may go on with a request that nobody waits for.
	RequestLimit time.Duration
}

// Block is a reason not to issue.
type Block struct {
	// Reason for the conditions.
	Reason string
	// Message says what to do.
	Message string
	// Stalled: nothing gets better until a person changes something.
	Stalled bool
}

// TargetState is what was seen of the Secret.
type TargetState string

const (
	// TargetAbsent: there is no Secret of the name.
	TargetAbsent TargetState = "Absent"
	// TargetCurrent: it is ours and holds what the status says.
	TargetCurrent TargetState = "Current"
	// TargetChanged: it is ours and holds something else.
	TargetChanged TargetState = "Changed"
	// TargetForeign: it belongs to somebody else.
	TargetForeign TargetState = "Foreign"
)

// Outcome of an issue.
type Outcome string

const (
	// OutcomeUnanswered: none came, and none will.
	OutcomeUnanswered Outcome = "Unanswered"
	// OutcomeNone: the request has not come to an end, or this process knows nothing of it.
	OutcomeNone Outcome = ""
	// OutcomeIssued: the backend gave a credential, which is in memory.
	OutcomeIssued Outcome = "Issued"
	// OutcomeRefused: the backend answered with an error, or with something that cannot become a Secret.
	OutcomeRefused Outcome = "Refused"
)

// Held is what this process knows of an issue of its own, from the journal until the Secret is written. It is lost when
// the process dies.
type Held struct {
	// Accessor of the token that issues; empty: nothing is held.
	Accessor string
	// Outcome of the issue.
	Outcome Outcome
}

// answered says that the backend itself has answered, so that it has done with the request.
func (h Held) answered() bool {
	return h.Accessor != "" && (h.Outcome == OutcomeIssued || h.Outcome == OutcomeRefused)
}

// Tries are failures in a row, by what failed. They are kept in memory: a restart tries everything at once.
type Tries struct {
	Issue, Renew, ExtendToken, Publish, Sync, Settle Failure
	// End and Keep by TryKey, of retiring records.
	End, Keep map[string]Failure
}

// Failure is what went wrong the last time.
type Failure struct {
	// Count of failures in a row; 0: none.
	Count int
	// NotBefore is when to try again.
	NotBefore time.Time
	// Reason and Message for the conditions.
	Reason, Message string
	// Stalled: nothing gets better until a person changes something.
	Stalled bool
	// Final: trying again makes no sense.
	Final bool
}

func (f Failure) waiting(now time.Time) bool { return f.Count > 0 && now.Before(f.NotBefore) }

// TryKey names a record in Tries.End.
func TryKey(rec *v1alpha1.LeaseRecord) string { return rec.TokenAccessor + "|" + rec.ID }

// Action is what a Step does.
type Action string

const (
	// Wait does nothing until Step.At, or until something changes.
	Wait Action = "Wait"
	// AddFinalizer makes sure that the object does not go before its leases.
	AddFinalizer Action = "AddFinalizer"
	// IssueCredential logs in, journals, and asks for a credential.
	IssueCredential Action = "IssueCredential"
	// RecordLease turns the held answer into the lease.
	RecordLease Action = "RecordLease"
	// DropAttempt moves the attempt to the retiring records.
	DropAttempt Action = "DropAttempt"
	// ResolveHeld settles a held answer whose attempt somebody else has dropped meanwhile.
	ResolveHeld Action = "ResolveHeld"
	// DropLease moves the lease to the retiring records.
	DropLease Action = "DropLease"
	// PublishSecret writes the held credential.
	PublishSecret Action = "PublishSecret"
	// SyncSecret brings name, type, labels and annotations of the Secret in line, with the data that it has.
	SyncSecret Action = "SyncSecret"
	// DeleteSecret deletes the Secret.
	DeleteSecret Action = "DeleteSecret"
	// RenewLease renews by id.
	RenewLease Action = "RenewLease"
	// VerifyLease asks the backend whether a suspect lease lives.
	VerifyLease Action = "VerifyLease"
	// AcknowledgeRenew notes an order to renew that there is nothing to do for.
	AcknowledgeRenew Action = "AcknowledgeRenew"
	// ExtendToken extends the issuing token.
	ExtendToken Action = "ExtendToken"
	// RenewRetiring renews a retiring lease that consumers may still use.
	RenewRetiring Action = "RenewRetiring"
	// ExtendRetiring extends the issuing token of one.
	ExtendRetiring Action = "ExtendRetiring"
	// FollowRollout stamps the consumers and looks how far they are.
	FollowRollout Action = "FollowRollout"
	// EndRecord ends a retiring record in the backend.
	EndRecord Action = "EndRecord"
	// AbandonRecord gives a retiring record up.
	AbandonRecord Action = "AbandonRecord"
	// RemoveFinalizer lets the object go.
	RemoveFinalizer Action = "RemoveFinalizer"
)

// Step is the decision: one thing to do now, or to wait.
type Step struct {
	Action Action
	// Reason is why, in the words of the conditions.
	Reason string
	// Record is the index into status.retiring, for EndRecord, AbandonRecord, RenewRetiring and ExtendRetiring.
	Record int
	// Hold, for FollowRollout: workloads that other Secrets share wait for these.
	Hold bool
	// EndAfter is when the backend is done with the attempt at the latest, for DropAttempt.
	EndAfter time.Time
	// At is when to look again, for Wait; zero: when something changes.
	At time.Time
	// Next is what will be due, in the words of status.nextAction, and NextAt when; empty: nothing.
	Next   string
	NextAt time.Time
	// Blocked is what keeps a due issue from being made, for Wait.
	Blocked *Block
}
