package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// diagnose names a mistake in the request that Vault's refusal does not name. It asks Vault with the token that was
// refused; if that gives nothing, the fault stays as it is.
func (b *Backend) diagnose(
	ctx context.Context, r rawResponse, req *v1alpha1.VaultRequest, fault *backend.Error,
) *backend.Error {
	a, _ := r.parse()
	namespace := or(req.Namespace, b.spec.Namespace)
	read := req.Method != v1alpha1.MethodWrite
	switch {
	case read && fault.Kind == backend.Refused && a.says(unsupported):
		fault.Message += ": the path may accept only writes; set method: Write"
	case a.says(versionedKV) || fault.Kind == backend.Denied:
		if mount := b.versionedMount(ctx, r.token, namespace, req.Path); mount != "" {
			return versionedPath(req.Path, mount)
		}
		if read && fault.Kind == backend.Denied && b.mayWrite(ctx, r.token, namespace, req.Path) {
			fault.Message += `; it has "update", so the path may need a write: set method: Write`
		}
	}
	return fault
}

// versionedPath is the error for a path without data/ below a mount of a KV engine of version 2. The mount is empty if
// it is unknown; it may have several segments.
func versionedPath(path, mount string) *backend.Error {
	if mount == "" && strings.Count(path, "/") == 1 {
		mount, _, _ = strings.Cut(path, "/")
		mount += "/"
	}
	fault := backend.Errorf(backend.NotFound,
		"%q is in a KV engine of version 2, whose paths have data/ after the mount", path)
	if rest, ok := strings.CutPrefix(path, mount); ok && mount != "" {
		fault.Message += fmt.Sprintf(": use %q", mount+"data/"+rest)
	}
	return fault
}

// versionedMount is the mount of the path, with a slash at its end, if it is a KV engine of version 2 and the path has
// none of its prefixes. Empty: it is not, or the token may not know.
func (b *Backend) versionedMount(ctx context.Context, token, namespace, path string) string {
	r, err := b.do(ctx, call{
		method: http.MethodGet, path: "sys/internal/ui/mounts/" + path, namespace: namespace, token: token,
	})
	if err != nil || !succeeded(r.status) {
		return ""
	}
	a, _ := r.parse()
	var mount struct {
		Path    string            `json:"path"`
		Type    string            `json:"type"`
		Options map[string]string `json:"options"`
	}
	if json.Unmarshal(a.Data, &mount) != nil || mount.Type != "kv" || mount.Options["version"] != "2" {
		return ""
	}
	rest, below := strings.CutPrefix(path, mount.Path)
	if !below || !strings.HasSuffix(mount.Path, "/") {
		return ""
	}
	for _, prefix := range []string{"data/", "metadata/", "subkeys/", "delete/", "undelete/", "destroy/", "config"} {
		if strings.HasPrefix(rest, prefix) {
			return ""
		}
	}
	return mount.Path
}

// mayWrite is true if the token may write to the path and not read it.
func (b *Backend) mayWrite(ctx context.Context, token, namespace, path string) bool {
	r, err := b.do(ctx, capabilitiesCall(namespace, token, []string{path}))
	if err != nil || !succeeded(r.status) {
		return false
	}
	has, _, err := b.readCapabilities(r, []string{path})
	return err == nil && !hasAll(has[path], "read") && (hasAll(has[path], "update") || hasAll(has[path], "create"))
}
