//go:build integration

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// deadline sets how long a deletion waits for its backend.
func deadline(d time.Duration) func(*v1alpha1.DynamicSecret) {
	return func(o *v1alpha1.DynamicSecret) { o.Spec.Lease.RevocationDeadline = &metav1.Duration{Duration: d} }
}

// removeNamespace deletes the rig's namespace. gone waits until it is deleted.
func (r *rig) removeNamespace() (gone func()) {
	r.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	r.must(r.Kube.Delete(context.Background(), ns))
	return func() {
		r.t.Helper()
		r.eventually("the namespace to be gone", func() bool { return r.gone(ns) })
	}
}

// untilRevocationFails waits until the deletion of an object reports why it does not complete, and expects its Secret
// to be deleted already.
func (r *rig) untilRevocationFails(name, why string) {
	r.t.Helper()
	r.until(name, "waiting because of "+why, func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c != nil && c.Reason == v1alpha1.ReasonDeleting && strings.Contains(c.Message, why) &&
			len(lease.Records(&d.Status)) == 1
	})
	r.eventually("an event about it", func() bool { return r.warned(dynamic, revokeFailed, why) })
	if r.target(name) != nil {
		r.t.Error("the Secret still exists")
	}
}

// revokeFailed is the reason of the event about a lease that cannot be revoked.
const revokeFailed = "RevocationFailed"

func TestNamespaceDeletionRevokesFiftyLeases(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	const objects = 50
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	logins := r.loginRequests()
	r.must(r.Kube.Delete(t.Context(), r.account("orders"))) // from now on no login as the workload succeeds
	began := time.Now()
	r.removeNamespace()()
	t.Logf("it took %s", time.Since(began).Round(time.Second))
	r.untilAlive(0)
	if n := len(r.requestTimes("^POST /v1/auth/token/revoke-accessor$")); n < objects {
		t.Errorf("the keeper revoked %d tokens, want %d", n, objects)
	}
	if n := r.loginRequests() - logins; n > 1 {
		t.Errorf("%d logins, want at most one, by the keeper", n)
	}
	r.abandonedNothing()
}

func TestNamespaceDeletionDuringIssuance(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*testbed.Fault{
		"with a response": nil,
		"cut off":         {Action: testbed.Cut, After: 2 * time.Second, Path: "/creds/", Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, withProxy(), withRole(slowRole))
			if fault != nil {
				r.must(r.proxy.Break(*fault))
			}
			r.apply("orders")
			r.eventually("the issuance to start", func() bool { return len(r.requestTimes(r.issuing())) == 1 })
			r.removeNamespace()()
			r.untilAlive(0)
			if n := len(r.requestTimes(r.issuing())); n != 1 {
				t.Errorf("%d credentials were requested, want 1", n)
			}
			r.abandonedNothing()
		})
	}
}

func TestDeletionReleasesExpiredLease(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy(), withTTL(6*time.Second, 6*time.Second))
	d := r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.remove("orders")
	if end := record(d).ExpiresAt; time.Now().Before(end.Time) {
		t.Errorf("the object was deleted before its lease expired at %s", end)
	}
	r.reportsAbandoned("connection refused")
}

func TestProviderReportsLeasesAbandonedWithNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	r.ready("orders", deadline(4*time.Second))
	r.must(r.proxy.RefuseConnections())
	r.removeNamespace()()
	r.eventually("the provider's event", func() bool {
		abandoned := "DynamicSecret " + r.name + "/orders: Abandoned lease " + r.name + "/creds/orders/"
		return r.warned(cluster, v1alpha1.ReasonAbandoned, abandoned) &&
			r.warned(cluster, v1alpha1.ReasonAbandoned, "connection refused")
	})
	r.logsAbandoned()
}

// withPostgres is the bed with its own PostgreSQL, which the test may harm.
func (b *bed) withPostgres(t *testing.T) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	postgres, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = postgres.Close() })
	other := *b.Bed
	other.Postgres = postgres
	return &bed{Bed: &other, managerMustRun: b.managerMustRun}
}

func TestLeaseIsRevokedOnceDatabaseIsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared.withPostgres(t))
	d := r.ready("orders")
	r.must(r.Postgres.Stop())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.untilRevocationFails("orders", "failed to revoke")
	records := lease.Records(&r.get("orders").Status)
	if ids := r.leases(); len(ids) != 1 || records[0].ID != leaseID(d) {
		t.Errorf("Vault has %v, the status records %s", ids, records[0].ID)
	}
	r.must(r.Postgres.Start(t.Context()))
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	r.abandonedNothing()
}

// ownsATable makes the object's user the owner of a table, so that PostgreSQL does not drop the user. The table has its
// own schema: for every user that Vault drops, it revokes rights on each table of the schema public, and two concurrent
// changes of one table are an error in PostgreSQL ("tuple concurrently updated").
func (r *rig) ownsATable(name string) (dropTable func()) {
	r.t.Helper()
	user, schema := string(r.target(name).Data["username"]), strings.ReplaceAll(r.name, "-", "_")
	r.must(r.Postgres.Exec(r.t.Context(), "CREATE SCHEMA "+schema))
	r.must(r.Postgres.Exec(r.t.Context(), "CREATE TABLE "+schema+".owned ()"))
	r.must(r.Postgres.Exec(r.t.Context(), "ALTER TABLE "+schema+`.owned OWNER TO "`+user+`"`))
	return func() { r.must(r.Postgres.Exec(context.Background(), "DROP SCHEMA "+schema+" CASCADE")) }
}

func leaseOfTableOwnerIsAbandoned(t *testing.T) {
	r := newRig(t, shared)
	id := leaseID(r.ready("orders", deadline(15*time.Second)))
	dropTable := r.ownsATable("orders")
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	const dependentObjects = "2BP01"
	r.untilRevocationFails("orders", dependentObjects)
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.reportsAbandoned(dependentObjects)
	if ids := r.leases(); len(ids) != 1 || ids[0] != id || len(r.users()) != 1 {
		t.Errorf("Vault has %v, PostgreSQL has %v", ids, r.users())
	}
	dropTable()
	r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}))
	r.untilAlive(0)
}

// The keeper may not revoke tokens, or it may not revoke the lease that outlived its token.
func TestRevocationNamesMissingPolicyLineUntilDeadline(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"auth/token/revoke-accessor", "sys/leases/revoke"} {
		for _, restored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restored: %v", line, restored), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, shared, withOwnKeeper())
				r.keeperMay(testbed.KeeperPolicy)
				within := 6 * time.Second
				if restored {
					within = time.Hour
				}
				r.ready("orders", deadline(within))
				dropTable := r.ownsATable("orders")
				r.keeperMay(policyWithout(line))
				r.must(r.Kube.Delete(t.Context(), r.get("orders")))
				r.untilRevocationFails("orders", `lacks "update" on "`+line+`"`)
				message := r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonPolicyIncomplete)
				if !strings.Contains(message, line) {
					t.Errorf("the provider's message %q does not name the line", message)
				}
				if restored {
					dropTable()
					r.keeperMay(testbed.KeeperPolicy)
				}
				r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
				if restored {
					r.untilAlive(0)
					r.abandonedNothing()
					return
				}
				r.reportsAbandoned(line)
				dropTable()
			})
		}
	}
}

func TestNamespaceDeletionRevokesItsLeases(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	const objects = 5
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range objects {
		r.untilReady(fmt.Sprintf("orders-%d", i))
	}
	r.removeNamespace()()
	if ids := r.leases(); len(ids) != 0 {
		t.Errorf("leases are left: %v", ids)
	}
}
