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

// spawner starts children from one thread that lives as long as the process.
// The kernel sends the parent-death signal when the *thread* that forked ends;
// a thread of Go's scheduler may end at any time and would take healthy
// servers with it.
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

// process is one server that can be started again with the same arguments.
type process struct {
	name string
	path string
	args []string
	env  []string
	dir  string
	// logPath gets what the server prints, one run after another.
	logPath string
	// credential runs the server as another user.
	credential *syscall.Credential
	// stopSignal asks for an orderly end; SIGTERM when unset.
	stopSignal syscall.Signal

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s runs already", p.name)
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
		// A group of its own: Ctrl-C in the demo's terminal reaches the demo,
		// which then stops its servers in order.
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

// running needs p.mu.
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

// pid is 0 while the process does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// signal does nothing to a process that does not run.
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

// stop ends the process in order, and by force when it takes over ten seconds.
func (p *process) stop() error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if exited == nil {
		return nil
	}
	end := p.stopSignal
	if end == 0 {
		end = syscall.SIGTERM
	}
	// A paused process would never see the signal.
	if err := errors.Join(p.signal(end), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-time.After(10 * time.Second):
		return p.kill()
	}
}

// drain asks for an end by this signal and leaves the process all the time that ctx has.
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
		return fmt.Errorf("%s does not come to an end: %w", p.name, ctx.Err())
	}
}

// kill is the crash: no warning, no clean-up.
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

// pause freezes the process: its connections stay open and nothing answers. The signal takes effect a moment after it was
// sent, so the threads are waited for.
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
	return fmt.Errorf("%s does not stop", p.name)
}

// frozen says that every thread of the process is stopped.
func frozen(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		// The state follows the command's name, which stands in parentheses.
		if _, rest, ok := strings.Cut(string(text), ") "); !ok || !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}

func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

// await polls until ready answers nil, the process has ended, or ctx is done.
// The error holds the end of the server's own log.
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
			return fmt.Errorf("%s ended while it started (%w)\n%s", p.name, last, p.logTail())
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
	return fmt.Sprintf("the end of its log:\n%s", bytes.Join(lines, []byte("\n")))
}

func newProcess(path, dir string, args ...string) *process {
	name := filepath.Base(path)
	return &process{
		name: name, path: path, args: args, dir: dir,
		env:     []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C"},
		logPath: filepath.Join(dir, name+".log"),
	}
}
