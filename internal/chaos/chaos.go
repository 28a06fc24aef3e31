// Package chaos lets everything fail at once, on real servers, and judges what is left: `make chaos`, and a shorter run of
// the same in the end-to-end tests. What happens is drawn from a seed that is printed; when exactly it meets a request is
// for the machine to say, so a seed brings back the same weather and not the same run.
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
	// vaultLimit is Vault's max_request_duration, requestLimit the manager's --request-limit above it. A request that takes
	// Vault longer is given up half way and may leave a user without a lease, which is Vault's own doing: so there is room
	// for a machine that is busy with other things.
	vaultLimit   = 20 * time.Second
	requestLimit = 30 * time.Second
	// backendTimeout is the manager's --backend-timeout.
	backendTimeout = 5 * time.Second

	// patience bounds every wait, and only decides when a run gives up. What was left unanswered is ended after the
	// request limit, and Vault tries again what the database refused it after 10, 20, 40 and 80 seconds.
	patience = 5 * time.Minute
)

// Options of a run.
type Options struct {
	// Seed of all that is random.
	Seed uint64
	// Storm is how long everything fails; 0: there is no storm.
	Storm time.Duration
	// Objects in the storm; a hundred when 0.
	Objects int
	// Failover plays what happens to two replicas, after the storm.
	Failover bool
	// Scale is how many leases are made to outlive an outage and to be watched, at the end; 0: none.
	Scale int
	// Manager is the manager's binary, Root the repository's folder.
	Manager, Root string
	// Progress gets a line now and then; nil: nobody is told.
	Progress io.Writer
	// Log is a file that the manager's log of the storm is copied to; empty: none.
	Log string
}

// Run starts servers of its own, lets the storm loose on them, judges, and takes everything down. The error names every
// promise that was broken, with the ledgers of the objects concerned. The report is good as far as the run came.
func Run(ctx context.Context, opts Options) (report Report, err error) {
	if opts.Objects == 0 {
		opts.Objects = 100
	}
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	report = Report{Seed: opts.Seed, Failover: opts.Failover}
	say(opts, "seed %d", opts.Seed)
	s, err := newSite(ctx, opts)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if opts.Storm > 0 {
		if err := s.storm(ctx, &report); err != nil {
			return report, err
		}
	}
	if opts.Failover {
		if err := s.failover(ctx, &report); err != nil {
			return report, err
		}
	}
	if opts.Scale > 0 {
		if err := s.scale(ctx, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// managerFlags make the run short; there is one replica in the storm.
var managerFlags = []string{
	"--leader-elect=false",
	"--request-limit=" + requestLimit.String(),
	"--backend-timeout=" + backendTimeout.String(), "--issue-timeout=12s",
	"--provider-interval=5s", "--provider-retry-interval=1s", "--verify-interval=2s",
	"--zap-encoder=console", "--zap-stacktrace-level=panic",
}

func startBed(ctx context.Context, opts Options) (*testbed.Bed, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return testbed.StartBed(ctx, testbed.BedOptions{
		Root: opts.Root, Manager: opts.Manager, Flags: managerFlags, APIProxy: true,
		Vault: testbed.VaultOptions{Durable: true, MaxRequestDuration: vaultLimit},
	})
}

func say(opts Options, format string, args ...any) {
	_, _ = fmt.Fprintf(opts.Progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// nap sleeps, and says whether ctx lasted until the end of it.
func nap(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// eventually polls until ok says nothing any more. The error says what it said last.
func eventually(ctx context.Context, what string, ok func() (string, error)) error {
	return eventuallyBy(ctx, 200*time.Millisecond, what, ok)
}

// eventuallyBy is eventually with looks that are further apart.
func eventuallyBy(ctx context.Context, pause time.Duration, what string, ok func() (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		still, err := ok()
		if err == nil && still == "" {
			return nil
		}
		if !nap(ctx, pause) {
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(context.Cause(ctx), err, asError(still)))
		}
	}
}

func asError(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
