package testbed

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// KubernetesRole is a role of Vault's kubernetes auth method.
type KubernetesRole struct {
	// ServiceAccounts and Namespaces that may log in; "*" matches all.
	ServiceAccounts, Namespaces []string
	// Policies of the tokens, in addition to `default`.
	Policies []string
	// Audience of the ServiceAccount's token; empty for the API server.
	Audience string
	// TTL, MaxTTL and Period of the tokens; Vault's default if 0.
	TTL, MaxTTL, Period time.Duration
	// More parameters, such as token_type.
	More map[string]any
}

// DatabaseRole is a role of the database engine. By default it creates a PostgreSQL user that can log in, and drops it.
// Vault's default statements check the user's grants in every schema, which is slow with many users.
type DatabaseRole struct {
	// Connection of the mount; "postgres" if empty.
	Connection           string
	DefaultTTL, MaxTTL   time.Duration
	CreationStatements   []string
	RevocationStatements []string
}

const createLogin = `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`

const dropLogin = `DROP ROLE IF EXISTS "{{name}}";`

// EnableKubernetesAuth mounts the kubernetes auth method for this control plane. Vault reviews tokens with a
// ServiceAccount that has no other permission.
func (v *Vault) EnableKubernetesAuth(ctx context.Context, mount string, c *ControlPlane) error {
	const namespace, name = "kube-system", "vault-token-reviewer"
	if err := c.grant(ctx, namespace, name, "system:auth-delegator"); err != nil {
		return err
	}
	token, err := c.Token(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := v.Root.Sys().EnableAuthWithOptionsWithContext(ctx, mount,
		&api.EnableAuthOptions{Type: "kubernetes"}); err != nil {
		return err
	}
	return v.Write(ctx, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host":      c.Config.Host,
		"kubernetes_ca_cert":   string(c.CA),
		"token_reviewer_jwt":   token,
		"disable_local_ca_jwt": true,
	})
}

// WriteRole creates or replaces a role of a kubernetes auth mount.
func (v *Vault) WriteRole(ctx context.Context, mount, name string, role KubernetesRole) error {
	data := map[string]any{
		"bound_service_account_names":      role.ServiceAccounts,
		"bound_service_account_namespaces": role.Namespaces,
		"token_policies":                   role.Policies,
		"audience":                         role.Audience,
		"token_ttl":                        role.TTL.String(),
		"token_max_ttl":                    role.MaxTTL.String(),
		"token_period":                     role.Period.String(),
	}
	for key, value := range role.More {
		data[key] = value
	}
	return v.Write(ctx, "auth/"+mount+"/role/"+name, data)
}

// WritePolicy creates or replaces an ACL policy, given in HCL.
func (v *Vault) WritePolicy(ctx context.Context, name, rules string) error {
	return v.Root.Sys().PutPolicyWithContext(ctx, name, rules)
}

// EnableDatabase mounts the database engine and adds the connection "postgres" with PostgreSQL's administrator.
func (v *Vault) EnableDatabase(ctx context.Context, mount string, pg *Postgres) error {
	if err := v.Root.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "database"}); err != nil {
		return err
	}
	return v.ConnectDatabase(ctx, mount, "postgres", pg, nil)
}

// ConnectDatabase adds a connection to a database mount. Vault handles one user of a connection at a time, so a slow
// user delays the others.
func (v *Vault) ConnectDatabase(ctx context.Context, mount, name string, pg *Postgres, more map[string]any) error {
	data := map[string]any{
		"plugin_name":          "postgresql-database-plugin",
		"allowed_roles":        "*",
		"connection_url":       "postgresql://{{username}}:{{password}}@" + pg.Address + "/postgres?sslmode=disable",
		"username":             pg.admin,
		"password":             pg.password,
		"max_open_connections": 20,
	}
	maps.Copy(data, more)
	return v.Write(ctx, mount+"/config/"+name, data)
}

// WriteDatabaseRole creates or replaces a role. Reading <mount>/creds/<name> then creates a PostgreSQL user.
func (v *Vault) WriteDatabaseRole(ctx context.Context, mount, name string, role DatabaseRole) error {
	if len(role.CreationStatements) == 0 {
		role.CreationStatements = []string{createLogin}
	}
	if len(role.RevocationStatements) == 0 {
		role.RevocationStatements = []string{dropLogin}
	}
	if role.Connection == "" {
		role.Connection = "postgres"
	}
	return v.Write(ctx, mount+"/roles/"+name, map[string]any{
		"db_name":               role.Connection,
		"creation_statements":   role.CreationStatements,
		"revocation_statements": role.RevocationStatements,
		"default_ttl":           role.DefaultTTL.String(),
		"max_ttl":               role.MaxTTL.String(),
	})
}

// EnableKV mounts a key-value engine, version 1 or 2.
func (v *Vault) EnableKV(ctx context.Context, mount string, version int) error {
	return v.Root.Sys().MountWithContext(ctx, mount, &api.MountInput{
		Type: "kv", Options: map[string]string{"version": fmt.Sprint(version)},
	})
}

// EnableKubernetesSecrets mounts the engine that leases ServiceAccount tokens of this control plane. Write
// kubernetes_namespace to <mount>/creds/<role> to issue one.
func (v *Vault) EnableKubernetesSecrets(ctx context.Context, mount string, c *ControlPlane) error {
	const namespace, name = "kube-system", "vault-token-issuer"
	// The engine creates a ServiceAccount and a role for each lease, and can grant only its own permissions.
	if err := c.grant(ctx, namespace, name, "cluster-admin"); err != nil {
		return err
	}
	token, err := c.Token(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := v.Root.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "kubernetes"}); err != nil {
		return err
	}
	return v.Write(ctx, mount+"/config", map[string]any{
		"kubernetes_host":      c.Config.Host,
		"kubernetes_ca_cert":   string(c.CA),
		"service_account_jwt":  token,
		"disable_local_ca_jwt": true,
	})
}

// Write writes to a path with the root token.
func (v *Vault) Write(ctx context.Context, path string, data map[string]any) error {
	_, err := v.Root.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return fmt.Errorf("vault write %s: %w", path, err)
	}
	return nil
}

// Login logs in as a workload, with a ServiceAccount's token.
func (v *Vault) Login(ctx context.Context, mount, role, serviceAccountToken string) (*api.Client, error) {
	client, err := v.Client("")
	if err != nil {
		return nil, err
	}
	response, err := client.Logical().WriteWithContext(ctx, "auth/"+strings.Trim(mount, "/")+"/login",
		map[string]any{"role": role, "jwt": serviceAccountToken})
	if err != nil {
		return nil, err
	}
	client.SetToken(response.Auth.ClientToken)
	return client, nil
}

// grant creates a ServiceAccount if necessary and binds a cluster role to it.
func (c *ControlPlane) grant(ctx context.Context, namespace, name, role string) error {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	_, err = client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "testbed:" + name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}
