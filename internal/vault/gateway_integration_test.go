//go:build integration

package vault_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// leaseOnce issues a credential and revokes it.
func leaseOnce(t *testing.T, change func(*v1alpha1.VaultProvider)) {
	t.Helper()
	b := connect(t, "app", change)
	_, err := b.Inspect(t.Context())
	must(t, err)
	rec, _ := issue(t, b, databaseRole(t, time.Hour, 2*time.Hour))
	must(t, b.Revoke(t.Context(), rec, owner))
	wantKind(t, b.Lookup(t.Context(), rec), backend.Gone)
}

func TestARealVaultBehindAGateway(t *testing.T) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bed.vault.CA)
	target, err := url.Parse(bed.vault.Address)
	must(t, err)
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, "/vault")
			r.Out.URL.RawPath = ""
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	var refused atomic.Int32
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Gateway-Key") != "the key" || !strings.HasPrefix(r.URL.Path, "/vault/v1/") {
			refused.Add(1)
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(gateway.Close)
	ref, err := secretWith(t.Context(), unique("gateway"), map[string]string{"value": "the key\n"})
	must(t, err)
	leaseOnce(t, func(p *v1alpha1.VaultProvider) {
		p.Address, p.TLS = gateway.URL+"/vault", nil
		p.Headers = []v1alpha1.HTTPHeader{{Name: "X-Gateway-Key", SecretRef: &ref}}
	})
	if n := refused.Load(); n > 0 {
		t.Errorf("the gateway refused %d requests", n)
	}
}

func TestARealVaultBehindAProxy(t *testing.T) {
	proxy, err := testbed.StartForwardProxy(bed.vault.Address)
	must(t, err)
	t.Cleanup(proxy.Close)
	leaseOnce(t, func(p *v1alpha1.VaultProvider) {
		p.Address, p.ProxyURL, p.TLS.ServerName = "https://vault.invalid:8200", proxy.URL, "localhost"
	})
	if proxy.Used() == 0 {
		t.Error("no connection used the proxy")
	}
}

func TestARealVaultAcceptsStrangePaths(t *testing.T) {
	b := connect(t, "app")
	for _, name := range []string{
		"my orders", "a?b", "a#b", "50% off", "ü/ß/日本", "a&b;c=d", "(x) [y] {z}", `quote"d 'too'`, "back\\slash",
		"a:b@c~d",
	} {
		for mount, wrap := range map[string]func(map[string]any) map[string]any{
			"kv/": func(data map[string]any) map[string]any { return data },
			"kv2/data/": func(data map[string]any) map[string]any {
				return map[string]any{"data": data}
			},
		} {
			write(t, mount+name, wrap(map[string]any{"key": name}))
			session, err := b.Login(t.Context(), who)
			must(t, err)
			response, err := b.Issue(t.Context(), session, source(read(mount+name)))
			if err != nil || string(response.Data["key"]) != name {
				t.Errorf("%s%s: read %q, %v", mount, name, response.Data["key"], err)
			}
		}
	}
}
