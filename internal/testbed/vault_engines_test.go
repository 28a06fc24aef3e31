//go:build integration

package testbed_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

func TestEnginesWithoutLeases(t *testing.T) {
	ctx := t.Context()
	account(t, "leaseless")
	v := bed.vault
	check(t, v.EnableDatabase(ctx, "static", bed.postgres))
	check(t, bed.postgres.Exec(ctx, `CREATE ROLE static_app LOGIN PASSWORD 'before'`))
	check(t, v.WriteStaticRole(ctx, "static", "app", "static_app", time.Minute))
	check(t, v.EnablePKI(ctx, "pki"))
	check(t, v.WriteCertificateRole(ctx, "pki", "web"))
	check(t, v.EnableSSH(ctx, "ssh"))
	check(t, v.WriteSSHRole(ctx, "ssh", "app", "deploy"))
	check(t, v.WriteTokenRole(ctx, "leaseless", time.Minute))

	static := must(v.Root.Logical().ReadWithContext(ctx, "static/static-creds/app"))(t)
	check(t, login(ctx, static))
	if static.LeaseID != "" || static.LeaseDuration != 0 || static.Data["last_vault_rotation"] == nil {
		t.Errorf("a static role returned %v", static)
	}

	request := map[string]any{"common_name": "web", "ttl": "40s"}
	certificate := must(v.Root.Logical().WriteWithContext(ctx, "pki/issue/web", request))(t)
	serial := fmt.Sprint(certificate.Data["serial_number"])
	expires := must(certificate.Data["expiration"].(json.Number).Int64())(t)
	left := time.Until(time.Unix(expires, 0))
	if certificate.LeaseID != "" || left <= 30*time.Second || left > 40*time.Second {
		t.Errorf("the certificate has lease %q and expires in %s", certificate.LeaseID, left)
	}
	if at := must(v.CertificateRevokedAt(ctx, "pki", serial))(t); !at.IsZero() {
		t.Errorf("the certificate was revoked at %s", at)
	}
	check(t, v.Write(ctx, "pki/revoke", map[string]any{"serial_number": serial}))
	if at := must(v.CertificateRevokedAt(ctx, "pki", serial))(t); at.IsZero() {
		t.Error("the certificate is not revoked")
	}

	request = map[string]any{"ttl": "60s", "key_type": "ed25519"}
	signed := must(v.Root.Logical().WriteWithContext(ctx, "ssh/issue/app", request))(t)
	if signed.LeaseID != "" || signed.Data["signed_key"] == nil || signed.Data["private_key"] == nil {
		t.Errorf("the ssh engine returned the keys %v", signed.Data)
	}

	token := must(bed.plane.Token(ctx, "leaseless", "orders", "vault"))(t)
	client := must(v.Login(ctx, "kubernetes", "app", token))(t)
	check(t, v.WritePolicy(ctx, "orders", issuerPolicy+"\n"+`path "identity/oidc/token/*" { capabilities = ["read"] }`))
	identity := must(client.Logical().ReadWithContext(ctx, "identity/oidc/token/leaseless"))(t)
	if identity.LeaseID != "" || identity.Data["token"] == nil {
		t.Errorf("the identity engine returned %v", identity)
	}
}
