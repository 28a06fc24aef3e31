// Command chaos lets everything fail at once, on real servers, and prints what came of it: `make chaos`. It ends with exit
// code 0 only if every promise was kept. A run can be had again by its seed, as far as the weather goes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/chaos"
)

func main() {
	seed := flag.Uint64("seed", 0, "seed of all that is random; 0: the time")
	storm := flag.Duration("for", 10*time.Minute, "how long everything fails")
	objects := flag.Int("objects", 100, "how many objects live through it")
	scenario := flag.String("scenario", "all", "storm, failover, or all: one after the other")
	manager := flag.String("manager", "bin/manager", "the manager's binary")
	log := flag.String("log", "", "a file to keep the manager's log in")
	flag.Parse()
	opts := chaos.Options{
		Seed: *seed, Storm: *storm, Objects: *objects, Failover: *scenario != "storm", Manager: *manager, Root: ".", Progress: os.Stdout, Log: *log,
	}
	if opts.Seed == 0 {
		opts.Seed = uint64(time.Now().UnixNano())
	}
	switch *scenario {
	case "all", "storm":
	case "failover":
		opts.Storm = 0
	default:
		fmt.Fprintln(os.Stderr, "-scenario is storm, failover or all")
		os.Exit(2)
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
	return err
}
