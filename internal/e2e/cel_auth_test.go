//go:build integration

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

const (
	oneMethod   = "set exactly one of appRole, aws, azure, cert, gcp, jwt, kubernetes, ldap, token and userPass"
	badMount    = "mount has no leading or trailing slash and no auth/: kubernetes"
	oneIdentity = "set exactly one of roleARN, secretRef and podIdentity"
	noRoleARN   = "set roleARN: the ServiceAccount assumes that role"
	ownIdentity = "podIdentity and metadataServer are the identity of leasekeeper itself, " +
		"which only a ClusterSecretProvider may use: set one of the workload"
	gcpSource   = "set either workloadIdentityProvider or metadataServer"
	gcpPair     = "set workloadIdentityProvider together with serviceAccountEmail; serviceAccountRef requires both"
	azureSource = "set either clientID or metadataServer"
	azurePair   = "set clientID together with tenantID; serviceAccountRef requires both"
	oneJWT      = "set either serviceAccountRef or secretRef"

	foreignAccount = "omit namespace in the serviceAccountRef of auth: " +
		"each DynamicSecret uses a ServiceAccount of its own namespace"
	noKeeper = "set serviceAccountRef.name in keeperAuth: " +
		"leasekeeper logs in as that ServiceAccount to renew and revoke leases"
	noKeeperOrAuth = "set keeperAuth, or serviceAccountRef.name in auth: " +
		"leasekeeper logs in as that ServiceAccount to renew and revoke leases"
	ownAccount     = "a SecretProvider uses its own namespace: omit namespace in the serviceAccountRef of keeperAuth"
	ownSecrets     = "a SecretProvider uses its own namespace: omit namespace in each secretRef of auth and keeperAuth"
	clusterAccount = "set namespace in the serviceAccountRef of keeperAuth: " +
		"a ClusterSecretProvider has none of its own"
	clusterSecrets = "set namespace in each secretRef of auth and keeperAuth: " +
		"a ClusterSecretProvider has none of its own"
)

// methodSpecs are the auth methods. %s stands for the name of an object and perhaps its namespace.
var methodSpecs = map[string]string{
	"kubernetes": "{role: app, serviceAccountRef: {%s, audiences: [vault]}}",
	"jwt":        "{role: app, serviceAccountRef: {%s, audiences: [vault]}}",
	"jwt Secret": "{role: app, secretRef: {%s}}",
	"appRole":    "{roleID: id, secretRef: {%s}}",
	"aws":        "{role: app, roleARN: 'arn:aws:iam::111122223333:role/app', serviceAccountRef: {%s}}",
	"aws Secret": "{role: app, secretRef: {%s}}",
	"azure":      "{role: app, clientID: c, tenantID: t, serviceAccountRef: {%s}}",
	"gcp": "{role: app, serviceAccountEmail: a@p.iam.gserviceaccount.com, serviceAccountRef: {%s}, " +
		"workloadIdentityProvider: projects/1/locations/global/workloadIdentityPools/c/providers/c}",
	"cert":     "{secretRef: {%s}}",
	"userPass": "{username: u, secretRef: {%s}}",
	"ldap":     "{username: u, secretRef: {%s}}",
	"token":    "{secretRef: {%s}}",
}

// methodSpec is an auth block. fields name the object.
func methodSpec(method, fields string) string {
	field, _, _ := strings.Cut(method, " ")
	return "{" + field + ": " + fmt.Sprintf(methodSpecs[method], fields) + "}"
}

// unnamed is a spec without the name of the ServiceAccount, which only auth beside a keeperAuth may omit.
const unnamed = "{role: app, serviceAccountRef: {audiences: [vault]}}"

var authRejections = append(rejectionsOfEachMethod(), []rejection{
	{cluster, "spec.vault.auth.kubernetes", "", oneMethod},
	{cluster, "spec.vault.auth.token", "{secretRef: {name: token, namespace: default}}", oneMethod},
	{cluster, "spec.vault.keeperAuth.kubernetes", "", oneMethod},
	{cluster, "spec.vault.keeperAuth.token", "{secretRef: {name: token, namespace: default}}", oneMethod},
	{cluster, "spec.vault.auth.kubernetes.mount", "auth/kubernetes", badMount},
	{cluster, "spec.vault.auth.kubernetes.mount", "/kubernetes", badMount},
	{cluster, "spec.vault.auth.kubernetes.mount", "kubernetes/../token", badMount},
	{cluster, "spec.vault.keeperAuth.kubernetes.mount", "kubernetes/", badMount},
	{cluster, "spec.vault.auth.kubernetes.role", `""`, "spec.vault.auth.kubernetes.role"},
	{cluster, "spec.vault.auth.kubernetes.serviceAccountRef", "", "serviceAccountRef: Required value"},
	{cluster, "spec.vault.keeperAuth.kubernetes.serviceAccountRef", "", "serviceAccountRef: Required value"},
	{cluster, "spec.vault.keeperAuth.kubernetes.serviceAccountRef.name", "", noKeeper},
	{cluster, "spec.vault.keeperAuth.kubernetes.serviceAccountRef.audiences", "", "audiences: Required value"},
	{namespaced, "spec.vault.auth.kubernetes.serviceAccountRef.audiences", "", "audiences: Required value"},
	{namespaced, "spec.vault.auth.kubernetes.serviceAccountRef.audiences", "[]", "at least 1 items"},
	{namespaced, "spec.vault.auth.kubernetes.serviceAccountRef.audiences", `[""]`, "at least 1 chars"},
	{
		cluster, "spec.vault.auth",
		"{jwt: {role: app, serviceAccountRef: {name: a, audiences: [vault]}, secretRef: {name: s, namespace: x}}}",
		oneJWT,
	},
	{cluster, "spec.vault.keeperAuth", "{jwt: {role: keeper}}", oneJWT},
	{cluster, "spec.vault.keeperAuth", "{jwt: {role: keeper, serviceAccountRef: {audiences: [vault]}}}", noKeeper},
	{cluster, "spec.vault.auth", "{jwt: {role: app, serviceAccountRef: {name: a}}}", "audiences: Required value"},
	{cluster, "spec.vault.auth", "{userPass: {username: a/b, secretRef: {name: s, namespace: other}}}", "should match"},
	{cluster, "spec.vault.auth", "{ldap: {username: .., secretRef: {name: s, namespace: other}}}", "should match"},
	{cluster, "spec.vault.auth", "{appRole: {secretRef: {name: s, namespace: other}}}", "roleID: Required value"},
	{cluster, "spec.vault.auth", "{aws: {role: app}}", oneIdentity},
	{
		cluster, "spec.vault.auth", "{aws: {role: app, podIdentity: true, secretRef: {name: s, namespace: x}}}",
		oneIdentity,
	},
	{cluster, "spec.vault.auth", "{aws: {role: app, podIdentity: true, serviceAccountRef: {name: a}}}", noRoleARN},
	{cluster, "spec.vault.auth", "{aws: {role: app, roleARN: orders}}", "should match"},
	{cluster, "spec.vault.auth", "{aws: {role: app, podIdentity: true, stsEndpoint: 'https://a@b'}}", "should match"},
	{cluster, "spec.vault.auth", "{gcp: {role: app}}", gcpSource},
	{cluster, "spec.vault.auth", "{gcp: {role: app, metadataServer: true, serviceAccountEmail: a@b}}", gcpPair},
	{cluster, "spec.vault.auth", "{gcp: {role: app, metadataServer: true, serviceAccountRef: {name: a}}}", gcpPair},
	{cluster, "spec.vault.auth", "{gcp: {role: app, workloadIdentityProvider: pool}}", "should match"},
	{cluster, "spec.vault.auth", "{azure: {role: app}}", azureSource},
	{cluster, "spec.vault.auth", "{azure: {role: app, clientID: c}}", azurePair},
	{cluster, "spec.vault.auth", "{azure: {role: app, metadataServer: true, serviceAccountRef: {name: a}}}", azurePair},
	{namespaced, "spec.vault.auth", "{gcp: {role: app, metadataServer: true}}", ownIdentity},
	{namespaced, "spec.vault.keeperAuth", "{azure: {role: keeper, metadataServer: true}}", ownIdentity},
	{namespaced, "spec.vault.auth", "{aws: {role: app, podIdentity: true}}", ownIdentity},
	{namespaced, "spec.vault.keeperAuth", "{aws: {role: keeper, podIdentity: true}}", ownIdentity},
	{namespaced, "spec.vault", "{address: 'https://v.example', auth: {kubernetes: " + unnamed + "}}", noKeeperOrAuth},
	{namespaced, "spec.vault", "{address: 'https://v.example', auth: {jwt: " + unnamed + "}}", noKeeperOrAuth},
}...)

// rejectionsOfEachMethod are about the name and the namespace of a reference.
func rejectionsOfEachMethod() []rejection {
	var all []rejection
	for method, spec := range methodSpecs {
		without, with := methodSpec(method, "name: x"), methodSpec(method, "name: x, namespace: other")
		if strings.Contains(spec, "serviceAccountRef") {
			all = append(all,
				rejection{cluster, "spec.vault.auth", with, foreignAccount},
				rejection{namespaced, "spec.vault.auth", with, foreignAccount},
				rejection{cluster, "spec.vault.keeperAuth", without, clusterAccount},
				rejection{namespaced, "spec.vault.keeperAuth", with, ownAccount})
			if unnamed := methodSpec(method, ""); !strings.Contains(spec, "audiences") {
				auth := "{address: 'https://v.example', auth: " + unnamed + "}"
				all = append(all, rejection{cluster, "spec.vault.keeperAuth", unnamed, noKeeper},
					rejection{namespaced, "spec.vault", auth, noKeeperOrAuth})
			}
			continue
		}
		all = append(all,
			rejection{cluster, "spec.vault.auth", without, clusterSecrets},
			rejection{cluster, "spec.vault.keeperAuth", without, clusterSecrets},
			rejection{namespaced, "spec.vault.auth", with, ownSecrets},
			rejection{namespaced, "spec.vault.keeperAuth", with, ownSecrets})
	}
	return all
}

// authImmutables are changes of a provider with Kubernetes auth.
var authImmutables = []rejection{
	{cluster, "spec.vault.auth", "{token: {secretRef: {name: token, namespace: default}}}", fixedAuth},
	{cluster, "spec.vault.auth", "{jwt: " + unnamed + "}", fixedAuth},
	{cluster, "spec.vault.auth.kubernetes.mount", "other", fixedAuth},
}

func TestEveryAuthMethodIsAccepted(t *testing.T) {
	t.Parallel()
	for method, spec := range methodSpecs {
		account := strings.Contains(spec, "serviceAccountRef")
		for kind, keeper := range map[string]string{cluster: "name: x, namespace: other", namespaced: "name: x"} {
			issuer := keeper
			if account {
				issuer = "name: x"
			}
			o := manifest(t, kind, "method")
			set(t, o, "spec.vault.auth", methodSpec(method, issuer))
			set(t, o, "spec.vault.keeperAuth", methodSpec(method, keeper))
			if err := shared.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
				t.Errorf("%s of a %s: %v", method, kind, err)
			}
		}
	}
}

func TestEverySampleOfAnAuthMethodIsAccepted(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/auth.md")
	if err != nil {
		t.Fatal(err)
	}
	for method := range methodSpecs {
		field, _, _ := strings.Cut(method, " ")
		file := "config/samples/auth/" + strings.ToLower(field) + ".yaml"
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		p := &v1alpha1.SecretProvider{}
		if err := yaml.UnmarshalStrict(text, p); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		p.Namespace = "default"
		if err := shared.Kube.Create(t.Context(), p, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if !strings.Contains(string(page), "(../"+file+")") {
			t.Errorf("docs/auth.md must link to %s", file)
		}
	}
}

func TestTheMountOfEachAuthMethodIsImmutable(t *testing.T) {
	t.Parallel()
	for method := range methodSpecs {
		if method == "token" {
			continue // it has no mount
		}
		field, _, _ := strings.Cut(method, " ")
		o := manifest(t, namespaced, "mount-"+strings.ReplaceAll(strings.ToLower(method), " ", "-"))
		set(t, o, "spec.vault.auth", methodSpec(method, "name: x"))
		if err := shared.Kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = shared.Kube.Delete(context.Background(), o) })
		rejected(t, patchField(t, o, "spec.vault.auth."+field+".mount", "other"), fixedAuth)
	}
}
