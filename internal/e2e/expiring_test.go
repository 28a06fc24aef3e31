//go:build integration

package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// expiringEngine returns credentials that expire and have no lease.
type expiringEngine struct {
	// request prepares the engine.
	request func(*rig) *v1alpha1.VaultRequest
	// issues is the pattern of an issuance in Vault's audit log. %s is the rig's name.
	issues string
	// life of a credential.
	life time.Duration
	// expiry of the credential in a Secret.
	expiry func(*testing.T, *corev1.Secret) time.Time
	// revocation is what the object says about it.
	revocation string
}

var pkiEngine = expiringEngine{
	request: func(r *rig) *v1alpha1.VaultRequest {
		r.must(r.Vault.EnablePKI(r.t.Context(), r.name+"-pki"))
		r.must(r.Vault.WriteCertificateRole(r.t.Context(), r.name+"-pki", "web"))
		return &v1alpha1.VaultRequest{
			Path: r.name + "-pki/issue/web", Method: v1alpha1.MethodWrite,
			Parameters: parameters(map[string]any{"common_name": "web.example", "ttl": "40s"}),
		}
	},
	issues:     "^update %s-pki/issue/web$",
	life:       40 * time.Second,
	expiry:     certificateExpiry,
	revocation: "can be revoked",
}

var sshEngine = expiringEngine{
	request: func(r *rig) *v1alpha1.VaultRequest {
		r.must(r.Vault.EnableSSH(r.t.Context(), r.name+"-ssh"))
		r.must(r.Vault.WriteSSHRole(r.t.Context(), r.name+"-ssh", "app", "deploy"))
		return &v1alpha1.VaultRequest{
			Path: r.name + "-ssh/issue/app", Method: v1alpha1.MethodWrite,
			Parameters: parameters(map[string]any{"ttl": "60s", "key_type": "ed25519"}),
		}
	},
	issues:     "^update %s-ssh/issue/app$",
	life:       time.Minute,
	expiry:     sshExpiry,
	revocation: "cannot be revoked",
}

var identityEngine = expiringEngine{
	request: func(r *rig) *v1alpha1.VaultRequest {
		r.must(r.Vault.WriteTokenRole(r.t.Context(), r.name, time.Minute))
		return &v1alpha1.VaultRequest{Path: "identity/oidc/token/" + r.name}
	},
	issues:     "^read identity/oidc/token/%s$",
	life:       time.Minute,
	expiry:     jwtExpiry,
	revocation: "cannot be revoked",
}

func certificateExpiry(t *testing.T, s *corev1.Secret) time.Time {
	t.Helper()
	block, _ := pem.Decode(s.Data["certificate"])
	if block == nil {
		t.Fatal("the Secret has no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate.NotAfter
}

func sshExpiry(t *testing.T, s *corev1.Secret) time.Time {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(s.Data["signed_key"])
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(int64(key.(*ssh.Certificate).ValidBefore), 0)
}

func jwtExpiry(t *testing.T, s *corev1.Secret) time.Time {
	t.Helper()
	parts := strings.Split(string(s.Data["token"]), ".")
	if len(parts) != 3 {
		t.Fatal("the Secret has no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Exp int64 }
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.Exp, 0)
}

// replacedInTime checks one life of a credential: a replacement is planned at 67 % of it, less a tenth of jitter;
// force-sync issues nothing; the successor is in the Secret before the credential expires. It returns the Secret with
// the first credential. Times are those of the servers.
func (e expiringEngine) replacedInTime(r *rig) *corev1.Secret {
	r.t.Helper()
	pattern := strings.ReplaceAll(e.issues, "%s", r.name)
	vaultMark, apiMark := r.vaultMark(), r.apiMark()
	r.ready("orders", requesting(e.request(r)))
	d := r.until("orders", "waiting for the replacement", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.NextAction == v1alpha1.NextReplace && d.Status.NextActionAt != nil
	})
	first := r.target("orders")
	expiry := e.expiry(r.t, first)
	e.checkPlan(r, d, expiry)

	r.annotate(v1alpha1.ForceSyncAnnotation, "now")
	r.until("orders", "synced", func(d *v1alpha1.DynamicSecret) bool { return d.Status.LastHandledForceSync == "now" })
	if n := len(r.auditTimes(vaultMark, pattern)); n != 1 {
		r.t.Errorf("force-sync issued: %d credentials, want 1", n)
	}

	r.eventually("the successor to be in the Secret", func() bool {
		s := r.target("orders")
		return s == nil || !maps.EqualFunc(s.Data, first.Data, func(a, b []byte) bool { return string(a) == string(b) })
	})
	issued, written := r.auditTimes(vaultMark, pattern), r.secretWrites(apiMark, 2)
	if len(issued) != 2 || len(written) != 2 {
		r.t.Fatalf("issued at %v, written at %v, want two of each", issued, written)
	}
	if age := issued[1].Sub(issued[0]); age < e.life*55/100 {
		r.t.Errorf("the successor was issued after %s of %s", age, e.life)
	}
	if !written[1].Before(expiry) {
		r.t.Errorf("the credential expired at %s, and its successor was written at %s", expiry, written[1])
	}
	if after := e.expiry(r.t, r.target("orders")); !after.After(expiry) {
		r.t.Errorf("the successor expires at %s, the first at %s", after, expiry)
	}
	return first
}

// checkPlan checks what the status says about the life of the credential.
func (e expiringEngine) checkPlan(r *rig, d *v1alpha1.DynamicSecret, expiry time.Time) {
	r.t.Helper()
	rec := d.Status.Leases[0]
	if rec.Kind != v1alpha1.ResponseExpiring || rec.ID != "" || rec.ExpiresAt == nil || d.Status.ExpiresAt == nil {
		r.t.Fatalf("the record is %+v, the status expires at %v", rec, d.Status.ExpiresAt)
	}
	recorded := rec.ExpiresAt.Time
	if recorded.After(expiry) || expiry.Sub(recorded) > 5*time.Second || !d.Status.ExpiresAt.Time.Equal(recorded) {
		r.t.Errorf("it expires at %s, recorded is %s, the status says %s", expiry, recorded, d.Status.ExpiresAt)
	}
	life, planned := recorded.Sub(rec.IssuedAt.Time), d.Status.NextActionAt.Sub(rec.IssuedAt.Time)
	// Recorded times are rounded down to seconds.
	if planned < life*67/100*9/10-time.Second || planned > life*67/100 {
		r.t.Errorf("it lives %s and is replaced after %s, want 60 to 67 %%", life, planned)
	}
	leased := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.LeasedCondition)
	if leased == nil || leased.Reason != v1alpha1.ReasonNotLeased || !strings.Contains(leased.Message, e.revocation) {
		r.t.Errorf("Leased is %+v, want that it %s", leased, e.revocation)
	}
}

func TestCertificateIsReplacedInTimeAndRevokedBySerial(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy,
		withKeeper(t, shared, `path "%s-pki/revoke" { capabilities = ["update"] }`))
	first := pkiEngine.replacedInTime(r)
	r.eventually("the first certificate to be revoked", func() bool { return r.certificateRevoked(first) })
	current := r.target("orders")
	if r.certificateRevoked(current) {
		t.Error("the current certificate is revoked")
	}
	r.remove("orders")
	r.eventually("the last certificate to be revoked", func() bool { return r.certificateRevoked(current) })
}

func TestIrrevocableCertificateIsReported(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy, withKeeper(t, shared, ""))
	first := pkiEngine.replacedInTime(r)
	line := r.name + "-pki/revoke"
	r.eventually("a condition to name "+line, func() bool { return strings.Contains(r.messages("orders"), line) })
	if !meta.IsStatusConditionTrue(r.get("orders").Status.Conditions, v1alpha1.ReadyCondition) {
		t.Error("the object is not Ready")
	}
	if r.certificateRevoked(first) {
		t.Error("the certificate is revoked although the keeper's policy forbids that")
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Lease.RevocationDeadline = &metav1.Duration{Duration: time.Second}
	})
	r.remove("orders")
}

// certificateRevoked asks the rig's pki engine about the certificate in a Secret.
func (r *rig) certificateRevoked(s *corev1.Secret) bool {
	r.t.Helper()
	at, err := r.Vault.CertificateRevokedAt(r.t.Context(), r.name+"-pki", string(s.Data["serial_number"]))
	r.must(err)
	return !at.IsZero()
}

func TestSSHCertificateIsReplacedInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	sshEngine.replacedInTime(r)
	r.remove("orders")
}

func TestIdentityTokenIsReplacedInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	identityEngine.replacedInTime(r)
	r.remove("orders")
}
