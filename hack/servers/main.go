// Command servers builds the test servers into the cache. `go run ./hack/servers` builds all, arguments select servers
// by name, and `go run ./hack/servers path NAME` prints the path of a binary.
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

// ensure builds the server's binary unless it is cached. A second run waits for the lock and then uses the binary of
// the first.
func ensure(root string, server servers.Server) error {
	if path, ok := server.Override(); ok {
		printf("%s: using %s from the environment", server.Name, path)
		return nil
	}
	path, err := server.CachePath(root)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		printf("%s: already built", filepath.Base(filepath.Dir(path)))
		return nil
	}
	unlock, err := lock(filepath.Dir(path) + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		printf("%s: built by another run", filepath.Base(filepath.Dir(path)))
		return nil
	}
	return build(root, server, path)
}

// lock waits for an exclusive lock on the file. The kernel releases it when this process ends.
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
		printf("%s: waiting for another run to build it", strings.TrimSuffix(filepath.Base(path), ".lock"))
		if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
			return nil, err
		}
	}
	return func() { _ = file.Close() }, nil
}

// build compiles to a temporary path and renames, so that the cache never contains a partial binary.
func build(root string, server servers.Server, path string) error {
	version, err := server.Version(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	partial := path + ".partial"
	cmd := exec.Command("go", "build", "-v", "-trimpath", "-ldflags", server.Flags(version), "-o", partial,
		server.Package)
	cmd.Dir = server.ModuleDir(root)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	packages, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	printf("%s %s: building", server.Name, version)
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
	printf("%s %s: built in %s", server.Name, version, since(start))
	return nil
}

// progress reports that a long build continues.
type progress struct {
	name     string
	start    time.Time
	compiled atomic.Int64
}

// follow counts the packages that `go build -v` prints, and returns all other output.
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
				printf("%s: %s, %d packages compiled", p.name, since(p.start), p.compiled.Load())
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Second) }

func printf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
