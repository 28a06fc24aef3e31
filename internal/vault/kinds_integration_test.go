//go:build integration

package vault_test

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// issueOnce issues and revokes the record.
func issueOnce(t *testing.T, req *v1alpha1.VaultRequest) backend.Response {
	t.Helper()
	b := connect(t, "app")
	rec, response := issue(t, b, req)
	must(t, b.Revoke(t.Context(), rec, owner))
	return response
}

func TestSSHCertificatesExpire(t *testing.T) {
	ssh := mount(t, "ssh")
	write(t, ssh+"/config/ca", map[string]any{"generate_signing_key": true})
	write(t, ssh+"/roles/web", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "default_user": "web", "ttl": "10m",
		"default_extensions": map[string]string{"permit-pty": ""}, "algorithm_signer": "rsa-sha2-256",
	})
	response := issueOnce(t, &v1alpha1.VaultRequest{
		Path: ssh + "/issue/web", Method: v1alpha1.MethodWrite,
		Parameters: parameters(map[string]string{"key_type": "ed25519"}),
	})
	d := response.Term.Duration
	if response.Kind != v1alpha1.ResponseExpiring || d > 10*time.Minute || d < 9*time.Minute {
		t.Errorf("got %s for %s", response.Kind, d)
	}
	if response.Revocable {
		t.Error("an SSH certificate cannot be revoked")
	}
}

func TestTheDurationOfKVIsRespected(t *testing.T) {
	for path, test := range map[string]struct {
		data map[string]any
		want time.Duration
	}{
		"kv/default": {map[string]any{"a": "b"}, 768 * time.Hour},
		"kv/short":   {map[string]any{"ttl": "30s", "a": "b"}, 30 * time.Second},
		// A certificate or an expiry that a user stored is only a value.
		"kv/stored": {map[string]any{"expiration": 1, "token": "x"}, 768 * time.Hour},
	} {
		write(t, path, test.data)
		response := issueOnce(t, read(path))
		if response.Kind != v1alpha1.ResponseStatic || response.Term.Duration != test.want || response.UnknownExpiry {
			t.Errorf("%s: got %s for %s, unknown expiry %t",
				path, response.Kind, response.Term.Duration, response.UnknownExpiry)
		}
	}
	write(t, "kv2/data/stored",
		map[string]any{"data": map[string]any{"expiration": 1, "nothing": nil, "url": map[string]string{"a": "b&c<d"}}})
	response := issueOnce(t, read("kv2/data/stored"))
	if response.Kind != v1alpha1.ResponseStatic || response.Term.Duration != 0 || response.UnknownExpiry {
		t.Errorf("KV version 2: got %s for %s", response.Kind, response.Term.Duration)
	}
	want := map[string][]byte{"expiration": []byte("1"), "url": []byte(`{"a":"b&c<d"}`)}
	if !reflect.DeepEqual(response.Data, want) {
		t.Errorf("got %q, want %q", response.Data, want)
	}
}

func TestReadsOfCertificatesAndStaticRoles(t *testing.T) {
	pki, _ := pkiRole(t, time.Hour, false)
	must(t, bed.postgres.Exec(t.Context(), "CREATE ROLE imported LOGIN PASSWORD 'initial'"))
	write(t, "database/static-roles/imported", map[string]any{
		"db_name": "postgres", "username": "imported", "rotation_period": "24h",
		"rotation_statements": []string{`ALTER ROLE "{{name}}" WITH PASSWORD '{{password}}';`},
		"password":            "initial", "skip_import_rotation": true, // OpenBao ignores it
	})
	b := connect(t, "", rootAuth(t))
	for path, kind := range map[string]v1alpha1.ResponseKind{
		pki + "/cert/ca": v1alpha1.ResponseStatic, pki + "/cert/ca_chain": v1alpha1.ResponseStatic,
		pki + "/cert/crl": v1alpha1.ResponseStatic, pki + "/issuer/default": v1alpha1.ResponseStatic,
		pki + "/issuer/default/json":     v1alpha1.ResponseStatic,
		"database/static-creds/imported": v1alpha1.ResponseScheduled,
	} {
		rec, response := issue(t, b, read(path))
		if response.Kind != kind || response.UnknownExpiry || len(response.Data) == 0 {
			t.Errorf("%s: got %s, unknown expiry %t", path, response.Kind, response.UnknownExpiry)
		}
		left := response.Term.Duration
		if kind == v1alpha1.ResponseScheduled && (left < 23*time.Hour || left > 24*time.Hour) {
			t.Errorf("%s: the next rotation is in %s", path, left)
		}
		must(t, b.Revoke(t.Context(), rec, owner))
	}
}

func TestAnUnknownEngineHasAnUnknownExpiry(t *testing.T) {
	totp := mount(t, "totp")
	write(t, totp+"/keys/web", map[string]any{"generate": true, "issuer": "test", "account_name": "web"})
	b := connect(t, "", rootAuth(t))
	rec, response := issue(t, b, read(totp+"/code/web"))
	if response.Kind != v1alpha1.ResponseStatic || !response.UnknownExpiry {
		t.Errorf("got %s, unknown expiry %t", response.Kind, response.UnknownExpiry)
	}
	must(t, b.Revoke(t.Context(), rec, owner))
}

// rootAuth uses the root token from a Secret.
func rootAuth(t *testing.T) func(*v1alpha1.VaultProvider) {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: unique("root"), Namespace: "system"},
		StringData: map[string]string{"token": bed.vault.Root.Token()},
	}
	must(t, bed.client.Create(t.Context(), secret))
	return func(p *v1alpha1.VaultProvider) {
		auth := v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{SecretRef: v1alpha1.SecretKeyReference{
			SecretReference: v1alpha1.SecretReference{Name: secret.Name, Namespace: "system"},
		}}}
		p.Auth, p.KeeperAuth = auth, &auth
	}
}

func TestVaultsResponsesToTheRevocationOfACertificate(t *testing.T) {
	pki, req := pkiRole(t, time.Hour, false)
	bare := connect(t, "app", func(p *v1alpha1.VaultProvider) { p.KeeperAuth.Kubernetes.Role = "bare" })
	b := connect(t, "app")
	rec, response := issue(t, b, req)
	response.Identify(&rec)
	if rec.Vault.SerialNumber == "" {
		t.Fatal("the record has no serial number")
	}
	wantKind(t, bare.Revoke(t.Context(), rec, owner), backend.Denied, `role "bare" lacks "update" on "`+pki+`/revoke"`)
	for range 2 {
		must(t, b.Revoke(t.Context(), rec, owner))
	}
	unknown := rec.Vault.DeepCopy()
	unknown.SerialNumber = "11:22:33:44"
	rec.Vault = unknown
	must(t, b.Revoke(t.Context(), rec, owner))

	write(t, pki+"/roles/web",
		map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "no_store": true, "ttl": "1h"})
	rec, response = issue(t, b, req)
	response.Identify(&rec)
	must(t, b.Revoke(t.Context(), rec, owner))
}

func TestAReadOfVaultCostsOneRequest(t *testing.T) {
	write(t, "kv/cost", map[string]any{"a": "b"})
	b := connect(t, "app")
	_, err := b.Read(t.Context(), who, source(read("kv/cost")))
	must(t, err)
	before, err := bed.vault.Mark()
	must(t, err)
	for range 3 {
		_, err := b.Read(t.Context(), who, source(read("kv/cost")))
		must(t, err)
	}
	all, err := bed.vault.Requests(before, "")
	must(t, err)
	for _, entry := range all {
		if entry.Path != "kv/cost" {
			t.Errorf("a read requested %s", entry.Path)
		}
	}
	if len(all) != 3 {
		t.Errorf("three reads cost %d requests", len(all))
	}
}
