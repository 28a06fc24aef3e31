package testbed

import (
	"context"
	"os"
	"path/filepath"
)

// Program is a program of ours, such as the manager, that runs as a process of
// its own: it can be killed at any instant, and dies with this process.
type Program struct {
	dir     string
	process *process
}

// NewProgram prepares a program; Start runs it. The environment is these
// variables and PATH, so that nothing of the developer's own leaks in.
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

// Start runs the program, again where it has ended.
func (p *Program) Start() error { return p.process.start() }

// Await polls until ready answers nil. The error, when the program ends or ctx
// is done first, holds the end of its log.
func (p *Program) Await(ctx context.Context, ready func(context.Context) error) error {
	return p.process.await(ctx, ready)
}

// Running says whether the program has not ended yet.
func (p *Program) Running() bool { return p.process.pid() != 0 }

// Stop ends the program in order, by SIGTERM.
func (p *Program) Stop() error { return p.process.stop() }

// Kill ends the program at once, by SIGKILL.
func (p *Program) Kill() error { return p.process.kill() }

// Pause freezes the program, as a machine that is starved of CPU would.
func (p *Program) Pause() error { return p.process.pause() }

// Resume undoes Pause.
func (p *Program) Resume() error { return p.process.resume() }

// Log is what the program has printed so far, all its runs together.
func (p *Program) Log() (string, error) {
	text, err := os.ReadFile(p.process.logPath)
	return string(text), err
}

// LogPath is the file that the program prints into.
func (p *Program) LogPath() string { return p.process.logPath }

// Close ends the program and removes its files.
func (p *Program) Close() error {
	err := p.process.kill()
	if err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}
