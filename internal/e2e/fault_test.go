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

// slowRole creates users with a statement that takes eight seconds, which is less than Vault's limit for a request.
var slowRole = testbed.DatabaseRole{
	DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
	CreationStatements: []string{
		`SELECT pg_sleep(8); CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
	},
}

// nothingLeft waits until there is no lease in Vault and no user in PostgreSQL. It polls, because Vault revokes the
// lease of a revoked token asynchronously.
func (r *rig) nothingLeft() {
	r.t.Helper()
	r.eventually("no lease and no user to be left", func() bool { return len(r.leases()) == 0 && len(r.users()) == 0 })
}

// onlyTheRecordedLease waits until the object is at rest and Vault and PostgreSQL have only the recorded lease.
func (r *rig) onlyTheRecordedLease(name string) {
	r.t.Helper()
	id := leaseID(r.until(name, "at rest", atRest))
	r.eventually("only the recorded lease to be left", func() bool {
		ids := r.leases()
		return len(ids) == 1 && ids[0] == id && len(r.users()) == 1
	})
}

func (r *rig) attempted(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "journaled", func(d *v1alpha1.DynamicSecret) bool { return d.Status.Attempt != nil })
}

func TestKillDuringSlowIssuanceLeavesNothing(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b, withRole(slowRole))
	r.apply("orders")
	accessor := r.attempted("orders").Status.Attempt.Records[0].Handle()
	time.Sleep(2 * time.Second) // until the statement runs
	r.must(b.Manager.Kill())
	r.must(b.Kube.Delete(t.Context(), r.secret("orders")))
	r.must(b.Manager.Run(t.Context()))
	d := r.until("orders", "waiting for the request limit", func(d *v1alpha1.DynamicSecret) bool {
		return len(d.Status.Retiring) == 1 && d.Status.Retiring[0].Handle() == accessor
	})
	if wait := d.Status.Retiring[0].RevokeAfter.Sub(d.Status.Retiring[0].StartedAt.Time); wait < requestLimit {
		t.Errorf("an issuance without a response would be revoked after %s, before the request limit of %s",
			wait, requestLimit)
	}
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}

// holdCommits makes PostgreSQL commit without responding until release is called, as if it waited for a standby. A
// client that gives up now has created a user without knowing it.
func (r *rig) holdCommits() (release func()) {
	r.t.Helper()
	set := func(standby string) {
		r.must(r.Postgres.Exec(context.Background(), "ALTER SYSTEM SET synchronous_standby_names = '"+standby+"'"))
		r.must(r.Postgres.Exec(context.Background(), "SELECT pg_reload_conf()"))
	}
	r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, "orders", testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
		CreationStatements: []string{
			`SET LOCAL synchronous_commit = on; CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}';`,
		},
	}))
	set("nobody")
	return func() { set("") }
}

func TestKillDuringCommitLeavesNothing(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b)
	release := r.holdCommits()
	r.apply("orders")
	r.eventually("PostgreSQL to commit", func() bool {
		n, err := b.Postgres.Committing(t.Context())
		r.must(err)
		return n == 1
	})
	r.must(b.Manager.Kill())
	r.must(b.Kube.Delete(t.Context(), r.secret("orders")))
	time.Sleep(2 * time.Second) // if Vault watched the connection, it would have given up by now
	release()
	r.eventually("the user and its lease to be created", func() bool {
		return len(r.users()) == 1 && len(r.leases()) == 1
	})
	r.must(b.Manager.Run(t.Context()))
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}

func TestCutConnectionLeavesOneLease(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b, withRole(slowRole), withProxy())
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.Cut, After: 2 * time.Second, Path: "/creds/", Times: 1}))
	r.apply("orders")
	// The record may be revoked before the next issuance completes.
	r.until("orders", "retiring the issuance that was cut off", func(d *v1alpha1.DynamicSecret) bool {
		return len(d.Status.Retiring) > 0 && d.Status.Retiring[0].Reason == v1alpha1.ReasonIssuing
	})
	r.untilReady("orders")
	r.onlyTheRecordedLease("orders")
	r.remove("orders")
	r.nothingLeft()
}

func TestLostResponseCostsOneCredentialPerAttempt(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b, withProxy())
	const dropped = 3
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.DropAnswer, Path: "/creds/", Times: dropped}))
	r.apply("orders")
	r.untilReady("orders")
	mints, err := b.Vault.Requests(0, "^read "+r.name+"/creds/")
	r.must(err)
	if len(mints) != dropped+1 {
		t.Errorf("%d responses were lost and %d credentials minted, want %d", dropped, len(mints), dropped+1)
	}
	r.onlyTheRecordedLease("orders")
	r.remove("orders")
	r.nothingLeft()
}

func TestLostLoginResponseMintsNothing(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b, withProxy())
	r.providerReady()
	r.must(r.proxy.Break(testbed.Fault{Action: testbed.DropAnswer, Path: "/auth/kubernetes/login", Times: 2}))
	r.apply("orders")
	r.untilReady("orders")
	if ids := r.leases(); len(ids) != 1 {
		t.Errorf("Vault has %v", ids)
	}
}

func TestResumedManagerDoesNotOverwriteItsSuccessor(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	r := newRig(t, b, withRole(slowRole))
	r.apply("orders")
	r.attempted("orders")
	r.must(b.Manager.Pause())
	// The successor does not know the attempt, so it retires it and starts another one.
	second, err := b.addReplica(t.Context())
	r.must(err)
	t.Cleanup(func() { _ = second.Close() })
	r.untilReady("orders")
	version := r.versions()["orders"]
	r.must(b.Manager.Resume())
	r.eventually("the resumed manager to notice that it lost the lead", func() bool { return !b.Manager.Running() })
	if r.versions()["orders"] != version {
		t.Error("the resumed manager has written the Secret")
	}
	r.onlyTheRecordedLease("orders")
	r.must(client.IgnoreNotFound(b.Kube.Delete(context.Background(), r.secret("orders"))))
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.nothingLeft()
}
