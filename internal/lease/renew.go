package lease

import (
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	// refusalsBelieved is how many refusals in a row show that a lease, or its session, is not extended any more.
	refusalsBelieved = 3
	// refusalIsFresh is how long a refusal proves that another try is useless.
	refusalIsFresh = time.Second
)

func renew(v *view) *Step {
	if v.lapses() {
		return nil
	}
	for i := range v.leases {
		rec := &v.leases[i]
		if !Leased(rec) || exhausted(rec) {
			continue
		}
		at := v.renewalDue(rec)
		step := Step{Action: RenewLease, Reason: v1alpha1.ReasonRenewing, Record: i}
		if s := v.extend(rec, at, v.Tries.Renew[Key(rec)], step); s != nil {
			return s
		}
	}
	return nil
}

func extendSession(v *view) *Step {
	if v.lapses() {
		return nil
	}
	for i := range v.leases {
		rec := &v.leases[i]
		at, ok := v.extensionDue(rec)
		if !ok {
			continue
		}
		step := Step{Action: ExtendSession, Reason: v1alpha1.ReasonRenewing, Record: i}
		if s := v.extend(rec, at, v.Tries.ExtendSession[Key(rec)], step); s != nil {
			return s
		}
	}
	return nil
}

// extend is due, except that it does not wait after a refusal if the credential would be replaced because of it now.
func (v *view) extend(rec *v1alpha1.LeaseRecord, at time.Time, f Failure, s Step) *Step {
	stale := f.Refusals > 0 && v.Now.Sub(f.At) > refusalIsFresh
	if stale && v.replacesRefusedNow(rec) {
		return &s
	}
	return v.due(at, f, v1alpha1.NextRenew, s)
}

func (v *view) replacesRefusedNow(rec *v1alpha1.LeaseRecord) bool {
	at, ok := v.replaceRefusedAt(rec)
	return ok && !v.Now.Before(at) && !v.Tries.Issue.waiting(v.Now) && v.issueBlock() == nil
}

// replaceRefusedAt is when to replace a credential that could live longer, but that the backend keeps refusing to
// extend. False: nothing was refused repeatedly.
func (v *view) replaceRefusedAt(rec *v1alpha1.LeaseRecord) (at time.Time, ok bool) {
	if !Leased(rec) || rec.ExpiresAt == nil || v.spec.Reissue == v1alpha1.ReissueNever {
		return time.Time{}, false
	}
	if !exhausted(rec) && v.Tries.Renew[Key(rec)].Refusals >= refusalsBelieved {
		at, ok = v.giveUpAt(rec, v.renewalDue(rec), rec.ExpiresAt.Time), true
	}
	due, extendable := v.extensionDue(rec)
	if extendable && v.Tries.ExtendSession[Key(rec)].Refusals >= refusalsBelieved {
		if t := v.giveUpAt(rec, due, rec.Session.ExpiresAt.Time); !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// giveUpAt is when a credential is replaced whose extension has been due for a while: as long as the handover still
// fits before the end, and the second half of the time until then remains for failed issuances.
func (v *view) giveUpAt(rec *v1alpha1.LeaseRecord, due, end time.Time) time.Time {
	return earlierOf(due.Add(end.Sub(due)/2), handoverAt(v.Object, issuedAt(rec), end))
}

// lastRenewal renews an expired lease, or extends its session, once. nil: neither is possible, or this has failed.
func (v *view) lastRenewal(i int, rec *v1alpha1.LeaseRecord, end time.Time) *Step {
	s, f := v.extension(i, rec)
	if s == nil || f.Count > 0 && !f.At.Before(end) {
		return nil
	}
	return s
}

// extension is the step that extends the life of the record, and how it failed. nil: nothing can be extended.
func (v *view) extension(i int, rec *v1alpha1.LeaseRecord) (*Step, Failure) {
	key, reason := Key(rec), v1alpha1.ReasonRenewing
	switch {
	case !Leased(rec), v.lapses():
		return nil, Failure{}
	case sessionExpiresFirst(rec) && rec.Session.Renewable:
		return &Step{Action: ExtendSession, Reason: reason, Record: i}, v.Tries.ExtendSession[key]
	case exhausted(rec):
		return nil, Failure{}
	}
	return &Step{Action: RenewLease, Reason: reason, Record: i}, v.Tries.Renew[key]
}

// renewalDue is when the lease is due for renewal: early enough for a handover if the response shows that the lease is
// at its maximum.
func (v *view) renewalDue(rec *v1alpha1.LeaseRecord) time.Time {
	at := renewAt(rec, v.spec.RenewAtPercent, v.uid)
	if handoverTime(v.Object) > 0 && rec.ExpiresAt != nil {
		at = earlierOf(at, handoverAt(v.Object, lastGrant(rec), rec.ExpiresAt.Time))
	}
	if probe, known := probeAt(v.Object, rec); known && probe.After(lastGrant(rec)) {
		at = earlierOf(at, probe)
	}
	return at
}

// extensionDue is when the session of the lease is due for extension. False: never. It is extended for the sake of
// the lease that expires after it, and to learn its maximum while a handover still fits.
func (v *view) extensionDue(rec *v1alpha1.LeaseRecord) (time.Time, bool) {
	if !Leased(rec) || rec.ExpiresAt == nil || rec.Session == nil || !rec.Session.Renewable {
		return time.Time{}, false
	}
	at, first := extendSessionAt(rec, v.spec.RenewAtPercent, v.uid), sessionExpiresFirst(rec)
	if handoverTime(v.Object) == 0 {
		return at, first
	}
	end := rec.Session.ExpiresAt.Time
	probe := handoverAt(v.Object, end.Add(-duration(rec.Session.DurationSeconds)), end)
	if !first {
		return probe, true
	}
	return earlierOf(at, probe), true
}
