package revocation

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

const (
	// retriedAtOnce and forcedAtOnce limit how many leases one step revokes one by one.
	retriedAtOnce, forcedAtOnce = 16, 256
	// forceWorkers is how many leases are forced at the same time: a database that is unreachable is slow to fail.
	forceWorkers = 8
)

// list continues the list for the action until it is complete or the time of the step is used up.
func (w *work) list(ctx context.Context, action Action) (complete bool, err error) {
	l := &w.facts.Listing
	if l.For != action {
		*l = Listing{For: action}
	}
	for !l.Complete {
		if err := w.bulk.ListNext(ctx, &w.Spec, &l.Listing); err != nil {
			return false, err
		}
		if !l.Complete && !w.hasTime() {
			return false, nil
		}
	}
	return true, nil
}

// count lists the leases and stores their number. Nothing is revoked before that.
func (w *work) count(ctx context.Context) error {
	if w.facts.Counted.stored(w.LeaseRevocation) { // too long ago: the same count is stored again
		return w.storeCount(ctx)
	}
	complete, err := w.list(ctx, CountLeases)
	if err != nil {
		return err
	}
	if !complete {
		return w.write(ctx, w.unlessFailed(w.listing()))
	}
	ids := w.facts.Listing.IDs
	if w.facts.Rejected {
		clear(w.facts.Own)
		w.Status.MatchedLeases, w.Status.DynamicSecrets = nil, nil
	}
	for _, id := range ids {
		w.facts.Own[id] = true
	}
	if w.Status.StartedAt == nil {
		w.Status.StartedAt = &metav1.Time{Time: w.Clock.Now()}
	}
	// An attempt without a response may have revoked some of the leases, so the numbers never decrease.
	w.Status.MatchedLeases = atLeast(w.Status.MatchedLeases, len(w.facts.Own))
	w.Status.DynamicSecrets = atLeast(w.Status.DynamicSecrets, len(w.facts.concerned(w.holders)))
	w.Status.RemainingLeases = number(len(ids))
	return w.storeCount(ctx)
}

// storeCount stores the count, and so learns if another process has continued.
func (w *work) storeCount(ctx context.Context) error {
	w.facts.Listing = Listing{}
	now := w.Clock.Now()
	if err := w.store(ctx, w.unlessFailed(w.underWay()), true); err != nil {
		return err
	}
	w.facts.Counted = Counted{At: now, Version: w.ResourceVersion}
	return nil
}

// unlessFailed is the summary of progress. The last failure is reported until the step succeeds.
func (w *work) unlessFailed(progress lease.Block) *lease.Summary {
	if w.facts.Failure.Count > 0 {
		return nil
	}
	return notReady(progress)
}

// notStarted are the errors after which the backend has revoked nothing.
var notStarted = []backend.ErrorKind{
	backend.Denied, backend.Unavailable, backend.Throttled, backend.QuotaExceeded, backend.Misconfigured,
}

// revoke makes the backend revoke the leases, and stores that it accepted that.
func (w *work) revoke(ctx context.Context) error {
	log.FromContext(ctx).Info("revoking leases",
		w.logged("matched", w.Status.MatchedLeases, "dynamicSecrets", w.Status.DynamicSecrets)...)
	if err := w.bulk.RevokeAll(ctx, &w.Spec); err != nil {
		kind := backend.KindOf(err)
		w.facts.Rejected = slices.Contains(notStarted, kind)
		w.facts.Counted = Counted{} // the leases are listed again
		return err
	}
	w.facts.AcceptedAt, w.facts.Failure = w.Clock.Now(), Failure{}
	return w.record(ctx)
}

// record stores that the backend accepted the revocation.
func (w *work) record(ctx context.Context) error {
	w.Status.AcceptedAt = &metav1.Time{Time: w.facts.AcceptedAt}
	return w.write(ctx, notReady(w.underWay()))
}

// notify the DynamicSecrets. Leases that this process listed before the revocation are gone. Others may be newer, so
// the DynamicSecret looks them up.
func (w *work) notify(ctx context.Context) {
	for _, h := range w.facts.concerned(w.holders) {
		var lost, suspect []string
		for _, id := range h.ids {
			if w.facts.Own[id] {
				lost = append(lost, id)
			} else {
				suspect = append(suspect, id)
			}
		}
		if len(lost) > 0 {
			w.Verifier.RaiseLost(ctx, h.object, lost...)
		}
		if len(suspect) > 0 {
			w.Verifier.Raise(ctx, h.object, suspect...)
		}
	}
}

// check lists the leases that remain, and notifies the DynamicSecrets that still have one.
func (w *work) check(ctx context.Context) error {
	complete, err := w.list(ctx, CheckLeases)
	if err != nil || !complete {
		return err
	}
	remaining, complete, err := w.own(ctx, w.facts.Listing.IDs)
	if err != nil || !complete {
		return err
	}
	w.facts.Listing, w.facts.Failure = Listing{}, Failure{}
	if !w.facts.Check.At.IsZero() {
		w.notify(ctx)
	}
	w.facts.Check = w.facts.Check.after(w.Clock.Now(), remaining, len(w.facts.concerned(w.holders)))
	w.Status.RemainingLeases = number(len(remaining))
	if w.facts.Check.needsHelp() {
		return w.write(ctx, nil) // the next step learns and reports why they remain
	}
	return w.write(ctx, notReady(w.underWay()))
}

// own returns the leases that existed before the revocation. Others were issued later: they live, and every lease that
// existed before has expired. It is incomplete if the time of the step is used up before all are looked up.
func (w *work) own(ctx context.Context, ids []string) (own []string, complete bool, err error) {
	lookups := 0
	for _, id := range ids {
		if !w.facts.Own[id] && !w.facts.Newer[id] {
			if lookups++; lookups > 1 && !w.hasTime() {
				return nil, false, nil
			}
			lives, err := w.bulk.Lives(ctx, &w.Spec, id)
			if err != nil {
				return nil, false, err
			}
			if lives {
				w.facts.Newer[id] = true
			} else {
				w.facts.Own[id] = true
			}
		}
		if !w.facts.Newer[id] {
			own = append(own, id)
		}
	}
	return own, true, nil
}

// retry revokes some of the remaining leases one by one, each time others. The server tries them again at once, and
// its error is reported.
func (w *work) retry(ctx context.Context) error {
	left := w.facts.Check.Remaining
	b := w.underWay()
	for i := range min(retriedAtOnce, len(left)) {
		if i > 0 && !w.hasTime() {
			break
		}
		id := left[w.facts.Retried%len(left)]
		w.facts.Retried++
		if err := w.bulk.RevokeOne(ctx, &w.Spec, id, false); err != nil {
			b = w.remains(err)
			break
		}
		w.facts.Check.Progress = true
	}
	w.facts.Check.Helped = true
	return w.write(ctx, notReady(b))
}

// force makes the backend forget remaining leases, several at a time, until the time of the step is used up.
func (w *work) force(ctx context.Context) error {
	left := w.facts.Check.Remaining
	left = left[:min(len(left), forcedAtOnce)]
	errs := make([]error, len(left))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(forceWorkers, len(left)) {
		wait.Go(func() {
			for first := true; first || w.hasTime(); first = false {
				i := int(next.Add(1)) - 1
				if i >= len(left) {
					return
				}
				errs[i] = w.bulk.RevokeOne(ctx, &w.Spec, left[i], true)
			}
		})
	}
	wait.Wait()
	tried := min(int(next.Load()), len(left))
	b := w.underWay()
	for i, err := range errs[:tried] {
		if err != nil {
			b = w.remains(err)
			continue
		}
		w.facts.Forced++
		w.facts.Check.Progress = true
		log.FromContext(ctx).Info("lease revoked by force", w.logged("lease", left[i])...)
	}
	w.facts.Check.Helped = tried == len(left)
	if !w.facts.Check.Helped {
		w.facts.Check.Remaining = w.facts.Check.Remaining[tried:] // the next step continues
	}
	return w.write(ctx, notReady(b))
}

// remains is why leases remain.
func (w *work) remains(err error) lease.Block {
	w.Recorder.CountRevocation(string(backend.KindOf(err)))
	b := backend.BlockFor(err)
	b.Message = w.underWay().Message + " The backend has expired them but cannot delete their accounts: " + b.Message
	return b
}

// finish stores that no lease remains.
func (w *work) finish(ctx context.Context) error {
	w.Status.CompletedAt = &metav1.Time{Time: w.Clock.Now()}
	w.Status.RemainingLeases = number(0) // the write after the last check may have failed
	if err := w.write(ctx, w.result()); err != nil {
		return err
	}
	w.Recorder.CountRevocation("success")
	log.FromContext(ctx).Info("revoked leases",
		w.logged("matched", w.Status.MatchedLeases, "dynamicSecrets", w.Status.DynamicSecrets)...)
	return nil
}

// remove deletes the object, unless it was written in the meantime.
func (w *work) remove(ctx context.Context) error {
	unchanged := client.Preconditions{UID: &w.UID, ResourceVersion: &w.ResourceVersion}
	err := w.Client.Delete(ctx, w.LeaseRevocation, unchanged)
	return client.IgnoreNotFound(err)
}

// atLeast is n, or the earlier number if that is greater.
func atLeast(before *int64, n int) *int64 {
	if before != nil && *before > int64(n) {
		return before
	}
	return number(n)
}

func number(n int) *int64 { return new(int64(n)) }
