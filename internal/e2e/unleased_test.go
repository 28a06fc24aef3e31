//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Helpers for the tests of engines whose responses have no lease, and of objects with several sources.

// leaselessPolicy lets the workload use the engines that these tests mount.
var leaselessPolicy = withPolicy(`
path "%s-kv/*"                { capabilities = ["read"] }
path "%s-pki/*"               { capabilities = ["update"] }
path "%s-ssh/*"               { capabilities = ["update"] }
path "identity/oidc/token/%s" { capabilities = ["read"] }
`)

// withKeeper gives the rig's provider a keeper of its own, with these rules besides the usual ones.
func withKeeper(t *testing.T, b *bed, rules string) option {
	return withProvider(func(p *v1alpha1.ClusterSecretProvider) {
		name, ctx := p.Name+"-keeper", t.Context()
		rules := testbed.KeeperPolicy + strings.ReplaceAll(rules, "%s", p.Name)
		if err := b.Vault.WritePolicy(ctx, name, rules); err != nil {
			t.Fatal(err)
		}
		err := b.Vault.WriteRole(ctx, "kubernetes", name, testbed.KubernetesRole{
			ServiceAccounts: []string{testbed.ManagerAccount}, Namespaces: []string{testbed.ManagerNamespace},
			Policies: []string{name}, Audience: "vault", TTL: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Spec.Vault.KeeperAuth.Kubernetes.Role = name
	})
}

// requesting makes an object with one source request something else than a database credential.
func requesting(req *v1alpha1.VaultRequest) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) { d.Spec.Vault = req }
}

// refreshing sets spec.refreshInterval.
func refreshing(interval time.Duration) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) { d.Spec.RefreshInterval = &metav1.Duration{Duration: interval} }
}

// parameters are those of a request.
func parameters(values map[string]any) map[string]apiextensionsv1.JSON {
	out := map[string]apiextensionsv1.JSON{}
	for name, value := range values {
		raw, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		out[name] = apiextensionsv1.JSON{Raw: raw}
	}
	return out
}

// staticRole makes Vault rotate the password of a PostgreSQL user of the rig, and returns the request for it.
func (r *rig) staticRole(name string, period time.Duration) *v1alpha1.VaultRequest {
	r.t.Helper()
	user := r.name + "-" + name
	r.must(r.Postgres.Exec(r.t.Context(), fmt.Sprintf("CREATE ROLE %q LOGIN PASSWORD 'initial'", user)))
	r.must(r.Vault.WriteStaticRole(r.t.Context(), r.name, name, user, period))
	return &v1alpha1.VaultRequest{Path: r.name + "/static-creds/" + name}
}

// storeKV writes a secret to the rig's KV engine of the version, and returns the request for it.
func (r *rig) storeKV(version int, name string, data map[string]any) *v1alpha1.VaultRequest {
	r.t.Helper()
	mount := r.name + "-kv"
	path := mount + "/" + name
	if version == 2 {
		path, data = mount+"/data/"+name, map[string]any{"data": data}
	}
	if _, err := r.Vault.Root.Sys().MountConfigWithContext(r.t.Context(), mount); err != nil {
		r.must(r.Vault.EnableKV(r.t.Context(), mount, version))
	}
	// Vault upgrades a new mount to version 2 in the background, and refuses requests until then.
	r.eventually("Vault to store "+path, func() bool { return r.Vault.Write(r.t.Context(), path, data) == nil })
	return &v1alpha1.VaultRequest{Path: path}
}

// value is what a Secret has under the key; empty: nothing, or there is no Secret.
func (r *rig) value(name, key string) string {
	r.t.Helper()
	if s := r.target(name); s != nil {
		return string(s.Data[key])
	}
	return ""
}

// auditTimes are when Vault received the requests since the mark whose "operation path" matches.
func (r *rig) auditTimes(since testbed.Mark, pattern string) []time.Time {
	r.t.Helper()
	found, err := r.Vault.Requests(since, pattern)
	r.must(err)
	times := make([]time.Time, len(found))
	for i := range found {
		times[i] = found[i].Time
	}
	return times
}

// managerCalls are the requests of the manager to the API server about the rig since the mark, refused ones and dry
// runs included.
func (r *rig) managerCalls(since testbed.Mark, match func(testbed.APIRequest) bool) []testbed.APIRequest {
	r.t.Helper()
	found, err := r.Plane.Requests(since, func(a testbed.APIRequest) bool {
		return a.User == managerUser && a.Namespace == r.name && match(a)
	})
	r.must(err)
	return found
}

// writing matches requests that stored a change of a kind of object.
func writing(resource string) func(testbed.APIRequest) bool {
	verbs := []string{"create", "update", "patch", "delete"}
	return func(a testbed.APIRequest) bool {
		return a.Resource == resource && slices.Contains(verbs, a.Verb) && !a.DryRun && a.Code < 300
	}
}

// secretWrites are when the API server stored a Secret for the manager. It waits until the audit log has so many.
func (r *rig) secretWrites(since testbed.Mark, n int) []time.Time {
	r.t.Helper()
	var found []testbed.APIRequest
	r.eventually(fmt.Sprintf("%d writes of Secrets in the audit log", n), func() bool {
		found = r.managerCalls(since, writing("secrets"))
		return len(found) >= n
	})
	var times []time.Time
	for _, a := range found {
		times = append(times, a.Time)
	}
	return times
}

// messages are those of the object's conditions and of its provider's.
func (r *rig) messages(name string) string {
	r.t.Helper()
	var all []string
	for _, c := range append(r.get(name).Status.Conditions, r.provider().Status.Conditions...) {
		all = append(all, c.Type+"="+string(c.Status)+" "+c.Reason+": "+c.Message)
	}
	return strings.Join(all, "\n")
}

// settled: the object is Ready, every request of a user is handled, and nothing is left to be revoked.
func settled(d *v1alpha1.DynamicSecret) bool {
	if d == nil || d.Status.Attempt != nil || len(d.Status.Leases) == 0 || len(d.Status.Retiring) > 0 {
		return false
	}
	return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) &&
		d.Status.ObservedGeneration == d.Generation &&
		d.Status.LastHandledRotateAt == d.Annotations[v1alpha1.RotateRequestedAtAnnotation]
}

// leaseIDs are those of the recorded leases, sorted. Responses without a lease have none.
func leaseIDs(records []v1alpha1.LeaseRecord) []string {
	var ids []string
	for i := range records {
		if records[i].ID != "" {
			ids = append(ids, records[i].ID)
		}
	}
	slices.Sort(ids)
	return ids
}
