package vault

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestHostsAreParsed(t *testing.T) {
	for entry, message := range map[string]string{
		"vault.example": "", "*.vault-internal": "", "vault-0": "", "VAULT.Example.": "", "10.0.0.7": "",
		"10.0.0.0/8": "", "fd00::/8": "", "::1": "", "3com.example": "",
		"localhost":             "write 127.0.0.1 and ::1",
		"https://vault.example": "without a scheme and a port",
		"vault.example:8200":    "without a scheme and a port",
		"10.0.0.7:8200":         "without a scheme and a port",
		"10.0.0":                "is not a host",
		"10.0.0.0/33":           "is not a host",
		"*":                     "is not a host",
		"a.*.b":                 "is not a host",
		"":                      "is not a host",
	} {
		_, err := ParseHosts([]string{entry})
		if (err == nil) != (message == "") || err != nil && !strings.Contains(err.Error(), message) {
			t.Errorf("%q: got %v, want %q", entry, err, message)
		}
	}
}

func TestAddressesAreChecked(t *testing.T) {
	for _, c := range []struct {
		why           string
		allowed       []string
		host, address string
		refused       string
	}{
		{"pods and services need no entry", nil, "vault.vault.svc", "10.96.0.12", ""},
		{"neither do public addresses", nil, "vault.example", "203.0.113.7", ""},
		{"neither does IPv6", nil, "vault.example", "fd12::7", ""},
		{"nor an address that looks like one of loopback", nil, "vault.example", "fd12::7f00:1", ""},
		{"or like a public one", nil, "vault.example", "2001:db8::a9fe:1", ""},
		{"the machine itself", nil, "127.0.0.1", "127.0.0.1", "a loopback address"},
		{"all of its addresses", nil, "127.8.8.8", "127.8.8.8", "a loopback address"},
		{"in IPv6", nil, "::1", "::1", "a loopback address"},
		{"IPv4 in IPv6 is IPv4", nil, "::ffff:127.0.0.1", "::ffff:127.0.0.1", "a loopback address"},
		{"also through NAT64", nil, "64:ff9b::7f00:1", "64:ff9b::7f00:1", "a loopback address"},
		{"a name that resolves to it", nil, "rebound.example", "127.0.0.1", "a loopback address"},
		{"the metadata service", nil, "169.254.169.254", "169.254.169.254", "a link-local address"},
		{"with a zone", nil, "fe80::1%eth0", "fe80::1%eth0", "a link-local address"},
		{"AWS in IPv6", nil, "fd00:ec2::254", "fd00:ec2::254", "metadata"},
		{"Alibaba Cloud", nil, "100.100.100.200", "100.100.100.200", "metadata"},
		{"Linux connects to itself", nil, "0.0.0.0", "0.0.0.0", "an unspecified address"},
		{"multicast", nil, "224.0.0.1", "224.0.0.1", "a multicast address"},

		{"a listed address", []string{"127.0.0.1"}, "127.0.0.1", "127.0.0.1", ""},
		{"only that one", []string{"127.0.0.1"}, "127.0.0.2", "127.0.0.2", "a loopback address"},
		{"a listed range", []string{"127.0.0.0/8"}, "127.0.0.2", "127.0.0.2", ""},
		{"everything is not the machine itself", []string{"0.0.0.0/0"}, "127.0.0.1", "127.0.0.1", "a loopback address"},
		{"a pod network has no metadata service", []string{"100.64.0.0/10"}, "100.100.100.200", "100.100.100.200",
			"metadata"},
		{"its pods are allowed", []string{"100.64.0.0/10"}, "100.100.100.201", "100.100.100.201", ""},
		{"a name allows no protected address", []string{"vault.example"}, "vault.example", "169.254.169.254",
			"a link-local address"},
		{"a listed name", []string{"vault.example"}, "Vault.Example", "203.0.113.7", ""},
		{"any other name", []string{"vault.example"}, "example", "203.0.113.7", "which is not listed"},
		{"the address of a listed name", []string{"vault.example"}, "203.0.113.7", "203.0.113.7", "not listed"},
		{"a wildcard", []string{"*.vault.svc"}, "vault-0.vault.svc", "10.0.0.1", ""},
		{"its parent", []string{"*.vault.svc"}, "vault.svc", "10.0.0.1", "which is not listed"},
		{"a similar name", []string{"*.vault.svc"}, "evilvault.svc", "10.0.0.1", "which is not listed"},
	} {
		addr, ok := parseAddr(c.address)
		if !ok {
			t.Fatal(c.address)
		}
		err := must(ParseHosts(c.allowed)).check(c.host, addr)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %s at %s with %v: got %v, want %q", c.why, c.host, c.address, c.allowed, err, c.refused)
		}
	}
}

func TestMetadataServicesOfAllCloudsAreProtected(t *testing.T) {
	for address, of := range map[string]string{
		"169.254.169.254":    "AWS, Google Cloud, Azure, Oracle Cloud, OpenStack, DigitalOcean, Hetzner and others",
		"169.254.170.2":      "AWS for containers",
		"169.254.170.23":     "EKS Pod Identity",
		"169.254.42.42":      "Scaleway",
		"169.254.0.23":       "Tencent Cloud",
		"100.100.100.200":    "Alibaba Cloud",
		"192.0.0.192":        "Oracle Cloud Classic",
		"168.63.129.16":      "Azure's WireServer",
		"fe80::a9fe:a9fe":    "OpenStack in IPv6",
		"fd00:ec2::254":      "AWS in IPv6",
		"fd00:ec2::23":       "EKS Pod Identity in IPv6",
		"fd20:ce::254":       "Google Cloud in IPv6",
		"fd00:c1::a9fe:a9fe": "Oracle Cloud in IPv6",
		"fd00:42::42":        "Scaleway in IPv6",
		"fd00:a9fe:a9fe::1":  "Akamai in IPv6",
		"fd00:100::100:200":  "Alibaba Cloud in IPv6",

		"::ffff:169.254.169.254":          "IPv4-mapped",
		"::ffff:100.100.100.200":          "IPv4-mapped",
		"::169.254.169.254":               "IPv4-compatible",
		"::ffff:0:169.254.169.254":        "IPv4-translated",
		"64:ff9b::a9fe:a9fe":              "NAT64",
		"64:ff9b::6464:64c8":              "NAT64 to Alibaba Cloud",
		"64:ff9b:1::a9fe:a9fe":            "NAT64 with the prefix for local use",
		"64:ff9b:1:a9fe:a9:fe00::":        "the same with its 48 bits",
		"2001:db8:a9fe:a9fe::":            "NAT64 with a prefix of 32 bits",
		"2001:db8:1a9:fea9:fe::":          "NAT64 with a prefix of 40 bits",
		"2001:db8:122:a9fe:a9:fe00::":     "NAT64 with a prefix of 48 bits",
		"2001:db8:122:3a9:fe:a9fe::":      "NAT64 with a prefix of 56 bits",
		"2001:db8:122:344:a9:fea9:fe00:0": "NAT64 with a prefix of 64 bits",
		"2001:db8:122:344::a9fe:a9fe":     "NAT64 with a prefix of 96 bits",
		"2002:a9fe:a9fe::1":               "6to4",
		"2001:db8::5efe:a9fe:a9fe":        "ISATAP",
	} {
		addr, ok := parseAddr(address)
		if !ok {
			t.Fatal(address)
		}
		for _, allowed := range [][]string{nil, {"0.0.0.0/0", "::/0"}, {"vault.example"}} {
			if must(ParseHosts(allowed)).check("vault.example", addr) == nil {
				t.Errorf("%s, %s: leasekeeper connects to it with %v", address, of, allowed)
			}
		}
		if err := must(ParseHosts([]string{address})).check(address, addr); err != nil {
			t.Errorf("%s, %s: it is listed: %v", address, of, err)
		}
	}
}

// A proxy resolves the name, so only the name is known.
func TestHostsBehindAProxyAreChecked(t *testing.T) {
	for _, c := range []struct {
		why     string
		allowed []string
		host    string
		refused string
	}{
		{"the proxy's own rules decide", nil, "vault.example", ""},
		{"an address needs no resolution", nil, "169.254.169.254", "a link-local address"},
		{"neither does this name", nil, "localhost", "a loopback address"},
		{"or those below it", nil, "a.localhost.", "a loopback address"},
		{"a listed name", []string{"vault.example"}, "vault.example", ""},
		{"a name that may be anywhere", []string{"10.0.0.0/8"}, "vault.example", "a proxy resolves it"},
		{"a listed address", []string{"10.0.0.0/8"}, "10.0.0.7", ""},
	} {
		d := dialer{must(ParseHosts(c.allowed))}
		choose := d.proxy(func(*http.Request) (*url.URL, error) { return mustURL("http://proxy.example:3128"), nil })
		_, err := choose(&http.Request{URL: mustURL("http://" + c.host + ":8200")})
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %s with %v: got %v, want %q", c.why, c.host, c.allowed, err, c.refused)
		}
	}
	direct := dialer{}.proxy(func(*http.Request) (*url.URL, error) { return nil, nil })
	if _, err := direct(&http.Request{URL: mustURL("http://localhost")}); err != nil {
		t.Errorf("without a proxy the connection is checked, not the name: %v", err)
	}
}

// internal is a server that trusts the manager's network, such as a Consul agent. Its address is another one of the
// machine.
func internal(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, answers: map[string]func(request) says{}, ended: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(s)
	_ = s.Listener.Close()
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(s.ended) })
	s.always("agent/service/register", ok(`{"request_id":"1","data":{"secret":"of-the-internal-host"}}`))
	return s
}

// A tenant's server pretends to be Vault and redirects the issuance, which has the tenant's body, to an internal host.
func TestARedirectToAnInternalHostIsNotFollowed(t *testing.T) {
	const path = "agent/service/register"
	inside := internal(t)
	redirect := says{status: 307, header: http.Header{"Location": {inside.URL + "/v1/" + path}}}
	register := source(path, write, parameters(map[string]string{"Name": `"tenant"`}))
	for name, c := range map[string]struct {
		direct bool
		kind   backend.ErrorKind
	}{
		"of a standby that may have forwarded": {false, backend.NoResponse},
		"of a standby that must not have":      {true, backend.Misconfigured},
	} {
		f := newFixture(t)
		f.redirects.Store(c.direct)
		f.server.always(path, redirect)
		_, err := f.Issue(t.Context(), at, register)
		wantKind(t, err, c.kind)
		wantText(t, err, `host "127.0.0.2"`, "spec.vault.redirectHosts")
		if f.redirects.Load() {
			t.Errorf("%s: the next request forbids forwarding, which would never work", name)
		}
	}
	if got := inside.paths(); got != "" {
		t.Errorf("the internal host received %s", got)
	}
	listed := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
		p.Spec.Vault.RedirectHosts = []string{"127.0.0.0/8"}
	})
	listed.redirects.Store(true)
	listed.server.always(path, redirect)
	_, err := listed.Issue(t.Context(), at, register)
	wantKind(t, err, "")
}

// A host that the provider lists must be allowed, too.
func TestARedirectToAProtectedAddressIsNotFollowed(t *testing.T) {
	inside := internal(t)
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, o *Options) {
		p.Spec.Vault.RedirectHosts = []string{"127.0.0.2"}
		o.AllowedAddresses = must(ParseHosts([]string{"127.0.0.1"}))
	})
	f.redirects.Store(true)
	f.server.always(readPath, says{status: 307, header: http.Header{"Location": {inside.URL + "/v1/" + readPath}}})
	_, err := f.Issue(t.Context(), at, read)
	wantKind(t, err, backend.Misconfigured)
	wantText(t, err, `"127.0.0.2"`, "a loopback address", "--allowed-addresses")
	if got := inside.paths(); got != "" {
		t.Errorf("the internal host received %s", got)
	}
}

// The author of a provider chooses these addresses, too.
func TestAddressesBesideVaultsAreChecked(t *testing.T) {
	inside := internal(t)
	for name, change := range map[string]func(*v1alpha1.VaultProvider){
		"a proxy": func(p *v1alpha1.VaultProvider) { p.ProxyURL = inside.URL },
		"STS": func(p *v1alpha1.VaultProvider) {
			p.Auth = v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{
				Role: "app", RoleARN: "arn:aws:iam::111122223333:role/orders", STSEndpoint: inside.URL,
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, o *Options) {
				change(p.Spec.Vault)
				o.AllowedAddresses = must(ParseHosts([]string{"127.0.0.1"}))
			})
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, backend.Misconfigured)
			wantText(t, err, `"127.0.0.2"`, "a loopback address", "--allowed-addresses")
		})
	}
	if got := inside.paths(); got != "" {
		t.Errorf("the internal host received %s", got)
	}
}

// No provider chooses the address of a metadata server, which is always link-local.
func TestOnlyMetadataServersNeedNoEntry(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	clients := newCloudClients(time.Minute, dialer{})
	response, err := clients.Metadata.Get(s.URL)
	wantNil(t, err)
	_ = response.Body.Close()
	response, err = clients.Exchange.Get(s.URL)
	if !errors.As(err, new(*refusedAddress)) {
		t.Errorf("a service that exchanges tokens: got %v, want that its address is refused", err)
	}
	if err == nil {
		_ = response.Body.Close()
	}
}

func TestAProviderAtAnAddressThatIsNotAllowed(t *testing.T) {
	s := newServer(t)
	f := newFixtureAt(t, s, strings.Replace(s.URL, "127.0.0.1", "localhost", 1),
		func(_ *v1alpha1.ClusterSecretProvider, o *Options) { o.AllowedAddresses = Hosts{} })
	_, login := f.Login(t.Context(), who)
	_, issue := f.Issue(t.Context(), at, read)
	_, inspect := f.Inspect(t.Context())
	for _, err := range []error{login, issue, inspect} {
		wantKind(t, err, backend.Misconfigured)
		wantText(t, err, `does not connect to "localhost"`, "a loopback address", "--allowed-addresses")
		if strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("the message has the address that the name resolves to: %v", err)
		}
		if !errors.As(err, new(*refusedAddress)) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
	if got := s.paths(); got != "" {
		t.Errorf("the server received %s", got)
	}
	if f.breaker.tripped {
		t.Error("the server counts as unavailable, so requests fail with another error")
	}
}

func TestRedirectHostsThatCannotBeUsed(t *testing.T) {
	f := newFixture(t)
	f.provider.Generation++
	f.provider.Spec.Vault.RedirectHosts = []string{"10.0.0.0/99"}
	_, err := f.driver.Backend(t.Context(), f.provider)
	wantKind(t, err, backend.Misconfigured)
	wantText(t, err, "spec.vault.redirectHosts", "10.0.0.0/99")
}
