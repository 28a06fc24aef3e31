package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const dirPrefix = "leasekeeper-testbed-"

// tempDir makes a folder that carries this process's id, and sweeps those of
// processes that were killed before they could clean up.
func tempDir(what string) (string, error) {
	sweep(os.TempDir())
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-%s-", dirPrefix, os.Getpid(), what))
	if err != nil {
		return "", err
	}
	// PostgreSQL runs as a user of its own and has to get through; whatever is
	// secret in here has a mode of its own.
	return dir, os.Chmod(dir, 0o711)
}

// sweep is best effort: a folder that cannot be removed harms nobody.
func sweep(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	for _, dir := range found {
		var pid int
		rest := strings.TrimPrefix(filepath.Base(dir), dirPrefix)
		if _, err := fmt.Sscanf(rest, "%d-", &pid); err != nil {
			continue
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}
