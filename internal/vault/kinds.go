package vault

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// The fields of a static role (database, ldap) that count down or change with each rotation.
const (
	fieldTTL          = "ttl"
	fieldLastRotation = "last_vault_rotation"
)

// rotationFields tell a static role from other responses with a ttl. A role with skip_import_rotation has no
// last_vault_rotation before its first rotation (pathStaticCredsRead in builtin/logical/database/path_creds_create.go).
var rotationFields = []string{fieldLastRotation, "rotation_period", "rotation_schedule"}

// staticCredsPath matches the paths of static roles: static-creds (aws, database), static-cred (ldap).
var staticCredsPath = regexp.MustCompile(`/static-creds?/[^/]+$`)

// classify sets the kind of the response, its term, and how it can be revoked. fields are those of the secret.
//
// Only an expiry that the engine computed counts, so KV secrets come first: a certificate or a JWT that a user stored
// in KV says nothing about the secret, and nothing would be gained by reading it again before it expires.
func classify(
	into *backend.Response, r rawResponse, a response, req *v1alpha1.VaultRequest, fields map[string]json.RawMessage,
) error {
	if a.LeaseID != "" {
		into.Kind, into.LeaseID = v1alpha1.ResponseLeased, a.LeaseID
		into.Term.Duration, into.Term.Renewable = seconds(a.LeaseDuration), a.Renewable
		into.ForeignUser = oneTimePassword(fields)
		return nil
	}
	if _, ok := kv2(a); ok {
		into.Kind = v1alpha1.ResponseStatic
		return nil
	}
	if duration := seconds(a.LeaseDuration); duration > 0 {
		// Vault registers a lease for every response that has a duration, except for those of KV version 1
		// (handleRequest in vault/request_handling.go). So this is KV version 1. The duration is the secret's own ttl,
		// or the default of the engine.
		into.Kind, into.Term.Duration = v1alpha1.ResponseStatic, duration
		return nil
	}
	if ttl, ok := scheduled(fields); ok {
		into.Kind, into.Term.Duration = v1alpha1.ResponseScheduled, ttl
		into.Volatile = []string{fieldTTL, fieldLastRotation}
		return nil
	}
	if at, ok := plannedRotation(req.Path, fields); ok {
		into.Kind = v1alpha1.ResponseScheduled
		into.Term.Duration = min(max(at.Sub(r.receivedAt), 0), maxSeconds*time.Second)
		return nil
	}
	if storedCertificate(req, fields) {
		into.Kind = v1alpha1.ResponseStatic
		return nil
	}
	if v, ok := findValidity(fields); ok {
		return expiring(into, r, req, fields, v)
	}
	into.Kind = v1alpha1.ResponseStatic
	// The engine at this fixed path stores what users wrote.
	into.UnknownExpiry = !strings.HasPrefix(req.Path, "identity/")
	// A write that returns something new each time, such as a data key of transit, must not be repeated: the key in use
	// would be lost.
	into.Once = into.UnknownExpiry && req.Method == v1alpha1.MethodWrite
	return nil
}

// oneTimePassword recognises a one-time password of the ssh engine (pathCredsCreateWrite in
// builtin/logical/ssh/path_creds_create.go). Its user is one of the host.
func oneTimePassword(fields map[string]json.RawMessage) bool {
	var kind string
	return readString(fields["key_type"], &kind) == nil && kind == "otp" && !isNull(fields["ip"])
}

// scheduled reads when Vault rotates the credential of a static role.
func scheduled(fields map[string]json.RawMessage) (time.Duration, bool) {
	var ttl json.Number
	if isNull(fields[fieldTTL]) || json.Unmarshal(fields[fieldTTL], &ttl) != nil {
		return 0, false
	}
	rotated := slices.ContainsFunc(rotationFields, func(field string) bool { return !isNull(fields[field]) })
	return seconds(ttl), rotated
}

// plannedRotation reads when Vault rotates the access key of a static role of the aws engine. Its expiration is that
// time (awsCredentials in builtin/logical/aws/path_static_creds.go). If it has passed, Vault is about to rotate.
func plannedRotation(path string, fields map[string]json.RawMessage) (time.Time, bool) {
	if !staticCredsPath.MatchString(path) {
		return time.Time{}, false
	}
	return textTime(fields["expiration"])
}

// storedCertificate recognises a certificate, or a CRL, that the engine had before: pki/cert/ca, pki/cert/crl,
// pki/issuer/main. To read it again gives the same one, until somebody replaces it. An engine issues a certificate in
// response to a write, which has the request for one, or with its private key.
func storedCertificate(req *v1alpha1.VaultRequest, fields map[string]json.RawMessage) bool {
	return req.Method != v1alpha1.MethodWrite && !isNull(fields["certificate"]) && isNull(fields["private_key"])
}

// expiring sets what a response without a lease needs that expires.
//
// The duration must not be too long, whatever the clocks of Vault and of this machine show. The expiry is a time of
// Vault's clock; to subtract the local time from it trusts that both agree. The time since notBefore, or iat, is a
// difference of Vault's own clock, but engines set notBefore 30 s or more into the past, so it alone would be too long.
// The shorter of the two is used. If that is not positive, the clocks disagree by more than the credential's life, or
// Vault returned an expired credential; to use it would replace it again and again.
func expiring(
	into *backend.Response, r rawResponse, req *v1alpha1.VaultRequest, fields map[string]json.RawMessage, v validity,
) error {
	remaining := v.until.Sub(r.receivedAt)
	if !v.from.IsZero() {
		remaining = min(remaining, v.until.Sub(v.from))
	}
	if remaining <= 0 {
		return backend.Errorf(backend.InvalidResponse, "the response for %q expired at %s, which has passed: "+
			"compare the clocks of Vault and of this cluster, and check the role's TTL",
			req.Path, v.until.UTC().Format(time.RFC3339))
	}
	into.Kind = v1alpha1.ResponseExpiring
	into.Term.Duration = min(remaining, maxSeconds*time.Second)
	if serial, ok := certificateSerial(req.Path, fields); ok {
		into.Revocable = true
		into.Identify = func(rec *v1alpha1.LeaseRecord) {
			if rec.Vault != nil {
				block := *rec.Vault // another record may share it
				block.SerialNumber = serial
				rec.Vault = &block
			}
		}
	}
	return nil
}

// certificatePath matches the paths of the pki engine that sign certificates, and captures the mount.
var certificatePath = regexp.MustCompile(`^(.+?)(?:/issuer/[^/]+)?/(?:issue|sign|sign-verbatim)(?:/[^/]+)?$`)

// serialNumber is the format of the pki engine: pairs of hexadecimal digits.
var serialNumber = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){0,31}$`)

// certificateSerial returns the serial number of a certificate that the pki engine signed.
func certificateSerial(path string, fields map[string]json.RawMessage) (string, bool) {
	var serial string
	if isNull(fields["certificate"]) || readString(fields["serial_number"], &serial) != nil {
		return "", false
	}
	return serial, serialNumber.MatchString(serial) && certificatePath.MatchString(path)
}
