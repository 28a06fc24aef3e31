//go:build integration

package vault_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// revoke revokes a lease like `vault lease revoke -sync`.
func revoke(t *testing.T, id string) {
	t.Helper()
	must(t, bed.vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}))
}

// wantKind fails unless err is of the kind and its message has the pieces.
func wantKind(t *testing.T, err error, kind backend.ErrorKind, pieces ...string) {
	t.Helper()
	if err == nil || backend.KindOf(err) != kind {
		t.Fatalf("got %v, want %s", err, kind)
	}
	t.Logf("%s: %v", kind, err)
	for _, piece := range pieces {
		if !strings.Contains(err.Error(), piece) {
			t.Errorf("%q does not say %q", err, piece)
		}
	}
}

func TestVaultsResponsesAboutARevokedLease(t *testing.T) {
	b := connect(t, "app")
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	revoke(t, rec.ID)
	_, err := b.Renew(t.Context(), rec, time.Hour)
	wantKind(t, err, backend.Gone, "lease not found")
	wantKind(t, b.Lookup(t.Context(), rec), backend.Gone)
	must(t, b.Revoke(t.Context(), rec, owner))
	_, err = b.ExtendSession(t.Context(), rec, owner)
	wantKind(t, err, backend.Gone)
	must(t, b.Revoke(t.Context(), rec, owner))
}

func TestVaultsResponsesWhileTheDatabaseIsDown(t *testing.T) {
	b := connect(t, "app")
	lasting, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	ending, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	expiring, _ := issue(t, b, databaseRole(t, 2*time.Second, time.Hour))
	another := databaseRole(t, time.Hour, 2*time.Hour)
	start := stopPostgres(t)

	_, err := b.Renew(t.Context(), lasting, time.Hour)
	wantKind(t, err, backend.Failed, "400")
	must(t, b.Lookup(t.Context(), lasting))

	session, err := b.Login(t.Context(), who)
	must(t, err)
	_, err = b.Issue(t.Context(), session, source(another))
	wantKind(t, err, backend.Failed, "500")

	wantKind(t, b.Revoke(t.Context(), ending, owner), backend.Failed, "400")
	_, err = b.ExtendSession(t.Context(), ending, owner)
	wantKind(t, err, backend.Gone)

	eventually(t, "the lease expires", func() error {
		if _, err := b.Renew(t.Context(), expiring, time.Minute); backend.KindOf(err) != backend.Gone {
			return fmt.Errorf("renewal: %w", err)
		}
		return nil
	})
	_, err = b.Renew(t.Context(), expiring, time.Minute)
	wantKind(t, err, backend.Gone, "lease expired")
	wantKind(t, b.Lookup(t.Context(), expiring), backend.Gone)
	wantKind(t, b.Revoke(t.Context(), expiring, owner), backend.Failed)

	start()
	for _, rec := range []v1alpha1.LeaseRecord{lasting, ending, expiring} {
		eventually(t, "it is revoked when the database is back", func() error {
			return b.Revoke(t.Context(), rec, owner)
		})
	}
}

func TestAUserThatOwnsATableCannotBeRevoked(t *testing.T) {
	b := connect(t, "app")
	rec, answer := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	must(t, bed.postgres.Exec(t.Context(), fmt.Sprintf(
		`CREATE SCHEMA own; CREATE TABLE own.owned (); ALTER TABLE own.owned OWNER TO "%s"`, answer.Data["username"])))
	wantKind(t, b.Revoke(t.Context(), rec, owner), backend.Failed, "failed to revoke entry", "2BP01")
	must(t, bed.postgres.Exec(t.Context(), `DROP SCHEMA own CASCADE`))
	eventually(t, "it is revoked without the table", func() error { return b.Revoke(t.Context(), rec, owner) })
	user, password := string(answer.Data["username"]), string(answer.Data["password"])
	if err := bed.postgres.Login(t.Context(), user, password); err == nil {
		t.Error("the user can still log in")
	}
}

func TestVaultsResponsesWhileItIsSealed(t *testing.T) {
	b := connect(t, "app")
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	session, err := b.Login(t.Context(), who)
	must(t, err)
	must(t, bed.vault.Seal(t.Context()))
	unsealed := false
	unseal := func() {
		if !unsealed {
			unsealed = true
			must(t, bed.vault.Unseal(context.WithoutCancel(t.Context())))
		}
	}
	t.Cleanup(unseal)
	_, err = b.Login(t.Context(), who)
	wantKind(t, err, backend.Unavailable, "sealed")
	_, err = b.Issue(t.Context(), session, source(read(rec.Vault.Path)))
	wantKind(t, err, backend.Unavailable, "Vault is sealed")
	_, err = b.Renew(t.Context(), rec, time.Hour)
	wantKind(t, err, backend.Unavailable, "sealed")
	wantKind(t, b.Revoke(t.Context(), rec, owner), backend.Unavailable, "sealed")
	_, err = b.Inspect(t.Context())
	wantKind(t, err, backend.Unavailable, "sealed")
	report, err := connect(t, "app").Inspect(t.Context()) // by a backend that does not know it yet
	wantKind(t, err, backend.Unavailable, "sealed")
	if report.ServerKind != bed.vault.Kind() {
		t.Errorf("a sealed %s is reported as %q", bed.vault.Kind(), report.ServerKind)
	}
	unseal()
	eventually(t, "it is revoked after the unsealing", func() error { return b.Revoke(t.Context(), rec, owner) })
}

func TestUnsuitableTokensOfVault(t *testing.T) {
	for role, text := range map[string]string{
		"batch": "token_type=service", "uses": "token_num_uses=0", "unknown": "invalid role name",
	} {
		_, err := connect(t, role).Login(t.Context(), who)
		wantKind(t, err, backend.LoginFailed, text)
	}
	w := who
	w.Namespace, w.ServiceAccount = "system", "leasekeeper"
	_, err := connect(t, "app", func(p *v1alpha1.VaultProvider) {
		p.Auth.Kubernetes.ServiceAccountRef.Audiences = []string{"somebody-else"}
	}).Login(t.Context(), w)
	wantKind(t, err, backend.LoginFailed)
	nowhere := func(p *v1alpha1.VaultProvider) { p.Auth.Kubernetes.Mount = "nowhere" }
	_, err = connect(t, "app", nowhere).Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed, "auth/nowhere")
	w.ServiceAccount = "nobody"
	_, err = connect(t, "app").Login(t.Context(), w)
	wantKind(t, err, backend.NoServiceAccount, "nobody")
}

func TestAServiceAccountOfATerminatingNamespace(t *testing.T) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unique("leaving")}}
	must(t, bed.client.Create(t.Context(), namespace))
	account := &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{
			Name: "orders", Namespace: namespace.Name, Finalizers: []string{"test.example/stay"},
		},
	}
	must(t, bed.client.Create(t.Context(), account))
	must(t, bed.client.Delete(t.Context(), namespace))
	b := connect(t, "app")
	w := backend.Identity{Namespace: namespace.Name, Owner: owner}
	eventually(t, "no token is issued any more", func() error {
		if _, err := b.Login(t.Context(), w); backend.KindOf(err) != backend.NoServiceAccount {
			return fmt.Errorf("login: %w", err)
		}
		return nil
	})
	_, err := b.Login(t.Context(), w)
	wantKind(t, err, backend.NoServiceAccount, "being deleted")
	account.Finalizers = nil
	must(t, bed.client.Update(t.Context(), account))
}

func TestAShortSessionOutlivesTheRequestLimit(t *testing.T) {
	w := who
	w.MinTTL = 2 * time.Minute
	session, err := connect(t, "short").Login(t.Context(), w)
	must(t, err)
	if session.Term.Duration < w.MinTTL {
		t.Errorf("the token lives for %s, want %s", session.Term.Duration, w.MinTTL)
	}
}

func TestSessionsAreExtendedAsTheirKindPermits(t *testing.T) {
	for role, want := range map[string]struct {
		duration time.Duration
		capped   bool
	}{"periodic": {time.Minute, false}, "capped": {10 * time.Minute, true}, "app": {768 * time.Hour, true}} {
		b := connect(t, role)
		rec, _ := issue(t, b, databaseRole(t, time.Minute, time.Hour))
		term, err := b.ExtendSession(t.Context(), rec, owner)
		must(t, err)
		t.Logf("%s: %s, capped %t, renewable %t", role, term.Duration, term.Capped, term.Renewable)
		if term.Capped != want.capped || term.Duration > want.duration || term.Duration < want.duration-time.Minute/2 {
			t.Errorf("%s: got %s, capped %t; want about %s, capped %t",
				role, term.Duration, term.Capped, want.duration, want.capped)
		}
		must(t, b.Revoke(t.Context(), rec, owner))
	}
}

func TestVaultsResponsesToAFailedIssuance(t *testing.T) {
	gone, destroyed := unique("gone"), unique("destroyed")
	must(t, bed.vault.Write(t.Context(), "kv2/data/"+gone, map[string]any{"data": map[string]any{"a": "b"}}))
	_, err := bed.vault.Root.Logical().DeleteWithContext(t.Context(), "kv2/data/"+gone)
	must(t, err)
	must(t, bed.vault.Write(t.Context(), "kv2/data/"+destroyed, map[string]any{"data": map[string]any{"a": "b"}}))
	must(t, bed.vault.Write(t.Context(), "kv2/destroy/"+destroyed, map[string]any{"versions": []int{1}}))
	must(t, bed.vault.Write(t.Context(), "kv2/data/here", map[string]any{"data": map[string]any{"a": "b"}}))
	for name, test := range map[string]struct {
		role  string
		req   *v1alpha1.VaultRequest
		kind  backend.ErrorKind
		texts []string
	}{
		"denied": {
			"nothing", read("kv2/data/here"), backend.Denied,
			[]string{`policy of role "nothing" lacks "read" on "kv2/data/here"`},
		},
		"a write denied": {
			"app", &v1alpha1.VaultRequest{Path: "kv2/data/here", Method: v1alpha1.MethodWrite},
			backend.Denied, []string{`"update"`},
		},
		"no engine":               {"app", read("nowhere/creds/x"), backend.NotFound, []string{"no handler for route"}},
		"nothing there":           {"app", read("kv/nothing"), backend.NotFound, []string{"kv/nothing"}},
		"an unknown role":         {"app", read("database/creds/unknown"), backend.Refused, []string{"unknown role"}},
		"an unsupported path":     {"app", read("database/creds/a/b/c"), backend.NotFound, nil},
		"version 2 without data/": {"app", read("kv2/here"), backend.NotFound, []string{"kv2/data/here"}},
		"a deleted version": {
			"app", read("kv2/data/" + gone), backend.NotFound, []string{"version 1", "deleted"},
		},
		"a destroyed version":    {"app", read("kv2/data/" + destroyed), backend.NotFound, []string{"destroyed"}},
		"version 2 with nothing": {"app", read("kv2/data/never"), backend.NotFound, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, test.role)
			session, err := b.Login(t.Context(), who)
			must(t, err)
			_, err = b.Issue(t.Context(), session, source(test.req))
			wantKind(t, err, test.kind, test.texts...)
		})
	}
}

func TestKeyValueResponses(t *testing.T) {
	must(t, bed.vault.Write(t.Context(), "kv/values",
		map[string]any{"n": 12, "s": "x\ny", "o": map[string]any{"a": []int{1}}, "data": "d", "metadata": "m"}))
	must(t, bed.vault.Write(t.Context(), "kv2/data/values", map[string]any{"data": map[string]any{"a": "1"}}))
	must(t, bed.vault.Write(t.Context(), "kv2/data/values", map[string]any{"data": map[string]any{"a": "2"}}))
	b := connect(t, "app")
	for path, want := range map[string]string{
		"kv/values": "data=d metadata=m n=12 o={\"a\":[1]} s=x\ny ", "kv2/data/values": "a=2 ",
	} {
		rec, answer := issue(t, b, read(path))
		got := ""
		for _, key := range []string{"a", "data", "metadata", "n", "o", "s"} {
			if value, ok := answer.Data[key]; ok {
				got += key + "=" + string(value) + " "
			}
		}
		if got != want || answer.LeaseID != "" {
			t.Errorf("%s: got %q and lease %q, want %q", path, got, answer.LeaseID, want)
		}
		t.Logf("%s: lease_duration %s, no lease", path, answer.Term.Duration)
		must(t, b.Revoke(t.Context(), rec, owner))
	}
	session, err := b.Login(t.Context(), who)
	must(t, err)
	answer, err := b.Issue(t.Context(), session, source(&v1alpha1.VaultRequest{
		Path: "kv2/data/values", Parameters: map[string]apiextensionsv1.JSON{"version": {Raw: []byte("1")}},
	}))
	must(t, err)
	if string(answer.Data["a"]) != "1" {
		t.Error("an older version was not read")
	}
}

func TestInspecting(t *testing.T) {
	report, err := connect(t, "app").Inspect(t.Context())
	must(t, err)
	if report.ServerKind != bed.vault.Kind() || report.Version != bed.vault.Version || len(report.Missing) != 0 {
		t.Errorf("got %+v, want %s %s", report, bed.vault.Kind(), bed.vault.Version)
	}
	weak := func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = "weak" }
	report, err = connect(t, "app", weak).Inspect(t.Context())
	must(t, err)
	want := "auth/token/lookup-accessor: update auth/token/renew-accessor: update " +
		"auth/token/revoke-accessor: update sys/leases/revoke: update"
	if got := strings.Join(report.Missing, " "); got != want {
		t.Errorf("missing %s, want %s", got, want)
	}
	_, err = connect(t, "app", func(p *v1alpha1.VaultProvider) { p.TLS = nil }).Inspect(t.Context())
	wantKind(t, err, backend.TLS, "unknown authority")
}

func TestAKeeperWithoutPolicyLinesLearnsWhich(t *testing.T) {
	strong := connect(t, "app")
	weak := connect(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = "weak" })
	rec, _ := issue(t, strong, databaseRole(t, time.Hour, 2*time.Hour))
	_, err := weak.Renew(t.Context(), rec, time.Hour)
	must(t, err)
	wantKind(t, weak.Revoke(t.Context(), rec, owner), backend.Denied,
		`policy of role "weak" lacks "update" on "auth/token/lookup-accessor"`)
	_, err = weak.ExtendSession(t.Context(), rec, owner)
	wantKind(t, err, backend.Denied, "auth/token/lookup-accessor")
	rec.SetHandle("")
	wantKind(t, weak.Revoke(t.Context(), rec, owner), backend.Denied, "sys/leases/revoke")
	must(t, strong.Revoke(t.Context(), rec, owner))
}

func TestTokenAuth(t *testing.T) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: unique("root"), Namespace: "system"},
		StringData: map[string]string{"token": bed.vault.Root.Token()},
	}
	must(t, bed.client.Create(t.Context(), secret))
	b := connect(t, "", func(p *v1alpha1.VaultProvider) {
		ref := &v1alpha1.VaultTokenAuth{
			SecretRef: v1alpha1.SecretKeyReference{
				SecretReference: v1alpha1.SecretReference{Name: secret.Name, Namespace: "system"},
			},
		}
		p.Auth, p.KeeperAuth = v1alpha1.VaultAuth{Token: ref}, &v1alpha1.VaultAuth{Token: ref}
	})
	report, err := b.Inspect(t.Context())
	must(t, err)
	if len(report.Missing) != 0 {
		t.Errorf("root lacks %v", report.Missing)
	}
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	wantKind(t, b.Revoke(t.Context(), rec, stranger), backend.Mismatch)
	wantKind(t, connect(t, "app").Revoke(t.Context(), rec, owner), backend.Mismatch)
	term, err := b.ExtendSession(t.Context(), rec, owner)
	t.Logf("a child of root: %+v %v", term, err)
	must(t, b.Revoke(t.Context(), rec, owner))
	_, err = b.Inspect(t.Context())
	must(t, err)
}

func TestARequestThatVaultCancelsMayStillAct(t *testing.T) {
	impatient, err := testbed.StartVault(t.Context(), testbed.VaultOptions{MaxRequestDuration: 2 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, impatient.Close()) })
	must(t, impatient.EnableDatabase(t.Context(), "database", bed.postgres))
	must(t, impatient.WriteDatabaseRole(t.Context(), "database", "slow", testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: time.Hour,
		CreationStatements: []string{`SELECT pg_sleep(4); CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}';`},
	}))
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: unique("impatient"), Namespace: "system"},
		StringData: map[string]string{"token": impatient.Root.Token()},
	}
	must(t, bed.client.Create(t.Context(), secret))
	b := connect(t, "", func(p *v1alpha1.VaultProvider) {
		ref := &v1alpha1.VaultTokenAuth{
			SecretRef: v1alpha1.SecretKeyReference{
				SecretReference: v1alpha1.SecretReference{Name: secret.Name, Namespace: "system"},
			},
		}
		p.Address, p.TLS = impatient.Address, nil
		p.Auth, p.KeeperAuth = v1alpha1.VaultAuth{Token: ref}, &v1alpha1.VaultAuth{Token: ref}
	})
	session, err := b.Login(t.Context(), who)
	must(t, err)
	if session.Term.Duration != time.Hour {
		t.Errorf("a child of root lives for %s, want 1h", session.Term.Duration)
	}
	_, err = b.Issue(t.Context(), session, source(read("database/creds/slow")))
	wantKind(t, err, backend.NoResponse)
	must(t, b.Revoke(t.Context(), recordOf("database/creds/slow", "", session.Handle), owner))
}

func TestARequestInProgressDuringASealIsNotRefused(t *testing.T) {
	name := unique("role")
	must(t, bed.vault.WriteDatabaseRole(t.Context(), "database", name, testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: time.Hour,
		CreationStatements: []string{`SELECT pg_sleep(3); CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}';`},
	}))
	b := connect(t, "app")
	session, err := b.Login(t.Context(), who)
	must(t, err)
	result := make(chan error)
	go func() {
		_, err := b.Issue(t.Context(), session, source(read("database/creds/"+name)))
		result <- err
	}()
	eventually(t, "the statement runs", func() error {
		return bed.postgres.Exec(t.Context(),
			`SELECT 1/count(*) FROM pg_stat_activity `+
				`WHERE query LIKE 'SELECT pg_sleep(3)%' AND state = 'active' AND pid <> pg_backend_pid()`)
	})
	must(t, bed.vault.Seal(t.Context()))
	err = <-result
	must(t, bed.vault.Unseal(t.Context()))
	// Vault 1.21.0 waits for it before it seals, so it succeeds. The error must not mean that nothing was minted.
	if err != nil {
		wantKind(t, err, backend.NoResponse)
	}
	rec := recordOf("database/creds/"+name, "", session.Handle)
	eventually(t, "the attempt is revoked after the unsealing", func() error {
		return b.Revoke(t.Context(), rec, owner)
	})
}

// Vault revokes the lease of a revoked token in the background. On a busy machine that may take longer than Revoke
// waits, so one of several revocations must be a usual one.
func TestAUsualRevocationTakesThreeRequests(t *testing.T) {
	b := connect(t, "app")
	request := databaseRole(t, time.Hour, 2*time.Hour)
	_, err := b.Inspect(t.Context())
	must(t, err)
	eventually(t, "a revocation that takes three requests", func() error {
		rec, _ := issue(t, b, request)
		before, err := bed.vault.Mark()
		must(t, err)
		must(t, b.Revoke(t.Context(), rec, owner))
		all, err := bed.vault.Requests(before, "")
		must(t, err)
		var paths []string
		for _, entry := range all {
			paths = append(paths, entry.Path)
		}
		want := []string{"auth/token/lookup-accessor", "auth/token/revoke-accessor", "sys/leases/lookup"}
		if !slices.Equal(paths, want) {
			return fmt.Errorf("it took %v", paths)
		}
		return nil
	})
}

func TestARevokedKeeperLogsInAgain(t *testing.T) {
	b := connect(t, "app")
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	must(t, b.Lookup(t.Context(), rec))
	// Every login of the keeper's ServiceAccount, as an operator would revoke them.
	must(t, bed.vault.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login",
		map[string]any{"sync": true}))
	eventually(t, "the keeper is back", func() error {
		if err := b.Lookup(t.Context(), rec); backend.KindOf(err) != backend.Gone {
			return fmt.Errorf("look-up: %w", err)
		}
		return nil
	})
	must(t, b.Revoke(t.Context(), rec, owner))
}
