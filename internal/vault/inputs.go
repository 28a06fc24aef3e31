package vault

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// inputs are what a request needs besides its source: parameters from Secrets, and a new private key. They stay in
// memory.
type inputs struct {
	parameters map[string]json.RawMessage
	// secrets are the values that no message repeats.
	secrets []string
	// signing is the certificate signing request before it has a key; nil: the source wants none.
	signing *x509.CertificateRequest
	// key is the new private key; nil: it was not generated yet.
	key *privateKey
}

// Prepare implements backend.Preparer.
func (b *Backend) Prepare(ctx context.Context, who backend.Identity, src v1alpha1.SecretSource) (any, error) {
	req, err := requestOf(src)
	if err != nil {
		return nil, err
	}
	return b.prepare(ctx, who.Namespace, req)
}

// prepare costs one request to the API server for each Secret.
func (b *Backend) prepare(ctx context.Context, namespace string, req *v1alpha1.VaultRequest) (*inputs, error) {
	in := &inputs{parameters: map[string]json.RawMessage{}}
	secrets := map[string]map[string][]byte{}
	for _, from := range req.ParametersFrom {
		ref := from.SecretKeyRef
		if secrets[ref.Name] == nil {
			data, err := b.parameterSecret(ctx, namespace, ref.Name)
			if err != nil {
				return nil, err
			}
			secrets[ref.Name] = data
		}
		value, found := secrets[ref.Name][ref.Key]
		switch {
		case !found:
			return nil, backend.Errorf(backend.Misconfigured, "parameter %q: Secret %q has no key %q: "+
				"add it, or correct parametersFrom", from.Name, ref.Name, ref.Key)
		case !utf8.Valid(value):
			return nil, backend.Errorf(backend.Misconfigured, "parameter %q: the value in Secret %q is not text, "+
				"and parameters are sent as strings: encode it, such as in base64", from.Name, ref.Name)
		}
		in.parameters[from.Name], _ = json.Marshal(string(value))
		in.secrets = append(in.secrets, string(value))
	}
	if req.PrivateKey == nil {
		return in, nil
	}
	var err error
	in.signing, err = signingRequest(req.Parameters)
	return in, err
}

// generate makes the private key and signs the request with it. That takes seconds for a long RSA key, so it is done
// after the login: an outage must not cost a key at each attempt.
func (in *inputs) generate(spec *v1alpha1.PrivateKeySpec) error {
	if spec == nil || in.signing == nil {
		return nil
	}
	key, err := newPrivateKey(spec)
	if err != nil {
		return err
	}
	request, err := key.sign(in.signing)
	if err != nil {
		return err
	}
	in.key = key
	in.parameters[parameterCSR], err = json.Marshal(string(request))
	return err
}

// parameterSecret reads a Secret whose owner permits that its values are sent.
func (b *Backend) parameterSecret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	secret, err := b.kube.GetSecret(ctx, namespace, name)
	var mapped *backend.Error
	switch {
	case apierrors.IsNotFound(err):
		mapped = backend.Errorf(backend.Misconfigured,
			"parametersFrom names Secret %q, which does not exist: create it", name)
	case apierrors.IsForbidden(err):
		mapped = backend.Errorf(backend.Misconfigured, "leasekeeper may not read Secret %q, which parametersFrom "+
			"names: grant leasekeeper's ServiceAccount get on it", name)
	case err != nil:
		mapped = backend.Errorf(backend.Unavailable, "reading Secret %q, which parametersFrom names, failed", name)
	case secret.Labels[v1alpha1.ParametersLabel] != "true":
		return nil, backend.Errorf(backend.Misconfigured, "Secret %q may not be sent to a provider: "+
			"its owner must set the label %s to \"true\"", name, v1alpha1.ParametersLabel)
	default:
		return secret.Data, nil
	}
	mapped.Err = err
	return nil, mapped
}

// inputsOf are those of the session; empty: it has none.
func inputsOf(s backend.Session) *inputs {
	if in, ok := s.Inputs.(*inputs); ok && in != nil {
		return in
	}
	return &inputs{}
}

// checkParameters finds a parameter that is set twice. The schema cannot: rules cannot see values of any type.
func checkParameters(src v1alpha1.SecretSource, req *v1alpha1.VaultRequest) error {
	names := make([]string, 0, len(req.ParametersFrom)+1)
	for _, from := range req.ParametersFrom {
		names = append(names, from.Name)
	}
	if req.PrivateKey != nil {
		if slices.Contains(names, parameterCSR) {
			return setTwice(src, parameterCSR)
		}
		names = append(names, parameterCSR)
	}
	for _, name := range names {
		if _, set := req.Parameters[name]; set {
			return setTwice(src, name)
		}
	}
	return nil
}

func setTwice(src v1alpha1.SecretSource, name string) error {
	field := "spec.vault"
	if src.Name != "" {
		field = fmt.Sprintf("spec.sources[%s].vault", src.Name)
	}
	return backend.Errorf(backend.Misconfigured, "%s sets the parameter %q twice: "+
		"set it in parameters or in parametersFrom; privateKey sets csr", field, name)
}
