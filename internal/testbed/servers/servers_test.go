package servers_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/testbed/servers"
)

// checkout creates a directory that the catalog accepts as this repository.
func checkout(t *testing.T, sum string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "hack", "servers", "etcd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod": "module m\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.6.1 // indirect\n)\n", "go.sum": sum,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func etcd(t *testing.T) servers.Server {
	t.Helper()
	server, err := servers.Named("etcd")
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func TestCachePathDependsOnModules(t *testing.T) {
	t.Setenv("LEASEKEEPER_CACHE", t.TempDir())
	path := func(sum string) string {
		path, err := etcd(t).CachePath(checkout(t, sum))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, again := path("one"), path("one")
	if one != again {
		t.Error("the same modules have two cache paths")
	}
	if one == path("two") {
		t.Error("different go.sum files share a cache path")
	}
	if !strings.Contains(one, "etcd-v3.6.1-") {
		t.Errorf("the cache path lacks the version: %s", one)
	}
}

func TestMissingBinaryErrorNamesMakeServers(t *testing.T) {
	t.Setenv("LEASEKEEPER_CACHE", t.TempDir())
	t.Setenv("KUBEBUILDER_ASSETS", "")
	if _, err := etcd(t).Find(checkout(t, "")); err == nil || !strings.Contains(err.Error(), "make servers") {
		t.Errorf("the error should name `make servers`: %v", err)
	}
}

func TestOverrideIgnoresMissingFiles(t *testing.T) {
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	if path, ok := etcd(t).Override(); ok {
		t.Errorf("got %s from an empty directory", path)
	}
	want := filepath.Join(assets, "etcd")
	if err := os.WriteFile(want, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if path, ok := etcd(t).Override(); !ok || path != want {
		t.Errorf("got %q, want %q", path, want)
	}
}

func TestEachServerHasAVersion(t *testing.T) {
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range servers.Catalog() {
		if version, err := server.Version(root); err != nil || !strings.HasPrefix(version, "v") {
			t.Errorf("%s: version %q, %v", server.Name, version, err)
		}
	}
}
