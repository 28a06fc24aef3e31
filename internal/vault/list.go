package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// ListLeases lists the leases of a path in a namespace by one request, as a set of their ids. The set is a hint: an empty
// list, a wrong prefix and a standby that lags behind look alike, and a lease that ran out and cannot be revoked is
// still in it. Denied names the line that the keeper's policy lacks.
func (b *Backend) ListLeases(ctx context.Context, namespace, path string) (map[string]bool, error) {
	keys, err := b.listKeys(ctx, namespace, path)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(keys))
	for _, key := range keys {
		if id := path + "/" + key; ofPath(path, id) {
			ids[id] = true
		}
	}
	return ids, nil
}

// listKeys lists what is one segment below a path: the last segments of ids, and, with a slash behind them, those of
// paths that have leases below them.
func (b *Backend) listKeys(ctx context.Context, namespace, path string) ([]string, error) {
	if !isPath(path) {
		return nil, foreign(path)
	}
	r, err := b.asKeeper(ctx, call{
		method: http.MethodGet, path: "sys/leases/lookup/" + path, query: url.Values{"list": {"true"}},
		namespace: or(namespace, b.spec.Namespace),
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
		return nil, b.fault(r, what, b.keeperName(), fmt.Sprintf("\"list\" and \"sudo\" on %q", "sys/leases/lookup/"+path))
	}
	var data struct {
		Keys []string `json:"keys"`
	}
	if !ok || json.Unmarshal(a.Data, &data) != nil {
		return nil, backend.Errorf(backend.InvalidResponse, "%s: %s gave an answer that cannot be used", what, r.address)
	}
	return data.Keys, nil
}
