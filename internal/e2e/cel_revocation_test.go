//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	noRevocation = "name a backend: set vault"
	oneTarget    = "set exactly one of leaseID and prefix"
	confirmWrong = "confirm must repeat prefix or leaseID exactly"
	confirmMount = "a prefix of one segment selects every lease of a mount: if you mean that, " +
		"set confirm to the same text"
	confirmForce = "force makes Vault forget leases that it cannot revoke: if you mean that, " +
		"set confirm to prefix or leaseID"
	emptyPrefix = "an empty prefix selects every lease and every login of the server: name a path"
	badPrefix   = "prefix is like database/creds/: no leading or double slash, no dot segments; " +
		"letters, digits and _.@:~+=,- are allowed"
	noLogins    = "prefix must belong to a secrets engine, without v1/: revoking auth/ would end every login"
	badLeaseID  = "leaseID is a whole id, as in status.leases: database/creds/orders/2f6a"
	noLoginID   = "leaseID must belong to a secrets engine, without v1/: ids below auth/ are logins"
	badVaultNS  = "namespace is like team-a/shop: no leading, trailing or double slash, no dot segments"
	isImmutable = "a LeaseRevocation cannot be changed; create another"
)

// revocationRejections change the spec as a whole if more than one field is wrong.
var revocationRejections = []rejection{
	{revoking, "spec.vault", "", noRevocation},
	{revoking, "spec.vault.prefix", "", oneTarget},
	{revoking, "spec.vault.leaseID", "database/creds/orders/2f6a", oneTarget},
	{revoking, "spec.providerRef", "", "Required value"},
	{revoking, "spec.providerRef", "{kind: SecretProvider, name: vault}", "set namespace: a SecretProvider has one"},
	{revoking, "spec.providerRef", "{name: vault, namespace: shop}",
		"omit namespace: a ClusterSecretProvider has none"},
	{revoking, "spec.providerRef.kind", "Provider", `supported values: "SecretProvider", "ClusterSecretProvider"`},
	{revoking, "spec.providerRef.name", `""`, "spec.providerRef.name"},

	{revoking, "spec.vault.prefix", `""`, emptyPrefix},
	{revoking, "spec", `{providerRef: {name: vault}, vault: {prefix: ""}, confirm: ""}`, emptyPrefix},
	{revoking, "spec.vault.prefix", "database", confirmMount},
	{revoking, "spec.vault.prefix", "database/", confirmMount},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {prefix: database/}, confirm: database}", confirmWrong},
	{revoking, "spec", `{providerRef: {name: vault}, vault: {prefix: database/}, confirm: ""}`, confirmWrong},
	{revoking, "spec.confirm", "database/", confirmWrong},
	{revoking, "spec.vault.force", "true", confirmForce},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: database/creds/orders/2f6a, force: true}}",
		confirmForce},
	{revoking, "spec",
		"{providerRef: {name: vault}, vault: {leaseID: database/creds/orders/2f6a, force: true}, " +
			"confirm: database/creds/orders}", confirmWrong},

	{revoking, "spec.vault.prefix", "auth", noLogins},
	{revoking, "spec.vault.prefix", "auth/", noLogins},
	{revoking, "spec.vault.prefix", "AUTH/", noLogins},
	{revoking, "spec.vault.prefix", "auth/kubernetes/login/", noLogins},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {prefix: auth/}, confirm: auth/}", noLogins},
	{revoking, "spec",
		"{providerRef: {name: vault}, vault: {prefix: auth/kubernetes/, force: true}, confirm: auth/kubernetes/}",
		noLogins},
	{revoking, "spec.vault.prefix", "sys/", noLogins},
	{revoking, "spec.vault.prefix", "v1/database/creds/", noLogins},
	{revoking, "spec.vault.prefix", "/auth/kubernetes", badPrefix},
	{revoking, "spec.vault.prefix", "/", badPrefix},
	{revoking, "spec.vault.prefix", "//auth/kubernetes", badPrefix},
	{revoking, "spec.vault.prefix", "./auth/kubernetes", badPrefix},
	{revoking, "spec.vault.prefix", "database/../auth/", badPrefix},
	{revoking, "spec.vault.prefix", "database/..", badPrefix},
	{revoking, "spec.vault.prefix", "database//creds", badPrefix},
	{revoking, "spec.vault.prefix", "database/creds//", badPrefix},
	{revoking, "spec.vault.prefix", `"%61uth/kubernetes"`, badPrefix},
	{revoking, "spec.vault.prefix", "database/creds/*", badPrefix},
	{revoking, "spec.vault.prefix", "database/creds/ orders", badPrefix},
	{revoking, "spec.vault.prefix", `"auth\n/kubernetes"`, badPrefix},
	{revoking, "spec.vault.prefix", `"a\nuth/kubernetes"`, badPrefix},
	{revoking, "spec.vault.prefix", "a/" + strings.Repeat("a", 512), "may not be more than 512"},

	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: auth/kubernetes/login/h2f6a}}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: Auth/token/create/h2f6a}}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: sys/x}}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: 2f6a}}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: database/creds/orders/}}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: /auth/token/create/h2f6a}}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, vault: {leaseID: database/../auth/token/create/h2f6a}}",
		badLeaseID},

	{revoking, "spec.vault.namespace", "/team-a", badVaultNS},
	{revoking, "spec.vault.namespace", "team-a/../root", badVaultNS},
	{revoking, "spec.reason", strings.Repeat("a", 1025), "may not be more than 1024"},
	{revoking, "spec.ttlSecondsAfterFinished", "-1", "greater than or equal to 0"},
}

var revocationImmutables = []rejection{
	{revoking, "spec.vault.prefix", "database/creds/orders", isImmutable},
	{revoking, "spec.reason", "another", isImmutable},
	{revoking, "spec.vault.force", "true", isImmutable},
	{revoking, "spec.ttlSecondsAfterFinished", "1", isImmutable},
	{revoking, "spec.providerRef.name", "another", isImmutable},
}

func TestConfirmedRevocationsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"{providerRef: {name: vault}, vault: {prefix: database/creds/}}",
		"{providerRef: {name: vault}, vault: {prefix: database/creds}}",
		"{providerRef: {name: vault}, vault: {prefix: database/creds/orders}, confirm: database/creds/orders}",
		"{providerRef: {name: vault}, vault: {prefix: database}, confirm: database}",
		"{providerRef: {name: vault}, vault: {prefix: database/, force: true}, confirm: database/}",
		"{providerRef: {name: vault}, vault: {prefix: authors/creds/}}",
		"{providerRef: {name: vault}, vault: {prefix: teams/auth/creds/}}",
		"{providerRef: {name: vault}, vault: {leaseID: database/creds/orders/2f6a}}",
		"{providerRef: {name: vault}, vault: {leaseID: database/creds/orders/2f6a.ns1, force: true}, " +
			"confirm: database/creds/orders/2f6a.ns1}",
		"{providerRef: {kind: SecretProvider, name: vault, namespace: shop}, " +
			"vault: {prefix: database/creds/, namespace: team-a/shop}, reason: because, ttlSecondsAfterFinished: 0}",
	} {
		o := manifest(t, revoking, "confirmed")
		set(t, o, "spec", spec)
		if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if kind, _, _ := unstructured.NestedString(o.Object, "spec", "providerRef", "kind"); kind == "" {
			t.Errorf("%s: providerRef.kind has no default", spec)
		}
	}
}

func TestRevocationCannotBeChanged(t *testing.T) {
	t.Parallel()
	o := manifest(t, revoking, "unchanged")
	set(t, o, "spec.providerRef.name", "does-not-exist")
	if err := shared.Kube.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shared.Kube.Delete(context.Background(), o) })
	for _, c := range revocationImmutables {
		var v any
		if err := yaml.Unmarshal([]byte(c.value), &v); err != nil {
			t.Fatal(err)
		}
		path := "/" + strings.ReplaceAll(c.path, ".", "/")
		raw, _ := json.Marshal([]map[string]any{{"op": "add", "path": path, "value": v}})
		patch := client.RawPatch("application/json-patch+json", raw)
		rejected(t, shared.Kube.Patch(t.Context(), o.DeepCopy(), patch), c.message)
	}
	labelled := o.DeepCopy()
	raw := []byte(`{"metadata":{"labels":{"incident":"4711"}}}`)
	patch := client.RawPatch("application/merge-patch+json", raw)
	if err := shared.Kube.Patch(t.Context(), labelled, patch); err != nil {
		t.Errorf("a label: %v", err)
	}
}
