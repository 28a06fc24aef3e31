package vault

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// confined is what a SecretProvider reaches in the cluster: the objects of its own namespace. The CRD rejects other
// namespaces, too, but rules of a CRD can be removed, and objects stored before a rule stay. Without this, the author
// of such an object could send any Secret of the cluster to a server of their choice.
type confined struct {
	Kube
	namespace string
}

// confine returns what a provider of the namespace reaches. Empty: a ClusterSecretProvider, which reaches everything.
func confine(k Kube, namespace string) Kube {
	if namespace == "" {
		return k
	}
	return confined{k, namespace}
}

func (c confined) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	if err := within(c.namespace, namespace, "Secret", name); err != nil {
		return nil, err
	}
	return c.Kube.GetSecret(ctx, namespace, name)
}

func (c confined) GetConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	if err := within(c.namespace, namespace, "ConfigMap", name); err != nil {
		return nil, err
	}
	return c.Kube.GetConfigMap(ctx, namespace, name)
}

// within returns an error if an object is not in a SecretProvider's own namespace. own is empty for a
// ClusterSecretProvider.
func within(own, namespace, kind, name string) error {
	if own == "" || own == namespace {
		return nil
	}
	return backend.Errorf(backend.Misconfigured,
		"the SecretProvider names %s %q in namespace %q, and reaches its own namespace %q only: "+
			"omit the namespace, or use a ClusterSecretProvider",
		kind, name, namespace, own)
}
