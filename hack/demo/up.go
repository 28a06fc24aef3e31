package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keepRunning explains how to use the servers and waits for Ctrl-C.
func keepRunning(ctx context.Context, e *environment) error {
	env, err := e.writeEnv()
	if err != nil {
		return err
	}
	printf(`In another terminal, in this directory:

  source %s   # sets KUBECONFIG, VAULT_ADDR, VAULT_TOKEN and PATH
  %s
  kubectl get dynamicsecrets -n shop --watch
%s
  vault list sys/leases/lookup/%s/creds/orders

The manager's log is %s.
Ctrl-C here stops everything and removes its files.`,
		env, e.applySamples(), e.backend.loginInstructions(), e.backend.mount(), e.manager.LogPath())
	<-ctx.Done()
	printf("Stopping.")
	return nil
}

// applySamples returns the command that applies the samples. It edits them if Vault has another port, or if PostgreSQL
// is missing.
func (e *environment) applySamples() string {
	want := fmt.Sprintf("http://127.0.0.1:%d", longLeases.vaultPort)
	_, database := e.backend.(*postgres)
	if e.vault.Address == want && database {
		return "kubectl apply -f config/samples/"
	}
	edits := ""
	if e.vault.Address != want {
		printf("Port %d is in use, so the samples need another address.", longLeases.vaultPort)
		edits += fmt.Sprintf(" -e 's#%s#%s#'", want, e.vault.Address)
	}
	if !database {
		printf("PostgreSQL is not installed, so the samples need another engine.")
		edits += fmt.Sprintf(" -e 's#^    path: database/creds/orders#    %s#'", e.backend.request())
	}
	return "sed -s" + edits + " -e '$a---' config/samples/*.yaml | kubectl apply -f -"
}

// writeEnv writes a file to source. The file contains Vault's root token, so only its owner can read it. It is removed
// with the control plane's files.
func (e *environment) writeEnv() (string, error) {
	dir := filepath.Join(filepath.Dir(e.plane.Kubeconfig), "shell")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	for name, target := range map[string]string{
		"kubectl": e.plane.Binaries.Kubectl, "vault": e.plane.Binaries.Vault,
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	lines := append([]string{
		"KUBECONFIG=" + e.plane.Kubeconfig,
		"VAULT_ADDR=" + e.vault.Address,
		"VAULT_TOKEN=" + e.vault.Root.Token(),
		"PATH=" + dir + ":$PATH",
	}, e.backend.loginEnv()...)
	text := fmt.Sprintf("export %s\n", strings.Join(lines, "\nexport "))
	path := filepath.Join(dir, "env")
	return path, os.WriteFile(path, []byte(text), 0o600)
}
