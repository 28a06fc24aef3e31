//go:build integration

package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// trouble is something that is wrong, what is said of it, and what mends it.
type trouble struct {
	name    string
	options []option
	// spoil the room before the object is made.
	spoil func(*room)
	// spec of the object, where it is not the room's usual one.
	spec func(*room, *v1alpha1.DynamicSecret)
	// reason of Ready, and of Stalled if it is.
	reason  string
	stalled bool
	// says is what the message has. %s stands for the room's name.
	says string
	// tries is the pattern of the request that is tried in vain, again and again; empty: the backend is not even
	// logged in to. %s stands for the room's name.
	tries string
	// mints: each of them mints a credential.
	mints bool
	mend  func(*room)
	// unleased: what comes in the end has no lease.
	unleased bool
}

const (
	issuesInVain = "^GET /v1/%s/creds/"
	kvInVain     = "^GET /v1/%s-kv/"
	loginsInVain = "^POST /v1/auth/kubernetes/login$"
)

// kvPolicy lets the workload read the KV engine that the test mounts.
var kvPolicy = withPolicy(`path "%s-kv/*" { capabilities = ["read"] }`)

func asking(path string) func(*room, *v1alpha1.DynamicSecret) {
	return func(r *room, d *v1alpha1.DynamicSecret) { d.Spec.Vault.Path = strings.ReplaceAll(path, "%s", r.name) }
}

// breaks makes the proxy do this to every issue.
func breaks(f testbed.Fault) func(*room) {
	return func(r *room) {
		if f.Path == "" {
			f.Path = "^/v1/" + r.name + "/creds/"
		}
		r.must(r.proxy.Break(f))
	}
}

func clear(r *room) { r.proxy.Clear() }

// kv mounts a KV engine of the room and writes to it.
func kv(version int, path string, data map[string]any) func(*room) {
	return func(r *room) {
		if _, err := r.vault.Root.Sys().MountConfigWithContext(r.t.Context(), r.name+"-kv"); err != nil {
			r.must(r.vault.EnableKV(r.t.Context(), r.name+"-kv", version))
		}
		if data != nil {
			r.must(r.vault.Write(r.t.Context(), r.name+"-kv/"+path, data))
		}
	}
}

func loginRole(accounts string, more map[string]any) func(*room) {
	return func(r *room) {
		r.must(r.vault.WriteRole(r.t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
			ServiceAccounts: []string{accounts}, Namespaces: []string{r.name}, Policies: []string{r.name}, Audience: "vault",
			TTL: time.Hour, MaxTTL: 24 * time.Hour, More: more,
		}))
	}
}

func databaseRole(name string, role testbed.DatabaseRole) func(*room) {
	return func(r *room) {
		role.DefaultTTL, role.MaxTTL = time.Hour, 24*time.Hour
		r.must(r.vault.WriteDatabaseRole(r.t.Context(), r.name, name, role))
	}
}

func (r *room) account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: r.named(name)}
}

const vaultSays = `{"errors":["%s"]}`

var troubles = []trouble{
	{
		name: "a path that no engine has", options: []option{kvPolicy}, spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true, says: `"%s-kv/orders"`, tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"username": "u"}), unleased: true,
	},
	{
		name: "a key-value path that has nothing", options: []option{kvPolicy}, spoil: kv(1, "", nil), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true, says: `nothing is at "%s-kv/orders"`, tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"username": "u"}), unleased: true,
	},
	{
		name: "a key-value path without data/", options: []option{kvPolicy},
		spoil: kv(2, "data/orders", map[string]any{"data": map[string]any{"username": "u"}}), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true, says: `try "%s-kv/data/orders"`, tries: kvInVain,
		mend: func(r *room) {
			r.edit("orders", func(d *v1alpha1.DynamicSecret) { asking("%s-kv/data/orders")(r, d) })
		}, unleased: true,
	},
	{
		name: "a role that the engine does not have", spec: asking("%s/creds/later"),
		reason: v1alpha1.ReasonRequestRefused, stalled: true, says: "unknown role: later", tries: issuesInVain,
		mend: databaseRole("later", testbed.DatabaseRole{}),
	},
	{
		name:   "a creation statement that the database refuses",
		spoil:  databaseRole("orders", testbed.DatabaseRole{CreationStatements: []string{`CREATE NONSENSE "{{name}}"`}}),
		reason: v1alpha1.ReasonBackendError, says: `asking for "%s/creds/orders"`, tries: issuesInVain,
		mend: databaseRole("orders", testbed.DatabaseRole{}),
	},
	{
		name: "a policy that denies the path",
		spoil: func(r *room) {
			r.must(r.vault.WritePolicy(r.t.Context(), r.name, `path "nothing" { capabilities = ["read"] }`))
		},
		reason: v1alpha1.ReasonAccessDenied, stalled: true, says: `policy of role "%s" lacks "read" on "%s/creds/orders"`, tries: issuesInVain,
		mend: func(r *room) {
			r.must(r.vault.WritePolicy(r.t.Context(), r.name, `path "`+r.name+`/*" { capabilities = ["read"] }`))
		},
	},
	{
		name: "a login role that is not for this ServiceAccount", spoil: loginRole("another", nil),
		reason: v1alpha1.ReasonLoginFailed, stalled: true, says: `role "%s" of auth/kubernetes as ServiceAccount %s/orders`, tries: loginsInVain,
		mend: loginRole("orders", nil),
	},
	{
		name: "a login role that gives batch tokens", spoil: loginRole("orders", map[string]any{"token_type": "batch"}),
		reason: v1alpha1.ReasonLoginFailed, stalled: true, says: "set token_type=service on auth/kubernetes/role/%s", tries: loginsInVain,
		mend: loginRole("orders", map[string]any{"token_type": "service"}),
	},
	{
		name: "a login role that gives tokens with limited uses", spoil: loginRole("orders", map[string]any{"token_num_uses": 3}),
		reason: v1alpha1.ReasonLoginFailed, stalled: true, says: "set token_num_uses=0 on auth/kubernetes/role/%s", tries: loginsInVain,
		mend: loginRole("orders", map[string]any{"token_num_uses": 0}),
	},
	{
		name:   "a provider that does not exist",
		spec:   func(r *room, d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Name = r.name + "-later" },
		reason: v1alpha1.ReasonProviderNotFound, stalled: true, says: "ClusterSecretProvider %s-later does not exist",
		mend: func(r *room) {
			p := r.newProvider(r.proxy.Address)
			p.Name = r.name + "-later"
			r.create(p)
		},
	},
	{
		name: "a provider that does not allow the namespace",
		options: []option{withProvider(func(p *v1alpha1.ClusterSecretProvider) {
			p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}}
		})},
		reason: v1alpha1.ReasonNamespaceNotAllowed, stalled: true, says: "ClusterSecretProvider %s does not allow namespace %s",
		mend: func(r *room) {
			change(r, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}, func(n *corev1.Namespace) { n.Labels["team"] = "shop" })
		},
	},
	{
		name:   "a ServiceAccount that does not exist",
		spoil:  func(r *room) { r.must(r.kube.Delete(r.t.Context(), r.account("orders"))) },
		reason: v1alpha1.ReasonServiceAccountNotFound, stalled: true, says: `"orders"`,
		mend: func(r *room) { r.create(r.account("orders")) },
	},
	{
		name:    "no ServiceAccount named",
		options: []option{withProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef = nil })},
		reason:  v1alpha1.ReasonServiceAccountNotFound, stalled: true, says: "set spec.serviceAccountName",
		mend: func(r *room) {
			change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
				p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef = &v1alpha1.WorkloadServiceAccount{Name: "orders", Audiences: []string{"vault"}}
			})
		},
	},
	{
		name:   "an answer that is no JSON, of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK, Body: "<html>welcome</html>", ContentType: "text/html"}),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: "is not in Vault's words", tries: issuesInVain, mints: true, mend: clear,
	},
	{
		name:   "JSON that is not Vault's, of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK, Body: `{"hello":["world"]}`, ContentType: "application/json"}),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: "is not in Vault's words", tries: issuesInVain, mints: true, mend: clear,
	},
	{
		name:   "an empty answer of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK}),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: "is empty", tries: issuesInVain, mints: true, mend: clear,
	},
	{
		name:   "an answer without data, of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK, Body: `{"request_id":"1","lease_id":"","data":{}}`, ContentType: "application/json"}),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: "has no data", tries: issuesInVain, mints: true, mend: clear,
	},
	{
		name:   "a gateway that lost the answer of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusBadGateway, Body: "bad gateway"}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "502 Bad Gateway", tries: issuesInVain, mints: true, mend: clear,
	},
	{
		name: "an answer of more than 1 MiB", options: []option{kvPolicy},
		spoil: kv(1, "orders", map[string]any{"one": strings.Repeat("x", 1<<19), "two": strings.Repeat("x", 1<<19)}), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: "more than 1 MiB", tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"value": "x"}), unleased: true,
	},
	{
		name: "a key that is no Secret key", options: []option{kvPolicy},
		spoil: kv(1, "orders", map[string]any{"the password": "x"}), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonInvalidAnswer, stalled: true, says: `"the password"`, tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"password": "x"}), unleased: true,
	},
	notServing(http.StatusTooManyRequests, "request path: rate limit quota exceeded"),
	notServing(472, "replication secondary"),
	notServing(473, "performance standby"),
	notServing(http.StatusServiceUnavailable, "Vault is sealed"),
	{
		name: "an issue that is never answered", spoil: breaks(testbed.Fault{Action: testbed.Hang}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "no answer in time", tries: issuesInVain, mend: clear,
	},
	{
		name: "a login that is never answered",
		spoil: func(r *room) {
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
			breaks(testbed.Fault{Action: testbed.Hang, Path: "/login$"})(r)
		},
		reason: v1alpha1.ReasonBackendUnavailable, says: "no answer in time", tries: loginsInVain, mend: clear,
	},
	{
		name: "connections that break before an answer", spoil: breaks(testbed.Fault{Action: testbed.Refuse}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "the connection broke before an answer came", tries: issuesInVain, mend: clear,
	},
}

// notServing is a server that answers issues, in Vault's words, that it does not serve now.
func notServing(status int, words string) trouble {
	return trouble{
		name:   "an issue that is answered " + http.StatusText(status) + " " + words,
		spoil:  breaks(testbed.Fault{Action: testbed.Answer, Status: status, Body: strings.Replace(vaultSays, "%s", words, 1), ContentType: "application/json"}),
		reason: v1alpha1.ReasonBackendUnavailable, says: words, tries: issuesInVain, mend: clear,
	}
}

func TestWhatIsWrongIsSaidLeaksNothingAndEndsWhenItIsMended(t *testing.T) {
	t.Parallel()
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) { t.Parallel(); c.test(t) })
	}
}

func (c trouble) test(t *testing.T) {
	r := newRoom(t, shared, append(c.options, withProxy())...)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	if c.spoil != nil {
		c.spoil(r)
	}
	mark, logins := r.vaultMark(), r.proxiedLogins()
	r.apply("orders", func(d *v1alpha1.DynamicSecret) {
		if c.spec != nil {
			c.spec(r, d)
		}
	})
	c.isSaid(r)
	switch {
	case c.tries == "" && r.proxiedLogins() != logins:
		t.Error("leasekeeper has logged in")
	case c.tries == loginsInVain:
		r.backsOff(c.tries, logins)
	case c.tries != "":
		r.backsOff(strings.ReplaceAll(c.tries, "%s", r.name), 0)
	}
	c.isSaid(r) // and goes on being said
	if ids := r.leases(); !c.mints && len(ids) != 0 {
		t.Errorf("leases were made: %v", ids)
	}
	if s := r.target("orders"); s != nil {
		t.Error("there is a Secret")
	}
	if !meta.IsStatusConditionTrue(r.provider().Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the provider is not Ready any more")
	}
	c.mend(r)
	r.untilReady("orders")
	if c.unleased {
		r.untilAlive(0)
	} else {
		r.untilAlive(1)
		r.must(r.login(r.target("orders")))
	}
	if n := r.minted(mark); c.tries == "" && n != 1 {
		t.Errorf("%d credentials were asked for, want 1", n)
	}
	r.remove("orders")
	r.untilAlive(0)
}

func (c trouble) isSaid(r *room) {
	r.t.Helper()
	message := r.untilReason("orders", v1alpha1.ReadyCondition, c.reason)
	if says := strings.ReplaceAll(c.says, "%s", r.name); !strings.Contains(message, says) {
		r.t.Errorf("Ready says %q, want %q in it", message, says)
	}
	kind := v1alpha1.ReconcilingCondition
	if c.stalled {
		kind = v1alpha1.StalledCondition
	}
	r.untilReason("orders", kind, c.reason)
}

func TestARenewalThatIsNotServedChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	before := r.ready("orders")
	version := r.target("orders").ResourceVersion
	mark := r.vaultMark()
	for status, words := range map[int]string{
		http.StatusTooManyRequests: "rate limit quota exceeded", 472: "replication secondary", 473: "performance standby",
		http.StatusServiceUnavailable: "Vault is sealed", http.StatusBadGateway: "bad gateway", http.StatusInternalServerError: "internal error",
		http.StatusBadRequest: "something else", http.StatusForbidden: "permission denied",
	} {
		body := strings.Replace(vaultSays, "%s", words, 1)
		r.must(r.proxy.Break(testbed.Fault{Path: "^/v1/sys/leases/renew$", Action: testbed.Answer, Status: status, Body: body, ContentType: "application/json"}))
		r.askFor(v1alpha1.RenewRequestedAtAnnotation, words)
		r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			t.Errorf("%d: Ready is not True", status)
		}
		r.proxy.Clear()
		r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.LastHandledRenewAt == words && meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReconcilingCondition) == nil
		})
	}
	if after := r.get("orders"); after.Status.Lease.ID != before.Status.Lease.ID || r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Errorf("lease %s became %s, %d credentials were asked for", before.Status.Lease.ID, after.Status.Lease.ID, r.minted(mark))
	}
}

// askFor sets an annotation of the room's object.
func (r *room) askFor(annotation, value string) {
	r.t.Helper()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, annotation, value) })
}

func TestASealedVaultChangesNothingAndIsNotAskedForMore(t *testing.T) {
	t.Parallel()
	r := newRoom(t, withVault(t, testbed.VaultOptions{}))
	before := r.ready("orders")
	version := r.target("orders").ResourceVersion
	mark := r.vaultMark()
	r.must(r.vault.Seal(t.Context()))
	if message := r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonBackendUnavailable); !strings.Contains(message, "is sealed") {
		t.Errorf("the provider says %q", message)
	}
	r.apply("more")
	r.untilReason("more", v1alpha1.ReadyCondition, v1alpha1.ReasonProviderNotReady)
	r.askFor(v1alpha1.RenewRequestedAtAnnotation, "now")
	r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
	r.must(r.vault.Unseal(t.Context()))
	r.untilReady("more")
	after := r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledRenewAt == "now" })
	if after.Status.Lease.ID != before.Status.Lease.ID || r.target("orders").ResourceVersion != version {
		t.Error("the credential was replaced")
	}
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were asked for, want 1", n)
	}
	r.untilAlive(2)
	r.remove("orders")
	r.remove("more")
	r.untilAlive(0)
}

func TestACertificateThatDoesNotVerifyIsSaidAndNothingIsSent(t *testing.T) {
	t.Parallel()
	b := withVault(t, testbed.VaultOptions{TLS: true})
	ref := func(kind, key string) *v1alpha1.TLSConfig {
		return &v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Kind: kind, Name: "vault-ca", Namespace: managerNamespace, Key: key}}
	}
	for _, c := range []struct {
		name, reason, says string
		tls                *v1alpha1.TLSConfig
	}{
		{"a caBundle of another authority", v1alpha1.ReasonTLSFailed, "unknown authority", &v1alpha1.TLSConfig{CABundle: b.plane.CA}},
		{"no authority given", v1alpha1.ReasonTLSFailed, "unknown authority", nil},
		{"a server name that is not the certificate's", v1alpha1.ReasonTLSFailed, `not for "vault.example"`, &v1alpha1.TLSConfig{CABundle: b.vault.CA, ServerName: "vault.example"}},
		{"a bundle that is none", v1alpha1.ReasonTLSFailed, "tls.caBundle", &v1alpha1.TLSConfig{CABundle: []byte("nothing")}},
		{"a ConfigMap without the key", v1alpha1.ReasonInvalidSpec, "other.crt", ref("ConfigMap", "other.crt")},
		{"a Secret that is not there", v1alpha1.ReasonInvalidSpec, "vault-ca", ref("Secret", "ca.crt")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, b, withProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.TLS = c.tls }))
			r.create(&corev1.ConfigMap{ObjectMeta: r.named("vault-ca"), Data: map[string]string{"ca.crt": string(b.vault.CA)}})
			if c.tls != nil && c.tls.CARef != nil {
				change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.TLS.CARef.Namespace = r.name })
			}
			mark := r.vaultMark()
			r.apply("orders")
			if message := r.untilProvider(v1alpha1.ReadyCondition, c.reason); !strings.Contains(message, c.says) {
				t.Errorf("the provider says %q, want %q in it", message, c.says)
			}
			if message := r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonProviderNotReady); !strings.Contains(message, r.name) {
				t.Errorf("Ready says %q", message)
			}
			change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
				p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Kind: "ConfigMap", Name: "vault-ca", Namespace: r.name}}
			})
			r.untilReady("orders")
			if n := r.minted(mark); n != 1 {
				t.Errorf("%d credentials were asked for, want 1", n)
			}
		})
	}
}

func TestAConfigMapThatGetsTheRightAuthorityIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, withVault(t, testbed.VaultOptions{TLS: true}))
	authority := &corev1.ConfigMap{ObjectMeta: r.named("vault-ca"), Data: map[string]string{"ca.crt": string(r.plane.CA)}}
	r.create(authority)
	change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Kind: "ConfigMap", Name: "vault-ca", Namespace: r.name}}
	})
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonTLSFailed)
	change(r, authority, func(m *corev1.ConfigMap) { m.Data["ca.crt"] = string(r.vault.CA) })
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.ready("orders")
}

func TestOfTwoObjectsWithOneTargetTheOlderOneHasIt(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	r.ready("orders")
	version, mark := r.target("orders").ResourceVersion, r.vaultMark()
	r.apply("second", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "orders" })
	message := r.untilReason("second", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	if !strings.Contains(message, "orders is older") {
		t.Errorf("it says %q", message)
	}
	if r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Error("the second object has minted, or written the Secret")
	}
	r.remove("orders")
	r.untilReady("second")
	r.must(r.login(r.target("orders")))
	r.untilAlive(1)
}

func TestAForeignSecretIsLeftAloneAndNothingIsMinted(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	foreign := &corev1.Secret{ObjectMeta: r.named("orders"), Data: map[string][]byte{"mine": []byte("mine")}}
	r.create(foreign)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	logins := r.proxiedLogins()
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonTargetConflict)
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	r.ready("other") // a later event, until which nothing was done for the first
	if n := len(r.tries(r.issuing())); n != 1 || r.proxiedLogins() != logins+1 {
		t.Errorf("%d logins and %d issues, want those of the other object", r.proxiedLogins()-logins, n)
	}
	if s := r.target("orders"); s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written")
	}
	r.must(r.kube.Delete(t.Context(), foreign))
	r.untilReady("orders")
	r.untilAlive(2)
}

func TestAForeignSecretOutlivesTheObject(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	foreign := &corev1.Secret{ObjectMeta: r.named("orders"), Data: map[string][]byte{"mine": []byte("mine")}}
	r.create(foreign)
	r.apply("orders")
	r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonTargetConflict)
	r.remove("orders")
	if s := r.target("orders"); s == nil || s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written or deleted")
	}
}

// refuses makes the API server refuse the room's Secrets for which the CEL expression is false, and waits until it does.
func (r *room) refuses(expression, message string, probe func(client.Object) error) *admissionv1.ValidatingAdmissionPolicy {
	r.t.Helper()
	fail, equivalent := admissionv1.Fail, admissionv1.Equivalent
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.name}}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{
				MatchPolicy: &equivalent, NamespaceSelector: here, ObjectSelector: &metav1.LabelSelector{},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
				}}},
			},
			Validations: []admissionv1.Validation{{Expression: expression, Message: message}},
		},
	}
	r.create(policy)
	r.create(&admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: r.name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: r.name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	})
	r.t.Cleanup(func() { _ = r.kube.Delete(context.Background(), policy) })
	r.eventually("the API server to refuse", func() bool {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, GenerateName: "probe-", Labels: map[string]string{v1alpha1.OwnerLabel: "probe"}}}
		err := probe(s)
		if err == nil {
			_ = r.kube.Delete(r.t.Context(), s)
		}
		return apierrors.IsInvalid(err)
	})
	return policy
}

func TestASecretThatTheAPIServerWouldNotTakeIsNotMintedFor(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	policy := r.refuses("false", "no Secrets on Sundays", func(o client.Object) error {
		return r.kube.Create(t.Context(), o, client.DryRunAll)
	})
	logins := r.proxiedLogins()
	r.apply("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	if !strings.Contains(message, "no Secrets on Sundays") {
		t.Errorf("it says %q, want what the policy says", message)
	}
	if r.proxiedLogins() != logins || len(r.leases()) != 0 {
		t.Error("leasekeeper has logged in, or has a lease")
	}
	r.must(r.kube.Delete(t.Context(), policy))
	r.untilReady("orders")
	r.untilAlive(1)
	if n := len(r.tries(r.issuing())); n != 1 {
		t.Errorf("%d credentials were asked for, want 1", n)
	}
}

func TestASecretThatIsRefusedAfterTheIssueIsWrittenLaterWithTheSameCredential(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared, withProxy())
	policy := r.refuses("has(request.dryRun) && request.dryRun", "no Secrets on Sundays", func(o client.Object) error {
		return r.kube.Create(t.Context(), o)
	})
	r.apply("orders")
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetRejected)
	// A policy's words may quote the Secret, so they are shown only of the dry run, which has none.
	if !strings.Contains(message, "Secret orders could not be written") || strings.Contains(message, "Sundays") {
		t.Errorf("it says %q", message)
	}
	id := r.get("orders").Status.Lease.ID
	r.must(r.kube.Delete(t.Context(), policy))
	after := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if n := len(r.tries(r.issuing())); n != 1 || after.Status.Lease.ID != id {
		t.Errorf("%d credentials were asked for, want 1; lease %s became %s", n, id, after.Status.Lease.ID)
	}
	r.untilAlive(1)
}

func TestAnAPIServerThatStopsDuringAnIssueCostsNoSecondOne(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--leader-elect=false")
	r := newRoom(t, b, withProxy(), withRole(testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
		CreationStatements: []string{
			`SELECT pg_sleep(5)`,
			`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
		},
	}))
	r.apply("orders")
	r.eventually("the issue to be under way", func() bool { return len(r.tries(r.issuing())) == 1 })
	r.must(r.plane.StopAPIServer())
	r.eventually("the credential to be minted", func() bool { return len(r.leases()) == 1 })
	r.must(r.plane.StartAPIServer(t.Context()))
	d := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if n := len(r.tries(r.issuing())); n != 1 || d.Status.Lease.ID != r.leases()[0] {
		t.Errorf("%d credentials were asked for, want 1", n)
	}
	r.untilAlive(1)
	r.remove("orders")
	r.untilAlive(0)
	if users := r.users(); len(users) != 0 {
		t.Errorf("users are left: %v", users)
	}
}
