//go:build integration

package e2e

import (
	"context"
	"errors"
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
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// rig is one test's own part of a bed: a namespace with a ServiceAccount, a database mount with a role, a policy, a
// login role, and a ClusterSecretProvider. The ServiceAccount and the database role are called orders; everything else
// has the rig's name.
type rig struct {
	*bed
	t    *testing.T
	name string
	// role of the database, as the rig created it.
	role testbed.DatabaseRole
	// proxy between the manager and Vault; nil unless the test has one.
	proxy *testbed.Proxy
}

var rigs atomic.Int32

// option changes how a rig is created.
type option func(*rigOptions)

type rigOptions struct {
	name     string
	role     testbed.DatabaseRole
	login    testbed.KubernetesRole
	proxy    bool
	policy   string
	provider func(*v1alpha1.ClusterSecretProvider)
}

func withRole(role testbed.DatabaseRole) option { return func(o *rigOptions) { o.role = role } }

// withName sets the rig's name, which is that of its namespace.
func withName(name string) option { return func(o *rigOptions) { o.name = name } }

// withTTL sets the TTL and the maximum TTL of the leases.
func withTTL(ttl, maxTTL time.Duration) option {
	return withRole(testbed.DatabaseRole{DefaultTTL: ttl, MaxTTL: maxTTL})
}

// withLogin changes the issuer's login role; accounts, policies and audience are filled in.
func withLogin(role testbed.KubernetesRole) option { return func(o *rigOptions) { o.login = role } }

// withProxy puts a proxy between the manager and Vault.
func withProxy() option { return func(o *rigOptions) { o.proxy = true } }

// withPolicy adds rules to the issuer's policy. %s stands for the rig's name.
func withPolicy(rules string) option { return func(o *rigOptions) { o.policy = rules } }

// withProvider changes the provider before it is created.
func withProvider(change func(*v1alpha1.ClusterSecretProvider)) option {
	return func(o *rigOptions) { o.provider = change }
}

func newRig(t *testing.T, b *bed, options ...option) *rig {
	t.Helper()
	o := rigOptions{
		role:     testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour},
		login:    testbed.KubernetesRole{TTL: time.Hour, MaxTTL: 24 * time.Hour},
		provider: func(*v1alpha1.ClusterSecretProvider) {},
	}
	for _, option := range options {
		option(&o)
	}
	r := &rig{bed: b, t: t, name: o.name, role: o.role}
	if r.name == "" {
		r.name = fmt.Sprintf("rig-%d", rigs.Add(1))
	}
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
		r.discard(p)
	})
	return r
}

// discard ends the life of the rig's objects: a manager that keeps their leases alive slows down all other tests.
func (r *rig) discard(p *v1alpha1.ClusterSecretProvider) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var list v1alpha1.DynamicSecretList
	err := r.Kube.List(ctx, &list, client.InNamespace(r.name))
	for i := range list.Items {
		err = errors.Join(err, deleteAtOnce(ctx, r.Kube, &list.Items[i]))
	}
	err = errors.Join(err, deleteAtOnce(ctx, r.Kube, p))
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) { // a test may remove the CRDs
		r.t.Logf("what %s leaves: %v", r.name, err)
	}
}

func (r *rig) createNamespace() {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	r.must(client.IgnoreAlreadyExists(r.Kube.Create(context.Background(), namespace)))
	r.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: r.name}})
}

func (r *rig) setUpVaultFor(o rigOptions) {
	r.t.Helper()
	ctx := r.t.Context()
	r.must(r.Vault.EnableDatabase(ctx, r.name, r.Postgres))
	// The names of users contain the rig's name, so that each rig can count its own.
	r.must(r.Vault.Write(ctx, r.name+"/config/postgres", map[string]any{
		"plugin_name":       "postgresql-database-plugin",
		"username_template": r.userPrefix() + "{{random 20}}-{{unix_time}}",
		// PostgreSQL does not have enough connections for each of a hundred rigs to keep some.
		"max_connection_lifetime": "5s", "max_idle_connections": 4,
	}))
	r.must(r.Vault.WriteDatabaseRole(ctx, r.name, "orders", o.role))
	rules := `path "%s/*" { capabilities = ["read", "update"] }` + "\n" + o.policy
	r.must(r.Vault.WritePolicy(ctx, r.name, strings.ReplaceAll(rules, "%s", r.name)))
	login := o.login
	login.ServiceAccounts, login.Namespaces, login.Audience = []string{"orders"}, []string{r.name}, "vault"
	if login.Policies == nil {
		login.Policies = []string{r.name}
	}
	r.must(r.Vault.WriteRole(ctx, "kubernetes", r.name, login))
}

// newProvider returns the rig's ClusterSecretProvider without creating it.
func (r *rig) newProvider(address string) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	p.Spec.Vault = &v1alpha1.VaultProvider{
		Address: address,
		Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: r.name,
			ServiceAccountRef: &v1alpha1.ServiceAccountReference{Name: "orders", Audiences: []string{"vault"}},
		}},
		KeeperAuth: &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: "keeper",
			ServiceAccountRef: &v1alpha1.ServiceAccountReference{
				Name: testbed.ManagerAccount, Namespace: testbed.ManagerNamespace, Audiences: []string{"vault"},
			},
		}},
	}
	if len(r.Vault.CA) > 0 && strings.HasPrefix(address, "https") {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(r.Vault.CA)}
	}
	return p
}

// secret returns a DynamicSecret for the rig's database role without creating it.
func (r *rig) secret(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: r.name},
			Vault:       &v1alpha1.VaultRequest{Path: r.name + "/creds/orders"},
			// Most tests check what remains after the old lease is revoked, and do not want to wait for that.
			Rotation: v1alpha1.RotationSpec{Overlap: &metav1.Duration{}},
		},
	}
	for _, change := range changes {
		change(d)
	}
	return d
}

// apply creates a DynamicSecret of the rig.
func (r *rig) apply(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	r.t.Helper()
	d := r.secret(name, changes...)
	r.create(d)
	return d
}

// ready creates a DynamicSecret and waits until it is Ready.
func (r *rig) ready(name string, changes ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	r.t.Helper()
	r.apply(name, changes...)
	return r.untilReady(name)
}

func (r *rig) untilReady(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until(name, "Ready", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.ObservedGeneration == d.Generation &&
			meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
	})
}

// untilReason waits until a condition has a reason, and returns the message.
func (r *rig) untilReason(name, condition, reason string) string {
	r.t.Helper()
	d := r.until(name, condition+" for "+reason, func(d *v1alpha1.DynamicSecret) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, condition)
		return c != nil && c.Reason == reason
	})
	return meta.FindStatusCondition(d.Status.Conditions, condition).Message
}

// until waits until ok accepts the object. It sees every version of the object: the API server sends them, which costs
// it less than polling. What else ok depends on may change without the object.
func (r *rig) until(name, what string, ok func(*v1alpha1.DynamicSecret) bool) *v1alpha1.DynamicSecret {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again := time.NewTicker(400 * time.Millisecond)
	defer again.Stop()
	var d *v1alpha1.DynamicSecret
	var versions <-chan watch.Event // nil: nothing is watched
	for {
		if versions == nil {
			versions = r.watch(ctx, name)
		}
		select {
		case e := <-versions:
			found, isObject := e.Object.(*v1alpha1.DynamicSecret)
			if d = found; !isObject {
				versions = nil // the API server has ended the watch
			}
			if e.Type == watch.Deleted {
				d = nil
			}
		case <-again.C:
		case <-ctx.Done():
			r.t.Fatalf("waited %s for %s to be %s", patience, name, what)
		}
		if d != nil && ok(d) {
			return d
		}
		r.managerRuns()
	}
}

// watch starts with the current version of the object; nil: the API server cannot be reached.
func (r *rig) watch(ctx context.Context, name string) <-chan watch.Event {
	w, err := r.Kube.Watch(ctx, &v1alpha1.DynamicSecretList{}, client.InNamespace(r.name),
		client.MatchingFields{"metadata.name": name})
	if err != nil {
		return nil
	}
	context.AfterFunc(ctx, w.Stop)
	return w.ResultChan()
}

// managerRuns fails the test if the manager has ended and should not have.
func (r *rig) managerRuns() {
	r.t.Helper()
	if r.managerMustRun && !r.Manager.Running() {
		r.t.Fatalf("the manager ended unexpectedly. %s", r.Manager.LastWords(40))
	}
}

// get reads a DynamicSecret; nil: it does not exist.
func (r *rig) get(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	d := &v1alpha1.DynamicSecret{}
	if !r.read(name, d) {
		return nil
	}
	return d
}

// target reads a Secret; nil: it does not exist.
func (r *rig) target(name string) *corev1.Secret {
	r.t.Helper()
	s := &corev1.Secret{}
	if !r.read(name, s) {
		return nil
	}
	return s
}

func (r *rig) read(name string, into client.Object) bool {
	r.t.Helper()
	err := r.Kube.Get(context.Background(), types.NamespacedName{Namespace: r.name, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return false
	}
	r.must(err)
	return true
}

// edit changes a DynamicSecret.
func (r *rig) edit(name string, how func(*v1alpha1.DynamicSecret)) {
	r.t.Helper()
	change(r, &v1alpha1.DynamicSecret{ObjectMeta: r.named(name)}, how)
}

// remove deletes a DynamicSecret and waits until it is gone.
func (r *rig) remove(name string) {
	r.t.Helper()
	d := &v1alpha1.DynamicSecret{ObjectMeta: r.named(name)}
	r.must(client.IgnoreNotFound(r.Kube.Delete(context.Background(), d)))
	r.eventually(name+" to be gone", func() bool { return r.get(name) == nil })
}

// leases lists the leases that Vault has for the rig.
func (r *rig) leases() []string {
	r.t.Helper()
	ids, err := r.Vault.Leases(context.Background(), r.name)
	r.must(err)
	return ids
}

// users lists the PostgreSQL users that Vault created for the rig.
func (r *rig) users() []string {
	r.t.Helper()
	users, err := r.Postgres.Users(context.Background(), r.userPrefix())
	r.must(err)
	return users
}

// userPrefix is the prefix of the names of the rig's PostgreSQL users.
func (r *rig) userPrefix() string { return "v-" + r.name + "-" }

// login logs in to PostgreSQL with a Secret.
func (r *rig) login(s *corev1.Secret) error {
	return r.Postgres.Login(context.Background(), string(s.Data["username"]), string(s.Data["password"]))
}

func (r *rig) create(o client.Object) {
	r.t.Helper()
	r.must(r.Kube.Create(context.Background(), o))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls until ok returns true, and fails the test after a long time.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	r.eventuallyWithin(patience, what, ok)
}

// eventuallyWithin is eventually with a bound.
func (r *rig) eventuallyWithin(bound time.Duration, what string, ok func() bool) {
	r.t.Helper()
	pause := 50 * time.Millisecond
	for deadline := time.Now().Add(bound); ; time.Sleep(pause) {
		if ok() {
			return
		}
		pause = min(pause*5/4, 300*time.Millisecond)
		r.managerRuns()
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %s for %s", bound, what)
		}
	}
}

// vaultMark is the current end of Vault's audit log.
func (r *rig) vaultMark() testbed.Mark {
	r.t.Helper()
	mark, err := r.Vault.Mark()
	r.must(err)
	return mark
}

// requests counts the requests to Vault since the mark whose "operation path" matches.
func (r *rig) requests(since testbed.Mark, pattern string) int {
	r.t.Helper()
	found, err := r.Vault.Requests(since, pattern)
	r.must(err)
	return len(found)
}

// minted counts the requests for credentials of the rig since the mark, including those that failed.
func (r *rig) minted(since testbed.Mark) int {
	r.t.Helper()
	return r.requests(since, "^read "+r.name+"/creds/")
}

// requestTimes are the times of the rig's requests that its proxy received and whose "METHOD path" matches the pattern.
func (r *rig) requestTimes(pattern string) []time.Time {
	r.t.Helper()
	found, err := r.proxy.Requests(pattern)
	r.must(err)
	times := make([]time.Time, len(found))
	for i, request := range found {
		times[i] = request.At
	}
	return times
}

// issuing is the pattern of the requests that mint, for requestTimes.
func (r *rig) issuing() string { return "^GET /v1/" + r.name + "/creds/" }

// backsOff skips the first requests, waits for three more, and fails if the pauses between them are shorter than 1 s
// and 2 s, less a tenth for jitter. An attempt may log in twice: if a cached token of the ServiceAccount is refused,
// leasekeeper requests another one.
func (r *rig) backsOff(pattern string, after int) {
	r.t.Helper()
	var at []time.Time
	r.eventually("three attempts of "+pattern, func() bool {
		at = r.requestTimes(pattern)[after:]
		for i := 1; i < len(at) && strings.Contains(pattern, "login"); i++ {
			if at[i].Sub(at[i-1]) < 300*time.Millisecond {
				at = slices.Delete(at, i, i+1)
			}
		}
		return len(at) >= 3
	})
	for i, least := range []time.Duration{850 * time.Millisecond, 1700 * time.Millisecond} {
		if gap := at[i+1].Sub(at[i]); gap < least {
			r.t.Errorf("attempt %d follows %s after the previous one, want at least %s", i+2, gap, least)
		}
	}
}

// makesFewRequests waits for the next check of the provider, and fails if the manager sent many requests about the rig
// to the API server in the meantime.
func (r *rig) makesFewRequests() {
	r.t.Helper()
	const checks, most = "/v1/sys/health$", 24
	mark, before := r.apiMark(), len(r.requestTimes(checks))
	r.eventually("the next check of the provider", func() bool { return len(r.requestTimes(checks)) > before })
	found, err := r.Plane.Requests(mark, func(a testbed.APIRequest) bool {
		return a.User == managerUser && a.Namespace == r.name
	})
	if r.must(err); len(found) > most {
		r.t.Errorf("%d requests to the API server between two checks of the provider, want at most %d",
			len(found), most)
	}
}

// tokens lists the accessors of the live tokens in Vault that belong to the rig: one for each issuance that is not
// revoked, and the shared one that reads KV secrets again.
func (r *rig) tokens() []string {
	r.t.Helper()
	accessors, err := r.Vault.TokenAccessors(context.Background())
	r.must(err)
	var mine []string
	for _, accessor := range accessors {
		key := r.Vault.Address + "/" + accessor
		of, known := tokenOwners.Load(key)
		if !known {
			found, err := r.Vault.Root.Auth().Token().LookupAccessorWithContext(context.Background(), accessor)
			if err != nil || found == nil {
				continue // revoked in the meantime
			}
			meta, _ := found.Data["meta"].(map[string]any)
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

// tokenOwners caches the namespace that a token belongs to, by Vault's address and the token's accessor.
var tokenOwners sync.Map

// untilAlive waits until exactly n leases of the rig, n tokens that issued them, and n PostgreSQL users are alive.
func (r *rig) untilAlive(n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d leases, issuing tokens and users of the rig to be alive", n), func() bool {
		return len(r.leases()) == n && len(r.tokens()) == n && len(r.users()) == n
	})
}

// untilProvider waits until a condition of the rig's provider has a reason, and returns the message.
func (r *rig) untilProvider(condition, reason string) string {
	r.t.Helper()
	var c *metav1.Condition
	r.eventually("the provider to have "+condition+" for "+reason, func() bool {
		p := r.provider()
		c = meta.FindStatusCondition(p.Status.Conditions, condition)
		return c != nil && c.Reason == reason && c.ObservedGeneration == p.Generation
	})
	return c.Message
}

// provider reads the rig's provider.
func (r *rig) provider() *v1alpha1.ClusterSecretProvider {
	r.t.Helper()
	p := &v1alpha1.ClusterSecretProvider{}
	r.must(r.Kube.Get(context.Background(), types.NamespacedName{Name: r.name}, p))
	return p
}

// change reads, changes and writes an object, again after a conflict.
func change[T client.Object](r *rig, o T, how func(T)) {
	r.t.Helper()
	r.eventually("an edit of "+o.GetName()+" to be accepted", func() bool {
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

// named is the metadata of an object of the rig.
func (r *rig) named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.name, Name: name}
}

// withVault is the shared bed with its own Vault, which the test may harm.
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
	return &bed{Bed: &other, managerMustRun: b.managerMustRun}
}

// describe prints the objects of a failed test, without data of Secrets.
func (r *rig) describe() {
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
