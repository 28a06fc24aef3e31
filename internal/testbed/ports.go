package testbed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports are taken from below the kernel's ephemeral range (32768 and up on
// Linux): there, any outgoing connection could get the port of a server that
// is stopped for a moment.
const firstPort, lastPort = 20000, 31999

// held keeps the lock files of all ports that this process was given. Each
// stays locked until the process ends, so that a server can be stopped and
// started again on its port while other test processes run.
var held struct {
	sync.Mutex
	files map[int]*os.File
}

// FreePort reserves a port of 127.0.0.1 for this process.
func FreePort() (int, error) {
	dir := filepath.Join(os.TempDir(), "leasekeeper-ports")
	if err := os.MkdirAll(dir, 0o1777); err != nil {
		return 0, err
	}
	held.Lock()
	defer held.Unlock()
	if held.files == nil {
		held.files = map[int]*os.File{}
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if held.files[port] != nil {
			continue
		}
		file, err := lockPort(filepath.Join(dir, strconv.Itoa(port)))
		if err != nil {
			return 0, err
		}
		if file == nil {
			continue
		}
		if !listens(port) {
			_ = file.Close()
			continue
		}
		held.files[port] = file
		return port, nil
	}
	return 0, errors.New("no free port on 127.0.0.1 in 1000 tries")
}

// lockPort answers nil when another process holds the port.
func lockPort(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func listens(port int) bool {
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
