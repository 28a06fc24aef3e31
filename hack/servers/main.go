// Command servers builds the real servers of the tests into the cache, each
// once: `go run ./hack/servers` builds all, with names only those, and
// `go run ./hack/servers path NAME` prints where a binary is.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed/servers"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	root, err := servers.Root()
	if err != nil {
		return err
	}
	if len(args) == 2 && args[0] == "path" {
		return printPath(root, args[1])
	}
	wanted := servers.Catalog()
	if len(args) > 0 {
		wanted = nil
	}
	for _, name := range args {
		server, err := servers.Named(name)
		if err != nil {
			return err
		}
		wanted = append(wanted, server)
	}
	for _, server := range wanted {
		if err := ensure(root, server); err != nil {
			return fmt.Errorf("%s: %w", server.Name, err)
		}
	}
	return nil
}

func printPath(root, name string) error {
	server, err := servers.Named(name)
	if err != nil {
		return err
	}
	path, err := server.Find(root)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

// ensure leaves the server's binary in the cache. Two runs that race build it
// once: the second waits for the lock and finds the first one's work.
func ensure(root string, server servers.Server) error {
	if path, ok := server.Override(); ok {
		say("%s: taken from the environment: %s", server.Name, path)
		return nil
	}
	path, err := server.CachePath(root)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		say("%s: already built", filepath.Base(filepath.Dir(path)))
		return nil
	}
	unlock, err := lock(filepath.Dir(path) + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		say("%s: built by another run meanwhile", filepath.Base(filepath.Dir(path)))
		return nil
	}
	return build(root, server, path)
}

// lock waits for the file's exclusive lock, which the kernel drops when this
// process ends, however it ends.
func lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	fd := int(file.Fd())
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		say("%s: waiting for another run that builds it", strings.TrimSuffix(filepath.Base(path), ".lock"))
		if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
			return nil, err
		}
	}
	return func() { _ = file.Close() }, nil
}

// build compiles next to the final place and renames, so that a binary in the
// cache is always a whole one.
func build(root string, server servers.Server, path string) error {
	version, err := server.Version(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	partial := path + ".partial"
	cmd := exec.Command("go", "build", "-v", "-trimpath", "-ldflags", server.Flags(version), "-o", partial, server.Package)
	cmd.Dir = server.ModuleDir(root)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	packages, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	say("%s %s: building", server.Name, version)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	progress := &progress{name: server.Name, start: start}
	stop := progress.report(15 * time.Second)
	output := progress.follow(packages)
	err = cmd.Wait()
	stop()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output)
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	say("%s %s: built in %s", server.Name, version, since(start))
	return nil
}

// progress tells a person who waits minutes that something still moves.
type progress struct {
	name     string
	start    time.Time
	compiled atomic.Int64
}

// follow counts the packages that `go build -v` names as it compiles them and
// returns everything else that it said.
func (p *progress) follow(r io.Reader) string {
	var rest bytes.Buffer
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line != "" && !strings.ContainsAny(line, " :\t") {
			p.compiled.Add(1)
			continue
		}
		fmt.Fprintln(&rest, line)
	}
	return rest.String()
}

func (p *progress) report(every time.Duration) (stop func()) {
	ticker := time.NewTicker(every)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				say("%s: %s, %d packages compiled", p.name, since(p.start), p.compiled.Load())
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Second) }

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
