package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// release removes the finalizer of a provider when no ledger names it any more.
func (r *Runner) release(ctx context.Context, p Object) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(p, v1alpha1.ProviderFinalizer) {
		return 0, nil
	}
	holders, err := r.holders(ctx, p)
	if err != nil {
		return 0, err
	}
	if len(holders) > 0 {
		before := Ready(p)
		err := r.write(ctx, p, func(now time.Time) {
			lease.SetSummary(&p.ProviderStatus().Conditions, p.GetGeneration(), now,
				lease.Summary{Reason: v1alpha1.ReasonInUse, Message: inUse(holders)})
		})
		if err == nil {
			r.announceChange(p, before)
		}
		return r.retryPause(p), err
	}
	r.Backends.Forget(p)
	r.forget(p)
	before := p.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(p, v1alpha1.ProviderFinalizer)
	err = r.Client.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return 0, client.IgnoreNotFound(err)
}

// pageSize limits how many objects are in memory at the same time.
const pageSize = 250

// holders lists the DynamicSecrets whose ledger names the provider. The index of the cache is read first, because the
// provider may have to wait long. A record may be newer than the cache, so only the API server proves that there is
// none.
func (r *Runner) holders(ctx context.Context, p Object) ([]string, error) {
	key := r.Key(p.Kind(), p.GetName(), p.GetNamespace())
	var list v1alpha1.DynamicSecretList
	within := client.InNamespace(p.GetNamespace())
	users := client.MatchingFields{r.Users: key}
	if err := r.Client.List(ctx, &list, within, users, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	if names := r.naming(key, list.Items); len(names) > 0 {
		return names, nil
	}
	namespaces := []string{p.GetNamespace()}
	if p.GetNamespace() == "" && len(r.Namespaces) > 0 {
		namespaces = r.Namespaces
	}
	for _, namespace := range namespaces {
		if names, err := r.storedHolders(ctx, key, client.InNamespace(namespace)); err != nil || len(names) > 0 {
			return names, err
		}
	}
	return nil, nil
}

// storedHolders reads all objects of a namespace from the API server, until a page has holders.
func (r *Runner) storedHolders(ctx context.Context, key string, within client.InNamespace) ([]string, error) {
	for next := ""; ; {
		var page v1alpha1.DynamicSecretList
		if err := r.Reader.List(ctx, &page, within, client.Limit(pageSize), client.Continue(next)); err != nil {
			return nil, err
		}
		names := r.naming(key, page.Items)
		if next = page.Continue; len(names) > 0 || next == "" {
			return names, nil
		}
	}
}

// naming returns the names of the objects whose ledger names the provider.
func (r *Runner) naming(key string, objects []v1alpha1.DynamicSecret) []string {
	var names []string
	for i := range objects {
		d := &objects[i]
		if slices.ContainsFunc(lease.Records(&d.Status), func(rec v1alpha1.LeaseRecord) bool {
			return r.Key(rec.Provider.Kind, rec.Provider.Name, d.Namespace) == key
		}) {
			names = append(names, d.Namespace+"/"+d.Name)
		}
	}
	slices.Sort(names)
	return names
}

func inUse(holders []string) string {
	const most = 5
	shown := strings.Join(holders[:min(most, len(holders))], ", ")
	if len(holders) > most {
		shown += ", …"
	}
	count := fmt.Sprintf("%d DynamicSecrets have", len(holders))
	if len(holders) == 1 {
		count = "1 DynamicSecret has"
	}
	return count + " leases from this provider, which must be revoked here: " + shown +
		". Delete them, or let them use another provider."
}
