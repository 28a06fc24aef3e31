package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Folder implements backend.Lister: the namespace and the path.
func (b *Backend) Folder(rec *v1alpha1.LeaseRecord) string {
	if rec.Vault == nil {
		return ""
	}
	return or(rec.Vault.Namespace, b.spec.Namespace) + "|" + rec.Vault.Path
}

// List implements backend.Lister, with one request. An empty list, a wrong prefix and a standby that lags behind look
// the same.
func (b *Backend) List(ctx context.Context, rec v1alpha1.LeaseRecord) (map[string]bool, error) {
	at, err := locationOf(&rec)
	if err != nil {
		return nil, err
	}
	keys, err := b.listKeys(ctx, at.Namespace, at.Path)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(keys))
	for _, key := range keys {
		if id := at.Path + "/" + key; ofPath(at.Path, id) {
			ids[id] = true
		}
	}
	return ids, nil
}

// listKeys lists what is one segment below a path: the last segments of ids, and, with a slash at the end, those of
// paths that have leases below them.
func (b *Backend) listKeys(ctx context.Context, namespace, path string) ([]string, error) {
	if !isPath(path) {
		return nil, foreign(path)
	}
	r, err := b.asKeeper(ctx, call{
		method: http.MethodGet, path: "sys/leases/lookup/" + path, query: url.Values{"list": {"true"}},
		namespace: or(namespace, b.spec.Namespace), limit: maxListBytes,
	})
	if err != nil {
		return nil, err
	}
	what := "listing the leases of " + path
	a, ok := r.parse()
	switch {
	case r.status == http.StatusNotFound && ok && a.Errors != nil && len(*a.Errors) == 0:
		return nil, nil
	case !succeeded(r.status):
		return nil, b.listFault(r, what, "sys/leases/lookup/"+path)
	}
	var data struct {
		Keys []string `json:"keys"`
	}
	if !ok || json.Unmarshal(a.Data, &data) != nil {
		return nil, unusable(r, what)
	}
	return data.Keys, nil
}

// listFault is the error of a list that was refused or that failed.
func (b *Backend) listFault(r rawResponse, what, path string) *backend.Error {
	fault := b.fault(r, what, b.keeperName(), fmt.Sprintf("\"list\" and \"sudo\" on %q", path))
	if fault.Kind == backend.Denied {
		fault.Missing = []string{path + ": list, sudo"}
	}
	return fault
}
