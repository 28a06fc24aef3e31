package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// apiServer builds a fake API server that knows our kinds and keeps statuses apart.
func apiServer(t *testing.T, stored ...client.Object) *clientfake.ClientBuilder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...).
		WithStatusSubresource(&v1alpha1.DynamicSecret{}, &v1alpha1.SecretProvider{}, &v1alpha1.ClusterSecretProvider{}, &v1alpha1.LeaseRevocation{})
}

// ledgerOf is a DynamicSecret of namespace shop with the status.
func ledgerOf(name string, st v1alpha1.DynamicSecretStatus) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: st}
}

// wanting is a DynamicSecret that asks for database/creds/orders from cluster provider vault.
func wanting(modifiers ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1", CreationTimestamp: judged},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
			Vault:       &v1alpha1.VaultRequest{Path: "database/creds/orders", Method: v1alpha1.MethodRead},
		},
	}
	for _, m := range modifiers {
		m(d)
	}
	return d
}

// usableProvider is a cluster provider that was checked and found good, with a ServiceAccount for those who name none.
func usableProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	return clusterProvider(append([]func(*v1alpha1.ClusterSecretProvider){func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.Namespace = "team"
		p.Spec.Vault.Auth.Kubernetes = &v1alpha1.VaultKubernetesAuth{Mount: "kubernetes", Role: "app",
			ServiceAccountRef: &v1alpha1.WorkloadServiceAccount{Name: "app"}}
		p.Status.ObservedGeneration = p.Generation
		say(p, judged, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it answers", false)
	}}, modifiers...)...)
}
