package auth

import (
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// TestEachMisconfigurationNamesTheFieldAndTheFix covers what a method can check before it contacts Vault. What Vault
// refuses is in TestRefusalsOfARealVault.
func TestEachMisconfigurationNamesTheFieldAndTheFix(t *testing.T) {
	missing := backend.Errorf(backend.Misconfigured, `the provider names Secret "login", which does not exist`)
	noValue := func(field, key string) string {
		return field + `: Secret "login" in namespace "system" has no value at key "` + key + `": add it, or set ` +
			field + ".key"
	}
	noAccountFor := func(field string) string {
		return "no ServiceAccount to log in as: set spec.serviceAccountName, or " + field + " on the provider"
	}
	withoutAccount := &v1alpha1.VaultAWSAuth{Role: "app", RoleARN: "arn:aws:iam::111122223333:role/orders"}
	unnamedJWT := v1alpha1.VaultAuth{JWT: &v1alpha1.VaultJWTAuth{
		Role: "app", ServiceAccountRef: &v1alpha1.ServiceAccountReference{Audiences: audiences},
	}}
	unnamed := func(spec v1alpha1.VaultAuth) v1alpha1.VaultAuth {
		spec = *spec.DeepCopy()
		if spec.GCP != nil {
			spec.GCP.ServiceAccountRef = nil
		} else {
			spec.Azure.ServiceAccountRef = nil
		}
		return spec
	}
	empty := func() fakeRequester { return fakeRequester{data: map[string]string{"password": "\r\n"}} }
	tested := map[string]bool{}
	cert, key := testCertificate(t)
	_, otherKey := testCertificate(t)
	other := specs["userPass"]
	other = *other.DeepCopy()
	other.UserPass.SecretRef.Key = "pwd"
	for _, c := range []struct {
		it, because string
		spec        v1alpha1.VaultAuth
		keeper      bool
		requester   fakeRequester
		who         backend.Identity
		kind        backend.ErrorKind
		message     string
	}{
		{"kubernetes without a ServiceAccount", "neither object nor provider names one", kubernetesAuth(nil), false,
			fakeRequester{}, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount,
			noAccountFor("auth.kubernetes.serviceAccountRef.name")},
		{"jwt without a ServiceAccount", "neither object nor provider names one", unnamedJWT, false,
			fakeRequester{}, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount,
			noAccountFor("auth.jwt.serviceAccountRef.name")},
		{"a jwt keeper without a ServiceAccount", "leasekeeper has no default", unnamedJWT, true,
			fakeRequester{}, who, backend.Misconfigured,
			"set keeperAuth.jwt.serviceAccountRef.name: leasekeeper logs in with it to renew and revoke leases"},
		{"a missing Secret", "Vault gets no request", specs["appRole"], false,
			fakeRequester{secretErr: missing}, who, backend.Misconfigured, missing.Message},
		{"jwt without the key", "its default is jwt", specs["jwt of a Secret"], false,
			fakeRequester{}, who, backend.Misconfigured, noValue("auth.jwt.secretRef", "jwt")},
		{"appRole without the key", "its default is secretId", specs["appRole"], false,
			fakeRequester{}, who, backend.Misconfigured, noValue("auth.appRole.secretRef", "secretId")},
		{"a keeper's appRole without the key", "the field is the keeper's", specs["appRole"], true,
			fakeRequester{}, who, backend.Misconfigured, noValue("keeperAuth.appRole.secretRef", "secretId")},
		{"userPass without the key", "the key is the spec's", other, false,
			fakeRequester{}, who, backend.Misconfigured, noValue("auth.userPass.secretRef", "pwd")},
		{"ldap with an empty password", "a directory may accept a bind without one", specs["ldap"], false,
			empty(), who, backend.Misconfigured, noValue("auth.ldap.secretRef", "password")},
		{"userPass with an empty password", "Vault counts it as a wrong one", specs["userPass"], false,
			empty(), who, backend.Misconfigured, noValue("auth.userPass.secretRef", "password")},
		{"a keeper's ldap with an empty password", "the field is the keeper's", specs["ldap"], true,
			empty(), who, backend.Misconfigured, noValue("keeperAuth.ldap.secretRef", "password")},
		{"token without its Secret", "Vault gets no request", specs["token"], false,
			fakeRequester{secretErr: missing}, who, backend.Misconfigured, missing.Message},
		{"cert without a certificate", "the Secret has another type", specs["cert"], false,
			fakeRequester{data: map[string]string{"tls.key": key}}, who, backend.Misconfigured,
			`auth.cert.secretRef: Secret "login" in namespace "system" has no key "tls.crt": ` +
				"use one of type kubernetes.io/tls"},
		{"aws without a ServiceAccount", "neither object nor provider names one",
			v1alpha1.VaultAuth{AWS: withoutAccount}, false,
			fakeRequester{}, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount,
			noAccountFor("auth.aws.serviceAccountRef.name")},
		{"aws without a key", "a key is half of a pair", specs["aws with keys"], false,
			fakeRequester{data: map[string]string{"access_key_id": "AKIATEST"}}, who, backend.Misconfigured,
			`auth.aws.secretRef: Secret "login" in namespace "system" has no value at key "secret_access_key": add it`},
		{"aws without Pod Identity", "leasekeeper's pod has no association",
			awsPod, false,
			fakeRequester{}, who, backend.Misconfigured,
			"auth.aws.podIdentity: leasekeeper's pod has no EKS Pod Identity: " +
				"create a pod identity association for its ServiceAccount and restart it"},
		{"gcp without a ServiceAccount", "neither object nor provider names one", unnamed(googleAccount), false,
			fakeRequester{}, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount,
			noAccountFor("auth.gcp.serviceAccountRef.name")},
		{"a gcp keeper without a ServiceAccount", "leasekeeper has no default", unnamed(googleAccount), true,
			fakeRequester{}, who, backend.Misconfigured,
			"set keeperAuth.gcp.serviceAccountRef.name: leasekeeper logs in with it to renew and revoke leases"},
		{"azure without a ServiceAccount", "neither object nor provider names one", unnamed(entraApp), false,
			fakeRequester{}, backend.Identity{Namespace: "shop"}, backend.NoServiceAccount,
			noAccountFor("auth.azure.serviceAccountRef.name")},
		{"an azure keeper without a ServiceAccount", "leasekeeper has no default", unnamed(entraApp), true,
			fakeRequester{}, who, backend.Misconfigured,
			"set keeperAuth.azure.serviceAccountRef.name: leasekeeper logs in with it to renew and revoke leases"},
		{"cert with another key", "TLS would fail", specs["cert"], false,
			fakeRequester{data: map[string]string{"tls.crt": cert, "tls.key": otherKey}}, who, backend.TLS,
			`auth.cert.secretRef: Secret "login" in namespace "system" has no matching certificate and key: ` +
				"replace them"},
	} {
		for _, construct := range constructors {
			tested[constructorName(construct)] = tested[constructorName(construct)] || constructs(construct)(c.spec)
		}
		t.Run(c.it, func(t *testing.T) {
			err := func() error {
				construct := Issuer
				if c.keeper {
					construct = Keeper
				}
				m, err := construct(&v1alpha1.VaultProvider{Auth: c.spec, KeeperAuth: &c.spec}, "")
				if err != nil {
					return err
				}
				_, err = m.Login(t.Context(), &c.requester, c.who)
				return err
			}()
			wantError(t, err, c.kind, c.message)
			if len(c.requester.logins) > 0 {
				t.Errorf("because %s: a login was sent", c.because)
			}
		})
	}
	for _, construct := range constructors {
		if !tested[constructorName(construct)] {
			t.Errorf("%s has no row", constructorName(construct))
		}
	}
}
