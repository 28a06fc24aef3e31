package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is what the JSON file holds.
type report struct {
	Date         time.Time `json:"date"`
	Manager      string    `json:"managerVersion"`
	ManagerFlags []string  `json:"managerFlags,omitempty"`
	Concurrency  int       `json:"concurrency"`
	Engine       string    `json:"vaultEngine"`
	Machine      machine   `json:"machine"`
	Results      []result  `json:"results"`
}

type machine struct {
	Platform  string  `json:"platform"`
	CPUs      int     `json:"cpus"`
	MemoryMiB float64 `json:"memoryMiB"`
}

func newReport(ctx context.Context, opts options) *report {
	version, err := exec.CommandContext(ctx, opts.manager, "--version").Output()
	if err != nil {
		version = []byte("unknown")
	}
	return &report{
		Date: time.Now().UTC().Truncate(time.Second), Manager: strings.TrimSpace(string(version)),
		ManagerFlags: opts.flags, Concurrency: opts.concurrency, Engine: engine + " (one-time passwords)",
		Machine: machine{
			Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), MemoryMiB: machineMiB(),
		},
	}
}

// write does nothing without a path.
func (r *report) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
