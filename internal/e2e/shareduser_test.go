//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// sameUser is a role that gives every lease the same user.
var sameUser = testbed.DatabaseRole{
	DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
	CreationStatements: []string{
		`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') ` +
			`THEN CREATE ROLE "{{name}}" LOGIN; END IF; END $$`,
		`ALTER ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
	},
}

// nameUsers sets the username template of the role.
func (r *rig) nameUsers(template string) {
	r.t.Helper()
	r.must(r.Vault.Write(r.t.Context(), r.name+"/config/postgres", map[string]any{
		"plugin_name": "postgresql-database-plugin", "username_template": r.userPrefix() + template,
	}))
}

func TestUserOfTwoLeasesIsNotDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withRole(sameUser))
	r.nameUsers("fixed")
	before := r.ready("orders")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "now")
	during := r.untilReplaced(before)
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonSharedUser)
	if !strings.Contains(message, r.name+"/creds/orders") || !strings.Contains(message, "username template") {
		t.Errorf("the message is %q", message)
	}
	verifyKept := func(leases int) {
		t.Helper()
		time.Sleep(5 * time.Second)
		r.must(r.login(r.target("orders")))
		if ids := r.leases(); len(ids) != leases || len(r.users()) != 1 {
			t.Errorf("Vault has %v, PostgreSQL has %v", ids, r.users())
		}
	}
	verifyKept(2)
	// The Secret has the salt of its digests, and is not needed to recognize the user.
	r.must(r.Kube.Delete(t.Context(), r.target("orders")))
	during = r.untilReplaced(during)
	verifyKept(3)
	r.patchSecret("orders", `{"metadata":{"annotations":null}}`)
	during = r.untilReplaced(during)
	verifyKept(4)
	r.nameUsers("{{random 20}}")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "again")
	r.untilReplaced(during)
	r.until("orders", "at rest", atRest)
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}

func TestUserOfTwoObjectsIsNotDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withRole(sameUser))
	replace := func(name string) {
		t.Helper()
		before := r.get(name)
		r.edit(name, func(d *v1alpha1.DynamicSecret) {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.RotateRequestedAtAnnotation, time.Now().String())
		})
		r.until(name, "replaced", func(d *v1alpha1.DynamicSecret) bool {
			return hasNewLease(before, d) && lease.Published(&d.Status)
		})
	}
	inUse := func(leases int) {
		t.Helper()
		r.must(r.login(r.target("reports")))
		if ids := r.leases(); len(ids) != leases {
			t.Errorf("Vault has %v, want %d leases", ids, leases)
		}
	}
	r.nameUsers("fixed")
	r.ready("orders")
	r.ready("reports")

	r.nameUsers("{{random 20}}")
	replace("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonSharedUser)
	if !strings.Contains(message, r.name+"/reports") || !strings.Contains(message, "username template") {
		t.Errorf("the message is %q", message)
	}
	inUse(3)
	replace("reports")
	r.until("orders", "at rest", atRest)
	r.until("reports", "at rest", atRest)
	r.untilAlive(2)

	r.nameUsers("fixed")
	replace("orders")
	replace("reports")
	r.until("orders", "at rest", atRest)
	r.until("reports", "at rest", atRest)
	r.must(r.Kube.Delete(t.Context(), &v1alpha1.DynamicSecret{ObjectMeta: r.named("orders")}))
	r.until("orders", "waiting for the other object", func(d *v1alpha1.DynamicSecret) bool {
		return strings.Contains(d.Status.Message, r.name+"/reports")
	})
	inUse(2)
	r.nameUsers("{{random 20}}")
	replace("reports")
	r.eventually("orders to be gone", func() bool { return r.get("orders") == nil })
	r.until("reports", "at rest", atRest)
	inUse(1)
}
