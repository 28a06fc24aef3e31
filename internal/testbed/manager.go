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

// Names in config/ of the manager's namespace and ServiceAccount.
const (
	ManagerNamespace = "leasekeeper-system"
	ManagerAccount   = "leasekeeper"
)

// ManagerOptions are all optional.
type ManagerOptions struct {
	// Flags override the default flags for addresses and leader election.
	Flags []string
	// Env is additional environment variables, as "name=value".
	Env []string
	// API is a proxy to the API server; nil for a direct connection.
	API *Proxy
}

// Manager is leasekeeper's manager as a separate process, with the ServiceAccount and RBAC of config/.
type Manager struct {
	*Program
	// Metrics is the URL of the metrics endpoint.
	Metrics string

	probes string
}

// NewManager prepares a manager. Apply config/default first, and call Run to start it.
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
		"--allowed-addresses=127.0.0.1", // where the servers of the tests are
	}, opts.Flags...)
	m := &Manager{Metrics: "http://" + addresses[1] + "/metrics", probes: "http://" + addresses[0]}
	if m.Program, err = NewProgram(binary, flags, opts.Env); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(m.dir, "kubeconfig")
	m.process.env = append(m.process.env, "KUBECONFIG="+kubeconfig)
	return m, WriteKubeconfig(kubeconfig, config)
}

// Run starts or restarts the manager and waits until it is ready.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.Start(); err != nil {
		return err
	}
	return m.Await(ctx, func(ctx context.Context) error {
		_, err := read(ctx, m.probes+"/readyz")
		if err == nil {
			_, err = read(ctx, m.Metrics)
		}
		return err
	})
}

// Metric returns the value of a series, such as name{label="value"}, or 0 if it does not exist.
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
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, response.Status)
	}
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// LastWords returns the last lines of the manager's log.
func (m *Manager) LastWords(lines int) string {
	text, err := os.ReadFile(m.LogPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "end of the manager's log:\n" + strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Raced returns the first data race detected in any run of the manager.
func (m *Manager) Raced() error {
	text, err := m.Log()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it never ran
	}
	if err != nil {
		return err
	}
	if _, race, found := strings.Cut(text, "WARNING: DATA RACE"); found {
		return fmt.Errorf("data race in the manager:\n%s", race)
	}
	return nil
}
