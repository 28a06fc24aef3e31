package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestProviderEnqueuesItsUnfinishedRevocations(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	revocation := func(name string, ref v1alpha1.RevocationProviderReference) *v1alpha1.LeaseRevocation {
		r := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{Name: name}}
		r.Spec.ProviderRef = ref
		return r
	}
	own := v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindNamespaced, Namespace: "shop", Name: "own"}
	done := revocation("done", own)
	done.Status.CompletedAt = &metav1.Time{Time: time.Unix(1, 0)}
	r := &LeaseRevocationReconciler{cache: clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(
		revocation("waits", own), done,
		revocation("other", v1alpha1.RevocationProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "own"}),
	).Build()}
	for _, c := range []struct {
		provider client.Object
		want     string
	}{
		{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own"}}, "waits"},
		{&v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "own"}}, "other"},
		{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "own"}}, ""},
		{&v1alpha1.DynamicSecret{}, ""},
	} {
		got := ""
		for _, request := range r.waitingFor(t.Context(), c.provider) {
			got += request.Name
		}
		if got != c.want {
			t.Errorf("%T %s/%s enqueues %q, want %q",
				c.provider, c.provider.GetNamespace(), c.provider.GetName(), got, c.want)
		}
	}
}
