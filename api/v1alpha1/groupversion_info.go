// Package v1alpha1 holds the API of leasekeeper.io/v1alpha1: DynamicSecret, SecretProvider, ClusterSecretProvider and
// LeaseRevocation.
// Every comment on a field is the text that `kubectl explain` shows for it.
//
// +kubebuilder:object:generate=true
// +groupName=leasekeeper.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the group and version of every kind in this package.
	GroupVersion = schema.GroupVersion{Group: "leasekeeper.io", Version: "v1alpha1"}

	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the kinds of this package to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

func addKnownTypes(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&DynamicSecret{}, &DynamicSecretList{},
		&SecretProvider{}, &SecretProviderList{},
		&ClusterSecretProvider{}, &ClusterSecretProviderList{},
		&LeaseRevocation{}, &LeaseRevocationList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
