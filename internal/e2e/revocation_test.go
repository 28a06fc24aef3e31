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

// revokerPolicy is what a keeper needs to revoke leases of the rig's mount, besides its own policy.
func (r *rig) revokerPolicy() string {
	return strings.ReplaceAll(testbed.KeeperPolicyWithoutList+`
path "sys/leases/lookup/%s/*"        { capabilities = ["list", "sudo"] }
path "sys/leases/revoke-prefix/%s"   { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-prefix/%s/*" { capabilities = ["update", "sudo"] }
path "sys/leases/revoke-force/%s/*"  { capabilities = ["update", "sudo"] }
`, "%s", r.name)
}

// newRevokerRig is a rig whose keeper may revoke all leases of its mount.
func newRevokerRig(t *testing.T, b *bed, options ...option) *rig {
	t.Helper()
	r := newRig(t, b, append(options, withOwnKeeper())...)
	r.keeperMay(r.revokerPolicy())
	return r
}

// revoke creates a LeaseRevocation for the rig's credentials.
func (r *rig) revoke(changes ...func(*v1alpha1.LeaseRevocation)) *v1alpha1.LeaseRevocation {
	r.t.Helper()
	o := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{GenerateName: r.name + "-"}}
	o.Spec.ProviderRef.Name, o.Spec.Reason = r.name, "a test"
	o.Spec.Vault = &v1alpha1.VaultRevocation{Prefix: r.name + "/creds/"}
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
func byForce(o *v1alpha1.LeaseRevocation) { o.Spec.Vault.Force, o.Spec.Confirm = true, o.Spec.Target() }

// byID selects one lease.
func byID(id string) func(*v1alpha1.LeaseRevocation) {
	return func(o *v1alpha1.LeaseRevocation) { o.Spec.Vault = &v1alpha1.VaultRevocation{LeaseID: id} }
}

// untilFinished waits until the LeaseRevocation is finished, and checks its numbers.
func (r *rig) untilFinished(o *v1alpha1.LeaseRevocation, matched, secrets int64) {
	r.t.Helper()
	r.untilRevocation(o, v1alpha1.ReadyCondition, v1alpha1.ReasonLeasesRevoked)
	st := o.Status
	counted := *st.MatchedLeases == matched && *st.DynamicSecrets == secrets && *st.RemainingLeases == 0
	if !counted || len(st.Conditions) != 1 || !o.Finished() {
		r.t.Errorf("status %+v, want %d leases of %d DynamicSecrets", st, matched, secrets)
	}
}

// untilRevocation waits until a condition of the LeaseRevocation has a reason, and returns its message.
func (r *rig) untilRevocation(o *v1alpha1.LeaseRevocation, condition, reason string) string {
	r.t.Helper()
	var c *metav1.Condition
	r.eventually(o.Name+" to have "+condition+" for "+reason, func() bool {
		r.must(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(o), o))
		c = meta.FindStatusCondition(o.Status.Conditions, condition)
		return c != nil && c.Reason == reason
	})
	return c.Message
}

// revocationEvents are the reasons of the events about a LeaseRevocation.
func (r *rig) revocationEvents(o *v1alpha1.LeaseRevocation) []string {
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

// firstLease is the id of the object's lease; empty if it has none.
func firstLease(d *v1alpha1.DynamicSecret) string {
	if len(d.Status.Leases) == 0 {
		return ""
	}
	return d.Status.Leases[0].ID
}

// replaced is true once the object has another lease than before, and nothing is left to do.
func replaced(d *v1alpha1.DynamicSecret, before string) bool {
	return atRest(d) && firstLease(d) != before
}

// TestLeaseRevocations has a bed of its own. Its manager lists leases so rarely that only a LeaseRevocation can cause
// what happens to them.
func TestLeaseRevocations(t *testing.T) {
	t.Parallel()
	b := ownBedWith(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit},
		Flags: []string{"--verify-interval=10m", "--leader-elect=false"},
	})
	for _, step := range []struct {
		name string
		test func(*testing.T, *bed)
	}{
		{"a hundred leases are revoked and replaced", hundredRevoked},
		{"a grant loses its Secret", grantRevoked},
		{"a database that is down is reported", revokedWithoutDatabase},
		{"force does not wait for the database", forcedWithoutDatabase},
		{"a killed manager resumes", killedWhileRevoking},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, b) }) {
			return // the next would only fail as well
		}
	}
}

func hundredRevoked(t *testing.T, b *bed) {
	const objects = 100
	r, bystander := newRevokerRig(t, b), newRig(t, b)
	namespaces := []string{r.name, r.name + "-b", r.name + "-c"}
	for _, name := range namespaces[1:] {
		r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		r.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: name}})
	}
	r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: namespaces, Audience: "vault",
		Policies: []string{r.name}, TTL: time.Hour, MaxTTL: 24 * time.Hour,
	}))
	// Vault creates and drops one user of a database connection at a time, so each team has a connection. Vault keeps
	// them open, as it does without a hundred rigs.
	for _, name := range namespaces {
		r.must(r.Vault.ConnectDatabase(t.Context(), r.name, name, r.Postgres, map[string]any{
			"username_template":       r.userPrefix() + "{{random 20}}-{{unix_time}}",
			"max_connection_lifetime": "0s", "max_idle_connections": 20,
		}))
		r.must(r.Vault.WriteDatabaseRole(t.Context(), r.name, name,
			testbed.DatabaseRole{Connection: name, DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}))
	}
	untouched := firstLease(bystander.ready("untouched"))
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
	// One lease that leasekeeper did not issue.
	foreign, err := r.Vault.Root.Logical().ReadWithContext(t.Context(), r.name+"/creds/orders")
	r.must(err)
	before, old := all(), r.users()
	if len(old) != objects+1 {
		t.Fatalf("%d users for %d objects and one", len(old), objects)
	}

	api, vault := r.apiMark(), r.vaultMark()
	o := r.revoke()
	r.untilFinished(o, objects+1, objects) // which is cheap to poll while the requests are counted
	until("all to be replaced", func(key types.NamespacedName, d *v1alpha1.DynamicSecret) bool {
		was := before[key]
		return replaced(d, firstLease(&was))
	})
	t.Logf("from its creation: started after %s, accepted after %s, finished after %s, at a resolution of a second",
		o.Status.StartedAt.Sub(o.CreationTimestamp.Time), o.Status.AcceptedAt.Sub(o.CreationTimestamp.Time),
		o.Status.CompletedAt.Sub(o.CreationTimestamp.Time))
	r.logTimes(api, vault, namespaces, objects)

	left := r.users()
	for _, user := range old {
		if slices.Contains(left, user) {
			t.Errorf("user %s is still there", user)
		}
	}
	if leases := r.leases(); len(leases) != objects || slices.Contains(leases, foreign.LeaseID) {
		t.Errorf("%d leases for %d objects, the foreign one among them: %t",
			len(leases), objects, slices.Contains(leases, foreign.LeaseID))
	}
	for key := range before {
		s := &corev1.Secret{}
		r.must(r.Kube.Get(t.Context(), key, s))
		r.must(r.login(s))
	}
	if n := r.requests(vault, "^update sys/leases/revoke-prefix/"); n != 1 {
		t.Errorf("the revocation was requested %d times", n)
	}
	if n := r.requests(vault, "^list sys/leases/lookup/"+bystander.name); n != 0 {
		t.Errorf("%d lists of others", n)
	}
	if got := firstLease(bystander.get("untouched")); got != untouched {
		t.Errorf("another mount's lease was replaced: %s by %s", untouched, got)
	}
	reasons := r.revocationEvents(o)
	if !slices.Equal(reasons, []string{v1alpha1.ReasonLeasesRevoked, v1alpha1.ReasonRevokingLeases}) {
		t.Errorf("events %v", reasons)
	}
	if n, err := b.Manager.Metric(`leasekeeper_lease_revocations_total{result="success"}`); err != nil || n != 1 {
		t.Errorf("%g are counted (%v)", n, err)
	}
}

// logTimes logs when each Secret got its new credential, counted from the request to revoke.
func (r *rig) logTimes(api, vault testbed.Mark, namespaces []string, objects int) {
	r.t.Helper()
	given, err := r.Vault.Requests(vault, "^update sys/leases/revoke-prefix/")
	r.must(err)
	var writes []testbed.APIRequest
	last := map[string]time.Duration{}
	r.eventually("the audit log to have all writes", func() bool {
		writes, err = r.Plane.Requests(api, func(a testbed.APIRequest) bool {
			written := a.Verb == "create" || a.Verb == "update" || a.Verb == "patch"
			ours := a.User == managerUser && a.Resource == "secrets" && slices.Contains(namespaces, a.Namespace)
			return ours && written && !a.DryRun && a.Code/100 == 2
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
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	at := func(t time.Time) time.Duration { return ms(t.Sub(given[0].Time)) }
	r.t.Logf("after the request to revoke: first lookup at %s, hundredth at %s; %d credentials issued from %s to %s; "+
		"%d Secrets written, the first at %s, half at %s, the last at %s, %d within 2 s",
		at(looks[0].Time), at(looks[objects-1].Time),
		len(minted), at(minted[0].Time), at(minted[len(minted)-1].Time),
		len(after), ms(after[0]), ms(after[len(after)/2]), ms(after[len(after)-1]), within)
}

func grantRevoked(t *testing.T, b *bed) {
	r := newRevokerRig(t, b)
	grant := func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.Reissue = v1alpha1.ReissueNever }
	id := firstLease(r.ready("grant", grant))
	other := firstLease(r.ready("other", grant))
	credential, mark := r.target("grant"), r.vaultMark()
	began := time.Now()
	o := r.revoke(byID(id))
	r.eventually("the Secret to be deleted", func() bool { return r.target("grant") == nil })
	t.Logf("the Secret was deleted %s after the LeaseRevocation was created", time.Since(began).Round(time.Millisecond))
	r.untilReason("grant", v1alpha1.StalledCondition, v1alpha1.ReasonGrantEnded)
	r.untilFinished(o, 1, 1)
	if r.login(credential) == nil {
		t.Error("the credential still logs in")
	}
	if d := r.get("other"); firstLease(d) != other || r.minted(mark) != 0 {
		t.Error("it revoked too much")
	}
	r.must(r.login(r.target("other")))
	r.untilAlive(1)
}

func (r *rig) databaseDown() (start func()) {
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
	r := newRevokerRig(t, b)
	before := r.ready("orders")
	start := r.databaseDown()
	o := r.revoke()
	message := r.untilRevocation(o, v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendError)
	if !strings.Contains(message, "1 of 1 remaining") || !strings.Contains(message, "failed to revoke entry") {
		t.Errorf("the message is %q", message)
	}
	// The lease has expired, and no other can be issued.
	r.eventually("the Secret to be deleted", func() bool { return r.target("orders") == nil })
	start()
	r.untilFinished(o, 1, 1)
	if after := r.untilReady("orders"); firstLease(after) == firstLease(before) {
		t.Error("the lease is the same")
	}
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
	if o.Status.ForcedLeases != 0 {
		t.Errorf("%d were forced", o.Status.ForcedLeases)
	}
}

func forcedWithoutDatabase(t *testing.T, b *bed) {
	r := newRevokerRig(t, b)
	r.ready("orders")
	user := r.users()
	start := r.databaseDown()
	o := r.revoke(byForce)
	r.untilFinished(o, 1, 1)
	message := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition).Message
	if o.Status.ForcedLeases != 1 || !strings.Contains(message, "1 lease by force") {
		t.Errorf("%d forced; the message is %q", o.Status.ForcedLeases, message)
	}
	if leases := r.leases(); len(leases) != 0 {
		t.Errorf("Vault still has %v", leases)
	}
	start()
	r.untilReady("orders")
	// This is the cost of force.
	if !slices.Contains(r.users(), user[0]) {
		t.Error("the forgotten user is gone")
	}
	r.must(r.Postgres.Exec(t.Context(), `DROP ROLE "`+user[0]+`"`))
	r.untilAlive(1)
}

func killedWhileRevoking(t *testing.T, b *bed) {
	r := newRevokerRig(t, b)
	const objects, revocations = 5, 3
	for i := range objects {
		r.apply(fmt.Sprintf("orders-%d", i))
	}
	for i := range objects {
		r.untilReady(fmt.Sprintf("orders-%d", i))
	}
	for range revocations {
		before := r.all()
		o := r.revoke()
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		r.must(b.Manager.Kill())
		r.must(b.Manager.Run(t.Context()))
		r.untilRevocation(o, v1alpha1.ReadyCondition, v1alpha1.ReasonLeasesRevoked)
		r.untilAll(objects, "replaced", func(d *v1alpha1.DynamicSecret) bool {
			return replaced(d, firstLease(before[d.Name]))
		})
	}
	r.verifyLedger(objects)

	// Vault has accepted the revocation and cannot revoke the leases: it is not requested again.
	start, mark := r.databaseDown(), r.vaultMark()
	o := r.revoke()
	r.untilRevocation(o, v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendError)
	r.must(b.Manager.Kill())
	r.must(b.Manager.Run(t.Context()))
	start()
	r.untilFinished(o, objects, objects)
	r.untilAll(objects, "replaced", atRest)
	r.verifyLedger(objects)
	if n := r.requests(mark, "^update sys/leases/revoke-prefix/"); n != 1 {
		t.Errorf("the revocation was requested %d times", n)
	}
}

func TestDeniedRevocationNamesTheMissingLines(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withOwnKeeper(), withProxy())
	r.keeperMay(testbed.KeeperPolicyWithoutList)
	before := r.ready("orders")
	o := r.revoke()
	message := r.untilRevocation(o, v1alpha1.StalledCondition, v1alpha1.ReasonAccessDenied)
	lines := []string{
		`path "sys/leases/lookup/` + r.name + `/creds/*" { capabilities = ["list", "sudo"] }`,
		`path "sys/leases/revoke-prefix/` + r.name + `/creds" { capabilities = ["update", "sudo"] }`,
	}
	for _, line := range lines {
		if !strings.Contains(message, line) {
			t.Errorf("no %s in %q", line, message)
		}
	}
	r.makesFewRequests()
	// The verifier lists the path below. A refused request is repeated at once with a new login.
	tries := func() (pauses []time.Duration) {
		times := r.requestTimes("^GET /v1/sys/leases/lookup/" + r.name + "/creds$")
		for i := 1; i < len(times); i++ {
			if pause := times[i].Sub(times[i-1]); pause > time.Second {
				pauses = append(pauses, pause)
			}
		}
		return pauses
	}
	r.eventually("three more tries", func() bool { return len(tries()) >= 3 })
	// A machine under load makes pauses longer, so the shortest is the intended one. All are equal in
	// TestFixedPolicyIsDetectedWithinFiveSeconds.
	if shortest := slices.Min(tries()); shortest > 5*time.Second || shortest < 3*time.Second {
		t.Errorf("the pauses between tries are %v", tries())
	}
	if d := r.get("orders"); firstLease(d) != firstLease(before) {
		t.Error("the lease was replaced")
	}
	// The lines as they were reported. Nothing else tells leasekeeper about them.
	r.keeperMay(testbed.KeeperPolicyWithoutList + strings.Join(lines, "\n"))
	r.untilFinished(o, 1, 1)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return replaced(d, firstLease(before))
	})
	reasons := r.revocationEvents(o)
	always := []string{v1alpha1.ReasonAccessDenied, v1alpha1.ReasonLeasesRevoked}
	if !slices.Equal(reasons, always) && !slices.Equal(reasons, append(always, v1alpha1.ReasonRevokingLeases)) {
		t.Errorf("events %v", reasons)
	}
}

func TestRevocationThatMatchesNothingFinishes(t *testing.T) {
	t.Parallel()
	r := newRevokerRig(t, shared)
	id := firstLease(r.ready("orders"))
	noWholeSegment := func(o *v1alpha1.LeaseRevocation) { o.Spec.Vault.Prefix = r.name + "/creds/order" }
	r.untilFinished(r.revoke(noWholeSegment), 0, 0)
	r.untilFinished(r.revoke(byID(id+"x")), 0, 0)
	if d := r.get("orders"); firstLease(d) != id {
		t.Error("the lease was replaced")
	}
	r.untilAlive(1)
}

func TestFinishedRevocationIsDeletedAfterItsTTL(t *testing.T) {
	t.Parallel()
	r := newRevokerRig(t, shared)
	stays := r.revoke()
	goes := r.revoke(func(o *v1alpha1.LeaseRevocation) { o.Spec.TTLSecondsAfterFinished = new(int32(2)) })
	r.untilFinished(stays, 0, 0)
	r.eventually("the LeaseRevocation to be deleted", func() bool {
		return apierrors.IsNotFound(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(goes), goes))
	})
	if !goes.Finished() {
		t.Error("it was deleted before it was seen to be finished")
	}
	r.must(r.Kube.Get(t.Context(), client.ObjectKeyFromObject(stays), stays))
}

// A prefix of one segment, which must be confirmed, with a SecretProvider that has no keeperAuth.
func TestNamespacedProviderRevokesItsMount(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.must(r.Vault.WritePolicy(t.Context(), r.name,
		`path "`+r.name+`/*" { capabilities = ["read", "update"] }`+r.revokerPolicy()))
	p := r.namespacedProvider()
	p.Spec.Vault.Keeperless = true
	r.create(p)
	before := r.ready("orders", byNamespaced)
	o := r.revoke(func(o *v1alpha1.LeaseRevocation) {
		o.Spec.ProviderRef = v1alpha1.RevocationProviderReference{
			Kind: v1alpha1.ProviderKindNamespaced, Namespace: r.name, Name: r.name,
		}
		o.Spec.Vault.Prefix, o.Spec.Confirm = r.name, r.name
	})
	r.untilFinished(o, 1, 1)
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return replaced(d, firstLease(before))
	})
}

func TestOnlyTheRevokerRoleMayRevoke(t *testing.T) {
	t.Parallel()
	may := func(user, verb, what string) bool {
		// kubectl exits with an error for "no", and warns about kinds without a namespace.
		text, _ := shared.Plane.Kubectl(context.Background(), "auth", "can-i", verb, what, "--as="+user)
		words := strings.Fields(text)
		return len(words) > 0 && words[len(words)-1] == "yes"
	}
	for _, role := range []string{
		"view", "edit", "admin", "leasekeeper-viewer", "leasekeeper-editor", "leasekeeper-revoker",
	} {
		text, err := shared.Plane.Kubectl(t.Context(), "create", "clusterrolebinding", "revoker-test-"+role,
			"--clusterrole="+role, "--user=user-"+role)
		if err != nil {
			t.Fatal(err, text)
		}
		t.Cleanup(func() {
			_, _ = shared.Plane.Kubectl(context.Background(), "delete", "clusterrolebinding", "revoker-test-"+role)
		})
	}
	const revocations = "leaserevocations.leasekeeper.io"
	r := &rig{bed: shared, t: t}
	r.eventually("the aggregated roles", func() bool {
		return may("user-edit", "create", "dynamicsecrets.leasekeeper.io")
	})
	for _, c := range []struct {
		user, verb, what string
		want             bool
	}{
		{"user-view", "list", revocations, true},
		{"user-view", "create", revocations, false},
		{"user-edit", "create", revocations, false},
		{"user-edit", "delete", revocations, false},
		{"user-edit", "patch", revocations, false},
		{"user-admin", "create", revocations, false},
		{"user-leasekeeper-viewer", "create", revocations, false},
		{"user-leasekeeper-editor", "create", revocations, false},
		{"user-leasekeeper-editor", "patch", revocations, false},
		{"user-leasekeeper-revoker", "create", revocations, true},
		{"user-leasekeeper-revoker", "delete", revocations, true},
		{"user-leasekeeper-revoker", "update", revocations + "/status", false},
		{"user-leasekeeper-revoker", "create", "dynamicsecrets.leasekeeper.io", false},
		{"user-leasekeeper-revoker", "get", "secrets", false},
		{"system:serviceaccount:" + testbed.ManagerNamespace + ":" + testbed.ManagerAccount,
			"create", revocations, false},
	} {
		if got := may(c.user, c.verb, c.what); got != c.want {
			t.Errorf("%s may %s %s: %t", c.user, c.verb, c.what, got)
		}
	}
	text, err := shared.Plane.Kubectl(t.Context(), "get", "clusterrolebindings", "-o",
		"jsonpath={range .items[*]}{.metadata.name}={.roleRef.name}{'\\n'}{end}")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasSuffix(line, "=leasekeeper-revoker") && !strings.HasPrefix(line, "revoker-test-") {
			t.Errorf("it is bound: %s", line)
		}
	}
}
