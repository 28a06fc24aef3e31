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

// failoverObjects is the number of objects that are Ready while leaders fail.
const failoverObjects = 50

// Takeover is the outcome of one leader failure.
type Takeover struct {
	// Failure of the leader.
	Failure string
	// Elected is the time until the other replica held the election Lease.
	Elected time.Duration
	// Acted is the time until it had renewed a lease whose renewal was requested at the failure.
	Acted time.Duration
	// Issued credentials, Changed Secrets and Lost leases during the failover. All must be 0.
	Issued, Changed, Lost int
}

func (t Takeover) rows(row func(string, any)) {
	const format = "new leader after %s, requested renewal after %s; %d issued, %d Secrets changed, %d leases lost"
	row("leader "+t.Failure, fmt.Sprintf(format,
		t.Elected.Round(100*time.Millisecond), t.Acted.Round(100*time.Millisecond), t.Issued, t.Changed, t.Lost))
}

// replica is a manager with its own proxy to the API server.
type replica struct {
	*testbed.Manager
	api *testbed.Proxy
}

func (e *environment) newReplica(ctx context.Context) (*replica, error) {
	api, err := testbed.StartProxy(e.bed.Plane.Config.Host, testbed.ProxyOptions{CA: e.bed.Plane.CA, TLS: true})
	if err != nil {
		return nil, err
	}
	m, err := e.bed.NewManagerVia(ctx, api, "--leader-elect=true", "--leader-election-lease-duration=15s",
		"--leader-election-renew-deadline=10s", "--leader-election-retry-period=2s")
	return &replica{m, api}, err
}

func (r *replica) close() error {
	if r == nil || r.Manager == nil {
		return nil
	}
	return errors.Join(r.Raced(), r.Manager.Close(), r.api.Close())
}

// leaderFailure is one way to make a leader fail.
type leaderFailure struct {
	name string
	// inject makes the leader fail. undo runs after another replica took over, and waits until the old leader has
	// exited.
	inject, undo func(ctx context.Context, leader *replica) error
}

var leaderFailures = []leaderFailure{
	{"killed", func(_ context.Context, r *replica) error { return r.Kill() },
		func(context.Context, *replica) error { return nil }},
	{"paused, then resumed", func(_ context.Context, r *replica) error { return r.Pause() },
		func(ctx context.Context, r *replica) error { return errors.Join(r.Resume(), r.awaitExit(ctx)) }},
	{"cut off from the API server", func(_ context.Context, r *replica) error { return r.api.RefuseConnections() },
		func(ctx context.Context, r *replica) error { return errors.Join(r.awaitExit(ctx), r.api.Accept()) }},
}

// awaitExit waits until the manager has exited, as it does after it lost the election.
func (r *replica) awaitExit(ctx context.Context) error {
	return eventually(ctx, "the old leader to exit", func() (string, error) {
		if r.Running() {
			return "it is still running", nil
		}
		return "", nil
	})
}

// failover makes one leader after the other fail while objects are Ready. Then the manager runs again.
func (e *environment) failover(ctx context.Context, report *Report) (err error) {
	if err := e.bed.Manager.Stop(); err != nil {
		return err
	}
	logf(e.opts, "failover: two replicas, %d objects", failoverObjects)
	var leader, standby *replica
	defer func() { err = errors.Join(err, leader.close(), standby.close(), e.bed.Manager.Run(ctx)) }()
	for _, r := range []**replica{&leader, &standby} {
		if *r, err = e.newReplica(ctx); err != nil {
			return err
		}
		if err := (*r).Run(ctx); err != nil {
			return err
		}
		// The first replica leads before the second starts.
		elected := func(id string) bool { return id != "" }
		if err := eventually(ctx, "a leader", func() (string, error) { return e.leaderIs(ctx, elected) }); err != nil {
			return err
		}
	}
	if err := e.createFailoverObjects(ctx); err != nil {
		return err
	}
	var broken []error
	for _, f := range leaderFailures {
		t, err := e.fail(ctx, f, leader)
		report.Takeovers = append(report.Takeovers, t)
		logf(e.opts, "leader %s: new leader after %.1f s", f.name, t.Elected.Seconds())
		if err != nil {
			err = fmt.Errorf("leader %s: %w\n%s", f.name, err, standby.LastWords(30))
			broken = append(broken, err)
		}
		if err := leader.Run(ctx); err != nil {
			return errors.Join(append(broken, err)...)
		}
		leader, standby = standby, leader
	}
	broken = append(broken, e.deleteAll(ctx), e.awaitNothingLeft(ctx, &Report{}))
	err = errors.Join(broken...)
	if err != nil {
		report.Verdict = Broken
	} else if report.Verdict == "" {
		report.Verdict = Kept
	}
	return err
}

func (e *environment) createFailoverObjects(ctx context.Context) error {
	for i := range failoverObjects {
		if err := e.kube.Create(ctx, object(fmt.Sprintf("orders-%02d", i), "bystander-180", 67)); err != nil {
			return err
		}
	}
	return eventually(ctx, "all objects to be Ready", func() (string, error) {
		objects, err := e.objects(ctx)
		for name, d := range objects {
			if !settled(d) {
				return name + " is not Ready", err
			}
		}
		return "", err
	})
}

// fail makes the leader fail and measures the takeover.
func (e *environment) fail(ctx context.Context, f leaderFailure, leader *replica) (Takeover, error) {
	t := Takeover{Failure: f.name}
	before, err1 := e.state(ctx)
	mark, err2 := e.bed.Vault.Mark()
	oldID, err3 := e.leaderID(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return t, err
	}
	failed := time.Now()
	if err := f.inject(ctx, leader); err != nil {
		return t, err
	}
	if err := e.requestRenewal(ctx, f.name); err != nil {
		return t, err
	}
	err := eventually(ctx, "another leader", func() (string, error) {
		return e.leaderIs(ctx, func(id string) bool { return id != "" && id != oldID })
	})
	t.Elected = time.Since(failed)
	if err != nil {
		return t, err
	}
	err = e.awaitRenewal(ctx, f.name)
	t.Acted = time.Since(failed)
	if err := errors.Join(err, f.undo(ctx, leader)); err != nil {
		return t, err
	}
	return t, e.compareState(ctx, &t, before, mark)
}

// compareState compares the current state with the state before the failure.
func (e *environment) compareState(ctx context.Context, t *Takeover, before state, mark testbed.Mark) error {
	after, err1 := e.state(ctx)
	issued, err2 := e.bed.Vault.Requests(mark, "^read "+runName+"/creds/")
	leases, err3 := e.bed.Vault.Leases(ctx, runName)
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
	same := maps.Equal(before.secrets, after.secrets) && len(leases) == len(before.leases)
	if t.Issued+t.Changed+t.Lost > 0 || !same {
		return fmt.Errorf("%d issued, %d Secrets changed, %d leases lost; Vault has %d leases for %d objects",
			t.Issued, t.Changed, t.Lost, len(leases), len(before.leases))
	}
	return nil
}

// state holds Secret versions and lease ids by object.
type state struct{ secrets, leases map[string]string }

func (e *environment) state(ctx context.Context) (state, error) {
	versions, err1 := e.secretVersions(ctx)
	objects, err2 := e.objects(ctx)
	leases := map[string]string{}
	for name, d := range objects {
		if onlyLease(d) != nil {
			leases[name] = onlyLease(d).ID
		}
	}
	return state{versions, leases}, errors.Join(err1, err2)
}

// leaderIs returns an empty string once the leader's id is ok, for eventually.
func (e *environment) leaderIs(ctx context.Context, ok func(id string) bool) (string, error) {
	id, err := e.leaderID(ctx)
	if err != nil || ok(id) {
		return "", err
	}
	return "the leader is " + id, nil
}

// leaderID is the holder of the election Lease; empty if there is none.
func (e *environment) leaderID(ctx context.Context) (string, error) {
	var l coordinationv1.Lease
	key := types.NamespacedName{Namespace: testbed.ManagerNamespace, Name: "leasekeeper.leasekeeper.io"}
	err := e.kube.Get(ctx, key, &l)
	if err != nil || l.Spec.HolderIdentity == nil {
		return "", err
	}
	return *l.Spec.HolderIdentity, nil
}

const renewedObject = "orders-00"

func (e *environment) requestRenewal(ctx context.Context, value string) error {
	return e.annotate(ctx, renewedObject, v1alpha1.RenewRequestedAtAnnotation, value)
}

func (e *environment) awaitRenewal(ctx context.Context, value string) error {
	return eventually(ctx, "the requested renewal", func() (string, error) {
		objects, err := e.objects(ctx)
		if d := objects[renewedObject]; err == nil && d != nil && d.Status.LastHandledRenewAt != value {
			return "the lease was not renewed", nil
		}
		return "", err
	})
}
