//go:build integration

package e2e

import (
	"fmt"
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

// errorCase is a problem, how it is reported, and what fixes it.
type errorCase struct {
	name    string
	options []option
	// cause the problem before the object is created.
	cause func(*rig)
	// spec changes the spec of the object.
	spec func(*rig, *v1alpha1.DynamicSecret)
	// reason of Ready, and of Stalled or Reconciling.
	reason  string
	stalled bool
	// message is a part of the condition's message. %s stands for the rig's name.
	message string
	// retried is the pattern of the request that is retried without success, with %s for the rig's name. Empty: not
	// even a login is sent.
	retried string
	// mints: each of these requests mints a credential.
	mints bool
	fix   func(*rig)
	// unleased: after the fix, the response has no lease.
	unleased bool
}

const (
	failedIssuances = "^GET /v1/%s/creds/"
	failedKVReads   = "^GET /v1/%s-kv/"
	failedLogins    = "^POST /v1/auth/kubernetes/login$"
)

// kvPolicy lets the workload read the rig's KV engine.
var kvPolicy = withPolicy(`path "%s-kv/*" { capabilities = ["read"] }`)

func asking(path string) func(*rig, *v1alpha1.DynamicSecret) {
	return func(r *rig, d *v1alpha1.DynamicSecret) { d.Spec.Vault.Path = strings.ReplaceAll(path, "%s", r.name) }
}

// breaks injects the fault into every issuance.
func breaks(f testbed.Fault) func(*rig) {
	return func(r *rig) {
		if f.Path == "" {
			f.Path = "^/v1/" + r.name + "/creds/"
		}
		r.must(r.proxy.Break(f))
	}
}

// clearFaults removes the faults from the proxy.
func clearFaults(r *rig) { r.proxy.Clear() }

// kv mounts the rig's KV engine and writes to it.
func kv(version int, path string, data map[string]any) func(*rig) {
	return func(r *rig) {
		if _, err := r.Vault.Root.Sys().MountConfigWithContext(r.t.Context(), r.name+"-kv"); err != nil {
			r.must(r.Vault.EnableKV(r.t.Context(), r.name+"-kv", version))
		}
		if data != nil {
			r.must(r.Vault.Write(r.t.Context(), r.name+"-kv/"+path, data))
		}
	}
}

func loginRole(accounts string, more map[string]any) func(*rig) {
	return func(r *rig) {
		r.must(r.Vault.WriteRole(r.t.Context(), "kubernetes", r.name, testbed.KubernetesRole{
			ServiceAccounts: []string{accounts}, Namespaces: []string{r.name},
			Policies: []string{r.name}, Audience: "vault",
			TTL: time.Hour, MaxTTL: 24 * time.Hour, More: more,
		}))
	}
}

func databaseRole(name string, role testbed.DatabaseRole) func(*rig) {
	return func(r *rig) {
		role.DefaultTTL, role.MaxTTL = time.Hour, 24*time.Hour
		r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, name, role))
	}
}

func (r *rig) account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: r.named(name)}
}

// vaultError is an error response in Vault's format.
const vaultError = `{"errors":["%s"]}`

// respondsAfter makes the proxy replace the responses to issuances, after Vault has acted.
func respondsAfter(status int, body, contentType string) func(*rig) {
	return breaks(testbed.Fault{Action: testbed.AnswerAfter, Status: status, Body: body, ContentType: contentType})
}

func kvSpec(path string) func(*rig, *v1alpha1.DynamicSecret) { return asking("%s-kv/" + path) }

var errorCases = []errorCase{
	{
		name: "path without an engine", options: []option{kvPolicy}, spec: kvSpec("orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true, message: `"%s-kv/orders"`, retried: failedKVReads,
		fix: kv(1, "orders", map[string]any{"username": "u"}), unleased: true,
	},
	{
		name: "empty KV path", options: []option{kvPolicy}, cause: kv(1, "", nil), spec: kvSpec("orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true,
		message: `nothing exists at "%s-kv/orders"`, retried: failedKVReads,
		fix: kv(1, "orders", map[string]any{"username": "u"}), unleased: true,
	},
	{
		name: "KV version 2 path without data/", options: []option{kvPolicy},
		cause: kv(2, "data/orders", map[string]any{"data": map[string]any{"username": "u"}}), spec: kvSpec("orders"),
		reason: v1alpha1.ReasonPathNotFound, stalled: true,
		message: `use "%s-kv/data/orders"`, retried: failedKVReads,
		fix: func(r *rig) {
			r.edit("orders", func(d *v1alpha1.DynamicSecret) { kvSpec("data/orders")(r, d) })
		}, unleased: true,
	},
	{
		name: "unknown database role", spec: asking("%s/creds/later"),
		reason: v1alpha1.ReasonRequestRefused, stalled: true,
		message: "unknown role: later", retried: failedIssuances,
		fix: databaseRole("later", testbed.DatabaseRole{}),
	},
	{
		name: "invalid creation statement",
		cause: databaseRole("orders",
			testbed.DatabaseRole{CreationStatements: []string{`CREATE NONSENSE "{{name}}"`}}),
		reason: v1alpha1.ReasonBackendError,
		message: `requesting "%s/creds/orders": Vault responded 500 Internal Server Error: failed to execute query: ` +
			`ERROR: syntax error at or near "NONSENSE" (SQLSTATE 42601)`,
		retried: failedIssuances,
		fix:     databaseRole("orders", testbed.DatabaseRole{}),
	},
	{
		name: "policy without the path",
		cause: func(r *rig) {
			r.must(r.Vault.WritePolicy(r.t.Context(), r.name, `path "nothing" { capabilities = ["read"] }`))
		},
		reason: v1alpha1.ReasonAccessDenied, stalled: true,
		message: `policy of role "%s" lacks "read" on "%s/creds/orders"`, retried: failedIssuances,
		fix: func(r *rig) {
			r.must(r.Vault.WritePolicy(r.t.Context(), r.name, `path "`+r.name+`/*" { capabilities = ["read"] }`))
		},
	},
	{
		name: "login role of another ServiceAccount", cause: loginRole("another", nil),
		reason: v1alpha1.ReasonLoginFailed, stalled: true,
		message: `role "%s" of auth/kubernetes as ServiceAccount %s/orders`, retried: failedLogins,
		fix: loginRole("orders", nil),
	},
	{
		name: "login role with batch tokens", cause: loginRole("orders", map[string]any{"token_type": "batch"}),
		reason: v1alpha1.ReasonLoginFailed, stalled: true,
		message: "set token_type=service on auth/kubernetes/role/%s", retried: failedLogins,
		fix: loginRole("orders", map[string]any{"token_type": "service"}),
	},
	{
		name: "login role with limited uses", cause: loginRole("orders", map[string]any{"token_num_uses": 3}),
		reason: v1alpha1.ReasonLoginFailed, stalled: true,
		message: "set token_num_uses=0 on auth/kubernetes/role/%s", retried: failedLogins,
		fix: loginRole("orders", map[string]any{"token_num_uses": 0}),
	},
	{
		name:   "missing provider",
		spec:   func(r *rig, d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Name = r.name + "-later" },
		reason: v1alpha1.ReasonProviderNotFound, stalled: true,
		message: "ClusterSecretProvider %s-later does not exist",
		fix: func(r *rig) {
			p := r.newProvider(r.proxy.Address)
			p.Name = r.name + "-later"
			r.create(p)
		},
	},
	{
		name: "provider that does not allow the namespace",
		options: []option{withProvider(func(p *v1alpha1.ClusterSecretProvider) {
			shop := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}
			p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: shop}
		})},
		reason: v1alpha1.ReasonNamespaceNotAllowed, stalled: true,
		message: "ClusterSecretProvider %s does not allow namespace %s",
		fix: func(r *rig) {
			n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
			change(r, n, func(n *corev1.Namespace) { n.Labels["team"] = "shop" })
		},
	},
	{
		name:   "missing ServiceAccount",
		cause:  func(r *rig) { r.must(r.Kube.Delete(r.t.Context(), r.account("orders"))) },
		reason: v1alpha1.ReasonServiceAccountNotFound, stalled: true, message: `"orders"`,
		fix: func(r *rig) { r.create(r.account("orders")) },
	},
	{
		name: "no ServiceAccount named",
		options: []option{withProvider(func(p *v1alpha1.ClusterSecretProvider) {
			p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef.Name = ""
		})},
		reason: v1alpha1.ReasonServiceAccountNotFound, stalled: true, message: "set spec.serviceAccountName",
		fix: func(r *rig) {
			change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
				p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef.Name = "orders"
			})
		},
	},
	{
		name: "HTML response after minting", cause: respondsAfter(http.StatusOK, "<html>welcome</html>", "text/html"),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true,
		message: "is not in Vault's format", retried: failedIssuances, mints: true, fix: clearFaults,
	},
	{
		name:   "foreign JSON response after minting",
		cause:  respondsAfter(http.StatusOK, `{"hello":["world"]}`, "application/json"),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true,
		message: "is not in Vault's format", retried: failedIssuances, mints: true, fix: clearFaults,
	},
	{
		name: "empty response after minting", cause: respondsAfter(http.StatusOK, "", ""),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true,
		message: "is empty", retried: failedIssuances, mints: true, fix: clearFaults,
	},
	{
		name:   "response without data after minting",
		cause:  respondsAfter(http.StatusOK, `{"request_id":"1","lease_id":"","data":{}}`, "application/json"),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true,
		message: "has no data", retried: failedIssuances, mints: true, fix: clearFaults,
	},
	{
		name: "502 of a gateway after minting", cause: respondsAfter(http.StatusBadGateway, "bad gateway", ""),
		reason: v1alpha1.ReasonBackendUnavailable, message: "502 Bad Gateway", retried: failedIssuances, mints: true,
		fix: clearFaults,
	},
	{
		name: "response of more than 1 MiB", options: []option{kvPolicy}, spec: kvSpec("orders"),
		cause: kv(1, "orders", map[string]any{
			"one": strings.Repeat("x", 1<<19), "two": strings.Repeat("x", 1<<19),
		}),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, message: "more than 1 MiB", retried: failedKVReads,
		fix: kv(1, "orders", map[string]any{"value": "x"}), unleased: true,
	},
	{
		name: "field that cannot be a key", options: []option{kvPolicy}, spec: kvSpec("orders"),
		cause:  kv(1, "orders", map[string]any{"the password": "x"}),
		reason: v1alpha1.ReasonInvalidResponse, stalled: true, message: `"the password"`, retried: failedKVReads,
		fix: kv(1, "orders", map[string]any{"password": "x"}), unleased: true,
	},
	unavailable(http.StatusTooManyRequests, "request path: rate limit quota exceeded"),
	unavailable(472, "replication secondary"),
	unavailable(473, "performance standby"),
	unavailable(http.StatusServiceUnavailable, "Vault is sealed"),
	{
		name: "issuance without a response", cause: breaks(testbed.Fault{Action: testbed.Hang}),
		reason: v1alpha1.ReasonBackendUnavailable, message: "no response in time", retried: failedIssuances,
		fix: clearFaults,
	},
	{
		name: "login without a response",
		cause: func(r *rig) {
			r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
			breaks(testbed.Fault{Action: testbed.Hang, Path: "/login$"})(r)
		},
		reason: v1alpha1.ReasonBackendUnavailable, message: "no response in time", retried: failedLogins,
		fix: clearFaults,
	},
	{
		name: "connection broken before a response", cause: breaks(testbed.Fault{Action: testbed.Refuse}),
		reason: v1alpha1.ReasonBackendUnavailable, message: "the connection broke before a response arrived",
		retried: failedIssuances, fix: clearFaults,
	},
}

// unavailable is the case of a server that responds to issuances that it does not serve now.
func unavailable(status int, text string) errorCase {
	return errorCase{
		name: fmt.Sprintf("%d %s", status, text),
		cause: breaks(testbed.Fault{
			Action: testbed.Answer, Status: status, ContentType: "application/json",
			Body: strings.Replace(vaultError, "%s", text, 1),
		}),
		reason: v1alpha1.ReasonBackendUnavailable, message: text, retried: failedIssuances, fix: clearFaults,
	}
}

func TestErrorsAreReportedAndLeakNothing(t *testing.T) {
	t.Parallel()
	for _, c := range errorCases {
		t.Run(c.name, func(t *testing.T) { t.Parallel(); c.test(t) })
	}
}

func (c errorCase) test(t *testing.T) {
	r := newRig(t, shared, append(c.options, withProxy())...)
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	if c.cause != nil {
		c.cause(r)
	}
	mark, logins := r.vaultMark(), r.loginRequests()
	r.apply("orders", func(d *v1alpha1.DynamicSecret) {
		if c.spec != nil {
			c.spec(r, d)
		}
	})
	c.isReported(r)
	switch {
	case c.retried == "":
		r.makesFewRequests()
		if r.loginRequests() != logins {
			t.Error("leasekeeper has logged in")
		}
	case c.retried == failedLogins:
		r.backsOff(c.retried, logins)
	case c.retried != "":
		r.backsOff(strings.ReplaceAll(c.retried, "%s", r.name), 0)
	}
	c.isReported(r) // still
	if ids := r.leases(); !c.mints && len(ids) != 0 {
		t.Errorf("leases were issued: %v", ids)
	}
	if s := r.target("orders"); s != nil {
		t.Error("the Secret exists")
	}
	if !meta.IsStatusConditionTrue(r.provider().Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the provider is not Ready any more")
	}
	c.fix(r)
	r.untilReady("orders")
	if c.unleased {
		r.untilAlive(0)
	} else {
		r.untilAlive(1)
		r.must(r.login(r.target("orders")))
	}
	if n := r.minted(mark); c.retried == "" && n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	r.remove("orders")
	r.untilAlive(0)
}

func (c errorCase) isReported(r *rig) {
	r.t.Helper()
	message := r.untilReason("orders", v1alpha1.ReadyCondition, c.reason)
	if want := strings.ReplaceAll(c.message, "%s", r.name); !strings.Contains(message, want) {
		r.t.Errorf("the message of Ready is %q, want %q in it", message, want)
	}
	kind := v1alpha1.ReconcilingCondition
	if c.stalled {
		kind = v1alpha1.StalledCondition
	}
	r.untilReason("orders", kind, c.reason)
}
