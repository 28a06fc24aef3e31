package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// daemonUser is a user of Debian's package, or nil if this process is not root.
func daemonUser(name string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("the server does not run as root and needs a user: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// giveDir creates a directory for the server's user.
func giveDir(dir string, owner *syscall.Credential) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return own(dir, owner)
}

// giveFile writes a file that only the server's user can read.
func giveFile(path, text string, owner *syscall.Credential) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return own(path, owner)
}

func own(path string, owner *syscall.Credential) error {
	if owner == nil {
		return nil
	}
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}

// program finds a program of a Debian package. Programs of servers are often outside the PATH of a user.
func program(name, install string, dirs ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil && len(dirs) == 0 {
		return path, nil
	}
	for _, dir := range append(dirs, "/usr/sbin", "/usr/bin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run `make debian-servers`, or install %s", name, install)
}

// daemon is a server of a Debian package: its directory, its user, and its process.
type daemon struct {
	dir, home string
	owner     *syscall.Credential
	process   *process
}

// newDaemon creates the directories. The server's user owns home.
func newDaemon(name, account string) (*daemon, error) {
	owner, err := daemonUser(account)
	if err != nil {
		return nil, err
	}
	dir, err := tempDir(name)
	if err != nil {
		return nil, err
	}
	d := &daemon{dir: dir, home: filepath.Join(dir, "home"), owner: owner}
	if err := giveDir(d.home, owner); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return d, nil
}

// prepare makes the server's process; start starts it.
func (d *daemon) prepare(path string, args ...string) {
	d.process = newProcess(path, d.home, args...)
	d.process.logPath = filepath.Join(d.dir, d.process.name+".log")
	d.process.credential = d.owner
}

// Close stops the server and removes its files.
func (d *daemon) Close() error {
	var err error
	if d.process != nil {
		err = d.process.stop()
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}
