package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http/httpproxy"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// proxyFunc returns the proxy of a request; nil: none.
type proxyFunc = func(*http.Request) (*url.URL, error)

// proxyOf is the proxy of the provider, or else that of leasekeeper's environment.
func proxyOf(spec *v1alpha1.VaultProvider) (proxyFunc, error) {
	if spec.ProxyURL == "" {
		return environmentProxy(), nil
	}
	proxy, err := url.Parse(spec.ProxyURL)
	if err != nil || proxy.Host == "" {
		return nil, backend.Errorf(backend.Misconfigured,
			"proxyURL is not a URL with a scheme and a host: set spec.vault.proxyURL to one")
	}
	return http.ProxyURL(proxy), nil
}

// environmentProxy is the proxy of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
func environmentProxy() proxyFunc {
	choose := httpproxy.FromEnvironment().ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// newHTTPClient makes the client for one provider. It does not use VAULT_* from the environment. It connects to the
// dialer's addresses only, to a proxy as well.
func newHTTPClient(config *tls.Config, dial dialer, proxy proxyFunc) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  dial.proxy(proxy),
			DialContext:            dial.DialContext,
			TLSClientConfig:        config.Clone(), // the transport changes it
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    32,
			IdleConnTimeout:        60 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			// No gzip: responses are small, and their size is bounded as they are read.
			DisableCompression: true,
		},
		CheckRedirect: noRedirect,
	}
}

// newLoginClient makes a client for one login with a certificate of its own. Its connection must not serve others.
func newLoginClient(config *tls.Config, dial dialer, proxy proxyFunc, certificate tls.Certificate) *http.Client {
	config = config.Clone()
	config.Certificates = []tls.Certificate{certificate}
	return newHTTPClient(config, dial, proxy)
}

// newCloudClients makes the clients for the services of a cloud. The author of a provider may choose the address of one
// that exchanges tokens, so it must be allowed, and it is reached through the proxy of the environment. The addresses
// for which the client for metadata is used are constants of the code, or come from leasekeeper's own environment. They
// are link-local, so they are neither checked nor requested through a proxy, which has a metadata server of its own.
func newCloudClients(timeout time.Duration, dial dialer) auth.HTTPClients {
	exchange := newHTTPClient(&tls.Config{MinVersion: tls.VersionTLS12}, dial, environmentProxy()).Transport
	return auth.NewHTTPClients(exchange, &http.Transport{MaxResponseHeaderBytes: 64 << 10}, timeout)
}

// connectTimeout bounds dialling a connection, and its TLS handshake.
const connectTimeout = 10 * time.Second

// noRedirect leaves redirects to do, which knows when to follow them is safe.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// material is a TLS configuration, headers, and the version of their sources.
type material struct {
	config  *tls.Config
	headers http.Header
	// version changes when a referenced object changes; empty if nothing is referenced.
	version string
}

// refersTo is true if the provider's spec refers to objects, which may change.
func refersTo(spec *v1alpha1.VaultProvider) bool {
	return spec.TLS != nil ||
		slices.ContainsFunc(spec.Headers, func(h v1alpha1.HTTPHeader) bool { return h.SecretRef != nil })
}

// readMaterial makes the TLS configuration and the headers of the provider's spec. namespace is that of a
// SecretProvider.
func readMaterial(ctx context.Context, k Kube, spec *v1alpha1.VaultProvider, namespace string) (material, error) {
	m := material{config: &tls.Config{MinVersion: tls.VersionTLS12}, headers: http.Header{}}
	for _, h := range spec.Headers {
		if err := m.readHeader(ctx, k, h, namespace); err != nil {
			return m, err
		}
	}
	return m, m.readTLS(ctx, k, spec.TLS, namespace)
}

func (m *material) readHeader(ctx context.Context, k Kube, h v1alpha1.HTTPHeader, namespace string) error {
	if h.SecretRef == nil {
		m.headers.Set(h.Name, h.Value)
		return nil
	}
	namespace, key := or(h.SecretRef.Namespace, namespace), or(h.SecretRef.Key, "value")
	secret, err := k.GetSecret(ctx, namespace, h.SecretRef.Name)
	if err != nil {
		return readError(err, "Secret", namespace, h.SecretRef.Name)
	}
	m.noteVersion(secret)
	read := auth.Secret{Namespace: namespace, Name: secret.Name, Data: secret.Data}
	value, err := read.Text(key, "headers["+h.Name+"].secretRef")
	if err != nil {
		return err
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return backend.Errorf(backend.Misconfigured, "headers[%s].secretRef: key %q of Secret %q in namespace %q "+
			"cannot be sent in a header: store one line of text", h.Name, key, h.SecretRef.Name, namespace)
	}
	m.headers.Set(h.Name, value)
	return nil
}

// noteVersion adds an object to the version of the material.
func (m *material) noteVersion(o metav1.Object) {
	m.version += string(o.GetUID()) + o.GetResourceVersion() + "/"
}

func (m *material) readTLS(ctx context.Context, k Kube, spec *v1alpha1.TLSConfig, namespace string) error {
	if spec == nil {
		return nil
	}
	m.config.ServerName = spec.ServerName
	if len(spec.CABundle) > 0 {
		const where = "tls.caBundle (PEM, or a PEM or DER file encoded with base64 once)"
		if err := m.trust(bundleOf(spec.CABundle), where); err != nil {
			return err
		}
	}
	if spec.CARef != nil {
		if err := m.readCA(ctx, k, *spec.CARef, namespace); err != nil {
			return err
		}
	}
	if spec.ClientCertRef != nil {
		return m.readClientCert(ctx, k, *spec.ClientCertRef, namespace)
	}
	return nil
}

// bundleOf is the bundle in a field that has it as PEM or encoded with base64.
func bundleOf(field string) []byte {
	text := strings.Join(strings.Fields(field), "") // base64 wraps its lines
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		return decoded
	}
	return []byte(field) // PEM has hyphens, which base64 has not
}

// trust accepts PEM, and DER as `keytool` and Windows export it.
func (m *material) trust(bundle []byte, where string) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		all, err := x509.ParseCertificates(bundle)
		if err != nil || len(all) == 0 {
			return backend.Errorf(backend.TLS, "%s contains no certificate in PEM or DER format", where)
		}
		for _, c := range all {
			pool.AddCert(c)
		}
	}
	m.config.RootCAs = pool
	return nil
}

func (m *material) readCA(ctx context.Context, k Kube, ref v1alpha1.CAReference, namespace string) error {
	namespace, key := or(ref.Namespace, namespace), or(ref.Key, "ca.crt")
	kind := or(ref.Kind, "Secret")
	var bundle []byte
	if kind == "ConfigMap" {
		object, err := k.GetConfigMap(ctx, namespace, ref.Name)
		if err != nil {
			return readError(err, kind, namespace, ref.Name)
		}
		if bundle = object.BinaryData[key]; len(bundle) == 0 {
			bundle = []byte(object.Data[key])
		}
		m.noteVersion(object)
	} else {
		object, err := k.GetSecret(ctx, namespace, ref.Name)
		if err != nil {
			return readError(err, kind, namespace, ref.Name)
		}
		bundle = object.Data[key]
		m.noteVersion(object)
	}
	if len(bundle) == 0 {
		return backend.Errorf(backend.Misconfigured,
			"tls.caRef: %s %q in namespace %q has no key %q: set tls.caRef.key", kind, ref.Name, namespace, key)
	}
	return m.trust(bundle, "tls.caRef: key "+key+" of "+kind+" "+ref.Name)
}

func (m *material) readClientCert(ctx context.Context, k Kube, ref v1alpha1.SecretReference, namespace string) error {
	namespace = or(ref.Namespace, namespace)
	secret, err := k.GetSecret(ctx, namespace, ref.Name)
	if err != nil {
		return readError(err, "Secret", namespace, ref.Name)
	}
	pair, err := auth.KeyPair(auth.Secret{Namespace: namespace, Name: ref.Name, Data: secret.Data}, "tls.clientCertRef")
	if err != nil {
		return err
	}
	m.config.Certificates = []tls.Certificate{pair}
	m.noteVersion(secret)
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
