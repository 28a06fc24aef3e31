//go:build integration

package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

// proven is the owner of a record that has a valid seal.
var proven = backend.Owner{Namespace: owner.Namespace, Name: owner.Name, UID: owner.UID, Proven: true}

// methodOnVault is an auth method that a real Vault serves.
type methodOnVault struct {
	// auth and keeper are specs whose roles have the policies of the workload and of the keeper.
	auth, keeper v1alpha1.VaultAuth
	// metadata: Vault records the owner's namespace with the token, so no seal is needed.
	metadata bool
	// prepare sets up the environment of the test; nil: nothing.
	prepare func(*testing.T)
}

// methods sets up all methods that the server offers, once.
var methods = sync.OnceValue(func() map[string]methodOnVault {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all := map[string]methodOnVault{}
	for plugin, setUp := range map[string]func(context.Context, map[string]methodOnVault) error{
		"jwt": setUpJWT, "approle": setUpAppRole, "userpass": setUpUserPass, "ldap": setUpLDAP, "cert": setUpCert,
		"aws": setUpAWS,
	} {
		offered, err := bed.vault.Offers(ctx, "auth", plugin)
		if err == nil && offered {
			err = setUp(ctx, all)
		}
		if err != nil {
			panic(err)
		}
	}
	return all
})

// setting is a write to Vault.
type setting struct {
	path string
	data map[string]any
}

// enableAuth mounts an auth method and writes the settings below it.
func enableAuth(ctx context.Context, mount, kind string, settings ...setting) error {
	if err := bed.vault.Root.Sys().EnableAuthWithOptionsWithContext(ctx, mount,
		&api.EnableAuthOptions{Type: kind}); err != nil {
		return err
	}
	for _, s := range settings {
		if err := bed.vault.Write(ctx, "auth/"+mount+"/"+s.path, s.data); err != nil {
			return err
		}
	}
	return nil
}

// secretWith creates a Secret of namespace system and returns a reference to it.
func secretWith(ctx context.Context, name string, data map[string]string) (v1alpha1.SecretKeyReference, error) {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "system"}, StringData: data}
	return v1alpha1.SecretKeyReference{SecretReference: v1alpha1.SecretReference{Name: name, Namespace: "system"}},
		bed.client.Create(ctx, s)
}

// setUpJWT lets Vault verify tokens with the API server's keys. Without a reviewer, Vault reads the keys as anybody.
func setUpJWT(ctx context.Context, all map[string]methodOnVault) error {
	if err := bed.client.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "public-keys"},
		RoleRef: rbacv1.RoleRef{
			APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery",
		},
		Subjects: []rbacv1.Subject{
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:unauthenticated"},
		},
	}); err != nil {
		return err
	}
	host, ca := bed.plane.Config.Host, string(bed.plane.CA)
	for mount, config := range map[string]map[string]any{
		"jwt-keys":      {"jwks_url": host + "/openid/v1/jwks", "jwks_ca_pem": ca, "bound_issuer": host},
		"jwt-discovery": {"oidc_discovery_url": host, "oidc_discovery_ca_pem": ca},
	} {
		role := func(policy, subject string, more map[string]any) map[string]any {
			r := map[string]any{
				"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_subject": subject,
				"token_policies": policy, "token_ttl": "1h",
			}
			for key, value := range more {
				r[key] = value
			}
			return r
		}
		const app, keeper = "system:serviceaccount:shop:orders", "system:serviceaccount:system:leasekeeper"
		mapped := map[string]any{"claim_mappings": map[string]string{
			"/kubernetes.io/namespace": "service_account_namespace",
		}}
		if err := enableAuth(ctx, mount, "jwt", setting{"config", config},
			setting{"role/app", role("app", app, mapped)},
			setting{"role/plain", role("app", app, nil)}, setting{"role/keeper", role("keeper", keeper, nil)},
		); err != nil {
			return err
		}
		account := func(name, namespace string) *v1alpha1.ServiceAccountReference {
			return &v1alpha1.ServiceAccountReference{Name: name, Namespace: namespace, Audiences: []string{"vault"}}
		}
		at := v1alpha1.VaultMount(mount)
		spec := func(role string, ref *v1alpha1.ServiceAccountReference) v1alpha1.VaultAuth {
			return v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{Mount: at, Role: role, ServiceAccountRef: ref}}
		}
		asKeeper := spec("keeper", account("leasekeeper", "system"))
		all[mount] = methodOnVault{auth: spec("app", account("orders", "")), keeper: asKeeper, metadata: true}
		all[mount+" without claim_mappings"] = methodOnVault{
			auth: spec("plain", account("orders", "")), keeper: asKeeper,
		}
	}
	return setUpStoredJWT(ctx, all)
}

// setUpStoredJWT stores JWTs in Secrets.
func setUpStoredJWT(ctx context.Context, all map[string]methodOnVault) error {
	var refs []v1alpha1.SecretKeyReference
	for namespace, name := range map[string]string{"shop": "orders", "system": "leasekeeper"} {
		token, err := bed.plane.Token(ctx, namespace, name, "vault")
		if err != nil {
			return err
		}
		ref, err := secretWith(ctx, "jwt-of-"+name, map[string]string{"jwt": token})
		if err != nil {
			return err
		}
		refs = append(refs, ref)
	}
	if refs[0].Name != "jwt-of-orders" {
		refs[0], refs[1] = refs[1], refs[0]
	}
	all["jwt of a Secret"] = methodOnVault{
		auth:   v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{Mount: "jwt-keys", Role: "app", SecretRef: &refs[0]}},
		keeper: v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{Mount: "jwt-keys", Role: "keeper", SecretRef: &refs[1]}},
	}
	return nil
}

// wrapTTL makes a client request wrapped responses.
func wrapTTL(ttl string) func(*api.Client) {
	return func(c *api.Client) { c.SetWrappingLookupFunc(func(string, string) string { return ttl }) }
}

// newSecretID creates a secret id, or the wrapping token of one.
func newSecretID(ctx context.Context, role string, wrapped bool, data map[string]any) (string, error) {
	client, err := bed.vault.Client(bed.vault.Root.Token())
	if err != nil {
		return "", err
	}
	if wrapped {
		wrapTTL("1h")(client)
	}
	created, err := client.Logical().WriteWithContext(ctx, "auth/approle/role/"+role+"/secret-id", data)
	if err != nil {
		return "", err
	}
	if wrapped {
		return created.WrapInfo.Token, nil
	}
	return created.Data["secret_id"].(string), nil
}

func setUpAppRole(ctx context.Context, all map[string]methodOnVault) error {
	if err := enableAuth(ctx, "approle", "approle",
		setting{"role/app", map[string]any{"token_policies": "app", "token_ttl": "1h"}},
		setting{"role/app/role-id", map[string]any{"role_id": "role-of-orders"}},
		setting{"role/keeper", map[string]any{"token_policies": "keeper", "token_ttl": "1h"}},
		setting{"role/keeper/role-id", map[string]any{"role_id": "role-of-keeper"}},
	); err != nil {
		return err
	}
	for _, wrapped := range []bool{false, true} {
		name := map[bool]string{false: "appRole", true: "wrapped appRole"}[wrapped]
		var specs []v1alpha1.VaultAuth
		for _, role := range []string{"app", "keeper"} {
			id, err := newSecretID(ctx, role, wrapped, nil)
			if err != nil {
				return err
			}
			ref, err := secretWith(ctx, fmt.Sprintf("approle-%s-%t", role, wrapped), map[string]string{"secretId": id})
			if err != nil {
				return err
			}
			specs = append(specs, v1alpha1.VaultAuth{AppRole: &v1alpha1.VaultAppRoleAuth{
				RoleID: map[string]string{"app": "role-of-orders", "keeper": "role-of-keeper"}[role], SecretRef: ref,
				Wrapped: wrapped,
			}})
		}
		all[name] = methodOnVault{auth: specs[0], keeper: specs[1]}
	}
	return nil
}

func setUpUserPass(ctx context.Context, all map[string]methodOnVault) error {
	user := func(password, policy string) map[string]any {
		return map[string]any{"password": password, "token_policies": policy, "token_ttl": "1h"}
	}
	if err := enableAuth(ctx, "userpass", "userpass", setting{"users/orders.app", user("p of orders", "app")},
		setting{"users/keeper", user("p of keeper", "keeper")}); err != nil {
		return err
	}
	spec := func(user, secret string) (v1alpha1.VaultAuth, error) {
		ref, err := secretWith(ctx, "password-of-"+secret, map[string]string{"password": "p of " + secret + "\n"})
		return v1alpha1.VaultAuth{UserPass: &v1alpha1.VaultUserPassAuth{
			Username: v1alpha1.VaultUserName(user), SecretRef: ref,
		}}, err
	}
	auth, err := spec("orders.app", "orders")
	if err != nil {
		return err
	}
	keeper, err := spec("keeper", "keeper")
	all["userPass"] = methodOnVault{auth: auth, keeper: keeper}
	return err
}

// setUpLDAP lets Vault bind to a directory. The settings of the tokens are those of the mount.
func setUpLDAP(ctx context.Context, all map[string]methodOnVault) error {
	if err := enableAuth(ctx, "ldap", "ldap", setting{"config", map[string]any{
		"url": bed.ldap.Address, "userdn": "ou=people," + bed.ldap.BaseDN, "userattr": "cn", "token_ttl": "1h",
	}},
		setting{"users/orders app", map[string]any{"policies": "app"}},
		setting{"users/keeper", map[string]any{"policies": "keeper"}},
	); err != nil {
		return err
	}
	var specs []v1alpha1.VaultAuth
	for user, secret := range map[string]string{"orders app": "ldap-of-orders", "keeper": "ldap-of-keeper"} {
		password := rand.Text()
		if err := bed.ldap.AddUser(user, password); err != nil {
			return err
		}
		ref, err := secretWith(ctx, secret, map[string]string{"password": password + "\n"})
		if err != nil {
			return err
		}
		specs = append(specs, v1alpha1.VaultAuth{LDAP: &v1alpha1.VaultLDAPAuth{
			Username: v1alpha1.VaultUserName(user), SecretRef: ref,
		}})
	}
	if specs[0].LDAP.Username == "keeper" {
		specs[0], specs[1] = specs[1], specs[0]
	}
	all["ldap"] = methodOnVault{auth: specs[0], keeper: specs[1]}
	return nil
}

// clientCertificate makes a self-signed client certificate.
func clientCertificate(name string) (certPEM, keyPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER), err
}

func setUpCert(ctx context.Context, all map[string]methodOnVault) error {
	// Another session may extend the tokens only without binding.
	config := setting{"config", map[string]any{"disable_binding": true}}
	if err := enableAuth(ctx, "cert", "cert", config); err != nil {
		return err
	}
	var specs []v1alpha1.VaultAuth
	for _, role := range []string{"app", "keeper"} {
		cert, key, err := clientCertificate(role + ".test")
		if err != nil {
			return err
		}
		if err := bed.vault.Write(ctx, "auth/cert/certs/"+role, map[string]any{
			"certificate": cert, "token_policies": role, "token_ttl": "1h",
		}); err != nil {
			return err
		}
		ref, err := secretWith(ctx, "cert-of-"+role, map[string]string{"tls.crt": cert, "tls.key": key})
		if err != nil {
			return err
		}
		specs = append(specs, v1alpha1.VaultAuth{
			Cert: &v1alpha1.VaultCertAuth{Role: role, SecretRef: ref.SecretReference},
		})
	}
	all["cert"] = methodOnVault{auth: specs[0], keeper: specs[1]}
	return nil
}

// connectWith makes a backend with this auth and keeperAuth.
func connectWith(t *testing.T, auth, keeper v1alpha1.VaultAuth) *vault.Backend {
	t.Helper()
	return connect(t, "", func(p *v1alpha1.VaultProvider) { p.Auth, p.KeeperAuth = auth, &keeper })
}

// Each issuance logs in separately, another session extends and revokes its token, and only its owner's record leads to
// that.
func TestEachAuthMethodOnARealVault(t *testing.T) {
	for name, m := range methods() {
		t.Run(name, func(t *testing.T) {
			if m.prepare != nil {
				m.prepare(t)
			}
			b := connectWith(t, m.auth, m.keeper)
			report, err := b.Inspect(t.Context())
			must(t, err)
			if len(report.Missing) > 0 {
				t.Fatalf("the keeper lacks %v", report.Missing)
			}
			request := databaseRole(t, time.Hour, 2*time.Hour)
			one, _ := issue(t, b, request)
			two, _ := issue(t, b, request)
			if one.Handle() == two.Handle() || one.Handle() == "" {
				t.Fatal("two issuances share a token")
			}
			by := proven
			if m.metadata {
				by = owner
			} else {
				wantKind(t, b.Revoke(t.Context(), one, owner), backend.Mismatch)
			}
			wantKind(t, b.Revoke(t.Context(), one, stranger), backend.Mismatch)
			wantKind(t, connect(t, "app").Revoke(t.Context(), one, proven), backend.Mismatch)
			term, err := b.ExtendSession(t.Context(), one, by)
			must(t, err)
			if term.Duration < 2*time.Hour {
				t.Errorf("the keeper extended the token to %s, want more than its TTL", term.Duration)
			}
			_, err = b.Renew(t.Context(), one, time.Hour)
			must(t, err)
			must(t, b.Revoke(t.Context(), one, by))
			wantKind(t, b.Lookup(t.Context(), one), backend.Gone)
			must(t, b.Lookup(t.Context(), two))
			must(t, b.Revoke(t.Context(), two, by))
		})
	}
}

func TestAKeeperCannotExtendBoundCertificateTokens(t *testing.T) {
	m := methods()["cert"]
	write(t, "auth/cert/config", map[string]any{"disable_binding": false})
	defer write(t, "auth/cert/config", map[string]any{"disable_binding": true})
	b := connectWith(t, m.auth, m.keeper)
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	_, err := b.ExtendSession(t.Context(), rec, proven)
	wantKind(t, err, backend.Refused, "certificate")
	must(t, b.Revoke(t.Context(), rec, proven))
}

// TestRefusalsOfARealVault covers what only Vault can check. What a method checks itself is in the package auth, in
// TestEachMisconfigurationNamesTheFieldAndTheFix.
func TestRefusalsOfARealVault(t *testing.T) {
	all := maps.Clone(methods())
	account := &v1alpha1.ServiceAccountReference{Name: "orders", Audiences: []string{"vault"}}
	all["kubernetes"] = methodOnVault{auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
		Mount: "kubernetes", Role: "app", ServiceAccountRef: account,
	}}, keeper: all["jwt-keys"].keeper}
	// Without a token for reviews, Vault presents the token of the login.
	must(t, bed.vault.EnableKubernetesAuth(t.Context(), "unreviewed", bed.plane))
	must(t, bed.vault.WriteRole(t.Context(), "unreviewed", "app", testbed.KubernetesRole{
		ServiceAccounts: []string{"orders"}, Namespaces: []string{"*"}, Audience: "vault",
	}))
	write(t, "auth/unreviewed/config", map[string]any{
		"kubernetes_host": bed.plane.Config.Host, "kubernetes_ca_cert": string(bed.plane.CA),
		"disable_local_ca_jwt": true,
	})
	used, err := newSecretID(t.Context(), "app", false, map[string]any{"num_uses": 1})
	must(t, err)
	usedRef, err := secretWith(t.Context(), unique("used"), map[string]string{"secretId": used})
	must(t, err)
	wrapped, err := newSecretID(t.Context(), "app", true, nil)
	must(t, err)
	_, err = bed.vault.Root.Logical().UnwrapWithContext(t.Context(), wrapped)
	must(t, err)
	unwrappedRef, err := secretWith(t.Context(), unique("unwrapped"), map[string]string{"secretId": wrapped})
	must(t, err)
	wrongRef, err := secretWith(t.Context(), unique("wrong"), map[string]string{"password": "not it", "jwt": "a.b.c"})
	must(t, err)
	cert, key, err := clientCertificate("stranger.test")
	must(t, err)
	strangeRef, err := secretWith(t.Context(), unique("strange"), map[string]string{"tls.crt": cert, "tls.key": key})
	must(t, err)
	for _, c := range []struct {
		name, because string
		method        string
		change        func(*v1alpha1.VaultAuth)
		texts         []string
	}{
		{"kubernetes with another audience", "the role has an audience", "kubernetes",
			func(a *v1alpha1.VaultAuth) { a.Kubernetes.ServiceAccountRef.Audiences = []string{"other"} },
			[]string{`the token has the audiences ["other"] of auth.kubernetes.serviceAccountRef.audiences`,
				"set it to the audience of the role"}},
		{"kubernetes without a reviewer", "Vault runs outside the cluster", "kubernetes",
			func(a *v1alpha1.VaultAuth) { a.Kubernetes.Mount = "unreviewed" },
			[]string{"check kubernetes_host in auth/unreviewed/config", "token_reviewer_jwt",
				`rejects for its audiences ["vault"]`}},
		{"jwt with another audience", "the role has bound_audiences", "jwt-keys",
			func(a *v1alpha1.VaultAuth) { a.JWT.ServiceAccountRef.Audiences = []string{"other"} },
			[]string{"bound_audiences must be in auth.jwt.serviceAccountRef.audiences"}},
		{"jwt with an unknown role", "a typo", "jwt-keys",
			func(a *v1alpha1.VaultAuth) { a.JWT.Role = "unknown" }, []string{`role "unknown"`}},
		{"jwt of another ServiceAccount", "the role has bound_subject", "jwt-discovery",
			func(a *v1alpha1.VaultAuth) { a.JWT.Role = "keeper" }, []string{"bound_subject"}},
		{"jwt on a mount that does not exist", "a typo", "jwt-keys",
			func(a *v1alpha1.VaultAuth) { a.JWT.Mount = "nowhere" }, []string{"auth/nowhere"}},
		{"a broken JWT", "somebody stored another value", "jwt of a Secret",
			func(a *v1alpha1.VaultAuth) { a.JWT.SecretRef = &wrongRef }, []string{"Secret system/" + wrongRef.Name}},
		{"appRole with an unknown role id", "a typo", "appRole",
			func(a *v1alpha1.VaultAuth) { a.AppRole.RoleID = "unknown" }, []string{"check auth.appRole.roleID"}},
		{"appRole with a used secret id", "num_uses is 1", "appRole",
			func(a *v1alpha1.VaultAuth) { a.AppRole.SecretRef = usedRef },
			[]string{"used up (secret_id_num_uses)", "store a new secret id", usedRef.Name}},
		{"appRole with a used wrapping token", "somebody has unwrapped it", "wrapped appRole",
			func(a *v1alpha1.VaultAuth) { a.AppRole.SecretRef = unwrappedRef },
			[]string{"was used before", "store a new wrapping token", unwrappedRef.Name}},
		{"userPass with a wrong password", "it was changed in Vault", "userPass",
			func(a *v1alpha1.VaultAuth) { a.UserPass.SecretRef = wrongRef },
			[]string{"check the password in Secret system/" + wrongRef.Name}},
		{"userPass with an unknown user", "a typo", "userPass",
			func(a *v1alpha1.VaultAuth) { a.UserPass.Username = "nobody" },
			[]string{"that auth/userpass/users/nobody exists"}},
		{"ldap with a wrong password", "it was changed in the directory", "ldap",
			func(a *v1alpha1.VaultAuth) { a.LDAP.SecretRef = wrongRef },
			[]string{"check the password in Secret system/" + wrongRef.Name, "userattr in auth/ldap/config"}},
		{"a certificate of nobody", "no role has it", "cert",
			func(a *v1alpha1.VaultAuth) { a.Cert.SecretRef = strangeRef.SecretReference },
			[]string{"match the role's certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := all[c.method].auth
			spec = *spec.DeepCopy()
			c.change(&spec)
			b := connectWith(t, spec, all[c.method].keeper)
			_, err := b.Login(t.Context(), who)
			if err == nil && spec.AppRole != nil {
				_, err = b.Login(t.Context(), who) // the first one used the secret id up
			}
			wantKind(t, err, backend.LoginFailed, c.texts...)
		})
	}
}

func TestAReplacedSecretIsUsedWithoutARestart(t *testing.T) {
	b := connectWith(t, methods()["userPass"].auth, methods()["userPass"].keeper)
	_, err := b.Login(t.Context(), who)
	must(t, err)
	write(t, "auth/userpass/users/orders.app", map[string]any{"password": "another", "token_policies": "app"})
	_, err = b.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password-of-orders", Namespace: "system"},
		StringData: map[string]string{"password": "another"}}
	must(t, bed.client.Update(t.Context(), s))
	_, err = b.Login(t.Context(), who)
	must(t, err)
}

// Some versions respond 400 then, as to a wrong password, which must not be repeated soon.
func TestADirectoryThatIsDownIsAnOutage(t *testing.T) {
	m, mount := methods()["ldap"], unique("ldap")
	config := func(url string) map[string]any {
		return map[string]any{
			"url": url, "userdn": "ou=people," + bed.ldap.BaseDN, "userattr": "cn", "token_ttl": "1h",
		}
	}
	must(t, enableAuth(t.Context(), mount, "ldap", setting{"config", config("ldap://127.0.0.1:1")},
		setting{"users/orders app", map[string]any{"policies": "app"}}))
	spec := m.auth.DeepCopy()
	spec.LDAP.Mount = v1alpha1.VaultMount(mount)
	b := connectWith(t, *spec, m.keeper)
	for range 2 {
		_, err := b.Login(t.Context(), who)
		wantKind(t, err, backend.Failed, "Vault cannot check the login now", "url in auth/"+mount+"/config")
	}
	write(t, "auth/"+mount+"/config", config(bed.ldap.Address))
	_, err := b.Login(t.Context(), who)
	must(t, err)
}
