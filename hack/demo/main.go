// Command demo shows the life of a lease on real servers: `make demo`. It exits with 0 only if every step succeeded.
// With -up it keeps the servers running for experiments: `make demo-up`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	up := flag.Bool("up", false, "keep the servers running until Ctrl-C, and skip the demo")
	manager := flag.String("manager", "bin/manager", "path of the manager binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *up, *manager); err != nil {
		fmt.Fprintln(os.Stderr, "\nThe demo failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, up bool, manager string) (err error) {
	e := &environment{}
	defer func() {
		err = errors.Join(err, e.Close())
	}()
	settings, scenario := shortLeases, runStory
	if up {
		settings, scenario = longLeases, keepRunning
	}
	start := time.Now()
	if err := e.start(ctx, settings, manager); err != nil {
		return err
	}
	printf("All servers are running after %s.", seconds(time.Since(start)))
	if err := scenario(ctx, e); err != nil {
		return errors.Join(err, e.managerLog())
	}
	return nil
}

// printf prints a paragraph of the story.
func printf(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// detailf prints a detail of the paragraph.
func detailf(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

func seconds(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
