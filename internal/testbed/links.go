package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// links are TCP proxies in front of the nodes of a cluster. Each node reaches the others through theirs. While a node
// is isolated, nothing passes from it or to it, and the connections stay open, as if packets were lost.
type links struct {
	mu    sync.Mutex
	nodes []linkedNode
	// isolated is the index of a node; -1: none is.
	isolated int
	// changed is closed when the isolation begins or ends.
	changed chan struct{}
	closed  bool
	conns   map[net.Conn]bool
}

// linkedNode is a node behind a proxy.
type linkedNode struct {
	target   string
	listener net.Listener
	// pid of its process; 0: it does not run.
	pid func() int
}

func newLinks() *links {
	return &links{isolated: -1, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
}

// add starts the proxy in front of the next node, which listens on target, and returns the address of the proxy.
func (l *links) add(target string, pid func() int) (address string, err error) {
	port, err := FreePort()
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	to := len(l.nodes)
	l.nodes = append(l.nodes, linkedNode{target: target, listener: listener, pid: pid})
	go l.serve(listener, to)
	return loopback(port), nil
}

func (l *links) isIsolated(node int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isolated == node
}

func (l *links) isolate(node int) { l.change(func() { l.isolated = node }) }

// heal ends the isolation. Connections that lost something are closed.
func (l *links) heal() { l.change(func() { l.isolated = -1 }) }

func (l *links) close() error {
	var errs []error
	l.change(func() {
		l.closed = true
		for _, node := range l.nodes {
			errs = append(errs, node.listener.Close())
		}
		for conn := range l.conns {
			_ = conn.Close()
		}
	})
	return errors.Join(errs...)
}

func (l *links) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *links) serve(listener net.Listener, to int) {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go l.forward(client, to)
		}
	}
}

func (l *links) forward(client net.Conn, to int) {
	if !l.track(client) {
		return
	}
	defer l.release(client)
	from := l.sourceOf(client)
	if !l.passes(from, to) {
		return
	}
	server, err := net.Dial("tcp", l.targetOf(to))
	if err != nil || !l.track(server) {
		return
	}
	defer l.release(server)
	done := make(chan struct{}, 2)
	copyOne := func(into, from net.Conn, source, target int) {
		defer func() { done <- struct{}{} }()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 && l.passes(source, target) {
				_, writeErr := into.Write(buffer[:n])
				err = errors.Join(err, writeErr)
			} else if n > 0 {
				return
			}
			if err != nil {
				return
			}
		}
	}
	go copyOne(server, client, from, to)
	go copyOne(client, server, to, from)
	<-done
}

func (l *links) targetOf(node int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[node].target
}

// passes returns true if nothing lies between the nodes, at once. Otherwise it waits for the end of the isolation and
// returns false: what was sent is lost.
func (l *links) passes(from, to int) bool {
	passed := true
	for {
		l.mu.Lock()
		cut := !l.closed && l.isolated >= 0 && (l.isolated == from || l.isolated == to)
		changed := l.changed
		l.mu.Unlock()
		if !cut {
			return passed
		}
		passed = false
		<-changed
	}
}

func (l *links) track(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return false
	}
	l.conns[conn] = true
	return true
}

func (l *links) release(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
	_ = conn.Close()
}

// sourceOf returns the node at the other end of a connection, or -1. All nodes have the same IP address, so the kernel
// has to say which process owns the connection.
func (l *links) sourceOf(conn net.Conn) int {
	remote, ok1 := conn.RemoteAddr().(*net.TCPAddr)
	local, ok2 := conn.LocalAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return -1
	}
	inode := inodeOf(remote.Port, local.Port)
	l.mu.Lock()
	nodes := l.nodes
	l.mu.Unlock()
	for i, node := range nodes {
		if inode != "" && owns(node.pid(), inode) {
			return i
		}
	}
	return -1
}

// inodeOf is the inode of the IPv4 socket with these ports; empty: there is none.
func inodeOf(localPort, remotePort int) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	local, remote := fmt.Sprintf(":%04X", localPort), fmt.Sprintf(":%04X", remotePort)
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		if len(fields) > 9 && strings.HasSuffix(fields[1], local) && strings.HasSuffix(fields[2], remote) {
			return fields[9]
		}
	}
	return ""
}

func owns(pid int, inode string) bool {
	if pid == 0 {
		return false
	}
	descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(descriptor); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
