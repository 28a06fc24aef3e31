package v1alpha1_test

import (
	"slices"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestKeysOfRecords(t *testing.T) {
	inVault := func(change func(*v1alpha1.LeaseRecord)) v1alpha1.LeaseRecord {
		rec := v1alpha1.LeaseRecord{ID: "database/creds/orders/abc", Vault: &v1alpha1.VaultRecord{
			Address: "https://vault.test:8200", Path: "database/creds/orders", TokenAccessor: "acc",
			SerialNumber: "11:22",
		}}
		change(&rec)
		return rec
	}
	same := inVault(func(*v1alpha1.LeaseRecord) {})
	for _, c := range []struct {
		name, why string
		other     v1alpha1.LeaseRecord
		shared    int
	}{
		{"the same record", "it names all of the same", same, 3},
		{"another provider", "several providers may use one server",
			inVault(func(r *v1alpha1.LeaseRecord) { r.Provider.Name = "other" }), 3},
		{"an address with a slash", "it is the same server",
			inVault(func(r *v1alpha1.LeaseRecord) { r.Vault.Address += "/" }), 3},
		{"another address", "there the names stand for something else",
			inVault(func(r *v1alpha1.LeaseRecord) { r.Vault.Address = "https://other.test" }), 0},
		{"another path", "several paths of an engine sign certificates, and a forged path hides nothing",
			inVault(func(r *v1alpha1.LeaseRecord) { r.Vault.Path = "pki/issuer/old/sign-verbatim/orders" }), 3},
		{"another lease", "the session and the certificate are the same",
			inVault(func(r *v1alpha1.LeaseRecord) { r.ID = "database/creds/orders/def" }), 2},
		{"another session", "the lease and the certificate are the same",
			inVault(func(r *v1alpha1.LeaseRecord) { r.SetHandle("other") }), 2},
		{"another certificate", "the lease and the session are the same",
			inVault(func(r *v1alpha1.LeaseRecord) { r.Vault.SerialNumber = "11:33" }), 2},
		{"names that are swapped", "a lease is no session", inVault(func(r *v1alpha1.LeaseRecord) {
			r.ID, r.Vault.TokenAccessor, r.Vault.SerialNumber = "acc", "11:22", "database/creds/orders/abc"
		}), 0},
		{"no names", "what is empty names nothing", inVault(func(r *v1alpha1.LeaseRecord) {
			r.ID, r.Vault.TokenAccessor, r.Vault.SerialNumber = "", "", ""
		}), 0},
		{"no backend", "it is at another server", v1alpha1.LeaseRecord{ID: same.ID}, 0},
	} {
		shared := 0
		for _, key := range c.other.Keys() {
			if slices.Contains(same.Keys(), key) {
				shared++
			}
		}
		if shared != c.shared {
			t.Errorf("%s, because %s: %d keys are shared, want %d", c.name, c.why, shared, c.shared)
		}
	}
	if empty := (&v1alpha1.LeaseRecord{}).Keys(); len(empty) != 0 {
		t.Errorf("an empty record has the keys %v", empty)
	}
}

// A change of this text makes the seals of existing records invalid.
func TestTheIdentityOfARecordIsStable(t *testing.T) {
	rec := v1alpha1.LeaseRecord{ID: "id", Vault: &v1alpha1.VaultRecord{
		Address: "address", Namespace: "namespace", Path: "path", TokenAccessor: "acc", SerialNumber: "serial",
	}}
	if got, want := rec.Identity(), "id\x00vault\x00address\x00namespace\x00path\x00acc\x00serial"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Leases have the same user if their server has one place for it, whatever roles and providers they are of.
func TestUserScope(t *testing.T) {
	scope := func(address, namespace, path string) string {
		rec := v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{Address: address, Namespace: namespace, Path: path}}
		return rec.UserScope()
	}
	const server = "https://vault.test:8200"
	orders := scope(server, "team", "database/creds/orders")
	for _, c := range []struct {
		it    string
		other string
		same  bool
	}{
		{"another role of the mount", scope(server, "team", "database/creds/reports"), true},
		{"an address with a slash", scope(server+"/", "team", "database/creds/orders"), true},
		{"the namespace in the path", scope(server, "", "team/database/creds/orders"), true},
		{"another mount", scope(server, "team", "rabbitmq/creds/orders"), false},
		{"another namespace", scope(server, "other", "database/creds/orders"), false},
		{"another server", scope("https://other.test", "team", "database/creds/orders"), false},
	} {
		if (c.other == orders) != c.same {
			t.Errorf("%s: %q and %q", c.it, c.other, orders)
		}
	}
}
