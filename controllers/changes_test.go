package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestProviderChangesNotifyProvidersAndUsers(t *testing.T) {
	cluster := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault"}}
	namespaced := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own"}}
	for _, c := range []struct {
		name, why                   string
		provider                    v1alpha1.Provider
		up, recovered               bool
		clusters, namespaces, users int
	}{
		{"a cluster provider became unavailable", "its status must be current; users retry by themselves", cluster,
			false, false, 1, 0, 0},
		{"a namespaced provider became unavailable", "each kind has its own queue", namespaced, false, false, 0, 1, 0},
		{"available after a moment", "no user waits", cluster, true, false, 1, 0, 0},
		{"available after an outage", "its users continue at once", namespaced, true, true, 0, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := NewProviderChanges()
			changes.Note(c.provider, c.up, c.recovered)
			got := [3]int{len(changes.providers[v1alpha1.ProviderKindCluster]),
				len(changes.providers[v1alpha1.ProviderKindNamespaced]), len(changes.users)}
			if want := [3]int{c.clusters, c.namespaces, c.users}; got != want {
				t.Errorf("because %s: queued %v, want %v", c.why, got, want)
			}
		})
	}
}

// Backends note changes while they hold a request, so a full queue must not stop them.
func TestProviderChangesDoNotBlock(t *testing.T) {
	changes := NewProviderChanges()
	for range 5000 {
		changes.Note(&v1alpha1.ClusterSecretProvider{}, true, true)
	}
	if n := len(changes.users); n == 0 || n == 5000 {
		t.Errorf("%d changes are queued", n)
	}
}
