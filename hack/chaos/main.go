// Command chaos injects faults on real servers, prints a report, and exits with 0 only if leasekeeper kept all
// promises: `make chaos`. The same seed injects the same faults.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/chaos"
)

func main() {
	seed := flag.Uint64("seed", 0, "random seed; 0 uses the current time")
	storm := flag.Duration("for", 10*time.Minute, "duration of the storm")
	objects := flag.Int("objects", 100, "number of objects in the storm")
	scenario := flag.String("scenario", "storm,failover,isolation,scale", "comma-separated scenarios to run; "+
		"standbys, alone, is a storm over three Vaults")
	isolation := flag.Duration("hang-for", 5*time.Minute, "how long backends hang in the isolation scenario")
	leases := flag.Int("leases", 2000, "number of leases in the scale scenario")
	manager := flag.String("manager", "bin/manager", "path of the manager binary")
	log := flag.String("log", "", "path for a copy of the manager's log")
	flag.Parse()
	opts := chaos.Options{Seed: *seed, Objects: *objects, Manager: *manager, Root: ".", Progress: os.Stdout, Log: *log}
	if opts.Seed == 0 {
		opts.Seed = uint64(time.Now().UnixNano())
	}
	for name := range strings.SplitSeq(*scenario, ",") {
		switch name {
		case "storm":
			opts.Storm = *storm
		case "standbys":
			opts.Storm, opts.VaultCluster = *storm, true
		case "failover":
			opts.Failover = true
		case "isolation":
			opts.Isolation = *isolation
		case "scale":
			opts.Scale = *leases
		default:
			fmt.Fprintf(os.Stderr, "-scenario %q is not one of storm, failover, isolation, scale, standbys\n", name)
			os.Exit(2)
		}
	}
	if opts.VaultCluster && *scenario != "standbys" {
		fmt.Fprintln(os.Stderr, "-scenario standbys has servers of its own: run it alone")
		os.Exit(2)
	}
	if err := run(opts); err != nil {
		fmt.Fprintln(os.Stderr, "\nchaos failed:", err)
		os.Exit(1)
	}
}

func run(opts chaos.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := chaos.Run(ctx, opts)
	fmt.Printf("\n%s", report)
	// Report an interrupt first; it may have caused the other errors.
	return errors.Join(context.Cause(ctx), err)
}
