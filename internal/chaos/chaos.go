// Package chaos injects many kinds of faults at once on real servers and verifies that leasekeeper keeps its promises.
// `make chaos` runs it, and the end-to-end tests run a shorter version.
//
// A seed determines the faults and mutations. It does not determine which requests they affect, so two runs with the
// same seed differ.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	// vaultLimit is Vault's max_request_duration. Vault aborts a request that takes longer, which can leave a user
	// without a lease. The limit leaves room for a busy machine.
	vaultLimit = 20 * time.Second
	// requestLimit is the manager's --request-limit. It exceeds vaultLimit.
	requestLimit = 30 * time.Second
	// backendTimeout is the manager's --backend-timeout.
	backendTimeout = 5 * time.Second

	// waitTimeout bounds every wait. It exceeds the request limit, and Vault's retries of a failed revocation after
	// 10, 20, 40 and 80 seconds.
	waitTimeout = 5 * time.Minute
)

// Options of a run.
type Options struct {
	// Seed of the random sources.
	Seed uint64
	// Storm is the duration of the storm; 0 skips it.
	Storm time.Duration
	// Objects in the storm; 100 if 0.
	Objects int
	// VaultCluster runs three Vaults instead of one. Instead of stopping Vault, the storm loses the active one.
	VaultCluster bool
	// Failover makes leaders of two replicas fail, after the storm.
	Failover bool
	// Scale is the number of leases in the scale run, at the end; 0 skips it.
	Scale int
	// Isolation is for how long half of the backends hang next to healthy ones, after the failover; 0 skips it.
	Isolation time.Duration
	// Manager is the path of the manager binary.
	Manager string
	// Root is the root directory of the repository.
	Root string
	// Progress receives log lines; may be nil.
	Progress io.Writer
	// Log is the path of a copy of the manager's log; empty for no copy.
	Log string
}

// Run starts its own servers, runs the requested scenarios, and stops the servers. The error names each broken promise
// and shows the ledgers of the affected objects. After an error the report covers the completed part of the run.
func Run(ctx context.Context, opts Options) (report Report, err error) {
	if opts.Objects == 0 {
		opts.Objects = 100
	}
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	report = Report{Seed: opts.Seed, Failover: opts.Failover}
	logf(opts, "seed %d", opts.Seed)
	e, err := newEnvironment(ctx, opts)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if opts.Storm > 0 {
		if err := e.storm(ctx, &report); err != nil {
			return report, err
		}
	}
	if opts.Failover {
		if err := e.failover(ctx, &report); err != nil {
			return report, err
		}
	}
	if opts.Isolation > 0 {
		if err := e.isolation(ctx, &report); err != nil {
			return report, err
		}
	}
	if opts.Scale > 0 {
		if err := e.scale(ctx, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// managerFlags shorten intervals for a short run with one replica.
var managerFlags = []string{
	"--leader-elect=false",
	"--request-limit=" + requestLimit.String(),
	"--backend-timeout=" + backendTimeout.String(), "--issue-timeout=12s",
	"--provider-interval=5s", "--provider-retry-interval=1s", "--verify-interval=2s",
	"--zap-encoder=console", "--zap-stacktrace-level=panic",
}

func startBed(ctx context.Context, opts Options) (*testbed.Bed, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	return testbed.StartBed(ctx, testbed.BedOptions{
		Root: opts.Root, Manager: opts.Manager, Flags: managerFlags, APIProxy: true,
		Vault:        testbed.VaultOptions{Durable: !opts.VaultCluster, MaxRequestDuration: vaultLimit},
		VaultCluster: opts.VaultCluster,
	})
}

func logf(opts Options, format string, args ...any) {
	_, _ = fmt.Fprintf(opts.Progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// eventually polls until pending returns an empty string. Its timeout error contains the last string.
func eventually(ctx context.Context, what string, pending func() (string, error)) error {
	return pollEvery(ctx, 200*time.Millisecond, what, pending)
}

// pollEvery is eventually with its own interval.
func pollEvery(ctx context.Context, interval time.Duration, what string, pending func() (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	for {
		reason, err := pending()
		if err == nil && reason == "" {
			return nil
		}
		if !sleep(ctx, interval) {
			return fmt.Errorf("timed out waiting for %s: %w", what,
				errors.Join(context.Cause(ctx), err, asError(reason)))
		}
	}
}

func asError(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
