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

// backend is where Vault makes the accounts that it leases.
type backend interface {
	// setUp mounts and configures Vault's engine.
	setUp(ctx context.Context, v *testbed.Vault, set setting) error
	// policy is the file of the issuer's policy, request the part of a
	// DynamicSecret that asks for an account.
	policy() string
	request() string
	// tokenTTL is how long the issuing token lives, at first and at most.
	tokenTTL(set setting) (ttl, maxTTL time.Duration)
	// renewable says whether a lease of this engine can be renewed.
	renewable() bool
	// mount is the path below which the engine's leases are listed.
	mount() string
	// who is the account's name, of a Secret's data.
	who(data map[string][]byte) string
	// login shows that the account works, or the error that it does not.
	login(ctx context.Context, data map[string][]byte) (string, error)
	// accounts lists those that are alive.
	accounts(ctx context.Context) ([]string, error)
	// howTo tells a person how to log in; env is what that needs.
	howTo() string
	env() []string
	close() error
}

// postgres leases users of a PostgreSQL server.
type postgres struct{ server *testbed.Postgres }

func (p *postgres) setUp(ctx context.Context, v *testbed.Vault, set setting) error {
	if err := v.EnableDatabase(ctx, "database", p.server); err != nil {
		return err
	}
	return v.WriteDatabaseRole(ctx, "database", "orders", testbed.DatabaseRole{DefaultTTL: set.defaultTTL, MaxTTL: set.maxTTL})
}

func (p *postgres) policy() string                                 { return "orders.hcl" }
func (p *postgres) request() string                                { return "{path: database/creds/orders}" }
func (p *postgres) tokenTTL(setting) (ttl, maxTTL time.Duration)   { return time.Hour, 24 * time.Hour }
func (p *postgres) renewable() bool                                { return true }
func (p *postgres) mount() string                                  { return "database" }
func (p *postgres) who(data map[string][]byte) string              { return string(data["username"]) }
func (p *postgres) accounts(ctx context.Context) ([]string, error) { return p.server.Users(ctx, "v-") }
func (p *postgres) close() error                                   { return p.server.Close() }

// login runs psql, as a person would, with the password in its environment.
func (p *postgres) login(ctx context.Context, data map[string][]byte) (string, error) {
	bin, err := testbed.PostgresBin()
	if err != nil {
		return "", err
	}
	const query = "select 'PostgreSQL says: you are ' || current_user"
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "psql"), "--no-psqlrc", "-Atc", query)
	cmd.Env = append(p.env(), "PATH="+os.Getenv("PATH"), "PGUSER="+p.who(data), "PGPASSWORD="+string(data["password"]))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

func (p *postgres) env() []string {
	host, port, _ := strings.Cut(p.server.Address, ":")
	return []string{"PGHOST=" + host, "PGPORT=" + port, "PGDATABASE=postgres", "PGCONNECT_TIMEOUT=10"}
}

func (p *postgres) howTo() string {
	return `  export PGUSER=$(kubectl -n shop get secret orders-db -o jsonpath='{.data.username}' | base64 -d)
  export PGPASSWORD=$(kubectl -n shop get secret orders-db -o jsonpath='{.data.password}' | base64 -d)
  psql -c 'select current_user'`
}

// cluster leases ServiceAccounts of the control plane itself, for machines
// without PostgreSQL. Vault cannot renew those.
type cluster struct{ plane *testbed.ControlPlane }

func (c *cluster) setUp(ctx context.Context, v *testbed.Vault, _ setting) error {
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

// anonymous is a kubeconfig without credentials: kubectl would prefer the
// administrator's certificate to a token that it is given.
func (c *cluster) anonymous() string {
	return filepath.Join(filepath.Dir(c.plane.Kubeconfig), "anonymous.kubeconfig")
}

func (c *cluster) policy() string { return "orders-kubernetes.hcl" }
func (c *cluster) request() string {
	return "{path: cluster/creds/orders, method: Write, parameters: {kubernetes_namespace: " + namespace + "}}"
}

// tokenTTL makes the issuing token's life the lease's: Kubernetes gives no
// token for less than ten minutes, and nobody would watch a demo for that long.
func (c *cluster) tokenTTL(set setting) (ttl, maxTTL time.Duration) { return set.maxTTL, set.maxTTL }
func (c *cluster) renewable() bool                                  { return false }
func (c *cluster) mount() string                                    { return "cluster" }
func (c *cluster) who(data map[string][]byte) string                { return string(data["service_account_name"]) }
func (c *cluster) env() []string                                    { return []string{"ANONYMOUS=" + c.anonymous()} }
func (c *cluster) close() error                                     { return nil }

func (c *cluster) howTo() string {
	return `  # The sample asks for a PostgreSQL user; without PostgreSQL, ask for a ServiceAccount:
  kubectl -n shop patch dynamicsecret orders-db --type merge -p '{"spec":{"vault":{"path":"cluster/creds/orders","method":"Write","parameters":{"kubernetes_namespace":"shop"}}}}'
  kubectl --kubeconfig "$ANONYMOUS" auth whoami --token "$(kubectl -n shop get secret orders-db -o jsonpath='{.data.service_account_token}' | base64 -d)"`
}

func (c *cluster) login(ctx context.Context, data map[string][]byte) (string, error) {
	cfg := rest.AnonymousClientConfig(c.plane.Config)
	cfg.BearerToken = string(data["service_account_token"])
	if cfg.BearerToken == "" {
		return "", errors.New("the Secret holds no service_account_token")
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	review, err := kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return "Kubernetes says: you are " + review.Status.UserInfo.Username, nil
}

// accounts are told by the name that Vault gives them.
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
