//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
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

func TestUserOfTwoLeasesIsNotDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withRole(sameUser))
	template := func(name string) {
		t.Helper()
		r.must(r.Vault.Write(t.Context(), r.name+"/config/postgres", map[string]any{
			"plugin_name": "postgresql-database-plugin", "username_template": r.userPrefix() + name,
		}))
	}
	template("fixed")
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
	template("{{random 20}}")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "again")
	r.untilReplaced(during)
	r.until("orders", "at rest", atRest)
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}
