package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Kube is what this package needs from the cluster. Errors are those of the API server, so that apierrors recognises
// them. Reads must not come from a cache: a Secret that contains a token is read when it is needed and not kept.
type Kube interface {
	GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	GetConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	// RequestToken requests a token of a ServiceAccount. It returns the lifetime that was granted.
	RequestToken(
		ctx context.Context, namespace, serviceAccount string, audiences []string, expirationSeconds int64,
	) (string, time.Duration, error)
}

// NewKube is a Kube over controller-runtime: an uncached reader and a client for the subresource serviceaccounts/token.
func NewKube(reader client.Reader, tokens client.SubResourceClientConstructor) Kube {
	return clusterAPI{reader: reader, tokens: tokens}
}

type clusterAPI struct {
	reader client.Reader
	tokens client.SubResourceClientConstructor
}

func (k clusterAPI) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := k.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret)
	return secret, err
}

func (k clusterAPI) GetConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	configMap := &corev1.ConfigMap{}
	err := k.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, configMap)
	return configMap, err
}

func (k clusterAPI) RequestToken(
	ctx context.Context, namespace, serviceAccount string, audiences []string, expirationSeconds int64,
) (string, time.Duration, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceAccount}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &expirationSeconds,
	}}
	if err := k.tokens.SubResource("token").Create(ctx, account, request); err != nil {
		return "", 0, err
	}
	// The response repeats the spec with what was granted. Its status has a time of the API server's clock, which is
	// not used: the clocks may differ.
	if granted := request.Spec.ExpirationSeconds; granted != nil {
		expirationSeconds = *granted
	}
	return request.Status.Token, time.Duration(expirationSeconds) * time.Second, nil
}

// readError maps an error of reading an object that the provider's spec names.
func readError(err error, kind, namespace, name string) *backend.Error {
	if ours := (*backend.Error)(nil); errors.As(err, &ours) {
		return ours
	}
	object := fmt.Sprintf("%s %q in namespace %q", kind, name, namespace)
	var mapped *backend.Error
	switch {
	case apierrors.IsNotFound(err):
		mapped = backend.Errorf(backend.Misconfigured, "the provider names %s, which does not exist: create it", object)
	case apierrors.IsForbidden(err):
		mapped = backend.Errorf(backend.Misconfigured,
			"leasekeeper may not read %s: grant leasekeeper's ServiceAccount get on it", object)
	default:
		mapped = backend.Errorf(backend.Unavailable, "reading %s from the API server failed", object)
	}
	mapped.Err = err
	return mapped
}

// tokenError maps an error of requesting a ServiceAccount's token.
func tokenError(err error, namespace, name string) *backend.Error {
	var mapped *backend.Error
	switch {
	case apierrors.IsNotFound(err):
		mapped = backend.Errorf(backend.NoServiceAccount,
			"ServiceAccount %q does not exist in namespace %q: create it", name, namespace)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		mapped = backend.Errorf(backend.NoServiceAccount,
			"namespace %q is being deleted: the API server issues no tokens of its ServiceAccounts", namespace)
	case apierrors.IsForbidden(err):
		mapped = backend.Errorf(backend.Misconfigured,
			"leasekeeper may not request a token of ServiceAccount %q in namespace %q: "+
				"grant leasekeeper's ServiceAccount create on serviceaccounts/token", name, namespace)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		mapped = backend.Errorf(backend.Misconfigured,
			"the API server refuses a token of ServiceAccount %q in namespace %q: "+
				"check the audiences of the provider, and those of the admission policy leasekeeper-tokens",
			name, namespace)
	case errors.Is(err, context.DeadlineExceeded):
		mapped = backend.Errorf(backend.Unavailable,
			"the API server did not return a token of ServiceAccount %q in namespace %q in time: "+
				"check whether an admission webhook for serviceaccounts/token responds", name, namespace)
	default:
		mapped = backend.Errorf(backend.Unavailable,
			"requesting a token of ServiceAccount %q in namespace %q from the API server failed", name, namespace)
	}
	mapped.Err = err
	return mapped
}
