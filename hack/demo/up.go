package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// stayUp tells how to use the servers and keeps them until Ctrl-C.
func stayUp(ctx context.Context, s *stage) error {
	env, err := s.writeEnv()
	if err != nil {
		return err
	}
	say(`In another terminal, in this folder:

  source %s   # sets KUBECONFIG, VAULT_ADDR, VAULT_TOKEN and PATH
  %s
  kubectl get dynamicsecrets -n shop --watch
%s
  vault list sys/leases/lookup/%s/creds/orders

The manager's log is %s.
Ctrl-C here stops everything and removes its files.`, env, s.applySamples(), s.backend.howTo(), s.backend.mount(), s.manager.LogPath())
	<-ctx.Done()
	say("Stopping.")
	return nil
}

// applySamples is how the samples are applied: as they are, unless their Vault's port was taken or there is no PostgreSQL
// to lease users of.
func (s *stage) applySamples() string {
	want := fmt.Sprintf("http://127.0.0.1:%d", longLeases.vaultPort)
	_, database := s.backend.(*postgres)
	if s.vault.Address == want && database {
		return "kubectl apply -f config/samples/"
	}
	edits := ""
	if s.vault.Address != want {
		say("Port %d was taken, so the samples need another address.", longLeases.vaultPort)
		edits += fmt.Sprintf(" -e 's#%s#%s#'", want, s.vault.Address)
	}
	if !database {
		say("There is no PostgreSQL, so the samples need another engine.")
		edits += fmt.Sprintf(" -e 's#^    path: database/creds/orders#    %s#'", s.backend.request())
	}
	return "sed -s" + edits + " -e '$a---' config/samples/*.yaml | kubectl apply -f -"
}

// writeEnv writes a file to source, next to the control plane's files. It holds
// Vault's root token, so only its owner may read it, and it goes when they go.
func (s *stage) writeEnv() (string, error) {
	dir := filepath.Join(filepath.Dir(s.plane.Kubeconfig), "shell")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	for name, target := range map[string]string{
		"kubectl": s.plane.Binaries.Kubectl, "vault": s.plane.Binaries.Vault,
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	lines := append([]string{
		"KUBECONFIG=" + s.plane.Kubeconfig,
		"VAULT_ADDR=" + s.vault.Address,
		"VAULT_TOKEN=" + s.vault.Root.Token(),
		"PATH=" + dir + ":$PATH",
	}, s.backend.env()...)
	text := fmt.Sprintf("export %s\n", strings.Join(lines, "\nexport "))
	path := filepath.Join(dir, "env")
	return path, os.WriteFile(path, []byte(text), 0o600)
}
