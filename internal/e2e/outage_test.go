//go:build integration

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func TestFailedRenewalChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, withProxy())
	before := r.ready("orders")
	version := r.target("orders").ResourceVersion
	mark := r.vaultMark()
	for status, text := range map[int]string{
		http.StatusTooManyRequests:     "rate limit quota exceeded",
		472:                            "replication secondary",
		473:                            "performance standby",
		http.StatusServiceUnavailable:  "Vault is sealed",
		http.StatusBadGateway:          "bad gateway",
		http.StatusInternalServerError: "internal error",
		http.StatusBadRequest:          "something else",
		http.StatusForbidden:           "permission denied",
	} {
		r.must(r.proxy.Break(testbed.Fault{
			Path: "^/v1/sys/leases/renew$", Action: testbed.Answer, Status: status, ContentType: "application/json",
			Body: strings.Replace(vaultError, "%s", text, 1),
		}))
		r.annotate(v1alpha1.RenewRequestedAtAnnotation, text)
		r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
		if d := r.get("orders"); !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			t.Errorf("%d: Ready is not True", status)
		}
		r.proxy.Clear()
		r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.LastHandledRenewAt == text &&
				meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ReconcilingCondition) == nil
		})
	}
	after := r.get("orders")
	if leaseID(after) != leaseID(before) || r.minted(mark) != 0 || r.target("orders").ResourceVersion != version {
		t.Errorf("lease %s became %s, %d credentials were requested", leaseID(before), leaseID(after), r.minted(mark))
	}
}

// untilRenewedFor waits until the requested renewal of the object orders is handled.
func (r *rig) untilRenewedFor(request string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	return r.until("orders", "renewed", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRenewAt == request
	})
}

// annotate sets an annotation on the object orders.
func (r *rig) annotate(annotation, value string) {
	r.t.Helper()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, annotation, value) })
}

func TestSealedVaultChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, withVault(t, testbed.VaultOptions{}))
	before := r.ready("orders")
	version := r.target("orders").ResourceVersion
	mark := r.vaultMark()
	r.must(r.Vault.Seal(t.Context()))
	message := r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonBackendUnavailable)
	if want := "is sealed"; !strings.Contains(message, want) {
		t.Errorf("the provider's message is %q, want %q in it", message, want)
	}
	r.apply("more")
	r.untilReason("more", v1alpha1.ReadyCondition, v1alpha1.ReasonProviderNotReady)
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now")
	r.untilReason("orders", v1alpha1.ReconcilingCondition, v1alpha1.ReasonRenewing)
	r.must(r.Vault.Unseal(t.Context()))
	r.untilReady("more")
	after := r.untilRenewedFor("now")
	if leaseID(after) != leaseID(before) || r.target("orders").ResourceVersion != version {
		t.Error("the credential was replaced")
	}
	if n := r.minted(mark); n != 1 {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	r.untilAlive(2)
	r.remove("orders")
	r.remove("more")
	r.untilAlive(0)
}

func TestTLSErrorIsReportedAndNothingIsSent(t *testing.T) {
	t.Parallel()
	b := withVault(t, testbed.VaultOptions{TLS: true})
	ref := func(kind, key string) *v1alpha1.TLSConfig {
		return &v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{
			Kind: kind, Name: "vault-ca", Namespace: testbed.ManagerNamespace, Key: key,
		}}
	}
	for _, c := range []struct {
		name, reason, message string
		tls                   *v1alpha1.TLSConfig
	}{
		{
			"caBundle of another authority", v1alpha1.ReasonTLSFailed, "unknown authority",
			&v1alpha1.TLSConfig{CABundle: string(b.Plane.CA)},
		},
		{"no authority", v1alpha1.ReasonTLSFailed, "unknown authority", nil},
		{
			"serverName of another server", v1alpha1.ReasonTLSFailed, `not valid for "vault.example"`,
			&v1alpha1.TLSConfig{CABundle: string(b.Vault.CA), ServerName: "vault.example"},
		},
		{
			"caBundle without a certificate", v1alpha1.ReasonTLSFailed, "tls.caBundle",
			&v1alpha1.TLSConfig{CABundle: "nothing"},
		},
		{"ConfigMap without the key", v1alpha1.ReasonInvalidSpec, "other.crt", ref("ConfigMap", "other.crt")},
		{"missing Secret", v1alpha1.ReasonInvalidSpec, "vault-ca", ref("Secret", "ca.crt")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, b, withProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.TLS = c.tls }))
			authority := map[string]string{"ca.crt": string(b.Vault.CA)}
			r.create(&corev1.ConfigMap{ObjectMeta: r.named("vault-ca"), Data: authority})
			if c.tls != nil && c.tls.CARef != nil {
				change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
					p.Spec.Vault.TLS.CARef.Namespace = r.name
				})
			}
			mark := r.vaultMark()
			r.apply("orders")
			if message := r.untilProvider(v1alpha1.ReadyCondition, c.reason); !strings.Contains(message, c.message) {
				t.Errorf("the provider's message is %q, want %q in it", message, c.message)
			}
			message := r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonProviderNotReady)
			if !strings.Contains(message, r.name) {
				t.Errorf("the message of Ready is %q, want the provider's name in it", message)
			}
			change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
				ref := &v1alpha1.CAReference{Kind: "ConfigMap", Name: "vault-ca", Namespace: r.name}
				p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CARef: ref}
			})
			r.untilReady("orders")
			if n := r.minted(mark); n != 1 {
				t.Errorf("%d credentials were requested, want 1", n)
			}
		})
	}
}

func TestFixedCAConfigMapIsDetected(t *testing.T) {
	t.Parallel()
	r := newRig(t, withVault(t, testbed.VaultOptions{TLS: true}))
	authority := &corev1.ConfigMap{
		ObjectMeta: r.named("vault-ca"), Data: map[string]string{"ca.crt": string(r.Plane.CA)},
	}
	r.create(authority)
	change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
		ref := &v1alpha1.CAReference{Kind: "ConfigMap", Name: "vault-ca", Namespace: r.name}
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CARef: ref}
	})
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonTLSFailed)
	change(r, authority, func(m *corev1.ConfigMap) { m.Data["ca.crt"] = string(r.Vault.CA) })
	r.untilProvider(v1alpha1.ReadyCondition, v1alpha1.ReasonReachable)
	r.ready("orders")
}

func TestAPIServerStopDuringIssuanceMintsOnce(t *testing.T) {
	t.Parallel()
	b := ownBed(t, testbed.VaultOptions{MaxRequestDuration: vaultLimit}, "--leader-elect=false")
	r := newRig(t, b, withProxy(), withRole(testbed.DatabaseRole{
		DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour,
		CreationStatements: []string{
			`SELECT pg_sleep(5)`,
			`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
		},
	}))
	r.apply("orders")
	r.eventually("the issuance to start", func() bool { return len(r.requestTimes(r.issuing())) == 1 })
	r.must(r.Plane.StopAPIServer())
	r.eventually("the credential to be minted", func() bool { return len(r.leases()) == 1 })
	r.must(r.Plane.StartAPIServer(t.Context()))
	d := r.untilReady("orders")
	r.must(r.login(r.target("orders")))
	if n := len(r.requestTimes(r.issuing())); n != 1 || leaseID(d) != r.leases()[0] {
		t.Errorf("%d credentials were requested, want 1", n)
	}
	r.untilAlive(1)
	r.remove("orders")
	r.untilAlive(0)
	if users := r.users(); len(users) != 0 {
		t.Errorf("users are left: %v", users)
	}
}
