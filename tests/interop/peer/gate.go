package main

import (
	"crypto/tls"
	"net"
	"sync"
)

// gatedConn is a TCP connection that can be stalled: bytes then go neither in nor out,
// and the other side learns nothing of it, as behind a firewall that forgot the flow.
type gatedConn struct {
	*net.TCPConn

	mu     sync.Mutex
	cond   *sync.Cond
	shut   bool
	closed bool
}

func newGatedConn(conn *net.TCPConn) *gatedConn {
	g := &gatedConn{TCPConn: conn}
	g.cond = sync.NewCond(&g.mu)
	return g
}

func (g *gatedConn) stall(on bool) {
	g.mu.Lock()
	g.shut = on
	g.mu.Unlock()
	g.cond.Broadcast()
}

func (g *gatedConn) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut && !g.closed {
		g.cond.Wait()
	}
}

func (g *gatedConn) Read(p []byte) (int, error) {
	n, err := g.TCPConn.Read(p)
	// After the read: one that was already waiting must not deliver either.
	g.pass()
	return n, err
}

func (g *gatedConn) Write(p []byte) (int, error) {
	g.pass()
	return g.TCPConn.Write(p)
}

func (g *gatedConn) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cond.Broadcast()
	return g.TCPConn.Close()
}

// reset closes with a RST instead of a FIN.
func (g *gatedConn) reset() {
	_ = g.SetLinger(0)
	_ = g.Close()
}

// gatedListener remembers nothing: the HTTP server hands each connection on.
type gatedListener struct{ *net.TCPListener }

func (l gatedListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newGatedConn(conn), nil
}

// gateOf finds the TCP connection below whatever the HTTP server was given.
func gateOf(conn net.Conn) *gatedConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return conn.(*gatedConn)
}
