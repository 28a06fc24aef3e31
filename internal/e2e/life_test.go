//go:build integration

package e2e

import "testing"

func TestDynamicSecretLifecycle(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	d := r.ready("orders")
	s := r.target("orders")
	r.must(r.login(s))
	if ids := r.leases(); len(ids) != 1 || ids[0] != leaseID(d) {
		t.Fatalf("Vault has the leases %v, the status records %s", ids, leaseID(d))
	}
	if d.Status.Attempt != nil || len(d.Status.Retiring) != 0 {
		t.Fatalf("the ledger is not at rest: %+v", d.Status)
	}
	r.remove("orders")
	if r.target("orders") != nil {
		t.Fatal("the Secret still exists")
	}
	if ids := r.leases(); len(ids) != 0 {
		t.Fatalf("leases are left: %v", ids)
	}
	if err := r.login(s); err == nil {
		t.Fatal("the login still works")
	}
}
