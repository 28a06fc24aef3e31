package controllers

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestDeletedObjectEnqueuesAllItsProviders(t *testing.T) {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}}
	d.Spec.ProviderRef = &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}
	d.Spec.Sources = []v1alpha1.SecretSource{
		{Name: "db"}, {Name: "own", ProviderRef: &v1alpha1.ProviderReference{Name: "own"}},
	}
	d.Status.Retiring = []v1alpha1.LeaseRecord{
		{ID: "a", Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "former"}},
		{ID: "b", Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}},
	}
	for kind, want := range map[string]string{
		v1alpha1.ProviderKindCluster:    "[/former /vault]",
		v1alpha1.ProviderKindNamespaced: "[shop/own]",
	} {
		if got := fmt.Sprint(providersOf(d, kind)); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}
