package auth

import (
	"context"
	"crypto/tls"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// cert logs in with a client certificate, which is presented in the TLS handshake of the login.
type cert struct {
	// role to log in as; empty: any that matches.
	mount, role string
	secret      v1alpha1.SecretReference
	use
}

func newCert(spec v1alpha1.VaultAuth, u use) (Method, error) {
	c := spec.Cert
	if c == nil {
		return nil, nil
	}
	return cert{mount: or(string(c.Mount), "cert"), role: c.Role, secret: u.secret(c.SecretRef), use: u}, nil
}

// String implements Method.
func (c cert) String() string {
	if c.role == "" {
		return "the certificate's role of auth/" + c.mount
	}
	return fmt.Sprintf("role %q", c.role)
}

// ServiceAccount implements Method.
func (cert) ServiceAccount(backend.Identity) (string, error) { return "", nil }

// Login implements Method.
func (c cert) Login(ctx context.Context, r Requester, _ backend.Identity) (Token, error) {
	field := c.field + ".cert.secretRef"
	token, err := r.WithSecret(ctx, c.secret, func(s Secret) (Token, error) {
		pair, err := KeyPair(s, field)
		if err != nil {
			return Token{}, err
		}
		body := map[string]string{}
		if c.role != "" {
			body["name"] = c.role
		}
		return r.Login(ctx, Request{
			Path: "auth/" + c.mount + "/login",
			Role: c.role,
			Body: body,
			Action: fmt.Sprintf("%s to %s of auth/%s with Secret %s/%s",
				c.action(), c.target(), c.mount, s.Namespace, s.Name),
			Hint: "the certificate must be valid now, match the role's certificate and its allowed names; the auth " +
				"method must be mounted there",
			Causes: []Cause{{"client certificate", "it must reach Vault's listener: nothing may terminate TLS " +
				"before Vault, the listener must not have tls_disable_client_certs, and its tls_client_ca_file, " +
				"if set, must include the certificate's authority"}},
			Certificate:      &pair,
			CertificateField: field,
		})
	})
	token.ConfiguredAt = fmt.Sprintf("auth/%s/certs/%s", c.mount, or(c.role, "NAME"))
	return token, err
}

func (c cert) target() string {
	if c.role == "" {
		return "any role"
	}
	return c.String()
}

// KeyPair is the certificate and the key of a Secret of type kubernetes.io/tls.
func KeyPair(s Secret, field string) (tls.Certificate, error) {
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(s.Data[key]) == 0 {
			return tls.Certificate{}, backend.Errorf(backend.Misconfigured,
				"%s: Secret %q in namespace %q has no key %q: use one of type kubernetes.io/tls",
				field, s.Name, s.Namespace, key)
		}
	}
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		// The cause is dropped: it might quote the key.
		return pair, backend.Errorf(backend.TLS, "%s: Secret %q in namespace %q has no matching certificate and key: "+
			"replace them", field, s.Name, s.Namespace)
	}
	return pair, nil
}

// Owns implements Method. Vault records the certificate, which all objects share, so the ledger's seal must prove it.
func (c cert) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+c.mount+"/login" && owner.Proven
}
