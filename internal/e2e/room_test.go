//go:build integration

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// room is what one test has of a bed for itself: a namespace with a ServiceAccount, a database mount with a role, a
// policy, a login role, and a ClusterSecretProvider. All of them have the room's name, but for the ServiceAccount and
// the database role, which are called orders.
type room struct {
	*bed
	t    *testing.T
	name string
	// proxy stands between the manager and Vault where the test asked for one.
	proxy *testbed.Proxy
}

var rooms atomic.Int32

// option changes how a room is made.
type option func(*roomOptions)

type roomOptions struct {
	role     testbed.DatabaseRole
	login    testbed.KubernetesRole
	proxy    bool
	policy   string
	provider func(*v1alpha1.ClusterSecretProvider)
}

func withRole(role testbed.DatabaseRole) option { return func(o *roomOptions) { o.role = role } }

// withTTL gives leases of that length, up to a maximum.
func withTTL(ttl, maxTTL time.Duration) option {
	return withRole(testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: maxTTL})
}

// withLogin changes the issuer's login role; accounts, policies and audience are filled in.
func withLogin(role testbed.KubernetesRole) option { return func(o *roomOptions) { o.login = role } }

// withProxy puts a proxy between the manager and Vault.
func withProxy() option { return func(o *roomOptions) { o.proxy = true } }

// withPolicy adds to what the issuer may do. %s stands for the room's name.
func withPolicy(rules string) option { return func(o *roomOptions) { o.policy = rules } }

// withProvider changes the provider before it is made.
func withProvider(change func(*v1alpha1.ClusterSecretProvider)) option {
	return func(o *roomOptions) { o.provider = change }
}

func newRoom(t *testing.T, b *bed, options ...option) *room {
	t.Helper()
	o := roomOptions{
		role:     testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour},
		login:    testbed.KubernetesRole{TTL: time.Hour, MaxTTL: 24 * time.Hour},
		provider: func(*v1alpha1.ClusterSecretProvider) {},
	}
	for _, option := range options {
		option(&o)
	}
	r := &room{bed: b, t: t, name: fmt.Sprintf("room-%d", rooms.Add(1))}
	r.createNamespace()
	r.setUpVaultFor(o)
	address := b.Vault.Address
	if o.proxy {
		proxy, err := testbed.StartProxy(b.Vault.Address, testbed.ProxyOptions{CA: b.Vault.CA})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		r.proxy, address = proxy, proxy.Address
	}
	p := r.newProvider(address)
	o.provider(p)
	r.create(p)
	t.Cleanup(func() {
		if t.Failed() {
			r.describe()
		}
	})
	return r
}

func (r *room) createNamespace() {
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}})
	r.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: r.name}})
}

func (r *room) setUpVaultFor(o roomOptions) {
	r.t.Helper()
	ctx := r.t.Context()
	r.must(r.Vault.EnableDatabase(ctx, r.name, r.Postgres))
	// Users bear the room's name, so that each room can count its own.
	r.must(r.Vault.Write(ctx, r.name+"/config/postgres", map[string]any{
		"plugin_name":       "postgresql-database-plugin",
		"username_template": r.userPrefix() + "{{random 20}}-{{unix_time}}",
		// A connection that is kept by each of a hundred rooms is one too many for PostgreSQL.
		"max_connection_lifetime": "5s", "max_idle_connections": -1,
	}))
	r.must(r.Vault.WriteDatabaseRole(ctx, r.name, "orders", o.role))
	rules := `path "` + r.name + `/*" { capabilities = ["read", "update"] }` + "\n" + strings.ReplaceAll(o.policy, "%s", r.name)
	r.must(r.Vault.WritePolicy(ctx, r.name, rules))
	login := o.login
	login.ServiceAccounts, login.Namespaces, login.Audience = []string{"orders"}, []string{r.name}, "vault"
	if login.Policies == nil {
		login.Policies = []string{r.name}
	}
	r.must(r.Vault.WriteRole(ctx, "kubernetes", r.name, login))
}

// newProvider is the room's ClusterSecretProvider, not created yet.
func (r *room) newProvider(address string) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	p.Spec.Vault = &v1alpha1.VaultProvider{
		Address: address,
		Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: r.name,
			ServiceAccountRef: &v1alpha1.WorkloadServiceAccount{Name: "orders", Audiences: []string{"vault"}},
		}},
		KeeperAuth: &v1alpha1.VaultKeeperAuth{Kubernetes: &v1alpha1.VaultKeeperKubernetesAuth{
			Mount: "kubernetes", Role: "keeper",
			ServiceAccountRef: v1alpha1.KeeperServiceAccount{Name: testbed.ManagerAccount, Namespace: testbed.ManagerNamespace, Audiences: []string{"vault"}},
		}},
	}
	if len(r.Vault.CA) > 0 && strings.HasPrefix(address, "https") {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: r.Vault.CA}
	}
	return p
}

// secret is a DynamicSecret for the room's database role, not created yet.
func (r *room) secret(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: r.name},
			Vault:       &v1alpha1.VaultRequest{Path: r.name + "/creds/orders"},
			// The zero value is left to the API server's default.
			Lease: v1alpha1.LeaseSpec{RevocationDeadline: metav1.Duration{Duration: time.Hour}},
			// Most tests look at what is left when the old lease is ended; those of the overlap set one.
			Rotation:        v1alpha1.RotationSpec{Overlap: &metav1.Duration{}},
			RefreshInterval: metav1.Duration{Duration: time.Hour},
		},
	}
	for _, change := range changes {
		change(d)
	}
	return d
}

// apply creates a DynamicSecret of the room.
func (r *room) apply(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	r.t.Helper()
	d := r.secret(name, changes...)
	r.create(d)
	return d
}

// ready creates a DynamicSecret and waits until it is Ready.
func (r *room) ready(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	r.t.Helper()
	r.apply(name, changes...)
	return r.untilReady(name)
}

func (r *room) untilReady(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "Ready", func(d *v1alpha1.DynamicSecret) bool {
		return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) && d.Status.ObservedGeneration == d.Generation
	})
}

// untilReason waits until a condition has a reason, and returns the message.
func (r *room) untilReason(name, condition, reason string) string {
	r.t.Helper()
	d := r.until(name, condition+" for "+reason, func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, condition)
		return c != nil && c.Reason == reason
	})
	return meta.FindStatusCondition(d.Status.Conditions, condition).Message
}

// until waits for the object to be as wanted.
func (r *room) until(name, what string, ok func(*v1alpha1.DynamicSecret) bool) *v1alpha1.DynamicSecret {
	r.t.Helper()
	var d *v1alpha1.DynamicSecret
	r.eventually(name+" to be "+what, func() bool {
		d = r.get(name)
		return d != nil && ok(d)
	})
	return d
}

// get reads a DynamicSecret; nil: there is none.
func (r *room) get(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	d := &v1alpha1.DynamicSecret{}
	if !r.read(name, d) {
		return nil
	}
	return d
}

// target reads a Secret; nil: there is none.
func (r *room) target(name string) *corev1.Secret {
	r.t.Helper()
	s := &corev1.Secret{}
	if !r.read(name, s) {
		return nil
	}
	return s
}

func (r *room) read(name string, into client.Object) bool {
	r.t.Helper()
	err := r.Kube.Get(context.Background(), types.NamespacedName{Namespace: r.name, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return false
	}
	r.must(err)
	return true
}

// edit changes a DynamicSecret.
func (r *room) edit(name string, how func(*v1alpha1.DynamicSecret)) {
	r.t.Helper()
	change(r, &v1alpha1.DynamicSecret{ObjectMeta: r.named(name)}, how)
}

// remove deletes a DynamicSecret and waits until it is gone.
func (r *room) remove(name string) {
	r.t.Helper()
	r.must(client.IgnoreNotFound(r.Kube.Delete(context.Background(), &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name}})))
	r.eventually(name+" to be gone", func() bool { return r.get(name) == nil })
}

// leases lists the leases that Vault has for the room.
func (r *room) leases() []string {
	r.t.Helper()
	ids, err := r.Vault.Leases(context.Background(), r.name)
	r.must(err)
	return ids
}

// users lists the PostgreSQL users that Vault made for the room's login role.
func (r *room) users() []string {
	r.t.Helper()
	users, err := r.Postgres.Users(context.Background(), r.userPrefix())
	r.must(err)
	return users
}

// userPrefix is what the names of the room's PostgreSQL users begin with.
func (r *room) userPrefix() string { return "v-" + r.name + "-" }

// login logs in to PostgreSQL with a Secret.
func (r *room) login(s *corev1.Secret) error {
	return r.Postgres.Login(context.Background(), string(s.Data["username"]), string(s.Data["password"]))
}

func (r *room) create(o client.Object) {
	r.t.Helper()
	r.must(r.Kube.Create(context.Background(), o))
}

func (r *room) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls until ok, and gives up after a long time.
func (r *room) eventually(what string, ok func() bool) {
	r.t.Helper()
	r.eventuallyWithin(patience, what, ok)
}

// eventuallyWithin is eventually with another bound.
func (r *room) eventuallyWithin(bound time.Duration, what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(bound); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
		if r.lasting && !r.Manager.Running() {
			r.t.Fatalf("the manager has ended, which nobody asked it to. %s", r.Manager.LastWords(40))
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %s for %s", bound, what)
		}
	}
}

// vaultMark is the present end of Vault's audit log.
func (r *room) vaultMark() testbed.Mark {
	r.t.Helper()
	mark, err := r.Vault.Mark()
	r.must(err)
	return mark
}

// requests counts the requests to Vault since the mark whose "operation path" matches.
func (r *room) requests(since testbed.Mark, pattern string) int {
	r.t.Helper()
	found, err := r.Vault.Requests(since, pattern)
	r.must(err)
	return len(found)
}

// minted counts the credentials of the room that were asked for since the mark, in vain or not.
func (r *room) minted(since testbed.Mark) int {
	r.t.Helper()
	return r.requests(since, "^read "+r.name+"/creds/")
}

// tries are the times of the requests of the room that its proxy has seen, by "METHOD path" below /v1/.
func (r *room) tries(pattern string) []time.Time {
	r.t.Helper()
	found, err := r.proxy.Requests(pattern)
	r.must(err)
	times := make([]time.Time, len(found))
	for i, request := range found {
		times[i] = request.At
	}
	return times
}

// issuing is the pattern, for tries, of the requests that mint.
func (r *room) issuing() string { return "^GET /v1/" + r.name + "/creds/" }

// backsOff waits for three tries after the first so many, and fails where they follow each other in less than 1 s and
// 2 s. A tenth of a pause is jitter. Of logins a try may make two: a token of the ServiceAccount that was kept and is
// refused is had anew.
func (r *room) backsOff(pattern string, after int) {
	r.t.Helper()
	var at []time.Time
	r.eventually("three tries of "+pattern, func() bool {
		at = r.tries(pattern)[after:]
		for i := 1; i < len(at) && strings.Contains(pattern, "login"); i++ {
			if at[i].Sub(at[i-1]) < 300*time.Millisecond {
				at = slices.Delete(at, i, i+1)
			}
		}
		return len(at) >= 3
	})
	for i, least := range []time.Duration{850 * time.Millisecond, 1700 * time.Millisecond} {
		if gap := at[i+1].Sub(at[i]); gap < least {
			r.t.Errorf("try %d came %s after the one before, want %s or more", i+2, gap, least)
		}
	}
}

// staysCalm waits until the manager has looked at the provider once more, and fails where it asked the API server for
// the room again and again meanwhile.
func (r *room) staysCalm() {
	r.t.Helper()
	const looks, most = "/v1/sys/health$", 24
	mark, before := r.apiMark(), len(r.tries(looks))
	r.eventually("the next look at the provider", func() bool { return len(r.tries(looks)) > before })
	manager := "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount
	found, err := r.Plane.Requests(mark, func(a testbed.APIRequest) bool { return a.User == manager && a.Namespace == r.name })
	if r.must(err); len(found) > most {
		r.t.Errorf("%d requests to the API server between two looks at the provider, want %d at most", len(found), most)
	}
}

// tokens lists the accessors of the tokens in Vault that somebody got for this room: for each issue that has not been
// ended there is one.
func (r *room) tokens() []string {
	r.t.Helper()
	accessors, err := r.Vault.TokenAccessors(context.Background())
	r.must(err)
	var mine []string
	for _, accessor := range accessors {
		key := r.Vault.Address + "/" + accessor
		of, known := tokenOwners.Load(key)
		if !known {
			answer, err := r.Vault.Root.Auth().Token().LookupAccessorWithContext(context.Background(), accessor)
			if err != nil || answer == nil {
				continue // ended meanwhile
			}
			meta, _ := answer.Data["meta"].(map[string]any)
			of = meta["service_account_namespace"]
			if of == nil {
				of = meta["leasekeeper_namespace"]
			}
			tokenOwners.Store(key, of)
		}
		if of == r.name {
			mine = append(mine, accessor)
		}
	}
	return mine
}

// tokenOwners remembers whose a token is: address and accessor to the namespace.
var tokenOwners sync.Map

// untilAlive waits until Vault has exactly so many leases of the room, as many tokens that issued them, and PostgreSQL
// as many users.
func (r *room) untilAlive(n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d leases, issuing tokens and users of the room to be alive", n), func() bool {
		return len(r.leases()) == n && len(r.tokens()) == n && len(r.users()) == n
	})
}

// untilProvider waits until a condition of the room's provider has a reason, and returns the message.
func (r *room) untilProvider(condition, reason string) string {
	r.t.Helper()
	var c *metav1.Condition
	r.eventually("the provider to have "+condition+" for "+reason, func() bool {
		p := r.provider()
		c = meta.FindStatusCondition(p.Status.Conditions, condition)
		return c != nil && c.Reason == reason && c.ObservedGeneration == p.Generation
	})
	return c.Message
}

// provider reads the room's provider.
func (r *room) provider() *v1alpha1.ClusterSecretProvider {
	r.t.Helper()
	p := &v1alpha1.ClusterSecretProvider{}
	r.must(r.Kube.Get(context.Background(), types.NamespacedName{Name: r.name}, p))
	return p
}

// change an object: it is read, changed and written, again where somebody else has written meanwhile.
func change[T client.Object](r *room, o T, how func(T)) {
	r.t.Helper()
	r.eventually("an edit of "+o.GetName()+" to be taken", func() bool {
		r.must(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(o), o))
		how(o)
		err := r.Kube.Update(context.Background(), o)
		if apierrors.IsConflict(err) {
			return false
		}
		r.must(err)
		return true
	})
}

// named is the metadata of an object of the room.
func (r *room) named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.name, Name: name}
}

// withVault is the shared bed with a Vault of its own, which the test may harm.
func withVault(t *testing.T, opts testbed.VaultOptions) *bed {
	t.Helper()
	return shared.withVault(t, opts)
}

// withVault is the bed with another Vault.
func (b *bed) withVault(t *testing.T, opts testbed.VaultOptions) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	opts.MaxRequestDuration = vaultLimit
	vault, err := testbed.StartVault(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vault.Close() })
	other := *b.Bed
	other.Vault = vault
	if err := other.SetUpVault(ctx); err != nil {
		t.Fatal(err)
	}
	return &bed{Bed: &other, lasting: b.lasting}
}

// describe prints what a failed test has left, without data of Secrets.
func (r *room) describe() {
	for _, args := range [][]string{
		{"get", "dynamicsecrets", "-n", r.name, "-o", "yaml"},
		{"get", "clustersecretprovider", r.name, "-o", "yaml"},
		{"get", "events", "-n", r.name},
	} {
		if out, err := r.Plane.Kubectl(context.Background(), args...); err == nil {
			r.t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
		}
	}
}
