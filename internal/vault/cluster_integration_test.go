//go:build integration

package vault_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// startCluster starts three Vaults with a database engine, and stores the root token in a Secret for auth/token.
func startCluster(t *testing.T) (cluster *testbed.VaultCluster, secret string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cluster, err := testbed.StartVaultCluster(ctx, testbed.VaultOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Close()) })
	must(t, cluster.Vault.EnableDatabase(ctx, "database", bed.postgres))
	must(t, cluster.Vault.WriteDatabaseRole(ctx, "database", "orders",
		testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}))
	root := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: unique("cluster"), Namespace: "system"},
		StringData: map[string]string{"token": cluster.Vault.Root.Token()},
	}
	must(t, bed.client.Create(ctx, root))
	return cluster, root.Name
}

// pinned is a backend that knows only one node.
func pinned(t *testing.T, node *testbed.Vault, secret string) *vault.Backend {
	t.Helper()
	return connect(t, "", func(p *v1alpha1.VaultProvider) {
		ref := &v1alpha1.VaultTokenAuth{SecretRef: v1alpha1.SecretKeyReference{
			SecretReference: v1alpha1.SecretReference{Name: secret, Namespace: "system"},
		}}
		p.Address, p.TLS = node.Address, nil
		p.Auth, p.KeeperAuth = v1alpha1.VaultAuth{Token: ref}, &v1alpha1.VaultAuth{Token: ref}
	})
}

func TestARealStandbyServesEverything(t *testing.T) {
	cluster, secret := startCluster(t)
	active, err := cluster.AwaitActive(t.Context())
	must(t, err)
	b := pinned(t, cluster.Nodes[(active+1)%len(cluster.Nodes)], secret)
	report, err := b.Inspect(t.Context())
	must(t, err)
	t.Logf("%s %s, missing %v", report.ServerKind, report.Version, report.Missing)
	rec, _ := issue(t, b, read("database/creds/orders"))
	_, err = b.Renew(t.Context(), rec, time.Hour)
	must(t, err)
	must(t, b.Lookup(t.Context(), rec))
	listed, err := b.List(t.Context(), rec)
	must(t, err)
	if !listed[rec.ID] {
		t.Errorf("the list %v lacks the lease", listed)
	}
	_, err = b.ExtendSession(t.Context(), rec, owner)
	must(t, err)
	must(t, b.Revoke(t.Context(), rec, owner))
	wantKind(t, b.Lookup(t.Context(), rec), backend.Gone)
}

// A Vault without the two others redirects to the lost leader, or misses one.
func TestARealStandbyWithoutALeaderIsAnOutage(t *testing.T) {
	cluster, secret := startCluster(t)
	active, err := cluster.AwaitActive(t.Context())
	must(t, err)
	left := (active + 1) % len(cluster.Nodes)
	b := pinned(t, cluster.Nodes[left], secret)
	rec, _ := issue(t, b, read("database/creds/orders"))
	session, err := b.Login(t.Context(), who)
	must(t, err)
	for i, node := range cluster.Nodes {
		if i != left {
			must(t, node.Kill())
		}
	}
	if _, err = b.Inspect(t.Context()); bed.vault.OpenBao {
		must(t, err) // a standby of OpenBao reads for itself
	} else {
		wantKind(t, err, backend.Unavailable)
	}
	_, err = pinned(t, cluster.Nodes[left], secret).Renew(t.Context(), rec, time.Hour)
	wantKind(t, err, backend.Unavailable)
	_, err = pinned(t, cluster.Nodes[left], secret).Login(t.Context(), who)
	wantKind(t, err, backend.Unavailable)
	// The standby tries to forward the first one, and redirects. It may not forward the second one.
	_, err = b.Issue(t.Context(), session, source(read("database/creds/orders")))
	wantKind(t, err, backend.NoResponse)
	_, err = b.Issue(t.Context(), session, source(read("database/creds/orders")))
	wantKind(t, err, backend.Unavailable)
	for i, node := range cluster.Nodes {
		if i != left {
			must(t, node.Start(t.Context()))
		}
	}
	_, err = cluster.AwaitActive(t.Context())
	must(t, err)
	eventually(t, "the lease is renewed again", func() error {
		_, err := b.Renew(t.Context(), rec, time.Hour)
		return err
	})
	must(t, b.Revoke(t.Context(), rec, owner))
	must(t, b.Revoke(t.Context(), recordOf("database/creds/orders", "", session.Handle), owner))
}

// loss is one way to lose the active node.
type loss struct {
	name       string
	begin, end func(ctx context.Context, c *testbed.VaultCluster, active int) error
}

var losses = []loss{{
	"killed",
	func(_ context.Context, c *testbed.VaultCluster, active int) error { return c.Nodes[active].Kill() },
	func(ctx context.Context, c *testbed.VaultCluster, active int) error {
		return c.Nodes[active].Start(ctx)
	},
}, {
	"stepping down",
	func(ctx context.Context, c *testbed.VaultCluster, active int) error { return c.StepDown(ctx, active) },
	func(context.Context, *testbed.VaultCluster, int) error { return nil },
}, {
	"isolated",
	func(_ context.Context, c *testbed.VaultCluster, active int) error { c.Isolate(active); return nil },
	func(_ context.Context, c *testbed.VaultCluster, _ int) error { c.Heal(); return nil },
}}

// While the active node is lost, clients of each node issue, renew, extend, look up and revoke. No error may say that a
// lease is gone, or that a request is wrong. Afterwards every lease is alive, and everything that was ever attempted
// can be revoked.
func TestLosingTheActiveNodeIsAnOutage(t *testing.T) {
	cluster, secret := startCluster(t)
	for _, l := range losses {
		t.Run(l.name, func(t *testing.T) {
			active, err := cluster.AwaitActive(t.Context())
			must(t, err)
			before, err := cluster.Vault.TokenAccessors(t.Context())
			must(t, err)
			var clients []*worker
			for _, node := range cluster.Nodes {
				c := &worker{backend: pinned(t, node, secret), found: map[string]error{}}
				c.kept, _ = issue(t, c.backend, read("database/creds/orders"))
				clients = append(clients, c)
			}
			ctx, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for _, c := range clients {
				all.Go(func() { c.work(ctx) })
			}
			time.Sleep(500 * time.Millisecond)
			must(t, l.begin(t.Context(), cluster, active))
			_, err = cluster.AwaitActive(t.Context())
			must(t, err)
			time.Sleep(500 * time.Millisecond)
			must(t, l.end(t.Context(), cluster, active))
			must(t, cluster.AwaitVoters(t.Context()))
			stop()
			all.Wait()
			lostLogins := 0
			for i, c := range clients {
				lostLogins += c.lostLogins
				c.check(t, fmt.Sprintf("client of node %d (%d was active)", i, active))
			}
			eventually(t, "nothing is left", func() error {
				must(t, cluster.Tidy(t.Context()))
				leases, err1 := cluster.Vault.Leases(t.Context(), "database")
				tokens, err2 := cluster.Vault.TokenAccessors(t.Context())
				more := len(tokens) - len(before)
				if err := errors.Join(err1, err2); err != nil || len(leases) > 0 || more > lostLogins {
					return fmt.Errorf("%d leases, %d tokens, %d before, %d logins without a response: %w",
						len(leases), len(tokens), len(before), lostLogins, err)
				}
				return nil
			})
		})
	}
}

// worker works with one node.
type worker struct {
	backend *vault.Backend
	// kept is a lease that it renews; attempts are all records that may be alive.
	kept     v1alpha1.LeaseRecord
	attempts []v1alpha1.LeaseRecord
	// lostLogins may have created tokens, which own nothing and expire.
	lostLogins int
	// found has an error for each operation and kind.
	found map[string]error
}

func (c *worker) note(operation string, err error) {
	if err != nil {
		c.found[fmt.Sprintf("%s: %s", operation, backend.KindOf(err))] = err
	}
}

func (c *worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := c.backend.Renew(context.WithoutCancel(ctx), c.kept, time.Hour)
		c.note("renewal", err)
		_, err = c.backend.ExtendSession(context.WithoutCancel(ctx), c.kept, owner)
		c.note("extension", err)
		c.note("look-up", c.backend.Lookup(context.WithoutCancel(ctx), c.kept))
		session, err := c.backend.Login(context.WithoutCancel(ctx), who)
		c.note("login", err)
		if err != nil {
			c.lostLogins++
			time.Sleep(50 * time.Millisecond)
			continue
		}
		rec := recordOf("database/creds/orders", "", session.Handle)
		response, err := c.backend.Issue(context.WithoutCancel(ctx), session, source(read(rec.Vault.Path)))
		c.note("issuance", err)
		rec.ID = response.LeaseID
		// Without a response Vault may still be minting; that is revoked later.
		if settled := err == nil || backend.KindOf(err) != backend.NoResponse; settled && len(c.attempts)%2 == 0 {
			c.note("revocation", c.backend.Revoke(context.WithoutCancel(ctx), rec, owner))
		}
		c.attempts = append(c.attempts, rec)
	}
}

// check fails for an error that is no outage, and revokes everything.
func (c *worker) check(t *testing.T, name string) {
	t.Helper()
	outage := []backend.ErrorKind{backend.Unavailable, backend.NoResponse, backend.Failed}
	for _, key := range slices.Sorted(maps.Keys(c.found)) {
		t.Logf("%s: %s: %v", name, key, c.found[key])
		if !slices.Contains(outage, backend.KindOf(c.found[key])) {
			t.Errorf("%s: %s is no outage: %v", name, key, c.found[key])
		}
	}
	eventually(t, "the lease is renewed again", func() error {
		_, err := c.backend.Renew(t.Context(), c.kept, time.Hour)
		return err
	})
	for _, rec := range append(c.attempts, c.kept) {
		eventually(t, "it is revoked", func() error { return c.backend.Revoke(t.Context(), rec, owner) })
	}
	t.Logf("%s: %d issuances were attempted", name, len(c.attempts))
}

func TestAStandbyRedirectsWhatItMustNotForward(t *testing.T) {
	cluster, _ := startCluster(t)
	active, err := cluster.AwaitActive(t.Context())
	must(t, err)
	standby := cluster.Nodes[(active+1)%len(cluster.Nodes)]
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		standby.Address+"/v1/database/creds/orders", nil)
	must(t, err)
	request.Header.Set("X-Vault-Token", cluster.Vault.Root.Token())
	request.Header.Set("X-Vault-No-Request-Forwarding", "true")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	must(t, err)
	must(t, response.Body.Close())
	location := response.Header.Get("Location")
	if response.StatusCode != 307 || !strings.HasPrefix(location, cluster.Nodes[active].Address+"/v1/") {
		t.Errorf("it responds %d and leads to %q, want the active node", response.StatusCode, location)
	}
	leases, err := cluster.Vault.Leases(t.Context(), "database")
	must(t, err)
	if len(leases) != 0 {
		t.Errorf("the redirect has minted: %v", leases)
	}
}
