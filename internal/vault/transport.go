package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// newHTTPClient makes the client for one provider. It does not use VAULT_* from the environment. It uses HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY, like every Go program.
func newHTTPClient(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:        config,
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
func newLoginClient(config *tls.Config, certificate tls.Certificate) *http.Client {
	config = config.Clone()
	config.Certificates = []tls.Certificate{certificate}
	return newHTTPClient(config)
}

// connectTimeout bounds dialling a connection, and its TLS handshake.
const connectTimeout = 10 * time.Second

// noRedirect leaves redirects to do, which knows when to follow them is safe.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// material is a TLS configuration and the version of its sources.
type material struct {
	config *tls.Config
	// version changes when a referenced object changes; empty if nothing is referenced.
	version string
}

// readMaterial makes the TLS configuration of the provider's spec. namespace is that of a SecretProvider.
func readMaterial(ctx context.Context, k Kube, spec *v1alpha1.TLSConfig, namespace string) (material, error) {
	m := material{config: &tls.Config{MinVersion: tls.VersionTLS12}}
	if spec == nil {
		return m, nil
	}
	m.config.ServerName = spec.ServerName
	if len(spec.CABundle) > 0 {
		if err := m.trust(spec.CABundle, "tls.caBundle (a PEM file, encoded with base64 once)"); err != nil {
			return m, err
		}
	}
	if spec.CARef != nil {
		if err := m.readCA(ctx, k, *spec.CARef, namespace); err != nil {
			return m, err
		}
	}
	if spec.ClientCertRef != nil {
		if err := m.readClientCert(ctx, k, *spec.ClientCertRef, namespace); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *material) trust(pem []byte, where string) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return backend.Errorf(backend.TLS, "%s contains no certificate in PEM format", where)
	}
	m.config.RootCAs = pool
	return nil
}

func (m *material) readCA(ctx context.Context, k Kube, ref v1alpha1.CAReference, namespace string) error {
	namespace, key := or(ref.Namespace, namespace), or(ref.Key, "ca.crt")
	kind := or(ref.Kind, "Secret")
	var pem []byte
	if kind == "ConfigMap" {
		object, err := k.GetConfigMap(ctx, namespace, ref.Name)
		if err != nil {
			return readError(err, kind, namespace, ref.Name)
		}
		pem = []byte(object.Data[key])
		m.version += string(object.UID) + object.ResourceVersion + "/"
	} else {
		object, err := k.GetSecret(ctx, namespace, ref.Name)
		if err != nil {
			return readError(err, kind, namespace, ref.Name)
		}
		pem = object.Data[key]
		m.version += string(object.UID) + object.ResourceVersion + "/"
	}
	if len(pem) == 0 {
		return backend.Errorf(backend.Misconfigured,
			"tls.caRef: %s %q in namespace %q has no key %q: set tls.caRef.key", kind, ref.Name, namespace, key)
	}
	return m.trust(pem, "tls.caRef: key "+key+" of "+kind+" "+ref.Name)
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
	m.version += string(secret.UID) + secret.ResourceVersion + "/"
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
