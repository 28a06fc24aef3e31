package lifecycle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// Indexes of the cache.
const (
	// IndexTarget finds DynamicSecrets by the name of their Secret.
	IndexTarget = "target"
	// IndexProvider finds DynamicSecrets by every provider that their spec or their ledger names.
	IndexProvider = "provider"
	// indexLedger finds DynamicSecrets by the accessors and lease ids in their ledger.
	indexLedger = "ledger"
)

// BackendFunc finds the backend of a provider.
type BackendFunc func(ctx context.Context, p v1alpha1.Provider) (backend.Backend, error)

// providerSources finds backends through the providers in the cache.
type providerSources struct {
	cache        client.Reader
	backends     BackendFunc
	recoveries   func(p v1alpha1.Provider) int64
	requestLimit time.Duration
	sealKey      []byte
}

// Resolve looks at what the spec names.
func (s *providerSources) Resolve(ctx context.Context, d *v1alpha1.DynamicSecret) (*source, error) {
	ref := d.Spec.ProviderRef
	p, err := GetProvider(ctx, s.cache, ref.Kind, ref.Name, d.Namespace)
	if apierrors.IsNotFound(err) {
		return &source{Block: &lease.Block{Reason: v1alpha1.ReasonProviderNotFound, Stalled: true,
			Message: fmt.Sprintf("%s %s does not exist: create it, or correct spec.providerRef.", ref.Kind, ref.Name)}}, nil
	}
	if err != nil {
		return nil, err
	}
	src := describe(d, p)
	src.Identity.MinTTL, src.Recoveries = s.requestLimit, s.recoveries(p)
	if src.Block, err = s.block(ctx, d, p); err != nil || src.Block != nil {
		return src, err
	}
	if src.Backend, err = s.backends(ctx, p); err != nil {
		b := backend.BlockFor(err)
		src.Block = &b
	}
	return src, nil
}

// describe is what follows from the specs alone.
func describe(d *v1alpha1.DynamicSecret, p v1alpha1.Provider) *source {
	v, req := p.ProviderSpec().Vault, d.Spec.Vault
	namespace := v.Namespace
	if req.Namespace != "" {
		namespace = req.Namespace
	}
	account := d.Spec.ServiceAccountName
	if k := v.Auth.Kubernetes; account == "" && k != nil && k.ServiceAccountRef != nil {
		account = k.ServiceAccountRef.Name
	}
	params := make(map[string][]byte, len(req.Parameters))
	for name, value := range req.Parameters {
		params[name] = value.Raw
	}
	src := &source{
		Where: v1alpha1.LeaseRecord{
			Provider:       v1alpha1.ProviderIdentity{Kind: p.Kind(), Name: p.GetName(), UID: p.GetUID()},
			Address:        v.Address,
			VaultNamespace: namespace,
			Path:           req.Path,
		},
		Identity:           backend.Identity{Namespace: d.Namespace, ServiceAccount: account, Owner: owner(d)},
		Request:            backend.Request{Namespace: namespace, Path: req.Path, Write: req.Method == v1alpha1.MethodWrite, Parameters: params},
		ProviderGeneration: p.GetGeneration(),
	}
	src.Where.RequestDigest = requestDigest(src)
	return src
}

// requestDigest tells one request from another. The provider's UID is not part of it: a provider that was restored
// under its name, at its address, is where the credential came from.
func requestDigest(s *source) string {
	params := map[string]any{}
	for name, raw := range s.Request.Parameters {
		params[name] = canonical(raw)
	}
	text, _ := json.Marshal([]any{
		s.Where.Provider.Kind, s.Where.Provider.Name, s.Where.Address, s.Request.Namespace, s.Request.Path,
		s.Request.Write, params, s.Identity.ServiceAccount,
	})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// canonical is a JSON value without its white space and the order of its keys, and with its numbers as they stand.
func canonical(raw []byte) any {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return string(raw)
	}
	return value
}

// block is the first thing that speaks against issuing.
func (s *providerSources) block(ctx context.Context, d *v1alpha1.DynamicSecret, p v1alpha1.Provider) (*lease.Block, error) {
	name := p.Kind() + " " + p.GetName()
	if allowed, err := s.allowed(ctx, d.Namespace, p); err != nil || !allowed {
		return &lease.Block{Reason: v1alpha1.ReasonNamespaceNotAllowed, Stalled: true,
			Message: fmt.Sprintf("%s does not allow namespace %s: ask its owner to let spec.allowedNamespaces match the namespace's labels.", name, d.Namespace)}, err
	}
	if !p.GetDeletionTimestamp().IsZero() {
		return &lease.Block{Reason: v1alpha1.ReasonProviderDeleting, Stalled: true,
			Message: name + " is being deleted: point spec.providerRef to another."}, nil
	}
	if k := p.ProviderSpec().Vault.Auth.Kubernetes; k != nil && d.Spec.ServiceAccountName == "" && k.ServiceAccountRef == nil {
		return &lease.Block{Reason: v1alpha1.ReasonServiceAccountNotFound, Stalled: true,
			Message: "No ServiceAccount is named: set spec.serviceAccountName, or auth.kubernetes.serviceAccountRef on " + name + "."}, nil
	}
	if b := NotReady(p, name); b != nil {
		return b, nil
	}
	return s.rival(ctx, d)
}

func NotReady(p v1alpha1.Provider, name string) *lease.Block {
	st := p.ProviderStatus()
	ready := meta.FindStatusCondition(st.Conditions, v1alpha1.ReadyCondition)
	switch {
	case ready == nil || st.ObservedGeneration != p.GetGeneration():
		return &lease.Block{Reason: v1alpha1.ReasonProviderNotReady, Message: name + " has not been checked yet."}
	case ready.Status != metav1.ConditionTrue:
		return &lease.Block{Reason: v1alpha1.ReasonProviderNotReady, Message: name + " is not ready: " + ready.Message,
			Stalled: meta.IsStatusConditionTrue(st.Conditions, v1alpha1.StalledCondition)}
	}
	return nil
}

// allowed says whether a cluster provider takes the namespace.
func (s *providerSources) allowed(ctx context.Context, namespace string, p v1alpha1.Provider) (bool, error) {
	c, ok := p.(*v1alpha1.ClusterSecretProvider)
	if !ok || c.Spec.AllowedNamespaces == nil {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(&c.Spec.AllowedNamespaces.Selector)
	if err != nil {
		return false, nil
	}
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := s.cache.Get(ctx, types.NamespacedName{Name: namespace}, ns); err != nil {
		return false, err
	}
	return selector.Matches(labels.Set(ns.Labels)), nil
}

// rival finds another DynamicSecret with the same target that goes before this one: the one that has the Secret, or else
// the older one. The other of the two issues nothing.
func (s *providerSources) rival(ctx context.Context, d *v1alpha1.DynamicSecret) (*lease.Block, error) {
	if hasTarget(d) {
		return nil, nil
	}
	var list v1alpha1.DynamicSecretList
	if err := s.cache.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingFields{IndexTarget: d.TargetName()}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		other := &list.Items[i]
		if other.UID != d.UID && (hasTarget(other) || older(other, d)) {
			return &lease.Block{Reason: v1alpha1.ReasonTargetConflict, Stalled: true,
				Message: fmt.Sprintf("Secret %s is that of DynamicSecret %s, which was there first: set another spec.target.name.", d.TargetName(), other.Name)}, nil
		}
	}
	return nil, nil
}

// hasTarget says that the Secret of the wanted name was written for the object. Whoever has it keeps it: times of
// creation have a resolution of a second, and a target may be renamed.
func hasTarget(d *v1alpha1.DynamicSecret) bool {
	known := d.Status.Secret
	return known != nil && known.UID != "" && known.Name == d.TargetName()
}

func older(a, b *v1alpha1.DynamicSecret) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.UID < b.UID
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

// BackendFor finds the backend that a record lives in.
func (s *providerSources) BackendFor(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (backend.Backend, error) {
	p, err := GetProvider(ctx, s.cache, rec.Provider.Kind, rec.Provider.Name, d.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, backend.Errorf(backend.Unavailable, "%s %s, which the lease came from, does not exist: create it again with address %s",
			rec.Provider.Kind, rec.Provider.Name, rec.Address)
	}
	if err != nil {
		return nil, backend.Errorf(backend.Unavailable, "%s %s cannot be read: %v", rec.Provider.Kind, rec.Provider.Name, err)
	}
	if p.ProviderSpec().Vault.Address != rec.Address {
		return nil, backend.Errorf(backend.Misconfigured, "%s %s has another address than the lease, which lives at %s: create it again with that address",
			rec.Provider.Kind, rec.Provider.Name, rec.Address)
	}
	return s.backends(ctx, p)
}

// Disputed refuses to act on a token or lease that another object's ledger names too, unless this record has its seal and
// the other has not: then the other was written by somebody else, and only it is refused.
func (s *providerSources) Disputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) error {
	mine := lease.Sealed(s.sealKey, d.UID, rec)
	for _, key := range ledgerKeys(rec) {
		var list v1alpha1.DynamicSecretList
		if err := s.cache.List(ctx, &list, client.MatchingFields{indexLedger: key}, client.UnsafeDisableDeepCopy); err != nil {
			return backend.Errorf(backend.Unavailable, "the cache cannot be read: %v", err)
		}
		for i := range list.Items {
			other := &list.Items[i]
			if other.UID == d.UID || mine && !s.sealedFor(other, key) {
				continue
			}
			return backend.Errorf(backend.Disputed, "DynamicSecret %s/%s names the same lease or token in its status: nothing is done to it until one of the two no longer does",
				other.Namespace, other.Name)
		}
	}
	return nil
}

// sealedFor says whether the record of the object that names the token or lease has its seal.
func (s *providerSources) sealedFor(d *v1alpha1.DynamicSecret, key string) bool {
	for _, rec := range lease.Records(&d.Status) {
		if slices.Contains(ledgerKeys(&rec), key) && lease.Sealed(s.sealKey, d.UID, &rec) {
			return true
		}
	}
	return false
}

func ledgerKeys(rec *v1alpha1.LeaseRecord) []string {
	var keys []string
	if rec.TokenAccessor != "" {
		keys = append(keys, rec.Address+"|accessor|"+rec.TokenAccessor)
	}
	if rec.ID != "" {
		keys = append(keys, rec.Address+"|lease|"+rec.ID)
	}
	return keys
}

// GetProvider reads a provider of either kind.
func GetProvider(ctx context.Context, c client.Reader, kind, name, namespace string) (v1alpha1.Provider, error) {
	if kind == v1alpha1.ProviderKindCluster {
		p := &v1alpha1.ClusterSecretProvider{}
		return p, c.Get(ctx, types.NamespacedName{Name: name}, p)
	}
	p := &v1alpha1.SecretProvider{}
	return p, c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, p)
}

// ProviderKey names a provider in IndexProvider.
func ProviderKey(kind, name, namespace string) string {
	if kind == v1alpha1.ProviderKindCluster {
		namespace = ""
	}
	return kind + "/" + namespace + "/" + name
}

// AddIndexes teaches the cache to find DynamicSecrets.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	indexes := map[string]func(*v1alpha1.DynamicSecret) []string{
		IndexTarget: func(d *v1alpha1.DynamicSecret) []string { return []string{d.TargetName()} },
		IndexProvider: func(d *v1alpha1.DynamicSecret) []string {
			keys := []string{ProviderKey(d.Spec.ProviderRef.Kind, d.Spec.ProviderRef.Name, d.Namespace)}
			for _, rec := range lease.Records(&d.Status) {
				keys = append(keys, ProviderKey(rec.Provider.Kind, rec.Provider.Name, d.Namespace))
			}
			return keys
		},
		indexLedger: func(d *v1alpha1.DynamicSecret) []string {
			var keys []string
			for _, rec := range lease.Records(&d.Status) {
				keys = append(keys, ledgerKeys(&rec)...)
			}
			return keys
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
