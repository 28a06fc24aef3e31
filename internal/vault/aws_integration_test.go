//go:build integration

package vault_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	ordersARN = "arn:aws:iam::111122223333:role/orders"
	keeperARN = "arn:aws:iam::111122223333:role/keeper"
	userARN   = "arn:aws:iam::111122223333:user/orders"
	podARN    = "arn:aws:iam::111122223333:role/leasekeeper"
)

// setUpAWS lets Vault ask an emulated STS. The serverID of all logins is vault.test.
func setUpAWS(ctx context.Context, all map[string]methodOnVault) error {
	s := testbed.StartSTS()
	s.Trust(ordersARN, "shop", "orders")
	s.Trust(keeperARN, "system", "leasekeeper")
	s.AddKey("AKIAORDERS", "secret of orders", userARN)
	role := func(arn, policy string) map[string]any {
		return map[string]any{"auth_type": "iam", "bound_iam_principal_arn": arn, "resolve_aws_unique_ids": false,
			"token_policies": policy, "token_ttl": "1h"}
	}
	if err := enableAuth(ctx, "aws", "aws", setting{"config/client", map[string]any{
		"sts_endpoint": s.URL, "sts_region": "eu-central-1", "iam_server_id_header_value": "vault.test",
	}},
		setting{"role/app", role(ordersARN, "app")}, setting{"role/user", role(userARN, "app")},
		setting{"role/keeper", role(keeperARN, "keeper")}, setting{"role/pod", role(podARN, "app")},
	); err != nil {
		return err
	}
	keys, err := secretWith(ctx, "aws-keys",
		map[string]string{"access_key_id": "AKIAORDERS", "secret_access_key": "secret of orders\n"})
	if err != nil {
		return err
	}
	spec := func(role, arn, name, namespace string) v1alpha1.VaultAuth {
		return v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{
			Role: role, Region: "eu-central-1", ServerID: "vault.test", STSEndpoint: s.URL, RoleARN: arn,
			ServiceAccountRef: &v1alpha1.FederatedAccountReference{Name: name, Namespace: namespace},
		}}
	}
	keeper := spec("keeper", keeperARN, "leasekeeper", "system")
	all["aws"] = methodOnVault{auth: spec("app", ordersARN, "orders", ""), keeper: keeper}
	all["aws with keys"] = methodOnVault{auth: v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{
		Role: "user", Region: "eu-central-1", ServerID: "vault.test", STSEndpoint: s.URL,
		SecretRef: &keys.SecretReference,
	}}, keeper: keeper}
	agent := s.AddPod("token of the pod", podARN)
	all["aws with Pod Identity"] = methodOnVault{auth: v1alpha1.VaultAuth{AWS: &v1alpha1.VaultAWSAuth{
		Role: "pod", Region: "eu-central-1", ServerID: "vault.test", STSEndpoint: s.URL, PodIdentity: true,
	}}, keeper: keeper, prepare: func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		must(t, os.WriteFile(file, []byte("token of the pod\n"), 0o600))
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)
	}}
	return nil
}

func TestRefusalsOfAWS(t *testing.T) {
	all := methods()
	if _, offered := all["aws"]; !offered {
		if err := enableAuth(t.Context(), "absent", "aws"); err == nil {
			t.Error("the server has the method aws, but does not list it")
		}
		return
	}
	withKey := func(id, secret string) func(*v1alpha1.VaultAWSAuth) {
		ref, err := secretWith(t.Context(), unique("aws-keys"),
			map[string]string{"access_key_id": id, "secret_access_key": secret})
		must(t, err)
		return func(a *v1alpha1.VaultAWSAuth) {
			a.Role, a.RoleARN, a.ServiceAccountRef, a.SecretRef = "user", "", nil, &ref.SecretReference
		}
	}
	for _, c := range []struct {
		name, because string
		change        func(*v1alpha1.VaultAWSAuth)
		kind          backend.ErrorKind
		texts         []string
	}{
		{"a role that does not trust the ServiceAccount", "the trust policy has another subject",
			func(a *v1alpha1.VaultAWSAuth) { a.RoleARN = keeperARN }, backend.LoginFailed,
			[]string{"STS refused (AccessDenied)", "auth.aws.roleARN", "system:serviceaccount:shop:orders"}},
		{"a token for another audience", "somebody set audiences",
			func(a *v1alpha1.VaultAWSAuth) { a.ServiceAccountRef.Audiences = []string{"vault"} }, backend.LoginFailed,
			[]string{"STS refused (InvalidIdentityToken)", `aud ["vault"]`}},
		{"another server id", "Vault has iam_server_id_header_value",
			func(a *v1alpha1.VaultAWSAuth) { a.ServerID = "other" }, backend.LoginFailed,
			[]string{"auth.aws.serverID must be iam_server_id_header_value of auth/aws/config/client"}},
		{"a role of Vault for another principal", "bound_iam_principal_arn does not match",
			func(a *v1alpha1.VaultAWSAuth) { a.Role = "keeper" }, backend.LoginFailed,
			[]string{`role "keeper"`, "bound_iam_principal_arn"}},
		{"a wrong secret key", "a typo", withKey("AKIAORDERS", "another secret"), backend.LoginFailed,
			[]string{"SignatureDoesNotMatch", "the secret access key is wrong"}},
		{"an unknown key", "somebody deleted it", withKey("AKIADELETED", "secret of orders"), backend.LoginFailed,
			[]string{"InvalidClientTokenId", "the access key does not exist"}},
		{"an STS that cannot be reached", "a typo",
			func(a *v1alpha1.VaultAWSAuth) { a.STSEndpoint = "http://127.0.0.1:1" }, backend.Unavailable,
			[]string{"STS cannot be reached", "auth.aws.stsEndpoint"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := all["aws"].auth
			spec = *spec.DeepCopy()
			c.change(spec.AWS)
			_, err := connectWith(t, spec, all["aws"].keeper).Login(t.Context(), who)
			wantKind(t, err, c.kind, c.texts...)
		})
	}
}
