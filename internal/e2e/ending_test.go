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
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// deadline bounds how long a deletion waits for its backend.
func deadline(d time.Duration) func(*v1alpha1.DynamicSecret) {
	return func(s *v1alpha1.DynamicSecret) { s.Spec.Lease.RevocationDeadline = metav1.Duration{Duration: d} }
}

// removeNamespace deletes the room's namespace.
func (r *room) removeNamespace() (gone func()) {
	r.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	r.must(r.Kube.Delete(context.Background(), ns))
	return func() {
		r.t.Helper()
		r.eventually("the namespace to be gone", func() bool { return r.gone(ns) })
	}
}

// untilEndFails waits until the deletion of an object says why it goes on, and expects its Secret to be gone already.
func (r *room) untilEndFails(name, why string) {
	r.t.Helper()
	r.until(name, "waiting because of "+why, func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReadyCondition)
		return c != nil && c.Reason == v1alpha1.ReasonDeleting && strings.Contains(c.Message, why) && len(d.Status.Retiring) == 1
	})
	r.eventually("an event that tells of it", func() bool { return r.told(dynamic, "EndFailed", why) })
	if r.target(name) != nil {
		r.t.Error("the Secret is still there")
	}
}

func TestANamespaceWithFiftyLeasesGoesAndItsKeeperEndsThem(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	const objects = 50
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	r.untilAll(objects, "at rest", atRest)
	logins := r.proxiedLogins()
	r.must(r.Kube.Delete(t.Context(), r.account("orders"))) // nobody can log in as the workload any more
	began := time.Now()
	r.removeNamespace()()
	t.Logf("it took %s", time.Since(began).Round(time.Second))
	r.untilAlive(0)
	if n := len(r.tries("^POST /v1/auth/token/revoke-accessor$")); n < objects {
		t.Errorf("the keeper ended %d tokens, want %d", n, objects)
	}
	if n := r.proxiedLogins() - logins; n > 1 {
		t.Errorf("%d logins, want one of the keeper at most", n)
	}
	r.abandonedNothing()
}

func TestANamespaceThatGoesDuringAnIssueGoesWhenItIsOver(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*testbed.Fault{
		"answered": nil, "cut off": {Action: testbed.Cut, After: 2 * time.Second, Path: "/creds/", Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, shared, withProxy(), withRole(slowRole))
			if fault != nil {
				r.must(r.proxy.Break(*fault))
			}
			r.apply("orders")
			r.eventually("the issue to be under way", func() bool { return len(r.tries(r.issuing())) == 1 })
			r.removeNamespace()()
			r.untilAlive(0)
			if n := len(r.tries(r.issuing())); n != 1 {
				t.Errorf("%d credentials were asked for, want 1", n)
			}
			r.abandonedNothing()
		})
	}
}

func TestADeletionLetsGoOfALeaseThatHasEndedByItself(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy(), withTTL(6*time.Second, 6*time.Second))
	d := r.ready("orders")
	r.must(r.proxy.RefuseConnections())
	r.remove("orders")
	if end := d.Status.Lease.ExpiresAt; time.Now().Before(end.Time) {
		t.Errorf("it was let go before the lease's end at %s", end)
	}
	r.saysAbandoned("connection refused")
}

func TestWhatIsAbandonedInANamespaceThatGoesIsSaidOnTheProvider(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.ready("orders", deadline(4*time.Second))
	r.must(r.proxy.RefuseConnections())
	r.removeNamespace()()
	r.eventually("the provider's event", func() bool {
		return r.told(cluster, v1alpha1.ReasonAbandoned, "DynamicSecret "+r.name+"/orders: Abandoned lease "+r.name+"/creds/orders/") &&
			r.told(cluster, v1alpha1.ReasonAbandoned, "connection refused")
	})
	r.logsAbandoned()
}

// withPostgres is the bed with another PostgreSQL, which the test may harm.
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
	return &bed{Bed: &other, lasting: b.lasting}
}

func TestALeaseWhoseDatabaseIsDownIsEndedWhenItIsBack(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.withPostgres(t))
	d := r.ready("orders")
	r.must(r.Postgres.Stop())
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	r.untilEndFails("orders", "failed to revoke")
	if ids := r.leases(); len(ids) != 1 || r.get("orders").Status.Retiring[0].ID != d.Status.Lease.ID {
		t.Errorf("Vault has %v, the record is of %s", ids, r.get("orders").Status.Retiring[0].ID)
	}
	r.must(r.Postgres.Start(t.Context()))
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.untilAlive(0)
	r.abandonedNothing()
}

// ownsATable gives the user of the room's object a table, so that PostgreSQL does not drop it. It is in a schema of its own:
// Vault revokes rights on each table of the schema public for every user that it drops, and two changes of one table at a
// time are an error in PostgreSQL ("tuple concurrently updated").
func (r *room) ownsATable(name string) (dropTable func()) {
	r.t.Helper()
	user, schema := string(r.target(name).Data["username"]), strings.ReplaceAll(r.name, "-", "_")
	r.must(r.Postgres.Exec(r.t.Context(), "CREATE SCHEMA "+schema))
	r.must(r.Postgres.Exec(r.t.Context(), "CREATE TABLE "+schema+".owned ()"))
	r.must(r.Postgres.Exec(r.t.Context(), "ALTER TABLE "+schema+`.owned OWNER TO "`+user+`"`))
	return func() { r.must(r.Postgres.Exec(context.Background(), "DROP SCHEMA "+schema+" CASCADE")) }
}

func TestALeaseWhoseUserOwnsATableIsAbandonedAtTheDeadline(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	id := r.ready("orders", deadline(6*time.Second)).Status.Lease.ID
	dropTable := r.ownsATable("orders")
	r.must(r.Kube.Delete(t.Context(), r.get("orders")))
	const says = "2BP01"
	r.untilEndFails("orders", says)
	r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
	r.saysAbandoned(says)
	if ids := r.leases(); len(ids) != 1 || ids[0] != id || len(r.users()) != 1 {
		t.Errorf("Vault has %v, PostgreSQL has %v", ids, r.users())
	}
	dropTable()
	r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}))
	r.untilAlive(0)
}

// A keeper that may not end tokens, or that may not revoke a lease which its token did not take along.
func TestAKeeperThatMayNoLongerRevokeSaysWhichLineIsMissingAndIsBounded(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"auth/token/revoke-accessor", "sys/leases/revoke"} {
		for _, givenBack := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, given back %v", line, givenBack), func(t *testing.T) {
				t.Parallel()
				r := newRoom(t, shared, withOwnKeeper())
				r.keeperMay(testbed.KeeperPolicy)
				within := 6 * time.Second
				if givenBack {
					within = time.Hour
				}
				r.ready("orders", deadline(within))
				dropTable := r.ownsATable("orders")
				r.keeperMay(policyWithout(line))
				r.must(r.Kube.Delete(t.Context(), r.get("orders")))
				r.untilEndFails("orders", `lacks "update" on "`+line+`"`)
				if message := r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonKeeperPolicyIncomplete); !strings.Contains(message, line) {
					t.Errorf("the provider says %q", message)
				}
				if givenBack {
					dropTable()
					r.keeperMay(testbed.KeeperPolicy)
				}
				r.eventually("it to be gone", func() bool { return r.get("orders") == nil })
				if givenBack {
					r.untilAlive(0)
					r.abandonedNothing()
					return
				}
				r.saysAbandoned(line)
				dropTable()
			})
		}
	}
}
