//go:build integration

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// clearFaults ends what the proxy does.
func clearFaults(r *room) { r.proxy.Clear() }

// kv mounts a KV engine of the room and writes to it.
func kv(version int, path string, data map[string]any) func(*room) {
	return func(r *room) {
		if _, err := r.Vault.Root.Sys().MountConfigWithContext(r.t.Context(), r.name+"-kv"); err != nil {
			r.must(r.Vault.EnableKV(r.t.Context(), r.name+"-kv", version))
		}
		if data != nil {
			r.must(r.Vault.Write(r.t.Context(), r.name+"-kv/"+path, data))
		}
	}
}

func loginRole(accounts string, more map[string]any) func(*room) {
	return func(r *room) {
		r.must(r.Vault.WriteRole(r.t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
			ServiceAccounts: []string{accounts}, Namespaces: []string{r.name}, Policies: []string{r.name}, Audience: "vault",
			TTL: time.Hour, MaxTTL: 24 * time.Hour, More: more,
		}))
	}
}

func databaseRole(name string, role testbed.DatabaseRole) func(*room) {
	return func(r *room) {
		role.DefaultTTL, role.MaxTTL = time.Hour, 24*time.Hour
		r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, name, role))
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
			r.must(r.Vault.WritePolicy(r.t.Context(), r.name, `path "nothing" { capabilities = ["read"] }`))
		},
		reason: v1alpha1.ReasonAccessDenied, stalled: true, says: `policy of role "%s" lacks "read" on "%s/creds/orders"`, tries: issuesInVain,
		mend: func(r *room) {
			r.must(r.Vault.WritePolicy(r.t.Context(), r.name, `path "`+r.name+`/*" { capabilities = ["read"] }`))
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
		spoil:  func(r *room) { r.must(r.Kube.Delete(r.t.Context(), r.account("orders"))) },
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
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: "is not in Vault's words", tries: issuesInVain, mints: true, mend: clearFaults,
	},
	{
		name:   "JSON that is not Vault's, of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK, Body: `{"hello":["world"]}`, ContentType: "application/json"}),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: "is not in Vault's words", tries: issuesInVain, mints: true, mend: clearFaults,
	},
	{
		name:   "an empty answer of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK}),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: "is empty", tries: issuesInVain, mints: true, mend: clearFaults,
	},
	{
		name:   "an answer without data, of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusOK, Body: `{"request_id":"1","lease_id":"","data":{}}`, ContentType: "application/json"}),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: "has no data", tries: issuesInVain, mints: true, mend: clearFaults,
	},
	{
		name:   "a gateway that lost the answer of a backend that has acted",
		spoil:  breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: http.StatusBadGateway, Body: "bad gateway"}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "502 Bad Gateway", tries: issuesInVain, mints: true, mend: clearFaults,
	},
	{
		name: "an answer of more than 1 MiB", options: []option{kvPolicy},
		spoil: kv(1, "orders", map[string]any{"one": strings.Repeat("x", 1<<19), "two": strings.Repeat("x", 1<<19)}), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: "more than 1 MiB", tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"value": "x"}), unleased: true,
	},
	{
		name: "a key that is no Secret key", options: []option{kvPolicy},
		spoil: kv(1, "orders", map[string]any{"the password": "x"}), spec: asking("%s-kv/orders"),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, says: `"the password"`, tries: kvInVain,
		mend: kv(1, "orders", map[string]any{"password": "x"}), unleased: true,
	},
	notServing(http.StatusTooManyRequests, "request path: rate limit quota exceeded"),
	notServing(472, "replication secondary"),
	notServing(473, "performance standby"),
	notServing(http.StatusServiceUnavailable, "Vault is sealed"),
	{
		name: "an issue that is never answered", spoil: breaks(testbed.Fault{Action: testbed.Hang}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "no answer in time", tries: issuesInVain, mend: clearFaults,
	},
	{
		name: "a login that is never answered",
		spoil: func(r *room) {
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
			breaks(testbed.Fault{Action: testbed.Hang, Path: "/login$"})(r)
		},
		reason: v1alpha1.ReasonBackendUnavailable, says: "no answer in time", tries: loginsInVain, mend: clearFaults,
	},
	{
		name: "connections that break before an answer", spoil: breaks(testbed.Fault{Action: testbed.Refuse}),
		reason: v1alpha1.ReasonBackendUnavailable, says: "the connection broke before an answer came", tries: issuesInVain, mend: clearFaults,
	},
}

// notServing is a server that answers issues, in Vault's words, that it does not serve now.
func notServing(status int, words string) trouble {
	return trouble{
		name:   "an issue that is answered " + http.StatusText(status) + " " + words,
		spoil:  breaks(testbed.Fault{Action: testbed.Answer, Status: status, Body: strings.Replace(vaultSays, "%s", words, 1), ContentType: "application/json"}),
		reason: v1alpha1.ReasonBackendUnavailable, says: words, tries: issuesInVain, mend: clearFaults,
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
	case c.tries == "":
		r.staysCalm()
		if r.proxiedLogins() != logins {
			t.Error("leasekeeper has logged in")
		}
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
