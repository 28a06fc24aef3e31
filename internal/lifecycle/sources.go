package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/provider"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// Indexes of DynamicSecrets in the cache.
const (
	// indexTarget is by spec.target.name, if that is not the name of the object; see Writers.
	indexTarget = "target"
	// IndexProvider is by every provider that the spec or the ledger names; see ProviderKey.
	IndexProvider = "provider"
	// indexUser is by the users of the leases that an object uses, or did.
	indexUser = "user"
)

// providerSources finds backends through the providers in the cache.
type providerSources struct {
	clock        clock.PassiveClock
	cache        client.Reader
	backends     *backend.Registry
	requestLimit time.Duration
	sealKey      []byte
	// namespacedOnly: ClusterSecretProviders are not served.
	namespacedOnly bool
}

// Resolve finds the sources of the object, and the first reason why nothing can be issued from them.
func (s *providerSources) Resolve(ctx context.Context, d *v1alpha1.DynamicSecret) (*resolved, error) {
	r := &resolved{}
	all := d.AllSources()
	for i := range all {
		src := source{Spec: all[i], Record: v1alpha1.LeaseRecord{Source: all[i].Name}}
		block, err := s.resolveOne(ctx, d, &src, r)
		if err != nil {
			return nil, err
		}
		if r.Block == nil || block != nil && block.Lapses && !r.Block.Lapses {
			r.Block = block // one that ends renewals counts, whatever else is wrong
		}
		r.Sources = append(r.Sources, src)
	}
	if r.Block != nil {
		return r, nil
	}
	var err error
	r.Block, err = s.rival(ctx, d)
	return r, err
}

// resolveOne completes a source, and returns why nothing can be issued from it; nil: no check failed.
func (s *providerSources) resolveOne(
	ctx context.Context, d *v1alpha1.DynamicSecret, src *source, r *resolved,
) (*lease.Block, error) {
	ref := d.ProviderOf(&src.Spec)
	p, err := GetProvider(ctx, s.cache, ref.Kind, ref.Name, d.Namespace)
	if apierrors.IsNotFound(err) {
		message, err := s.notFound(ctx, d, &src.Spec)
		return &lease.Block{Reason: v1alpha1.ReasonProviderNotFound, Stalled: true, Message: message}, err
	}
	if err != nil {
		return nil, err
	}
	recoveries := s.backends.Recoveries(p)
	r.Recoveries += recoveries
	r.Revision += fmt.Sprintf("%s/%d/%d ", p.GetUID(), p.GetGeneration(), recoveries)
	src.Identity = backend.Identity{Namespace: d.Namespace, ServiceAccount: d.Spec.ServiceAccountName, Owner: owner(d),
		MinTTL: s.requestLimit}
	rec, described := s.backends.Describe(p, src.Identity, src.Spec)
	rec.RequestDigest = withFields(rec.RequestDigest, src.Spec.Fields, d.Spec.Target.Fields)
	rec.RequestDigest = withType(rec.RequestDigest, secret.Type(d))
	src.Record = rec
	block, err := s.block(ctx, d, p)
	if err != nil || block != nil {
		return block, err
	}
	if described == nil {
		if b := NotReady(p, p.Kind()+" "+p.GetName()); b != nil {
			return b, nil
		}
		src.Backend, described = s.backends.Backend(ctx, p)
	}
	if described != nil {
		b := backend.BlockFor(described)
		return &b, nil
	}
	return nil, nil
}

// notFound is the message about a provider that does not exist. The kind is easily forgotten, so it says if one of the
// other kind has the name and may be used.
func (s *providerSources) notFound(
	ctx context.Context, d *v1alpha1.DynamicSecret, src *v1alpha1.SecretSource,
) (string, error) {
	ref, field := d.ProviderOf(src), "spec.providerRef"
	if src.ProviderRef != nil {
		field = "spec.sources[" + src.Name + "].providerRef"
	}
	if s.namespacedOnly && ref.Kind == v1alpha1.ProviderKindCluster {
		return fmt.Sprintf("%s %s cannot be used, because leasekeeper was installed without cluster kinds: "+
			"set %s to a SecretProvider, or set scope.clusterKinds in leasekeeper's chart.",
			ref.Kind, ref.Name, field), nil
	}
	other := v1alpha1.ProviderKindCluster
	if ref.Kind == other {
		other = v1alpha1.ProviderKindNamespaced
	}
	p, err := GetProvider(ctx, s.cache, other, ref.Name, d.Namespace)
	allowed := false
	if err == nil {
		allowed, err = s.allowed(ctx, d.Namespace, p)
	}
	if err != nil || !allowed {
		return fmt.Sprintf("%s %s does not exist: create it, or correct %s.", ref.Kind, ref.Name, field),
			client.IgnoreNotFound(err)
	}
	return fmt.Sprintf("%s %s does not exist, but %s %s does: set %s.kind to %s.",
		ref.Kind, ref.Name, other, ref.Name, field, other), nil
}

// withFields adds the selections of fields to the digest of a request. Without a selection the digest does not change.
func withFields(digest string, selections ...*v1alpha1.FieldSelection) string {
	var normal []v1alpha1.FieldSelection
	selects := false
	for _, f := range selections {
		n := normalized(f)
		selects = selects || len(n.Include)+len(n.Exclude)+len(n.Prefix) > 0
		normal = append(normal, n)
	}
	if digest == "" || !selects {
		return digest
	}
	text, _ := json.Marshal(normal)
	return extended(digest, text)
}

// withType adds the type of the Secret to the digest of a request, if it is one for which responses have a form of
// their own: the keys of the Secret cannot be made from those of a Secret of another type.
func withType(digest string, kind corev1.SecretType) string {
	if digest == "" || kind != corev1.SecretTypeTLS {
		return digest
	}
	return extended(digest, []byte(kind))
}

// extended is a digest of another digest and something else.
func extended(digest string, more []byte) string {
	sum := sha256.Sum256(append([]byte(digest), more...))
	version, _, _ := strings.Cut(digest, ":")
	return version + ":" + hex.EncodeToString(sum[:8])
}

// normalized selections are equal if they select the same: the lists have no order, and an empty selection selects all.
func normalized(f *v1alpha1.FieldSelection) v1alpha1.FieldSelection {
	if f == nil {
		return v1alpha1.FieldSelection{}
	}
	return v1alpha1.FieldSelection{Include: slices.Sorted(slices.Values(f.Include)),
		Exclude: slices.Sorted(slices.Values(f.Exclude)), Prefix: f.Prefix}
}

// block returns why the object may not use the provider; nil: it may. It comes before all other checks, so a namespace
// that is not allowed learns nothing else about the provider.
func (s *providerSources) block(
	ctx context.Context, d *v1alpha1.DynamicSecret, p v1alpha1.Provider,
) (*lease.Block, error) {
	name := p.Kind() + " " + p.GetName()
	if allowed, err := s.allowed(ctx, d.Namespace, p); err != nil || !allowed {
		return &lease.Block{Reason: v1alpha1.ReasonNamespaceNotAllowed, Stalled: true, Lapses: true,
			Message: fmt.Sprintf("%s does not allow namespace %s: ask its owner to include the namespace in "+
				"spec.allowedNamespaces.", name, d.Namespace)}, err
	}
	if !p.GetDeletionTimestamp().IsZero() {
		return &lease.Block{Reason: v1alpha1.ReasonProviderDeleting, Stalled: true,
			Message: name + " is being deleted: set spec.providerRef to another provider."}, nil
	}
	return nil, nil
}

// NotReady returns why a provider cannot be used; nil: it can. The name is for the message. A provider that was ready
// can be used until an inspection fails, even if its spec has changed since the last one.
func NotReady(p v1alpha1.Provider, name string) *lease.Block {
	st := p.ProviderStatus()
	ready := provider.Ready(p)
	switch {
	case ready.Status == metav1.ConditionTrue:
		return nil
	case ready.Status == "" || st.ObservedGeneration != p.GetGeneration():
		return &lease.Block{Reason: v1alpha1.ReasonProviderNotReady, Message: name + " has not been checked yet."}
	default:
		return &lease.Block{Reason: v1alpha1.ReasonProviderNotReady, Message: name + " is not ready: " + ready.Message,
			Stalled: meta.IsStatusConditionTrue(st.Conditions, v1alpha1.StalledCondition)}
	}
}

// allowed is true if the provider may be used in the namespace.
func (s *providerSources) allowed(ctx context.Context, namespace string, p v1alpha1.Provider) (bool, error) {
	c, ok := p.(*v1alpha1.ClusterSecretProvider)
	if !ok || c.Spec.AllowedNamespaces == nil {
		return true, nil
	}
	if slices.Contains(c.Spec.AllowedNamespaces.Names, namespace) {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(c.Spec.AllowedNamespaces.Selector)
	if err != nil || c.Spec.AllowedNamespaces.Selector == nil {
		return false, nil // an invalid selector matches nothing
	}
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	err = s.cache.Get(ctx, types.NamespacedName{Name: namespace}, ns)
	if apierrors.IsNotFound(err) {
		// The cache is behind. The error must not look like that of a DynamicSecret that does not exist.
		return false, fmt.Errorf("the cache does not have namespace %s yet", namespace)
	}
	if err != nil {
		return false, err
	}
	return selector.Matches(labels.Set(ns.Labels)), nil
}

// rival blocks an object if another one with the same target has priority: the one that wrote the Secret, or else the
// older one.
func (s *providerSources) rival(ctx context.Context, d *v1alpha1.DynamicSecret) (*lease.Block, error) {
	if hasTarget(d) {
		return nil, nil
	}
	writers, err := Writers(ctx, s.cache, d.Namespace, d.TargetName())
	if err != nil {
		return nil, err
	}
	for i := range writers {
		other := &writers[i]
		if other.UID != d.UID && (hasTarget(other) || createdBefore(other, d)) {
			return &lease.Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
				Message: fmt.Sprintf("DynamicSecret %s has the same target, Secret %s, and was first: "+
					"set another spec.target.name.", other.Name, d.TargetName())}, nil
		}
	}
	return nil, nil
}

// Writers lists the objects of a namespace whose target is the Secret of that name. They are the cache's: read only.
func Writers(ctx context.Context, cache client.Reader, namespace, name string) ([]v1alpha1.DynamicSecret, error) {
	var list v1alpha1.DynamicSecretList
	err := cache.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{indexTarget: name},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	// The index has few entries, because most Secrets have the name of their object.
	d := v1alpha1.DynamicSecret{}
	err = cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &d)
	if err == nil && d.TargetName() == name {
		list.Items = append(list.Items, d)
	}
	return list.Items, client.IgnoreNotFound(err)
}

// hasTarget is true if the object wrote the Secret that its spec names. Then it keeps the Secret, whatever the creation
// times are: their resolution is a second, and a target may be renamed.
func hasTarget(d *v1alpha1.DynamicSecret) bool {
	known := d.Status.Secret
	return known != nil && known.UID != "" && known.Name == d.TargetName()
}

// createdBefore orders objects by age. Of two objects of the same second, the one with the smaller UID is first.
func createdBefore(a, b *v1alpha1.DynamicSecret) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.UID < b.UID
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

// BackendFor finds the backend in which a record lives.
func (s *providerSources) BackendFor(
	ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord,
) (backend.Backend, error) {
	p, err := GetProvider(ctx, s.cache, rec.Provider.Kind, rec.Provider.Name, d.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, backend.Errorf(backend.Unavailable,
			"%s %s, which issued the lease, does not exist: create it again",
			rec.Provider.Kind, rec.Provider.Name)
	}
	if err != nil {
		return nil, backend.Errorf(backend.Unavailable, "%s %s cannot be read: %v",
			rec.Provider.Kind, rec.Provider.Name, err)
	}
	if err := s.backends.Holds(p, rec); err != nil {
		return nil, err
	}
	return s.backends.Backend(ctx, p)
}

// Disputed returns an error if another object's ledger names the same session or lease. If this record has a valid
// seal, somebody else wrote the other one, and there is no dispute. Few records have none, so they need no index.
func (s *providerSources) Disputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) error {
	if lease.Sealed(s.sealKey, d.UID, rec) {
		return nil
	}
	if rec.Certificate() != "" && len(s.sealKey) > 0 {
		// Nothing in the backend says whose certificate it is.
		return backend.Errorf(backend.Mismatch,
			"the record of certificate %s has no valid seal: leasekeeper did not write it, "+
				"and does not revoke the certificate", rec.Certificate())
	}
	var list v1alpha1.DynamicSecretList
	if err := s.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return backend.Errorf(backend.Unavailable, "the cache cannot be read: %v", err)
	}
	keys := rec.Keys()
	for i := range list.Items {
		other := &list.Items[i]
		if other.UID != d.UID && names(&other.Status, keys) {
			return backend.Errorf(backend.Disputed,
				"DynamicSecret %s/%s names the same lease or session in its status: "+
					"leasekeeper does not act on it until only one of them does", other.Namespace, other.Name)
		}
	}
	return nil
}

// names says that a record of the ledger has one of the keys.
func names(st *v1alpha1.DynamicSecretStatus, keys []string) bool {
	for _, rec := range lease.Records(st) {
		if slices.ContainsFunc(rec.Keys(), func(key string) bool { return slices.Contains(keys, key) }) {
			return true
		}
	}
	return false
}

// Sharers names other objects that use the user of a record. Records of live leases are revoked only in a deletion.
func (s *providerSources) Sharers(ctx context.Context, d *v1alpha1.DynamicSecret) map[string]string {
	var sharers map[string]string
	for _, rec := range revokedSoon(d) {
		var list v1alpha1.DynamicSecretList
		err := s.cache.List(ctx, &list, client.MatchingFields{indexUser: rec.UserDigest}, client.UnsafeDisableDeepCopy)
		if err != nil {
			put(&sharers, lease.Key(&rec), "(the cache cannot be read)") // nothing is revoked meanwhile
			continue
		}
		if name := sharerOf(&rec, d, list.Items, s.clock.Now()); name != "" {
			put(&sharers, lease.Key(&rec), name)
		}
	}
	return sharers
}

// revokedSoon are the records that may be revoked and whose users are known.
func revokedSoon(d *v1alpha1.DynamicSecret) []v1alpha1.LeaseRecord {
	records := d.Status.Retiring
	if !d.DeletionTimestamp.IsZero() {
		records = append(slices.Clone(records), d.Status.Leases...)
	}
	return slices.DeleteFunc(slices.Clone(records), func(rec v1alpha1.LeaseRecord) bool {
		return rec.UserDigest == "" || d.Spec.Revoked
	})
}

// sharerOf is the first of the objects, by name, that uses the user of a record; empty: none does.
func sharerOf(
	rec *v1alpha1.LeaseRecord, d *v1alpha1.DynamicSecret, objects []v1alpha1.DynamicSecret, now time.Time,
) (first string) {
	for i := range objects {
		other := &objects[i]
		if other.UID == d.UID || !lease.UsesUserOf(other, rec, now) {
			continue
		}
		if name := other.Namespace + "/" + other.Name; first == "" || name < first {
			first = name
		}
	}
	return first
}

// GetProvider reads a provider of either kind. The namespace is that of the object that refers to it.
func GetProvider(ctx context.Context, c client.Reader, kind, name, namespace string) (v1alpha1.Provider, error) {
	if kind == v1alpha1.ProviderKindCluster {
		p := &v1alpha1.ClusterSecretProvider{}
		return p, c.Get(ctx, types.NamespacedName{Name: name}, p)
	}
	p := &v1alpha1.SecretProvider{}
	return p, c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, p)
}

// ProviderKey identifies a provider in IndexProvider. The namespace of a cluster provider is ignored.
func ProviderKey(kind, name, namespace string) string {
	if kind == v1alpha1.ProviderKindCluster {
		namespace = ""
	}
	return kind + "/" + namespace + "/" + name
}

// AddIndexes adds the indexes to the cache.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	indexes := map[string]func(*v1alpha1.DynamicSecret) []string{
		indexTarget: func(d *v1alpha1.DynamicSecret) []string {
			if name := d.TargetName(); name != d.Name {
				return []string{name}
			}
			return nil
		},
		IndexProvider: func(d *v1alpha1.DynamicSecret) []string {
			var keys []string
			for _, src := range d.AllSources() {
				ref := d.ProviderOf(&src)
				keys = append(keys, ProviderKey(ref.Kind, ref.Name, d.Namespace))
			}
			for _, rec := range lease.Records(&d.Status) {
				keys = append(keys, ProviderKey(rec.Provider.Kind, rec.Provider.Name, d.Namespace))
			}
			slices.Sort(keys)
			return slices.Compact(keys)
		},
		indexUser: func(d *v1alpha1.DynamicSecret) []string {
			var users []string
			for _, rec := range slices.Concat(d.Status.Leases, d.Status.Retiring) {
				if rec.UserDigest != "" {
					users = append(users, rec.UserDigest)
				}
			}
			slices.Sort(users)
			return slices.Compact(users)
		},
	}
	for name, keys := range indexes {
		of := func(o client.Object) []string { return keys(o.(*v1alpha1.DynamicSecret)) }
		if err := indexer.IndexField(ctx, &v1alpha1.DynamicSecret{}, name, of); err != nil {
			return err
		}
	}
	return nil
}
