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

// revokerPolicy is what an order on %s needs besides the keeper's own lines.
const revokerPolicy = `
path "sys/leases/lookup/%s/*"        { capabilities = ["list", "sudo"] }
path "sys/leases/revoke-prefix/%s"   { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-prefix/%s/*" { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-force/%s/*"  { capabilities = ["update", "sudo"] }
`

// ordering is a backend whose keeper may revoke below a path, and the request for a lease there.
func ordering(t *testing.T, path string) *vault.Backend {
	t.Helper()
	role := unique("revoker")
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy+strings.ReplaceAll(revokerPolicy, "%s", path)))
	must(t, bed.vault.WriteRole(t.Context(), "kubernetes", role, testbed.KubernetesRole{
		ServiceAccounts: []string{"leasekeeper"}, Namespaces: []string{"*"}, Audience: "vault", Policies: []string{role}, TTL: time.Hour,
	}))
	return backend(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = role })
}

// untilGone waits until Vault has none of the order's leases.
func untilGone(t *testing.T, b *vault.Backend, o vault.Order) {
	t.Helper()
	eventually(t, "Vault ends them", func() error {
		ids, err := b.Matching(t.Context(), o)
		if err == nil && len(ids) > 0 {
			err = fmt.Errorf("it still has %d", len(ids))
		}
		return err
	})
}

func TestAPrefixGoesByWholeSegmentsWithASlashOrWithout(t *testing.T) {
	ours, longer := databaseRole(t, time.Hour, 2*time.Hour), databaseRole(t, time.Hour, 2*time.Hour)
	longer.Path = ours.Path + "x"
	must(t, bed.vault.WriteDatabaseRole(t.Context(), "database", strings.TrimPrefix(longer.Path, "database/creds/"), testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: time.Hour}))
	b := ordering(t, "database")
	bystander, _ := issue(t, b, longer)
	for _, slash := range []string{"", "/"} {
		rec, _ := issue(t, b, ours)
		// The ids begin with it, and do not lie below it.
		must(t, b.RevokeAll(t.Context(), vault.Order{Prefix: ours.Path[:len(ours.Path)-1] + slash}))
		must(t, b.Lookup(t.Context(), rec))
		o := vault.Order{Prefix: ours.Path + slash}
		if ids, err := b.Matching(t.Context(), o); err != nil || !slices.Equal(ids, []string{rec.ID}) {
			t.Errorf("%q matches %v (%v), want %s", o.Prefix, ids, err, rec.ID)
		}
		must(t, b.RevokeAll(t.Context(), o))
		wantKind(t, b.Lookup(t.Context(), rec), backend.Gone) // at once, whether it is ended already or not
		untilGone(t, b, o)
	}
	// Without a slash a prefix may be a whole id, and is that one lease then.
	one, _ := issue(t, b, ours)
	another, _ := issue(t, b, ours)
	o := vault.Order{Prefix: one.ID}
	if ids, err := b.Matching(t.Context(), o); err != nil || !slices.Equal(ids, []string{one.ID}) {
		t.Errorf("%q matches %v (%v)", o.Prefix, ids, err)
	}
	must(t, b.RevokeAll(t.Context(), o))
	untilGone(t, b, o)
	must(t, b.Lookup(t.Context(), another))
	must(t, b.Lookup(t.Context(), bystander))
	ids, err := b.Matching(t.Context(), vault.Order{Prefix: "database/"})
	if err != nil || !slices.Contains(ids, bystander.ID) {
		t.Errorf("the mount's leases: %v (%v), want %s among them", ids, err, bystander.ID)
	}
}

// This is why an order is not waited for.
func TestVaultThatIsToWaitStopsAtTheFirstLeaseThatCannotBeRevoked(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := ordering(t, request.Path)
	users := map[string]string{}
	var records []v1alpha1.LeaseRecord
	for range 3 {
		rec, answer := issue(t, b, request)
		records, users[rec.ID] = append(records, rec), string(answer.Data["username"])
	}
	slices.SortFunc(records, func(a, b v1alpha1.LeaseRecord) int { return strings.Compare(a.ID, b.ID) })
	must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(`CREATE SCHEMA first; CREATE TABLE first.owned (); ALTER TABLE first.owned OWNER TO "%s"`, users[records[0].ID])))
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
	o := vault.Order{Prefix: request.Path}
	must(t, b.RevokeAll(t.Context(), o))
	untilGone(t, b, o)
}

// One that cannot be revoked does not keep the others alive.
func TestALeaseThatCannotBeRevokedDoesNotSaveTheOthers(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := ordering(t, request.Path)
	o := vault.Order{Prefix: request.Path}
	var records []v1alpha1.LeaseRecord
	for i := range 5 {
		rec, answer := issue(t, b, request)
		records = append(records, rec)
		must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(`CREATE SCHEMA kept%d; CREATE TABLE kept%d.owned ()`, i, i)))
		if i == 2 {
			must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(`ALTER TABLE kept%d.owned OWNER TO "%s"`, i, answer.Data["username"])))
		}
	}
	t.Cleanup(func() {
		for i := range records {
			must(t, bed.postgres.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(`DROP SCHEMA IF EXISTS kept%d CASCADE`, i)))
		}
	})
	must(t, b.RevokeAll(t.Context(), o))
	for _, rec := range records {
		wantKind(t, b.Lookup(t.Context(), rec), backend.Gone)
	}
	eventually(t, "only that one is left", func() error {
		ids, err := b.Matching(t.Context(), o)
		if err == nil && !slices.Equal(ids, []string{records[2].ID}) {
			err = fmt.Errorf("there are %v", ids)
		}
		return err
	})
	wantKind(t, b.RevokeOne(t.Context(), o, records[2].ID), backend.Failed, "failed to revoke entry", "2BP01")
	fresh, _ := issue(t, b, request)
	o.Force = true
	must(t, b.RevokeOne(t.Context(), o, records[2].ID))
	must(t, b.RevokeOne(t.Context(), o, records[2].ID)) // a second time it is nobody's
	ids, err := b.Matching(t.Context(), o)
	if must(t, err); !slices.Equal(ids, []string{fresh.ID}) {
		t.Errorf("there are %v, want the one that was issued since", ids)
	}
	for id, want := range map[string]bool{fresh.ID: true, records[2].ID: false} {
		if lives, err := b.Lives(t.Context(), o, id); err != nil || lives != want {
			t.Errorf("%s lives: %t (%v)", id, lives, err)
		}
	}
}

func TestWhatVaultSaysToAnOrderWhileTheDatabaseIsDown(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	b := ordering(t, request.Path)
	o := vault.Order{Prefix: request.Path}
	rec, _ := issue(t, b, request)
	forgotten, _ := issue(t, b, request)
	start := stopPostgres(t)
	must(t, b.RevokeAll(t.Context(), o))
	ids, err := b.Matching(t.Context(), o)
	if must(t, err); len(ids) != 2 {
		t.Errorf("there are %v", ids)
	}
	for _, id := range ids {
		lives, err := b.Lives(t.Context(), o, id)
		if must(t, err); lives {
			t.Errorf("%s lives", id)
		}
	}
	_, err = b.Renew(t.Context(), rec, time.Hour)
	wantKind(t, err, backend.Gone, "lease expired")
	wantKind(t, b.RevokeOne(t.Context(), o, rec.ID), backend.Failed, "400")
	o.Force = true
	must(t, b.RevokeOne(t.Context(), o, forgotten.ID))
	if ids, err = b.Matching(t.Context(), o); err != nil || !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("there are %v (%v), want the one that was not forced", ids, err)
	}
	start()
	o.Force = false
	eventually(t, "it can be revoked when the database is back", func() error { return b.RevokeOne(t.Context(), o, rec.ID) })
	untilGone(t, b, o)
}

func TestOneLeaseIsRevokedByItsIDWithTheKeepersOwnLines(t *testing.T) {
	b := backend(t, "app")
	request := databaseRole(t, time.Hour, 2*time.Hour)
	rec, _ := issue(t, b, request)
	other, _ := issue(t, b, request)
	o := vault.Order{LeaseID: rec.ID}
	must(t, b.RevokeAll(t.Context(), o))
	untilGone(t, b, o)
	must(t, b.RevokeAll(t.Context(), o)) // it is gone, which is no error
	must(t, b.Lookup(t.Context(), other))
}

func TestAnOrderThatThePolicyRefusesNamesTheLinesAndWorksWithThem(t *testing.T) {
	request := databaseRole(t, time.Hour, 2*time.Hour)
	role := unique("lines")
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy))
	must(t, bed.vault.WriteRole(t.Context(), "kubernetes", role, testbed.KubernetesRole{
		ServiceAccounts: []string{"leasekeeper"}, Namespaces: []string{"*"}, Audience: "vault", Policies: []string{role}, TTL: time.Hour,
	}))
	b := backend(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = role })
	rec, _ := issue(t, b, request)
	o := vault.Order{Prefix: request.Path, Force: true}
	lines := []string{
		`path "sys/leases/lookup/` + request.Path + `/*" { capabilities = ["list", "sudo"] }`,
		`path "sys/leases/revoke-prefix/` + request.Path + `" { capabilities = ["update", "sudo"] }`,
		`path "sys/leases/revoke-force/` + request.Path + `/*" { capabilities = ["update", "sudo"] }`,
	}
	_, err := b.Matching(t.Context(), o)
	wantKind(t, err, backend.Denied, append(lines, role)...)
	wantKind(t, b.RevokeAll(t.Context(), o), backend.Denied, lines...)
	must(t, b.Lookup(t.Context(), rec))
	// A line without sudo is not enough.
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy+lines[0]+"\n"+strings.Replace(lines[1], `, "sudo"`, "", 1)))
	err = b.RevokeAll(t.Context(), o)
	wantKind(t, err, backend.Denied, lines[1:]...)
	if strings.Contains(err.Error(), "lookup") {
		t.Errorf("%q names a line that is there", err)
	}
	// The lines are taken as they were told.
	must(t, bed.vault.WritePolicy(t.Context(), role, keeperPolicy+strings.Join(lines, "\n")))
	ids, err := b.Matching(t.Context(), o)
	if must(t, err); !slices.Equal(ids, []string{rec.ID}) {
		t.Errorf("there are %v", ids)
	}
	must(t, b.RevokeAll(t.Context(), o))
	must(t, b.RevokeOne(t.Context(), o, rec.ID))
	untilGone(t, b, o)
	if err := b.Lookup(t.Context(), rec); !errors.As(err, new(*backend.Error)) {
		t.Errorf("got %v", err)
	}
}
