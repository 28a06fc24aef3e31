package vault

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// keyCA is the key of a kubernetes.io/tls Secret that contains the issuer, by convention.
const keyCA = "ca.crt"

// forms are the fields under the keys of the types of Secrets that have names of their own. Only a response with a
// certificate and its key has one: that of kubernetes.io/tls.
func forms(fields map[string]json.RawMessage) map[corev1.SecretType]map[string][]byte {
	var key string
	leaf := certificatesIn(fields[fieldCertificate])
	if len(leaf) == 0 || readString(fields[fieldPrivateKey], &key) != nil {
		return nil
	}
	chain := chainOf(fields, leaf)
	form := map[string][]byte{
		corev1.TLSCertKey:       toPEM(slices.Concat(leaf[:1], intermediates(chain))),
		corev1.TLSPrivateKeyKey: []byte(key),
	}
	if len(chain) > 0 {
		form[keyCA] = toPEM(chain[len(chain)-1:])
	}
	return map[corev1.SecretType]map[string][]byte{corev1.SecretTypeTLS: form}
}

// chainOf are the issuers of the certificate, the nearest first. The engine sends ca_chain only if the issuer has one.
// A bundle (format: pem_bundle) has them in the field of the certificate.
func chainOf(fields map[string]json.RawMessage, leaf []*x509.Certificate) []*x509.Certificate {
	var texts []json.RawMessage
	if json.Unmarshal(fields["ca_chain"], &texts) != nil {
		texts = nil
	}
	var chain []*x509.Certificate
	for _, text := range append(texts, fields["issuing_ca"]) {
		for _, c := range certificatesIn(text) {
			if !slices.ContainsFunc(chain, c.Equal) {
				chain = append(chain, c)
			}
		}
	}
	for _, c := range leaf[1:] {
		if !slices.ContainsFunc(chain, c.Equal) {
			chain = append(chain, c)
		}
	}
	return ordered(leaf[0], chain)
}

// ordered follows the issuers from the certificate. What is not one of them is omitted.
func ordered(from *x509.Certificate, all []*x509.Certificate) []*x509.Certificate {
	var chain []*x509.Certificate
	for len(chain) < len(all) && !selfIssued(from) {
		next := slices.IndexFunc(all, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, from.RawIssuer) && !slices.ContainsFunc(chain, c.Equal) &&
				from.CheckSignatureFrom(c) == nil
		})
		if next < 0 {
			break
		}
		from = all[next]
		chain = append(chain, from)
	}
	return chain
}

// intermediates are the issuers except for a root: clients have it, or do not trust it.
func intermediates(chain []*x509.Certificate) []*x509.Certificate {
	if n := len(chain); n > 0 && selfIssued(chain[n-1]) {
		return chain[:n-1]
	}
	return chain
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// certificatesIn reads the certificates of a text in PEM. Other blocks, such as a key, are skipped.
func certificatesIn(raw json.RawMessage) []*x509.Certificate {
	var text string
	if readString(raw, &text) != nil {
		return nil
	}
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); block.Type == blockCertificate && err == nil {
			all = append(all, c)
		}
	}
}

func toPEM(certificates []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certificates {
		_ = pem.Encode(&out, &pem.Block{Type: blockCertificate, Bytes: c.Raw}) // a buffer never fails
	}
	return out.Bytes()
}
