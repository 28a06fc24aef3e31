//go:build integration

package vault_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// revokerPolicy are the lines for revocations below %s, besides the keeper's own.
const revokerPolicy = `
path "sys/leases/lookup/%s/*"        { capabilities = ["list", "sudo"] }
path "sys/leases/revoke-prefix/%s"   { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-prefix/%s/*" { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-force/%s/*"  { capabilities = ["update", "sudo"] }
`

// revoker is a backend whose keeper may revoke leases below a path.
func revoker(t *testing.T, path string) *vault.Backend {
	t.Helper()
	role := unique("revoker")
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy+strings.ReplaceAll(revokerPolicy, "%s", path)))
	must(t, bed.vault.WriteRole(t.Context(), "kubernetes", role, testbed.KubernetesRole{
		ServiceAccounts: []string{"leasekeeper"}, Namespaces: []string{"*"},
		Audience: "vault", Policies: []string{role}, TTL: time.Hour,
	}))
	return connect(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = role })
}

// below selects all leases below a prefix.
func below(prefix string) *v1alpha1.LeaseRevocationSpec {
	return &v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{Prefix: prefix}}
}

// untilGone waits until Vault has none of the selected leases.
func untilGone(t *testing.T, b *vault.Backend, spec *v1alpha1.LeaseRevocationSpec) {
	t.Helper()
	eventually(t, "Vault revokes them", func() error {
		ids, err := b.Matching(t.Context(), spec)
		if err == nil && len(ids) > 0 {
			err = fmt.Errorf("it still has %d", len(ids))
		}
		return err
	})
}

func TestPrefixMatchesWholeSegments(t *testing.T) {
	ours, longer := databaseRole(t, time.Hour, 2*time.Hour), databaseRole(t, time.Hour, 2*time.Hour)
	longer.Path = ours.Path + "x"
	must(t, bed.vault.WriteDatabaseRole(t.Context(), "database", strings.TrimPrefix(longer.Path, "database/creds/"),
		testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: time.Hour}))
	b := revoker(t, "database")
	bystander, _ := issue(t, b, longer)
	for _, slash := range []string{"", "/"} {
		rec, _ := issue(t, b, ours)
		// The ids start with this prefix, but are not below it.
		must(t, b.RevokeAll(t.Context(), below(ours.Path[:len(ours.Path)-1]+slash)))
		must(t, b.Lookup(t.Context(), rec))
		spec := below(ours.Path + slash)
		if ids, err := b.Matching(t.Context(), spec); err != nil || !slices.Equal(ids, []string{rec.ID}) {
			t.Errorf("%q matches %v (%v), want %s", spec.Vault.Prefix, ids, err, rec.ID)
		}
		must(t, b.RevokeAll(t.Context(), spec))
		wantKind(t, b.Lookup(t.Context(), rec), backend.Gone) // at once, whether it is revoked already or not
		untilGone(t, b, spec)
	}
	// A prefix without a slash may be the id of one lease.
	one, _ := issue(t, b, ours)
	another, _ := issue(t, b, ours)
	spec := below(one.ID)
	if ids, err := b.Matching(t.Context(), spec); err != nil || !slices.Equal(ids, []string{one.ID}) {
		t.Errorf("%q matches %v (%v)", spec.Vault.Prefix, ids, err)
	}
	must(t, b.RevokeAll(t.Context(), spec))
	untilGone(t, b, spec)
	must(t, b.Lookup(t.Context(), another))
	must(t, b.Lookup(t.Context(), bystander))
	ids, err := b.Matching(t.Context(), below("database/"))
	if err != nil || !slices.Contains(ids, bystander.ID) {
		t.Errorf("the mount's leases: %v (%v), want %s among them", ids, err, bystander.ID)
	}
}

// This is why RevokeAll does not use sync.
func TestSyncStopsAtTheFirstLeaseThatCannotBeRevoked(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := revoker(t, request.Path)
	users := map[string]string{}
	var records []v1alpha1.LeaseRecord
	for range 3 {
		rec, response := issue(t, b, request)
		records, users[rec.ID] = append(records, rec), string(response.Data["username"])
	}
	slices.SortFunc(records, func(a, b v1alpha1.LeaseRecord) int { return strings.Compare(a.ID, b.ID) })
	must(t, bed.postgres.Exec(t.Context(),
		fmt.Sprintf(`CREATE SCHEMA first; CREATE TABLE first.owned (); ALTER TABLE first.owned OWNER TO "%s"`,
			users[records[0].ID])))
	t.Cleanup(func() {
		must(t, bed.postgres.Exec(context.WithoutCancel(t.Context()), `DROP SCHEMA IF EXISTS first CASCADE`))
	})
	err := bed.vault.Write(t.Context(), "sys/leases/revoke-prefix/"+request.Path, map[string]any{"sync": true})
	if err == nil || !strings.Contains(err.Error(), "(1 / 3)") {
		t.Errorf("Vault says %v", err)
	}
	for _, rec := range records {
		must(t, b.Lookup(t.Context(), rec))
	}
	must(t, bed.postgres.Exec(t.Context(), `DROP SCHEMA first CASCADE`))
	spec := below(request.Path)
	must(t, b.RevokeAll(t.Context(), spec))
	untilGone(t, b, spec)
}

func TestOneStuckLeaseDoesNotKeepTheOthersAlive(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := revoker(t, request.Path)
	spec := below(request.Path)
	var records []v1alpha1.LeaseRecord
	for i := range 5 {
		rec, response := issue(t, b, request)
		records = append(records, rec)
		must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(`CREATE SCHEMA kept%d; CREATE TABLE kept%d.owned ()`, i, i)))
		if i == 2 {
			must(t, bed.postgres.Exec(t.Context(),
				fmt.Sprintf(`ALTER TABLE kept%d.owned OWNER TO "%s"`, i, response.Data["username"])))
		}
	}
	t.Cleanup(func() {
		for i := range records {
			must(t, bed.postgres.Exec(context.WithoutCancel(t.Context()),
				fmt.Sprintf(`DROP SCHEMA IF EXISTS kept%d CASCADE`, i)))
		}
	})
	must(t, b.RevokeAll(t.Context(), spec))
	for _, rec := range records {
		wantKind(t, b.Lookup(t.Context(), rec), backend.Gone)
	}
	eventually(t, "only that one remains", func() error {
		ids, err := b.Matching(t.Context(), spec)
		if err == nil && !slices.Equal(ids, []string{records[2].ID}) {
			err = fmt.Errorf("there are %v", ids)
		}
		return err
	})
	wantKind(t, b.RevokeOne(t.Context(), spec, records[2].ID, false), backend.Failed, "failed to revoke entry", "2BP01")
	fresh, _ := issue(t, b, request)
	spec.Vault.Force = true
	must(t, b.RevokeOne(t.Context(), spec, records[2].ID, true))
	must(t, b.RevokeOne(t.Context(), spec, records[2].ID, true)) // it no longer exists
	ids, err := b.Matching(t.Context(), spec)
	if must(t, err); !slices.Equal(ids, []string{fresh.ID}) {
		t.Errorf("there are %v, want the newer one", ids)
	}
	for id, want := range map[string]bool{fresh.ID: true, records[2].ID: false} {
		if lives, err := b.Lives(t.Context(), spec, id); err != nil || lives != want {
			t.Errorf("%s lives: %t (%v)", id, lives, err)
		}
	}
}

func TestRevocationWhileTheDatabaseIsDown(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := revoker(t, request.Path)
	spec := below(request.Path)
	rec, _ := issue(t, b, request)
	forgotten, _ := issue(t, b, request)
	start := stopPostgres(t)
	must(t, b.RevokeAll(t.Context(), spec))
	ids, err := b.Matching(t.Context(), spec)
	if must(t, err); len(ids) != 2 {
		t.Errorf("there are %v", ids)
	}
	for _, id := range ids {
		lives, err := b.Lives(t.Context(), spec, id)
		if must(t, err); lives {
			t.Errorf("%s lives", id)
		}
	}
	_, err = b.Renew(t.Context(), rec, time.Hour)
	wantKind(t, err, backend.Gone, "lease expired")
	wantKind(t, b.RevokeOne(t.Context(), spec, rec.ID, false), backend.Failed, "400")
	spec.Vault.Force = true
	must(t, b.RevokeOne(t.Context(), spec, forgotten.ID, true))
	if ids, err = b.Matching(t.Context(), spec); err != nil || !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("there are %v (%v), want the one that was not forced", ids, err)
	}
	start()
	eventually(t, "it can be revoked when the database is back", func() error {
		return b.RevokeOne(t.Context(), spec, rec.ID, false)
	})
	untilGone(t, b, spec)
}

func TestOneLeaseNeedsOnlyTheKeepersPolicy(t *testing.T) {
	b := connect(t, "app")
	request := databaseRole(t, time.Hour, 2*time.Hour)
	rec, _ := issue(t, b, request)
	other, _ := issue(t, b, request)
	spec := &v1alpha1.LeaseRevocationSpec{Vault: &v1alpha1.VaultRevocation{LeaseID: rec.ID}}
	must(t, b.RevokeAll(t.Context(), spec))
	untilGone(t, b, spec)
	must(t, b.RevokeAll(t.Context(), spec)) // a lease that is gone is no error
	must(t, b.Lookup(t.Context(), other))
}

func TestDeniedRevocationWorksWithTheLinesThatItNames(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	role := unique("lines")
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy))
	must(t, bed.vault.WriteRole(t.Context(), "kubernetes", role, testbed.KubernetesRole{
		ServiceAccounts: []string{"leasekeeper"}, Namespaces: []string{"*"},
		Audience: "vault", Policies: []string{role}, TTL: time.Hour,
	}))
	b := connect(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = role })
	rec, _ := issue(t, b, request)
	spec := below(request.Path)
	spec.Vault.Force = true
	lines := []string{
		`path "sys/leases/lookup/` + request.Path + `/*" { capabilities = ["list", "sudo"] }`,
		`path "sys/leases/revoke-prefix/` + request.Path + `" { capabilities = ["update", "sudo"] }`,
		`path "sys/leases/revoke-force/` + request.Path + `/*" { capabilities = ["update", "sudo"] }`,
	}
	_, err := b.Matching(t.Context(), spec)
	wantKind(t, err, backend.Denied, append(lines, role)...)
	wantKind(t, b.RevokeAll(t.Context(), spec), backend.Denied, lines...)
	must(t, b.Lookup(t.Context(), rec))
	// A line without sudo is not enough.
	must(t, bed.vault.WritePolicy(t.Context(), role,
		keeperPolicy+lines[0]+"\n"+strings.Replace(lines[1], `, "sudo"`, "", 1)))
	err = b.RevokeAll(t.Context(), spec)
	wantKind(t, err, backend.Denied, lines[1:]...)
	if strings.Contains(err.Error(), "lookup") {
		t.Errorf("%q names a line that exists", err)
	}
	// The lines work as they were reported.
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy+strings.Join(lines, "\n")))
	ids, err := b.Matching(t.Context(), spec)
	if must(t, err); !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("there are %v", ids)
	}
	must(t, b.RevokeAll(t.Context(), spec))
	must(t, b.RevokeOne(t.Context(), spec, rec.ID, true))
	untilGone(t, b, spec)
	if err := b.Lookup(t.Context(), rec); !errors.As(err, new(*backend.Error)) {
		t.Errorf("got %v", err)
	}
}
