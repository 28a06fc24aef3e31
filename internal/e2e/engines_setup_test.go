//go:build integration

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/crypto/ssh"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// behindEngines are the servers that few tests need.
var behindEngines testbed.Lazy

var (
	startMariaDB  = testbed.Once(&behindEngines, testbed.StartMariaDB)
	startRabbitMQ = testbed.Once(&behindEngines, testbed.StartRabbitMQ)
	startLDAP     = testbed.Once(&behindEngines, func(ctx context.Context) (*testbed.LDAP, error) {
		return testbed.StartLDAP(ctx, testbed.LDAPOptions{})
	})
	startAWS = testbed.Once(&behindEngines, func(context.Context) (*testbed.AWS, error) {
		return testbed.StartAWS(), nil
	})
)

// longLife is longer than three times the overlap of the handover, so that nothing is replaced by itself.
const longLife = "4h"

// started is a server that other tests may have started.
func started[T any](r *rig, start func() (T, error)) T {
	r.t.Helper()
	server, err := start()
	r.must(err)
	return server
}

// enable mounts an engine of the type under the name.
func (r *rig) enable(name, kind string) string {
	r.t.Helper()
	mount := r.mount(name)
	r.must(r.Vault.Root.Sys().MountWithContext(r.t.Context(), mount, &api.MountInput{Type: kind}))
	return mount
}

func (r *rig) vaultWrite(path string, data map[string]any) {
	r.t.Helper()
	r.must(r.Vault.Write(r.t.Context(), path, data))
}

// vaultSays writes with the root token and returns the response.
func (r *rig) vaultSays(path string, data map[string]any) (map[string]any, error) {
	response, err := r.Vault.Root.Logical().WriteWithContext(context.Background(), path, data)
	if err != nil || response == nil {
		return nil, err
	}
	return response.Data, nil
}

func (r *rig) setUpDatabase() {
	r.must(r.Vault.EnableDatabase(r.t.Context(), r.mount("database"), r.Postgres))
	r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.mount("database"), "orders",
		testbed.DatabaseRole{DefaultTTL: 4 * time.Hour, MaxTTL: 24 * time.Hour}))
}

func (r *rig) setUpMariaDB() {
	m, mount := started(r, startMariaDB), r.enable("mariadb", "database")
	name, password := m.Administrator()
	r.vaultWrite(mount+"/config/mariadb", map[string]any{
		"plugin_name": "mysql-database-plugin", "allowed_roles": "*", "username": name, "password": password,
		"connection_url": "{{username}}:{{password}}@tcp(" + m.Address + ")/",
	})
	r.vaultWrite(mount+"/roles/orders", map[string]any{
		"db_name": "mariadb", "default_ttl": longLife, "max_ttl": "24h",
		"creation_statements": []string{`CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';`},
	})
}

func (r *rig) loginMariaDB(s *corev1.Secret) error {
	return started(r, startMariaDB).Login(context.Background(), string(s.Data["username"]), string(s.Data["password"]))
}

func (r *rig) setUpRotationPeriod() { r.setUpStaticRole(map[string]any{"rotation_period": "24h"}) }

// setUpRotationSchedule makes Vault rotate on Saturdays, in the first hour.
func (r *rig) setUpRotationSchedule() {
	r.setUpStaticRole(map[string]any{"rotation_schedule": "0 0 * * 6", "rotation_window": "1h"})
}

func (r *rig) setUpStaticRole(role map[string]any) {
	r.must(r.Vault.EnableDatabase(r.t.Context(), r.mount("database"), r.Postgres))
	user := r.name + "-static"
	r.must(r.Postgres.Exec(r.t.Context(), fmt.Sprintf("CREATE ROLE %q LOGIN PASSWORD 'initial'", user)))
	role["db_name"], role["username"] = "postgres", user
	role["rotation_statements"] = []string{`ALTER ROLE "{{name}}" WITH PASSWORD '{{password}}';`}
	r.vaultWrite(r.mount("database")+"/static-roles/orders", role)
}

func (r *rig) rotateStaticRole() { r.vaultWrite(r.mount("database")+"/rotate-role/orders", nil) }

// rotateScheduledRole also checks that the record expects the next rotation on Saturday at midnight.
func (r *rig) rotateScheduledRole() {
	r.t.Helper()
	at := r.get("orders").Status.Leases[0].ExpiresAt
	if at == nil {
		r.t.Fatal("the record does not say when Vault rotates")
	}
	// The times of Vault and of the record are in whole seconds.
	if nearest := at.UTC().Round(time.Hour); nearest.Weekday() != time.Saturday || nearest.Hour() != 0 {
		r.t.Errorf("the next rotation is expected at %s, want Saturday at midnight", at.UTC())
	}
	r.rotateStaticRole()
}

func (r *rig) setUpKubernetes() {
	r.must(r.Vault.EnableKubernetesSecrets(r.t.Context(), r.mount("kubernetes"), r.Plane))
	r.vaultWrite(r.mount("kubernetes")+"/roles/orders", map[string]any{
		"allowed_kubernetes_namespaces": "*", "token_default_ttl": longLife, "token_max_ttl": "24h",
		"generated_role_rules": `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["list"]}]}`,
	})
}

// reviewToken asks the API server whose token it is.
func (r *rig) reviewToken(s *corev1.Secret) error {
	config := rest.AnonymousClientConfig(r.Plane.Config)
	config.BearerToken = string(s.Data["service_account_token"])
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	review := &authenticationv1.SelfSubjectReview{}
	_, err = kube.AuthenticationV1().SelfSubjectReviews().Create(context.Background(), review, metav1.CreateOptions{})
	return err
}

func (r *rig) setUpLeasedPKI() { r.setUpPKI(true) }

func (r *rig) setUpSigningPKI() { r.setUpPKI(false) }

// setUpPKI mounts an engine whose issuer is an intermediate certificate.
func (r *rig) setUpPKI(lease bool) {
	mount, root := r.mount("pki"), r.mount("root")
	r.must(r.Vault.EnablePKI(r.t.Context(), root))
	r.enable("pki", "pki")
	request, err := r.vaultSays(mount+"/intermediate/generate/internal", map[string]any{"common_name": "intermediate"})
	r.must(err)
	signed, err := r.vaultSays(root+"/root/sign-intermediate", map[string]any{
		"csr": request["csr"], "common_name": "intermediate", "ttl": "20h",
	})
	r.must(err)
	chain := signed["certificate"].(string) + "\n" + signed["issuing_ca"].(string)
	r.vaultWrite(mount+"/intermediate/set-signed", map[string]any{"certificate": chain})
	keys := "any" // of signing requests
	if lease {
		keys = "ec"
	}
	r.vaultWrite(mount+"/roles/orders", map[string]any{
		"allow_any_name": true, "key_type": keys, "max_ttl": longLife, "generate_lease": lease,
	})
}

// checkCertificate verifies the key and the chain of a TLS Secret, and that the certificate is not revoked.
func (r *rig) checkCertificate(s *corev1.Secret) error {
	if err := verifyTLS(s); err != nil {
		r.t.Errorf("the Secret: %v", err)
	}
	at, err := r.Vault.CertificateRevokedAt(context.Background(), r.mount("pki"), string(s.Data["serial_number"]))
	if err == nil && !at.IsZero() {
		err = fmt.Errorf("it was revoked at %s", at)
	}
	return err
}

func (r *rig) setUpOTP() {
	r.vaultWrite(r.enable("ssh", "ssh")+"/roles/orders", map[string]any{
		"key_type": "otp", "default_user": "deploy", "cidr_list": "10.0.0.0/8",
	})
	r.vaultWrite("sys/mounts/"+r.mount("ssh")+"/tune", map[string]any{"default_lease_ttl": longLife})
}

// verifyOTP does what a host does at a login.
func (r *rig) verifyOTP(s *corev1.Secret) error {
	found, err := r.vaultSays(r.mount("ssh")+"/verify", map[string]any{"otp": string(s.Data["key"])})
	if err == nil && (found["username"] != "deploy" || found["ip"] != "10.0.0.1") {
		err = fmt.Errorf("the password is for %v at %v", found["username"], found["ip"])
	}
	return err
}

func (r *rig) setUpSSH() {
	r.must(r.Vault.EnableSSH(r.t.Context(), r.mount("ssh")))
	r.vaultWrite(r.mount("ssh")+"/roles/orders", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "deploy", "ttl": longLife,
	})
}

// checkSSHCertificate does what a host does that trusts the engine's key.
func (r *rig) checkSSHCertificate(s *corev1.Secret) error {
	ca, err := r.Vault.Root.Logical().ReadWithContext(context.Background(), r.mount("ssh")+"/config/ca")
	if err != nil {
		return err
	}
	trusted, _, _, _, err := ssh.ParseAuthorizedKey([]byte(ca.Data["public_key"].(string)))
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(s.Data["signed_key"])
	if err != nil {
		return err
	}
	certificate, ok := key.(*ssh.Certificate)
	if !ok {
		return fmt.Errorf("signed_key is no certificate")
	}
	checker := &ssh.CertChecker{IsUserAuthority: func(auth ssh.PublicKey) bool {
		return bytes.Equal(auth.Marshal(), trusted.Marshal())
	}}
	if !checker.IsUserAuthority(certificate.SignatureKey) {
		return fmt.Errorf("another authority signed the certificate")
	}
	return checker.CheckCert("deploy", certificate)
}

func (r *rig) setUpRabbitMQ() {
	server, mount := started(r, startRabbitMQ), r.enable("rabbitmq", "rabbitmq")
	name, password := server.Administrator()
	r.vaultWrite(mount+"/config/connection", map[string]any{
		"connection_uri": server.Management, "username": name, "password": password,
	})
	r.vaultWrite(mount+"/config/lease", map[string]any{"ttl": longLife, "max_ttl": "24h"})
	r.vaultWrite(mount+"/roles/orders", map[string]any{
		"tags": "management", "vhosts": `{"/":{"configure":"","write":".*","read":".*"}}`,
	})
}

// rabbitUsers are the users that Vault created for the rig.
func (r *rig) rabbitUsers() []string {
	r.t.Helper()
	users, err := started(r, startRabbitMQ).Users(context.Background(), "-"+r.name+"-")
	r.must(err)
	return users
}

func (r *rig) loginRabbitMQ(s *corev1.Secret) error {
	return started(r, startRabbitMQ).Login(context.Background(), string(s.Data["username"]), string(s.Data["password"]))
}

// connectLDAP mounts the ldap engine.
func (r *rig) connectLDAP() (*testbed.LDAP, string) {
	r.t.Helper()
	server, mount := started(r, startLDAP), r.enable("ldap", "ldap")
	r.vaultWrite(mount+"/config", map[string]any{
		"url": server.Address, "binddn": server.BindDN, "bindpass": server.Password, "schema": "openldap",
		"userdn": "ou=people," + server.BaseDN, "userattr": "cn",
	})
	return server, mount
}

func (r *rig) setUpStaticLDAP() {
	server, mount := r.connectLDAP()
	user := r.name + "-static"
	r.must(server.AddUser(user, "initial"))
	r.vaultWrite(mount+"/static-role/orders", map[string]any{
		"username": user, "dn": server.UserDN(user), "rotation_period": "24h",
	})
}

func (r *rig) setUpDynamicLDAP() {
	server, mount := r.connectLDAP()
	dn := "dn: cn={{.Username}},ou=people," + server.BaseDN + "\n"
	r.vaultWrite(mount+"/role/orders", map[string]any{
		"creation_ldif": dn + "changetype: add\nobjectClass: inetOrgPerson\nsn: {{.Username}}\n" +
			"userPassword: {{.Password}}\n",
		"deletion_ldif": dn + "changetype: delete\n",
		"default_ttl":   longLife, "max_ttl": "24h",
	})
}

// setUpLibrary makes a set of accounts.
func (r *rig) setUpLibrary(names ...string) {
	r.t.Helper()
	server, mount := r.connectLDAP()
	var accounts []string
	for _, name := range names {
		account := r.name + "-" + name
		r.must(server.AddUser(account, "initial"))
		accounts = append(accounts, account)
	}
	r.vaultWrite(mount+"/library/orders", map[string]any{
		"service_account_names": accounts, "ttl": longLife, "max_ttl": "24h",
	})
}

// bind logs in to the LDAP server.
func (r *rig) bind(s *corev1.Secret) error {
	name := s.Data["username"]
	if name == nil {
		name = s.Data["service_account_name"]
	}
	server := started(r, startLDAP)
	return server.Login(server.UserDN(string(name)), string(s.Data["password"]))
}

func (r *rig) connectAWS(role map[string]any) {
	r.t.Helper()
	server, mount := started(r, startAWS), r.enable("aws", "aws")
	r.vaultWrite(mount+"/config/root", map[string]any{
		"access_key": server.AccessKey, "secret_key": server.SecretKey, "region": "us-east-1",
		"username_template": "{{ printf \"" + r.name + "-%s\" (random 20) }}",
		"iam_endpoint":      server.Address, "sts_endpoint": server.Address, "sts_region": "us-east-1",
	})
	r.vaultWrite(mount+"/config/lease", map[string]any{"lease": longLife, "lease_max": "24h"})
	r.vaultWrite(mount+"/roles/orders", role)
}

func (r *rig) setUpAWSUsers() {
	r.connectAWS(map[string]any{
		"credential_type": "iam_user", "policy_arns": "arn:aws:iam::aws:policy/ReadOnlyAccess",
		"policy_document": `{"Version":"2012-10-17","Statement":[]}`,
	})
}

func (r *rig) setUpAWSRole() {
	r.connectAWS(map[string]any{
		"credential_type": "assumed_role", "role_arns": "arn:aws:iam::123456789012:role/orders",
		"default_sts_ttl": longLife, "max_sts_ttl": "12h",
	})
}

// awsUsers are the IAM users that Vault created for the rig.
func (r *rig) awsUsers() []string { return started(r, startAWS).Users(r.name + "-") }

func (r *rig) checkAccessKey(s *corev1.Secret) error {
	if !started(r, startAWS).Valid(string(s.Data["access_key"])) {
		return fmt.Errorf("the access key is unknown")
	}
	return nil
}

func (r *rig) setUpIdentity() {
	r.must(r.Vault.WriteTokenRole(r.t.Context(), r.name, 4*time.Hour))
}

// introspect asks Vault whether the JWT is valid.
func (r *rig) introspect(s *corev1.Secret) error {
	found, err := r.vaultSays("identity/oidc/introspect", map[string]any{
		"token": string(s.Data["token"]), "client_id": string(s.Data["client_id"]),
	})
	if err == nil && found["active"] != true {
		err = fmt.Errorf("the token is not active")
	}
	return err
}

func (r *rig) setUpTOTP() {
	r.vaultWrite(r.enable("totp", "totp")+"/keys/orders", map[string]any{
		"generate": true, "issuer": "test", "account_name": "orders", "period": 5,
	})
}

// validateCode asks the engine whether the code is valid. It accepts a code once.
func (r *rig) validateCode(s *corev1.Secret) error {
	found, err := r.vaultSays(r.mount("totp")+"/code/orders", map[string]any{"code": string(s.Data["code"])})
	if err == nil && found["valid"] != true {
		err = fmt.Errorf("the code is not valid")
	}
	return err
}

func (r *rig) setUpTransit() {
	r.vaultWrite(r.enable("transit", "transit")+"/keys/orders", map[string]any{})
}

// decryptDataKey checks that the ciphertext belongs to the plaintext.
func (r *rig) decryptDataKey(s *corev1.Secret) error {
	found, err := r.vaultSays(r.mount("transit")+"/decrypt/orders",
		map[string]any{"ciphertext": string(s.Data["ciphertext"])})
	if err == nil && found["plaintext"] != string(s.Data["plaintext"]) {
		err = fmt.Errorf("the ciphertext has another key")
	}
	return err
}

// setUpCiphertext encrypts a text and stores the result where the manifest finds it.
func (r *rig) setUpCiphertext() {
	r.setUpTransit()
	found, err := r.vaultSays(r.mount("transit")+"/encrypt/orders", map[string]any{"plaintext": "b3JkZXJz"})
	r.must(err)
	s := &corev1.Secret{ObjectMeta: r.named("orders-ciphertext")}
	s.Labels = map[string]string{v1alpha1.ParametersLabel: "true"}
	s.StringData = map[string]string{"value": found["ciphertext"].(string)}
	r.create(s)
}

func (r *rig) writeKV1(password string) {
	r.t.Helper()
	mount := r.mount("kv")
	if _, err := r.Vault.Root.Sys().MountConfigWithContext(r.t.Context(), mount); err != nil {
		r.must(r.Vault.EnableKV(r.t.Context(), mount, 1))
	}
	r.vaultWrite(mount+"/orders", map[string]any{"password": password})
}

// setUpKV2 stores two versions. The manifest requests the first one.
func (r *rig) setUpKV2() {
	mount := r.mount("secret")
	r.must(r.Vault.EnableKV(r.t.Context(), mount, 2))
	// Vault upgrades a new mount in the background, and refuses requests until then.
	r.eventually("Vault to store metadata", func() bool {
		return r.Vault.Write(r.t.Context(), mount+"/metadata/orders",
			map[string]any{"custom_metadata": map[string]string{"owner": "shop"}}) == nil
	})
	for _, password := range []string{"one", "two"} {
		r.vaultWrite(mount+"/data/orders", map[string]any{"data": map[string]string{"password": password}})
	}
}

// unpinKV2 checks what the first version gave, and requests the second one.
func (r *rig) unpinKV2() {
	r.t.Helper()
	s := r.target("orders")
	var metadata map[string]string
	r.must(json.Unmarshal(s.Data["custom_metadata"], &metadata))
	if !bytes.Equal(s.Data["password"], []byte("one")) || metadata["owner"] != "shop" {
		r.t.Errorf("the Secret has %q and the owner %q", s.Data["password"], metadata["owner"])
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Parameters = parameters(map[string]any{"version": 2})
	})
}

// verifyTLS checks what a server with the Secret would present: the key of the certificate, and a chain that leads to
// ca.crt, which is a root.
func verifyTLS(s *corev1.Secret) error {
	pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(s.Data["ca.crt"])
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			return fmt.Errorf("tls.crt contains the root")
		}
		between.AddCert(c)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{
		DNSName: "orders.shop.svc.cluster.local", Roots: roots, Intermediates: between,
	})
	return err
}
