package vault

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

const (
	parameterCSR     = "csr"
	fieldPrivateKey  = "private_key"
	fieldCertificate = "certificate"
	blockRequest     = "CERTIFICATE REQUEST"
	blockPrivateKey  = "PRIVATE KEY"
	blockCertificate = "CERTIFICATE"
	defaultRSABits   = 2048
	defaultCurve     = 256
)

// privateKey is a key that was generated here. Only its public part is sent.
type privateKey struct{ crypto.Signer }

func newPrivateKey(spec *v1alpha1.PrivateKeySpec) (*privateKey, error) {
	var (
		key crypto.Signer
		err error
	)
	switch spec.Algorithm {
	case v1alpha1.AlgorithmRSA:
		key, err = rsa.GenerateKey(rand.Reader, int(cmp.Or(spec.Size, defaultRSABits)))
	case v1alpha1.AlgorithmEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(curveOf(spec.Size), rand.Reader)
	}
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "the private key cannot be generated: check privateKey")
	}
	return &privateKey{key}, nil
}

func curveOf(bits int32) elliptic.Curve {
	switch bits {
	case 384:
		return elliptic.P384()
	case 521:
		return elliptic.P521()
	}
	return elliptic.P256()
}

// signingRequest has the names of the parameters, because Vault takes them from the request unless the role says
// otherwise (use_csr_common_name and use_csr_sans).
func signingRequest(parameters map[string]apiextensionsv1.JSON) (*x509.CertificateRequest, error) {
	template := &x509.CertificateRequest{}
	if names := listOf(parameters["common_name"]); len(names) > 0 {
		template.Subject = pkix.Name{CommonName: names[0]}
	}
	for _, name := range listOf(parameters["alt_names"]) {
		if strings.Contains(name, "@") {
			template.EmailAddresses = append(template.EmailAddresses, name)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	for _, text := range listOf(parameters["ip_sans"]) {
		ip := net.ParseIP(text)
		if ip == nil {
			return nil, backend.Errorf(backend.Misconfigured,
				"the parameter ip_sans has %q, which is not an IP address", cut(oneLine(text), 64))
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	for _, text := range listOf(parameters["uri_sans"]) {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, backend.Errorf(backend.Misconfigured, "the parameter uri_sans has %q, which is not a URI",
				cut(oneLine(text), 64))
		}
		template.URIs = append(template.URIs, uri)
	}
	return template, nil
}

func (k *privateKey) sign(template *x509.CertificateRequest) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, k.Signer)
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "the certificate signing request cannot be made: "+
			"check the parameters common_name, alt_names, ip_sans and uri_sans")
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der}), nil
}

// listOf reads names as Vault does: a list, or a text with commas.
func listOf(value apiextensionsv1.JSON) []string {
	var all []string
	if json.Unmarshal(value.Raw, &all) != nil {
		var text string
		if json.Unmarshal(value.Raw, &text) != nil {
			return nil
		}
		all = strings.Split(text, ",")
	}
	var names []string
	for _, name := range all {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// addTo adds the key to the fields of the response, if the certificate in them is one for the key.
func (k *privateKey) addTo(fields map[string]json.RawMessage, path string) error {
	problem := ""
	certificates := certificatesIn(fields[fieldCertificate])
	switch {
	case !isNull(fields[fieldPrivateKey]):
		problem = "has a private key of its own: use a path that signs, such as pki/sign, or omit privateKey"
	case len(certificates) == 0:
		problem = "has no certificate: use a path that signs, such as pki/sign, or omit privateKey"
	default:
		public, comparable := k.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !comparable || !public.Equal(certificates[0].PublicKey) {
			problem = "has a certificate for another key: use a path that signs, such as pki/sign"
		}
	}
	if problem != "" {
		return backend.Errorf(backend.InvalidResponse, "the response for %q %s", path, problem)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.Signer)
	if err != nil {
		return backend.Errorf(backend.InvalidResponse, "the generated key for %q cannot be encoded", path)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: blockPrivateKey, Bytes: der})
	fields[fieldPrivateKey], err = json.Marshal(string(text))
	return err
}
