package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// VaultOptions are all optional.
type VaultOptions struct {
	// Durable stores data in files, so that it survives Stop and Kill. The default, in memory, is faster.
	Durable bool
	// TLS serves https with a certificate of a new CA.
	TLS bool
	// MaxRequestDuration aborts longer requests; 90 s, Vault's default, if 0.
	MaxRequestDuration time.Duration
	// Port to listen on; a free port if 0.
	Port int
}

// Vault is an initialized and unsealed server with a file audit device.
type Vault struct {
	// Address is the URL. It stays the same after Stop and Start.
	Address string
	// CA of the server's certificate, in PEM; empty without TLS.
	CA []byte
	// Root is a client with the root token. It does not retry.
	Root *api.Client
	// OpenBao is true if VAULT_BIN is an OpenBao. Version is what the server's command reports, such as 1.21.0.
	OpenBao bool
	Version string

	dir       string
	process   *process
	unsealKey string
	durable   bool
	// cluster is set for a node of a VaultCluster.
	cluster *clusterNode
	audit   auditLog[AuditEntry]
}

// StartVault starts a server and waits until it is active.
func StartVault(ctx context.Context, opts VaultOptions) (*Vault, error) {
	binaries, err := FindBinaries()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("vault")
	if err != nil {
		return nil, err
	}
	v := &Vault{dir: dir, durable: opts.Durable}
	if err := v.start(ctx, binaries.Vault, opts); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *Vault) start(ctx context.Context, binary string, opts VaultOptions) error {
	if err := v.launch(ctx, binary, opts); err != nil {
		return err
	}
	return v.initialize(ctx)
}

// launch starts the process and waits until it responds.
func (v *Vault) launch(ctx context.Context, binary string, opts VaultOptions) error {
	if err := v.identify(ctx, binary); err != nil {
		return err
	}
	config, err := v.configure(opts)
	if err != nil {
		return err
	}
	path := filepath.Join(v.dir, "vault.hcl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if v.Root, err = v.Client(""); err != nil {
		return err
	}
	v.process = newServer(binary, v.dir, "server", "-config="+path)
	if err := v.process.start(); err != nil {
		return err
	}
	return v.process.await(ctx, v.reachable)
}

var versionOutput = regexp.MustCompile(`^(Vault|OpenBao) v([^\s,]+)`)

// identify asks the command for its kind and version.
func (v *Vault) identify(ctx context.Context, binary string) error {
	command := exec.CommandContext(ctx, binary, "version")
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + v.dir}
	output, err := command.Output()
	found := versionOutput.FindStringSubmatch(string(output))
	if err != nil {
		return fmt.Errorf("%s version: %w", binary, err)
	}
	if found == nil {
		return fmt.Errorf("%s is neither a Vault nor an OpenBao: its version is %q", binary, output)
	}
	v.OpenBao, v.Version = found[1] == "OpenBao", found[2]
	return nil
}

// configure sets Address and CA and returns the server's configuration.
func (v *Vault) configure(opts VaultOptions) (string, error) {
	port := opts.Port
	if port == 0 {
		var err error
		if port, err = FreePort(); err != nil {
			return "", err
		}
	}
	v.Address = "http://" + loopback(port)
	tls := "tls_disable = true"
	if opts.TLS {
		ca, err := newAuthority("leasekeeper-testbed-vault")
		if err != nil {
			return "", err
		}
		pair, err := ca.issue("vault")
		if err != nil {
			return "", err
		}
		cert, key, err := pair.write(v.dir, "vault")
		if err != nil {
			return "", err
		}
		v.Address, v.CA = "https://"+loopback(port), ca.PEM
		tls = fmt.Sprintf("tls_cert_file = %q\n  tls_key_file = %q", cert, key)
	}
	storage := `storage "inmem" {}`
	if opts.Durable {
		storage = fmt.Sprintf("storage \"file\" {\n  path = %q\n}", filepath.Join(v.dir, "data"))
	}
	clusterAddress := ""
	if v.cluster != nil {
		storage = v.cluster.storage(v.dir)
		clusterAddress = fmt.Sprintf("cluster_address = %q", v.cluster.listen)
	}
	more := ""
	if v.OpenBao {
		// OpenBao permits audit devices only in its configuration, which would have to name each mount's.
		more = "unsafe_allow_api_audit_creation = true\n"
	}
	limit := opts.MaxRequestDuration
	if limit == 0 {
		limit = 90 * time.Second
	}
	return fmt.Sprintf(`%s
listener "tcp" {
  address = %q
  max_request_duration = %q
  %s
  %s
}
api_addr = %q
default_max_request_duration = %q
disable_mlock = true
log_level = "info"
%s`, storage, loopback(port), limit, tls, clusterAddress, v.Address, limit, more), nil
}

// Client returns a client with this token. It ignores VAULT_ environment variables.
func (v *Vault) Client(token string) (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	cfg.Address, cfg.MaxRetries, cfg.SRVLookup, cfg.AgentAddress = v.Address, 0, false, ""
	if len(v.CA) > 0 {
		if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: v.CA}); err != nil {
			return nil, err
		}
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	client.ClearNamespace()
	client.SetToken(token)
	return client, nil
}

// reachable succeeds once the server responds, sealed or not.
func (v *Vault) reachable(ctx context.Context) error {
	_, err := v.Root.Sys().SealStatusWithContext(ctx)
	return err
}

func (v *Vault) initialize(ctx context.Context) error {
	response, err := v.Root.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("vault init: %w", err)
	}
	v.unsealKey = response.KeysB64[0]
	v.Root.SetToken(response.RootToken)
	if err := errors.Join(v.Unseal(ctx), v.process.await(ctx, v.active)); err != nil {
		return err
	}
	err = v.Root.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": v.auditPath(), "log_raw": "false"},
	})
	if err != nil {
		return fmt.Errorf("vault audit: %w", err)
	}
	return nil
}

// Unseal unseals the server and waits until it is active, or, in a cluster, until it serves.
func (v *Vault) Unseal(ctx context.Context) error {
	if _, err := v.Root.Sys().UnsealWithContext(ctx, v.unsealKey); err != nil {
		return fmt.Errorf("vault unseal: %w", err)
	}
	if v.cluster != nil {
		return v.process.await(ctx, v.serving)
	}
	return v.process.await(ctx, v.active)
}

// serving succeeds for an active node and for a standby.
func (v *Vault) serving(ctx context.Context) error {
	response, err := v.Root.Sys().HealthWithContext(ctx)
	if err == nil && response.Sealed {
		err = errors.New("vault is sealed")
	}
	return err
}

func (v *Vault) active(ctx context.Context) error {
	response, err := v.Root.Sys().HealthWithContext(ctx)
	if err != nil {
		return err
	}
	if response.Sealed || response.Standby {
		return fmt.Errorf("vault is not active yet (sealed: %t, standby: %t)", response.Sealed, response.Standby)
	}
	return nil
}

// Seal makes all requests but the seal status fail with 503, until Unseal.
func (v *Vault) Seal(ctx context.Context) error { return v.Root.Sys().SealWithContext(ctx) }

// Log returns the end of the server's log.
func (v *Vault) Log() string { return v.process.logTail() }

// Stop stops the server gracefully. Only a Durable server can be started again.
func (v *Vault) Stop() error { return v.process.stop() }

// Kill simulates a crash.
func (v *Vault) Kill() error { return v.process.kill() }

// Start restarts a Durable server on the same address and unseals it.
func (v *Vault) Start(ctx context.Context) error {
	if !v.durable {
		return errors.New("this Vault has in-memory storage: start it with VaultOptions{Durable: true}")
	}
	if err := v.process.start(); err != nil {
		return err
	}
	if err := v.process.await(ctx, v.reachable); err != nil {
		return err
	}
	return v.Unseal(ctx)
}

// Pause freezes the server: connections stay open, and requests get no response.
func (v *Vault) Pause() error { return v.process.pause() }

// Resume reverts Pause.
func (v *Vault) Resume() error { return v.process.resume() }

// Close kills the server and removes its files.
func (v *Vault) Close() error {
	var err error
	if v.process != nil {
		err = v.process.kill()
	}
	return errors.Join(err, os.RemoveAll(v.dir))
}

// Leases returns the ids of all leases under a prefix, such as database/creds/orders.
func (v *Vault) Leases(ctx context.Context, prefix string) ([]string, error) {
	prefix = strings.Trim(prefix, "/")
	keys, err := v.list(ctx, "sys/leases/lookup/"+prefix)
	if err != nil {
		return nil, err
	}
	var leases []string
	for _, key := range keys {
		path := strings.TrimPrefix(prefix+"/"+key, "/")
		if !strings.HasSuffix(key, "/") {
			leases = append(leases, path)
			continue
		}
		below, err := v.Leases(ctx, path)
		if err != nil {
			return nil, err
		}
		leases = append(leases, below...)
	}
	return leases, nil
}

// TokenAccessors returns the accessors of all tokens, including the root token.
func (v *Vault) TokenAccessors(ctx context.Context) ([]string, error) {
	return v.list(ctx, "auth/token/accessors")
}

// list returns nil for a path without keys, for which Vault responds with 404.
func (v *Vault) list(ctx context.Context, path string) ([]string, error) {
	response, err := v.Root.Logical().ListWithContext(ctx, path)
	var responseErr *api.ResponseError
	if errors.As(err, &responseErr) && responseErr.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err != nil || response == nil {
		return nil, err
	}
	raw, _ := response.Data["keys"].([]any)
	keys := make([]string, 0, len(raw))
	for _, key := range raw {
		keys = append(keys, fmt.Sprint(key))
	}
	return keys, nil
}

// auditPath is the same for all nodes of a cluster. Only those that serve requests themselves write to it.
func (v *Vault) auditPath() string {
	if v.cluster != nil {
		return v.cluster.audit
	}
	return filepath.Join(v.dir, "audit.log")
}

// Offers reports whether the server has the plugin: of kind secret, auth or database.
func (v *Vault) Offers(ctx context.Context, kind, name string) (bool, error) {
	list, err := v.Root.Logical().ListWithContext(ctx, "sys/plugins/catalog/"+kind)
	if err != nil {
		return false, err
	}
	if list == nil {
		return false, fmt.Errorf("the server lists no plugins of kind %s", kind)
	}
	names, _ := list.Data["keys"].([]any)
	return slices.Contains(names, any(name)), nil
}

// Kind is what leasekeeper calls the server.
func (v *Vault) Kind() string {
	if v.OpenBao {
		return "OpenBao"
	}
	return "Vault"
}
