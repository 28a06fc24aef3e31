// Package servers says which real servers the tests, the demo and the
// benchmarks run, which Go module each is built from, and where the built
// binary is kept. `make servers` fills that cache; internal/testbed reads it.
package servers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Server is one binary built from one of the modules in hack/servers.
type Server struct {
	// Name of the binary.
	Name string
	// Module is the folder of hack/servers that holds the go.mod.
	Module string
	// Package is what `go build` is asked for.
	Package string
	// Requirement is the required module whose version is the binary's.
	Requirement string
	// LDFlags are given to the linker; VERSION stands for the version.
	LDFlags string
}

// The Kubernetes binaries learn their version from the linker; with the
// default one (v0.0.0-master) clients take them for an unreleased server.
const kubernetesLDFlags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=VERSION" +
	" -X k8s.io/client-go/pkg/version.gitVersion=VERSION"

var catalog = []Server{
	{Name: "etcd", Module: "etcd", Package: "go.etcd.io/etcd/server/v3", Requirement: "go.etcd.io/etcd/server/v3", LDFlags: "-s -w"},
	{Name: "kubectl", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kubectl", Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kube-apiserver", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-apiserver", Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kube-controller-manager", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-controller-manager", Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kube-scheduler", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-scheduler", Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kwok", Module: "kwok", Package: "sigs.k8s.io/kwok/cmd/kwok", Requirement: "sigs.k8s.io/kwok", LDFlags: "-s -w"},
	{Name: "vault", Module: "vault", Package: "github.com/hashicorp/vault", Requirement: "github.com/hashicorp/vault", LDFlags: "-s -w"},
}

// Catalog lists every server, the quickest to build first.
func Catalog() []Server { return append([]Server(nil), catalog...) }

// Named finds a server of the catalog.
func Named(name string) (Server, error) {
	for _, s := range catalog {
		if s.Name == name {
			return s, nil
		}
	}
	return Server{}, fmt.Errorf("no server is called %q", name)
}

// ModuleDir is the folder that `go build` has to run in.
func (s Server) ModuleDir(root string) string {
	return filepath.Join(root, "hack", "servers", s.Module)
}

// Version is read from the module's go.mod, so that it stands in one place.
func (s Server) Version(root string) (string, error) {
	path := filepath.Join(s.ModuleDir(root), "go.mod")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(s.Requirement) + `\s+(v\S+)`)
	found := line.FindSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("%s does not require %s", path, s.Requirement)
	}
	return string(found[1]), nil
}

// Flags are the linker's flags for this version.
func (s Server) Flags(version string) string {
	return strings.ReplaceAll(s.LDFlags, "VERSION", version)
}

// Override is the binary that the environment names instead of a built one:
// VAULT_BIN is the file itself, KUBEBUILDER_ASSETS a folder, of which only the
// binaries that it really holds are taken.
func (s Server) Override() (string, bool) {
	if s.Name == "vault" {
		path := os.Getenv("VAULT_BIN")
		return path, path != ""
	}
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		return "", false
	}
	path := filepath.Join(dir, s.Name)
	_, err := os.Stat(path)
	return path, err == nil
}

// CachePath is where the built binary is kept. Its folder carries the version
// and a hash of all that decides what is built, so that two checkouts with
// different go.sum files share the cache without sharing a binary.
func (s Server) CachePath(root string) (string, error) {
	version, err := s.Version(root)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(s.ModuleDir(root), name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
	}
	fmt.Fprintf(hash, "%s\n%s\n", s.Package, s.Flags(version))
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	folder := fmt.Sprintf("%s-%s-%.12x", s.Name, version, hash.Sum(nil))
	return filepath.Join(cache, "bin", folder, s.Name), nil
}

// Find is the binary to run: the environment's, or the cached one. The error
// of a missing one says how to get it.
func (s Server) Find(root string) (string, error) {
	if path, ok := s.Override(); ok {
		return path, nil
	}
	path, err := s.CachePath(root)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built yet (looked for %s): run `make servers`", s.Name, path)
	}
	return path, nil
}

// Root is the repository's folder, found upwards from the working directory:
// tests run in their package's folder, programs in any.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "hack", "servers", "etcd", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a checkout of leasekeeper", start)
		}
	}
}

// cacheDir lies outside the checkout: a fresh clone finds what another built.
func cacheDir() (string, error) {
	if dir := os.Getenv("LEASEKEEPER_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errors.Join(errors.New("set LEASEKEEPER_CACHE to a folder that can be kept"), err)
	}
	return filepath.Join(dir, "leasekeeper"), nil
}
