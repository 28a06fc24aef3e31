package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// backend is the system in which Vault creates the leased accounts.
type backend interface {
	// setUp mounts and configures Vault's secrets engine.
	setUp(ctx context.Context, v *testbed.Vault, settings leaseSettings) error
	// policy is the file name of the issuer's policy.
	policy() string
	// request is spec.vault of the DynamicSecret.
	request() string
	// tokenTTL returns the TTL and maximum TTL of the issuing token.
	tokenTTL(settings leaseSettings) (ttl, maxTTL time.Duration)
	// renewable reports whether Vault can renew the engine's leases.
	renewable() bool
	// mount is the mount path of the engine.
	mount() string
	// accountName returns the account's name in a Secret's data.
	accountName(data map[string][]byte) string
	// login logs in and returns the server's greeting.
	login(ctx context.Context, data map[string][]byte) (string, error)
	// accounts returns the existing leased accounts.
	accounts(ctx context.Context) ([]string, error)
	// loginInstructions explains how to log in. loginEnv is the environment for it.
	loginInstructions() string
	loginEnv() []string
	close() error
}

// postgres leases PostgreSQL users.
type postgres struct{ server *testbed.Postgres }

func (p *postgres) setUp(ctx context.Context, v *testbed.Vault, settings leaseSettings) error {
	if err := v.EnableDatabase(ctx, "database", p.server); err != nil {
		return err
	}
	return v.WriteDatabaseRole(ctx, "database", "orders",
		testbed.DatabaseRole{DefaultTTL: settings.defaultTTL, MaxTTL: settings.maxTTL})
}

func (p *postgres) policy() string  { return "orders.hcl" }
func (p *postgres) request() string { return "{path: database/creds/orders}" }
func (p *postgres) tokenTTL(leaseSettings) (ttl, maxTTL time.Duration) {
	return time.Hour, 24 * time.Hour
}
func (p *postgres) renewable() bool                                { return true }
func (p *postgres) mount() string                                  { return "database" }
func (p *postgres) accountName(data map[string][]byte) string      { return string(data["username"]) }
func (p *postgres) accounts(ctx context.Context) ([]string, error) { return p.server.Users(ctx, "v-") }
func (p *postgres) close() error                                   { return p.server.Close() }

// login runs psql with the password in its environment.
func (p *postgres) login(ctx context.Context, data map[string][]byte) (string, error) {
	bin, err := testbed.PostgresBin()
	if err != nil {
		return "", err
	}
	const query = "select 'PostgreSQL: you are ' || current_user"
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "psql"), "--no-psqlrc", "-Atc", query)
	cmd.Env = append(p.loginEnv(), "PATH="+os.Getenv("PATH"), "PGUSER="+p.accountName(data),
		"PGPASSWORD="+string(data["password"]))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

func (p *postgres) loginEnv() []string {
	host, port, _ := strings.Cut(p.server.Address, ":")
	return []string{"PGHOST=" + host, "PGPORT=" + port, "PGDATABASE=postgres", "PGCONNECT_TIMEOUT=10"}
}

func (p *postgres) loginInstructions() string {
	return `  export PGUSER=$(kubectl -n shop get secret orders-db -o jsonpath='{.data.username}' | base64 -d)
  export PGPASSWORD=$(kubectl -n shop get secret orders-db -o jsonpath='{.data.password}' | base64 -d)
  psql -c 'select current_user'`
}

// cluster leases ServiceAccounts of the control plane, if PostgreSQL is not installed. Vault cannot renew them.
type cluster struct{ plane *testbed.ControlPlane }

func (c *cluster) setUp(ctx context.Context, v *testbed.Vault, _ leaseSettings) error {
	if err := testbed.WriteKubeconfig(c.anonymous(), rest.AnonymousClientConfig(c.plane.Config)); err != nil {
		return err
	}
	if err := v.EnableKubernetesSecrets(ctx, "cluster", c.plane); err != nil {
		return err
	}
	return v.Write(ctx, "cluster/roles/orders", map[string]any{
		"allowed_kubernetes_namespaces": namespace,
		"generated_role_rules":          `{"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["get"]}]}`,
		"token_default_ttl":             "10m",
		"token_max_ttl":                 "1h",
	})
}

// anonymous is the path of a kubeconfig without credentials. kubectl would prefer the administrator's certificate to a
// token.
func (c *cluster) anonymous() string {
	return filepath.Join(filepath.Dir(c.plane.Kubeconfig), "anonymous.kubeconfig")
}

func (c *cluster) policy() string { return "orders-kubernetes.hcl" }
func (c *cluster) request() string {
	return "{path: cluster/creds/orders, method: Write, parameters: {kubernetes_namespace: " + namespace + "}}"
}

// tokenTTL bounds the lease by its issuing token. Kubernetes issues tokens for at least ten minutes, which is too long
// for a demo.
func (c *cluster) tokenTTL(settings leaseSettings) (ttl, maxTTL time.Duration) {
	return settings.maxTTL, settings.maxTTL
}
func (c *cluster) renewable() bool { return false }
func (c *cluster) mount() string   { return "cluster" }
func (c *cluster) accountName(data map[string][]byte) string {
	return string(data["service_account_name"])
}
func (c *cluster) loginEnv() []string {
	return []string{"ANONYMOUS=" + c.anonymous()}
}
func (c *cluster) close() error { return nil }

func (c *cluster) loginInstructions() string {
	const patch = `{"spec":{"vault":{"path":"cluster/creds/orders","method":"Write",` +
		`"parameters":{"kubernetes_namespace":"shop"}}}}`
	const token = `$(kubectl -n shop get secret orders-db -o jsonpath='{.data.service_account_token}' | base64 -d)`
	return `  # The sample requests a PostgreSQL user. Without PostgreSQL, request a ServiceAccount:
  kubectl -n shop patch dynamicsecret orders-db --type merge -p '` + patch + `'
  kubectl --kubeconfig "$ANONYMOUS" auth whoami --token "` + token + `"`
}

func (c *cluster) login(ctx context.Context, data map[string][]byte) (string, error) {
	cfg := rest.AnonymousClientConfig(c.plane.Config)
	cfg.BearerToken = string(data["service_account_token"])
	if cfg.BearerToken == "" {
		return "", errors.New("the Secret has no service_account_token")
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	review, err := kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{},
		metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return "Kubernetes: you are " + review.Status.UserInfo.Username, nil
}

// accounts returns the ServiceAccounts with Vault's name prefix.
func (c *cluster) accounts(ctx context.Context) ([]string, error) {
	kube, err := kubernetes.NewForConfig(c.plane.Config)
	if err != nil {
		return nil, err
	}
	list, err := kube.CoreV1().ServiceAccounts(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range list.Items {
		if strings.HasPrefix(a.Name, "v-") {
			names = append(names, a.Name)
		}
	}
	return names, nil
}
