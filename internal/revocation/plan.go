// Package revocation carries out LeaseRevocations.
//
// Plan decides what to do next; it is pure. Runner observes, plans, executes one step, writes the status once, and asks
// to be called again.
package revocation

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	// countLife is how long a stored count permits the revocation. A process that was paused for longer counts again,
	// and so learns whether another process has continued in the meantime.
	countLife = 10 * time.Second
	// stalledPause is the pause between attempts that can only succeed after a person has changed something, such as
	// the policy at the backend, which nobody watches. They revoke during an incident, and do not want to wait.
	stalledPause = 4 * time.Second
	// obstaclePause is the pause between attempts to find the backend.
	obstaclePause = 5 * time.Second
	// firstPause is the pause after a check that found fewer leases than the one before. It doubles with every check
	// that did not, up to lastPause.
	firstPause = 250 * time.Millisecond
	lastPause  = 30 * time.Second
	// pausePerLease is added for each lease and DynamicSecret that was found: long lists are requested less often.
	pausePerLease = 10 * time.Millisecond
	// idleChecks is the number of checks without progress after which leases are revoked one by one.
	idleChecks = 3
	// gracePeriod is how long the backend tries to revoke the leases before they are forced.
	gracePeriod = 5 * time.Second
	// holdersPatience limits the wait for DynamicSecrets that still have one of the leases: everyone who can write a
	// status can put any id there.
	holdersPatience = time.Minute
)

// Action is a step of a revocation.
type Action string

const (
	// WaitUntil does nothing until Step.At.
	WaitUntil Action = "WaitUntil"
	// CountLeases lists the leases and stores their number.
	CountLeases Action = "CountLeases"
	// RevokeLeases makes the backend revoke the leases, and stores that it accepted that.
	RevokeLeases Action = "RevokeLeases"
	// RecordAcceptance stores that the backend accepted the revocation.
	RecordAcceptance Action = "RecordAcceptance"
	// NotifyHolders makes the DynamicSecrets that have one of the leases check it now.
	NotifyHolders Action = "NotifyHolders"
	// CheckLeases lists the leases that remain.
	CheckLeases Action = "CheckLeases"
	// RetryLeases revokes some of the remaining leases one by one.
	RetryLeases Action = "RetryLeases"
	// ForceLeases makes the backend forget remaining leases.
	ForceLeases Action = "ForceLeases"
	// Complete stores that no lease remains.
	Complete Action = "Complete"
	// DeleteObject deletes the LeaseRevocation.
	DeleteObject Action = "DeleteObject"
)

// contactsBackend is true for the actions that send requests to the backend.
func (a Action) contactsBackend() bool {
	switch a {
	case CountLeases, RevokeLeases, CheckLeases, RetryLeases, ForceLeases:
		return true
	default:
		return false
	}
}

// Step is what to do next.
type Step struct {
	Action Action
	// At is when a WaitUntil ends. Zero: nothing is left to do.
	At time.Time
	// Obstacle is why the backend cannot be used; nil: it can.
	Obstacle *lease.Block
}

// Input is everything that Plan decides from.
type Input struct {
	Now    time.Time
	Object *v1alpha1.LeaseRevocation
	Observation
	// Facts of this process; nil: it knows nothing.
	Facts *Facts
}

// Observation is what was observed outside of the object.
type Observation struct {
	// Obstacle is why the backend cannot be used; nil: it can.
	Obstacle *lease.Block
	// Provider identifies the version of the provider. If it changes, a failed step is repeated at once.
	Provider string
	// Holders is the number of DynamicSecrets that have one of the leases.
	Holders int
}

// Plan returns the next step. It is total and does not modify its input.
func Plan(in Input) Step {
	r, facts := in.Object, in.Facts
	if facts == nil {
		facts = &Facts{}
	}
	switch {
	case !r.DeletionTimestamp.IsZero():
		return Step{Action: WaitUntil}
	case r.Finished():
		return planExpiry(r, in.Now)
	case in.Obstacle != nil:
		return waitForObstacle(in.Obstacle, in.Now)
	case facts.Failure.pausesUntil(in.Provider).After(in.Now):
		return Step{Action: WaitUntil, At: facts.Failure.NotBefore}
	case r.Status.AcceptedAt == nil && !facts.AcceptedAt.IsZero():
		return Step{Action: RecordAcceptance}
	case r.Status.AcceptedAt == nil && !facts.Counted.permits(r, in.Now):
		return Step{Action: CountLeases}
	case r.Status.AcceptedAt == nil:
		return Step{Action: RevokeLeases}
	case !facts.Notified:
		return Step{Action: NotifyHolders}
	case facts.Check.At.IsZero():
		return Step{Action: CheckLeases}
	}
	return planCompletion(in, facts)
}

// planExpiry deletes a finished LeaseRevocation after its ttlSecondsAfterFinished.
func planExpiry(r *v1alpha1.LeaseRevocation, now time.Time) Step {
	if r.Spec.TTLSecondsAfterFinished == nil {
		return Step{Action: WaitUntil}
	}
	at := r.Status.CompletedAt.Add(time.Duration(*r.Spec.TTLSecondsAfterFinished) * time.Second)
	if at.After(now) {
		return Step{Action: WaitUntil, At: at}
	}
	return Step{Action: DeleteObject}
}

func waitForObstacle(why *lease.Block, now time.Time) Step {
	pause := obstaclePause
	if why.Stalled {
		pause = stalledPause
	}
	return Step{Action: WaitUntil, At: now.Add(pause), Obstacle: why}
}

// planCompletion decides after the backend has accepted the revocation and the leases were checked at least once.
func planCompletion(in Input, facts *Facts) Step {
	accepted := in.Now.Sub(in.Object.Status.AcceptedAt.Time)
	next := facts.Check.At.Add(facts.Check.pause())
	switch {
	case len(facts.Check.Remaining) == 0 && (in.Holders == 0 || accepted > holdersPatience):
		return Step{Action: Complete}
	case facts.Check.needsHelp() && !facts.Check.Helped && in.Object.Spec.Forced() && accepted > gracePeriod:
		return Step{Action: ForceLeases}
	case facts.Check.needsHelp() && !facts.Check.Helped:
		return Step{Action: RetryLeases}
	case next.After(in.Now):
		return Step{Action: WaitUntil, At: next}
	}
	return Step{Action: CheckLeases}
}
