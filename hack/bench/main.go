// Command bench measures leasekeeper on real servers: `make bench`. docs/performance.md explains each figure.
//
// Read the files in this order:
//
//	run.go       the steps of one size
//	site.go      the servers, and vault.go what Vault leases
//	bare.go      the loop that the manager is compared with
//	objects.go   creating and deleting objects; watch.go tracks which are Ready
//	cel.go       CEL evaluations per status write
//	restart.go   what a restart of the manager costs
//	meter.go     requests (requests.go), CPU and memory (proc.go) of one phase
//	profile.go   heap profiles
//	report.go    the JSON file; table.go the table
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options of a run; the flags document them.
type options struct {
	sizes       []int
	manager     string
	flags       []string
	concurrency int
	json        string
	profiles    string
}

func main() {
	opts, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (opts options, err error) {
	objects := flag.String("objects", "300 2000", "how many objects, one run for each number")
	flags := flag.String("manager-flags", "", "flags of the manager, separated by spaces")
	flag.StringVar(&opts.manager, "manager", "bin/manager", "the manager's binary, built without the race detector")
	flag.IntVar(&opts.concurrency, "concurrency", 32, "parallelism of the bare loop, and --concurrency of the manager")
	flag.StringVar(&opts.json, "json", "bin/bench.json", "file for the figures; empty: none")
	flag.StringVar(&opts.profiles, "profiles", "",
		"folder for heap profiles of the manager after the first sync; empty: none")
	flag.Parse()
	opts.flags = strings.Fields(*flags)
	for _, text := range strings.Fields(*objects) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return opts, fmt.Errorf("-objects %q: %q is not a positive number", *objects, text)
		}
		opts.sizes = append(opts.sizes, n)
	}
	if len(opts.sizes) == 0 || opts.concurrency < 1 {
		return opts, errors.New("-objects and -concurrency must be positive")
	}
	if opts.profiles != "" {
		return opts, os.MkdirAll(opts.profiles, 0o700)
	}
	return opts, nil
}

// run measures every size and reports the sizes that were completed, even after an error.
func run(ctx context.Context, opts options) error {
	report := newReport(ctx, opts)
	var failed error
	for _, n := range opts.sizes {
		result, err := measureSize(ctx, opts, n)
		if err != nil {
			// An interrupted run reports the interruption first: it explains all other errors.
			failed = errors.Join(context.Cause(ctx), fmt.Errorf("%d objects: %w", n, err))
			break
		}
		report.Results = append(report.Results, result)
	}
	if len(report.Results) == 0 {
		return failed
	}
	fmt.Print(report.table())
	return errors.Join(failed, report.write(opts.json))
}

// progress goes to stderr, so that stdout holds only the table.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
