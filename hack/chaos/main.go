// Command chaos lets everything fail at once, on real servers, and prints what came of it: `make chaos`. It ends with exit
// code 0 only if every promise was kept. A run can be had again by its seed, as far as the weather goes.
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
	seed := flag.Uint64("seed", 0, "seed of all that is random; 0: the time")
	storm := flag.Duration("for", 10*time.Minute, "how long everything fails")
	objects := flag.Int("objects", 100, "how many objects live through it")
	scenario := flag.String("scenario", "storm,failover,scale", "which of these, separated by commas")
	leases := flag.Int("leases", 2000, "how many leases scale makes")
	manager := flag.String("manager", "bin/manager", "the manager's binary")
	log := flag.String("log", "", "a file to keep the manager's log in")
	flag.Parse()
	opts := chaos.Options{Seed: *seed, Objects: *objects, Manager: *manager, Root: ".", Progress: os.Stdout, Log: *log}
	if opts.Seed == 0 {
		opts.Seed = uint64(time.Now().UnixNano())
	}
	for name := range strings.SplitSeq(*scenario, ",") {
		switch name {
		case "storm":
			opts.Storm = *storm
		case "failover":
			opts.Failover = true
		case "scale":
			opts.Scale = *leases
		default:
			fmt.Fprintf(os.Stderr, "-scenario %q is not one of storm, failover and scale\n", name)
			os.Exit(2)
		}
	}
	if err := run(opts); err != nil {
		fmt.Fprintln(os.Stderr, "\nNot as promised:", err)
		os.Exit(1)
	}
}

func run(opts chaos.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := chaos.Run(ctx, opts)
	fmt.Printf("\n%s", report)
	// Whatever else went wrong in a run that was interrupted, that it was comes first.
	return errors.Join(context.Cause(ctx), err)
}
