package vault

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// newTLSServer is a healthy Vault that does not log clients which do not trust it.
func newTLSServer(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"initialized":true,"sealed":false,"version":"1.21.0","enterprise":false}`))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestTheServersHealth(t *testing.T) {
	for name, test := range map[string]struct {
		answer  says
		kind    backend.ErrorKind
		server  string
		version string
	}{
		"an active Vault": {
			ok(`{"initialized":true,"enterprise":false,"version":"1.21.0"}`), "", KindVault, "1.21.0",
		},
		"a later Vault": {
			ok(`{"initialized":true,"enterprise":false,"version":"2.0.1"}`), "", KindVault, "2.0.1",
		},
		"an old Vault": {ok(`{"initialized":true,"version":"1.9.3"}`), "", KindVault, "1.9.3"},
		"OpenBao":      {ok(`{"initialized":true,"version":"2.4.0"}`), "", KindOpenBao, "2.4.0"},
		"a standby": {
			says{status: 429, body: `{"initialized":true,"standby":true,"version":"2.4.0"}`}, "", KindOpenBao, "2.4.0",
		},
		"a performance standby": {
			says{status: 473, body: `{"initialized":true,"enterprise":true,"version":"1.21.0+ent"}`},
			"", KindVault, "1.21.0+ent",
		},
		"a sealed one": {
			says{status: 503, body: `{"initialized":true,"sealed":true,"enterprise":false,"version":"1.21.0"}`},
			backend.Unavailable, KindVault, "1.21.0",
		},
		"an uninitialised one": {
			says{status: 501, body: `{"initialized":false,"sealed":true,"enterprise":false,"version":"1.21.0"}`},
			backend.Unavailable, KindVault, "1.21.0",
		},
		"a DR secondary": {
			says{status: 472, body: `{"initialized":true,"enterprise":true,"version":"1.21.0"}`},
			backend.Unavailable, KindVault, "1.21.0",
		},
		"not a Vault server": {ok("hello"), backend.NoResponse, "", ""},
		"a gateway":          {says{status: 502, body: "x"}, backend.NoResponse, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/health", test.answer)
			f.server.always("sys/capabilities-self",
				ok(`{"request_id":"1","data":{"sys/leases/renew":["update"],"sys/leases/lookup":["root"],`+
					`"sys/leases/revoke":["create","update"],"auth/token/lookup-accessor":["deny"],`+
					`"auth/token/renew-accessor":["read"]}}`))
			got, err := f.Inspect(t.Context())
			wantKind(t, err, test.kind)
			if got.ServerKind != test.server || got.Version != test.version {
				t.Errorf("got %s %s, want %s %s", got.ServerKind, got.Version, test.server, test.version)
			}
			if test.kind != "" {
				return
			}
			want := []string{
				"auth/token/lookup-accessor: update", "auth/token/renew-accessor: update",
				"auth/token/revoke-accessor: update",
			}
			if !reflect.DeepEqual(got.Missing, want) {
				t.Errorf("missing %q, want %q", got.Missing, want)
			}
		})
	}
}

func TestVersionsWithKnownFaultsAreReported(t *testing.T) {
	const ha, single = `{"ha_enabled":true,"is_self":true}`, `{"ha_enabled":false}`
	for name, c := range map[string]struct {
		health, leader string
		faulty         bool
	}{
		"the first version whose standbys read": {`{"initialized":true,"version":"2.5.0"}`, ha, true},
		"the last faulty one":                   {`{"initialized":true,"version":"2.6.1"}`, ha, true},
		"a build of it":                         {`{"initialized":true,"version":"2.6.1-hsm"}`, ha, true},
		"a server that cannot have standbys":    {`{"initialized":true,"version":"2.6.0"}`, single, false},
		"a server that does not say":            {`{"initialized":true,"version":"2.6.0"}`, `{}`, true},
		"the corrected version":                 {`{"initialized":true,"version":"2.6.2"}`, ha, false},
		"a later version":                       {`{"initialized":true,"version":"2.6.10"}`, ha, false},
		"a version with a longer number":        {`{"initialized":true,"version":"2.60.1"}`, ha, false},
		"an earlier version":                    {`{"initialized":true,"version":"2.4.4"}`, ha, false},
		"a Vault with that number": {
			`{"initialized":true,"enterprise":false,"version":"2.5.0"}`, ha, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/health", ok(c.health))
			f.server.always("sys/leader", ok(c.leader))
			f.server.always("sys/capabilities-self", ok(`{"request_id":"1","data":{"sys/leases/renew":["root"]}}`))
			report, err := f.Inspect(t.Context())
			wantKind(t, err, "")
			if faulty := len(report.Faults) > 0; faulty != c.faulty {
				t.Errorf("faults: %v", report.Faults)
			}
			if asked := len(f.server.requests("sys/leader")) > 0; asked && !c.faulty && c.leader != single {
				t.Error("a request was spent on a version without faults")
			}
		})
	}
}

// A standby that serves reads lags behind, so an accessor that it does not know may belong to a live token.
func TestAStandbyThatLagsProvesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		health string
		age    time.Duration
		want   backend.ErrorKind
	}{
		"OpenBao, a new token":     {`{"initialized":true,"version":"2.6.2"}`, time.Second, backend.Unavailable},
		"OpenBao, an old token":    {`{"initialized":true,"version":"2.6.2"}`, time.Minute, ""},
		"an OpenBao that forwards": {`{"initialized":true,"version":"2.4.4"}`, time.Second, ""},
		"Vault Enterprise, a new token": {
			`{"initialized":true,"enterprise":true,"version":"1.21.0+ent"}`, 0, backend.Unavailable,
		},
		"Vault": {`{"initialized":true,"enterprise":false,"version":"1.21.0"}`, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always("sys/health", ok(c.health))
			f.server.always("auth/token/lookup-accessor", errs(400, "invalid accessor"))
			_, err := f.health(t.Context())
			wantKind(t, err, "")
			rec := recordOf(readPath, "", "acc")
			rec.StartedAt = metav1.NewTime(epoch.Add(-c.age))
			wantKind(t, f.Revoke(t.Context(), rec, owner), c.want)
		})
	}
}

func TestAProviderKeepsItsBackendUntilItChanges(t *testing.T) {
	f := newFixture(t)
	again, err := f.driver.backendFor(t.Context(), f.provider)
	if err != nil || again != f.Backend {
		t.Errorf("another backend for the same provider: %v", err)
	}
	f.server.always("sys/leases/lookup", ok(aliveLease))
	wantKind(t, f.Lookup(t.Context(), record()), "")
	f.provider.Generation = 2
	changed, err := f.driver.backendFor(t.Context(), f.provider)
	if err != nil || changed == f.Backend {
		t.Errorf("the same backend for a provider that changed: %v", err)
	}
	if n := len(f.server.requests("auth/token/revoke-self")); n != 1 {
		t.Errorf("%d sessions of the old backend were closed, want 1", n)
	}
	f.driver.Forget(f.provider)
	if later, _ := f.driver.backendFor(t.Context(), f.provider); later == changed {
		t.Error("a forgotten backend was returned")
	}
}

func TestTLSMaterialIsReadAgain(t *testing.T) {
	s := newTLSServer(t)
	f := newFixture(t)
	f.kube.configMaps = map[string]*corev1.ConfigMap{"system/ca": {
		ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: "1"},
		Data:       map[string]string{"ca.crt": string(certificate(s))},
	}}
	p := f.provider.DeepCopy()
	p.UID, p.Spec.Vault.Address = "tls", s.URL
	p.Spec.Vault.TLS = &v1alpha1.TLSConfig{
		CARef: &v1alpha1.CAReference{Kind: "ConfigMap", Name: "ca", Namespace: "system"},
	}
	first, err := f.driver.backendFor(t.Context(), p)
	wantNil(t, err)
	_, err = first.health(t.Context())
	wantNil(t, err)
	for range 5 {
		if again, _ := f.driver.backendFor(t.Context(), p); again != first {
			t.Fatal("another backend for the same material")
		}
	}
	if f.kube.reads != 1 {
		t.Errorf("the material was read %d times within a minute, want once", f.kube.reads)
	}
	f.clock.SetTime(epoch.Add(2 * time.Minute))
	f.kube.configMaps["system/ca"].ResourceVersion = "2"
	if later, _ := f.driver.backendFor(t.Context(), p); later == first {
		t.Error("the same backend for material that changed")
	}
}

func TestAClientCertificateIsPresented(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"initialized":true,"version":"1.21.0"}`))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	trusting := func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(certificate(s))}
	}
	_, err := newFixtureAt(t, nil, s.URL, trusting).health(t.Context())
	wantKind(t, err, backend.TLS)
	wantText(t, err, "tls.clientCertRef")

	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	wantNil(t, err)
	f := newFixtureAt(t, nil, s.URL, trusting)
	f.kube.secrets["system/client"] = &corev1.Secret{Data: map[string][]byte{
		"tls.crt": certificate(s), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}}
	f.provider.Generation = 2
	f.provider.Spec.Vault.TLS.ClientCertRef = &v1alpha1.SecretReference{Name: "client", Namespace: "system"}
	b, err := f.driver.backendFor(t.Context(), f.provider)
	wantNil(t, err)
	_, err = b.health(t.Context())
	wantKind(t, err, "")
}

func encoded(file []byte) string { return base64.StdEncoding.EncodeToString(file) }

// CABundle is what people paste: a file, or what `base64` prints of it.
func TestCABundleInEachFormIsTrusted(t *testing.T) {
	s := newTLSServer(t)
	ca := certificate(s)
	block, _ := pem.Decode(ca)
	wrapped := ""
	for line := range slices.Chunk([]byte(encoded(ca)), 76) {
		wrapped += string(line) + "\n"
	}
	for name, bundle := range map[string]string{
		"PEM":                           string(ca),
		"PEM with a comment before":     "# Root CA 1\n" + string(ca),
		"PEM with Windows line ends":    strings.ReplaceAll(string(ca), "\n", "\r\n"),
		"PEM of several":                string(certificate(newTLSServer(t))) + string(ca),
		"base64 of PEM":                 encoded(ca),
		"base64 of PEM in lines":        wrapped,
		"base64 of DER":                 encoded(block.Bytes),
		"base64 that ends with a space": encoded(ca) + " ",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureAt(t, nil, s.URL, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
				p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: bundle}
			})
			_, err := f.stateOf(t.Context(), record())
			if backend.KindOf(err) == backend.TLS {
				t.Error(err)
			}
		})
	}
}

func TestMissingTLSMaterialIsNamed(t *testing.T) {
	ca := certificate(newTLSServer(t))
	for name, test := range map[string]struct {
		tls  v1alpha1.TLSConfig
		kind backend.ErrorKind
		text string
	}{
		"no ConfigMap": {
			v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Kind: "ConfigMap", Name: "ca", Namespace: "system"}},
			backend.Misconfigured, `ConfigMap "ca" in namespace "system"`,
		},
		"no key": {
			v1alpha1.TLSConfig{CARef: &v1alpha1.CAReference{Name: "root", Namespace: "system", Key: "bundle"}},
			backend.Misconfigured, `no key "bundle"`,
		},
		"no certificate": {v1alpha1.TLSConfig{CABundle: "x"}, backend.TLS, "tls.caBundle"},
		"a certificate that was encoded twice": {
			v1alpha1.TLSConfig{CABundle: encoded([]byte(encoded(ca)))}, backend.TLS,
			"tls.caBundle (PEM, or a PEM or DER file encoded with base64 once) contains no certificate",
		},
		"no client key": {
			v1alpha1.TLSConfig{ClientCertRef: &v1alpha1.SecretReference{Name: "root", Namespace: "system"}},
			backend.Misconfigured, `no key "tls.crt"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.provider.Generation, f.provider.Spec.Vault.TLS = 2, &test.tls
			_, err := f.driver.backendFor(t.Context(), f.provider)
			wantKind(t, err, test.kind)
			wantText(t, err, test.text)
		})
	}
}

func TestRequestsAreCountedByResult(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	metrics := backend.NewMetrics(registry)
	wrapped := metrics.Wrap(f.Backend, f.provider)
	f.server.inTurn("sys/leases/lookup", ok(aliveLease), errs(400, "invalid lease"), errs(400, "invalid lease"))
	for range 3 {
		_ = wrapped.Lookup(t.Context(), record())
	}
	want := map[string]float64{
		"operation=lookup provider=vault provider_kind=ClusterSecretProvider result=Gone":    2,
		"operation=lookup provider=vault provider_kind=ClusterSecretProvider result=success": 1,
	}
	if got := counters(t, registry); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	metrics.Forget(f.provider)
	if got := counters(t, registry); len(got) != 0 {
		t.Errorf("a provider that is gone still has series: %v", got)
	}
}

func counters(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	families, err := registry.Gather()
	wantNil(t, err)
	found := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, pair := range metric.GetLabel() {
				labels = append(labels, pair.GetName()+"="+pair.GetValue())
			}
			if metric.GetCounter() != nil {
				found[strings.Join(labels, " ")] = metric.GetCounter().GetValue()
			}
		}
	}
	return found
}

func wantNil(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
