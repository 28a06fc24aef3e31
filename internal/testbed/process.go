package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spawner starts children from one thread that lives as long as the process. The kernel sends the parent-death signal
// when the forking *thread* ends, and a thread of Go's scheduler may end at any time.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func spawn(cmd *exec.Cmd) error {
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	return <-started
}

// process is a server that can be restarted with the same arguments.
type process struct {
	name string
	path string
	args []string
	env  []string
	dir  string
	// logPath receives the output of all runs.
	logPath string
	// credential of the user that runs the server.
	credential *syscall.Credential
	// stopSignal requests a graceful stop; SIGTERM if unset.
	stopSignal syscall.Signal

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s is already running", p.name)
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.env, p.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: p.credential,
		Pdeathsig:  syscall.SIGKILL,
		// A separate process group: Ctrl-C in the demo's terminal reaches only the demo, which then stops its servers
		// in order.
		Setpgid: true,
	}
	if err := spawn(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	p.cmd, p.exited = cmd, exited
	return nil
}

// running requires p.mu.
func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// pid returns 0 if the process is not running.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// signal ignores a process that is not running.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// stop requests a graceful stop and kills the process after ten seconds.
func (p *process) stop() error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if exited == nil {
		return nil
	}
	stopSignal := p.stopSignal
	if stopSignal == 0 {
		stopSignal = syscall.SIGTERM
	}
	// A paused process would not handle the signal.
	if err := errors.Join(p.signal(stopSignal), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-time.After(10 * time.Second):
		return p.kill()
	}
}

// drain sends the signal and waits for the process until ctx is done.
func (p *process) drain(ctx context.Context, s syscall.Signal) error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if exited == nil {
		return nil
	}
	if err := p.signal(s); err != nil {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not exit: %w", p.name, ctx.Err())
	}
}

// kill simulates a crash.
func (p *process) kill() error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if exited != nil {
		<-exited
	}
	return nil
}

// pause freezes the process: its connections stay open, and nothing responds. The signal takes effect with a delay, so
// wait for the threads.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for range 1000 {
		if pid := p.pid(); pid == 0 || frozen(pid) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s did not stop", p.name)
}

// frozen reports whether every thread of the process is stopped.
func frozen(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has exited
		}
		// The state follows the command name in parentheses.
		if _, rest, ok := strings.Cut(string(text), ") "); !ok || !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}

func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

// await polls until ready returns nil, the process exits, or ctx is done. Its error includes the end of the server's
// log.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	var last error
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		last = ready(try)
		cancel()
		if last == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s exited during startup: %w\n%s", p.name, last, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, errors.Join(ctx.Err(), last), p.logTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *process) logTail() string {
	text, err := os.ReadFile(p.logPath)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return fmt.Sprintf("end of its log:\n%s", bytes.Join(lines, []byte("\n")))
}

func newProcess(path, dir string, args ...string) *process {
	name := filepath.Base(path)
	return &process{
		name: name, path: path, args: args, dir: dir,
		env:     []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C"},
		logPath: filepath.Join(dir, name+".log"),
	}
}

// newServer is newProcess for a server written in Go. Collecting a small heap often would cost the API server an eighth
// of its CPU time.
func newServer(path, dir string, args ...string) *process {
	p := newProcess(path, dir, args...)
	p.env = append(p.env, "GOGC=400")
	return p
}
