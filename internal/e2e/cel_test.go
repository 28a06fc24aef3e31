//go:build integration

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// manifests are valid. The tables below change one field each.
var manifests = map[string]string{
	dynamic: `
spec:
  providerRef: {kind: ClusterSecretProvider, name: vault}
  vault: {path: database/creds/orders}`,
	cluster: `
spec:
  vault:
    address: https://vault.example:8200
    auth:
      kubernetes: {mount: kubernetes, role: app, serviceAccountRef: {name: app, audiences: [vault]}}
    keeperAuth:
      kubernetes:
        mount: kubernetes
        role: keeper
        serviceAccountRef: {name: leasekeeper, namespace: leasekeeper-system, audiences: [vault]}`,
	namespaced: `
spec:
  vault:
    address: https://vault.example:8200
    auth:
      kubernetes: {mount: kubernetes, role: app, serviceAccountRef: {name: app, audiences: [vault]}}
    keeperAuth:
      kubernetes: {mount: kubernetes, role: keeper, serviceAccountRef: {name: keeper, audiences: [vault]}}`,
	revoking: `
spec:
  providerRef: {name: vault}
  vault: {prefix: database/creds/}`,
}

// manifest returns an object of the kind.
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

// set sets a field, by its dotted path, to a value in YAML. An empty value removes the field.
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

// rejection is the value of a field that the API server rejects, and a part of the error.
type rejection struct{ kind, path, value, message string }

const (
	cluster    = v1alpha1.ProviderKindCluster
	namespaced = v1alpha1.ProviderKindNamespaced
	dynamic    = "DynamicSecret"
	revoking   = "LeaseRevocation"

	badPath = "path has no leading, trailing or double slash: database/creds/orders"
	badChar = "path contains a character or a segment that is not allowed: no control characters, " +
		"no dot segments, and write it unencoded, such as a space instead of %20"
	badEngine  = "path must belong to a secrets engine; sys/ and auth/ do not"
	badVersion = "omit the leading v1/ from path"
	badAddress = "address must be like https://vault.example:8200 or https://gateway.example/vault: a scheme, " +
		"a host, no /v1 and no user"
	badBundle = "caBundle must be certificates in PEM (-----BEGIN CERTIFICATE-----), or a file with them encoded " +
		"with base64 (base64 ca.crt)"
	badProxy = "proxyURL must be like http://proxy.example:3128: a scheme (http, https or socks5), a host, " +
		"no path and no user"
	oneValue       = "set either value or secretRef"
	ownHeader      = "leasekeeper sets this header itself: use a header of the gateway, such as CF-Access-Client-Id"
	badSlash       = "namespace has no leading or trailing slash"
	badInterval    = "refreshInterval must be at least 1s, such as 30s, 5m or 1h30m"
	badIncrement   = "increment must be at least 1s, such as 30s, 5m or 1h30m"
	badDeadline    = "revocationDeadline must not be negative: a duration such as 0s, 30m or 1h"
	badMaxAge      = "maxAge must be at least 1s, such as 1h or 24h"
	badOverlap     = "overlap must not be negative: a duration such as 0s, 2m or 1h"
	badSettle      = "settle must not be negative: a duration such as 0s, 10s or 1m"
	badName        = "name must be a lower-case DNS name"
	ownLabels      = "labels with the prefix leasekeeper.io/ are reserved"
	ownAnnotations = "annotations with the prefix leasekeeper.io/ are reserved"
	ownRights      = "the cluster grants rights to Secrets of this type; use another"
	ownTLS         = "a SecretProvider uses its own namespace: omit namespace in tls.caRef and tls.clientCertRef"
	clusterTLS     = "set namespace in tls.caRef and tls.clientCertRef: a ClusterSecretProvider has none of its own"
	nameBackend    = "name a backend: set spec.vault"
	noTargets      = "name workloads in targets, or set discover to true"
	nameOrSelector = "set either name or selector"

	oneForm       = "set either vault, for one source, or sources, for several"
	noProvider    = "set providerRef, or a providerRef on each source"
	sourceBackend = "name a backend on each source: set vault"
	sourcePath    = "a path is like database/creds/orders: no leading, trailing or double slash, " +
		"no leading v1/, sys/ or auth/, no dot segments, no control characters, and written unencoded"
	badCubbyhole = "each token has a cubbyhole of its own, and leasekeeper logs in again for each credential, " +
		"so it is always empty: use a KV engine"
	needsWrite = "parametersFrom and privateKey need method: Write"
	badKeySize = "size does not suit the algorithm: RSA has 2048, 3072 or 4096 bits, ECDSA 256, 384 or 521; " +
		"omit it for Ed25519"
	sourceKeys = "two sources produce the same key, which is the prefix and a field that is included and not " +
		"excluded: set different prefixes"

	badSchedule = "schedule has five fields (minute, hour, day of month, month, day of week), or is one of @hourly, " +
		"@daily, @weekly, @monthly and @yearly"
	badZone = "name a time zone of the IANA database, such as Europe/Vienna"

	anotherProvider = ": create another provider and point the DynamicSecrets to it"
	fixedAddress    = "address is immutable, because leases live there" + anotherProvider
	fixedNamespace  = "namespace is immutable, because leases live there" + anotherProvider
	fixedAuth       = "the method and mount of auth are immutable, because leases are recognised by them" +
		anotherProvider
)

// severalSources is the spec of an object with two sources. The value replaces the second source.
func severalSources(second string) string {
	return "{providerRef: {name: vault}, sources: [{name: db, vault: {path: database/creds/orders}}, " + second + "]}"
}

// sourceWithPath is severalSources with this path in the second source.
func sourceWithPath(path string) string {
	return severalSources("{name: kv, vault: {path: '" + path + "'}}")
}

// sourcesWithFields has two sources with these field selections.
func sourcesWithFields(one, two string) string {
	return "{providerRef: {name: vault}, sources: [{name: a, vault: {path: secret/data/a}, fields: " + one +
		"}, {name: b, vault: {path: secret/data/b}, fields: " + two + "}]}"
}

// signing is a request with this privateKey and what follows it.
func signing(privateKey string) string { return "{path: pki/sign/web, privateKey: " + privateKey + "}" }

const keeperOrKeeperless = "set keeperAuth or keeperless, not both: " +
	"keeperless accepts that leasekeeper has no identity that can revoke leases"

var rejections = []rejection{
	{dynamic, "spec.vault", "", oneForm},
	{dynamic, "spec.sources", "[{name: db, vault: {path: database/creds/orders}}]", oneForm},
	{dynamic, "spec.providerRef", "", noProvider},
	{dynamic, "spec.providerRef.name", `""`, "spec.providerRef.name"},
	{dynamic, "spec.providerRef.kind", "Provider", `supported values: "SecretProvider", "ClusterSecretProvider"`},

	{dynamic, "spec", "{sources: [{name: db, vault: {path: database/creds/orders}}]}", noProvider},
	{dynamic, "spec", "{providerRef: {name: vault}, sources: []}", "at least 1 items"},
	{dynamic, "spec", "{providerRef: {name: vault}, sources: [{name: db}]}", sourceBackend},
	{dynamic, "spec", severalSources("{name: kv}"), sourceBackend},
	{dynamic, "spec", severalSources("{vault: {path: secret/data/a}}"), "Required value"},
	{dynamic, "spec", severalSources("{name: db, vault: {path: secret/data/a}}"), "Duplicate value"},
	{dynamic, "spec", severalSources("{name: KV, vault: {path: secret/data/a}}"), "should match"},
	{dynamic, "spec", sourceWithPath("/secret/data/a"), sourcePath},
	{dynamic, "spec", sourceWithPath("secret/data/a/"), sourcePath},
	{dynamic, "spec", sourceWithPath("secret//a"), sourcePath},
	{dynamic, "spec", sourceWithPath("v1/secret/data/a"), sourcePath},
	{dynamic, "spec", sourceWithPath("sys/mounts"), sourcePath},
	{dynamic, "spec", sourceWithPath("auth/token/create"), sourcePath},
	{dynamic, "spec", sourceWithPath("secret/../sys/mounts"), sourcePath},
	{dynamic, "spec", sourceWithPath("secret/data/my%20a"), sourcePath},
	{
		dynamic, "spec", `{providerRef: {name: vault}, sources: [{name: kv, vault: {path: "secret/a\tb"}}]}`,
		sourcePath,
	},
	{dynamic, "spec", sourceWithPath("ab"), "at least 3 chars"},
	{dynamic, "spec", severalSources("{name: kv, vault: {path: secret/data/a, namespace: /team}}"), badSlash},
	{dynamic, "spec", sourcesWithFields("{include: [user, password]}", "{include: [password]}"), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [x], prefix: A_}", "{include: [x], prefix: A_}"), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [x]}", `{include: [x], prefix: ""}`), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [DB_user]}", "{include: [user], prefix: DB_}"), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [B_x], prefix: A_}", "{include: [x], prefix: A_B_}"), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [x, z], exclude: [z]}", "{include: [x]}"), sourceKeys},
	{dynamic, "spec", sourcesWithFields("{include: [x], prefix: A/}", "{}"), "should match"},
	{dynamic, "spec", sourcesWithFields(`{include: [""]}`, "{}"), "at least 1 chars"},
	{dynamic, "spec", sourcesWithFields("{exclude: [x, x]}", "{}"), "Duplicate value"},
	{dynamic, "spec.target.fields", "{prefix: DB/}", "should match"},
	{dynamic, "spec.target.fields", "{include: [x, x]}", "Duplicate value"},

	{dynamic, "spec.rotation", "{maxAge: 500ms}", badMaxAge},
	{dynamic, "spec.rotation", "{overlap: -1s}", badOverlap},
	{dynamic, "spec.rotation", "{settle: -1s}", badSettle},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * *', duration: 1h}]}", badSchedule},
	{dynamic, "spec.rotation", "{windows: [{schedule: '@often', duration: 1h}]}", badSchedule},
	{
		dynamic, "spec.rotation", "{windows: [{schedule: 'CRON_TZ=UTC 0 2 * * *', duration: 1h}]}",
		"name the time zone in timeZone, not in schedule",
	},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *', duration: 1h, timeZone: Local}]}", badZone},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *', duration: 10s}]}", "duration must be at least 1m"},
	{dynamic, "spec.rotation", "{windows: [{schedule: '0 2 * * *'}]}", "Required value"},
	{dynamic, "spec.rollout", "{}", noTargets},
	{dynamic, "spec.rollout", "{targets: [], discover: false}", noTargets},
	{dynamic, "spec.rollout", "{targets: [{kind: Deployment}]}", nameOrSelector},
	{dynamic, "spec.rollout", "{targets: [{name: orders, selector: {matchLabels: {app: orders}}}]}", nameOrSelector},
	{
		dynamic, "spec.rollout", "{targets: [{kind: Job, name: orders}]}",
		`supported values: "Deployment", "StatefulSet", "DaemonSet", "Rollout"`,
	},
	{dynamic, "spec.vault.path", "/database/creds/orders", badPath},
	{dynamic, "spec.vault.path", "database/creds/orders/", badPath},
	{dynamic, "spec.vault.path", "database//orders", badPath},
	{dynamic, "spec.vault.path", "ab", "at least 3 chars"},
	{dynamic, "spec.vault.path", "v1/database/creds/orders", badVersion},
	{dynamic, "spec.vault.path", "sys/mounts", badEngine},
	{dynamic, "spec.vault.path", "auth/token/create", badEngine},
	{dynamic, "spec.vault.path", "cubbyhole/orders", badCubbyhole},
	{dynamic, "spec", sourceWithPath("cubbyhole/orders"), badCubbyhole},
	{dynamic, "spec.vault", signing("{}, method: Read"), needsWrite},
	{dynamic, "spec.vault", "{path: a/b/c, parametersFrom: [{name: a, secretKeyRef: {name: b, key: c}}]}", needsWrite},
	{dynamic, "spec", severalSources("{name: web, vault: {path: a/b/c, privateKey: {}}}"), needsWrite},
	{dynamic, "spec.vault", signing("{size: 2048}, method: Write"), badKeySize},
	{dynamic, "spec.vault", signing("{algorithm: RSA, size: 256}, method: Write"), badKeySize},
	{dynamic, "spec.vault", signing("{algorithm: Ed25519, size: 256}, method: Write"), badKeySize},
	{dynamic, "spec", severalSources("{name: web, vault: " + signing("{size: 4096}, method: Write") + "}"), badKeySize},
	{dynamic, "spec.vault", signing("{size: 1024}, method: Write"), "supported values"},
	{
		dynamic, "spec.vault", signing("{algorithm: DSA}, method: Write"),
		`supported values: "ECDSA", "RSA", "Ed25519"`,
	},
	{
		dynamic, "spec.vault", "{path: a/b/c, method: Write, parametersFrom: " +
			"[{name: a, secretKeyRef: {name: b, key: c}}, {name: a, secretKeyRef: {name: b, key: d}}]}",
		"Duplicate value",
	},
	{dynamic, "spec.vault.path", "database/../sys/mounts", badChar},
	{dynamic, "spec.vault.path", "database/./orders", badChar},
	{dynamic, "spec.vault.path", "database/creds/or%2e%2e", badChar},
	{dynamic, "spec.vault.path", `"database/creds/my\torders"`, badChar},
	{dynamic, "spec.vault.path", `"database/creds/my\u200border"`, badChar},
	{dynamic, "spec.vault.method", "List", `supported values: "Read", "Write"`},
	{dynamic, "spec.vault.namespace", "/team", badSlash},
	{dynamic, "spec.vault.namespace", "team/", badSlash},
	{dynamic, "spec.refreshInterval", "500ms", badInterval},
	{dynamic, "spec.refreshInterval", "soon", badInterval},
	{dynamic, "spec.refreshInterval", "-1h", badInterval},
	{dynamic, "spec.lease.increment", "0s", badIncrement},
	{dynamic, "spec.lease.increment", "-1h", badIncrement},
	{dynamic, "spec.lease.renewAtPercent", "9", "greater than or equal to 10"},
	{dynamic, "spec.lease.renewAtPercent", "91", "less than or equal to 90"},
	{dynamic, "spec.lease.onExpiry", "Keep", `supported values: "Delete", "Retain"`},
	{dynamic, "spec.lease.reissue", "Once", `supported values: "Always", "Never"`},
	{dynamic, "spec.lease.onDelete", "Keep", `supported values: "Revoke", "Abandon"`},
	{dynamic, "spec.lease.revocationDeadline", "-1s", badDeadline},
	{dynamic, "spec.target.name", "Orders", badName},
	{dynamic, "spec.target.name", "orders_db", badName},
	{dynamic, "spec.target.name", "-orders", badName},
	{dynamic, "spec.target.type", "kubernetes.io/service-account-token", ownRights},
	{dynamic, "spec.target.type", "bootstrap.kubernetes.io/token", ownRights},
	{dynamic, "spec.target.labels", "{leasekeeper.io/dynamic-secret: other}", ownLabels},
	{dynamic, "spec.target.annotations", "{leasekeeper.io/digest-salt: mine}", ownAnnotations},
	{dynamic, "spec.serviceAccountName", strings.Repeat("a", 254), "may not be more than 253"},

	{cluster, "spec.vault", "", nameBackend},
	{namespaced, "spec.vault", "", nameBackend},
	{cluster, "spec.vault.address", "vault.example:8200", badAddress},
	{cluster, "spec.vault.address", "ftp://vault.example", badAddress},
	{cluster, "spec.vault.address", "https://vault.example/v1", badAddress},
	{cluster, "spec.vault.address", "https://gateway.example/vault/v1/", badAddress},
	{cluster, "spec.vault.address", "https://gateway.example/vault/../other", badAddress},
	{cluster, "spec.vault.address", "https://gateway.example//vault", badAddress},
	{cluster, "spec.vault.address", "'https://vault.example#x'", badAddress},
	{cluster, "spec.vault.address", "https://root@vault.example", badAddress},
	{cluster, "spec.vault.proxyURL", "proxy.example:3128", badProxy},
	{cluster, "spec.vault.proxyURL", "http://user:secret@proxy.example:3128", badProxy},
	{cluster, "spec.vault.proxyURL", "ftp://proxy.example", badProxy},
	{cluster, "spec.vault.headers", "[{name: X-Gateway}]", oneValue},
	{cluster, "spec.vault.headers", "[{name: X-A, value: x, secretRef: {name: s, namespace: other}}]", oneValue},
	{cluster, "spec.vault.headers", "[{name: x-Vault-Token, value: x}]", ownHeader},
	{cluster, "spec.vault.headers", "[{name: Host, value: x}]", ownHeader},
	{cluster, "spec.vault.headers", "[{name: 'X Gateway', value: x}]", "should match"},
	{cluster, "spec.vault.headers", `[{name: X-Gateway, value: "a\nb"}]`, "should match"},
	{cluster, "spec.vault.headers", "[{name: X-A, value: a}, {name: X-A, value: b}]", "Duplicate value"},
	{
		cluster, "spec.vault.headers", "[{name: X-A, secretRef: {name: s}}]",
		"set namespace in the secretRef of headers: a ClusterSecretProvider has none of its own",
	},
	{
		namespaced, "spec.vault.headers", "[{name: X-A, secretRef: {name: s, namespace: other}}]",
		"a SecretProvider uses its own namespace: omit namespace in the secretRef of headers",
	},
	{cluster, "spec.vault.address", "https://vault.example?x=y", badAddress},
	{cluster, "spec.allowedNamespaces", "{}", "at least 1 properties"},
	{cluster, "spec.allowedNamespaces", "{names: []}", "at least 1 items"},
	{cluster, "spec.allowedNamespaces", "{names: [Shop]}", "should match"},
	{cluster, "spec.allowedNamespaces", "{names: ['*']}", "should match"},
	{cluster, "spec.allowedNamespaces", "{names: [shop, shop]}", "Duplicate value"},
	{cluster, "spec.vault.redirectHosts", "['https://vault-1.example']", "should match"},
	{cluster, "spec.vault.redirectHosts", "['vault-1.example:8200']", "should match"},
	{cluster, "spec.vault.redirectHosts", "['*']", "should match"},
	{cluster, "spec.vault.redirectHosts", "[vault-1, vault-1]", "Duplicate value"},
	{cluster, "spec.vault.namespace", "/team", badSlash},
	{
		cluster, "spec.vault.tls", "{caBundle: bm90aGluZw==, caRef: {name: ca, namespace: default}}",
		"set caBundle or caRef, not both",
	},
	{cluster, "spec.vault.tls", "{caBundle: 'vault.example:8200'}", badBundle},
	{cluster, "spec.vault.tls", "{caBundle: '-----BEGIN PUBLIC KEY-----'}", badBundle},
	{
		cluster, "spec.vault.tls", "{caRef: {kind: Pod, name: ca, namespace: default}}",
		`supported values: "Secret", "ConfigMap"`,
	},

	{
		cluster, "spec.vault.keeperAuth", "",
		"a ClusterSecretProvider needs vault.keeperAuth: " +
			"the identity that renews and revokes leases when a namespace is gone",
	},
	{cluster, "spec.vault.keeperless", "true", keeperOrKeeperless},
	{cluster, "spec.vault.tls", "{caRef: {name: ca}}", clusterTLS},
	{cluster, "spec.vault.tls", "{clientCertRef: {name: cert}}", clusterTLS},

	{namespaced, "spec.vault.keeperless", "true", keeperOrKeeperless},
	{namespaced, "spec.vault.tls", "{caRef: {name: ca, namespace: other}}", ownTLS},
	{namespaced, "spec.vault.tls", "{clientCertRef: {name: cert, namespace: other}}", ownTLS},
}

func TestInvalidManifestIsRejectedWithAHint(t *testing.T) {
	t.Parallel()
	for kind := range manifests {
		if err := shared.Kube.Create(t.Context(), manifest(t, kind, "good"), client.DryRunAll); err != nil {
			t.Fatalf("%s without a mistake: %v", kind, err)
		}
	}
	fields := ruleFields(t)
	for _, c := range slices.Concat(rejections, authRejections, revocationRejections) {
		t.Run(c.kind+" "+c.path+" "+c.value[:min(len(c.value), 40)], func(t *testing.T) {
			o := manifest(t, c.kind, "bad")
			set(t, o, c.path, c.value)
			err := shared.Kube.Create(t.Context(), o, client.DryRunAll)
			rejected(t, err, c.message)
			named := func(field string) bool { return strings.Contains(err.Error(), field+": ") }
			if paths := fields[c.kind][c.message]; err != nil && len(paths) > 0 && !slices.ContainsFunc(paths, named) {
				t.Errorf("the error does not name one of the fields %v: %v", paths, err)
			}
		})
	}
}

func TestCABundleIsPEMOrBase64(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString(shared.Plane.CA)
	for name, bundle := range map[string]string{
		"PEM": string(shared.Plane.CA), "base64": encoded, "base64 in lines": encoded[:76] + "\n" + encoded[76:] + "\n",
	} {
		o := manifest(t, cluster, "bundle")
		if err := unstructured.SetNestedField(o.Object, bundle, "spec", "vault", "tls", "caBundle"); err != nil {
			t.Fatal(err)
		}
		if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ruleFields lists the fields that the rule with a message names, by kind and message.
func ruleFields(t *testing.T) map[string]map[string][]string {
	t.Helper()
	fields := map[string]map[string][]string{}
	for kind, schema := range schemas(t) {
		fields[kind] = map[string][]string{}
		walk("", schema, func(path string, s apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				if rule.FieldPath != "" {
					field := strings.TrimPrefix(path+rule.FieldPath, ".")
					fields[kind][rule.Message] = append(fields[kind][rule.Message], field)
				}
			}
		})
	}
	return fields
}

func TestValidSourcesAreAccepted(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		severalSources("{name: kv, vault: {path: secret/data/a}}"),
		severalSources("{name: kv, providerRef: {kind: ClusterSecretProvider, name: other}, " +
			"vault: {path: secret/data/a}}"),
		"{sources: [{name: db, providerRef: {name: vault}, vault: {path: database/creds/orders}}]}",
		sourcesWithFields("{include: [x], prefix: A_}", "{include: [x], prefix: B_}"),
		sourcesWithFields("{include: [x], prefix: A_}", "{include: [x]}"),
		sourcesWithFields("{include: [x]}", "{include: [z]}"),
		sourcesWithFields("{include: [x, z], exclude: [x]}", "{include: [x]}"),
		sourcesWithFields("{include: [x]}", "{include: [x, z], exclude: [x]}"),
		sourcesWithFields("{include: [DB_user], prefix: A_}", "{include: [user], prefix: DB_}"),
		sourcesWithFields("{}", "{}"),
		sourceWithPath("secret/data/my orders/a?b#c & 50% (ü)"),
	} {
		o := manifest(t, dynamic, "several")
		set(t, o, "spec", spec)
		if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func rejected(t *testing.T, err error, message string) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("the API server accepted it")
	case !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err), !strings.Contains(err.Error(), message):
		t.Errorf("the API server returned: %v\nwant in it: %s", err, message)
	}
}

// immutables are changes of an existing object.
var immutables = []rejection{
	{cluster, "spec.vault.address", "https://other.example:8200", fixedAddress},
	{cluster, "spec.vault.namespace", "team-a", fixedNamespace},
	{namespaced, "spec.vault.address", "https://other.example:8200", fixedAddress},
}

func TestFieldsThatIdentifyLeasesAreImmutable(t *testing.T) {
	t.Parallel()
	for i, c := range slices.Concat(immutables, authImmutables) {
		t.Run(c.kind+" "+c.path, func(t *testing.T) {
			o := manifest(t, c.kind, fmt.Sprintf("immutable-%d", i))
			if err := shared.Kube.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = shared.Kube.Delete(context.Background(), o) })
			rejected(t, patchField(t, o, c.path, c.value), c.message)
			if err := patchField(t, o, "spec.vault.auth.kubernetes.role", "another"); err != nil {
				t.Errorf("another role: %v", err)
			}
		})
	}
}

// patchField sends a patch that sets a field, by its dotted path, to a value in YAML.
func patchField(t *testing.T, o *unstructured.Unstructured, path, value string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(value), &v); err != nil {
		t.Fatal(err)
	}
	pointer := "/" + strings.ReplaceAll(path, ".", "/")
	raw, err := json.Marshal([]map[string]any{{"op": "add", "path": pointer, "value": v}})
	if err != nil {
		t.Fatal(err)
	}
	return shared.Kube.Patch(t.Context(), o.DeepCopy(), client.RawPatch(types.JSONPatchType, raw))
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

// schemas are the schemas of the installed CRDs, by kind.
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

func TestEveryValidationRuleHasARejection(t *testing.T) {
	t.Parallel()
	all := slices.Concat(
		rejections, authRejections, immutables, authImmutables, revocationRejections, revocationImmutables)
	for kind, schema := range schemas(t) {
		walk(kind, schema, func(path string, s apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				tested := slices.ContainsFunc(all, func(c rejection) bool { return c.message == rule.Message })
				if rule.Message == "" || !tested {
					t.Errorf("%s: no rejection tests %q", path, rule.Message)
				}
			}
		})
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	t.Parallel()
	for kind, schema := range schemas(t) {
		fields := 0
		walk(kind, schema, func(path string, s apiextensionsv1.JSONSchemaProps) {
			fields++
			element := strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "{}")
			if s.Description == "" && !element && path != kind+".metadata" {
				t.Errorf("%s has no description", path)
			}
		})
		if fields < 30 {
			t.Errorf("%s has only %d fields: some were missed", kind, fields)
		}
	}
	// kubectl explain uses a cache of the server's kinds, which get refreshes.
	if _, err := shared.Plane.Kubectl(t.Context(), "get", "dsec", "--all-namespaces"); err != nil {
		t.Fatal(err)
	}
	text, err := shared.Plane.Kubectl(t.Context(), "explain", "dsec.spec.lease.renewAtPercent")
	const description = "share of the granted duration after which a lease is renewed"
	if err != nil || !strings.Contains(strings.Join(strings.Fields(text), " "), description) {
		t.Errorf("kubectl explain: %v\n%s", err, text)
	}
}

func TestPrinterColumns(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
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
	if head != "NAME PROVIDER READY STATUS EXPIRES NEXT AT AGE LEASE MESSAGE" {
		t.Errorf("columns: %s", head)
	}
	for _, want := range []string{"orders", r.name, "True", "Leased", "Renew", leaseID(d), "Secret orders contains"} {
		if !strings.Contains(row, want) {
			t.Errorf("no %q in %q", want, row)
		}
	}
	if n := len(regexp.MustCompile(`\d{4}-\d\d-\d\dT`).FindAllString(row, -1)); n != 2 {
		t.Errorf("%d times in %q, want the expiry and the renewal", n, row)
	}
	head, row = wide("get", "clustersecretprovider", r.name)
	if head != "NAME READY STATUS SERVER VERSION AGE ADDRESS MESSAGE" {
		t.Errorf("columns: %s", head)
	}
	for _, want := range []string{"True", "Reachable", r.Vault.Kind(), r.Vault.Version, r.Vault.Address} {
		if !strings.Contains(row, want) {
			t.Errorf("no %q in %q", want, row)
		}
	}
	narrow, err := r.Plane.Kubectl(t.Context(), "get", "dynamicsecrets", "-n", r.name)
	if r.must(err); strings.Contains(narrow, leaseID(d)) {
		t.Errorf("the narrow output contains the lease:\n%s", narrow)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	o := manifest(t, dynamic, "defaults")
	set(t, o, "spec.providerRef.kind", "")
	set(t, o, "spec.rollout", "{targets: [{name: orders}]}")
	if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"spec.refreshInterval": "1h0m0s", "spec.rotation.overlap": "2m0s", "spec.target.type": "Opaque",
		"spec.lease.renewAtPercent": int64(67), "spec.lease.onExpiry": "Delete", "spec.lease.reissue": "Always",
		"spec.lease.onDelete": "Revoke", "spec.lease.revocationDeadline": "1h0m0s",
	} {
		got, _, err := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...)
		if err != nil || got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	// GitOps tools report a default in a list or a reference as drift.
	for _, path := range []string{"spec.providerRef.kind", "spec.vault.method"} {
		if got, found, _ := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...); found {
			t.Errorf("%s has the default %v", path, got)
		}
	}
	targets, _, err := unstructured.NestedSlice(o.Object, "spec", "rollout", "targets")
	if want := []any{map[string]any{"name": "orders"}}; err != nil || !equality.Semantic.DeepEqual(targets, want) {
		t.Errorf("spec.rollout.targets is %v, want %v", targets, want)
	}
	p := manifest(t, cluster, "defaults")
	set(t, p, "spec.vault.auth.kubernetes.mount", "")
	set(t, p, "spec.vault.tls", "{caRef: {name: ca, namespace: default}}")
	if err := shared.Kube.Create(t.Context(), p, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"spec.vault.auth.kubernetes.mount": "kubernetes",
		"spec.vault.tls.caRef.kind":        "Secret", "spec.vault.tls.caRef.key": "ca.crt",
	} {
		if got, _, err := unstructured.NestedString(p.Object, strings.Split(path, ".")...); err != nil || got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}
