package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// VaultOptions are all optional.
type VaultOptions struct {
	// Durable keeps what Vault stores in files, so that it survives Stop and
	// Kill. Without it everything is in memory, which is faster.
	Durable bool
	// TLS serves https with a certificate of a CA made for this Vault.
	TLS bool
	// MaxRequestDuration ends a request that takes longer; Vault's default is
	// 90 s.
	MaxRequestDuration time.Duration
	// Port to listen on; a free one when 0.
	Port int
}

// Vault is a real server: initialised, unsealed, with a file audit device.
type Vault struct {
	// Address is the URL to reach it by; it stays the same after Stop and Start.
	Address string
	// CA signed the server's certificate, PEM; empty without TLS.
	CA []byte
	// Root is a client with the root token. It does not retry.
	Root *api.Client

	dir       string
	process   *process
	unsealKey string
	durable   bool
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
	v.process = newProcess(binary, v.dir, "server", "-config="+path)
	if err := v.process.start(); err != nil {
		return err
	}
	if err := v.process.await(ctx, v.answers); err != nil {
		return err
	}
	return v.initialise(ctx)
}

// configure sets address and CA and returns the server's configuration.
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
	limit := opts.MaxRequestDuration
	if limit == 0 {
		limit = 90 * time.Second
	}
	return fmt.Sprintf(`%s
listener "tcp" {
  address = %q
  max_request_duration = %q
  %s
}
api_addr = %q
default_max_request_duration = %q
disable_mlock = true
log_level = "info"
`, storage, loopback(port), limit, tls, v.Address, limit), nil
}

// Client is a new client with this token. The environment's VAULT_ variables
// do not reach it.
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

// answers holds once the server speaks, sealed or not.
func (v *Vault) answers(ctx context.Context) error {
	_, err := v.Root.Sys().SealStatusWithContext(ctx)
	return err
}

func (v *Vault) initialise(ctx context.Context) error {
	answer, err := v.Root.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("vault init: %w", err)
	}
	v.unsealKey = answer.KeysB64[0]
	v.Root.SetToken(answer.RootToken)
	if err := v.Unseal(ctx); err != nil {
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

// Unseal unseals and waits until the server is active.
func (v *Vault) Unseal(ctx context.Context) error {
	if _, err := v.Root.Sys().UnsealWithContext(ctx, v.unsealKey); err != nil {
		return fmt.Errorf("vault unseal: %w", err)
	}
	return v.process.await(ctx, v.active)
}

func (v *Vault) active(ctx context.Context) error {
	answer, err := v.Root.Sys().HealthWithContext(ctx)
	if err != nil {
		return err
	}
	if answer.Sealed || answer.Standby {
		return fmt.Errorf("vault is not active yet (sealed: %t, standby: %t)", answer.Sealed, answer.Standby)
	}
	return nil
}

// Seal makes every request but the status fail with 503, until Unseal.
func (v *Vault) Seal(ctx context.Context) error { return v.Root.Sys().SealWithContext(ctx) }

// Log is the end of what the server has printed.
func (v *Vault) Log() string { return v.process.logTail() }

// Stop ends the server in order. Only a Durable one can be started again.
func (v *Vault) Stop() error { return v.process.stop() }

// Kill ends the server at once, as a crash would.
func (v *Vault) Kill() error { return v.process.kill() }

// Start brings a Durable server back on its address, and unseals it.
func (v *Vault) Start(ctx context.Context) error {
	if !v.durable {
		return errors.New("this Vault keeps its data in memory: start it with VaultOptions{Durable: true}")
	}
	if err := v.process.start(); err != nil {
		return err
	}
	if err := v.process.await(ctx, v.answers); err != nil {
		return err
	}
	return v.Unseal(ctx)
}

// Pause freezes the server: connections stay open, nothing is answered.
func (v *Vault) Pause() error { return v.process.pause() }

// Resume undoes Pause.
func (v *Vault) Resume() error { return v.process.resume() }

// Close ends the server and removes its files.
func (v *Vault) Close() error {
	var err error
	if v.process != nil {
		err = v.process.kill()
	}
	return errors.Join(err, os.RemoveAll(v.dir))
}

// Leases lists the ids of all leases below the prefix, as database/creds/orders.
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

// TokenAccessors lists every living token, the root token included.
func (v *Vault) TokenAccessors(ctx context.Context) ([]string, error) {
	return v.list(ctx, "auth/token/accessors")
}

// list answers nothing for a path without keys: Vault says 404 there.
func (v *Vault) list(ctx context.Context, path string) ([]string, error) {
	answer, err := v.Root.Logical().ListWithContext(ctx, path)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err != nil || answer == nil {
		return nil, err
	}
	raw, _ := answer.Data["keys"].([]any)
	keys := make([]string, 0, len(raw))
	for _, key := range raw {
		keys = append(keys, fmt.Sprint(key))
	}
	return keys, nil
}

func (v *Vault) auditPath() string { return filepath.Join(v.dir, "audit.log") }
