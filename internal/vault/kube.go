package vault

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Kube is what this package needs of the cluster. Errors are those of the API server, so that apierrors tells them
// apart. Reads must not come from a cache: a Secret that holds a token is read when it is needed and not kept.
type Kube interface {
	GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	GetConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	// RequestToken asks for a token of a ServiceAccount and says how long it is good for, as granted.
	RequestToken(ctx context.Context, namespace, serviceAccount string, audiences []string, expirationSeconds int64) (string, time.Duration, error)
}

// NewKube is a Kube over controller-runtime: an uncached reader and a client for the subresource serviceaccounts/token.
func NewKube(reader client.Reader, tokens client.SubResourceClientConstructor) Kube {
	return kube{reader: reader, tokens: tokens}
}

type kube struct {
	reader client.Reader
	tokens client.SubResourceClientConstructor
}

func (k kube) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := k.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret)
	return secret, err
}

func (k kube) GetConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	configMap := &corev1.ConfigMap{}
	err := k.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, configMap)
	return configMap, err
}

func (k kube) RequestToken(ctx context.Context, namespace, serviceAccount string, audiences []string, expirationSeconds int64) (string, time.Duration, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceAccount}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &expirationSeconds,
	}}
	if err := k.tokens.SubResource("token").Create(ctx, account, request); err != nil {
		return "", 0, err
	}
	// The answer repeats the spec with what was granted. The status has a time of the API server's clock; durations
	// are trusted, foreign clocks are not.
	if granted := request.Spec.ExpirationSeconds; granted != nil {
		expirationSeconds = *granted
	}
	return request.Status.Token, time.Duration(expirationSeconds) * time.Second, nil
}

// readFault maps an error of reading an object that the provider's spec names.
func readFault(err error, kind, namespace, name string) *backend.Error {
	object := fmt.Sprintf("%s %q in namespace %q", kind, name, namespace)
	var fault *backend.Error
	switch {
	case apierrors.IsNotFound(err):
		fault = backend.Errorf(backend.Misconfigured, "the provider names %s, which does not exist", object)
	case apierrors.IsForbidden(err):
		fault = backend.Errorf(backend.Misconfigured, "leasekeeper may not read %s: grant its ServiceAccount get on it", object)
	default:
		fault = backend.Errorf(backend.Unavailable, "the API server did not give %s", object)
	}
	fault.Err = err
	return fault
}

// tokenFault maps an error of asking for a ServiceAccount's token.
func tokenFault(err error, namespace, name string) *backend.Error {
	var fault *backend.Error
	switch {
	case apierrors.IsNotFound(err):
		fault = backend.Errorf(backend.NoServiceAccount, "ServiceAccount %q does not exist in namespace %q", name, namespace)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		fault = backend.Errorf(backend.NoServiceAccount, "namespace %q is being deleted: its ServiceAccounts get no more tokens", namespace)
	case apierrors.IsForbidden(err):
		fault = backend.Errorf(backend.Misconfigured,
			"leasekeeper may not ask for a token of ServiceAccount %q in namespace %q: grant its own ServiceAccount create on serviceaccounts/token", name, namespace)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		fault = backend.Errorf(backend.Misconfigured, "the API server refuses a token of ServiceAccount %q in namespace %q: look at the audiences", name, namespace)
	default:
		fault = backend.Errorf(backend.Unavailable, "the API server did not give a token of ServiceAccount %q in namespace %q", name, namespace)
	}
	fault.Err = err
	return fault
}
