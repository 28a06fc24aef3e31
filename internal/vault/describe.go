package vault

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// digestVersion is the format of RequestDigest. A field that is added to the format must be omitted when it is empty:
// then it changes no digest of a request that does not use it.
const digestVersion = "1:"

// Describe implements backend.Driver. With NoServiceAccount the record is complete except for the ServiceAccount, and
// with a namespace that the server ignores it is complete.
func (d *Driver) Describe(
	p v1alpha1.Provider, who backend.Identity, src v1alpha1.SecretSource,
) (v1alpha1.LeaseRecord, error) {
	spec, err := specOf(p)
	if err != nil {
		return v1alpha1.LeaseRecord{}, err
	}
	req, err := requestOf(src)
	if err != nil {
		return v1alpha1.LeaseRecord{}, err
	}
	rec := v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{
		Address: spec.Address, Namespace: or(req.Namespace, spec.Namespace), Path: req.Path,
	}}
	issuer, err := auth.Issuer(spec, p.GetNamespace())
	if err != nil {
		return rec, err
	}
	account, err := issuer.ServiceAccount(who)
	rec.RequestDigest = requestDigest(p, rec.Vault, req, account)
	if err == nil {
		err = checkParameters(src, req)
	}
	if err == nil {
		err = d.checkNamespace(p, src)
	}
	return rec, err
}

// checkNamespace rejects a namespace that the server would ignore: the path would be one of the root namespace. That
// is known once the provider has been inspected. The provider's own namespace is reported in its status.
func (d *Driver) checkNamespace(p v1alpha1.Provider, src v1alpha1.SecretSource) error {
	b := d.find(keyOf(p))
	if b == nil || !b.ignores(src.Vault.Namespace) {
		return nil
	}
	field := "spec.vault.namespace"
	if src.Name != "" {
		field = "spec.sources[" + src.Name + "].vault.namespace"
	}
	return backend.Errorf(backend.Misconfigured, "%s is set, but %s: remove it", field, noNamespaces)
}

// requestOf is the vault block of the source.
func requestOf(src v1alpha1.SecretSource) (*v1alpha1.VaultRequest, error) {
	switch {
	case src.Vault != nil:
		return src.Vault, nil
	case src.Name != "":
		return nil, backend.Errorf(backend.Misconfigured,
			"source %q has no request to Vault, which its provider needs: set vault on it", src.Name)
	}
	return nil, backend.Errorf(backend.Misconfigured,
		"the spec has no request to Vault, which its provider needs: set spec.vault")
}

// requestDigest distinguishes requests. The provider's UID is not part of it: a provider that was restored with the
// same name and address is the one that the credential came from.
func requestDigest(p v1alpha1.Provider, at *v1alpha1.VaultRecord, req *v1alpha1.VaultRequest, account string) string {
	request := struct {
		ProviderKind   string         `json:"providerKind"`
		Provider       string         `json:"provider"`
		Address        string         `json:"address"`
		Namespace      string         `json:"namespace,omitempty"`
		Path           string         `json:"path"`
		Method         string         `json:"method"`
		Parameters     map[string]any `json:"parameters,omitempty"`
		ServiceAccount string         `json:"serviceAccount,omitempty"`
		// ParametersFrom does not include the values: a new value replaces nothing by itself.
		ParametersFrom map[string]v1alpha1.ParameterKeyReference `json:"parametersFrom,omitempty"`
		PrivateKey     *v1alpha1.PrivateKeySpec                  `json:"privateKey,omitempty"`
		CustomMetadata bool                                      `json:"customMetadata,omitempty"`
	}{
		ProviderKind: p.Kind(), Provider: p.GetName(),
		Address: at.Address, Namespace: at.Namespace, Path: at.Path,
		Method: or(string(req.Method), string(v1alpha1.MethodRead)), Parameters: map[string]any{},
		ServiceAccount: account, ParametersFrom: map[string]v1alpha1.ParameterKeyReference{},
		PrivateKey: normalKey(req.PrivateKey), CustomMetadata: req.CustomMetadata,
	}
	for _, from := range req.ParametersFrom {
		request.ParametersFrom[from.Name] = from.SecretKeyRef
	}
	for name, value := range req.Parameters {
		request.Parameters[name] = canonical(value.Raw)
	}
	text, _ := json.Marshal(request)
	sum := sha256.Sum256(text)
	return digestVersion + hex.EncodeToString(sum[:8])
}

// normalKey has the defaults, so that they are the same request as their explicit values.
func normalKey(spec *v1alpha1.PrivateKeySpec) *v1alpha1.PrivateKeySpec {
	if spec == nil {
		return nil
	}
	normal := v1alpha1.PrivateKeySpec{
		Algorithm: cmp.Or(spec.Algorithm, v1alpha1.AlgorithmECDSA), Size: spec.Size,
	}
	switch normal.Algorithm {
	case v1alpha1.AlgorithmECDSA:
		normal.Size = cmp.Or(spec.Size, defaultCurve)
	case v1alpha1.AlgorithmRSA:
		normal.Size = cmp.Or(spec.Size, defaultRSABits)
	}
	return &normal
}

// canonical decodes a JSON value, so that white space and the order of keys are lost. Numbers keep their digits.
func canonical(raw []byte) any {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return string(raw)
	}
	return value
}

// Holds implements backend.Driver.
func (d *Driver) Holds(p v1alpha1.Provider, rec *v1alpha1.LeaseRecord) error {
	spec, err := specOf(p)
	if err != nil {
		return err
	}
	at, err := locationOf(rec)
	if err != nil {
		return err
	}
	if spec.Address != at.Address {
		return backend.Errorf(backend.Misconfigured,
			"%s %s has another address than the lease, which lives at %s: create the provider again with that address",
			p.Kind(), p.GetName(), cut(oneLine(at.Address), 128))
	}
	return nil
}

// locationOf is the record's vault block. A user may have removed it from the status.
func locationOf(rec *v1alpha1.LeaseRecord) (*v1alpha1.VaultRecord, error) {
	if rec.Vault != nil {
		return rec.Vault, nil
	}
	return nil, backend.Errorf(backend.Mismatch,
		"the record has no vault block, so its credential cannot be identified: nothing is done to it")
}
