//go:build integration

package e2e

import (
	"context"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// slowRole makes users by a statement that takes eight seconds, less than Vault allows a request.
var slowRole = testbed.DatabaseRole{
	DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
	CreationStatements: []string{
		`SELECT pg_sleep(8); CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
	},
}

// nothingLeft: no lease in Vault, no user in PostgreSQL. With the token of an issue that was left unanswered Vault revokes
// the lease in its own time, so this is polled for.
func (r *room) nothingLeft() {
	r.t.Helper()
	r.eventually("no lease and no user to be left", func() bool { return len(r.leases()) == 0 && len(r.users()) == 0 })
}

// onlyTheRecordedLease: at rest, Vault has the one lease that is recorded, and PostgreSQL one user.
func (r *room) onlyTheRecordedLease(name string) {
	r.t.Helper()
	id := r.until(name, "at rest", atRest).Status.Lease.ID
	r.eventually("only the recorded lease to be left", func() bool {
		ids := r.leases()
		return len(ids) == 1 && ids[0] == id && len(r.users()) == 1
	})
}

func (r *room) attempted(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "asked for", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Attempt != nil })
}

func TestAManagerKilledDuringASlowIssueLeavesNothingOnceTheRequestLimitHasPassed(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b, withRole(slowRole))
	r.apply("orders")
	accessor := r.attempted("orders").Status.Attempt.TokenAccessor
	time.Sleep(2 * time.Second) // into the statement
	r.must(b.Manager.Kill())
	r.must(b.Kube.Delete(t.Context(), r.secret("orders")))
	r.must(b.Manager.Run(t.Context()))
	d := r.until("orders", "waiting for the request limit", func(d *v1alpha1.DynamicSecret) bool {
		return len(d.Status.Retiring) == 1 && d.Status.Retiring[0].TokenAccessor == accessor
	})
	if wait := d.Status.Retiring[0].EndAfter.Sub(d.Status.Retiring[0].StartedAt.Time); wait < requestLimit {
		t.Errorf("the token of an unanswered issue would be ended after %s, before the request limit of %s", wait, requestLimit)
	}
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}

// holdCommits makes PostgreSQL wait, as one that waits for its standby does: what it commits is committed and not yet
// answered, until it is let go. A client that gives up now has made a user and never learns of it.
func (r *room) holdCommits() (letGo func()) {
	r.t.Helper()
	set := func(standby string) {
		r.must(r.Postgres.Exec(context.Background(), "ALTER SYSTEM SET synchronous_standby_names = '"+standby+"'"))
		r.must(r.Postgres.Exec(context.Background(), "SELECT pg_reload_conf()"))
	}
	r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, "orders", testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
		CreationStatements: []string{`SET LOCAL synchronous_commit = on; CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}';`},
	}))
	set("nobody")
	return func() { set("") }
}

func TestAManagerKilledWhilePostgreSQLCommitsLeavesNothingOnceTheRequestLimitHasPassed(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b)
	letGo := r.holdCommits()
	r.apply("orders")
	r.eventually("PostgreSQL to commit", func() bool {
		n, err := b.Postgres.Committing(t.Context())
		r.must(err)
		return n == 1
	})
	r.must(b.Manager.Kill())
	r.must(b.Kube.Delete(t.Context(), r.secret("orders")))
	time.Sleep(2 * time.Second) // a Vault that watched the connection would have given the request up by now
	letGo()
	r.eventually("the user to be made, with a lease", func() bool { return len(r.users()) == 1 && len(r.leases()) == 1 })
	r.must(b.Manager.Run(t.Context()))
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}

func TestAConnectionCutDuringASlowIssueLeavesOneLeaseOnceTheRequestLimitHasPassed(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b, withRole(slowRole), withProxy())
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.Cut, After: 2 * time.Second, Path: "/creds/", Times: 1}))
	r.apply("orders")
	// When the next one is through, the request limit of this one may be over.
	r.until("orders", "on record with the issue that was cut off", func(d *v1alpha1.DynamicSecret) bool {
		return len(d.Status.Retiring) > 0 && d.Status.Retiring[0].Reason == v1alpha1.ReasonIssuing
	})
	r.untilReady("orders")
	r.onlyTheRecordedLease("orders")
	r.remove("orders")
	r.nothingLeft()
}

func TestAnAnswerThatIsDroppedCostsOneMintATry(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b, withProxy())
	const dropped = 3
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.DropAnswer, Path: "/creds/", Times: dropped}))
	r.apply("orders")
	r.untilReady("orders")
	mints, err := b.Vault.Requests(0, "^read "+r.name+"/creds/")
	r.must(err)
	if len(mints) != dropped+1 {
		t.Errorf("%d answers were dropped and %d credentials minted, instead of %d", dropped, len(mints), dropped+1)
	}
	r.onlyTheRecordedLease("orders")
	r.remove("orders")
	r.nothingLeft()
}

func TestALostAnswerToALoginMintsNothing(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b, withProxy())
	r.providerReady()
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.DropAnswer, Path: "/auth/kubernetes/login", Times: 2}))
	r.apply("orders")
	r.untilReady("orders")
	if ids := r.leases(); len(ids) != 1 {
		t.Errorf("Vault has %v", ids)
	}
}

func TestAPausedManagerThatWakesUpDoesNotWriteOverItsSuccessor(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRoom(t, b, withRole(slowRole))
	r.apply("orders")
	r.attempted("orders")
	r.must(b.Manager.Pause())
	// What a successor does: the attempt is not its own, so it retires it and begins anew.
	second, err := b.another(t.Context())
	r.must(err)
	t.Cleanup(func() { _ = second.Close() })
	r.untilReady("orders")
	version := r.versions()["orders"]
	r.must(b.Manager.Resume())
	r.eventually("the one that was asleep to see that it is no longer the leader", func() bool { return !b.Manager.Running() })
	if r.versions()["orders"] != version {
		t.Error("the one that was asleep has written the Secret")
	}
	r.onlyTheRecordedLease("orders")
	r.must(client.IgnoreNotFound(b.Kube.Delete(context.Background(), r.secret("orders"))))
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}
