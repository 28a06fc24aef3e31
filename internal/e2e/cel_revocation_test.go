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
	oneTarget    = "set exactly one of leaseID and prefix"
	confirmWrong = "confirm must repeat the prefix, or the leaseID, letter by letter"
	confirmMount = "prefix is one segment, which is all that a mount has leased: to mean it, set confirm to the same text"
	confirmForce = "force makes Vault forget what it cannot revoke: to mean it, set confirm to the prefix, or the leaseID"
	emptyPrefix  = "an empty prefix is every lease and every login of the server: name a path"
	badPrefix    = "prefix is like database/creds/: no leading or double slash, no dot segments; letters, digits and _.@:~+=,- are allowed"
	noLogins     = "prefix must be that of a secrets engine, without v1/: to revoke auth/ would end every login"
	badLeaseID   = "leaseID is a whole id, as status.lease.id has it: database/creds/orders/2f6a"
	noLoginID    = "leaseID must be that of a secrets engine, without v1/: what is below auth/ are logins"
	badVaultNS   = "vaultNamespace is like team-a/shop: no leading, trailing or double slash"
	isImmutable  = "a LeaseRevocation cannot be changed; make another"
)

// revocationRejections change spec as a whole where more than one field is at fault.
var revocationRejections = []rejection{
	{revoking, "spec.prefix", "", oneTarget},
	{revoking, "spec.leaseID", "database/creds/orders/2f6a", oneTarget},
	{revoking, "spec.providerRef", "", "Required value"},
	{revoking, "spec.providerRef", "{kind: SecretProvider, name: vault}", "set namespace: a SecretProvider has one"},
	{revoking, "spec.providerRef", "{name: vault, namespace: shop}", "leave namespace out: a ClusterSecretProvider has none"},
	{revoking, "spec.providerRef.kind", "Provider", `supported values: "SecretProvider", "ClusterSecretProvider"`},
	{revoking, "spec.providerRef.name", `""`, "spec.providerRef.name"},

	{revoking, "spec.prefix", `""`, emptyPrefix},
	{revoking, "spec", `{providerRef: {name: vault}, prefix: "", confirm: ""}`, emptyPrefix},
	{revoking, "spec.prefix", "database", confirmMount},
	{revoking, "spec.prefix", "database/", confirmMount},
	{revoking, "spec", "{providerRef: {name: vault}, prefix: database/, confirm: database}", confirmWrong},
	{revoking, "spec", `{providerRef: {name: vault}, prefix: database/, confirm: ""}`, confirmWrong},
	{revoking, "spec.confirm", "database/", confirmWrong},
	{revoking, "spec.force", "true", confirmForce},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: database/creds/orders/2f6a, force: true}", confirmForce},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: database/creds/orders/2f6a, force: true, confirm: database/creds/orders}", confirmWrong},

	{revoking, "spec.prefix", "auth", noLogins},
	{revoking, "spec.prefix", "auth/", noLogins},
	{revoking, "spec.prefix", "AUTH/", noLogins},
	{revoking, "spec.prefix", "auth/kubernetes/login/", noLogins},
	{revoking, "spec", "{providerRef: {name: vault}, prefix: auth/, confirm: auth/}", noLogins},
	{revoking, "spec", "{providerRef: {name: vault}, prefix: auth/kubernetes/, force: true, confirm: auth/kubernetes/}", noLogins},
	{revoking, "spec.prefix", "sys/", noLogins},
	{revoking, "spec.prefix", "v1/database/creds/", noLogins},
	{revoking, "spec.prefix", "/auth/kubernetes", badPrefix},
	{revoking, "spec.prefix", "/", badPrefix},
	{revoking, "spec.prefix", "//auth/kubernetes", badPrefix},
	{revoking, "spec.prefix", "./auth/kubernetes", badPrefix},
	{revoking, "spec.prefix", "database/../auth/", badPrefix},
	{revoking, "spec.prefix", "database/..", badPrefix},
	{revoking, "spec.prefix", "database//creds", badPrefix},
	{revoking, "spec.prefix", "database/creds//", badPrefix},
	{revoking, "spec.prefix", `"%61uth/kubernetes"`, badPrefix},
	{revoking, "spec.prefix", "database/creds/*", badPrefix},
	{revoking, "spec.prefix", "database/creds/ orders", badPrefix},
	{revoking, "spec.prefix", `"auth\n/kubernetes"`, badPrefix},
	{revoking, "spec.prefix", `"a\nuth/kubernetes"`, badPrefix},
	{revoking, "spec.prefix", "a/" + strings.Repeat("a", 512), "may not be more than 512"},

	{revoking, "spec", "{providerRef: {name: vault}, leaseID: auth/kubernetes/login/h2f6a}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: Auth/token/create/h2f6a}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: sys/x}", noLoginID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: 2f6a}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: database/creds/orders/}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: /auth/token/create/h2f6a}", badLeaseID},
	{revoking, "spec", "{providerRef: {name: vault}, leaseID: database/../auth/token/create/h2f6a}", badLeaseID},

	{revoking, "spec.vaultNamespace", "/team-a", badVaultNS},
	{revoking, "spec.vaultNamespace", "team-a/../root", badVaultNS},
	{revoking, "spec.reason", strings.Repeat("a", 1025), "may not be more than 1024"},
	{revoking, "spec.ttlSecondsAfterFinished", "-1", "greater than or equal to 0"},
}

var revocationImmutables = []rejection{
	{revoking, "spec.prefix", "database/creds/orders", isImmutable},
	{revoking, "spec.reason", "another", isImmutable},
	{revoking, "spec.force", "true", isImmutable},
	{revoking, "spec.ttlSecondsAfterFinished", "1", isImmutable},
	{revoking, "spec.providerRef.name", "another", isImmutable},
}

func TestOrdersThatAreMeantAreTaken(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"{providerRef: {name: vault}, prefix: database/creds/}",
		"{providerRef: {name: vault}, prefix: database/creds}",
		"{providerRef: {name: vault}, prefix: database/creds/orders, confirm: database/creds/orders}",
		"{providerRef: {name: vault}, prefix: database, confirm: database}",
		"{providerRef: {name: vault}, prefix: database/, confirm: database/, force: true}",
		"{providerRef: {name: vault}, prefix: authors/creds/}",
		"{providerRef: {name: vault}, prefix: teams/auth/creds/}",
		"{providerRef: {name: vault}, leaseID: database/creds/orders/2f6a}",
		"{providerRef: {name: vault}, leaseID: database/creds/orders/2f6a.ns1, force: true, confirm: database/creds/orders/2f6a.ns1}",
		"{providerRef: {kind: SecretProvider, name: vault, namespace: shop}, prefix: database/creds/, vaultNamespace: team-a/shop, reason: because, ttlSecondsAfterFinished: 0}",
	} {
		o := manifest(t, revoking, "meant")
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

func TestAnOrderCannotBeChanged(t *testing.T) {
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
		raw, _ := json.Marshal([]map[string]any{{"op": "add", "path": "/" + strings.ReplaceAll(c.path, ".", "/"), "value": v}})
		rejected(t, shared.Kube.Patch(t.Context(), o.DeepCopy(), client.RawPatch("application/json-patch+json", raw)), c.says)
	}
	labelled := o.DeepCopy()
	raw := []byte(`{"metadata":{"labels":{"incident":"4711"}}}`)
	if err := shared.Kube.Patch(t.Context(), labelled, client.RawPatch("application/merge-patch+json", raw)); err != nil {
		t.Errorf("a label: %v", err)
	}
}
