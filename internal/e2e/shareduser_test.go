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
	time.Sleep(5 * time.Second)
	r.must(r.login(r.target("orders")))
	if ids := r.leases(); len(ids) != 2 || len(r.users()) != 1 {
		t.Errorf("Vault has %v, PostgreSQL has %v", ids, r.users())
	}
	template("{{random 20}}")
	r.annotate(v1alpha1.RotateRequestedAtAnnotation, "again")
	r.untilReplaced(during)
	r.until("orders", "at rest", atRest)
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}
