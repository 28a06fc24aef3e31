package revocation

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// holder is a DynamicSecret that has some of the leases.
type holder struct {
	object *v1alpha1.DynamicSecret
	ids    []string
}

// findHolders lists the DynamicSecrets whose Secret contains, or is about to contain, one of the leases.
func (w *work) findHolders(ctx context.Context) ([]holder, error) {
	var list v1alpha1.DynamicSecretList
	if err := w.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // they are only read
		return nil, err
	}
	var holders []holder
	for i := range list.Items {
		h := holder{object: &list.Items[i]}
		for j := range h.object.Status.Leases {
			if rec := &h.object.Status.Leases[j]; rec.ID != "" && w.bulk.Covers(&w.Spec, rec) {
				h.ids = append(h.ids, rec.ID)
			}
		}
		if len(h.ids) > 0 {
			holders = append(holders, h)
		}
	}
	return holders, nil
}

// concerned are the holders without the leases that were issued after the revocation.
func (f *Facts) concerned(holders []holder) []holder {
	var some []holder
	for _, h := range holders {
		old := holder{object: h.object}
		for _, id := range h.ids {
			if !f.Newer[id] {
				old.ids = append(old.ids, id)
			}
		}
		if len(old.ids) > 0 {
			some = append(some, old)
		}
	}
	return some
}
