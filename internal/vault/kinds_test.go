package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// x509Between is a certificate in PEM.
func x509Between(t *testing.T, from, until time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wantNil(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	wantNil(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// sshBetween is an SSH certificate.
func sshBetween(t *testing.T, from, until uint64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wantNil(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	wantNil(t, err)
	c := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidAfter: from, ValidBefore: until}
	wantNil(t, c.SignCert(rand.Reader, signer))
	return string(ssh.MarshalAuthorizedKey(c))
}

// jwt has the claims. Its signature is not one.
func jwt(claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part([]byte(claims)) + "." + part([]byte("signature"))
}

// responseOf is a success with these fields and no lease.
func responseOf(t *testing.T, fields map[string]any) says {
	t.Helper()
	encoded, err := json.Marshal(map[string]any{"request_id": "1", "lease_id": "", "lease_duration": 0, "data": fields})
	wantNil(t, err)
	return ok(string(encoded))
}

// written matches the paths that engines permit to write to, not to read.
var written = regexp.MustCompile(`/(issue|sign|sign-verbatim)(/|$)`)

func TestKindsOfResponses(t *testing.T) {
	unix := func(after time.Duration) int64 { return epoch.Add(after).Unix() }
	certificate := x509Between(t, epoch.Add(-30*time.Second), epoch.Add(time.Hour))
	kv1 := func(duration int, field string) says {
		return ok(fmt.Sprintf(`{"request_id":"1","lease_id":"","lease_duration":%d,"data":{%s}}`, duration, field))
	}
	for name, test := range map[string]struct {
		path     string
		response says
		kind     v1alpha1.ResponseKind
		duration time.Duration
		unknown  bool
	}{
		"a lease": {readPath, ok(leased), v1alpha1.ResponseLeased, time.Hour, false},
		"a lease without a duration": {
			readPath, ok(`{"request_id":"1","lease_id":"database/creds/orders/abc","data":{"a":"b"}}`),
			v1alpha1.ResponseLeased, 0, false,
		},
		"a leased certificate": {
			"pki/issue/web",
			ok(`{"request_id":"1","lease_id":"pki/issue/web/a","lease_duration":60,"data":{"expiration":1}}`),
			v1alpha1.ResponseLeased, time.Minute, false,
		},
		"pki, with an expiration": {
			"pki/issue/web", responseOf(t, map[string]any{"certificate": certificate, "expiration": unix(time.Hour)}),
			v1alpha1.ResponseExpiring, time.Hour, false,
		},
		"only a certificate": {
			"pki/issue/web", responseOf(t, map[string]any{"certificate": certificate}),
			v1alpha1.ResponseExpiring, time.Hour, false,
		},
		"an SSH certificate": {
			"ssh/sign/web", responseOf(t,
				map[string]any{"signed_key": sshBetween(t, uint64(unix(-30*time.Second)), uint64(unix(time.Minute)))}),
			v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"an SSH certificate that never expires": {
			"ssh/sign/web", responseOf(t, map[string]any{"signed_key": sshBetween(t, 0, ssh.CertTimeInfinity)}),
			v1alpha1.ResponseStatic, 0, true,
		},
		"a JWT": {
			"identity/oidc/token/x", responseOf(t, map[string]any{
				"token": jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix(0), unix(time.Minute))), "ttl": 60,
			}), v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"an access token": {
			"oauth/creds/x", responseOf(t, map[string]any{
				"access_token": jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix(0), unix(time.Minute))),
			}), v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"two JWTs: the first expiry counts": {
			"oauth/creds/x", responseOf(t, map[string]any{
				"access_token": jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix(0), unix(time.Hour))),
				"id_token":     jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix(0), unix(time.Minute))),
			}), v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"an opaque access token with an expiration": {
			"oauth/creds/x", responseOf(t, map[string]any{"access_token": "x", "expiration": unix(time.Minute)}),
			v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"an expiration in RFC 3339": {
			"cloud/creds/x", responseOf(t, map[string]any{"expiration": "2026-01-02T04:34:05.5+01:00"}),
			v1alpha1.ResponseExpiring, 30*time.Minute + time.Second/2, false,
		},
		"the expiration of the year 1": {
			"cloud/creds/x", responseOf(t, map[string]any{"expiration": "0001-01-01T00:00:00Z"}),
			v1alpha1.ResponseStatic, 0, true,
		},
		"an access token of gcp": {
			"gcp/token/x", responseOf(t, map[string]any{"token": "ya29.x", "expires_at_seconds": unix(time.Minute)}),
			v1alpha1.ResponseExpiring, time.Minute, false,
		},
		"a static role": {
			"database/static-creds/x", responseOf(t, map[string]any{
				"ttl": 40.5, "last_vault_rotation": "2026-01-02T03:00:00Z", "rotation_period": 60, "password": "p",
			}), v1alpha1.ResponseScheduled, 40 * time.Second, false,
		},
		"a static role about to rotate": {
			"database/static-creds/x", responseOf(t, map[string]any{"ttl": 0, "last_vault_rotation": "x"}),
			v1alpha1.ResponseScheduled, 0, false,
		},
		"a ttl without a rotation": {
			"other/x", responseOf(t, map[string]any{"ttl": 40, "last_vault_rotation": nil}),
			v1alpha1.ResponseStatic, 0, true,
		},
		"a static role that has not been rotated": { // skip_import_rotation
			"database/static-creds/x", responseOf(t, map[string]any{"ttl": 40, "rotation_period": 60, "password": "p"}),
			v1alpha1.ResponseScheduled, 40 * time.Second, false,
		},
		"a schedule that has not rotated": {
			"database/static-creds/x", responseOf(t,
				map[string]any{"ttl": 40, "rotation_schedule": "0 0 * * 6", "last_vault_rotation": nil}),
			v1alpha1.ResponseScheduled, 40 * time.Second, false,
		},
		"a static role of ldap that has not been rotated": {
			"ldap/static-cred/x", responseOf(t, map[string]any{
				"ttl": 40, "last_vault_rotation": "0001-01-01T00:00:00Z", "rotation_period": 60, "password": "p",
			}), v1alpha1.ResponseScheduled, 40 * time.Second, false,
		},
		"a static role of aws": {
			"aws/static-creds/x", responseOf(t, map[string]any{
				"access_key": "a", "secret_key": "s", "expiration": epoch.Add(time.Hour).Format(time.RFC3339Nano),
			}), v1alpha1.ResponseScheduled, time.Hour, false,
		},
		"a static role of aws about to rotate": {
			"aws/static-creds/x", responseOf(t, map[string]any{
				"access_key": "a", "secret_key": "s", "expiration": epoch.Add(-time.Second).Format(time.RFC3339Nano),
			}), v1alpha1.ResponseScheduled, 0, false,
		},
		"the certificate of a CA": {
			"pki/cert/ca", responseOf(t, map[string]any{"certificate": certificate, "revocation_time": 0}),
			v1alpha1.ResponseStatic, 0, false,
		},
		"the chain of a CA": {
			"pki/cert/ca_chain", responseOf(t, map[string]any{"certificate": certificate, "ca_chain": certificate}),
			v1alpha1.ResponseStatic, 0, false,
		},
		"an issuer": {
			"pki/issuer/main", responseOf(t,
				map[string]any{"certificate": certificate, "ca_chain": []string{certificate}, "issuer_id": "1"}),
			v1alpha1.ResponseStatic, 0, false,
		},
		"an issuer in JSON": {
			"pki/issuer/main/json", responseOf(t, map[string]any{"certificate": certificate}),
			v1alpha1.ResponseStatic, 0, false,
		},
		"a list of revoked certificates": {
			"pki/cert/crl", responseOf(t, map[string]any{"certificate": "-----BEGIN X509 CRL-----"}),
			v1alpha1.ResponseStatic, 0, false,
		},
		"a certificate with its key": {
			"certificates/creds/x", responseOf(t, map[string]any{"certificate": certificate, "private_key": "k"}),
			v1alpha1.ResponseExpiring, time.Hour, false,
		},
		"KV version 1": {
			"kv/orders", kv1(2764800, `"a":"b"`), v1alpha1.ResponseStatic, 768 * time.Hour, false,
		},
		"KV version 1 with a ttl": {
			"kv/orders", kv1(30, `"ttl":"30s"`), v1alpha1.ResponseStatic, 30 * time.Second, false,
		},
		"an expiry stored in KV v1": {
			"kv/orders", kv1(60, `"expiration":1`), v1alpha1.ResponseStatic, time.Minute, false,
		},
		"KV version 2": {
			"kv/data/orders", responseOf(t, map[string]any{
				"data": map[string]any{"expiration": 1}, "metadata": map[string]any{"version": 1, "created_time": "x"},
			}), v1alpha1.ResponseStatic, 0, false,
		},
		"an entity": {
			"identity/entity/id/x", responseOf(t, map[string]any{"id": "x"}), v1alpha1.ResponseStatic, 0, false,
		},
		"an unknown engine": {
			"totp/code/x", responseOf(t, map[string]any{"code": "1"}), v1alpha1.ResponseStatic, 0, true,
		},
		"an expiration as text": {
			"other/x", responseOf(t, map[string]any{"expiration": "soon"}), v1alpha1.ResponseStatic, 0, true,
		},
		"a token that is no JWT": {
			"other/x", responseOf(t, map[string]any{"token": "a.b.c"}), v1alpha1.ResponseStatic, 0, true,
		},
		"a JWT without an expiry": {
			"other/x", responseOf(t, map[string]any{"token": jwt(`{"iat":1}`)}), v1alpha1.ResponseStatic, 0, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(test.path, test.response)
			var changes []func(*v1alpha1.VaultRequest)
			if written.MatchString(test.path) {
				changes = append(changes, write)
			}
			got, err := f.Issue(t.Context(), at, source(test.path, changes...))
			wantKind(t, err, "")
			lasts := got.Term.Duration == test.duration && got.Term.At == epoch
			if got.Kind != test.kind || !lasts || got.UnknownExpiry != test.unknown {
				t.Errorf("got %s for %s, unknown expiry %t", got.Kind, got.Term.Duration, got.UnknownExpiry)
			}
			scheduled := test.kind == v1alpha1.ResponseScheduled && !strings.HasPrefix(test.path, "aws/")
			if slices.Equal(got.Volatile, []string{"ttl", "last_vault_rotation"}) != scheduled {
				t.Errorf("volatile: %v", got.Volatile)
			}
			closed := f.server.requests("auth/token/revoke-self")
			if isLeased := test.kind == v1alpha1.ResponseLeased; isLeased == (len(closed) == 1) {
				t.Errorf("%d sessions were closed", len(closed))
			}
		})
	}
}

func TestAnExpiryIsNeverTooLateWhateverTheClocksShow(t *testing.T) {
	for name, test := range map[string]struct {
		iat, exp time.Duration // relative to the local clock
		want     time.Duration
		kind     backend.ErrorKind
	}{
		"the clocks agree":                {0, time.Minute, time.Minute, ""},
		"notBefore is in the past":        {-30 * time.Second, time.Minute, time.Minute, ""},
		"the local clock is behind":       {time.Hour, time.Hour + time.Minute, time.Minute, ""},
		"the local clock is ahead":        {-40 * time.Second, 20 * time.Second, 20 * time.Second, ""},
		"it expired before it was issued": {-time.Hour, -time.Hour + time.Minute, 0, backend.InvalidResponse},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			token := jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, epoch.Add(test.iat).Unix(), epoch.Add(test.exp).Unix()))
			f.server.always("identity/oidc/token/x", responseOf(t, map[string]any{"token": token}))
			got, err := f.Issue(t.Context(), at, source("identity/oidc/token/x"))
			wantKind(t, err, test.kind)
			if got.Term.Duration != test.want {
				t.Errorf("got %s, want %s", got.Term.Duration, test.want)
			}
			if err != nil {
				wantText(t, err, "clocks", "2026-01-02T02:05:05Z")
			}
		})
	}
}

func TestAFailedCloseDoesNotFailTheIssuance(t *testing.T) {
	f := newFixture(t)
	f.server.always("kv/orders", ok(`{"request_id":"1","lease_duration":60,"data":{"a":"b"}}`))
	f.server.always("auth/token/revoke-self", errs(500, "internal error"))
	_, err := f.Issue(t.Context(), at, source("kv/orders"))
	wantKind(t, err, "")
}

const serial = "39:dd:2e:90"

func TestACertificateIsRevokedByItsSerialNumber(t *testing.T) {
	certificate := x509Between(t, epoch, epoch.Add(time.Hour))
	for path, mount := range map[string]string{
		"pki/issue/web": "pki", "team/pki/sign/web": "team/pki",
		"pki/issuer/main/issue/web": "pki", "pki/sign-verbatim": "pki",
	} {
		f := newFixture(t)
		f.server.always(path, responseOf(t, map[string]any{"certificate": certificate, "serial_number": serial}))
		got, err := f.Issue(t.Context(), at, source(path, write))
		wantKind(t, err, "")
		if !got.Revocable || got.Identify == nil {
			t.Fatalf("%s: not revocable", path)
		}
		rec := recordOf(path, "", "")
		shared := rec.Vault
		if got.Identify(&rec); rec.Vault.SerialNumber != serial || shared.SerialNumber != "" {
			t.Errorf("%s: the record has serial number %q", path, rec.Vault.SerialNumber)
		}
		f.server.always(mount+"/revoke", ok(`{"request_id":"1","data":{"revocation_time":1}}`))
		wantKind(t, f.Revoke(t.Context(), rec, owner), "")
		sent := f.server.requests(mount + "/revoke")
		if len(sent) != 1 || sent[0].body["serial_number"] != serial || sent[0].method != "PUT" {
			t.Errorf("%s: sent %+v", path, sent)
		}
	}
	f := newFixture(t)
	f.server.always("ssh/sign/web", responseOf(t, map[string]any{
		"signed_key": sshBetween(t, uint64(epoch.Unix()), uint64(epoch.Unix()+60)), "serial_number": "39dd",
	}))
	if got, err := f.Issue(t.Context(), at, source("ssh/sign/web", write)); err != nil || got.Revocable {
		t.Errorf("an SSH certificate: revocable %t, %v", got.Revocable, err)
	}
}

func TestRevokingACertificate(t *testing.T) {
	for name, test := range map[string]struct {
		path, serial string
		response     says
		kind         backend.ErrorKind
		text         string
	}{
		"revoked": {"pki/issue/web", serial, nothing(), "", ""},
		"unknown": {
			"pki/issue/web", serial, errs(400, "certificate with serial "+serial+" not found."), "", "",
		},
		"unknown, Enterprise": {
			"pki/issue/web", serial, errs(400, "certificate with serial "+serial+" not found, and cross-cluster"),
			"", "",
		},
		"another unknown": {
			"pki/issue/web", serial, errs(400, "certificate with serial 11 not found."), backend.Failed, "",
		},
		"denied": {
			"pki/issue/web", serial, errs(403, denied), backend.Denied,
			`policy of role "keeper" lacks "update" on "pki/revoke"`,
		},
		"an error": {
			"pki/issue/web", serial, errs(500, "storage"), backend.Failed, "revoking certificate",
		},
		"no path of pki":           {"database/creds/orders", serial, nothing(), backend.Mismatch, "nothing is done"},
		"a path of the system":     {"sys/issue/web", serial, nothing(), backend.Mismatch, "nothing is done"},
		"not a serial number":      {"pki/issue/web", "../../sys", nothing(), backend.Mismatch, "nothing is done"},
		"a path with dot segments": {"pki/../sys/issue/web", serial, nothing(), backend.Mismatch, "nothing is done"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("pki/revoke", test.response)
			rec := recordOf(test.path, "", "")
			rec.Vault.SerialNumber = test.serial
			err := f.Revoke(t.Context(), rec, owner)
			wantKind(t, err, test.kind)
			if test.text != "" {
				wantText(t, err, test.text)
			}
			if test.kind == backend.Mismatch && f.server.paths() != "" {
				t.Errorf("requests: %s", f.server.paths())
			}
		})
	}
}

// For any field of a response: no panic, and an expiry that is found is later than now and bounded.
func FuzzValidity(f *testing.F) {
	for _, field := range []string{"expiration", "expires_at_seconds", "certificate", "signed_key", "token", "ttl"} {
		for _, value := range []string{
			`1`, `1e400`, `-1`, `1767323045`, `"x"`, `"` + jwt(`{"exp":1767323045,"iat":9e99}`) + `"`,
			`"ssh-rsa AAAA"`, `null`, `[]`,
		} {
			f.Add(field, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, field string, value []byte) {
		v, found := findValidity(map[string]json.RawMessage{field: value})
		if found && (v.until.Year() < 1970 || v.until.Year() > 9999) {
			t.Errorf("%s %q is valid until %s", field, value, v.until)
		}
	})
}
