package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Hosts is a set of hosts: names, names with a leading "*." for everything below them, addresses, and CIDRs.
type Hosts struct {
	names    []string
	prefixes []netip.Prefix
}

// hostName is a DNS name. Its last label is not a number, so that it cannot be a malformed address.
var hostName = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_-]*[a-z_-][a-z0-9_-]*$`)

// ParseHosts reads a set. An error names the entry and what to write instead.
func ParseHosts(entries []string) (Hosts, error) {
	var h Hosts
	var errs []error
	for _, entry := range entries {
		name := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(entry), "."))
		prefix, isPrefix := parsePrefix(name)
		switch {
		case isPrefix:
			h.prefixes = append(h.prefixes, prefix)
		case name == "localhost":
			errs = append(errs, errors.New(`"localhost" is not accepted: write 127.0.0.1 and ::1`))
		case hostName.MatchString(name):
			h.names = append(h.names, name)
		default:
			errs = append(errs, fmt.Errorf("%q is not a host: write a name such as vault.example or *.vault.svc, "+
				"an address such as 10.0.0.7, or a CIDR such as 10.0.0.0/8, without a scheme and a port", entry))
		}
	}
	return h, errors.Join(errs...)
}

func parsePrefix(text string) (netip.Prefix, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Masked(), true
	}
	addr, ok := parseAddr(text)
	return netip.PrefixFrom(addr, addr.BitLen()), ok
}

func (h Hosts) empty() bool { return len(h.names)+len(h.prefixes) == 0 }

// has reports whether the set has a host: a name, or an address as text.
func (h Hosts) has(host string) bool {
	if addr, ok := parseAddr(host); ok {
		return h.hasAddress(addr)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(h.names, func(name string) bool {
		below, wildcard := strings.CutPrefix(name, "*")
		return name == host || wildcard && strings.HasSuffix(host, below)
	})
}

func (h Hosts) hasAddress(addr netip.Addr) bool {
	return slices.ContainsFunc(h.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseAddr reads an address. It returns the IPv4 address of one that is embedded in IPv6, because the connection goes
// there: ::ffff:127.0.0.1, and 64:ff9b::7f00:1 through a NAT64 gateway (RFC 6052).
func parseAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = addr.WithZone("").Unmap()
	if nat64.Contains(addr) {
		bytes := addr.As16()
		addr = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return addr, true
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// protected addresses belong to the machine itself and to the cloud that it runs in. Whoever reaches them from the
// manager's pod is trusted there, so an entry must name them: an entry for more than such a range does not allow it.
var protected = []struct {
	netip.Prefix
	what string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	// Linux connects to the machine itself.
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
	// AWS, Google Cloud, Oracle Cloud, Scaleway, Akamai, Alibaba Cloud, Oracle Cloud Classic, and Azure's WireServer.
	// All other addresses are link-local.
	{netip.MustParsePrefix("fd00:ec2::/32"), metadataService},
	{netip.MustParsePrefix("fd20:ce::254/128"), metadataService},
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), metadataService},
	{netip.MustParsePrefix("fd00:42::42/128"), metadataService},
	{netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), metadataService},
	{netip.MustParsePrefix("fd00:100::100:200/128"), metadataService},
	{netip.MustParsePrefix("100.100.100.200/32"), metadataService},
	{netip.MustParsePrefix("192.0.0.192/32"), metadataService},
	{netip.MustParsePrefix("168.63.129.16/32"), metadataService},
}

const metadataService = "an address of a cloud's metadata service"

// embeddable are the IPv4 addresses of metadata services. A network may choose its own prefix for NAT64, so they are
// protected behind every prefix. Any other IPv4 address may be a part of an IPv6 address by chance.
var embeddable = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"),
	// AWS for containers, and EKS Pod Identity.
	netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	// Scaleway and Tencent Cloud.
	netip.MustParseAddr("169.254.42.42"), netip.MustParseAddr("169.254.0.23"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("168.63.129.16"),
}

// embedded is where in an IPv6 address the four bytes of an IPv4 address are: those of NAT64 for prefixes of 32, 40,
// 48, 56, 64 and 96 bits, whose byte 8 is not used (RFC 6052), and those of 6to4 (RFC 3056). The last four are also
// those of IPv4-compatible and IPv4-translated addresses (RFC 4291, RFC 7915) and of ISATAP (RFC 5214).
var embedded = [][4]int{
	{4, 5, 6, 7}, {5, 6, 7, 9}, {6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}, {2, 3, 4, 5},
}

// leadsToMetadata reports whether a metadata service's IPv4 address is embedded in an IPv6 address.
func leadsToMetadata(addr netip.Addr) bool {
	if !addr.Is6() {
		return false
	}
	bytes := addr.As16()
	return slices.ContainsFunc(embedded, func(at [4]int) bool {
		v4 := [4]byte{bytes[at[0]], bytes[at[1]], bytes[at[2]], bytes[at[3]]}
		return slices.Contains(embeddable, netip.AddrFrom4(v4))
	})
}

// refusedAddress is the error of a connection that --allowed-addresses does not permit. It does not contain the address
// that a name resolves to: the author of a provider need not learn the cluster's names.
type refusedAddress struct{ host, why string }

func (r *refusedAddress) Error() string {
	return fmt.Sprintf("leasekeeper does not connect to %q, %s: "+
		"ask the cluster's administrator to add it to --allowed-addresses", r.host, r.why)
}

// Unwrap tells auth methods, which do not know this type, what kind of error it is.
func (r *refusedAddress) Unwrap() error {
	return backend.Errorf(backend.Misconfigured, "%s", r.Error())
}

// check returns why leasekeeper does not connect to an address of the host; nil: it does.
func (h Hosts) check(host string, addr netip.Addr) error {
	for _, p := range protected {
		named := func(entry netip.Prefix) bool {
			return entry.Bits() >= p.Bits() && p.Contains(entry.Addr()) && entry.Contains(addr)
		}
		if p.Contains(addr) && !slices.ContainsFunc(h.prefixes, named) {
			return &refusedAddress{host, "because it is " + p.what}
		}
	}
	if leadsToMetadata(addr) && !slices.Contains(h.prefixes, netip.PrefixFrom(addr, addr.BitLen())) {
		return &refusedAddress{host, "because it is " + metadataService}
	}
	if h.empty() || h.hasAddress(addr) || h.has(host) {
		return nil
	}
	return &refusedAddress{host, "which is not listed"}
}

// checkHost checks a host that a proxy resolves. A name can only be compared with the names in the set.
func (h Hosts) checkHost(host string) error {
	if addr, ok := parseAddr(host); ok {
		return h.check(host, addr)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return &refusedAddress{host, "because it is a loopback address"}
	case h.empty() || h.has(host):
		return nil
	}
	return &refusedAddress{host, "whose name is not listed, and a proxy resolves it"}
}

// dialer connects to permitted addresses.
type dialer struct{ allowed Hosts }

// DialContext checks each address after the name is resolved, right before it is dialled. A check before would be
// useless: the name may resolve to another address then.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{
		Timeout: connectTimeout, KeepAlive: 30 * time.Second,
		Control: func(_, resolved string, _ syscall.RawConn) error {
			at, _, err := net.SplitHostPort(resolved)
			if err != nil {
				return err
			}
			addr, ok := parseAddr(at)
			if !ok {
				return &refusedAddress{host, "because its address cannot be read"}
			}
			return d.allowed.check(host, addr)
		},
	}).DialContext(ctx, network, address)
}

// proxy wraps the choice of a proxy. The proxy resolves the host and connects to it, so the host is checked before; the
// connection to the proxy is checked like any other.
func (d dialer) proxy(choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(request *http.Request) (*url.URL, error) {
		proxy, err := choose(request)
		if proxy == nil || err != nil {
			return proxy, err
		}
		return proxy, d.allowed.checkHost(request.URL.Hostname())
	}
}
