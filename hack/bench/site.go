package main

import (
	"context"
	_ "embed"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// namespace is also the name of the ServiceAccount, the provider, and the role in Vault: see manifests/provider.yaml.
const namespace = "bench"

var (
	//go:embed manifests/audit-policy.yaml
	auditPolicy string
	//go:embed manifests/provider.yaml
	providerManifest string
	//go:embed manifests/object.yaml
	objectManifest string
	//go:embed manifests/object-full.yaml
	fullManifest string

	dynamicSecrets = schema.GroupVersionResource{
		Group: "leasekeeper.io", Version: "v1alpha1", Resource: "dynamicsecrets",
	}
	secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// site is the servers, and a running manager with the RBAC that users install.
type site struct {
	opts    options
	dir     string
	plane   *testbed.ControlPlane
	vault   *testbed.Vault
	manager *testbed.Manager
	// pprof is the address of the manager's profiles; empty without the option.
	pprof string
	// kube has an administrator's rights and is not throttled.
	kube dynamic.Interface
}

// openSite returns when the manager runs and the provider is Ready.
func openSite(ctx context.Context, opts options) (*site, error) {
	progress("starting etcd, kube-apiserver, kube-controller-manager, Vault and the manager")
	s := &site{opts: opts}
	for _, step := range []func(context.Context) error{
		s.startControlPlane, s.startVault, s.install, s.startManager, s.awaitProvider,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.lastWords(), s.close())
		}
	}
	return s, nil
}

func (s *site) startControlPlane(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "leasekeeper-bench-"); err != nil {
		return err
	}
	policy, err := s.file("audit-policy.yaml", auditPolicy)
	if err != nil {
		return err
	}
	s.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{
		CRDs: []string{filepath.Join("config", "crd", "bases")},
		// A rotated log would lose requests: the default starts a new file after 100 MB.
		APIServerArgs: []string{"--audit-policy-file=" + policy, "--audit-log-maxsize=0"},
	})
	if err != nil {
		return err
	}
	s.kube, err = dynamic.NewForConfig(s.plane.Config)
	return err
}

// install applies the manifests that users apply, then the bench's own.
func (s *site) install(ctx context.Context) error {
	provider, err := s.file("provider.yaml", expand(providerManifest, "VAULT_ADDRESS", s.vault.Address))
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-k", filepath.Join("config", "default")},
		{"apply", "-f", provider},
	} {
		if _, err := s.plane.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) startManager(ctx context.Context) (err error) {
	flags := append([]string{"--concurrency=" + strconv.Itoa(s.opts.concurrency)}, s.opts.flags...)
	if s.opts.profiles != "" {
		port, err := testbed.FreePort()
		if err != nil {
			return err
		}
		s.pprof = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		flags = append(flags, "--pprof-bind-address="+s.pprof)
	}
	s.manager, err = testbed.NewManager(ctx, s.plane, s.opts.manager, testbed.ManagerOptions{Flags: flags})
	if err != nil {
		return err
	}
	return s.manager.Run(ctx)
}

func (s *site) awaitProvider(ctx context.Context) error {
	_, err := s.plane.Kubectl(ctx, "wait", "--for=condition=Ready", "clustersecretprovider/"+namespace, "--timeout=60s")
	return err
}

// lastWords returns the end of the manager's log as an error, to follow the error that it explains.
func (s *site) lastWords() error {
	if s.manager == nil {
		return nil
	}
	return errors.New(s.manager.LastWords(10))
}

// close stops everything, the manager first.
func (s *site) close() error {
	var errs []error
	if s.manager != nil {
		errs = append(errs, s.manager.Close())
	}
	if s.vault != nil {
		errs = append(errs, s.vault.Close())
	}
	if s.plane != nil {
		errs = append(errs, s.plane.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// file writes a file into the site's folder and returns its path.
func (s *site) file(name, text string) (string, error) {
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// expand replaces ${NAME} in a manifest. Values are given as name, value, name, value.
func expand(manifest string, values ...string) string {
	return os.Expand(manifest, func(name string) string {
		if i := slices.Index(values, name); i%2 == 0 && i+1 < len(values) {
			return values[i+1]
		}
		return "${" + name + "}"
	})
}
