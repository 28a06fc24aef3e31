package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
)

// Engines whose responses have no lease: static roles, certificates, SSH certificates and identity tokens.

// WriteStaticRole makes Vault rotate the password of an existing PostgreSQL user: at once, and again after each period.
// <mount>/static-creds/<name> returns the current password. The mount is one of EnableDatabase.
func (v *Vault) WriteStaticRole(ctx context.Context, mount, name, user string, period time.Duration) error {
	return v.Write(ctx, mount+"/static-roles/"+name, map[string]any{
		"db_name": "postgres", "username": user, "rotation_period": period.String(),
		"rotation_statements": []string{`ALTER ROLE "{{name}}" WITH PASSWORD '{{password}}';`},
	})
}

// EnablePKI mounts the pki engine with a root certificate of its own.
func (v *Vault) EnablePKI(ctx context.Context, mount string) error {
	if err := v.Root.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "pki"}); err != nil {
		return err
	}
	return v.Write(ctx, mount+"/root/generate/internal", map[string]any{
		"common_name": "testbed", "key_type": "ec", "ttl": "24h",
	})
}

// WriteCertificateRole creates or replaces a role of the pki engine: a write to <mount>/issue/<name> issues a
// certificate for any common name, without a lease.
func (v *Vault) WriteCertificateRole(ctx context.Context, mount, name string) error {
	return v.Write(ctx, mount+"/roles/"+name, map[string]any{
		"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "max_ttl": "1h", "generate_lease": false,
	})
}

// CertificateRevokedAt is when the pki engine revoked a certificate; zero: it did not.
func (v *Vault) CertificateRevokedAt(ctx context.Context, mount, serial string) (time.Time, error) {
	found, err := v.Root.Logical().ReadWithContext(ctx, mount+"/cert/"+serial)
	if err != nil || found == nil {
		return time.Time{}, fmt.Errorf("certificate %s of %s: %w", serial, mount, err)
	}
	number, _ := found.Data["revocation_time"].(json.Number)
	seconds, err := number.Int64()
	if err != nil || seconds == 0 {
		return time.Time{}, err
	}
	return time.Unix(seconds, 0), nil
}

// EnableSSH mounts the ssh engine with a certificate authority of its own.
func (v *Vault) EnableSSH(ctx context.Context, mount string) error {
	if err := v.Root.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "ssh"}); err != nil {
		return err
	}
	return v.Write(ctx, mount+"/config/ca", map[string]any{"generate_signing_key": true, "key_type": "ed25519"})
}

// WriteSSHRole creates or replaces a role of the ssh engine: a write to <mount>/issue/<name> issues a key pair with a
// certificate for the user.
func (v *Vault) WriteSSHRole(ctx context.Context, mount, name, user string) error {
	return v.Write(ctx, mount+"/roles/"+name, map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": user, "default_user": user, "max_ttl": "1h",
	})
}

// WriteTokenRole creates or replaces a role of the identity engine with a key of its own: identity/oidc/token/<name>
// returns a JWT that expires after the TTL.
func (v *Vault) WriteTokenRole(ctx context.Context, name string, ttl time.Duration) error {
	err := v.Write(ctx, "identity/oidc/key/"+name, map[string]any{"algorithm": "ES256", "allowed_client_ids": "*"})
	if err != nil {
		return err
	}
	return v.Write(ctx, "identity/oidc/role/"+name, map[string]any{"key": name, "ttl": ttl.String()})
}
