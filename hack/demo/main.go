// Command demo tells the story of one lease on real servers, in a terminal:
// `make demo`. It ends with exit code 0 only if it saw all of it happen. With
// -up it leaves the servers running for a person to try things: `make demo-up`.
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
	up := flag.Bool("up", false, "leave everything running until Ctrl-C, instead of telling the story")
	manager := flag.String("manager", "bin/manager", "the manager's binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *up, *manager); err != nil {
		fmt.Fprintln(os.Stderr, "\nThe demo failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, up bool, manager string) (err error) {
	s := &stage{}
	defer func() {
		err = errors.Join(err, s.Close())
	}()
	setting, act := shortLeases, tell
	if up {
		setting, act = longLeases, stayUp
	}
	start := time.Now()
	if err := s.open(ctx, setting, manager); err != nil {
		return err
	}
	say("Everything is up, after %s.", seconds(time.Since(start)))
	if err := act(ctx, s); err != nil {
		return errors.Join(err, s.lastWords())
	}
	return nil
}

// say prints a paragraph of the story.
func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// note prints a detail below it.
func note(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

func seconds(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
