package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
)

// The names that config/ gives the manager's namespace and ServiceAccount.
const (
	ManagerNamespace = "leasekeeper-system"
	ManagerAccount   = "leasekeeper"
)

// ManagerOptions are all optional.
type ManagerOptions struct {
	// Flags are added to those for addresses and leader election, and win over them.
	Flags []string
	// Env is added to the environment, as "name=value".
	Env []string
	// API leads to the API server in another way, such as through a proxy.
	API *Proxy
}

// Manager is leasekeeper's manager as a process of its own, with a token of
// the ServiceAccount and the RBAC that config/ installs.
type Manager struct {
	*Program
	// Metrics is the URL of its metrics.
	Metrics string

	probes string
}

// NewManager prepares a manager; Run starts it. config/default must be applied.
func NewManager(ctx context.Context, c *ControlPlane, binary string, opts ManagerOptions) (*Manager, error) {
	config, err := c.ConfigForServiceAccount(ctx, ManagerNamespace, ManagerAccount)
	if err != nil {
		return nil, err
	}
	if opts.API != nil {
		config.Host, config.TLSClientConfig = opts.API.Address, rest.TLSClientConfig{CAData: opts.API.CA}
	}
	var addresses [2]string
	for i := range addresses {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		addresses[i] = loopback(port)
	}
	flags := append([]string{
		"--health-probe-bind-address=" + addresses[0],
		"--metrics-bind-address=" + addresses[1],
		"--leader-election-namespace=" + ManagerNamespace,
	}, opts.Flags...)
	m := &Manager{Metrics: "http://" + addresses[1] + "/metrics", probes: "http://" + addresses[0]}
	if m.Program, err = NewProgram(binary, flags, opts.Env); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(m.dir, "kubeconfig")
	m.process.env = append(m.process.env, "KUBECONFIG="+kubeconfig)
	return m, WriteKubeconfig(kubeconfig, config)
}

// Run starts the manager, again where it has ended, and waits until it is ready.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.Start(); err != nil {
		return err
	}
	return m.Await(ctx, func(ctx context.Context) error {
		_, err := read(ctx, m.probes+"/readyz")
		return err
	})
}

// Metric reads one series, such as name{label="value"}; 0: there is none.
func (m *Manager) Metric(series string) (float64, error) {
	text, err := read(context.Background(), m.Metrics)
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0, nil
	}
	return strconv.ParseFloat(found[1], 64)
}

func read(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, answer.Status)
	}
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// LastWords is the end of what the manager has printed.
func (m *Manager) LastWords(lines int) string {
	text, err := os.ReadFile(m.LogPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "the manager's last words:\n" + strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Raced is the data race that the race detector has found in any of the manager's runs; nil: none.
func (m *Manager) Raced() error {
	text, err := m.Log()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it never ran
	}
	if err != nil {
		return err
	}
	if _, race, raced := strings.Cut(text, "WARNING: DATA RACE"); raced {
		return fmt.Errorf("the manager raced:\n%s", race)
	}
	return nil
}
