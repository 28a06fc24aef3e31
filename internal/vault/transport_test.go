package vault

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const issuedLease = `{"request_id":"1","lease_id":"database/creds/orders/abc","lease_duration":60,"renewable":true,` +
	`"data":{"password":"x"}}`

// useOnce logs in, issues, and looks a lease up as the keeper.
func useOnce(t *testing.T, f *fixture) {
	t.Helper()
	f.server.always(readPath, ok(issuedLease))
	f.server.always("sys/leases/lookup", ok(aliveLease))
	session, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	_, err = f.Issue(t.Context(), session, read)
	wantKind(t, err, "")
	wantKind(t, f.Lookup(t.Context(), record()), "")
}

func TestRequestsBehindAURLPath(t *testing.T) {
	for _, address := range []string{"/vault", "/vault/", "/a/b.c"} {
		s := newServer(t)
		gateway := httptest.NewServer(http.StripPrefix(strings.TrimRight(address, "/"), s))
		t.Cleanup(gateway.Close)
		f := newFixtureAt(t, s, gateway.URL+address)
		useOnce(t, f)
		if got, want := f.address(), gateway.URL+strings.TrimRight(address, "/"); got != want {
			t.Errorf("messages name %s, want %s", got, want)
		}
	}
}

func TestARedirectBehindAURLPathIsFollowed(t *testing.T) {
	for name, test := range map[string]struct{ location, want string }{
		"to another path":  {"%s/standby/v1/sys/leases/lookup", "/standby/v1/sys/leases/lookup"},
		"to no path":       {"%s/v1/sys/leases/lookup", "/v1/sys/leases/lookup"},
		"to a strange one": {"%s/elsewhere", "/v1/sys/leases/lookup"},
	} {
		t.Run(name, func(t *testing.T) {
			var got atomic.Value
			target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got.Store(r.URL.Path)
				_, _ = io.WriteString(w, aliveLease)
			}))
			t.Cleanup(target.Close)
			s := newServer(t)
			s.always("sys/leases/lookup", says{status: 307,
				header: http.Header{"Location": {fmt.Sprintf(test.location, target.URL)}}})
			gateway := httptest.NewServer(http.StripPrefix("/vault", s))
			t.Cleanup(gateway.Close)
			wantKind(t, newFixtureAt(t, s, gateway.URL+"/vault").Lookup(t.Context(), record()), "")
			if got.Load() != test.want {
				t.Errorf("the redirect led to %v, want %s", got.Load(), test.want)
			}
		})
	}
}

// withHeaders sets one plain header and one from a Secret.
func withHeaders(p *v1alpha1.ClusterSecretProvider, o *Options) {
	p.Spec.Vault.Headers = []v1alpha1.HTTPHeader{
		{Name: "X-Team", Value: "shop"},
		{Name: "X-Gateway-Key", SecretRef: &v1alpha1.SecretKeyReference{SecretReference: loginRef.SecretReference}},
	}
	o.Kube.(*fakeKube).secrets["system/login"] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login", UID: "u", ResourceVersion: "1"},
		Data:       map[string][]byte{"value": []byte("first-key\n")},
	}
}

// gatewayFor passes on what has the key, and counts the rest.
func gatewayFor(t *testing.T, s *server, key *atomic.Value, refused *atomic.Int32) string {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Gateway-Key") != key.Load() || r.Header.Get("X-Team") != "shop" {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(gateway.Close)
	return gateway.URL
}

func TestHeadersAreSentWithEveryRequest(t *testing.T) {
	var key atomic.Value
	var refused atomic.Int32
	key.Store("first-key")
	s := newServer(t)
	f := newFixtureAt(t, s, gatewayFor(t, s, &key, &refused), withHeaders)
	useOnce(t, f)
	if n := refused.Load(); n != 0 {
		t.Errorf("%d requests lacked a header", n)
	}
	// Another value is used within a minute, without a restart.
	key.Store("second-key")
	f.kube.secrets["system/login"] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login", UID: "u", ResourceVersion: "2"},
		Data:       map[string][]byte{"value": []byte("second-key")},
	}
	f.clock.SetTime(epoch.Add(2 * time.Minute))
	later, err := f.driver.backendFor(t.Context(), f.provider)
	wantNil(t, err)
	_, err = later.Login(t.Context(), who)
	wantKind(t, err, "")
}

func TestAnUnusableHeaderIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		data map[string][]byte
		text string
	}{
		"no key":    {nil, `headers[X-Gateway-Key].secretRef: Secret "login" in namespace "system" has no value`},
		"two lines": {map[string][]byte{"value": []byte("a\nb")}, "store one line of text"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withHeaders)
			f.provider.Generation = 2
			f.kube.secrets["system/login"].Data = test.data
			_, err := f.driver.backendFor(t.Context(), f.provider)
			wantKind(t, err, backend.Misconfigured)
			wantText(t, err, test.text)
		})
	}
}

// newProxy is an HTTP proxy in front of the server.
func newProxy(t *testing.T, address string) *testbed.ForwardProxy {
	proxy, err := testbed.StartForwardProxy(address)
	wantNil(t, err)
	t.Cleanup(proxy.Close)
	return proxy
}

// The name resolves nowhere, so a request that avoids the proxy fails.
const nowhere = "http://vault.invalid:8200"

// allowNowhere lists the name, because a proxy resolves it.
func allowNowhere(_ *v1alpha1.ClusterSecretProvider, o *Options) {
	o.AllowedAddresses = must(ParseHosts([]string{"127.0.0.1", "vault.invalid"}))
}

func TestEveryRequestUsesTheProxy(t *testing.T) {
	for name, set := range map[string]func(t *testing.T, proxy string) change{
		"proxyURL": func(_ *testing.T, proxy string) change {
			return func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.ProxyURL = proxy }
		},
		"HTTP_PROXY": func(t *testing.T, proxy string) change {
			t.Setenv("HTTP_PROXY", proxy)
			return func(*v1alpha1.ClusterSecretProvider, *Options) {}
		},
		"proxyURL rather than HTTP_PROXY": func(t *testing.T, proxy string) change {
			t.Setenv("HTTP_PROXY", "http://proxy.invalid")
			return func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.ProxyURL = proxy }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			proxy := newProxy(t, s.URL)
			useOnce(t, newFixtureAt(t, s, nowhere, allowNowhere, set(t, proxy.URL)))
			if n := proxy.Used(); n < 4 {
				t.Errorf("%d requests used the proxy, want the two logins, the issuance and the lookup", n)
			}
		})
	}
}

func TestHTTPSThroughAProxyOfTheEnvironment(t *testing.T) {
	s := newTLSServer(t)
	proxy := newProxy(t, s.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	verified := func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CABundle: string(certificate(s)), ServerName: "example.com"}
	}
	b := newFixtureAt(t, nil, "https://vault.invalid:8200", allowNowhere, verified)
	_, err := b.health(t.Context())
	wantKind(t, err, "")
	if proxy.Used() != 1 {
		t.Errorf("the proxy had %d connections, want 1", proxy.Used())
	}
}

func TestNamespaceHeaderOfEachRequest(t *testing.T) {
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.Namespace = "team-a" })
	useOnce(t, f)
	session, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	f.server.always("kv/data", ok(`{"request_id":"1","data":{"a":"b"}}`))
	_, err = f.Issue(t.Context(), session, source("kv/data",
		func(req *v1alpha1.VaultRequest) { req.Namespace = "team-a/shop" }))
	wantKind(t, err, "")
	for path, want := range map[string]string{
		"auth/kubernetes/login": "team-a", readPath: "team-a", "sys/leases/lookup": "team-a", "kv/data": "team-a/shop",
	} {
		for _, r := range f.server.requests(path) {
			if r.namespace != want {
				t.Errorf("%s was sent to namespace %q, want %q", path, r.namespace, want)
			}
		}
		if len(f.server.requests(path)) == 0 {
			t.Errorf("%s was not requested", path)
		}
	}
}

func TestPathsAreEncoded(t *testing.T) {
	const strange = "secret/data/my orders/a?b#c & 50% (ü)+x;y=z"
	f := newFixture(t)
	f.server.always(strange, ok(`{"request_id":"1","data":{"a":"b"}}`))
	got, err := f.Issue(t.Context(), at, source(strange))
	wantKind(t, err, "")
	if string(got.Data["a"]) != "b" {
		t.Errorf("the response has the fields %d, want a", len(got.Data))
	}
}

func TestCertificateAuthorityInPEMOrDER(t *testing.T) {
	s := newTLSServer(t)
	inPEM := certificate(s)
	block, _ := pem.Decode(inPEM)
	object := metav1.ObjectMeta{UID: "u", ResourceVersion: "1"}
	for name, test := range map[string]struct {
		configMap *corev1.ConfigMap
		secret    *corev1.Secret
	}{
		"PEM in data":       {configMap: &corev1.ConfigMap{Data: map[string]string{"ca.crt": string(inPEM)}}},
		"PEM in binaryData": {configMap: &corev1.ConfigMap{BinaryData: map[string][]byte{"ca.crt": inPEM}}},
		"DER in binaryData": {configMap: &corev1.ConfigMap{BinaryData: map[string][]byte{"ca.crt": block.Bytes}}},
		"PEM in a Secret":   {secret: &corev1.Secret{Data: map[string][]byte{"ca.crt": inPEM}}},
		"DER in a Secret":   {secret: &corev1.Secret{Data: map[string][]byte{"ca.crt": block.Bytes}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newFixtureAt(t, nil, s.URL, func(p *v1alpha1.ClusterSecretProvider, o *Options) {
				ref := &v1alpha1.CAReference{Name: "ca", Namespace: "system"}
				k := o.Kube.(*fakeKube)
				if test.secret != nil {
					test.secret.ObjectMeta = object
					k.secrets["system/ca"] = test.secret
				} else {
					ref.Kind, test.configMap.ObjectMeta = "ConfigMap", object
					k.configMaps = map[string]*corev1.ConfigMap{"system/ca": test.configMap}
				}
				p.Spec.Vault.TLS = &v1alpha1.TLSConfig{CARef: ref}
			})
			_, err := b.health(t.Context())
			wantKind(t, err, "")
		})
	}
}

func TestResponsesOfACloudAreBounded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(" ", 1<<20))
	}))
	t.Cleanup(s.Close)
	clients := newCloudClients(time.Minute, dialer{loopback})
	for name, client := range map[string]*http.Client{
		"a service that exchanges tokens": clients.Exchange, "a metadata server": clients.Metadata,
	} {
		response, err := client.Get(s.URL)
		wantNil(t, err)
		n, err := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err == nil || n > 64<<10 {
			t.Errorf("%s: %d bytes of a response of 1 MiB were read, with the error %v", name, n, err)
		}
	}
}
