package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

const (
	// stalledPause is between tries of an order that waits for a person.
	stalledPause = time.Minute
	// firstLook is the pause after a look that found fewer leases than the one before; it doubles up to lastLook for as
	// long as it does not.
	firstLook = 250 * time.Millisecond
	lastLook  = 30 * time.Second
	// lookPerLease is added for each lease that was found: their successors are wanted more than another look.
	lookPerLease = 10 * time.Millisecond
	// idleLooks is after how many looks without progress the backend is asked what is in the way.
	idleLooks = 3
	// askedAtOnce and forcedAtOnce bound how many leases are asked for by themselves in one look.
	askedAtOnce, forcedAtOnce = 16, 256
	// forceAfter is how long Vault is let try by itself before a lease is forced.
	forceAfter = 5 * time.Second
	// forceWorkers is how many are forced at the same time.
	forceWorkers = 8
	// holdersPatience is how long after the backend took the order it is waited for DynamicSecrets that still name one of its
	// leases. Whoever may write a status can have it name any.
	holdersPatience = time.Minute
)

// revocation is a LeaseRevocation that is being carried out.
type revocation struct {
	*v1alpha1.LeaseRevocation
	// order is what to revoke, with the provider's defaults.
	order vault.Order
	// stored is the status as the API server has it.
	stored *v1alpha1.LeaseRevocationStatus
	// known is what this process remembers of it.
	known    *knownOrder
	provider v1alpha1.Provider
	backend  revoker
}

// knownOrder is what this process knows of an order and no other does. Losing it costs a few look-ups, and, where the
// answer to the order was lost with it, that the order is given once more.
type knownOrder struct {
	uid types.UID
	// before are the leases that were there before the order was given: what remains of them is its business. since are
	// leases that turned up later and live: those are others.
	before, since map[string]bool
	// acceptedAt is when the backend took the order, whether that could be written or not.
	acceptedAt time.Time
	// refused: the last try to give the order was one that cannot have done anything.
	refused bool
	// forced are leases that were forced and are not in the status yet.
	forced int64
	// told: the DynamicSecrets concerned were made to look.
	told bool
	// failures in a row; looks in a row without progress, and what the last one found.
	failures, idle, found int
}

// orders is the memory of all orders, by name.
type orders struct {
	mu    sync.Mutex
	known map[string]*knownOrder
}

func (m *orders) of(r *v1alpha1.LeaseRevocation) *knownOrder {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.known[r.Name]
	if k == nil || k.uid != r.UID {
		k = &knownOrder{uid: r.UID, before: map[string]bool{}, since: map[string]bool{}}
		if m.known == nil {
			m.known = map[string]*knownOrder{}
		}
		m.known[r.Name] = k
	}
	return k
}

func (m *orders) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, name)
}

// blocked is an error that says what a condition should.
type blocked struct{ lease.Block }

func (b *blocked) Error() string { return b.Message }

// blockOf is what an error means for the conditions; false: it is one of the API server's.
func blockOf(err error) (lease.Block, bool) {
	var b *blocked
	if errors.As(err, &b) {
		return b.Block, true
	}
	var e *backend.Error
	if errors.As(err, &e) {
		return backend.BlockFor(e), true
	}
	return lease.Block{}, false
}

// carryOut takes the order as far as it goes and says when to look again; zero: never. What was seen and what is meant to
// be done is in the status before it is done, and that the backend took the order before anybody acts on it: a crash at
// any point is gone on from.
func (r *LeaseRevocationReconciler) carryOut(ctx context.Context, o *revocation) (time.Duration, error) {
	if err := r.find(ctx, o); err != nil {
		return 0, err
	}
	if o.Status.AcceptedAt == nil && o.known.acceptedAt.IsZero() {
		if err := r.give(ctx, o); err != nil {
			return 0, err
		}
	}
	if o.Status.AcceptedAt == nil {
		o.Status.AcceptedAt = &metav1.Time{Time: o.known.acceptedAt}
		if err := r.write(ctx, o, metav1.ConditionFalse, o.underWay()); err != nil {
			return 0, err
		}
	}
	pause, err := r.follow(ctx, o)
	if err == nil {
		o.known.failures = 0
	}
	return pause, err
}

// find the provider and its backend.
func (r *LeaseRevocationReconciler) find(ctx context.Context, o *revocation) error {
	ref := o.Spec.ProviderRef
	p, err := lifecycle.GetProvider(ctx, r.client, ref.Kind, ref.Name, ref.Namespace)
	if apierrors.IsNotFound(err) {
		return &blocked{lease.Block{Reason: v1alpha1.ReasonProviderNotFound, Stalled: true,
			Message: fmt.Sprintf("%s %s does not exist: create it, or make another LeaseRevocation that names the right one.", ref.Kind, strings.TrimPrefix(ref.Namespace+"/"+ref.Name, "/"))}}
	}
	if err != nil {
		return err
	}
	o.provider = p
	if o.backend, err = r.Revoker(ctx, p); err != nil {
		return err
	}
	o.order = vault.Order{Namespace: o.Spec.VaultNamespace, Prefix: o.Spec.Prefix, LeaseID: o.Spec.LeaseID, Force: o.Spec.Force}
	if o.order.Namespace == "" {
		o.order.Namespace = p.ProviderSpec().Vault.Namespace
	}
	return nil
}

// give counts the leases, writes that down, and gives the backend the order.
func (r *LeaseRevocationReconciler) give(ctx context.Context, o *revocation) error {
	ids, err := o.backend.Matching(ctx, o.order)
	if err != nil {
		return err
	}
	holders, err := r.holders(ctx, o)
	if err != nil {
		return err
	}
	if o.known.refused {
		o.known.before, o.Status.MatchedLeases, o.Status.DynamicSecrets = map[string]bool{}, nil, nil
	}
	for _, id := range ids {
		o.known.before[id] = true
	}
	if o.Status.StartedAt == nil {
		o.Status.StartedAt = &metav1.Time{Time: r.Clock.Now()}
	}
	// A try whose answer was lost may have revoked some.
	o.Status.MatchedLeases = atLeast(o.Status.MatchedLeases, len(o.known.before))
	o.Status.DynamicSecrets = atLeast(o.Status.DynamicSecrets, len(holders))
	o.Status.RemainingLeases = count(len(ids))
	b := o.underWay()
	if o.known.failures > 0 {
		b = lease.Block{} // what failed the last time stands until it no longer fails
	}
	if err := r.write(ctx, o, metav1.ConditionFalse, b); err != nil {
		return err
	}
	log.FromContext(ctx).Info("revoking leases", o.logged("matched", o.Status.MatchedLeases, "dynamicSecrets", o.Status.DynamicSecrets)...)
	if err = o.backend.RevokeAll(ctx, o.order); err != nil {
		o.known.refused = backend.KindOf(err) == backend.Denied || backend.KindOf(err) == backend.Unavailable
		return err
	}
	o.known.acceptedAt = r.Clock.Now()
	return nil
}

// follow looks at what the backend still has, makes the DynamicSecrets concerned look too, and finishes the order when
// both have let go.
func (r *LeaseRevocationReconciler) follow(ctx context.Context, o *revocation) (time.Duration, error) {
	holders, err := r.holders(ctx, o)
	if err != nil {
		return 0, err
	}
	if !o.known.told {
		r.tell(ctx, o, holders)
	}
	ids, err := o.backend.Matching(ctx, o.order)
	if err != nil {
		return 0, err
	}
	left, others, err := o.sort(ctx, ids)
	if err != nil {
		return 0, err
	}
	holders = slices.DeleteFunc(holders, func(d *v1alpha1.DynamicSecret) bool { return others[d.Status.Lease.ID] })
	if o.known.told {
		r.tell(ctx, o, holders)
	}
	o.known.told = true
	o.Status.RemainingLeases = count(len(left))
	if len(left) == 0 && (len(holders) == 0 || r.Clock.Now().Sub(o.Status.AcceptedAt.Time) > holdersPatience) {
		return r.finish(ctx, o, holders)
	}
	pause := o.known.pause(len(left) + len(holders))
	if o.known.idle < idleLooks || len(left) == 0 {
		return pause, r.write(ctx, o, metav1.ConditionFalse, o.underWay())
	}
	b, helped := r.help(ctx, o, left)
	if helped {
		pause = firstLook
	}
	return pause, r.write(ctx, o, metav1.ConditionFalse, b)
}

// sort what the backend lists into what is left of the order's leases and the others. Those were issued since: they live, and
// every one of the order's is dead.
func (o *revocation) sort(ctx context.Context, ids []string) (left []string, others map[string]bool, err error) {
	others = map[string]bool{}
	for _, id := range ids {
		if !o.known.before[id] && !o.known.since[id] && o.Spec.LeaseID == "" {
			lives, err := o.backend.Lives(ctx, o.order, id)
			if err != nil {
				return nil, nil, err
			}
			o.known.since[id], o.known.before[id] = lives, !lives
		}
		if o.known.since[id] {
			others[id] = true
		} else {
			left = append(left, id)
		}
	}
	return left, others, nil
}

// help the backend with leases that it does not get rid of, and say what stands in the way. It says whether that got rid of
// any.
func (r *LeaseRevocationReconciler) help(ctx context.Context, o *revocation, left []string) (lease.Block, bool) {
	if o.Spec.Force && r.Clock.Now().Sub(o.Status.AcceptedAt.Time) > forceAfter {
		return r.force(ctx, o, left)
	}
	return r.ask(ctx, o, left)
}

// ask for some of the leases one by one, in turn, which makes the backend try them again at once.
func (r *LeaseRevocationReconciler) ask(ctx context.Context, o *revocation, left []string) (lease.Block, bool) {
	gentle, helped := o.order, false
	gentle.Force = false
	first := o.known.idle * askedAtOnce % len(left)
	for i := range min(askedAtOnce, len(left)) {
		if err := o.backend.RevokeOne(ctx, gentle, left[(first+i)%len(left)]); err != nil {
			return r.standing(o, err), helped
		}
		helped = true
	}
	return o.underWay(), helped
}

// force is ask for all of them, and some at a time: a database that does not even refuse is slow to fail.
func (r *LeaseRevocationReconciler) force(ctx context.Context, o *revocation, left []string) (lease.Block, bool) {
	left = left[:min(len(left), forcedAtOnce)]
	errs := make([]error, len(left))
	var wait sync.WaitGroup
	for worker := range forceWorkers {
		wait.Go(func() {
			for i := worker; i < len(left); i += forceWorkers {
				errs[i] = o.backend.RevokeOne(ctx, o.order, left[i])
			}
		})
	}
	wait.Wait()
	b := o.underWay()
	for i, err := range errs {
		if err == nil {
			o.known.forced++
			log.FromContext(ctx).Info("lease revoked by force", o.logged("revoked", left[i])...)
		} else {
			b = r.standing(o, err)
		}
	}
	return b, o.known.forced > 0
}

// standing says what stands in the way of leases that are left.
func (r *LeaseRevocationReconciler) standing(o *revocation, err error) lease.Block {
	r.Count(string(backend.KindOf(err)))
	b := backend.BlockFor(err)
	b.Message = o.underWay().Message + " They are dead to Vault; what they stand for lives until it is ended: " + b.Message
	return b
}

// finish the order.
func (r *LeaseRevocationReconciler) finish(ctx context.Context, o *revocation, holders []*v1alpha1.DynamicSecret) (time.Duration, error) {
	o.Status.CompletedAt = &metav1.Time{Time: r.Clock.Now()}
	message := fmt.Sprintf("Revoked %s: %s matched, %s had one of them.", o.order, plural(ptr.Deref(o.Status.MatchedLeases, 0), "lease"), plural(ptr.Deref(o.Status.DynamicSecrets, 0), "DynamicSecret"))
	if forced := o.Status.ForcedLeases + o.known.forced; forced > 0 {
		message += fmt.Sprintf(" %s by force: what could not be ended may be alive in the backend, and nobody knows of it any more.", plural(forced, "lease"))
	}
	if len(holders) > 0 {
		message += " These DynamicSecrets still name one: " + names(holders) + "."
	}
	if err := r.write(ctx, o, metav1.ConditionTrue, lease.Block{Reason: v1alpha1.ReasonLeasesRevoked, Message: message}); err != nil {
		return 0, err
	}
	r.Count("success")
	log.FromContext(ctx).Info("revoked leases", o.logged("matched", o.Status.MatchedLeases, "dynamicSecrets", o.Status.DynamicSecrets)...)
	if ttl := o.Spec.TTLSecondsAfterFinished; ttl != nil {
		return max(time.Second, time.Duration(*ttl)*time.Second), nil
	}
	return 0, nil
}

func (o *revocation) underWay() lease.Block {
	return lease.Block{Reason: v1alpha1.ReasonRevokingLeases,
		Message: fmt.Sprintf("Revoking %s: %d of %d are left.", o.order, ptr.Deref(o.Status.RemainingLeases, 0), ptr.Deref(o.Status.MatchedLeases, 0))}
}

// holders lists the DynamicSecrets whose lease the order covers.
func (r *LeaseRevocationReconciler) holders(ctx context.Context, o *revocation) ([]*v1alpha1.DynamicSecret, error) {
	var list v1alpha1.DynamicSecretList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // they are only looked at
		return nil, err
	}
	var holders []*v1alpha1.DynamicSecret
	address := o.provider.ProviderSpec().Vault.Address
	for i := range list.Items {
		d := &list.Items[i]
		if rec := d.Status.Lease; lease.Leased(rec) && rec.Address == address && rec.VaultNamespace == o.order.Namespace && o.order.Covers(rec.ID) {
			holders = append(holders, d)
		}
	}
	return holders, nil
}

// tell the DynamicSecrets. A lease that this process has listed before the order is dead, for the backend took the order;
// of another, which may have been issued since, the DynamicSecret asks the backend.
func (r *LeaseRevocationReconciler) tell(ctx context.Context, o *revocation, holders []*v1alpha1.DynamicSecret) {
	for _, d := range holders {
		if o.known.before[d.Status.Lease.ID] {
			r.Lost(ctx, d)
		} else {
			r.Suspect(ctx, d)
		}
	}
}

// pause until the next look, after one that found so many leases and holders. A list of many is not asked for all the time.
func (k *knownOrder) pause(found int) time.Duration {
	if found < k.found || k.found == 0 {
		k.idle = 0
	} else {
		k.idle++
	}
	k.found = found
	return min(firstLook<<min(k.idle, 16)+time.Duration(found)*lookPerLease, lastLook)
}

func names(objects []*v1alpha1.DynamicSecret) string {
	const most = 5
	var all []string
	for _, d := range objects[:min(most, len(objects))] {
		all = append(all, d.Namespace+"/"+d.Name)
	}
	if len(objects) > most {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}

// atLeast is the number, or what was there where that is more.
func atLeast(was *int64, n int) *int64 {
	if was != nil && *was > int64(n) {
		return was
	}
	return count(n)
}
