package lifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// FieldOwner names leasekeeper in managedFields.
const FieldOwner = client.FieldOwner("leasekeeper")

// apiObjects are the DynamicSecrets of the API server.
type apiObjects struct {
	reader client.Reader
	writer client.Client
}

func (a apiObjects) Get(ctx context.Context, key types.NamespacedName) (*v1alpha1.DynamicSecret, error) {
	d := &v1alpha1.DynamicSecret{}
	return d, a.reader.Get(ctx, key, d)
}

func (a apiObjects) UpdateStatus(ctx context.Context, d *v1alpha1.DynamicSecret) error {
	return a.writer.Status().Update(ctx, d, FieldOwner)
}

func (a apiObjects) PatchStatus(ctx context.Context, before, d *v1alpha1.DynamicSecret) error {
	lock := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return a.writer.Status().Patch(ctx, d, lock, FieldOwner)
}

func (a apiObjects) SetFinalizer(ctx context.Context, d *v1alpha1.DynamicSecret, present bool) error {
	before := d.DeepCopy()
	if present {
		controllerutil.AddFinalizer(d, v1alpha1.Finalizer)
	} else {
		controllerutil.RemoveFinalizer(d, v1alpha1.Finalizer)
	}
	lock := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return a.writer.Patch(ctx, d, lock, FieldOwner)
}

// apiSecrets are the Secrets of the API server.
type apiSecrets struct {
	cache  client.Reader
	reader client.Reader
	writer client.Client
}

func secretMetadata() *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return m
}

func (a apiSecrets) Cached(ctx context.Context, key types.NamespacedName) (*metav1.PartialObjectMetadata, error) {
	m := secretMetadata()
	if err := a.cache.Get(ctx, key, m); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return m, nil
}

func (a apiSecrets) Owned(
	ctx context.Context, d *v1alpha1.DynamicSecret,
) ([]metav1.PartialObjectMetadata, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := a.cache.List(ctx, list, client.InNamespace(d.Namespace),
		client.MatchingLabels{v1alpha1.OwnerLabel: secret.OwnerLabelValue(d.Name)})
	return list.Items, err
}

func (a apiSecrets) Get(ctx context.Context, key types.NamespacedName) (*corev1.Secret, error) {
	s := &corev1.Secret{}
	return s, a.reader.Get(ctx, key, s)
}

func (a apiSecrets) Create(ctx context.Context, s *corev1.Secret, dryRun bool) error {
	opts := []client.CreateOption{FieldOwner}
	if dryRun {
		opts = append(opts, client.DryRunAll)
	}
	return a.writer.Create(ctx, s, opts...)
}

func (a apiSecrets) Patch(ctx context.Context, change secret.Change, dryRun bool) (*corev1.Secret, error) {
	body, err := change.MarshalJSON()
	if err != nil {
		return nil, err
	}
	opts := []client.PatchOption{FieldOwner}
	if dryRun {
		opts = append(opts, client.DryRunAll)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: change.Namespace, Name: change.Name}}
	return s, a.writer.Patch(ctx, s, client.RawPatch(types.MergePatchType, body), opts...)
}

func (a apiSecrets) Delete(ctx context.Context, m *metav1.ObjectMeta) error {
	target := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
	return a.writer.Delete(ctx, target, client.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion})
}
