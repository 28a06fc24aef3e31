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

// tempDir creates a directory with this process's id in its name. It removes directories of processes that no longer
// run.
func tempDir(what string) (string, error) {
	sweep(os.TempDir())
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-%s-", dirPrefix, os.Getpid(), what))
	if err != nil {
		return "", err
	}
	// PostgreSQL runs as another user and must be able to enter. Confidential files have their own mode.
	return dir, os.Chmod(dir, 0o711)
}

// sweep is best effort.
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
