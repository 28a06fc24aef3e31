package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestNothingExistsOutsideTheScope(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	all := clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(
		object("shop", "orders", ""), object("bank", "orders", ""),
		&v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
	).Build()
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	for _, c := range []struct {
		name                            string
		scope                           Scope
		shop, bank, provider, namespace bool
	}{
		{"everything", Scope{}, true, true, true, true},
		{"a namespace", Scope{Namespaces: []string{"shop"}}, true, false, true, true},
		{"a namespace without cluster kinds", Scope{Namespaces: []string{"shop"}, NamespacedOnly: true},
			true, false, false, false},
		{"all namespaces without cluster kinds", Scope{NamespacedOnly: true}, true, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			scoped := c.scope.client(all)
			for _, want := range []struct {
				name   string
				key    client.ObjectKey
				into   client.Object
				exists bool
			}{
				{"shop", client.ObjectKey{Namespace: "shop", Name: "orders"}, &v1alpha1.DynamicSecret{}, c.shop},
				{"bank", client.ObjectKey{Namespace: "bank", Name: "orders"}, &v1alpha1.DynamicSecret{}, c.bank},
				{"provider", client.ObjectKey{Name: "vault"}, &v1alpha1.ClusterSecretProvider{}, c.provider},
				{"namespace", client.ObjectKey{Name: "shop"}, namespace, c.namespace},
			} {
				err := scoped.Get(t.Context(), want.key, want.into)
				if (err == nil) != want.exists || err != nil && !apierrors.IsNotFound(err) {
					t.Errorf("%s: got %v, want it to exist: %t", want.name, err, want.exists)
				}
			}
			var objects v1alpha1.DynamicSecretList
			if err := scoped.List(t.Context(), &objects, client.InNamespace("bank")); err != nil ||
				(len(objects.Items) > 0) != c.bank {
				t.Errorf("bank has %d objects, %v", len(objects.Items), err)
			}
			var providers v1alpha1.ClusterSecretProviderList
			if err := scoped.List(t.Context(), &providers); err != nil || (len(providers.Items) > 0) != c.provider {
				t.Errorf("there are %d cluster providers, %v", len(providers.Items), err)
			}
		})
	}
}
