//go:build integration

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// namespacedProvider returns the rig's provider as a SecretProvider without keeperAuth, and does not create it.
func (r *rig) namespacedProvider() *v1alpha1.SecretProvider {
	p := &v1alpha1.SecretProvider{ObjectMeta: r.named(r.name)}
	p.Spec.ProviderSpec = r.provider().Spec.ProviderSpec
	p.Spec.Vault.KeeperAuth = nil
	return p
}

// byNamespaced makes an object use the SecretProvider.
func byNamespaced(d *v1alpha1.DynamicSecret) {
	d.Spec.ProviderRef.Kind = v1alpha1.ProviderKindNamespaced
}

// untilStatus waits until a condition of a provider of either kind has a reason, and returns its message.
func untilStatus(r *rig, p interface {
	client.Object
	v1alpha1.Provider
}, condition, reason string) string {
	r.t.Helper()
	var c *metav1.Condition
	r.eventually(p.GetName()+" to have "+condition+" for "+reason, func() bool {
		r.must(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(p), p))
		c = meta.FindStatusCondition(p.ProviderStatus().Conditions, condition)
		return c != nil && c.Reason == reason && c.ObservedGeneration == p.GetGeneration()
	})
	return c.Message
}

// policyWithout is the keeper's policy without some lines.
func policyWithout(lines ...string) string {
	var kept []string
	for _, line := range strings.Split(testbed.KeeperPolicy, "\n") {
		if !slices.ContainsFunc(lines, func(path string) bool { return strings.Contains(line, `"`+path+`"`) }) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// withOwnKeeper gives the rig's provider a keeper with its own role, which has the rig's name and the suffix -keeper.
func withOwnKeeper() option {
	return withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.KeeperAuth.Kubernetes.Role = p.Name + "-keeper"
	})
}

// keeperMay sets the policy of the rig's own keeper.
func (r *rig) keeperMay(policy string) {
	r.t.Helper()
	r.must(r.Vault.WritePolicy(r.t.Context(), r.name+"-keeper", policy))
	r.must(r.Vault.WriteRole(r.t.Context(), "kubernetes", r.name+"-keeper", testbed.KubernetesRole{
		ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
		Policies: []string{r.name + "-keeper"}, Audience: "vault",
	}))
}

func TestProviderReportsItsServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	p := r.provider()
	if s := p.Status.Server; s == nil || s.Kind != r.Vault.Kind() || s.Version != r.Vault.Version {
		t.Errorf("server: %+v", s)
	}
	onlyReady := len(p.Status.MissingCapabilities) == 0 && len(p.Status.Conditions) == 1
	if !onlyReady || p.Status.ObservedGeneration != p.Generation {
		t.Errorf("status: %+v", p.Status)
	}
}

func TestIncompleteKeeperPolicyIssuesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withOwnKeeper(), withProxy())
	r.keeperMay(policyWithout("auth/token/revoke-accessor", "sys/leases/revoke"))
	mark := r.vaultMark()
	message := r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonPolicyIncomplete)
	want := []string{"auth/token/revoke-accessor: update", "sys/leases/revoke: update"}
	if got := r.provider().Status.MissingCapabilities; !slices.Equal(got, want) {
		t.Errorf("missing: %q, want %q", got, want)
	}
	for _, line := range want {
		if !strings.Contains(message, line) {
			t.Errorf("the message is %q, want %q in it", message, line)
		}
	}
	r.apply("orders")
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotReady)
	r.makesFewRequests()
	if r.minted(mark) != 0 || len(r.tokens()) != 0 {
		t.Error("something was issued")
	}
	r.keeperMay(testbed.KeeperPolicy)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.untilReady("orders")
	if len(r.provider().Status.MissingCapabilities) != 0 {
		t.Error("the missing lines are still reported")
	}
	r.untilAlive(1)
}

func TestKeeperPolicyLossLeavesLeasesAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withOwnKeeper())
	r.keeperMay(testbed.KeeperPolicy)
	before := r.ready("orders")
	r.keeperMay(policyWithout("sys/leases/revoke"))
	r.untilProvider(v1alpha1.StalledCondition, v1alpha1.ReasonPolicyIncomplete)
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	after := r.untilRenewedFor("now")
	ready := meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.ReadyCondition)
	if leaseID(after) != leaseID(before) || !ready {
		t.Errorf("lease %s became %s, Ready: %v", leaseID(before), leaseID(after), ready)
	}
	r.keeperMay(testbed.KeeperPolicy)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
}

// withoutKeeper is what a SecretProvider without keeperAuth reports.
const withoutKeeper = "keeperAuth is not set, so leasekeeper uses auth: " +
	"when this namespace is deleted, its remaining leases expire by themselves."

// inUse is the message of a provider that is being deleted and has leases of one of the rig's objects.
func (r *rig) inUse(object string) string {
	return "1 DynamicSecret has leases from this provider, which must be revoked here: " + r.name + "/" + object +
		". Delete them, or let them use another provider."
}

func TestSecretProviderWithoutKeeperReportsMissingLines(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	p := r.namespacedProvider()
	r.create(p)
	message := untilStatus(r, p, v1alpha1.StalledCondition, v1alpha1.ReasonPolicyIncomplete)
	want := []string{
		"auth/token/lookup-accessor: update", "auth/token/renew-accessor: update", "auth/token/revoke-accessor: update",
		"sys/leases/revoke: update",
	}
	for _, part := range append([]string{"set spec.vault.keeperAuth", "spec.vault.keeperless: true"}, want...) {
		if !strings.Contains(message, part) {
			t.Errorf("the message is %q, want %q in it", message, part)
		}
	}
	mark := r.vaultMark()
	r.apply("blocked", byNamespaced)
	r.untilReason("blocked", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotReady)
	if n := r.minted(mark); n != 0 {
		t.Errorf("%d credentials were requested", n)
	}
	r.remove("blocked")
	change(r, p, func(p *v1alpha1.SecretProvider) { p.Spec.Vault.Keeperless = true })
	message = untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonUnattended)
	if !slices.Equal(p.Status.MissingCapabilities, want) {
		t.Errorf("missing: %q, want %q", p.Status.MissingCapabilities, want)
	}
	lacks := fmt.Sprintf("Role %q lacks these permissions: %s.", r.name, strings.Join(want, "; "))
	full := r.Vault.Address + " is reachable. " + withoutKeeper + " " + lacks +
		" Operations that need these permissions are skipped, and leases may have to be abandoned."
	if message != full {
		t.Errorf("the message is %q, want %q", message, full)
	}
	if meta.FindStatusCondition(p.Status.Conditions, v1alpha1.StalledCondition) != nil {
		t.Error("the provider is Stalled")
	}
	r.ready("orders", byNamespaced)
	r.must(r.login(r.target("orders")))
	r.allowKeeping() // so that the lease can be revoked
	r.eventually("nothing to be missing", func() bool {
		message = untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonUnattended)
		return len(p.Status.MissingCapabilities) == 0
	})
	if want := r.Vault.Address + " is reachable. " + withoutKeeper; message != want {
		t.Errorf("the message is %q, want %q", message, want)
	}
	r.must(r.Kube.Delete(t.Context(), p))
	message = untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonInUse)
	if want := r.inUse("orders"); message != want {
		t.Errorf("the message is %q, want %q", message, want)
	}
	r.remove("orders")
	if ids := r.leases(); len(ids) != 0 {
		t.Errorf("leases are left: %v", ids)
	}
	r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
}

func TestSecretProviderKeeperUsesItsNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	r.create(r.account("keeper"))
	r.must(r.Vault.WriteRole(t.Context(), "kubernetes", r.name+"-keeper", testbed.KubernetesRole{
		ServiceAccounts: []string{"keeper"}, Namespaces: []string{r.name},
		Policies: []string{"keeper"}, Audience: "vault",
	}))
	p := r.namespacedProvider()
	p.Spec.Vault.KeeperAuth = &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
		Mount: "kubernetes", Role: r.name + "-keeper",
		ServiceAccountRef: &v1alpha1.ServiceAccountReference{Name: "keeper", Audiences: []string{"vault"}},
	}}
	r.create(p)
	untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.ready("orders", byNamespaced)
	r.must(r.login(r.target("orders")))
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRenewAt == "now" && record(d).Renewals == 1
	})
	r.remove("orders")
	if ids := r.leases(); len(ids) != 0 {
		t.Errorf("leases are left: %v", ids)
	}
}

// allowKeeping gives the issuer's role what the keeper needs.
func (r *rig) allowKeeping() {
	r.t.Helper()
	rules := `path "` + r.name + `/*" { capabilities = ["read"] }` + "\n" + testbed.KeeperPolicy
	r.must(r.Vault.WritePolicy(r.t.Context(), r.name, rules))
}

// staticToken creates a token with the rig's policy and the keeper's, and stores it in a Secret.
func (r *rig) staticToken() (token string) {
	r.t.Helper()
	rules := `path "` + r.name + `/*" { capabilities = ["read"] }
path "auth/token/create" { capabilities = ["update"] }`
	r.must(r.Vault.WritePolicy(r.t.Context(), r.name, rules))
	created, err := r.Vault.Root.Logical().WriteWithContext(r.t.Context(), "auth/token/create", map[string]any{
		"policies": []string{r.name, "keeper"}, "no_parent": true, "ttl": "2h",
	})
	r.must(err)
	token = created.Auth.ClientToken
	data := map[string][]byte{"token": []byte(token + "\n")}
	r.create(&corev1.Secret{ObjectMeta: r.named("vault-token"), Data: data})
	return token
}

// tokenAuth logs in with the token in a Secret.
func tokenAuth(name string) v1alpha1.VaultAuth {
	ref := v1alpha1.SecretKeyReference{SecretReference: v1alpha1.SecretReference{Name: name}}
	return v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{SecretRef: ref}}
}

func TestTokenAuthIssuesWithChildTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	token := r.staticToken()
	p := r.namespacedProvider()
	p.Spec.Vault.Auth = tokenAuth("vault-token")
	p.Spec.Vault.KeeperAuth = p.Spec.Vault.Auth.DeepCopy()
	r.create(p)
	untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	one := r.ready("orders", byNamespaced)
	two := r.ready("more", byNamespaced)
	if accessor(one) == accessor(two) || accessor(one) == "" {
		t.Error("two issuances share a token")
	}
	r.must(r.login(r.target("orders")))
	r.untilAlive(2)
	r.remove("orders")
	r.remove("more")
	r.untilAlive(0)
	c, err := r.Vault.Client(token)
	r.must(err)
	if _, err := c.Auth().Token().LookupSelfWithContext(t.Context()); err != nil {
		t.Errorf("the token in the Secret is gone: %v", err)
	}
}

func TestMissingTokenIsReportedUntilItExists(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	p := r.namespacedProvider()
	p.Spec.Vault.Auth = tokenAuth("vault-token")
	r.create(p)
	message := untilStatus(r, p, v1alpha1.StalledCondition, v1alpha1.ReasonInvalidSpec)
	if !strings.Contains(message, "vault-token") {
		t.Errorf("the message is %q", message)
	}
	r.apply("orders", byNamespaced)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotReady)
	r.staticToken()
	r.untilReady("orders")
}

// providerEvents counts the events of a provider with a reason.
func (r *rig) providerEvents(p client.Object, reason string) (n int) {
	r.t.Helper()
	var list eventsv1.EventList
	r.must(r.Kube.List(context.Background(), &list))
	for i := range list.Items {
		if list.Items[i].Reason == reason && list.Items[i].Regarding.UID == p.GetUID() {
			n++
		}
	}
	return n
}

// listsOfSecrets counts the lists of DynamicSecrets of a namespace that the manager read from the API server.
func (r *rig) listsOfSecrets(since testbed.Mark, namespace string) int {
	r.t.Helper()
	found, err := r.Plane.Requests(since, func(a testbed.APIRequest) bool {
		return a.User == managerUser && a.Verb == "list" && a.Resource == "dynamicsecrets" && a.Namespace == namespace
	})
	r.must(err)
	return len(found)
}

func TestProviderInUseCannotBeDeleted(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{v1alpha1.ProviderKindCluster, v1alpha1.ProviderKindNamespaced} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			var p interface {
				client.Object
				v1alpha1.Provider
			} = r.provider()
			if kind == v1alpha1.ProviderKindNamespaced {
				s := r.namespacedProvider()
				s.Spec.Vault.KeeperAuth = r.provider().Spec.Vault.KeeperAuth.DeepCopy()
				s.Spec.Vault.KeeperAuth.Kubernetes.ServiceAccountRef.Name = "orders"
				s.Spec.Vault.KeeperAuth.Kubernetes.ServiceAccountRef.Namespace = ""
				s.Spec.Vault.KeeperAuth.Kubernetes.Role = r.name
				r.allowKeeping()
				r.create(s)
				p = s
			}
			r.ready("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Kind = kind })
			r.must(r.Kube.Delete(t.Context(), p))
			message := untilStatus(r, p, v1alpha1.ReadyCondition, v1alpha1.ReasonInUse)
			if want := r.inUse("orders"); message != want {
				t.Errorf("the message is %q, want %q", message, want)
			}
			r.eventually("an event", func() bool { return r.providerEvents(p, v1alpha1.ReasonInUse) == 1 })
			mark := r.apiMark()
			r.apply("late", func(d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Kind = kind })
			r.untilReason("late", v1alpha1.StalledCondition, v1alpha1.ReasonProviderDeleting)
			if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
				t.Error("the object that uses it is not Ready any more")
			}
			time.Sleep(5 * time.Second) // several checks
			// Another test may delete a provider, too.
			if n := r.listsOfSecrets(mark, p.GetNamespace()); n > 2 {
				t.Errorf("%d lists were read from the API server while the cache knows the user", n)
			}
			r.remove("orders")
			if ids := r.leases(); len(ids) != 0 {
				t.Errorf("leases are left: %v", ids)
			}
			r.eventually("the provider to be deleted", func() bool { return r.gone(p) })
			r.untilReason("late", v1alpha1.StalledCondition, v1alpha1.ReasonProviderNotFound)
		})
	}
}

// gone reports whether an object no longer exists.
func (r *rig) gone(o client.Object) bool {
	r.t.Helper()
	err := r.Kube.Get(context.Background(), client.ObjectKeyFromObject(o), o)
	r.must(client.IgnoreNotFound(err))
	return err != nil
}

// kstatus is the status that Flux, and other users of the library, compute for an object.
func (r *rig) kstatus(o client.Object) (status.Status, string) {
	r.t.Helper()
	kind := dynamic
	if p, ok := o.(v1alpha1.Provider); ok {
		kind = p.Kind()
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	r.must(r.Kube.Get(context.Background(), client.ObjectKeyFromObject(o), u))
	result, err := status.Compute(u)
	r.must(err)
	return result.Status, result.Message
}

func (r *rig) untilKstatus(o client.Object, want status.Status) {
	r.t.Helper()
	var got status.Status
	var message string
	r.eventually(fmt.Sprintf("%s to be %s for kstatus", o.GetName(), want), func() bool {
		got, message = r.kstatus(o)
		return got == want
	})
	if message == "" && want != status.CurrentStatus {
		r.t.Errorf("status %s has no message", want)
	}
}

func TestKstatusOfDynamicSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	orders := &v1alpha1.DynamicSecret{ObjectMeta: r.named("orders")}
	r.must(r.proxy.Break(testbed.Fault{Path: "/creds/", Action: testbed.Refuse}))
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonBackendUnavailable)
	r.untilKstatus(orders, status.InProgressStatus)
	r.proxy.Clear()
	r.untilReady("orders")
	r.untilKstatus(orders, status.CurrentStatus)
	r.untilKstatus(r.provider(), status.CurrentStatus)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { asking("%s/creds/none")(r, d) })
	r.untilKstatus(orders, status.FailedStatus)
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { asking("%s/creds/orders")(r, d) })
	r.untilKstatus(orders, status.CurrentStatus)
	r.must(r.Kube.Delete(t.Context(), r.provider()))
	r.untilKstatus(r.provider(), status.TerminatingStatus)
	r.must(r.proxy.RefuseConnections())
	r.must(r.Kube.Delete(t.Context(), orders))
	r.untilKstatus(orders, status.TerminatingStatus)
	r.must(r.proxy.Accept())
	r.eventually("both to be deleted", func() bool {
		return r.gone(orders) && r.gone(&v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: r.name}})
	})
}

func TestKstatusOfProvider(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withOwnKeeper(), withProxy())
	r.keeperMay(policyWithout("sys/leases/renew", "sys/leases/revoke"))
	r.untilKstatus(r.provider(), status.FailedStatus)
	r.must(r.proxy.RefuseConnections())
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonBackendUnavailable)
	r.untilKstatus(r.provider(), status.InProgressStatus)
	r.keeperMay(testbed.KeeperPolicy)
	r.must(r.proxy.Accept())
	r.untilKstatus(r.provider(), status.CurrentStatus)
}
