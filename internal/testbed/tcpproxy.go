package testbed

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// TCPProxy forwards connections to a server. It can swallow what the server sends, so that the server seems to hang:
// connections are accepted and stay open, and nothing is answered.
type TCPProxy struct {
	// Address is host:port.
	Address string

	target   string
	listener net.Listener
	swallows atomic.Bool

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// StartTCPProxy listens on a free port of 127.0.0.1 and forwards to the target, host:port.
func StartTCPProxy(target string) (*TCPProxy, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	p := &TCPProxy{Address: loopback(port), target: target, conns: map[net.Conn]bool{}}
	if p.listener, err = net.Listen("tcp", p.Address); err != nil {
		return nil, err
	}
	go p.serve()
	return p, nil
}

// Swallow drops everything that the server sends from now on, also on open connections.
func (p *TCPProxy) Swallow() { p.swallows.Store(true) }

// Forward ends Swallow. Connections that lost something are closed.
func (p *TCPProxy) Forward() {
	p.swallows.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Close stops listening and closes all connections.
func (p *TCPProxy) Close() error {
	err := p.listener.Close()
	p.Forward()
	return err
}

func (p *TCPProxy) serve() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go p.forward(client)
		}
	}
}

func (p *TCPProxy) forward(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.track(client, server)
	defer p.release(client, server)
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	buffer := make([]byte, 16<<10)
	for {
		n, err := server.Read(buffer)
		if n > 0 && !p.swallows.Load() {
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil && p.swallows.Load() {
			_, _ = io.Copy(io.Discard, client) // until the client gives up
		}
		if err != nil {
			return
		}
	}
}

func (p *TCPProxy) track(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
}

func (p *TCPProxy) release(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
		_ = c.Close()
	}
}
