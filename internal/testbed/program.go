package testbed

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
)

// Program is a program of this project, such as the manager, as a separate process. It is killed with this process.
type Program struct {
	dir     string
	process *process
}

// NewProgram prepares a program for Start. It inherits no environment variable but PATH, so that results do not depend
// on the developer's shell.
func NewProgram(path string, args, env []string) (*Program, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := tempDir(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	p := newProcess(path, dir, args...)
	p.env = append(p.env, env...)
	return &Program{dir: dir, process: p}, nil
}

// Start starts or restarts the program.
func (p *Program) Start() error { return p.process.start() }

// Await polls until ready returns nil. If the program exits or ctx is done first, the error includes the end of its
// log.
func (p *Program) Await(ctx context.Context, ready func(context.Context) error) error {
	return p.process.await(ctx, ready)
}

// Running reports whether the program is running.
func (p *Program) Running() bool { return p.process.pid() != 0 }

// Stop stops the program with SIGTERM.
func (p *Program) Stop() error { return p.process.stop() }

// Terminate sends SIGTERM and does not wait.
func (p *Program) Terminate() error { return p.process.signal(syscall.SIGTERM) }

// Kill kills the program with SIGKILL.
func (p *Program) Kill() error { return p.process.kill() }

// Pause freezes the program, as on a machine without CPU time.
func (p *Program) Pause() error { return p.process.pause() }

// Resume reverts Pause.
func (p *Program) Resume() error { return p.process.resume() }

// Log returns the output of all runs.
func (p *Program) Log() (string, error) {
	text, err := os.ReadFile(p.process.logPath)
	return string(text), err
}

// LogPath is the path of the log.
func (p *Program) LogPath() string { return p.process.logPath }

// Close kills the program and removes its files.
func (p *Program) Close() error {
	err := p.process.kill()
	if err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}
