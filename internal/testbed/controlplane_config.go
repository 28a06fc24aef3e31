package testbed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"

	"k8s.io/client-go/rest"
)

// auditPolicy records metadata of requests, but no content.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  users: [system:apiserver, system:kube-controller-manager, system:kube-scheduler, kwok]
- level: Metadata
`

// configure writes keys, certificates and kubeconfigs, and prepares the three processes.
func (c *ControlPlane) configure(opts ControlPlaneOptions) error {
	ca, err := newAuthority("leasekeeper-testbed")
	if err != nil {
		return err
	}
	c.ca, c.CA = ca, ca.PEM
	files := map[string][]byte{"ca.crt": ca.PEM, "audit-policy.yaml": []byte(auditPolicy)}
	if err := serviceAccountKey(files); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(c.path(name), text, 0o600); err != nil {
			return err
		}
	}
	var ports [4]int
	for i := range ports {
		if ports[i], err = FreePort(); err != nil {
			return err
		}
	}
	host := "https://" + loopback(ports[2])
	if err := c.configureClients(ca, host); err != nil {
		return err
	}
	serving, err := ca.issue("kube-apiserver")
	if err != nil {
		return err
	}
	if _, _, err := serving.write(c.dir, "serving"); err != nil {
		return err
	}
	c.etcd = newServer(c.Binaries.Etcd, c.dir, c.etcdArgs(ports[0], ports[1])...)
	c.apiserver = newServer(c.Binaries.APIServer, c.dir,
		append(c.apiserverArgs(ports[0], ports[2], host), opts.APIServerArgs...)...)
	c.controllers = newServer(c.Binaries.ControllerManager, c.dir, c.controllersArgs(ports[3])...)
	return nil
}

// serviceAccountKey adds the key pair that signs ServiceAccount tokens.
func serviceAccountKey(files map[string][]byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if files["sa.key"], err = encodeKey(key); err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	files["sa.pub"] = encode("PUBLIC KEY", public)
	return nil
}

func (c *ControlPlane) configureClients(ca *authority, host string) error {
	admin, err := clientConfig(ca, host, "admin", "system:masters")
	if err != nil {
		return err
	}
	controllers, err := clientConfig(ca, host, "system:kube-controller-manager")
	if err != nil {
		return err
	}
	c.Config, c.Kubeconfig = admin, c.path("admin.kubeconfig")
	if err := WriteKubeconfig(c.Kubeconfig, admin); err != nil {
		return err
	}
	return WriteKubeconfig(c.path("controllers.kubeconfig"), controllers)
}

func clientConfig(ca *authority, host, user string, groups ...string) (*rest.Config, error) {
	pair, err := ca.issue(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            host,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.PEM, CertData: pair.cert, KeyData: pair.key},
		// Disable client-go's limit of 5 requests per second.
		QPS: -1,
	}, nil
}

func (c *ControlPlane) etcdArgs(client, peer int) []string {
	clientURL, peerURL := "http://"+loopback(client), "http://"+loopback(peer)
	return []string{
		"--name=testbed",
		"--data-dir=" + c.path("etcd"),
		"--listen-client-urls=" + clientURL,
		"--advertise-client-urls=" + clientURL,
		"--listen-peer-urls=" + peerURL,
		"--initial-advertise-peer-urls=" + peerURL,
		"--initial-cluster=testbed=" + peerURL,
		"--unsafe-no-fsync",
		"--backend-batch-interval=1s", // a test server loses nothing of value
		"--log-level=warn",
	}
}

func (c *ControlPlane) apiserverArgs(etcd, port int, host string) []string {
	return []string{
		"--etcd-servers=http://" + loopback(etcd),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--advertise-address=127.0.0.1",
		// A loopback address is not a valid endpoint of the `kubernetes` Service.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.path("serving.crt"),
		"--tls-private-key-file=" + c.path("serving.key"),
		"--cert-dir=" + c.path("certs"),
		"--client-ca-file=" + c.path("ca.crt"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=" + host,
		"--service-account-key-file=" + c.path("sa.pub"),
		"--service-account-signing-key-file=" + c.path("sa.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--audit-policy-file=" + c.path("audit-policy.yaml"),
		"--audit-log-path=" + c.auditPath(),
		// The default starts a new file after 100 MB, and a Mark is a position in one file. 0: never.
		"--audit-log-maxsize=0",
	}
}

func (c *ControlPlane) controllersArgs(port int) []string {
	return []string{
		"--kubeconfig=" + c.path("controllers.kubeconfig"),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + c.path("serving.crt"),
		"--tls-private-key-file=" + c.path("serving.key"),
		"--cert-dir=" + c.path("certs"),
		"--leader-elect=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + c.path("sa.key"),
		"--root-ca-file=" + c.path("ca.crt"),
		// A test run deletes dozens of namespaces at its end.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		"--concurrent-namespace-syncs=20",
	}
}

func (c *ControlPlane) auditPath() string { return c.path("audit.log") }
