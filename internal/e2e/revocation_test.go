//go:build integration

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// revokerPolicy is what a keeper needs for orders on the room's mount, besides its own policy.
func (r *room) revokerPolicy() string {
	return strings.ReplaceAll(testbed.KeeperPolicyWithoutList+`
path "sys/leases/lookup/%s/*"        { capabilities = ["list", "sudo"] }
path "sys/leases/revoke-prefix/%s"   { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-prefix/%s/*" { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-force/%s/*"  { capabilities = ["update", "sudo"] }
`, "%s", r.name)
}

// newRevokerRoom is a room whose keeper may carry out orders.
func newRevokerRoom(t *testing.T, b *bed, options ...option) *room {
	t.Helper()
	r := newRoom(t, b, append(options, withOwnKeeper())...)
	r.keeperMay(r.revokerPolicy())
	return r
}

// order creates a LeaseRevocation for the room's credentials.
func (r *room) revoke(changes ...func(*v1alpha1.LeaseRevocation)) *v1alpha1.LeaseRevocation {
	r.t.Helper()
	o := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{GenerateName: r.name + "-"}}
	o.Spec.ProviderRef.Name, o.Spec.Prefix, o.Spec.Reason = r.name, r.name+"/creds/", "a test"
	for _, change := range changes {
		change(o)
	}
	r.create(o)
	r.t.Cleanup(func() {
		if r.t.Failed() {
			if text, err := r.Plane.Kubectl(context.Background(), "get", "lrev", o.Name, "-o", "yaml"); err == nil {
				r.t.Log(text)
			}
		}
		_ = r.Kube.Delete(context.Background(), o)
	})
	return o
}

// byForce confirms and forces.
func byForce(o *v1alpha1.LeaseRevocation) { o.Spec.Force, o.Spec.Confirm = true, o.Spec.Prefix }

// byID is for one lease.
func byID(id string) func(*v1alpha1.LeaseRevocation) {
	return func(o *v1alpha1.LeaseRevocation) { o.Spec.Prefix, o.Spec.LeaseID = "", id }
}

// untilFinished waits for the order to be carried out, and checks its numbers.
func (r *room) untilFinished(o *v1alpha1.LeaseRevocation, matched, secrets int64) {
	r.t.Helper()
	r.untilOrder(o, v1alpha1.ReadyCondition, v1alpha1.ReasonLeasesRevoked)
	st := o.Status
	if *st.MatchedLeases != matched || *st.DynamicSecrets != secrets || *st.RemainingLeases != 0 || len(st.Conditions) != 1 || !o.Finished() {
		r.t.Errorf("status %+v, want %d leases of %d DynamicSecrets", st, matched, secrets)
	}
}

// untilOrder waits until a condition of the order has a reason, and returns its message.
func (r *room) untilOrder(o *v1alpha1.LeaseRevocation, condition, reason string) string {
	r.t.Helper()
	var c *metav1.Condition
	r.eventually(o.Name+" to have "+condition+" for "+reason, func() bool {
		r.must(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(o), o))
		c = meta.FindStatusCondition(o.Status.Conditions, condition)
		return c != nil && c.Reason == reason
	})
	return c.Message
}

// orderEvents are the reasons of the events about an order.
func (r *room) orderEvents(o *v1alpha1.LeaseRevocation) []string {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list, client.InNamespace("default")))
	var reasons []string
	for _, e := range list.Items {
		if e.Regarding.UID == o.UID {
			reasons = append(reasons, e.Reason)
		}
	}
	slices.Sort(reasons)
	return reasons
}

// TestLeaseRevocations has a bed of its own, whose manager lists leases so seldom that only the order can be the cause of
// what becomes of them.
func TestLeaseRevocations(t *testing.T) {
	t.Parallel()
	// Without the race detector, which would be most of the times that are told.
	b := ownBedWith(t, testbed.BedOptions{
		Manager: quickManager(t), Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Flags: []string{"--verify-interval=10m", "--leader-elect=false"},
	})
	for _, step := range []struct {
		name string
		test func(*testing.T, *bed)
	}{
		{"a hundred leases of three namespaces are revoked and replaced", hundredRevoked},
		{"a grant loses its Secret", grantRevoked},
		{"while the database is down it is said, and ended when it is back", revokedWithoutDatabase},
		{"by force nothing waits for a database that is down", forcedWithoutDatabase},
		{"a manager that is killed in the middle goes on", killedWhileRevoking},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, b) }) {
			return // the next would only fail too
		}
	}
}

func hundredRevoked(t *testing.T, b *bed) {
	const objects = 100
	r, bystander := newRevokerRoom(t, b), newRoom(t, b)
	namespaces := []string{r.name, r.name + "-b", r.name + "-c"}
	for _, name := range namespaces[1:] {
		r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		r.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: name}})
	}
	r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: namespaces, Audience: "vault", Policies: []string{r.name}, TTL: time.Hour, MaxTTL: 24 * time.Hour,
	}))
	// Each team has a database of its own, as far as Vault goes: it makes and drops one user of a connection at a time. It
	// keeps its connections, as it does where there are not a hundred rooms.
	for _, name := range namespaces {
		r.must(r.Vault.ConnectDatabase(t.Context(), r.name, name, r.Postgres, map[string]any{
			"username_template": r.userPrefix() + "{{random 20}}-{{unix_time}}", "max_connection_lifetime": "0s", "max_idle_connections": 20,
		}))
		r.must(r.Vault.WriteDatabaseRole(t.Context(), r.name, name, testbed.DatabaseRole{Connection: name, DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}))
	}
	untouched := bystander.ready("untouched").Status.Lease.ID
	for i := range objects {
		d := r.secret(fmt.Sprintf("orders-%d", i))
		d.Namespace = namespaces[i%3]
		d.Spec.Vault.Path = r.name + "/creds/" + d.Namespace
		r.create(d)
	}
	all := func() map[types.NamespacedName]v1alpha1.DynamicSecret {
		found := map[types.NamespacedName]v1alpha1.DynamicSecret{}
		for _, name := range namespaces {
			var list v1alpha1.DynamicSecretList
			r.must(r.Kube.List(t.Context(), &list, client.InNamespace(name)))
			for _, d := range list.Items {
				found[client.ObjectKeyFromObject(&d)] = d
			}
		}
		return found
	}
	until := func(what string, ok func(types.NamespacedName, *v1alpha1.DynamicSecret) bool) {
		r.eventually(what, func() bool {
			n := 0
			for key, d := range all() {
				if ok(key, &d) {
					n++
				}
			}
			return n == objects
		})
	}
	until("all to be Ready", func(_ types.NamespacedName, d *v1alpha1.DynamicSecret) bool { return atRest(d) })
	// One that nobody of ours has asked for.
	foreign, err := r.Vault.Root.Logical().ReadWithContext(t.Context(), r.name+"/creds/orders")
	r.must(err)
	before, old := all(), r.users()
	if len(old) != objects+1 {
		t.Fatalf("%d users for %d objects and one", len(old), objects)
	}

	api, vault := r.apiMark(), r.vaultMark()
	o := r.revoke()
	r.untilFinished(o, objects+1, objects) // which is cheap to look at, while those are counted that are at work
	until("all to be replaced", func(key types.NamespacedName, d *v1alpha1.DynamicSecret) bool {
		was := before[key]
		return atRest(d) && d.Status.Lease.ID != was.Status.Lease.ID
	})
	t.Logf("from the order's creation: started after %s, taken after %s, finished after %s, at a resolution of a second",
		o.Status.StartedAt.Sub(o.CreationTimestamp.Time), o.Status.AcceptedAt.Sub(o.CreationTimestamp.Time), o.Status.CompletedAt.Sub(o.CreationTimestamp.Time))
	r.tellTimes(api, vault, namespaces, objects)

	left := r.users()
	for _, user := range old {
		if slices.Contains(left, user) {
			t.Errorf("user %s is still there", user)
		}
	}
	if leases := r.leases(); len(leases) != objects || slices.Contains(leases, foreign.LeaseID) {
		t.Errorf("%d leases for %d objects, the foreign one among them: %t", len(leases), objects, slices.Contains(leases, foreign.LeaseID))
	}
	for key := range before {
		s := &corev1.Secret{}
		r.must(r.Kube.Get(t.Context(), key, s))
		r.must(r.login(s))
	}
	if n := r.requests(vault, "^update sys/leases/revoke-prefix/"); n != 1 {
		t.Errorf("the order was given %d times", n)
	}
	if n := r.requests(vault, "^list sys/leases/lookup/"+bystander.name); n != 0 {
		t.Errorf("%d lists of others", n)
	}
	if got := bystander.get("untouched").Status.Lease.ID; got != untouched {
		t.Errorf("another mount's lease was replaced: %s by %s", untouched, got)
	}
	if reasons := r.orderEvents(o); !slices.Equal(reasons, []string{v1alpha1.ReasonLeasesRevoked, v1alpha1.ReasonRevokingLeases}) {
		t.Errorf("events %v", reasons)
	}
	if n, err := b.Manager.Metric(`leasekeeper_lease_revocations_total{result="success"}`); err != nil || n != 1 {
		t.Errorf("%g are counted (%v)", n, err)
	}
}

// tellTimes logs when each Secret got its new credential, from the moment at which Vault was given the order.
func (r *room) tellTimes(api, vault testbed.Mark, namespaces []string, objects int) {
	r.t.Helper()
	given, err := r.Vault.Requests(vault, "^update sys/leases/revoke-prefix/")
	r.must(err)
	manager := "system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount
	var writes []testbed.APIRequest
	last := map[string]time.Duration{}
	r.eventually("the audit log to have all writes", func() bool {
		writes, err = r.Plane.Requests(api, func(a testbed.APIRequest) bool {
			return a.User == manager && a.Resource == "secrets" && (a.Verb == "update" || a.Verb == "create") && !a.DryRun && a.Code/100 == 2 && slices.Contains(namespaces, a.Namespace)
		})
		r.must(err)
		for _, w := range writes {
			last[w.Namespace+"/"+w.Name] = w.Time.Sub(given[0].Time)
		}
		return len(last) >= objects
	})
	after := slices.Collect(maps.Values(last))
	slices.Sort(after)
	minted, err := r.Vault.Requests(vault, "^read "+r.name+"/creds/")
	r.must(err)
	looks, err := r.Vault.Requests(vault, "^update sys/leases/lookup$")
	r.must(err)
	within := 0
	for _, d := range after {
		if d <= 2*time.Second {
			within++
		}
	}
	r.t.Logf("Vault was given the order; then it was asked about the first lease after %s and about the hundredth after %s, %d credentials were asked for from %s to %s after, and %d Secrets written: the first after %s, half after %s, the last after %s; %d within 2 s",
		looks[0].Time.Sub(given[0].Time).Round(time.Millisecond), looks[objects-1].Time.Sub(given[0].Time).Round(time.Millisecond),
		len(minted), minted[0].Time.Sub(given[0].Time).Round(time.Millisecond), minted[len(minted)-1].Time.Sub(given[0].Time).Round(time.Millisecond), len(after),
		after[0].Round(time.Millisecond), after[len(after)/2].Round(time.Millisecond), after[len(after)-1].Round(time.Millisecond), within)
}

func grantRevoked(t *testing.T, b *bed) {
	r := newRevokerRoom(t, b)
	never := func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Reissue = v1alpha1.ReissueNever }
	id := r.ready("grant", never).Status.Lease.ID
	other := r.ready("other", never).Status.Lease.ID
	credential, mark := r.target("grant"), r.vaultMark()
	began := time.Now()
	o := r.revoke(byID(id))
	r.eventually("the Secret to go", func() bool { return r.target("grant") == nil })
	t.Logf("the Secret was gone %s after the order was created", time.Since(began).Round(time.Millisecond))
	r.untilReason("grant", v1alpha1.StalledCondition, v1alpha1.ReasonGrantEnded)
	r.untilFinished(o, 1, 1)
	if r.login(credential) == nil {
		t.Error("the credential still logs in")
	}
	if d := r.get("other"); d.Status.Lease.ID != other || r.minted(mark) != 0 {
		t.Error("it did more than it was told to")
	}
	r.must(r.login(r.target("other")))
	r.untilAlive(1)
}

func (r *room) databaseDown() (start func()) {
	r.t.Helper()
	r.must(r.Postgres.Stop())
	up := false
	start = func() {
		if !up {
			up = true
			r.must(r.Postgres.Start(context.Background()))
		}
	}
	r.t.Cleanup(start)
	return start
}

func revokedWithoutDatabase(t *testing.T, b *bed) {
	r := newRevokerRoom(t, b)
	before := r.ready("orders")
	start := r.databaseDown()
	o := r.revoke()
	message := r.untilOrder(o, v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendError)
	if !strings.Contains(message, "1 of 1 are left") || !strings.Contains(message, "failed to revoke entry") {
		t.Errorf("it says %q", message)
	}
	// It cannot be replaced, and its lease is dead.
	r.eventually("the Secret to go", func() bool { return r.target("orders") == nil })
	start()
	r.untilFinished(o, 1, 1)
	if after := r.untilReady("orders"); after.Status.Lease.ID == before.Status.Lease.ID {
		t.Error("the lease is the same")
	}
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
	if o.Status.ForcedLeases != 0 {
		t.Errorf("%d were forced", o.Status.ForcedLeases)
	}
}

func forcedWithoutDatabase(t *testing.T, b *bed) {
	r := newRevokerRoom(t, b)
	r.ready("orders")
	user := r.users()
	start := r.databaseDown()
	o := r.revoke(byForce)
	r.untilFinished(o, 1, 1)
	message := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition).Message
	if o.Status.ForcedLeases != 1 || !strings.Contains(message, "1 lease by force") {
		t.Errorf("%d forced; it says %q", o.Status.ForcedLeases, message)
	}
	if leases := r.leases(); len(leases) != 0 {
		t.Errorf("Vault still has %v", leases)
	}
	start()
	r.untilReady("orders")
	// This is what force costs.
	if !slices.Contains(r.users(), user[0]) {
		t.Error("the user that was forgotten is gone")
	}
	r.must(r.Postgres.Exec(t.Context(), `DROP ROLE "`+user[0]+`"`))
	r.untilAlive(1)
}

func killedWhileRevoking(t *testing.T, b *bed) {
	r := newRevokerRoom(t, b)
	const objects, orders = 5, 3
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range objects {
		r.untilReady(fmt.Sprintf("orders-%d", i))
	}
	for range orders {
		before := r.all()
		o := r.revoke()
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		r.must(b.Manager.Kill())
		r.must(b.Manager.Run(t.Context()))
		r.untilOrder(o, v1alpha1.ReadyCondition, v1alpha1.ReasonLeasesRevoked)
		r.untilAll(objects, "replaced", func(d *v1alpha1.DynamicSecret) bool {
			return atRest(d) && d.Status.Lease.ID != before[d.Name].Status.Lease.ID
		})
	}
	r.verifyLedger(objects)

	// The order was taken, and its leases cannot be ended: it is not given a second time.
	start, mark := r.databaseDown(), r.vaultMark()
	o := r.revoke()
	r.untilOrder(o, v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendError)
	r.must(b.Manager.Kill())
	r.must(b.Manager.Run(t.Context()))
	start()
	r.untilFinished(o, objects, objects)
	r.untilAll(objects, "replaced", atRest)
	r.verifyLedger(objects)
	if n := r.requests(mark, "^update sys/leases/revoke-prefix/"); n != 1 {
		t.Errorf("the order was given %d times", n)
	}
}

func TestAnOrderWithoutTheLinesNamesThemAndIsCarriedOutWithThem(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withOwnKeeper(), withProxy())
	r.keeperMay(testbed.KeeperPolicyWithoutList)
	before := r.ready("orders")
	o := r.revoke()
	message := r.untilOrder(o, v1alpha1.StalledCondition, v1alpha1.ReasonAccessDenied)
	lines := []string{
		`path "sys/leases/lookup/` + r.name + `/creds/*" { capabilities = ["list", "sudo"] }`,
		`path "sys/leases/revoke-prefix/` + r.name + `/creds" { capabilities = ["update", "sudo"] }`,
	}
	for _, line := range lines {
		if !strings.Contains(message, line) {
			t.Errorf("no %s in %q", line, message)
		}
	}
	tries := len(r.tries("^GET /v1/sys/leases/lookup/" + r.name + "/creds$"))
	r.staysCalm()
	if n := len(r.tries("^GET /v1/sys/leases/lookup/" + r.name + "/creds$")); n > tries+3 { // the verifier's list of the same path is another
		t.Errorf("it was tried %d times more", n-tries)
	}
	if d := r.get("orders"); d.Status.Lease.ID != before.Status.Lease.ID {
		t.Error("the lease was replaced")
	}
	// The lines as they were told, and a change of the provider that makes it look at once.
	r.keeperMay(testbed.KeeperPolicyWithoutList + strings.Join(lines, "\n"))
	change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) { p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{} })
	r.untilFinished(o, 1, 1)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && d.Status.Lease.ID != before.Status.Lease.ID
	})
	if reasons := r.orderEvents(o); !slices.Equal(reasons, []string{v1alpha1.ReasonAccessDenied, v1alpha1.ReasonLeasesRevoked, v1alpha1.ReasonRevokingLeases}) &&
		!slices.Equal(reasons, []string{v1alpha1.ReasonAccessDenied, v1alpha1.ReasonLeasesRevoked}) {
		t.Errorf("events %v", reasons)
	}
}

func TestAnOrderThatMatchesNothingIsFinishedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRevokerRoom(t, shared)
	id := r.ready("orders").Status.Lease.ID
	r.untilFinished(r.revoke(func(o *v1alpha1.LeaseRevocation) { o.Spec.Prefix = r.name + "/creds/order" }), 0, 0) // no whole segment
	r.untilFinished(r.revoke(byID(id+"x")), 0, 0)
	if d := r.get("orders"); d.Status.Lease.ID != id {
		t.Error("the lease was replaced")
	}
	r.untilAlive(1)
}

func TestAFinishedOrderGoesAfterItsTimeAndAnotherStays(t *testing.T) {
	t.Parallel()
	r := newRevokerRoom(t, shared)
	stays := r.revoke()
	goes := r.revoke(func(o *v1alpha1.LeaseRevocation) { o.Spec.TTLSecondsAfterFinished = new(int32(2)) })
	r.untilFinished(stays, 0, 0)
	r.eventually("the order to go", func() bool {
		return apierrors.IsNotFound(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(goes), goes))
	})
	if !goes.Finished() {
		t.Error("it went before it was seen to be finished")
	}
	r.must(r.Kube.Get(t.Context(), client.ObjectKeyFromObject(stays), stays))
}

// A prefix of one segment, which must be confirmed, by a SecretProvider whose auth does the keeper's work.
func TestANamespacesOwnProviderCarriesOutAnOrder(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.must(r.Vault.WritePolicy(t.Context(), r.name, `path "`+r.name+`/*" { capabilities = ["read", "update"] }`+r.revokerPolicy()))
	p := r.namespacedProvider()
	r.create(p)
	before := r.ready("orders", byNamespaced)
	o := r.revoke(func(o *v1alpha1.LeaseRevocation) {
		o.Spec.ProviderRef = v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindNamespaced, Namespace: r.name, Name: r.name}
		o.Spec.Prefix, o.Spec.Confirm = r.name, r.name
	})
	r.untilFinished(o, 1, 1)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return atRest(d) && d.Status.Lease.ID != before.Status.Lease.ID
	})
}

func TestOnlyWhoIsBoundToTheRevokerMayGiveOrders(t *testing.T) {
	t.Parallel()
	may := func(user, verb, what string) bool {
		// kubectl's exit code says no too, and it warns of kinds that have no namespace.
		text, _ := shared.Plane.Kubectl(context.Background(), "auth", "can-i", verb, what, "--as="+user)
		words := strings.Fields(text)
		return len(words) > 0 && words[len(words)-1] == "yes"
	}
	for _, role := range []string{"view", "edit", "admin", "leasekeeper-viewer", "leasekeeper-editor", "leasekeeper-revoker"} {
		text, err := shared.Plane.Kubectl(t.Context(), "create", "clusterrolebinding", "revoker-test-"+role, "--clusterrole="+role, "--user=user-"+role)
		if err != nil {
			t.Fatal(err, text)
		}
		t.Cleanup(func() {
			_, _ = shared.Plane.Kubectl(context.Background(), "delete", "clusterrolebinding", "revoker-test-"+role)
		})
	}
	const orders = "leaserevocations.leasekeeper.io"
	r := &room{bed: shared, t: t}
	r.eventually("the roles of the cluster to be put together", func() bool { return may("user-edit", "create", "dynamicsecrets.leasekeeper.io") })
	for _, c := range []struct {
		user, verb, what string
		want             bool
	}{
		{"user-view", "list", orders, true},
		{"user-view", "create", orders, false},
		{"user-edit", "create", orders, false},
		{"user-edit", "delete", orders, false},
		{"user-edit", "patch", orders, false},
		{"user-admin", "create", orders, false},
		{"user-leasekeeper-viewer", "create", orders, false},
		{"user-leasekeeper-editor", "create", orders, false},
		{"user-leasekeeper-editor", "patch", orders, false},
		{"user-leasekeeper-revoker", "create", orders, true},
		{"user-leasekeeper-revoker", "delete", orders, true},
		{"user-leasekeeper-revoker", "update", orders + "/status", false},
		{"user-leasekeeper-revoker", "create", "dynamicsecrets.leasekeeper.io", false},
		{"user-leasekeeper-revoker", "get", "secrets", false},
		{"system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount, "create", orders, false},
	} {
		if got := may(c.user, c.verb, c.what); got != c.want {
			t.Errorf("%s may %s %s: %t", c.user, c.verb, c.what, got)
		}
	}
	text, err := shared.Plane.Kubectl(t.Context(), "get", "clusterrolebindings", "-o", "jsonpath={range .items[*]}{.metadata.name}={.roleRef.name}{'\\n'}{end}")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasSuffix(line, "=leasekeeper-revoker") && !strings.HasPrefix(line, "revoker-test-") {
			t.Errorf("it is bound: %s", line)
		}
	}
}
