package vault

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// mutual is a fixture whose server notes the name in the client certificate of each login.
type mutual struct {
	*fixture
	t *testing.T
	// presented is the name of the last login. wanted is the only one that TLS accepts; empty: all.
	presented, wanted atomic.Value
	version           string
}

func newMutual(t *testing.T, change func(*v1alpha1.VaultProvider)) *mutual {
	t.Helper()
	m := &mutual{t: t}
	m.wanted.Store("")
	s := newServer(t)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.presented.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		s.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, VerifyConnection: func(c tls.ConnectionState) error {
		if wanted := m.wanted.Load(); wanted != "" && wanted != c.PeerCertificates[0].Subject.CommonName {
			return x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}
		}
		return nil
	}}
	front.StartTLS()
	t.Cleanup(front.Close)
	m.fixture = newFixtureAt(t, s, front.URL, func(p *v1alpha1.ClusterSecretProvider, o *Options) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(certificate(front))}
		change(p.Spec.Vault)
		m.store(o.Kube.(*fakeKube), "first")
	})
	return m
}

// store replaces the certificate in the Secret.
func (m *mutual) store(kube *fakeKube, name string) {
	m.t.Helper()
	ca := newTestCA(m.t, name, nil)
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	wantNil(m.t, err)
	m.version += "i"
	kube.mu.Lock()
	defer kube.mu.Unlock()
	kube.secrets["system/login"] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login", UID: "u", ResourceVersion: m.version},
		Data: map[string][]byte{
			"tls.crt": []byte(pemOf(ca.certificate)),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		},
	}
}

// login logs in with the provider's backend, as each use of the provider obtains it.
func (m *mutual) login() error {
	m.t.Helper()
	b, err := m.driver.backendFor(m.t.Context(), m.provider)
	wantNil(m.t, err)
	_, err = b.Login(m.t.Context(), who)
	return err
}

// mutualCases are the two fields that name a client certificate.
var mutualCases = map[string]func(*v1alpha1.VaultProvider){
	"tls.clientCertRef": func(p *v1alpha1.VaultProvider) { p.TLS.ClientCertRef = &loginRef.SecretReference },
	"auth.cert": func(p *v1alpha1.VaultProvider) {
		p.Auth = v1alpha1.VaultAuth{Cert: &v1alpha1.VaultCertAuth{SecretRef: loginRef.SecretReference}}
	},
}

func TestAReplacedClientCertificateIsUsedInAMinute(t *testing.T) {
	for name, change := range mutualCases {
		t.Run(name, func(t *testing.T) {
			m := newMutual(t, change)
			m.server.always("auth/cert/login", loginResponse("acc", 3600, 0))
			wantNil(t, m.login())
			m.store(m.kube, "second")
			for _, c := range []struct {
				after time.Duration
				want  string
			}{{0, "first"}, {59 * time.Second, "first"}, {time.Minute, "second"}} {
				m.clock.SetTime(epoch.Add(c.after))
				wantNil(t, m.login())
				if m.presented.Load() != c.want {
					t.Errorf("after %s, the certificate is %q, want %q", c.after, m.presented.Load(), c.want)
				}
			}
		})
	}
}

func TestAReplacementOfARefusedCertificateIsUsedAtOnce(t *testing.T) {
	for name, change := range mutualCases {
		t.Run(name, func(t *testing.T) {
			m := newMutual(t, change)
			m.server.always("auth/cert/login", loginResponse("acc", 3600, 0))
			m.wanted.Store("second")
			wantKind(t, m.login(), backend.TLS)
			m.store(m.kube, "second")
			wantNil(t, m.login())
			if m.presented.Load() != "second" {
				t.Errorf("the certificate is %q, want the second one", m.presented.Load())
			}
		})
	}
}

// A tenant's certificate that has expired must not stop the renewals of others.
func TestARefusedCertificateOfALoginIsNoOutage(t *testing.T) {
	m := newMutual(t, func(p *v1alpha1.VaultProvider) {
		p.TLS.ClientCertRef, p.Auth = nil, v1alpha1.VaultAuth{
			Cert: &v1alpha1.VaultCertAuth{SecretRef: loginRef.SecretReference},
		}
	})
	m.wanted.Store("second")
	wantKind(t, m.login(), backend.TLS)
	if m.breaker.tripped {
		t.Error("the server counts as unavailable")
	}
}

func TestAReplacedWrappingTokenIsUsedWithoutARestart(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		// accepted is the secret id that Vault accepts after the replacement, in addition to the second one.
		accepted string
		want     string
	}{
		"the old secret id is used for a minute": {59 * time.Second, "id of hvs.first", "id of hvs.first"},
		"then the new wrapping token":            {time.Minute, "id of hvs.first", "id of hvs.second"},
		"or at once if the old one is refused":   {0, "", "id of hvs.second"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withWrappedAppRole)
			f.put("secretId", "hvs.first")
			f.server.on(unwrapPath, func(r request) says {
				return ok(`{"request_id":"1","data":{"secret_id":"id of ` + r.token + `"}}`)
			})
			accepted := "id of hvs.first"
			f.server.on("auth/approle/login", func(r request) says {
				if id := r.body["secret_id"]; id != accepted && id != "id of hvs.second" {
					return errs(400, "invalid role or secret ID")
				}
				return loginResponse("acc", 3600, 0)
			})
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, "")
			f.put("secretId", "hvs.second")
			accepted = c.accepted
			f.clock.SetTime(epoch.Add(c.after))
			_, err = f.Login(t.Context(), who)
			wantKind(t, err, "")
			logins := f.server.requests("auth/approle/login")
			if id := logins[len(logins)-1].body["secret_id"]; id != c.want {
				t.Errorf("the last login used the secret id %q, want %q", id, c.want)
			}
		})
	}
}
