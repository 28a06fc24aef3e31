package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/leasekeeper/leasekeeper/internal/testbed/servers"
)

// Binaries are the paths of the servers built from Go modules.
type Binaries struct {
	Etcd, APIServer, ControllerManager, Scheduler, Kwok, Kubectl, Vault string
}

// FindBinaries prefers VAULT_BIN and KUBEBUILDER_ASSETS to the cache. Its error names each missing binary.
func FindBinaries() (Binaries, error) {
	root, err := servers.Root()
	if err != nil {
		return Binaries{}, err
	}
	var b Binaries
	var errs []error
	for name, path := range map[string]*string{
		"etcd":                    &b.Etcd,
		"kube-apiserver":          &b.APIServer,
		"kube-controller-manager": &b.ControllerManager,
		"kube-scheduler":          &b.Scheduler,
		"kwok":                    &b.Kwok,
		"kubectl":                 &b.Kubectl,
		"vault":                   &b.Vault,
	} {
		server, err := servers.Named(name)
		if err == nil {
			*path, err = server.Find(root)
		}
		errs = append(errs, err)
	}
	return b, errors.Join(errs...)
}

// ErrNoPostgres means that the PostgreSQL server is not installed.
var ErrNoPostgres = errors.New(
	"PostgreSQL is not installed: run `make postgres`, or set POSTGRES_BIN to the directory of initdb and postgres")

// PostgresBin returns the directory of PostgreSQL's binaries: POSTGRES_BIN, or Debian's newest version.
func PostgresBin() (string, error) {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Sort(sort.Reverse(sort.StringSlice(candidates)))
	if dir := os.Getenv("POSTGRES_BIN"); dir != "" {
		candidates = []string{dir}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w (searched %v)", ErrNoPostgres, candidates)
}
