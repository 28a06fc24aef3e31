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

// Ports are below the kernel's ephemeral range (32768 and up on Linux). Otherwise an outgoing connection could take
// the port of a stopped server.
const firstPort, lastPort = 20000, 31999

// held keeps the lock files of this process's ports. A port stays locked until the process ends, so a server can
// restart on it while other tests run.
var held struct {
	sync.Mutex
	files map[int]*os.File
}

// FreePort reserves a port on 127.0.0.1 for this process.
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
		if !canListen(port) {
			_ = file.Close()
			continue
		}
		held.files[port] = file
		return port, nil
	}
	return 0, errors.New("no free port on 127.0.0.1 after 1000 attempts")
}

// lockPort returns nil if another process holds the port.
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

func canListen(port int) bool {
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
