package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Scope is the part of the cluster that the manager serves. It has no rights elsewhere, so a request for anything else
// would fail, and a cache of it would never be filled.
type Scope struct {
	// Namespaces to serve; empty: all.
	Namespaces []string
	// NamespacedOnly: ClusterSecretProviders and LeaseRevocations are not served.
	NamespacedOnly bool
}

// limited says that something is out of scope.
func (s Scope) limited() bool { return len(s.Namespaces) > 0 || s.NamespacedOnly }

// client returns a client for which nothing exists outside the scope.
func (s Scope) client(c client.Client) client.Client {
	if !s.limited() {
		return c
	}
	return scopedClient{c, s}
}

type scopedClient struct {
	client.Client
	scope Scope
}

// serves says whether objects of the kind in the namespace are in scope. An empty namespace: all of them, or an object
// of the cluster.
func (c scopedClient) serves(kind schema.GroupVersionKind, namespace string) bool {
	switch kind.GroupKind() {
	case v1alpha1.GroupVersion.WithKind(v1alpha1.ProviderKindCluster).GroupKind(),
		v1alpha1.GroupVersion.WithKind("LeaseRevocation").GroupKind(),
		corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind():
		return !c.scope.NamespacedOnly
	}
	return namespace == "" || len(c.scope.Namespaces) == 0 || slices.Contains(c.scope.Namespaces, namespace)
}

// Get implements client.Reader.
func (c scopedClient) Get(
	ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption,
) error {
	kind, err := apiutil.GVKForObject(o, c.Scheme())
	if err != nil {
		return err
	}
	if !c.serves(kind, key.Namespace) {
		return apierrors.NewNotFound(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, key.Name)
	}
	return c.Client.Get(ctx, key, o, opts...)
}

// List implements client.Reader.
func (c scopedClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	kind, err := apiutil.GVKForObject(list, c.Scheme())
	if err != nil {
		return err
	}
	kind.Kind = kind.Kind[:len(kind.Kind)-len("List")]
	options := client.ListOptions{}
	options.ApplyOptions(opts)
	if !c.serves(kind, options.Namespace) {
		return meta.SetList(list, []runtime.Object{})
	}
	return c.Client.List(ctx, list, opts...)
}
