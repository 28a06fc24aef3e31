// Package servers lists the real servers for tests, the demo and benchmarks, their Go modules, and the cache of built
// binaries. `make servers` fills the cache; internal/testbed reads it.
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

// Server is a binary built from a module in hack/servers.
type Server struct {
	// Name of the binary.
	Name string
	// Module is the directory of the go.mod in hack/servers.
	Module string
	// Package to build.
	Package string
	// Requirement is the module that determines the version.
	Requirement string
	// LDFlags of the linker; VERSION is replaced with the version.
	LDFlags string
}

// Kubernetes binaries get their version from the linker. Clients treat the default, v0.0.0-master, as unreleased.
const kubernetesLDFlags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=VERSION" +
	" -X k8s.io/client-go/pkg/version.gitVersion=VERSION"

var catalog = []Server{
	{Name: "etcd", Module: "etcd", Package: "go.etcd.io/etcd/server/v3", Requirement: "go.etcd.io/etcd/server/v3",
		LDFlags: "-s -w"},
	{Name: "kubectl", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kubectl", Requirement: "k8s.io/kubernetes",
		LDFlags: kubernetesLDFlags},
	{Name: "kube-apiserver", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-apiserver",
		Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kube-controller-manager", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-controller-manager",
		Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kube-scheduler", Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/kube-scheduler",
		Requirement: "k8s.io/kubernetes", LDFlags: kubernetesLDFlags},
	{Name: "kwok", Module: "kwok", Package: "sigs.k8s.io/kwok/cmd/kwok", Requirement: "sigs.k8s.io/kwok",
		LDFlags: "-s -w"},
	{Name: "vault", Module: "vault", Package: "github.com/hashicorp/vault", Requirement: "github.com/hashicorp/vault",
		LDFlags: "-s -w"},
}

// Catalog returns all servers, those with the shortest build first.
func Catalog() []Server { return append([]Server(nil), catalog...) }

// Named returns a server by name.
func Named(name string) (Server, error) {
	for _, s := range catalog {
		if s.Name == name {
			return s, nil
		}
	}
	return Server{}, fmt.Errorf("unknown server %q", name)
}

// ModuleDir is the working directory for `go build`.
func (s Server) ModuleDir(root string) string {
	return filepath.Join(root, "hack", "servers", s.Module)
}

// Version returns the version in the module's go.mod.
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

// Flags returns the linker flags for a version.
func (s Server) Flags(version string) string {
	return strings.ReplaceAll(s.LDFlags, "VERSION", version)
}

// Override returns the binary from the environment: the file VAULT_BIN, or an existing file in the directory
// KUBEBUILDER_ASSETS.
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

// CachePath returns the path of the built binary. Its directory contains the version and a hash of all build inputs,
// so checkouts with different go.sum files share the cache but not the binary.
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

// Find returns the binary from the environment or the cache. The error for a missing binary says how to build it.
func (s Server) Find(root string) (string, error) {
	if path, ok := s.Override(); ok {
		return path, nil
	}
	path, err := s.CachePath(root)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built (%s does not exist): run `make servers`", s.Name, path)
	}
	return path, nil
}

// Root returns the root directory of the repository, searching upwards from the working directory.
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
			return "", fmt.Errorf("%s is not in a checkout of leasekeeper", start)
		}
	}
}

// cacheDir is outside the checkout, so that clones share it.
func cacheDir() (string, error) {
	if dir := os.Getenv("LEASEKEEPER_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errors.Join(errors.New("set LEASEKEEPER_CACHE to a persistent directory"), err)
	}
	return filepath.Join(dir, "leasekeeper"), nil
}
