package lifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
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
	reader client.Reader
	writer client.Client
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

// Update is locked: the Secret carries its uid and resource version.
func (a apiSecrets) Update(ctx context.Context, s *corev1.Secret, dryRun bool) error {
	opts := []client.UpdateOption{FieldOwner}
	if dryRun {
		opts = append(opts, client.DryRunAll)
	}
	return a.writer.Update(ctx, s, opts...)
}

func (a apiSecrets) Delete(ctx context.Context, s *corev1.Secret) error {
	uid, version := s.UID, s.ResourceVersion
	return a.writer.Delete(ctx, s, client.Preconditions{UID: &uid, ResourceVersion: &version})
}
