package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// fakeRequester records what a method requests.
type fakeRequester struct {
	// errors of the three methods.
	loginErr, secretErr, accountErr, unwrapErr error
	// data of every Secret that WithSecret reads.
	data map[string]string

	logins   []Request
	secrets  []v1alpha1.SecretKeyReference
	read     []v1alpha1.SecretReference
	accounts []ServiceAccount
	// unwrapped are the wrapping tokens.
	unwrapped []string
}

func (f *fakeRequester) Login(_ context.Context, r Request) (Token, error) {
	f.logins = append(f.logins, r)
	if f.loginErr != nil {
		return Token{}, f.loginErr
	}
	return Token{Value: "hvs.new", Accessor: "acc"}, nil
}

func (f *fakeRequester) SecretToken(_ context.Context, ref v1alpha1.SecretKeyReference) (string, error) {
	f.secrets = append(f.secrets, ref)
	return "hvs.from-secret", f.secretErr
}

func (f *fakeRequester) WithServiceAccountToken(
	_ context.Context, sa ServiceAccount, login func(string) (Token, error),
) (Token, error) {
	f.accounts = append(f.accounts, sa)
	if f.accountErr != nil {
		return Token{}, f.accountErr
	}
	return login("jwt-" + sa.Namespace + "-" + sa.Name)
}

func (f *fakeRequester) WithSecret(
	_ context.Context, ref v1alpha1.SecretReference, login func(Secret) (Token, error),
) (Token, error) {
	f.read = append(f.read, ref)
	if f.secretErr != nil {
		return Token{}, f.secretErr
	}
	s := Secret{Namespace: ref.Namespace, Name: ref.Name, Data: map[string][]byte{}}
	for key, value := range f.data {
		s.Data[key] = []byte(value)
	}
	return login(s)
}

func (f *fakeRequester) Unwrap(_ context.Context, wrappingToken, field, _ string) (string, error) {
	f.unwrapped = append(f.unwrapped, wrappingToken)
	return "unwrapped-" + field, f.unwrapErr
}

// HTTPClients connect to every address, because the tests' servers are on loopback.
func (f *fakeRequester) HTTPClients() HTTPClients {
	return NewHTTPClients(http.DefaultTransport, http.DefaultTransport, time.Minute)
}

// who is the identity of an object that names its ServiceAccount.
var who = backend.Identity{Namespace: "shop", ServiceAccount: "orders", Owner: owner}

var owner = backend.Owner{Namespace: "shop", Name: "orders-db", UID: "owner-uid"}

var audiences = []string{"vault"}

// kubernetesAuth has the defaults that the API server sets, and the ServiceAccount; nil: none is named.
func kubernetesAuth(account *v1alpha1.ServiceAccountReference) v1alpha1.VaultAuth {
	if account == nil {
		account = &v1alpha1.ServiceAccountReference{Audiences: audiences}
	}
	return v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
		Mount: "kubernetes", Role: "app", ServiceAccountRef: account,
	}}
}

// tokenAuth names a Secret; an empty namespace or key is not set.
func tokenAuth(namespace, name, key string) v1alpha1.VaultAuth {
	return v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{SecretRef: v1alpha1.SecretKeyReference{
		SecretReference: v1alpha1.SecretReference{Namespace: namespace, Name: name}, Key: key,
	}}}
}

// issuer of a ClusterSecretProvider.
func issuer(t *testing.T, spec v1alpha1.VaultAuth) Method {
	t.Helper()
	return issuerIn(t, spec, "")
}

// issuerIn is the issuer of a SecretProvider in the namespace.
func issuerIn(t *testing.T, spec v1alpha1.VaultAuth, namespace string) Method {
	t.Helper()
	m, err := Issuer(&v1alpha1.VaultProvider{Auth: spec}, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// keeper of a provider with keeperAuth. The namespace is that of a SecretProvider.
func keeper(t *testing.T, spec v1alpha1.VaultAuth, namespace string) Method {
	t.Helper()
	m, err := Keeper(&v1alpha1.VaultProvider{KeeperAuth: &spec}, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantError fails unless err has the kind and exactly the message.
func wantError(t *testing.T, err error, kind backend.ErrorKind, message string) {
	t.Helper()
	var ours *backend.Error
	if !errors.As(err, &ours) || ours.Kind != kind || ours.Message != message {
		t.Errorf("got %v\nwant %s (%s)", err, message, kind)
	}
}

// testCertificate makes a certificate and its key, in PEM.
func testCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}
