//go:build integration

package e2e

import "github.com/leasekeeper/leasekeeper/api/v1alpha1"

const (
	leased    = v1alpha1.ResponseLeased
	expiring  = v1alpha1.ResponseExpiring
	scheduled = v1alpha1.ResponseScheduled
	static    = v1alpha1.ResponseStatic
)

// userAndPassword are the keys of most engines.
var userAndPassword = []string{"username", "password"}

// tlsKeys are those that the manifests of pki select.
var tlsKeys = []string{"tls.crt", "tls.key", "ca.crt", "serial_number"}

var engineRows = []engineRow{
	{
		sample: "database", setUp: (*rig).setUpDatabase, kind: leased, renewable: true, keys: userAndPassword,
		works: (*rig).login,
	},
	{
		sample: "database-mariadb", setUp: (*rig).setUpMariaDB, kind: leased, renewable: true, keys: userAndPassword,
		works: (*rig).loginMariaDB,
	},
	{
		sample: "database-static", setUp: (*rig).setUpRotationPeriod, kind: scheduled, works: (*rig).login, stays: true,
		keys:   []string{"username", "password", "ttl", "last_vault_rotation", "rotation_period"},
		change: (*rig).rotateStaticRole,
	},
	{
		sample: "database-schedule", setUp: (*rig).setUpRotationSchedule, kind: scheduled, works: (*rig).login,
		stays:  true,
		keys:   []string{"username", "password", "ttl", "last_vault_rotation", "rotation_schedule", "rotation_window"},
		change: (*rig).rotateScheduledRole,
	},
	{
		sample: "kubernetes", setUp: (*rig).setUpKubernetes, kind: leased, works: (*rig).reviewToken,
		keys: []string{"service_account_token", "service_account_namespace"},
	},
	{
		sample: "pki-issue", setUp: (*rig).setUpLeasedPKI, kind: leased, keys: tlsKeys, works: (*rig).checkCertificate,
	},
	{
		sample: "pki-sign", setUp: (*rig).setUpSigningPKI, kind: expiring, keys: tlsKeys,
		works: (*rig).checkCertificate,
	},
	{
		sample: "ssh-otp", setUp: (*rig).setUpOTP, kind: leased, works: (*rig).verifyOTP, onlyOnce: true,
		keys: []string{"ip", "key", "key_type", "port", "username"},
	},
	{
		sample: "ssh-sign", setUp: (*rig).setUpSSH, kind: expiring, keys: []string{"serial_number", "signed_key"},
		works: (*rig).checkSSHCertificate, stays: true,
	},
	{
		sample: "rabbitmq", setUp: (*rig).setUpRabbitMQ, kind: leased, renewable: true, keys: userAndPassword,
		works: (*rig).loginRabbitMQ, left: (*rig).rabbitUsers,
	},
	{
		sample: "ldap-static", setUp: (*rig).setUpStaticLDAP, kind: scheduled, works: (*rig).bind, stays: true,
		keys: []string{"dn", "username", "password", "last_password", "last_vault_rotation", "rotation_period", "ttl"},
		change: func(r *rig) {
			r.must(r.Vault.Write(r.t.Context(), r.mount("ldap")+"/rotate-role/orders", nil))
		},
	},
	{
		sample: "ldap-dynamic", setUp: (*rig).setUpDynamicLDAP, kind: leased, renewable: true, works: (*rig).bind,
		keys: []string{"distinguished_names", "username", "password"},
	},
	{
		sample: "ldap-library", setUp: func(r *rig) { r.setUpLibrary("one", "two") }, kind: leased, renewable: true,
		works: (*rig).bind, keys: []string{"service_account_name", "password"},
	},
	{
		sample: "aws", plugin: "aws", setUp: (*rig).setUpAWSUsers, kind: leased, renewable: true,
		works: (*rig).checkAccessKey, keys: []string{"access_key", "secret_key"}, left: (*rig).awsUsers,
	},
	{
		sample: "aws-sts", plugin: "aws", setUp: (*rig).setUpAWSRole, kind: leased, works: (*rig).checkAccessKey,
		stays: true, keys: []string{"access_key", "secret_key", "security_token", "session_token", "arn", "ttl"},
	},
	{
		sample: "identity", setUp: (*rig).setUpIdentity, kind: expiring, keys: []string{"client_id", "token", "ttl"},
		works: (*rig).introspect, stays: true,
	},
	{
		sample: "totp", setUp: (*rig).setUpTOTP, kind: static, keys: []string{"code"}, works: (*rig).validateCode,
		onlyOnce: true, stays: true,
		change: func(*rig) {}, // the next code comes by itself
	},
	{
		sample: "transit-datakey", setUp: (*rig).setUpTransit, kind: static, works: (*rig).decryptDataKey, stays: true,
		keys: []string{"plaintext", "ciphertext", "key_version"},
	},
	{
		sample: "transit-decrypt", setUp: (*rig).setUpCiphertext, kind: static, keys: []string{"plaintext"}, same: true,
	},
	{
		sample: "kv-1", setUp: func(r *rig) { r.writeKV1("one") }, kind: static, keys: []string{"password"},
		change: func(r *rig) { r.writeKV1("two") },
	},
	{
		sample: "kv-2", setUp: (*rig).setUpKV2, kind: static, keys: []string{"password", "custom_metadata"},
		change: (*rig).unpinKV2,
	},
}
