//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// manifests that the API server takes; the tables below change one field each.
var manifests = map[string]string{
	"DynamicSecret": `
spec:
  providerRef: {kind: ClusterSecretProvider, name: vault}
  vault: {path: database/creds/orders}`,
	v1alpha1.ProviderKindCluster: `
spec:
  vault:
    address: https://vault.example:8200
    auth:
      kubernetes: {mount: kubernetes, role: app, serviceAccountRef: {name: app, audiences: [vault]}}
    keeperAuth:
      kubernetes: {mount: kubernetes, role: keeper, serviceAccountRef: {name: leasekeeper, namespace: leasekeeper-system}}`,
	v1alpha1.ProviderKindNamespaced: `
spec:
  vault:
    address: https://vault.example:8200
    auth:
      kubernetes: {mount: kubernetes, role: app, serviceAccountRef: {name: app}}
    keeperAuth:
      kubernetes: {mount: kubernetes, role: keeper, serviceAccountRef: {name: keeper}}`,
	revoking: `
spec:
  providerRef: {name: vault}
  prefix: database/creds/`,
}

// manifest makes an object of the kind from its manifest.
func manifest(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifests[kind]), &o.Object); err != nil {
		t.Fatal(err)
	}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetName(name)
	if kind != cluster && kind != revoking {
		o.SetNamespace("default")
	}
	return o
}

// set a field, by a dotted path, to a value given in YAML; an empty value takes the field out.
func set(t *testing.T, o *unstructured.Unstructured, path, value string) {
	t.Helper()
	fields := strings.Split(path, ".")
	if value == "" {
		unstructured.RemoveNestedField(o.Object, fields...)
		return
	}
	var v any
	err := yaml.Unmarshal([]byte(value), &v)
	if err == nil {
		err = unstructured.SetNestedField(o.Object, v, fields...)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// rejection is a field's value that the API server refuses, and what it says.
type rejection struct{ kind, path, value, says string }

const (
	cluster    = v1alpha1.ProviderKindCluster
	namespaced = v1alpha1.ProviderKindNamespaced
	dynamic    = "DynamicSecret"
	revoking   = "LeaseRevocation"

	badPath     = "path has no leading, trailing or double slash: database/creds/orders"
	badChar     = "path has a character or a segment that is not allowed; letters, digits and _.@:~+=,- are"
	badAddress  = "address must look like https://vault.example:8200: a scheme, a host, no path and no user"
	badMount    = "mount has no leading or trailing slash and no auth/: kubernetes"
	badSlash    = "namespace has no leading or trailing slash"
	oneMethod   = "set exactly one of kubernetes and token"
	ownLabels   = "labels with the prefix leasekeeper.io/ are reserved"
	ownNotes    = "annotations with the prefix leasekeeper.io/ are reserved"
	ownRights   = "this type makes the cluster give out rights of its own; use another"
	badName     = "name must be a lower-case DNS name"
	ownTLS      = "a SecretProvider uses its own namespace: leave namespace out of tls.caRef and tls.clientCertRef"
	clusterTLS  = "set namespace in tls.caRef and tls.clientCertRef: a ClusterSecretProvider has none of its own"
	nameBackend = "name a backend: set spec.vault"
	badSchedule = "schedule has five fields (minute, hour, day of month, month, day of week), or is one of @hourly, @daily, @weekly, @monthly and @yearly"
)

var rejections = []rejection{
	{dynamic, "spec.vault", "", nameBackend},
	{dynamic, "spec.providerRef", "", "Required value"},
	{dynamic, "spec.providerRef.name", `""`, "spec.providerRef.name"},
	{dynamic, "spec.providerRef.kind", "Provider", `supported values: "SecretProvider", "ClusterSecretProvider"`},
	{dynamic, "spec.rotation", "{maxAge: 500ms}", "maxAge must be at least 1s"},
	{dynamic, "spec.rotation", "{overlap: -1s}", "overlap must not be negative"},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * *', duration: 1h}]}", badSchedule},
	{dynamic, "spec.rotation", "{windows: [{schedule: '@often', duration: 1h}]}", badSchedule},
	{dynamic, "spec.rotation", "{windows: [{schedule: 'CRON_TZ=UTC 0 2 * * *', duration: 1h}]}", "name the time zone in timeZone, not in schedule"},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *', duration: 1h, timeZone: Local}]}", "name a time zone of the IANA database, such as Europe/Vienna"},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *', duration: 10s}]}", "duration must be at least 1m"},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *'}]}", "Required value"},
	{dynamic, "spec.rollout", "{}", "name workloads in targets, or set discover to true"},
	{dynamic, "spec.rollout", "{targets: [], discover: false}", "name workloads in targets, or set discover to true"},
	{dynamic, "spec.rollout", "{targets: [{kind: Deployment}]}", "set either name or selector"},
	{dynamic, "spec.rollout", "{targets: [{name: orders, selector: {matchLabels: {app: orders}}}]}", "set either name or selector"},
	{dynamic, "spec.rollout", "{targets: [{kind: Job, name: orders}]}", `supported values: "Deployment", "StatefulSet", "DaemonSet", "Rollout"`},
	{dynamic, "spec.vault.path", "/database/creds/orders", badPath},
	{dynamic, "spec.vault.path", "database/creds/orders/", badPath},
	{dynamic, "spec.vault.path", "database//orders", badPath},
	{dynamic, "spec.vault.path", "ab", "at least 3 chars"},
	{dynamic, "spec.vault.path", "v1/database/creds/orders", "leave the leading v1/ out of path"},
	{dynamic, "spec.vault.path", "sys/mounts", "path must be that of a secrets engine; sys/ and auth/ are not"},
	{dynamic, "spec.vault.path", "auth/token/create", "path must be that of a secrets engine; sys/ and auth/ are not"},
	{dynamic, "spec.vault.path", "database/../sys/mounts", badChar},
	{dynamic, "spec.vault.path", "database/./orders", badChar},
	{dynamic, "spec.vault.path", "database/creds/orders?list=true", badChar},
	{dynamic, "spec.vault.path", "database/creds/or%2e%2e", badChar},
	{dynamic, "spec.vault.path", "database/creds/orders#x", badChar},
	{dynamic, "spec.vault.path", "'database/creds/my orders'", badChar},
	{dynamic, "spec.vault.method", "List", `supported values: "Read", "Write"`},
	{dynamic, "spec.vault.namespace", "/team", badSlash},
	{dynamic, "spec.vault.namespace", "team/", badSlash},
	{dynamic, "spec.refreshInterval", "500ms", "refreshInterval must be at least 1s"},
	{dynamic, "spec.refreshInterval", "soon", "refreshInterval"},
	{dynamic, "spec.lease.increment", "0s", "increment must be at least 1s"},
	{dynamic, "spec.lease.increment", "-1h", "increment must be at least 1s"},
	{dynamic, "spec.lease.renewAtPercent", "9", "greater than or equal to 10"},
	{dynamic, "spec.lease.renewAtPercent", "91", "less than or equal to 90"},
	{dynamic, "spec.lease.onExpiry", "Keep", `supported values: "Delete", "Retain"`},
	{dynamic, "spec.lease.reissue", "Once", `supported values: "Always", "Never"`},
	{dynamic, "spec.lease.onDelete", "Keep", `supported values: "Revoke", "Abandon"`},
	{dynamic, "spec.lease.revocationDeadline", "-1s", "revocationDeadline must not be negative"},
	{dynamic, "spec.target.name", "Orders", badName},
	{dynamic, "spec.target.name", "orders_db", badName},
	{dynamic, "spec.target.name", "-orders", badName},
	{dynamic, "spec.target.type", "kubernetes.io/service-account-token", ownRights},
	{dynamic, "spec.target.type", "bootstrap.kubernetes.io/token", ownRights},
	{dynamic, "spec.target.labels", "{leasekeeper.io/dynamic-secret: other}", ownLabels},
	{dynamic, "spec.target.annotations", "{leasekeeper.io/digest-salt: mine}", ownNotes},
	{dynamic, "spec.serviceAccountName", strings.Repeat("a", 254), "may not be more than 253"},

	{cluster, "spec.vault", "", nameBackend},
	{namespaced, "spec.vault", "", nameBackend},
	{cluster, "spec.vault.address", "vault.example:8200", badAddress},
	{cluster, "spec.vault.address", "ftp://vault.example", badAddress},
	{cluster, "spec.vault.address", "https://vault.example/v1", badAddress},
	{cluster, "spec.vault.address", "https://root@vault.example", badAddress},
	{cluster, "spec.vault.address", "https://vault.example?x=y", badAddress},
	{cluster, "spec.vault.namespace", "/team", badSlash},
	{cluster, "spec.vault.auth.kubernetes", "", oneMethod},
	{cluster, "spec.vault.auth.token", "{secretRef: {name: token, namespace: default}}", oneMethod},
	{cluster, "spec.vault.keeperAuth.kubernetes", "", oneMethod},
	{cluster, "spec.vault.keeperAuth.token", "{secretRef: {name: token, namespace: default}}", oneMethod},
	{cluster, "spec.vault.auth.kubernetes.mount", "auth/kubernetes", badMount},
	{cluster, "spec.vault.auth.kubernetes.mount", "/kubernetes", badMount},
	{cluster, "spec.vault.auth.kubernetes.mount", "kubernetes/../token", badMount},
	{cluster, "spec.vault.keeperAuth.kubernetes.mount", "kubernetes/", badMount},
	{cluster, "spec.vault.auth.kubernetes.role", `""`, "spec.vault.auth.kubernetes.role"},
	{cluster, "spec.vault.tls", "{caBundle: bm90aGluZw==, caRef: {name: ca, namespace: default}}", "set caBundle or caRef, not both"},
	{cluster, "spec.vault.tls", "{caRef: {kind: Pod, name: ca, namespace: default}}", `supported values: "Secret", "ConfigMap"`},

	{cluster, "spec.vault.keeperAuth", "", "a ClusterSecretProvider needs vault.keeperAuth: who renews and revokes when a namespace is gone"},
	{cluster, "spec.vault.keeperAuth.kubernetes.serviceAccountRef.namespace", "", "set keeperAuth.kubernetes.serviceAccountRef.namespace: a ClusterSecretProvider has none of its own"},
	{cluster, "spec.vault.keeperAuth", "{token: {secretRef: {name: token}}}", "set keeperAuth.token.secretRef.namespace: a ClusterSecretProvider has none of its own"},
	{cluster, "spec.vault.auth", "{token: {secretRef: {name: token}}}", "set auth.token.secretRef.namespace: a ClusterSecretProvider has none of its own"},
	{cluster, "spec.vault.tls", "{caRef: {name: ca}}", clusterTLS},
	{cluster, "spec.vault.tls", "{clientCertRef: {name: cert}}", clusterTLS},

	{namespaced, "spec.vault.keeperAuth.kubernetes.serviceAccountRef.namespace", "other", "a SecretProvider uses its own namespace: leave keeperAuth.kubernetes.serviceAccountRef.namespace out"},
	{namespaced, "spec.vault.keeperAuth", "{token: {secretRef: {name: token, namespace: other}}}", "a SecretProvider uses its own namespace: leave keeperAuth.token.secretRef.namespace out"},
	{namespaced, "spec.vault.auth", "{token: {secretRef: {name: token, namespace: other}}}", "a SecretProvider uses its own namespace: leave auth.token.secretRef.namespace out"},
	{namespaced, "spec.vault.tls", "{caRef: {name: ca, namespace: other}}", ownTLS},
	{namespaced, "spec.vault.tls", "{clientCertRef: {name: cert, namespace: other}}", ownTLS},
	{namespaced, "spec.vault", "{address: 'https://vault.example', auth: {kubernetes: {role: app}}}", "without keeperAuth, auth.kubernetes.serviceAccountRef is needed: it does the keeper's work"},
}

func TestAManifestWithAMistakeIsRejectedWithWhatToDo(t *testing.T) {
	t.Parallel()
	for kind := range manifests {
		if err := shared.Kube.Create(t.Context(), manifest(t, kind, "good"), client.DryRunAll); err != nil {
			t.Fatalf("%s without a mistake: %v", kind, err)
		}
	}
	for _, c := range append(rejections, revocationRejections...) {
		t.Run(c.kind+" "+c.path+" "+c.value[:min(len(c.value), 40)], func(t *testing.T) {
			o := manifest(t, c.kind, "bad")
			set(t, o, c.path, c.value)
			rejected(t, shared.Kube.Create(t.Context(), o, client.DryRunAll), c.says)
		})
	}
}

func rejected(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("it was taken")
	case !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err), !strings.Contains(err.Error(), says):
		t.Errorf("the API server says: %v\nwant in it: %s", err, says)
	}
}

// immutables are changes of an object that exists.
var immutables = []rejection{
	{cluster, "spec.vault.address", "https://other.example:8200", "address cannot be changed, leases live there; make another provider and point the DynamicSecrets to it"},
	{cluster, "spec.vault.namespace", "team-a", "namespace cannot be changed, leases live there; make another provider and point the DynamicSecrets to it"},
	{cluster, "spec.vault.auth", "{token: {secretRef: {name: token, namespace: default}}}", "the method and mount of auth cannot be changed, leases are told by them; make another provider and point the DynamicSecrets to it"},
	{cluster, "spec.vault.auth.kubernetes.mount", "other", "the method and mount of auth cannot be changed, leases are told by them; make another provider and point the DynamicSecrets to it"},
	{namespaced, "spec.vault.address", "https://other.example:8200", "address cannot be changed"},
}

func TestWhatALeaseIsToldByCannotBeChanged(t *testing.T) {
	t.Parallel()
	for i, c := range immutables {
		t.Run(c.kind+" "+c.path, func(t *testing.T) {
			o := manifest(t, c.kind, fmt.Sprintf("immutable-%d", i))
			if err := shared.Kube.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = shared.Kube.Delete(context.Background(), o) })
			patch := func(path, value string) error {
				var v any
				if err := yaml.Unmarshal([]byte(value), &v); err != nil {
					t.Fatal(err)
				}
				raw, _ := json.Marshal([]map[string]any{{"op": "add", "path": "/" + strings.ReplaceAll(path, ".", "/"), "value": v}})
				return shared.Kube.Patch(t.Context(), o.DeepCopy(), client.RawPatch("application/json-patch+json", raw))
			}
			rejected(t, patch(c.path, c.value), c.says)
			if err := patch("spec.vault.auth.kubernetes.role", "another"); err != nil {
				t.Errorf("another role: %v", err)
			}
		})
	}
}

// walk visits every field of a schema.
func walk(path string, s apiextensionsv1.JSONSchemaProps, visit func(path string, s apiextensionsv1.JSONSchemaProps)) {
	visit(path, s)
	for name, p := range s.Properties {
		walk(path+"."+name, p, visit)
	}
	if s.Items != nil && s.Items.Schema != nil {
		walk(path+"[]", *s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		walk(path+"{}", *s.AdditionalProperties.Schema, visit)
	}
}

// schemas are those of the installed CRDs, by kind.
func schemas(t *testing.T) map[string]apiextensionsv1.JSONSchemaProps {
	t.Helper()
	out := map[string]apiextensionsv1.JSONSchemaProps{}
	for _, name := range []string{"dynamicsecrets", "secretproviders", "clustersecretproviders", "leaserevocations"} {
		text, err := shared.Plane.Kubectl(t.Context(), "get", "crd", name+".leasekeeper.io", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := json.Unmarshal([]byte(text), &crd); err != nil {
			t.Fatal(err)
		}
		out[crd.Spec.Names.Kind] = *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return out
}

func TestEveryRuleOfTheSchemasHasARejection(t *testing.T) {
	t.Parallel()
	for kind, schema := range schemas(t) {
		walk(kind, schema, func(path string, s apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				shown := slices.ContainsFunc(slices.Concat(rejections, immutables, revocationRejections, revocationImmutables), func(c rejection) bool { return c.says == rule.Message })
				if rule.Message == "" || !shown {
					t.Errorf("%s: no test shows %q", path, rule.Message)
				}
			}
		})
	}
}

func TestEveryFieldIsExplained(t *testing.T) {
	t.Parallel()
	for kind, schema := range schemas(t) {
		fields := 0
		walk(kind, schema, func(path string, s apiextensionsv1.JSONSchemaProps) {
			fields++
			element := strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "{}")
			if s.Description == "" && !element && path != kind+".metadata" {
				t.Errorf("%s has no text", path)
			}
		})
		if fields < 30 {
			t.Errorf("%s has %d fields: were they all seen?", kind, fields)
		}
	}
	// kubectl explain believes what it has cached of the server's kinds; get looks again.
	if _, err := shared.Plane.Kubectl(t.Context(), "get", "dsec", "--all-namespaces"); err != nil {
		t.Fatal(err)
	}
	text, err := shared.Plane.Kubectl(t.Context(), "explain", "dsec.spec.lease.renewAtPercent")
	if err != nil || !strings.Contains(text, "how much of the granted duration may pass") {
		t.Errorf("kubectl explain: %v\n%s", err, text)
	}
}

func TestColumnsTellWhatAPersonWantsToKnow(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared)
	d := r.ready("orders")
	wide := func(args ...string) (head, row string) {
		t.Helper()
		text, err := r.Plane.Kubectl(t.Context(), append(args, "-o", "wide")...)
		r.must(err)
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d lines:\n%s", len(lines), text)
		}
		return strings.Join(strings.Fields(lines[0]), " "), lines[1]
	}
	head, row := wide("get", "dsec", "-n", r.name)
	if head != "NAME PROVIDER READY STATUS EXPIRES RENEWS AGE LEASE MESSAGE" {
		t.Errorf("columns: %s", head)
	}
	for _, want := range []string{"orders", r.name, "True", "Leased", d.Status.Lease.ID, "Secret orders holds"} {
		if !strings.Contains(row, want) {
			t.Errorf("no %q in %q", want, row)
		}
	}
	if n := len(regexp.MustCompile(`\d{4}-\d\d-\d\dT`).FindAllString(row, -1)); n != 2 {
		t.Errorf("%d times in %q, want those of the end and of the renewal", n, row)
	}
	head, row = wide("get", "clustersecretprovider", r.name)
	if head != "NAME READY STATUS SERVER VERSION AGE ADDRESS MESSAGE" {
		t.Errorf("columns: %s", head)
	}
	for _, want := range []string{"True", "Reachable", "Vault", "1.21.0", r.Vault.Address} {
		if !strings.Contains(row, want) {
			t.Errorf("no %q in %q", want, row)
		}
	}
	narrow, err := r.Plane.Kubectl(t.Context(), "get", "dynamicsecrets", "-n", r.name)
	if r.must(err); strings.Contains(narrow, d.Status.Lease.ID) {
		t.Errorf("the lease is not only in wide:\n%s", narrow)
	}
}

func TestWhatIsLeftOutHasDefaults(t *testing.T) {
	t.Parallel()
	o := manifest(t, dynamic, "defaults")
	set(t, o, "spec.providerRef.kind", "")
	if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"spec.providerRef.kind": namespaced, "spec.vault.method": "Read", "spec.refreshInterval": "1h",
		"spec.lease.renewAtPercent": int64(67), "spec.lease.onExpiry": "Delete", "spec.lease.reissue": "Always",
		"spec.lease.onDelete": "Revoke", "spec.lease.revocationDeadline": "1h", "spec.target.type": "Opaque",
	} {
		if got, _, err := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...); err != nil || got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	p := manifest(t, cluster, "defaults")
	set(t, p, "spec.vault.auth.kubernetes.mount", "")
	set(t, p, "spec.vault.tls", "{caRef: {name: ca, namespace: default}}")
	if err := shared.Kube.Create(t.Context(), p, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"spec.vault.auth.kubernetes.mount": "kubernetes", "spec.vault.tls.caRef.kind": "Secret", "spec.vault.tls.caRef.key": "ca.crt",
	} {
		if got, _, err := unstructured.NestedString(p.Object, strings.Split(path, ".")...); err != nil || got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}
