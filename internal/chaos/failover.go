package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// failoverObjects are Ready while leaders fall.
const failoverObjects = 50

// Takeover is what happened when a leader fell.
type Takeover struct {
	// Fall is how.
	Fall string
	// Elected and Acted are how long after that another replica held the Lease of the election, and had renewed what
	// was ordered at the moment of the fall.
	Elected, Acted time.Duration
	// Issued credentials, Secrets that changed and leases that were lost meanwhile.
	Issued, Changed, Lost int
}

func (t Takeover) rows(row func(string, any)) {
	row("leader "+t.Fall, fmt.Sprintf("another elected after %s, had renewed after %s; %d issued, %d Secrets changed, %d leases lost",
		t.Elected.Round(100*time.Millisecond), t.Acted.Round(100*time.Millisecond), t.Issued, t.Changed, t.Lost))
}

// replica has a way of its own to the API server.
type replica struct {
	*testbed.Manager
	api *testbed.Proxy
}

func (s *site) newReplica(ctx context.Context) (*replica, error) {
	api, err := testbed.StartProxy(s.bed.Plane.Config.Host, testbed.ProxyOptions{CA: s.bed.Plane.CA, TLS: true})
	if err != nil {
		return nil, err
	}
	m, err := s.bed.NewManagerVia(ctx, api, "--leader-elect=true",
		"--leader-election-lease-duration=15s", "--leader-election-renew-deadline=10s", "--leader-election-retry-period=2s")
	return &replica{m, api}, err
}

func (r *replica) close() error {
	if r == nil || r.Manager == nil {
		return nil
	}
	return errors.Join(r.Raced(), r.Manager.Close(), r.api.Close())
}

// fall is a way in which a leader falls.
type fall struct {
	how string
	// strike makes it fall. recover undoes that once another has taken over, and waits until it knows that it leads no more.
	strike, recover func(ctx context.Context, leader *replica) error
}

var falls = []fall{
	{"killed", func(_ context.Context, r *replica) error { return r.Kill() },
		func(context.Context, *replica) error { return nil }},
	{"paused, then woken", func(_ context.Context, r *replica) error { return r.Pause() },
		func(ctx context.Context, r *replica) error { return errors.Join(r.Resume(), r.ends(ctx)) }},
	{"cut off from the API server", func(_ context.Context, r *replica) error { return r.api.RefuseConnections() },
		func(ctx context.Context, r *replica) error { return errors.Join(r.ends(ctx), r.api.Accept()) }},
}

// ends waits until the process has: one that has lost the election does.
func (r *replica) ends(ctx context.Context) error {
	return eventually(ctx, "a former leader to end", func() (string, error) {
		if r.Running() {
			return "it runs", nil
		}
		return "", nil
	})
}

// failover lets leaders fall, one after the other, while objects are Ready.
func (s *site) failover(ctx context.Context, report *Report) (err error) {
	if err := s.bed.Manager.Stop(); err != nil {
		return err
	}
	say(s.opts, "failover: two replicas, %d objects", failoverObjects)
	var leader, standby *replica
	defer func() { err = errors.Join(err, leader.close(), standby.close()) }()
	for _, r := range []**replica{&leader, &standby} {
		if *r, err = s.newReplica(ctx); err != nil {
			return err
		}
		if err := (*r).Run(ctx); err != nil {
			return err
		}
		// The first leads before there is a second.
		if err := eventually(ctx, "a leader", func() (string, error) { return s.emptyIf(ctx, func(holder string) bool { return holder != "" }) }); err != nil {
			return err
		}
	}
	if err := s.plantForFailover(ctx); err != nil {
		return err
	}
	var broken []error
	for _, f := range falls {
		t, err := s.takeOver(ctx, f, leader)
		report.Takeovers = append(report.Takeovers, t)
		say(s.opts, "leader %s: another elected after %.1f s", f.how, t.Elected.Seconds())
		if err != nil {
			err = fmt.Errorf("leader %s: %w\n%s", f.how, err, standby.LastWords(30))
			broken = append(broken, err)
		}
		if err := leader.Run(ctx); err != nil {
			return errors.Join(append(broken, err)...)
		}
		leader, standby = standby, leader
	}
	broken = append(broken, s.deleteAll(ctx), s.nothingLeft(ctx, &Report{}))
	err = errors.Join(broken...)
	if err != nil {
		report.Verdict = Broken
	} else if report.Verdict == "" {
		report.Verdict = Kept
	}
	return err
}

func (s *site) plantForFailover(ctx context.Context) error {
	for i := range failoverObjects {
		if err := s.kube.Create(ctx, object(fmt.Sprintf("orders-%02d", i), "patient-180", 67)); err != nil {
			return err
		}
	}
	return eventually(ctx, "all objects to be Ready", func() (string, error) {
		objects, err := s.objects(ctx)
		for name, d := range objects {
			if !atRest(d) {
				return name + " is not", err
			}
		}
		return "", err
	})
}

// takeOver lets the leader fall and watches what the other does.
func (s *site) takeOver(ctx context.Context, f fall, leader *replica) (Takeover, error) {
	t := Takeover{Fall: f.how}
	before, err1 := s.state(ctx)
	mark, err2 := s.bed.Vault.Mark()
	was, err3 := s.holder(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return t, err
	}
	at := time.Now()
	if err := f.strike(ctx, leader); err != nil {
		return t, err
	}
	if err := s.orderRenewal(ctx, f.how); err != nil {
		return t, err
	}
	err := eventually(ctx, "another leader", func() (string, error) {
		return s.emptyIf(ctx, func(holder string) bool { return holder != "" && holder != was })
	})
	t.Elected = time.Since(at)
	if err != nil {
		return t, err
	}
	err = s.untilRenewed(ctx, f.how)
	t.Acted = time.Since(at)
	if err := errors.Join(err, f.recover(ctx, leader)); err != nil {
		return t, err
	}
	return t, s.compare(ctx, &t, before, mark)
}

// compare what there is now with what there was before a leader fell.
func (s *site) compare(ctx context.Context, t *Takeover, before state, mark testbed.Mark) error {
	after, err1 := s.state(ctx)
	issued, err2 := s.bed.Vault.Requests(mark, "^read "+place+"/creds/")
	leases, err3 := s.bed.Vault.Leases(ctx, place)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	t.Issued = len(issued)
	for name := range before.secrets {
		if after.secrets[name] != before.secrets[name] {
			t.Changed++
		}
	}
	for name, id := range before.leases {
		if after.leases[name] != id || !slices.Contains(leases, id) {
			t.Lost++
		}
	}
	if t.Issued+t.Changed+t.Lost > 0 || !maps.Equal(before.secrets, after.secrets) || len(leases) != len(before.leases) {
		return fmt.Errorf("%d credentials were issued, %d Secrets changed, %d leases lost; Vault has %d leases for %d objects",
			t.Issued, t.Changed, t.Lost, len(leases), len(before.leases))
	}
	return nil
}

// state is the versions of the Secrets and the ids of the leases, by object.
type state struct{ secrets, leases map[string]string }

func (s *site) state(ctx context.Context) (state, error) {
	versions, err1 := s.versions(ctx)
	objects, err2 := s.objects(ctx)
	leases := map[string]string{}
	for name, d := range objects {
		if d.Status.Lease != nil {
			leases[name] = d.Status.Lease.ID
		}
	}
	return state{versions, leases}, errors.Join(err1, err2)
}

// emptyIf is for eventually: who leads must be as wanted.
func (s *site) emptyIf(ctx context.Context, ok func(holder string) bool) (string, error) {
	holder, err := s.holder(ctx)
	if err != nil || ok(holder) {
		return "", err
	}
	return "it is " + holder, nil
}

// holder of the Lease of the election; empty: nobody.
func (s *site) holder(ctx context.Context) (string, error) {
	var l coordinationv1.Lease
	err := s.kube.Get(ctx, types.NamespacedName{Namespace: testbed.ManagerNamespace, Name: "leasekeeper.leasekeeper.io"}, &l)
	if err != nil || l.Spec.HolderIdentity == nil {
		return "", err
	}
	return *l.Spec.HolderIdentity, nil
}

const orderedObject = "orders-00"

func (s *site) orderRenewal(ctx context.Context, value string) error {
	return s.annotate(ctx, orderedObject, v1alpha1.RenewRequestedAtAnnotation, value)
}

func (s *site) untilRenewed(ctx context.Context, value string) error {
	return eventually(ctx, "the ordered renewal", func() (string, error) {
		objects, err := s.objects(ctx)
		if d := objects[orderedObject]; err == nil && d != nil && d.Status.LastHandledRenewAt != value {
			return "it was not made", nil
		}
		return "", err
	})
}
