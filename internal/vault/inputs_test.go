package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// parameterSecrets are Secrets of the namespace shop.
func parameterSecrets(f *fixture) {
	labels := map[string]string{v1alpha1.ParametersLabel: "true"}
	f.kube.secrets["shop/allowed"] = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Data:       map[string][]byte{"pin": []byte("31415926"), "binary": {0xff}},
	}
	f.kube.secrets["shop/private"] = &corev1.Secret{Data: map[string][]byte{"pin": []byte("27182818")}}
}

// from adds a parameter whose value is in a Secret.
func from(name, secret, key string) func(*v1alpha1.VaultRequest) {
	return func(req *v1alpha1.VaultRequest) {
		req.Method = v1alpha1.MethodWrite
		req.ParametersFrom = append(req.ParametersFrom, v1alpha1.ParameterSource{
			Name: name, SecretKeyRef: v1alpha1.ParameterKeyReference{Name: secret, Key: key},
		})
	}
}

func generating(spec v1alpha1.PrivateKeySpec) func(*v1alpha1.VaultRequest) {
	return func(req *v1alpha1.VaultRequest) { req.Method, req.PrivateKey = v1alpha1.MethodWrite, &spec }
}

// issueWith prepares and issues.
func (f *fixture) issueWith(t *testing.T, src v1alpha1.SecretSource) (backend.Response, error) {
	t.Helper()
	inputs, err := f.Prepare(t.Context(), who, src)
	wantNil(t, err)
	session := at
	session.Inputs = inputs
	return f.Issue(t.Context(), session, src)
}

func TestParametersAreReadFromSecrets(t *testing.T) {
	f := newFixture(t)
	parameterSecrets(f)
	const path = "transit/decrypt/app"
	f.server.always(path, ok(`{"request_id":"1","data":{"plaintext":"x"}}`))
	src := source(path, parameters(map[string]string{"batch": "3", "flag": "true"}), from("pin", "allowed", "pin"))
	_, err := f.issueWith(t, src)
	wantNil(t, err)
	body := f.server.requests(path)[0].body
	if body["pin"] != "31415926" || body["batch"] != 3.0 || body["flag"] != true {
		t.Errorf("sent %v", body)
	}
	f.server.always(path, errs(400, "the pin 31415926 is wrong"))
	_, err = f.issueWith(t, src)
	wantKind(t, err, backend.Refused)
	if strings.Contains(err.Error(), "31415926") {
		t.Errorf("the error repeats the value: %s", err)
	}
}

func TestSecretsThatCannotBeSent(t *testing.T) {
	for name, test := range map[string]struct {
		secret, key, want string
	}{
		"no such Secret":          {"none", "pin", "does not exist: create it"},
		"no such key":             {"allowed", "none", `has no key "none"`},
		"without the label":       {"private", "pin", v1alpha1.ParametersLabel},
		"not even its keys shown": {"private", "none", v1alpha1.ParametersLabel},
		"not text":                {"allowed", "binary", "is not text"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			parameterSecrets(f)
			_, err := f.Prepare(t.Context(), who, source("a/b", from("pin", test.secret, test.key)))
			wantKind(t, err, backend.Misconfigured)
			wantText(t, err, test.want)
			if strings.Contains(err.Error(), "2718") || f.server.paths() != "" {
				t.Errorf("%s after requests to %s", err, f.server.paths())
			}
		})
	}
}

func TestParametersThatAreSetTwice(t *testing.T) {
	f := newFixture(t)
	csr := parameters(map[string]string{"csr": `"x"`})
	for name, src := range map[string]v1alpha1.SecretSource{
		"a value and a Secret": source("a/b", parameters(map[string]string{"pin": "1"}),
			from("pin", "allowed", "pin")),
		"a request and a key":      source("a/b", csr, generating(v1alpha1.PrivateKeySpec{})),
		"a Secret's csr and a key": source("a/b", from("csr", "allowed", "csr"), generating(v1alpha1.PrivateKeySpec{})),
	} {
		_, err := f.driver.Describe(f.provider, who, src)
		if backend.KindOf(err) != backend.Misconfigured || !strings.Contains(err.Error(), "twice") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// testCA signs what a test server receives.
type testCA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newTestCA(t *testing.T, name string, parent *testCA) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wantNil(t, err)
	ca := &testCA{key: key}
	ca.certificate = signCertificate(t, name, key.Public(), true, parent, ca)
	return ca
}

// signCertificate signs with the parent, or with self if there is none.
func signCertificate(
	t *testing.T, name string, public crypto.PublicKey, isCA bool, parent, self *testCA,
) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: epoch.Add(-time.Minute), NotAfter: epoch.Add(time.Hour),
	}
	issuer, key := template, (*ecdsa.PrivateKey)(nil)
	if parent != nil {
		issuer, key = parent.certificate, parent.key
	} else {
		key = self.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	wantNil(t, err)
	certificate, err := x509.ParseCertificate(der)
	wantNil(t, err)
	return certificate
}

func pemOf(certificates ...*x509.Certificate) string { return string(toPEM(certificates)) }

func TestAKeyIsGeneratedAndNeverSent(t *testing.T) {
	const path = "pki/sign/web"
	for name, spec := range map[string]v1alpha1.PrivateKeySpec{
		"default": {}, "ECDSA 384": {Algorithm: v1alpha1.AlgorithmECDSA, Size: 384},
		"RSA": {Algorithm: v1alpha1.AlgorithmRSA}, "Ed25519": {Algorithm: v1alpha1.AlgorithmEd25519},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ca := newTestCA(t, "ca", nil)
			var sent *x509.CertificateRequest
			f.server.on(path, func(r request) says {
				block, _ := pem.Decode([]byte(r.body["csr"].(string)))
				request, err := x509.ParseCertificateRequest(block.Bytes)
				wantNil(t, err)
				sent = request
				leaf := signCertificate(t, "web", request.PublicKey, false, ca, nil)
				return responseOf(t, map[string]any{
					"certificate": pemOf(leaf), "issuing_ca": pemOf(ca.certificate), "serial_number": "07",
					"expiration": epoch.Add(time.Hour).Unix(),
				})
			})
			src := source(path, generating(spec), parameters(map[string]string{
				"common_name": `"web.example"`, "alt_names": `"a.example, b@example"`, "ip_sans": `["10.0.0.1"]`,
				"uri_sans": `"spiffe://x/y"`,
			}))
			src.Vault.Method = v1alpha1.MethodWrite
			one, err := f.issueWith(t, src)
			wantNil(t, err)
			two, err := f.issueWith(t, src)
			wantNil(t, err)
			if string(one.Data["private_key"]) == string(two.Data["private_key"]) {
				t.Error("two certificates have the same key")
			}
			named := sent.Subject.CommonName == "web.example" && len(sent.DNSNames) == 1 &&
				len(sent.EmailAddresses) == 1 && len(sent.IPAddresses) == 1 && len(sent.URIs) == 1
			if !named {
				t.Errorf("the request has the names %v %v", sent.Subject, sent.DNSNames)
			}
			block, _ := pem.Decode(two.Data["private_key"])
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			wantNil(t, err)
			public := key.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool })
			if !public.Equal(sent.PublicKey) {
				t.Error("the key in the response is not the one of the request")
			}
			form := two.Forms[corev1.SecretTypeTLS]
			if string(form["tls.key"]) != string(two.Data["private_key"]) || len(form) != 3 {
				t.Errorf("the form has %d keys", len(form))
			}
		})
	}
}

func TestCertificatesThatDoNotFitTheKey(t *testing.T) {
	ca := newTestCA(t, "ca", nil)
	for name, test := range map[string]struct {
		fields map[string]any
		want   string
	}{
		"of another key": {map[string]any{"certificate": pemOf(ca.certificate)}, "another key"},
		"none":           {map[string]any{"data": "x"}, "no certificate"},
		"with a key":     {map[string]any{"certificate": pemOf(ca.certificate), "private_key": "x"}, "key of its own"},
	} {
		f := newFixture(t)
		f.server.always("pki/sign/web", responseOf(t, test.fields))
		_, err := f.issueWith(t, source("pki/sign/web", generating(v1alpha1.PrivateKeySpec{})))
		if backend.KindOf(err) != backend.InvalidResponse || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestBadNamesAreReportedBeforeTheRequest(t *testing.T) {
	f := newFixture(t)
	for parameter, want := range map[string]string{"ip_sans": "not an IP address", "uri_sans": "not a URI"} {
		src := source("pki/sign/web", parameters(map[string]string{parameter: `"%zz"`}),
			generating(v1alpha1.PrivateKeySpec{}))
		_, err := f.Prepare(t.Context(), who, src)
		wantKind(t, err, backend.Misconfigured)
		wantText(t, err, want)
	}
}

func TestTheFormOfATLSSecret(t *testing.T) {
	root := newTestCA(t, "root", nil)
	middle := newTestCA(t, "middle", root)
	leaf := signCertificate(t, "web", middle.key.Public(), false, middle, nil)
	byRoot := signCertificate(t, "web", middle.key.Public(), false, root, nil)
	for name, test := range map[string]struct {
		certificate string
		more        map[string]any
		crt, ca     string
	}{
		"a root": {
			pemOf(byRoot), map[string]any{"issuing_ca": pemOf(root.certificate)},
			pemOf(byRoot), pemOf(root.certificate),
		},
		"an intermediate and its root": {
			pemOf(leaf), map[string]any{"issuing_ca": pemOf(middle.certificate),
				"ca_chain": []string{pemOf(middle.certificate), pemOf(root.certificate)}},
			pemOf(leaf, middle.certificate), pemOf(root.certificate),
		},
		"in another order": {
			pemOf(leaf), map[string]any{"ca_chain": []string{pemOf(root.certificate), pemOf(middle.certificate)}},
			pemOf(leaf, middle.certificate), pemOf(root.certificate),
		},
		"an intermediate whose root is unknown": {
			pemOf(leaf), map[string]any{"issuing_ca": pemOf(middle.certificate)},
			pemOf(leaf, middle.certificate), pemOf(middle.certificate),
		},
		"a bundle": {
			pemOf(leaf, middle.certificate), map[string]any{"issuing_ca": pemOf(middle.certificate)},
			pemOf(leaf, middle.certificate), pemOf(middle.certificate),
		},
		"a stranger's CA": {
			pemOf(byRoot), map[string]any{"ca_chain": []string{pemOf(middle.certificate)}}, pemOf(byRoot), "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			fields := map[string]any{"certificate": test.certificate, "private_key": "key",
				"expiration": epoch.Add(time.Hour).Unix()}
			for key, value := range test.more {
				fields[key] = value
			}
			f := newFixture(t)
			f.server.always("pki/issue/web", responseOf(t, fields))
			got, err := f.Issue(t.Context(), at, source("pki/issue/web", write))
			wantNil(t, err)
			form := got.Forms[corev1.SecretTypeTLS]
			chained := string(form["tls.crt"]) == test.crt && string(form["ca.crt"]) == test.ca
			if !chained || string(form["tls.key"]) != "key" {
				t.Errorf("the form is %q", form)
			}
		})
	}
}

func TestResponsesWithoutAKeyHaveNoForm(t *testing.T) {
	f := newFixture(t)
	f.server.always("pki/sign/web", responseOf(t, map[string]any{
		"certificate": x509Between(t, epoch, epoch.Add(time.Hour)),
	}))
	got, err := f.Issue(t.Context(), at, source("pki/sign/web", write))
	wantNil(t, err)
	if got.Forms != nil {
		t.Errorf("the forms are %v", got.Forms)
	}
}

func TestAWriteWithoutAnExpiryIsKept(t *testing.T) {
	f := newFixture(t)
	const path = "transit/datakey/plaintext/app"
	f.server.always(path, responseOf(t, map[string]any{"plaintext": "x", "ciphertext": "y"}))
	for method, want := range map[v1alpha1.RequestMethod]bool{v1alpha1.MethodWrite: true, v1alpha1.MethodRead: false} {
		got, err := f.Issue(t.Context(), at,
			source(path, func(req *v1alpha1.VaultRequest) { req.Method = method }))
		wantNil(t, err)
		if got.Once != want || got.Kind != v1alpha1.ResponseStatic {
			t.Errorf("%s: once is %t", method, got.Once)
		}
	}
}

func TestTheLoginOfAOneTimePasswordIsForeign(t *testing.T) {
	f := newFixture(t)
	const path = "ssh/creds/orders"
	for name, test := range map[string]struct {
		data string
		want bool
	}{
		"a one-time password": {`"key_type":"otp","key":"x","ip":"10.0.0.1","username":"deploy"`, true},
		"a user":              {`"username":"v-orders"`, false},
		"another key type":    {`"key_type":"ca","ip":"10.0.0.1","username":"deploy"`, false},
	} {
		f.server.always(path,
			ok(`{"request_id":"1","lease_id":"`+path+`/a","lease_duration":60,"data":{`+test.data+`}}`))
		got, err := f.Issue(t.Context(), at, source(path, write))
		wantNil(t, err)
		if got.ForeignUser != test.want {
			t.Errorf("%s: foreign is %t", name, got.ForeignUser)
		}
	}
}

func TestVersionsOfAKVSecret(t *testing.T) {
	const path = "kv/data/orders"
	version := func(data, metadata string) string {
		return `{"request_id":"1","data":{"data":` + data +
			`,"metadata":{"version":2,"created_time":"x",` + metadata + `}}}`
	}
	pin := parameters(map[string]string{"version": "2"})
	custom := func(req *v1alpha1.VaultRequest) { req.CustomMetadata = true }
	none := func(*v1alpha1.VaultRequest) {}
	deleted, destroyed := version("null", `"destroyed":false`), version("null", `"destroyed":true`)
	absent := func(body string) says { return says{status: 404, body: body} }
	described := func(data string) says { return ok(version(data, `"custom_metadata":{"owner":"x"}`)) }
	for name, test := range map[string]struct {
		change   func(*v1alpha1.VaultRequest)
		response says
		kind     backend.ErrorKind
		want     string
	}{
		"the latest is deleted":   {none, absent(deleted), backend.NotFound, "undelete it, or write a new"},
		"a pinned one is deleted": {pin, absent(deleted), backend.NotFound, "undelete it, or change the"},
		"the latest is destroyed": {none, absent(destroyed), backend.NotFound, "destroyed: write"},
		"a pinned is destroyed":   {pin, absent(destroyed), backend.NotFound, "destroyed: change"},
		"a pinned does not exist": {pin, errs(404), backend.NotFound, "check the path and the version"},
		"metadata on request":     {custom, described(`{"a":"b"}`), "", `{"owner":"x"}`},
		"metadata not requested":  {none, described(`{"a":"b"}`), "", ""},
		"no metadata":             {custom, ok(version(`{"a":"b"}`, `"custom_metadata":null`)), "", ""},
		"metadata and a field": {
			custom, described(`{"custom_metadata":"b"}`), backend.InvalidResponse, "of its own",
		},
		"metadata of version 1": {
			custom, ok(`{"request_id":"1","lease_duration":60,"data":{"a":"b"}}`), backend.InvalidResponse,
			"omit customMetadata",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(path, test.response)
			got, err := f.Issue(t.Context(), at, source(path, test.change))
			wantKind(t, err, test.kind)
			if test.kind != "" {
				wantText(t, err, test.want)
			} else if string(got.Data["custom_metadata"]) != test.want {
				t.Errorf("custom_metadata is %q", got.Data["custom_metadata"])
			}
		})
	}
}

func TestALibraryWithoutFreeAccountsIsTemporary(t *testing.T) {
	f := newFixture(t)
	f.server.always("ldap/library/team/check-out", errs(400, textsOf(noneAvailable)[0]))
	_, err := f.Issue(t.Context(), at, source("ldap/library/team/check-out", write))
	wantKind(t, err, backend.QuotaExceeded)
	wantText(t, err, "all accounts of the set are checked out", "add accounts")
}
